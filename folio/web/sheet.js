/* The surface that a person writes on: a text area, and a layer behind it that shows the same letters in color.
 *
 * Why a text area: its value is the text, exactly, in every browser. Paste is plain, input methods, screen readers and
 * phones work as everywhere, and text can be added without touching the caret (setRangeText). Elements that are
 * `contenteditable` differ in their line breaks, and every edit would have to be read back from their nodes.
 * Why a layer: a text area has one color. Its own letters are transparent; the layer has one element per line of the
 * text, and an edit touches only the elements of its lines, so 200 kB stay usable. Colors are CSS highlights, which
 * paint ranges without elements of their own, so they cannot shift a letter away from the caret. A browser without
 * highlights (before 2025) shows the text without colors.
 *
 * Positions are in UTF-16 units of the text, from its beginning.
 */

class Sheet {
  constructor(area, layer) {
    this.area = area;
    this.layer = layer;
    this.text = "";
    this.canColor = typeof Highlight === "function" && typeof CSS !== "undefined" && "highlights" in CSS;
    this._nodes = [];                   // a Text node per line, without its newline
    this._starts = null;                // the lines' positions; null: to be counted again
    this._replaceLines(0, 0, [""]);
    area.value = "";
  }

  get caret() {
    return this.area.selectionEnd;
  }

  set caret(position) {
    this.area.setSelectionRange(position, position);
  }

  /* Replace `remove` characters at a position; the selection stays where it is in the text. */
  replace(at, remove, insert) {
    this.area.setRangeText(insert, at, at + remove, "preserve");
    this._show(at, remove, insert);
  }

  /* Show another text, by the least change. */
  show(text) {
    const {at, remove, insert} = changeBetween(this.text, text);
    if (remove > 0 || insert !== "") this.replace(at, remove, insert);
  }

  /* Show in the layer what a person did to the text area. */
  takeIn() {
    const {at, remove, insert} = changeBetween(this.text, this.area.value, this.caret);
    this._show(at, remove, insert);
  }

  /* Change the layer: only the lines that the change touches. */
  _show(at, remove, insert) {
    this.text = this.text.slice(0, at) + insert + this.text.slice(at + remove);
    const [first, offset] = this._locate(at);
    const [last, end] = this._locate(at + remove);
    if (first === last && !insert.includes("\n")) {
      this._nodes[first].replaceData(offset, remove, insert);
    } else {
      const rest = this._nodes[last].data.slice(end);
      const lines = (insert + rest).split("\n");
      const node = this._nodes[first];
      node.replaceData(offset, node.length - offset, lines[0]);
      this._replaceLines(first + 1, last - first, lines.slice(1));
    }
    this._starts = null;
  }

  _replaceLines(index, remove, lines) {
    const added = lines.map((line) => document.createTextNode(line));
    const next = this._nodes[index + remove];
    const fragment = document.createDocumentFragment();
    for (const node of added) {
      const element = document.createElement("div");
      element.className = "line";
      element.append(node);
      fragment.append(element);
    }
    this.layer.insertBefore(fragment, next ? next.parentNode : null);
    for (const node of this._nodes.slice(index, index + remove)) node.parentNode.remove();
    this._nodes = [...this._nodes.slice(0, index), ...added, ...this._nodes.slice(index + remove)];
    this._starts = null;
  }

  get _lineStarts() {
    if (this._starts === null) {
      let start = 0;
      this._starts = this._nodes.map((node) => {
        const here = start;
        start += node.length + 1;
        return here;
      });
    }
    return this._starts;
  }

  /* Return [line, offset in it] of a position: the last line that begins at it or before. */
  _locate(position) {
    const starts = this._lineStarts;
    const line = lastWhere(starts.length, (index) => starts[index] <= position);
    return [line, Math.min(position - starts[line], this._nodes[line].length)];
  }

  /* Return the range of the layer between two positions. */
  range(from, to) {
    const range = document.createRange();
    const [first, start] = this._locate(from);
    const [last, end] = this._locate(to);
    range.setStart(this._nodes[first], start);
    range.setEnd(this._nodes[last], end);
    return range;
  }

  /* Return the rectangle of the character at a position, in the window; of width 0 where there is none. */
  rectangleAt(position) {
    const [line, offset] = this._locate(position);
    const node = this._nodes[line];
    if (node.length === 0) {
      const {left, top, height} = node.parentNode.getBoundingClientRect();
      return new DOMRect(left, top, 0, Math.min(height, this.leading));
    }
    const isAtEnd = offset === node.length;
    const range = document.createRange();
    range.setStart(node, isAtEnd ? offset - 1 : offset);
    range.setEnd(node, isAtEnd ? offset : offset + 1);
    const rectangles = range.getClientRects();
    const {left, right, top, height} = rectangles[isAtEnd ? rectangles.length - 1 : 0] || range.getBoundingClientRect();
    return isAtEnd ? new DOMRect(right, top, 0, height) : new DOMRect(left, top, right - left, height);
  }

  get leading() {
    return parseFloat(getComputedStyle(this.layer).lineHeight);
  }

  /* Return {from, to}: the positions of the lines in the window, and as much again above and below. */
  visible() {
    const height = window.innerHeight;
    const top = (index) => this._nodes[index].parentNode.getBoundingClientRect().top;
    const first = Math.max(0, lastWhere(this._nodes.length, (index) => top(index) <= -height));
    const last = Math.max(first, lastWhere(this._nodes.length, (index) => top(index) <= 2 * height));
    return {from: this._lineStarts[first], to: this._lineStarts[last] + this._nodes[last].length};
  }

  /* Paint ranges [[from, to], ...] with a highlight of the style sheet, in place of those that it had. */
  paint(name, ranges, priority = 0) {
    if (!this.canColor) return;
    const painted = ranges.filter(([from, to]) => from < to).map(([from, to]) => this.range(from, to));
    const highlight = new Highlight(...painted);
    highlight.priority = priority;
    CSS.highlights.set(name, highlight);
  }

  /* Return {from, to} of the word at a position, null where there is none. Between words it is the next one. */
  wordAt(position) {
    const [line] = this._locate(position);
    const text = this._nodes[line].data;
    const inLine = position - this._lineStarts[line];
    const begin = Math.max(0, inLine - 300);                     // a line may be as long as the text
    for (const {segment, index} of wordSegments(text.slice(begin, inLine + 300))) {
      const from = begin + index;
      if (segment.trim() !== "" && inLine < from + segment.length) {
        return {from: this._lineStarts[line] + from, to: this._lineStarts[line] + from + segment.length};
      }
    }
    return null;
  }
}

/* Return the last index below `count` of which a condition holds, -1 for none; it holds up to some index only. */
function lastWhere(count, condition) {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (condition(middle)) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/* Return the words of a line, and what is between them: [{segment, index}]. */
function wordSegments(line) {
  if (typeof Intl.Segmenter === "function") {
    return [...new Intl.Segmenter(undefined, {granularity: "word"}).segment(line)];
  }
  return [...line.matchAll(/[\p{L}\p{N}\p{M}'’]+|\s+|./gsu)].map((match) => ({segment: match[0], index: match.index}));
}
