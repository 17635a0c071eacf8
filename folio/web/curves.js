/* Curves in SVG: axes with round numbers, lines, points, and a cursor at a place of the x axis.
 *
 * series: {name, color: a class of the style sheet, isFaint, points: [[x, y], ...] in ascending x}
 */
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const CLIFF = 0.06;                     // share of the x axis at its start that does not set the y axis
const MOST_POINTS = 1200;               // of a line; more lie on the same pixels
const MARGIN = {left: 52, right: 14, top: 10, bottom: 26};

class Curves {
  /* container: an element; height: pixels; title: of what is drawn; format(y) -> text; fromZero: the y axis begins at
   * 0; onPick(x): a person has pointed at a place, and clicked with `isClick`; unit: of the x axis */
  constructor(container, {height, title, format, fromZero = false, onPick = () => {}, unit = "steps"}) {
    Object.assign(this, {container, height, title, format, fromZero, onPick, unit});
    this.series = [];
    this.end = 0;                       // of the x axis, where it is beyond the last point
    this.cursor = null;                 // x
    this.svg = svgElement("svg", {class: "curves", role: "img", height});
    container.append(this.svg);
    new ResizeObserver(() => this.draw()).observe(container);
    for (const kind of ["pointermove", "click"]) {
      this.svg.addEventListener(kind, (event) => this._point(event, kind === "click"));
    }
    this.svg.addEventListener("pointerleave", () => onPick(null, false));
  }

  show(series, end = 0) {
    this.series = series;
    this.end = end;
    this.draw();
  }

  moveCursor(x) {
    this.cursor = x;
    this._placeCursor();
  }

  draw() {
    const width = this.container.clientWidth;
    if (width === 0) return;
    const points = this.series.flatMap((one) => one.points);
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("aria-label", this._summary());
    this.svg.replaceChildren();
    if (points.length === 0) return;
    this.last = Math.max(this.end, ...points.map(([x]) => x));
    const [low, high] = this._bounds(points);
    this.high = high;
    const plot = {width: width - MARGIN.left - MARGIN.right, height: this.height - MARGIN.top - MARGIN.bottom};
    this.x = (value) => MARGIN.left + plot.width * value / (this.last || 1);
    this.y = (value) => MARGIN.top + plot.height * (1 - (Math.min(value, high) - low) / (high - low));
    this._axes(low, high, width);
    for (const one of this.series) this._line(one);
    this.line = svgElement("line", {class: "cursor", y1: MARGIN.top, y2: this.height - MARGIN.bottom});
    this.svg.append(this.line);
    this._placeCursor();
  }

  /* Return the ends of the y axis. Losses fall far in the first steps: those do not count. */
  _bounds(points) {
    const settled = points.filter(([x]) => x >= CLIFF * this.last);
    const values = (settled.length > 0 ? settled : points).map(([, y]) => y);
    const high = Math.max(...values), low = this.fromZero ? 0 : Math.min(...values);
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    return [this.fromZero ? 0 : low - room, high + room];
  }

  _axes(low, high, width) {
    for (const value of roundNumbers(low, high, Math.max(2, Math.round(this.height / 55)))) {
      const y = this.y(value);
      this.svg.append(svgElement("line", {class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y}),
        svgElement("text", {class: "tick", x: MARGIN.left - 8, y: y + 4, "text-anchor": "end"}, this.format(value)));
    }
    for (const value of roundNumbers(0, this.last, Math.max(2, Math.round(width / 130)))) {
      const anchor = value === 0 ? "start" : this.x(value) > width - 40 ? "end" : "middle";
      this.svg.append(svgElement("text", {class: "tick", x: this.x(value), y: this.height - 8, "text-anchor": anchor},
        `${value.toLocaleString("en")}${value === 0 ? ` ${this.unit}` : ""}`));
    }
  }

  _line({points, color, isFaint}) {
    const every = Math.max(1, Math.ceil(points.length / MOST_POINTS));
    const shown = points.filter((_, index) => index % every === 0 || index === points.length - 1);
    const path = below(shown, this.high).map(([x, y]) => `${this.x(x).toFixed(1)},${this.y(y).toFixed(1)}`).join(" ");
    this.svg.append(svgElement("polyline", {class: `curve ${color}${isFaint ? " faint" : ""}`, points: path}));
    if (isFaint || points.length === 0) return;
    const [x, y] = points[points.length - 1];
    this.svg.append(svgElement("circle", {class: `curve-end ${color}`, cx: this.x(x), cy: this.y(y), r: 3}));
  }

  _placeCursor() {
    if (!this.line) return;
    this.line.style.display = this.cursor === null ? "none" : "";
    if (this.cursor === null) return;
    this.line.setAttribute("x1", this.x(this.cursor));
    this.line.setAttribute("x2", this.x(this.cursor));
  }

  _point(event, isClick) {
    if (!this.line) return;
    const {left, width} = this.svg.getBoundingClientRect();
    const share = (event.clientX - left - MARGIN.left) / (width - MARGIN.left - MARGIN.right);
    this.onPick(Math.min(1, Math.max(0, share)) * this.last, isClick);
  }

  /* Return a place of the x axis in words. */
  place(x) {
    const shown = x.toLocaleString("en", {maximumFractionDigits: 1});
    return this.unit === "steps" ? `step ${shown}` : `${shown} ${this.unit}`;
  }

  /* Return what a screen reader says of the picture. */
  _summary() {
    const parts = this.series.filter((one) => !one.isFaint && one.points.length > 0).map(({name, points}) => {
      const [x, y] = points[points.length - 1];
      const [first, above] = points[0];
      return `${name}: ${this.format(above)} at ${this.place(first)}, ${this.format(y)} at ${this.place(x)}`;
    });
    return `${this.title}. ${parts.join("; ") || "Nothing yet"}.`;
  }
}

/* Return points without those above a limit; where a line comes down from there, it begins at the limit. */
function below(points, limit) {
  return points.flatMap(([x, y], index) => {
    if (y > limit) return [];
    const [earlier, above] = points[index - 1] || [x, y];
    return above > limit ? [[earlier + (x - earlier) * (above - limit) / (above - y), limit], [x, y]] : [[x, y]];
  });
}

/* Return round numbers between two, about `count` of them: 1, 2 or 5 times a power of ten apart. */
function roundNumbers(low, high, count) {
  const wanted = (high - low) / count;
  if (!(wanted > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(wanted));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= wanted);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({length: last - first + 1}, (_, index) => Number(((first + index) * step).toPrecision(12)));
}

/* Return an element of SVG with attributes and a text. */
function svgElement(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}
