/* What outlives the page: the browser's storage, and files that a person saves and opens. */

const KEEP_DELAY_MS = 600;              // after a change
const THEMES = ["auto", "light", "dark"];

/* The browser's storage, which may be forbidden or full. Each of its methods says so by a sentence, at most once. */
class Keeper {
  /* name: of the model, so that two pages in one folder keep a text each; tell: called with a sentence; part: the name
   * of what is kept */
  constructor(name, tell, part = "story") {
    this.key = `folio:${location.pathname}:${name}`;
    this.tell = tell;
    this.part = part;
    this._told = false;
    this._isLocked = false;             // what is stored must stay as it is
    this._timer = null;
  }

  /* Whether what was written last is not kept. */
  get hasFailed() {
    return this._told;
  }

  /* Return what was kept, as a text; null where there is nothing. */
  read(part = this.part) {
    try {
      return localStorage.getItem(`${this.key}:${part}`);
    } catch (error) {
      this._fail("This browser lets the page keep nothing");
      return null;
    }
  }

  /* -> whether it is kept */
  write(text, part = this.part) {
    if (part === this.part && this._isLocked) return false;
    try {
      localStorage.setItem(`${this.key}:${part}`, text);
      if (part === this.part) this._told = false;
      return true;
    } catch (error) {
      this._fail(error.name === "QuotaExceededError" ? "This browser's storage is full"
        : "This browser lets the page keep nothing");
      return false;
    }
  }

  /* Keep what is stored and cannot be read under another name, or in its place where there is no room for a copy.
   * -> a sentence on it */
  setAside(text) {
    this._isLocked = !this.write(text, "damaged");
    return this._isLocked ? "It stays stored, so what you write now is not kept. Save it as a file."
      : 'It stays stored as "damaged".';
  }

  /* Write what `text()` returns a little later, once for many changes. */
  writeSoon(text) {
    this._pending = text;
    if (this._timer === null) this._timer = setTimeout(() => this.writeNow(), KEEP_DELAY_MS);
  }

  writeNow() {
    clearTimeout(this._timer);
    this._timer = null;
    const text = this._pending;
    this._pending = null;
    if (text) this.write(text());
  }

  _fail(what) {
    if (!this._told) this.tell(`${what}: your text is gone when the page closes. Save it as a file.`);
    this._told = true;
  }
}

/* Hand a text to the person as a file. */
function saveFile(name, text, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: `${type};charset=utf-8`}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/* Return the text of a file; throw an Error with a sentence for one that is too large or no text. */
async function readTextFile(file) {
  if (file.size > LARGEST_STORY_BYTES) {
    throw new Error(`It has ${Math.round(file.size / 1e6)} MB; at most ${LARGEST_STORY_BYTES / 1e6} are read.`);
  }
  try {
    return plainLines(new TextDecoder("utf-8", {fatal: true}).decode(await file.arrayBuffer()));
  } catch (error) {
    throw new Error(error.name === "TypeError" ? "It is not text in UTF-8." : "It cannot be read.");
  }
}

/* Return a name for a file: the beginning of the text, in letters that every system takes. */
function fileNameFor(text) {
  const words = text.slice(0, 200).trim().split("\n")[0].replace(/[^\p{L}\p{N}]+/gu, " ").trim().split(" ").slice(0, 5);
  return words.join("-").toLowerCase().slice(0, 60) || "text";
}
