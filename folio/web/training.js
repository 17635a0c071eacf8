/* The training view: the runs of a project with their curves and samples, one or two side by side; what trains now is
 * followed. It knows an engine with runs() and log(name, after); see server_engine.js.
 */
"use strict";

const FOLLOW_MS = 2000;                 // between two questions for new reports of a run that trains
const LIST_MS = 10000;                  // between two questions for the list
const MOST_RUNS = 200;                  // listed
const RUN_COLORS = ["run-one", "run-two"];
const SCORES = [["val_nats_per_byte", false], ["train_eval_nats_per_byte", true]];

class TrainingView {
  /* container: an empty element; engine; tell: called with a sentence */
  constructor(container, engine, tell) {
    Object.assign(this, {container, engine, tell});
    this.runs = null;                   // until they are known
    this.chosen = [];                   // names, one or two
    this.logs = new Map();              // name -> reports
    this.sampleStep = null;             // of the slider; null: the newest sample
    this.timer = null;
    this._listedAt = 0;
    this._build();
    document.addEventListener("visibilitychange", () => this._schedule());
  }

  /* Show or hide the view; what is hidden asks the server nothing. */
  set isShown(isShown) {
    this.container.hidden = !isShown;
    if (isShown) this.refresh();
    else clearTimeout(this.timer);
  }

  /* Ask for what is new. */
  async refresh() {
    clearTimeout(this.timer);
    const asked = this._asked = {};     // a later question makes this one's timer unnecessary
    try {
      if (this.runs === null || performance.now() - this._listedAt >= LIST_MS) await this._list();
      await Promise.all(this.chosen.map((name) => this._readLog(name)));
      this._draw();
    } catch (error) {
      this.tell(error.message);
    }
    if (asked === this._asked) this._schedule();
  }

  async _list() {
    const runs = await this.engine.runs();
    this.runs = runs.slice(0, MOST_RUNS);
    this._listedAt = performance.now();
    this.chosen = this.chosen.filter((name) => this._run(name));
    const first = this.runs.find((run) => run.state === "running") || this.runs.find((run) => run.has_log)
      || this.runs[0];
    if (this.chosen.length === 0 && first) this.chosen = [first.name];
  }

  async _readLog(name) {
    const known = this.logs.get(name) || [];
    const isGrowing = this._run(name)?.state === "running";
    if (!this._run(name)?.has_log || (known.length > 0 && !isGrowing && known.isWhole)) return;
    const last = known.length > 0 ? known[known.length - 1].step : -1;
    const reports = await this.engine.log(name, last);
    const isAnew = reports.length > 0 && reports[0].step <= last;       // the run was resumed from an earlier step
    const log = isAnew ? reports : [...known, ...reports];
    log.isWhole = !isGrowing;
    this.logs.set(name, log);
  }

  _schedule() {
    clearTimeout(this.timer);
    if (this.container.hidden || document.hidden) return;
    const isFollowing = this.chosen.some((name) => this._run(name)?.state === "running");
    this.timer = setTimeout(() => this.refresh(), isFollowing ? FOLLOW_MS : LIST_MS);
  }

  _run(name) {
    return this.runs?.find((run) => run.name === name);
  }

  // --- Building ---

  _build() {
    const make = makeElement;
    this.list = make("div", "run-list");
    this.facts = make("div", "run-facts");
    this.readout = make("p", "run-readout");
    const side = make("section", "run-side");
    const main = make("div", "run-main");
    side.append(make("h2", "", "Runs"), this.list);
    this.empty = make("p", "run-empty");
    const loss = make("section", "run-part");
    loss.append(make("h3", "", "Loss in nats per byte"), this.readout);
    const onPick = (x, isClick) => this._pick(x, isClick);
    const nats = (value) => value.toFixed(value < 10 ? 3 : 1);
    this.loss = new Curves(loss, {height: 300, title: "Loss in nats per byte", format: nats, onPick});
    const small = make("div", "run-small");
    const [speed, rate] = [make("section", "run-part"), make("section", "run-part")];
    speed.append(make("h3", "", "Tokens per second"));
    rate.append(make("h3", "", "Learning rate"));
    small.append(speed, rate);
    const short = new Intl.NumberFormat("en", {notation: "compact", maximumSignificantDigits: 3});
    this.speed = new Curves(speed, {height: 140, title: "Tokens per second", fromZero: true, onPick,
      format: (value) => short.format(value)});
    this.rate = new Curves(rate, {height: 140, title: "Learning rate", fromZero: true, onPick,
      format: (value) => (value === 0 ? "0" : String(Number(value.toPrecision(2))))});
    main.append(this.empty, this.facts, loss, small, this._buildSamples());
    this.container.append(side, main);
    this.main = main;
  }

  _buildSamples() {
    const make = makeElement;
    this.samples = make("section", "run-part");
    this.slider = make("input", "run-slider");
    Object.assign(this.slider, {type: "range", min: 0, step: 1, id: "run-slider"});
    this.slider.setAttribute("aria-label", "Sample after so many steps");
    this.slider.addEventListener("input", () => {
      const steps = this._sampleSteps();
      const index = Number(this.slider.value);
      this.sampleStep = index === steps.length - 1 ? null : steps[index];
      this._drawSamples();
    });
    this.sampleTitle = make("h3", "");
    this.sampleTexts = make("div", "run-samples");
    this.samples.append(this.sampleTitle, this.slider, this.sampleTexts);
    return this.samples;
  }

  // --- Drawing ---

  _draw() {
    this._drawList();
    const logs = this.chosen.map((name) => this.logs.get(name) || []);
    const hasRun = this.chosen.length > 0;
    const hasReports = logs.some((log) => log.length > 0);
    this.empty.hidden = hasReports;
    this.empty.textContent = hasRun ? "This run has no log here: only its weights are."
      : "There is no run here yet. python train.py begins one, and this page follows it.";
    for (const part of this.main.querySelectorAll(".run-part")) part.hidden = !hasReports;
    this._drawFacts();
    if (!hasReports) return;
    const isPair = this.chosen.length > 1;
    const points = (log, field) => log.filter((report) => typeof report[field] === "number")
      .map((report) => [report.step, report[field]]);
    const curves = (field, isFaint = false) => this.chosen.map((name, index) =>
      ({name, color: RUN_COLORS[index], isFaint, points: points(logs[index], field)}));
    const running = isPair ? [] : curves("train_nats_per_byte", true);
    const scores = SCORES.flatMap(([field, isTraining]) => (isPair && isTraining ? [] : curves(field).map((one) =>
      (isTraining ? {...one, color: "run-training", name: `${one.name}, training text`} : one))));
    const planned = Math.max(0, ...this.chosen.map((name) =>
      (this._run(name).state === "running" ? this._run(name).planned_steps || 0 : 0)));
    this.loss.show([...running, ...scores.reverse()], planned);
    this.speed.show(curves("tokens_per_second"), planned);
    this.rate.show(curves("learning_rate"), planned);
    this._say(null);
    this._drawSamples();
  }

  _drawList() {
    const focused = this.container.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    this.list.replaceChildren(...this.runs.map((run) => this._listed(run)));
    if (focused) [...this.list.querySelectorAll("button")].find((one) => one.dataset.key === focused)?.focus();
  }

  _listed(run) {
    const make = makeElement;
    const place = this.chosen.indexOf(run.name);
    const row = make("div", `run${place >= 0 ? ` ${RUN_COLORS[place]}` : ""}`);
    const button = make("button", "run-name");
    button.type = "button";
    button.dataset.key = `show ${run.name}`;
    button.setAttribute("aria-pressed", String(place === 0));
    const state = make("span", `run-state${run.state === "running" ? " live" : ""}`, run.state);
    const quality = run.bits_per_byte === null ? "" : `${run.bits_per_byte.toFixed(3)} bits per byte`;
    button.append(make("span", "run-title", run.name), state, make("small", "", [quality, whenOf(run.changed)]
      .filter(Boolean).join(" · ")));
    button.addEventListener("click", () => this._choose([run.name]));
    const beside = make("button", "run-beside", place === 1 ? "Remove" : "Compare");
    beside.type = "button";
    beside.dataset.key = `beside ${run.name}`;
    beside.setAttribute("aria-label", place === 1 ? `Remove ${run.name} from the comparison`
      : `Compare with ${run.name}`);
    beside.disabled = place === 0 || !run.has_log;
    beside.addEventListener("click", () =>
      this._choose(place === 1 ? [this.chosen[0]] : [this.chosen[0], run.name]));
    row.append(button, beside);
    return row;
  }

  _choose(names) {
    this.chosen = names;
    this.sampleStep = null;
    this.refresh();
  }

  _drawFacts() {
    this.facts.replaceChildren(...this.chosen.map((name, index) => {
      const run = this._run(name);
      const card = makeElement("section", `run-card ${RUN_COLORS[index]}`);
      const facts = makeElement("dl", "");
      for (const [term, value] of factsOf(run, this.logs.get(name) || [])) {
        facts.append(makeElement("dt", "", term), makeElement("dd", "", value));
      }
      card.append(makeElement("h2", "", name), facts);
      for (const problem of run.problems) card.append(makeElement("p", "run-problem", problem));
      return card;
    }));
  }

  // --- The cursor, the samples ---

  _pick(x, isClick) {
    this._say(x);
    if (!isClick || x === null) return;
    const steps = this._sampleSteps();
    if (steps.length === 0) return;
    const nearest = steps.reduce((best, step) => (Math.abs(step - x) < Math.abs(best - x) ? step : best));
    this.sampleStep = nearest === steps[steps.length - 1] ? null : nearest;
    this._drawSamples();
  }

  /* Say the numbers at a place of the x axis, null for the last ones. */
  _say(x) {
    for (const curves of [this.loss, this.speed, this.rate]) curves.moveCursor(x ?? this.sampleStep);
    const series = this.loss.series.filter((one) => one.points.length > 0).reverse();
    this.readout.replaceChildren(...series.map((one) => {
      const [step, value] = x === null ? one.points[one.points.length - 1] : nearestPoint(one.points, x);
      const words = one.isFaint ? `${one.name}, while it trains` : one.name;
      return makeElement("span", `readout ${one.color}${one.isFaint ? " faint" : ""}`,
        `${words} ${value.toFixed(3)} at step ${step.toLocaleString("en")}`);
    }));
  }

  _sampleSteps() {
    const steps = this.chosen.flatMap((name) => samplesOf(this.logs.get(name)).map((report) => report.step));
    return [...new Set(steps)].sort((one, other) => one - other);
  }

  _drawSamples() {
    const steps = this._sampleSteps();
    this.samples.hidden = steps.length === 0;
    if (steps.length === 0) return;
    const step = this.sampleStep ?? steps[steps.length - 1];
    const index = Math.max(0, steps.indexOf(step));
    this.slider.max = steps.length - 1;
    this.slider.value = index;
    this.slider.disabled = steps.length < 2;
    this.slider.setAttribute("aria-valuetext", `step ${steps[index]}`);
    this.sampleTitle.textContent = `What it wrote after ${steps[index].toLocaleString("en")} steps`;
    this.sampleTexts.replaceChildren(...this.chosen.map((name, place) => {
      const earlier = samplesOf(this.logs.get(name)).filter((report) => report.step <= steps[index]);
      const sample = earlier[earlier.length - 1];
      const figure = makeElement("figure", `run-sample ${RUN_COLORS[place]}`);
      const caption = sample ? `${name}, step ${sample.step.toLocaleString("en")}` : `${name}: no sample yet`;
      figure.append(makeElement("blockquote", "", sample ? sample.sample : ""), makeElement("figcaption", "", caption));
      return figure;
    }));
    for (const curves of [this.loss, this.speed, this.rate]) curves.moveCursor(this.sampleStep);
  }
}

/* Return the reports of a log that have a sample. */
function samplesOf(log) {
  return (log || []).filter((report) => typeof report.sample === "string");
}

/* Return the point nearest to a place of the x axis. */
function nearestPoint(points, x) {
  return points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best));
}

/* Return [[term, value], ...]: what is known about a run. */
function factsOf(run, log) {
  const number = (value) => value.toLocaleString("en", {maximumSignificantDigits: 3, notation: "compact"});
  const last = log[log.length - 1];
  const steps = Math.max(run.steps ?? 0, last?.step ?? 0);
  const minutes = run.state === "running" && last ? last.seconds / 60 : run.minutes;
  const speed = run.state === "running" && last?.tokens_per_second ? last.tokens_per_second : run.tokens_per_second;
  const own = Object.entries(run.differs).map(([name, value]) => `${flagOf(name)} ${value}`).join(", ");
  const facts = [["state", run.state],
    ["steps", run.planned_steps ? `${steps.toLocaleString("en")} of ${run.planned_steps.toLocaleString("en")}`
      : steps.toLocaleString("en")],
    ["best", run.bits_per_byte === null ? "" : `${run.bits_per_byte.toFixed(3)} bits per byte`],
    ["speed", speed ? `${number(speed)} tokens/s` : ""],
    ["time", minutes ? `${minutes.toFixed(minutes < 10 ? 1 : 0)} min` : ""],
    ["size", run.parameters ? `${number(run.parameters)} parameters` : ""],
    ["text", run.text.name || (run.text.train_bytes ? `${number(run.text.train_bytes)} bytes` : "")],
    ["started from", run.started_from?.name || ""], ["own settings", own], ["to go on", run.go_on || ""]];
  return facts.filter(([, value]) => value !== "");
}

/* Return when something was, in few words. */
function whenOf(date) {
  if (date === null) return "";
  const when = new Date(date);
  const isToday = when.toDateString() === new Date().toDateString();
  return isToday ? when.toLocaleTimeString([], {hour: "2-digit", minute: "2-digit"})
    : when.toLocaleDateString([], {month: "short", day: "numeric", year: "numeric"});
}
