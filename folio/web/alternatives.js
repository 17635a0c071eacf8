/* What else the model expected in place of a word: a small menu at the word, with probabilities. Taking one branches
 * the text there.
 */

const SHOWN_ALTERNATIVES = 10;
const MENU_GAP = 6;                     // pixels between the word and the menu

class Alternatives {
  /* writing: the Writing; menu, title, list: elements, the menu a popover */
  constructor(writing, menu, title, list) {
    Object.assign(this, {writing, menu, title, list});
    this._asked = 0;
    menu.addEventListener("keydown", (event) => this._key(event));
    menu.addEventListener("toggle", (event) => {
      if (event.newState === "closed") this._closed();
    });
  }

  /* Show the alternatives to the word at a position; at the end of the text, what may come next. */
  async openAt(position) {
    const {sheet, engine} = this.writing;
    if (engine === null || this.writing.choosing || sheet.text !== this.writing.story.text) return;
    this.writing.stop();
    const {text} = sheet;
    const word = sheet.wordAt(position) || {from: position, to: position};
    // A space belongs to the token after it.
    const from = text[word.from - 1] === " " && word.from < word.to ? word.from - 1 : word.from;
    const asked = ++this._asked;
    this.title.textContent = word.from < word.to ? `Instead of “${text.slice(word.from, word.to)}”` : "What may follow";
    this._say("…");
    sheet.paint("word", [[word.from, word.to]], 2);
    this._show(sheet.rectangleAt(word.from));
    try {
      const found = await engine.alternatives(text.slice(0, from), SHOWN_ALTERNATIVES);
      if (asked !== this._asked) return;
      if (sheet.text === text) this._fill(text, from, found);
      else this.menu.hidePopover();     // typed meanwhile: these belong to another text
    } catch (error) {
      if (asked === this._asked) this._say(error.message);
    }
  }

  /* Show an element in the menu's place, below a rectangle; the caret's line goes on after it. */
  showText(title, element, rectangle) {
    this._asked += 1;
    this.title.textContent = title;
    this.list.replaceChildren(element);
    this._show(rectangle);
  }

  _say(words) {
    const line = document.createElement("p");
    line.textContent = words;
    this.list.replaceChildren(line);
  }

  /* Show the pieces found for a position of a text; they can be taken as long as that is the text. */
  _fill(text, from, found) {
    if (found.length === 0) return this._say("The model expects nothing here.");
    const most = found[0].probability || 1;
    this.list.replaceChildren(...found.map(({text: piece, probability}) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(visiblePiece(piece, text.slice(0, from)));
      const share = document.createElement("small");
      share.textContent = asPercent(probability);
      button.append(share);
      button.style.setProperty("--share", probability / most);
      button.addEventListener("click", () => {
        this.menu.hidePopover();
        if (this.writing.story.text === text) this.writing.branch(from, piece);
      });
      return button;
    }));
    this._place();
    this.list.firstChild.focus();
  }

  _show(rectangle) {
    this._word = rectangle;
    this.menu.showPopover();
    this._place();
  }

  /* Put the menu below the word, or above it where there is no room. */
  _place() {
    const {left, top, bottom} = this._word;
    const {offsetWidth: width, offsetHeight: height} = this.menu;
    const below = bottom + MENU_GAP;
    const isBelow = below + height < window.innerHeight - MENU_GAP || top < height + 2 * MENU_GAP;
    this.menu.style.left = `${Math.max(12, Math.min(left - 10, window.innerWidth - width - 12))}px`;
    this.menu.style.top = `${Math.max(MENU_GAP, isBelow
      ? Math.min(below, window.innerHeight - height - MENU_GAP) : top - height - MENU_GAP)}px`;
  }

  _key(event) {
    const buttons = [...this.list.querySelectorAll("button")];
    const steps = {ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity}[event.key];
    if (steps === undefined || buttons.length === 0) return;
    const index = buttons.indexOf(document.activeElement) + steps;
    buttons[Math.min(Math.max(index, 0), buttons.length - 1)].focus();
    event.preventDefault();
  }

  _closed() {
    this._asked += 1;
    this.writing.sheet.paint("word", []);
    this.writing.sheet.area.focus({preventScroll: true});
  }
}

/* Return a piece with its white space visible; one that goes on with the word before it begins with "…". */
function visiblePiece(piece, before) {
  if (/[\p{L}\p{N}]$/u.test(before) && /^[\p{L}\p{N}]/u.test(piece)) return `…${piece}`;
  return piece.replaceAll("\n", "↵").replaceAll("\t", "⇥").replace(/^ +$/, (spaces) => "␣".repeat(spaces.length))
    .replace(/^ /, "");
}

/* Return a probability in percent: 0.0312 -> "3.1 %" */
function asPercent(probability) {
  const percent = 100 * probability;
  return percent < 0.1 ? "< 0.1 %" : `${percent.toFixed(percent < 10 ? 1 : 0)} %`;
}
