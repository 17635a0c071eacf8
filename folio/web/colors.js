/* What is painted on the text: who wrote it or how much it surprised the model, and where the model's view begins.
 * Painted are the lines in the window and some around; scrolling and every change paint again.
 */

const VIEW_DELAY_MS = 250;              // after a change, before the engine is asked again
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
  }

  useEngine(engine) {
    this.engine = engine;
    this.surprise = new Surprise(engine);
    this.changed();
  }

  setMode(mode) {
    this.mode = mode;
    this.legend.hidden = mode === "off";
    const parts = {
      author: [["", "typed"], ["by-model", "the model"], ["by-edited", "edited after the model"]],
      surprise: SURPRISE_LEVELS.map((bits, index) => [`surprise-${index + 1}`, `${bits}+`]),
    }[mode] || [];
    const lead = {author: "Written by:", surprise: "Surprise in bits:"}[mode] || "";
    this.legend.replaceChildren(`${lead} `, ...parts.map(([className, words]) => {
      const part = document.createElement("span");
      part.className = className;
      part.textContent = words;
      return part;
    }));
    this.repaint();
  }

  /* The text or the caret has changed: paint again, and ask where the view begins. */
  changed() {
    this.repaint();
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
    this._placeMark();
  }

  async _measure(from, to) {
    if (this._measuring) return;
    this._measuring = true;
    try {
      await this.surprise.measureNext(this.writing.sheet.text, from, to);
      this.repaint();
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

/* Return [[author, from, to], ...] of the runs of a text. */
function authorRanges(runs) {
  let start = 0;
  return runs.map(({text, by}) => {
    const from = start;
    start += text.length;
    return [by, from, start];
  });
}
