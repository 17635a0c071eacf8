/* Writing: the story, the sheet that shows it and the engine that goes on with it. Knows no buttons; the page sets what
 * it is told through: `onChange({grown})` after every change of text or state, `grown` where an answer grew,
 * `tell(sentence)` for what goes wrong, `say(text)` for what is read aloud.
 *
 * An answer is written where the caret was. A person may go on editing elsewhere meanwhile: the answer's place moves
 * with the edit, and what follows is a further node of the same answer. Typing at the very place ends the answer.
 */

const FLUSH_MS = 16;                    // pieces that arrive within a frame are shown together

class Writing {
  constructor(sheet) {
    this.sheet = sheet;
    this.story = new Story();
    this.engine = null;
    this.settings = [];                 // what engine.describe() lists
    this.values = {};                   // those that a person changed
    this.running = null;                // the answer being written: see _run
    this.composing = false;             // an input method is at work, and its text is not final
    this.choosing = false;              // several answers are shown, and none is taken yet
    this.remark = "";                   // what is to be said on the last answer
    this.speed = null;                  // tokens per second of the last answer
    this._finished = Promise.resolve(); // when the engine is free again
    this.onChange = this.tell = this.say = () => {};         // set by the page
  }

  /* Return where the model is to go on: the end of the selection, or where an answer is growing. */
  get place() {
    return this.running ? this.running.end : this.sheet.caret;
  }

  /* Take in what a person did to the text area. */
  takeIn(now) {
    this.sheet.takeIn();
    if (this.composing) return;
    const {at, remove, insert} = changeBetween(this.story.text, this.sheet.text, this.sheet.caret);
    if (remove === 0 && insert === "") return;
    const run = this.running;
    if (run && at + remove >= run.end && at <= run.end) {
      run.queue = "";                   // words that nobody has seen yet, for a place that is gone
      this.stop();
    } else if (run && at < run.end) run.end += insert.length - remove;
    this.story.type(at, remove, insert, now);
    this.onChange();
  }

  /* Put a text in place of the selection, as if it had been typed. Browsers insert a long text line by line, which
   * takes a minute for 200 kB. */
  paste(text, now) {
    const {area} = this.sheet;
    if (area.readOnly || text === "") return;
    area.setRangeText(plainLines(text), area.selectionStart, area.selectionEnd, "end");
    this.takeIn(now);
    this.story.pause();
  }

  /* An input method has finished: take in its text, and show what arrived meanwhile. */
  endComposition(now) {
    this.composing = false;
    this.takeIn(now);
    if (this.running) this._flush(this.running);
  }

  /* Go to a version by `move`, a function that moves the story, and show it with the caret behind the change. */
  move(move) {
    if (this.choosing) return;
    this.stop();
    move(this.story);
    const differs = this.story.text !== this.sheet.text;
    this.sheet.show(this.story.text);
    if (differs) this.sheet.caret = this.story.changeEnd;
    this.onChange();
  }

  undo() {
    this.move((story) => story.undo());
  }

  redo() {
    this.move((story) => story.redo());
  }

  choose(steps) {
    this.move((story) => story.choose(steps));
  }

  /* Show another story, as one that was opened. */
  open(story, caret) {
    this.stop();
    this.story = story;
    this.sheet.show(story.text);
    this.sheet.caret = caret;
    this.onChange();
  }

  /* Replace the whole text, as one version more. */
  replaceAll(text) {
    this.move((story) => story.change(0, story.text.length, [{text, by: "typed"}]));
    this.sheet.caret = text.length;
  }

  /* Put another piece in the place of what stands from a position on: the text branches there. */
  branch(at, piece) {
    this.move((story) => story.branch(at, plainLines(piece)));
    this.sheet.caret = this.story.text.length;
  }

  get canRetry() {
    return this.engine !== null && this.story.lastAnswer() !== null;
  }

  /* Let the model go on from the caret. `answers`: an Answers to show several side by side, null for one. */
  async goOn(answers = null) {
    if (this.engine === null || this.composing || this.choosing) return;
    this.stop();
    const at = this.sheet.caret;
    await this._write(at, answers, this.story.current);
  }

  /* Another answer in place of the last one, which stays as a version. */
  async retry(answers = null) {
    if (!this.canRetry || this.composing || this.choosing) return;
    this.stop();
    const before = this.story.current;
    const at = this.story.backBeforeAnswer();
    this.sheet.show(this.story.text);
    this.sheet.caret = at;
    await this._write(at, answers, before);
  }

  /* Stop the answer that is being written; what there is of it stays. */
  stop() {
    const run = this.running;
    if (run === null) return;
    if (!run.answers) this._flush(run);
    this.running = null;
    run.controller.abort();
    this.onChange();
  }

  /* Return the settings for the engine, with a seed drawn where none is given. */
  engineSettings() {
    const complete = completeSettings(this.settings, this.values);
    return {...complete, sampling_seed: complete.sampling_seed ?? crypto.getRandomValues(new Uint32Array(1))[0]};
  }

  /* Write one answer or several at a position; where nothing comes of it, the story returns to version `before`. */
  async _write(at, answers, before) {
    const settings = this.engineSettings();
    const run = {end: at, answers, settings, controller: new AbortController(), base: this.story.current,
      node: null, answer: null, queue: "", tokens: 0, bits: 0, unsaid: "", timer: null, flushedAt: 0,
      startedAt: performance.now(), error: null};
    this.running = run;
    this.speed = null;
    this.remark = "";
    this.onChange();
    const earlier = this._finished;
    this._finished = (async () => {
      await earlier;
      if (run.controller.signal.aborted) return;
      run.startedAt = performance.now();
      await (answers ? this._writeSeveral(run, answers) : this._writeOne(run));
    })().catch((error) => {
      run.error = error;
    });
    await this._finished;
    if (run.error && run.error.name !== "AbortError") this.tell(run.error.message);
    if (this.running === run) this.running = null;
    // No answer came, and nobody went elsewhere meanwhile: show the version that there was.
    if (run.node === null && this.story.current === run.base && run.base !== before) {
      this.move((story) => story.go(before));
    }
    this.onChange();
  }

  async _writeOne(run) {
    const [result] = await this.engine.generate(this.story.text.slice(0, run.end), {
      count: 1, settings: run.settings, signal: run.controller.signal,
      onPiece: (index, piece) => this._take(run, piece),
    });
    while (this.composing && this.running === run) await new Promise((done) => setTimeout(done, FLUSH_MS));
    if (this.running === run) this._flush(run);
    if (run.node !== null) {
      this.story.nodes[run.node].details = answerDetails(run.settings, 0, result, run.bits);
    }
    this._say(run, true);
    this.speed = speedOf([result]);
    this.remark = {end: "The model ended the text here.", stop: "Stopped at a stop string."}[result.ended] || "";
  }

  _take(run, piece) {
    if (this.running !== run) return;
    run.queue += piece.text;
    run.bits += piece.bits;
    run.tokens += 1;
    if (run.timer !== null) return;
    const wait = Math.max(0, run.flushedAt + FLUSH_MS - performance.now());
    run.timer = setTimeout(() => this._flush(run), wait);       // not a frame: those stop where the page is hidden
  }

  /* Show the pieces that arrived. */
  _flush(run) {
    clearTimeout(run.timer);
    run.timer = null;
    run.flushedAt = performance.now();
    if (this.running !== run || this.composing || run.queue === "") return;
    const text = plainLines(run.queue);
    run.queue = "";
    const {story, sheet} = this;
    if (run.node === null || story.current !== run.node || story.nodes[run.node].children.length > 0) {
      run.node = story.beginAnswer(run.end, null, run.answer ?? undefined);
      run.answer = story.nodes[run.node].answer;
    }
    const follows = sheet.area.selectionStart === run.end && sheet.caret === run.end;
    story.extendAnswer(text);
    sheet.replace(run.end, 0, text);
    run.end += text.length;
    if (follows) sheet.caret = run.end;
    run.unsaid += text;
    this._say(run, false);
    this.onChange({grown: true});
  }

  /* Read aloud the sentences that are finished; at the end, what is left. */
  _say(run, isEnd) {
    const [finished, rest] = isEnd ? [run.unsaid, ""] : finishedSentences(run.unsaid);
    run.unsaid = rest;
    if (finished.trim() !== "") this.say(finished.trim());
  }

  /* Write several answers into `answers`, keep each as a version, and go to the one that a person takes. */
  async _writeSeveral(run, answers) {
    this.choosing = this.sheet.area.readOnly = true;
    try {
      const taken = answers.open(() => this.stop());
      this.onChange();
      const results = await this.engine.generate(this.story.text.slice(0, run.end), {
        count: answers.count, settings: run.settings, signal: run.controller.signal,
        onPiece: (index, piece) => answers.add(index, piece),
      });
      if (this.running === run) this.running = null;
      this.speed = speedOf(results);
      answers.finish(results);
      this.say(`${results.length} answers are there. Take one by its number, or close them by Escape.`);
      const numbers = results.map((result, index) => (result.text === "" ? null : this.story.addAnswer(run.end,
        plainLines(result.text), answerDetails(run.settings, index, result, answers.bits[index]))));
      this.onChange();
      const index = await taken;
      if (index !== null) run.node = numbers[index];
      else if (numbers.some((number) => number !== null)) this.remark = "All answers are kept: Versions lists them.";
    } finally {
      answers.close();
      this.choosing = this.sheet.area.readOnly = false;
    }
    if (run.node !== null) this.move((story) => story.go(run.node));
  }
}

/* Return [the sentences of a text that are finished, what is left]. */
function finishedSentences(text) {
  const [finished] = text.match(/^[^]*(?:[.!?…]["'”’)]*\s|\n)/u) || [""];
  return [finished, text.slice(finished.length)];
}

/* Return what is kept of an answer beside its text, to repeat it. */
function answerDetails(settings, stream, result, bits) {
  const {sampling_seed: seed, temperature} = settings;
  return {seed: typeof seed === "bigint" ? seed.toString() : seed, stream, temperature: temperature ?? null,
    tokens: result.tokens, bits: Math.round(bits * 100) / 100, ended: result.ended};
}

/* Return tokens per second of answers that were written side by side; null where none was. */
function speedOf(results) {
  const tokens = results.reduce((sum, result) => sum + result.tokens, 0);
  const seconds = Math.max(...results.map((result) => result.seconds));
  return tokens > 1 && seconds > 0 ? tokens / seconds : null;
}

/* Return a text with the line ends of a text area, which turns \r into \n. */
function plainLines(text) {
  return text.replace(/\r\n?/g, "\n");
}
