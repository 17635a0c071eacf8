/* The colors of several models that write one text: which of them shaped each token most. A further mode of Colors; see
 * there what one has. The shares are settings whose names begin with SHARE_OF; the model itself has no color.
 */
"use strict";

const SHARE_OF = "mix ";                // before the name of a model, as folio/server/page.py has it
const VOICES_DELAY_MS = 600;            // after a change
const VOICES_SHARE = 8;                 // ... and asking takes an eighth of the time at most
const VOICE_CHARACTERS = 20000;         // of the text up to the end of the window
const VOICE_COLORS = 3;                 // then they come again

class VoiceColors {
  /* page: the Page; engine: has voices(text, settings) */
  constructor(page, engine) {
    Object.assign(this, {page, engine});
    this.mode = "voices";
    this.found = [];                    // [{name, from, to}], in the text that was asked of
    this.problem = null;
    this._asked = null;
    this._timer = null;
    this._took = 0;
  }

  /* Return {setting: share} of the models that are mixed in. */
  get shares() {
    const {settings, values} = this.page.writing;
    const names = settings.map(({name}) => name).filter((name) => name.startsWith(SHARE_OF) && values[name] > 0);
    return Object.fromEntries(names.map((name) => [name, values[name]]));
  }

  changed() {
    if (this._timer !== null || this.page.colors.mode !== this.mode) return;
    this._timer = setTimeout(() => this._ask(), Math.max(VOICES_DELAY_MS, VOICES_SHARE * this._took));
  }

  /* Ask anew: the model is another. */
  forget() {
    this.found = [];
    this._asked = null;
    this.changed();
  }

  async _ask() {
    const {sheet, colors} = this.page;
    const {text} = sheet, {to} = sheet.visible();
    const end = cutBetweenCharacters(text, Math.min(text.length, Math.ceil(to) + VOICE_CHARACTERS / 2));
    const begin = cutBetweenCharacters(text, Math.max(0, end - VOICE_CHARACTERS));
    const question = JSON.stringify([text.slice(begin, end), this.shares, this.engine.model]);
    const startedAt = performance.now();
    if (question !== this._asked) {
      try {
        let from = begin;
        const pieces = await this.engine.voices(text.slice(begin, end), this.shares);
        this.found = pieces.map(({text: piece, name}) => {
          const range = {name, from, to: from + piece.length};
          from = range.to;
          return range;
        });
        this.problem = null;
        this._asked = question;
        this._text = text;
      } catch (error) {
        this.found = [];
        this.problem = error.message;
      }
      this._took = performance.now() - startedAt;
    }
    this._timer = null;
    if (sheet.text !== text) this.changed();
    colors.showLegend();
    colors.repaint();
  }

  /* Return the number of a model's color from 1 on, or 0 for the model itself. */
  colorOf(name) {
    const place = Object.keys(this.shares).indexOf(SHARE_OF + name);
    return place < 0 ? 0 : 1 + place % VOICE_COLORS;
  }

  paint(sheet, within) {
    const differs = this._asked === null ? 0 : changeBetween(this._text, sheet.text).at;
    const kept = this.found.filter((range) => range.to <= differs);
    for (let color = 1; color <= VOICE_COLORS; color += 1) {
      const ranges = kept.filter(({name}) => this.colorOf(name) === color);
      sheet.paint(`voice-${color}`, ranges.map(({from, to}) => within(from, to)), 1);
    }
  }

  clear(sheet) {
    for (let color = 1; color <= VOICE_COLORS; color += 1) sheet.paint(`voice-${color}`, []);
  }

  /* Return the parts of the legend. */
  legend() {
    if (this.problem !== null) return [this.problem];
    const mixed = Object.entries(this.shares);
    if (mixed.length === 0) return ["One model writes alone. The settings have a share for each other model."];
    const rest = 1 - mixed.reduce((sum, [, share]) => sum + share, 0);
    const words = (name, share) => `${name} ${Math.round(100 * share)} %`;
    return ["Shaped most by: ", makeElement("span", "", words(this.engine.model, rest)),
      ...mixed.map(([name, share]) => {
        const model = name.slice(SHARE_OF.length);
        return makeElement("span", `voice-${this.colorOf(model)}`, words(model, share));
      })];
  }

  clicked() {
    return false;
  }
}
