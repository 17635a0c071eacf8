/* What is painted on the text: who wrote it or how much it surprised the model, and where the model's view begins.
 * Painted are the lines in the window and some around; scrolling and every change paint again.
 */

const VIEW_DELAY_MS = 250;              // after a change, before the engine is asked again
const LONGEST_MEASURED = 200000;        // characters of a text that is measured whole: a minute and less
const VIEW_SHARE = 8;                   // ... and that takes an eighth of its time at most, however long the text is

class Colors {
  /* writing: the Writing; mark, legend: elements */
  constructor(writing, mark, legend) {
    Object.assign(this, {writing, mark, legend});
    this.mode = "off";
    this.viewStart = 0;
    this.surprise = null;               // set by useEngine
    this._frame = 0;
    this._viewTimer = null;
    this._viewTook = 0;                 // milliseconds of the last answer of the engine
    this._measuring = false;
    this._more = new Map();             // modes that others have added: name -> see addMode
  }

  /* Add a mode: {mode: its name, changed(): the text may be another, forget(): the model is another, paint(sheet,
   * within), clear(sheet), legend(): parts, clicked(position): whether that was its matter} */
  addMode(more) {
    this._more.set(more.mode, more);
  }

  useEngine(engine) {
    this.engine = engine;
    this.surprise = new Surprise(engine);
    for (const more of this._more.values()) more.forget();
    this.changed();
  }

  setMode(mode) {
    this._more.get(this.mode)?.clear(this.writing.sheet);
    this.mode = mode;
    this._more.get(mode)?.changed();
    this.showLegend();
    this.repaint();
  }

  /* Say what the colors mean, and what was found. */
  showLegend() {
    const {mode} = this;
    this.legend.hidden = mode === "off";
    const more = this._more.get(mode);
    if (more) return this.legend.replaceChildren(...more.legend());
    const parts = {
      author: [["", "typed"], ["by-model", "the model"], ["by-edited", "edited after the model"]],
      surprise: SURPRISE_LEVELS.map((bits, index) => [`surprise-${index + 1}`, `${bits}+`]),
    }[mode] || [];
    const lead = {author: "Written by:", surprise: "Surprise in bits:"}[mode] || "";
    const average = mode === "surprise" && this.surprise ? averageOf(this.surprise, this.writing.sheet.text) : "";
    this.legend.replaceChildren(`${lead} `, ...parts.map(([className, words]) => makeElement("span", className, words)),
      average);
  }

  /* A click on the text. -> whether it has been answered */
  clicked(position) {
    return this._more.get(this.mode)?.clicked(position) ?? false;
  }

  /* The text or the caret has changed: paint again, and ask where the view begins. */
  changed() {
    this.repaint();
    this._more.get(this.mode)?.changed();
    if (this._viewTimer === null && this.engine) {
      this._viewTimer = setTimeout(() => this._askView(), Math.max(VIEW_DELAY_MS, VIEW_SHARE * this._viewTook));
    }
  }

  async _askView() {
    const {sheet} = this.writing;
    const startedAt = performance.now();
    try {
      this.viewStart = await this.engine.view(sheet.text.slice(0, this.writing.place));
    } catch (error) {
      this.viewStart = 0;               // a text that the model cannot read is reported when it is to go on
    }
    this._viewTook = performance.now() - startedAt;
    this._viewTimer = null;
    this.repaint();
  }

  repaint() {
    if (this._frame === 0) this._frame = requestAnimationFrame(() => {
      this._frame = 0;
      this._paint();
    });
  }

  _paint() {
    const {sheet} = this.writing;
    const {from, to} = sheet.visible();
    const seen = Math.min(this.viewStart, sheet.text.length);
    const within = (begin, end) => [Math.max(begin, from), Math.min(end, to)];
    sheet.paint("unseen", [this.mode === "surprise" ? [0, 0] : within(0, seen)]);
    const authors = this.mode === "author" ? authorRanges(this.writing.story.runs) : [];
    for (const by of ["model", "edited"]) {
      const ranges = authors.filter(([author]) => author === by).map(([, begin, end]) => within(begin, end));
      sheet.paint(`by-${by}`, ranges.map(([begin, end]) => [Math.max(begin, seen), end]), 1);
      sheet.paint(`by-${by}-unseen`, ranges.map(([begin, end]) => [begin, Math.min(end, seen)]), 1);
    }
    const {pieces, missing} = this.mode === "surprise" && this.surprise
      ? this.surprise.between(sheet.text, from, to) : {pieces: [], missing: 0};
    SURPRISE_LEVELS.forEach((bits, index) => {
      const level = pieces.filter((piece) => surpriseLevel(piece.bits) === index + 1);
      sheet.paint(`surprise-${index + 1}`, level.map((piece) => [piece.from, piece.to]));
    });
    if (missing > 0 && !this.writing.running) this._measure(from, to);
    else if (this.mode === "surprise" && !this.writing.running) this._measureRest();
    this._more.get(this.mode)?.paint(sheet, within);
    this._placeMark();
  }

  /* Measure what is not in the window too, block by block, for the average of the whole text. */
  _measureRest() {
    const {text} = this.writing.sheet;
    if (text === this._whole) return;
    this._whole = text.length > LONGEST_MEASURED || this.surprise === null || this.surprise.average(text).share === 1
      ? text : null;
    if (this._whole === null) this._measure(0, text.length);
    else this.showLegend();
  }

  async _measure(from, to) {
    if (this._measuring) return;
    this._measuring = true;
    try {
      const wasUnknown = await this.surprise.measureNext(this.writing.sheet.text, from, to);
      if (wasUnknown && this.mode === "surprise") this.showLegend();
      if (wasUnknown) this.repaint();
    } catch (error) {
      this.writing.tell(error.message);
    }
    this._measuring = false;
  }

  /* Put the mark before the first character that the model sees. */
  _placeMark() {
    const {sheet} = this.writing;
    this.mark.hidden = this.viewStart <= 0 || this.viewStart >= sheet.text.length;
    if (this.mark.hidden) return;
    const origin = this.mark.parentNode.getBoundingClientRect();
    const {left, top, height} = sheet.rectangleAt(this.viewStart);
    this.mark.style.left = `${left - origin.left - 2}px`;
    this.mark.style.top = `${top - origin.top - (sheet.leading - height) / 2}px`;
    this.mark.style.setProperty("--mark-gap", `${left - origin.left + 24}px`);
  }
}

/* Return what the legend says of the average surprise of a text. */
function averageOf(surprise, text) {
  const {bits, bytes, share} = surprise.average(text);
  if (bytes === 0) return "";
  const part = share === 1 ? "" : ` in the ${Math.max(1, Math.floor(100 * share))} % measured`;
  return ` ${(bits / bytes).toFixed(2)} bits per byte${part}`;
}

/* Return [[author, from, to], ...] of the runs of a text. */
function authorRanges(runs) {
  let start = 0;
  return runs.map(({text, by}) => {
    const from = start;
    start += text.length;
    return [by, from, start];
  });
}
