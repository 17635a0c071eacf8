/* The colors of what is copied: stretches of the text that stand word for word in the training text, with file and
 * line. A further mode of Colors; see there what one has.
 */
"use strict";

const COPIES_DELAY_MS = 600;            // after a change
const COPIES_SHARE = 8;                 // ... and asking takes an eighth of the time at most
const COPIES_AGAIN_MS = 1500;           // while the training text is being read
const SEARCHED_CHARACTERS = 60000;      // of the text, around what is in the window

class CopiedColors {
  /* page: the Page; engine: has copies(text) */
  constructor(page, engine) {
    Object.assign(this, {page, engine});
    this.mode = "copied";
    this.found = null;                  // what the engine said, with places in the whole text
    this._asked = "";                   // the text that it said that of
    this._timer = null;
    this._took = 0;
    this._next = 0;                     // stretch that the button shows
    const {menu} = page.alternatives;
    this.menu = menu;
  }

  /* The text has changed, or the mode was chosen. */
  changed() {
    if (this._timer !== null || this.page.colors.mode !== this.mode) return;
    this._timer = setTimeout(() => this._ask(), Math.max(COPIES_DELAY_MS, COPIES_SHARE * this._took));
  }

  /* Ask anew: another model may have learned from another text. */
  forget() {
    this.found = null;
    this._asked = "";
    this.changed();
  }

  async _ask() {
    this._timer = null;
    const {sheet, colors} = this.page;
    const {text} = sheet;
    if (text === this._asked && this.found?.state !== "reading") return;
    const {from, to} = sheet.visible();
    const spare = Math.max(0, SEARCHED_CHARACTERS - (to - from)) / 2;
    const begin = cutBetweenCharacters(text, Math.max(0, Math.floor(from - spare)));
    const end = cutBetweenCharacters(text, Math.min(text.length, Math.ceil(to + spare)));
    const startedAt = performance.now();
    try {
      const found = await this.engine.copies(text.slice(begin, end));
      for (const stretch of found.stretches) {
        stretch.from += begin;
        stretch.to += begin;
      }
      this.found = found;
      this._asked = text;
      if (found.state === "reading") this._timer = setTimeout(() => this._ask(), COPIES_AGAIN_MS);
    } catch (error) {
      this.found = {state: "missing", reason: error.message, stretches: []};
    }
    this._took = performance.now() - startedAt;
    if (sheet.text !== text) this.changed();
    colors.showLegend();
    colors.repaint();
  }

  /* Return the stretches that are still where they were found. */
  get stretches() {
    const {text} = this.page.sheet;
    const differs = changeBetween(this._asked, text);
    return (this.found?.stretches || []).filter((stretch) => stretch.to <= differs.at);
  }

  paint(sheet, within) {
    sheet.paint("copied", this.stretches.map(({from, to}) => within(from, to)), 1);
  }

  clear(sheet) {
    sheet.paint("copied", []);
  }

  /* Return the parts of the legend. */
  legend() {
    const {found} = this;
    if (found === null) return ["Looking for copies …"];
    if (found.state !== "ready") return [found.reason];
    const partly = found.searched < 0.995 ? ` in the first ${Math.round(100 * found.searched)} % of the training text`
      : "";
    if (found.stretches.length === 0) {
      const where = partly || " in the training text";
      return [`Nothing is copied: there are no ${found.least_words} words in a row that stand${where}.`];
    }
    const longest = found.stretches.reduce((best, one) => (one.words > best.words ? one : best));
    const count = found.stretches.length === 1 ? "1 stretch" : `${found.stretches.length} stretches`;
    const sample = makeElement("span", "copied", `copied${partly}`);
    const button = makeElement("button", "legend-button", "Show");
    button.type = "button";
    button.addEventListener("click", () => this._showNext());
    return ["", sample, ` ${count}; longest copy: ${longest.words} words, ${placeOf(longest)} `, button];
  }

  /* Show the longest stretch, then the others in their order. */
  _showNext() {
    const stretches = this.stretches;
    if (stretches.length === 0) return;
    const longest = stretches.reduce((best, one) => (one.words > best.words ? one : best));
    const order = [longest, ...stretches.filter((one) => one !== longest)];
    const stretch = order[this._next % order.length];
    this._next += 1;
    this.page.sheet.caret = stretch.to;
    this.page.reveal();
    this._open(stretch);
  }

  /* A person has clicked on the text. -> whether something was shown */
  clicked(position) {
    const stretch = this.stretches.find(({from, to}) => from <= position && position <= to);
    if (stretch) this._open(stretch);
    return true;
  }

  _open(stretch) {
    const {sheet, alternatives} = this.page;
    const quote = makeElement("p", "copy-source");
    const [before, after] = [`… ${stretch.before.trimStart()}`, `${stretch.after.trimEnd()} …`];
    quote.append(before, makeElement("mark", "", stretch.source), after);
    alternatives.showText(`${stretch.words} words in ${placeOf(stretch)}`, quote, sheet.rectangleAt(stretch.from));
  }
}

/* Return where a stretch stands. */
function placeOf({file, line}) {
  const isPerLine = /\.(jsonl|ndjson|parquet)(\.gz)?$/i.test(file);
  return `${file}, ${isPerLine ? "text" : "line"} ${line.toLocaleString("en")}`;
}
