/* The report: draws the curves, moves through samples, and says what a piece of the passage cost. Everything else is
 * there already, as folio/pictures/report_sections.py wrote it. All texts are set as text, never as HTML.
 */
"use strict";

const RUNS = JSON.parse(document.getElementById("data").textContent).runs;
const SCORE = "val_nats_per_byte";
const TRAINING = "train_eval_nats_per_byte";
const RUNNING = "train_nats_per_byte";
const TIMES = [["hours", 3600, 2], ["minutes", 60, 2], ["seconds", 1, 0]];      // from so many of them on

const at = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

// --- Curves ---

class ReportCurves {
  constructor() {
    const short = new Intl.NumberFormat("en", {notation: "compact", maximumSignificantDigits: 3});
    const nats = (value) => value.toFixed(value < 10 ? 2 : 1);
    const onPick = (x, isClick) => this._pick(x, isClick);
    this.onStep = () => {};             // set by the samples: a person has clicked at a step
    this.axis = "step";
    this.cursor = null;                 // a step
    this.loss = new Curves(at("loss-curves"), {height: 320, title: "Loss in nats per byte", format: nats, onPick});
    this.speed = new Curves(at("speed-curves"), {height: 150, title: "Tokens per second", fromZero: true, onPick,
      format: (value) => short.format(value)});
    this.rate = new Curves(at("rate-curves"), {height: 150, title: "Learning rate", fromZero: true, onPick,
      format: (value) => (value === 0 ? "0" : String(Number(value.toPrecision(2))))});
    for (const radio of document.querySelectorAll("input[name=axis]")) {
      radio.addEventListener("change", () => {
        this.axis = radio.value;
        this.show();
      });
    }
    this.show();
  }

  get all() {
    return [this.loss, this.speed, this.rate];
  }

  show() {
    const longest = Math.max(0, ...RUNS.flatMap(({curves}) => curves.seconds));
    const [unit, length] = this.axis === "step" ? ["steps", 1]
      : TIMES.find(([, seconds, least]) => longest >= least * seconds);
    this.length = length;
    for (const curves of this.all) curves.unit = unit;
    const lines = (field, more = {}) => RUNS.map(({name, color, curves}) =>
      ({name, color, isFaint: false, ...more, points: this._points(curves, field)}));
    const isAlone = RUNS.length === 1;
    const running = isAlone ? lines(RUNNING, {isFaint: true, name: "training, while it runs"}) : [];
    const training = isAlone ? lines(TRAINING, {color: "run-training", name: "training text"}) : [];
    const scores = lines(SCORE, isAlone ? {name: "validation text"} : {});
    const shown = scores.some(({points}) => points.length > 0) ? scores : lines(RUNNING);
    this.loss.show([...running, ...training, ...shown.reverse()]);
    this.speed.show(lines("tokens_per_second"));
    this.rate.show(lines("learning_rate"));
    this._say(null);
  }

  _points(curves, field) {
    return curves[field].map((y, index) => [curves[this.axis][index], y])
      .filter(([x, y]) => x !== null && y !== null).map(([x, y]) => [x / this.length, y]);
  }

  /* Move the line to a step, or remove it. */
  moveTo(step) {
    this.cursor = step;
    this._say(null);
  }

  _placeOf(step) {
    if (step === null || this.axis === "step") return step;
    const {curves} = RUNS.find((run) => run.curves.step.length > 0);
    const index = curves.step.reduce((best, one, place) =>
      (Math.abs(one - step) < Math.abs(curves.step[best] - step) ? place : best), 0);
    return curves[this.axis][index] === null ? null : curves[this.axis][index] / this.length;
  }

  _stepAt(x) {
    if (this.axis === "step") return x;
    const {curves} = RUNS.find((run) => run.curves.step.length > 0);
    const index = curves.seconds.reduce((best, one, place) =>
      (Math.abs(one - x * this.length) < Math.abs(curves.seconds[best] - x * this.length) ? place : best), 0);
    return curves.step[index];
  }

  _pick(x, isClick) {
    this._say(x);
    if (isClick && x !== null) this.onStep(this._stepAt(x));
  }

  /* Say the numbers at a place of the x axis, null for the last ones. */
  _say(x) {
    for (const curves of this.all) curves.moveCursor(x ?? this._placeOf(this.cursor));
    const series = this.loss.series.filter((one) => one.points.length > 0).reverse();
    at("readout").replaceChildren(...series.map((one) => {
      const [place, value] = x === null ? one.points[one.points.length - 1] : one.points.reduce((best, point) =>
        (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
      return make("span", `readout ${one.color}${one.isFaint ? " faint" : ""}`,
        `${one.name} ${value.toFixed(3)} at ${this.loss.place(place)}`);
    }));
  }
}

// --- Samples ---

class Samples {
  constructor(curves) {
    this.curves = curves;
    this.slider = at("slider");
    this.steps = [...new Set(RUNS.flatMap(({samples}) => samples.map(([step]) => step)))].sort((a, b) => a - b);
    this.slider.max = this.steps.length - 1;
    this.slider.value = this.steps.length - 1;
    this.slider.disabled = this.steps.length < 2;
    this.slider.addEventListener("input", () => this.show(true));
    if (curves) curves.onStep = (step) => this._goTo(step);
    this.show(false);
  }

  _goTo(step) {
    const near = this.steps.reduce((best, one, index) =>
      (Math.abs(one - step) < Math.abs(this.steps[best] - step) ? index : best), 0);
    this.slider.value = near;
    this.show(true);
  }

  show(isMoved) {
    const step = this.steps[Number(this.slider.value)];
    const words = `${step.toLocaleString("en")} ${step === 1 ? "step" : "steps"}`;
    at("sample-title").textContent = `After ${words}`;
    this.slider.setAttribute("aria-valuetext", words);
    [...at("sample-texts").children].forEach((figure, index) => {
      const {name, samples} = RUNS[index];
      const sample = samples.filter(([one]) => one <= step).pop();
      figure.querySelector("blockquote").textContent = sample ? sample[1] : "";
      figure.querySelector("figcaption").textContent = sample ? `${name}, step ${sample[0].toLocaleString("en")}`
        : `${name}: no sample yet`;
    });
    if (isMoved) this.curves?.moveTo(step);
  }
}

// --- Surprise ---

/* Say what a piece of a passage cost, as a person points at it or goes there with the arrow keys. */
class Passage {
  constructor(element) {
    this.element = element;
    this.pieces = RUNS[Number(element.dataset.run)].pieces;
    this.spans = [...element.children];
    this.readout = document.querySelector(`[data-readout="${element.dataset.run}"]`);
    this.place = null;
    element.addEventListener("pointermove", (event) => this._point(event));
    element.addEventListener("pointerdown", (event) => this._point(event));
    element.addEventListener("pointerleave", () => this.show(null));
    element.addEventListener("blur", () => this.show(null));
    element.addEventListener("keydown", (event) => {
      const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      if (!by) return;
      event.preventDefault();
      this.show(this.place === null ? 0 : Math.min(this.spans.length - 1, Math.max(0, this.place + by)));
      this.spans[this.place].scrollIntoView({block: "nearest"});
    });
  }

  _point(event) {
    const index = this.spans.indexOf(event.target.closest(".passage > span"));
    if (index >= 0) this.show(index);
  }

  show(index) {
    if (index === this.place) return;
    if (this.place !== null) this.spans[this.place].classList.remove("here");
    this.place = index;
    if (index === null) {
      this.readout.textContent = this.readout.dataset.default;
      return;
    }
    this.spans[index].classList.add("here");
    const [bits, expected] = this.pieces[index];
    const chance = Math.max(1, Math.round(2 ** bits)).toLocaleString("en");
    const text = this.spans[index].textContent.replace(/⏎\n/g, "⏎").trim() || "a space";
    this.readout.replaceChildren(make("b", "", text), ` ${bits.toFixed(1)} bits, 1 chance in ${chance}. `);
    if (expected.length === 0) return;
    this.readout.append(make("span", "expected", "Expected: "), ...expected.flatMap(([other, likely]) =>
      [make("q", "", other.replace(/\n/g, "⏎")), ` ${percent(likely)} `]));
  }
}

function percent(share) {
  return share < 0.01 ? "< 1 %" : `${Math.round(100 * share)} %`;
}

// --- Start ---

at("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
});
const curves = at("loss-curves") ? new ReportCurves() : null;
if (at("slider")) new Samples(curves);
for (const element of document.querySelectorAll(".passage")) new Passage(element);
