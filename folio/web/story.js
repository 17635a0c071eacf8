/* The text and all its versions. Pure: knows neither the page nor the engine.
 *
 * A story is a tree of changes. Each node replaces `removed` by `inserted` at position `at` of its parent's text, so
 * every node is a version of the whole text, and node 0 is the empty one. What is typed, what the model writes and what
 * is deleted are all changes. Undo goes to the parent, Retry adds a sibling, redo follows the child that was seen last.
 * Nodes are never removed, so no version is lost.
 *
 * A run is {text, by}: a stretch of the text with one author, "typed", "model" or "edited" (typed in place of, or in
 * the middle of, what the model wrote). Positions are in UTF-16 units, as everywhere in a browser.
 *
 * node: {parent, at, removed: [run], inserted: [run], children: [node number], chosen: the child seen last or null,
 *        answer: number of the answer that it is part of or null, details: plain values on the answer, as its seed}
 */

const AUTHORS = ["typed", "model", "edited"];
const TYPING_PAUSE_MS = 2000;           // a longer pause begins a new step of undo

/* Return the text of runs. */
function textOfRuns(runs) {
  return runs.map((run) => run.text).join("");
}

/* Return the runs as few: without empty ones, and neighbors by the same author joined. */
function joinedRuns(runs) {
  const joined = [];
  for (const run of runs) {
    const last = joined[joined.length - 1];
    if (last && last.by === run.by) last.text += run.text;
    else if (run.text) joined.push({text: run.text, by: run.by});
  }
  return joined;
}

/* Return [runs before a position, runs from there on]. */
function splitRuns(runs, position) {
  const before = [];
  const after = [];
  let start = 0;
  for (const run of runs) {
    const cut = Math.min(Math.max(position - start, 0), run.text.length);
    if (cut > 0) before.push({text: run.text.slice(0, cut), by: run.by});
    if (cut < run.text.length) after.push({text: run.text.slice(cut), by: run.by});
    start += run.text.length;
  }
  return [before, after];
}

/* Return the change {at, remove, insert} that leads from one text to another; `caret`: where the caret is after it,
 * which tells at which "l" of "hello" an "l" was typed. */
function changeBetween(before, after, caret = after.length) {
  const shorter = Math.min(before.length, after.length);
  let end = 0;
  const longestEnd = Math.min(shorter, after.length - Math.min(caret, after.length));
  while (end < longestEnd && before[before.length - 1 - end] === after[after.length - 1 - end]) end += 1;
  let at = 0;
  while (at < shorter - end && before[at] === after[at]) at += 1;
  while (end < shorter - at && before[before.length - 1 - end] === after[after.length - 1 - end]) end += 1;
  return {at, remove: before.length - at - end, insert: after.slice(at, after.length - end)};
}

class Story {
  constructor() {
    this.nodes = [this._node(null, 0, [], [])];
    this.current = 0;
    this.runs = [];
    this.text = "";
    this.answers = 0;                   // answers so far, to number the next
    this.changeEnd = 0;                 // where the last change of the text ends
    this._typedAt = null;               // when the open typing run was last extended; null: none is open
  }

  _node(parent, at, removed, inserted, answer = null, details = null) {
    return {parent, at, removed, inserted, children: [], chosen: null, answer, details};
  }

  /* Add a version: a change of the current text. -> its number, which is current from now on */
  change(at, remove, inserted, answer = null, details = null) {
    const removed = splitRuns(splitRuns(this.runs, at + remove)[0], at)[1];
    const number = this.nodes.push(this._node(this.current, at, removed, joinedRuns(inserted), answer, details)) - 1;
    this.nodes[this.current].children.push(number);
    this._apply(this.nodes[number]);
    this._arrive(number);
    return number;
  }

  /* Take in what a person typed, pasted or deleted. Typing on without a long pause extends one version; a deletion
   * always begins another, so that what was typed before it is kept. -> the version's number */
  type(at, remove, text, now = 0) {
    const by = this._authorAt(at, remove);
    const node = this.nodes[this.current];
    const last = node.inserted[node.inserted.length - 1];
    const goesOn = this._typedAt !== null && now - this._typedAt < TYPING_PAUSE_MS && node.children.length === 0;
    if (goesOn && remove === 0 && last && last.by === by && at === node.at + textOfRuns(node.inserted).length) {
      this._grow(node, text, by);
    } else if (goesOn && text === "" && node.inserted.length === 0 && at + remove === node.at) {
      // Backspace, several times: one version, like a word typed.
      const removed = splitRuns(splitRuns(this.runs, at + remove)[0], at)[1];
      node.removed = joinedRuns([...removed, ...node.removed]);
      node.at = at;
      this._splice(at, remove, []);
    } else {
      this.change(at, remove, [{text, by}]);
    }
    this._typedAt = now;
    return this.current;
  }

  /* Return "edited" for text that replaces or interrupts the model's, else "typed". */
  _authorAt(at, remove) {
    const [before, rest] = splitRuns(this.runs, at);
    const [removed, after] = splitRuns(rest, remove);
    const byModel = (run) => run !== undefined && run.by !== "typed";
    const interrupts = byModel(before[before.length - 1]) && byModel(after[0]);
    return interrupts || removed.some(byModel) ? "edited" : "typed";
  }

  /* End the open run of typing: what comes next is a version of its own. */
  pause() {
    this._typedAt = null;
  }

  /* Add an answer of the model at a position, still empty. -> its number, which is current */
  beginAnswer(at, details = null, answer = this.answers++) {
    return this.change(at, 0, [], answer, details);
  }

  /* Append a piece to the answer that is current and has no version after it. */
  extendAnswer(text) {
    const node = this.nodes[this.current];
    console.assert(node.answer !== null && node.children.length === 0, "only the newest answer can grow");
    this._grow(node, text, "model");
  }

  /* Add a finished answer as a child of the current version, without going there. -> its number */
  addAnswer(at, text, details = null) {
    const inserted = joinedRuns([{text, by: "model"}]);
    const number = this.nodes.push(this._node(this.current, at, [], inserted, this.answers++, details)) - 1;
    this.nodes[this.current].children.push(number);
    this.nodes[this.current].chosen = number;
    this.pause();
    return number;
  }

  /* Cut the text at a position and put a piece of the model's there, as a sibling of the current version. */
  branch(at, text) {
    const kept = splitRuns(this.runs, at)[0];
    if (this.nodes[this.current].parent !== null) this.go(this.nodes[this.current].parent);
    const cut = changeBetween(this.text, textOfRuns(kept));
    const inserted = splitRuns(splitRuns(kept, cut.at + cut.insert.length)[0], cut.at)[1];
    if (cut.remove > 0 || inserted.length > 0) this.change(cut.at, cut.remove, inserted);
    this.change(at, 0, [{text, by: "model"}], this.answers++, {ended: "picked"});
  }

  _grow(node, text, by) {
    const length = textOfRuns(node.inserted).length;
    node.inserted = joinedRuns([...node.inserted, {text, by}]);
    this._splice(node.at + length, 0, [{text, by}]);
  }

  _splice(at, remove, inserted) {
    const [before, rest] = splitRuns(this.runs, at);
    this.runs = joinedRuns([...before, ...inserted, ...splitRuns(rest, remove)[1]]);
    const text = textOfRuns(inserted);
    this.text = this.text.slice(0, at) + text + this.text.slice(at + remove);
    this.changeEnd = at + text.length;
  }

  _apply(node) {
    this._splice(node.at, textOfRuns(node.removed).length, node.inserted);
  }

  _revert(node) {
    this._splice(node.at, textOfRuns(node.inserted).length, node.removed);
  }

  /* Make a version the current one; all before it remember it as the one seen last. */
  _arrive(number) {
    this.current = number;
    this.pause();
    for (let child = number; this.nodes[child].parent !== null; child = this.nodes[child].parent) {
      this.nodes[this.nodes[child].parent].chosen = child;
    }
  }

  /* Return the numbers of the versions from node 0 to this one. */
  path(number = this.current) {
    const path = [];
    for (let node = number; node !== null; node = this.nodes[node].parent) path.push(node);
    return path.reverse();
  }

  /* Go to any version: back to the last one that both have in common, then forward. */
  go(number) {
    const there = this.path(number);
    const here = this.path();
    let common = 0;
    while (common < here.length && here[common] === there[common]) common += 1;
    for (const back of here.slice(common).reverse()) this._revert(this.nodes[back]);
    for (const forward of there.slice(common)) this._apply(this.nodes[forward]);
    this._arrive(number);
  }

  canUndo() {
    return this.nodes[this.current].parent !== null;
  }

  canRedo() {
    return this.nodes[this.current].chosen !== null;
  }

  undo() {
    const node = this.nodes[this.current];
    if (node.parent === null) return;
    const back = this.current;
    this.go(node.parent);
    this.nodes[this.current].chosen = back;
  }

  redo() {
    if (this.canRedo()) this.go(this.nodes[this.current].chosen);
  }

  /* Return {siblings: numbers, index} of the last fork on the way to the current version; null where none is. */
  fork() {
    for (let node = this.current; this.nodes[node].parent !== null; node = this.nodes[node].parent) {
      const siblings = this.nodes[this.nodes[node].parent].children;
      if (siblings.length > 1) return {siblings, index: siblings.indexOf(node)};
    }
    return null;
  }

  /* Go to the version `steps` siblings away at the last fork, and from there to what was seen last. */
  choose(steps) {
    const fork = this.fork();
    const chosen = fork && fork.siblings[fork.index + steps];
    if (chosen !== undefined && chosen !== null) this.go(this.newestAfter(chosen));
  }

  /* Return the number of the version seen last of those that came out of this one. */
  newestAfter(number) {
    while (this.nodes[number].chosen !== null) number = this.nodes[number].chosen;
    return number;
  }

  /* Return the numbers of the versions that nothing came out of, newest first. */
  leaves() {
    return this.nodes.map((node, number) => number).filter((number) => !this.nodes[number].children.length).reverse();
  }

  /* Return the number of the first node of the last answer on the way here; null where there is none. */
  lastAnswer() {
    const path = this.path();
    const last = path.map((number) => this.nodes[number].answer).filter((answer) => answer !== null).pop();
    return last === undefined ? null : path.find((number) => this.nodes[number].answer === last);
  }

  /* Go to the version before the last answer, for another in its place. Changes since that lie before the answer are
   * made again there, so that a corrected beginning stays corrected. -> the position of the answer; null: no answer */
  backBeforeAnswer() {
    const first = this.lastAnswer();
    if (first === null) return null;
    const path = this.path();
    const {parent, answer} = this.nodes[first];
    let at = this.nodes[first].at;
    const carried = [];
    for (const number of path.slice(path.indexOf(first) + 1)) {
      const node = this.nodes[number];
      const removed = textOfRuns(node.removed).length;
      if (node.answer === answer || node.at >= at) continue;
      if (node.at + removed > at) break;        // reaches into the answer: positions before it no longer agree
      carried.push(node);
      at += textOfRuns(node.inserted).length - removed;
    }
    this.go(parent);
    for (const node of carried) this.change(node.at, textOfRuns(node.removed).length, node.inserted);
    return at;
  }
}
