/* The chat view: a conversation, the engine that answers, and a field for the next message. Only models that were
 * taught to chat have it (about.chat of the engine). It takes the Page, and shares with it settings and panels.
 *
 * An answer is a message from its first piece on, and grows. Again and edited messages are versions, which `< 2/3 >`
 * leads through. Of several answers side by side, one is taken and all are kept; whoever sets `onPrefer` is told which,
 * {messages, chosen, rejected: [text]}.
 */

const FOLLOW_CHAT = 160;                // pixels from the end within which the page scrolls along with an answer

class ChatView {
  constructor(page) {
    this.page = page;
    this.at = page.at;
    this.conversation = new Conversation();
    this.keeper = new Keeper(document.title, (sentence) => page.tell(sentence), "conversation");
    this.transcript = new Transcript(this.at.messages, this);
    this.running = null;                // {controller, number: of the growing message or null, tokens, bits, startedAt}
    this.choosing = false;              // several answers are shown, and none is taken yet
    this.remark = "";
    this.onPrefer = null;
    this._finished = Promise.resolve(); // when the engine is free again
  }

  start() {
    const {at} = this;
    at["chat-count"].append(...[...at.count.options].map((option) => option.cloneNode(true)));
    at.composer.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.stop();
      else this.send();
    });
    at.message.addEventListener("input", () => this.fit());
    at["chat-new"].addEventListener("click", () => this.restart());
    at["system-text"].addEventListener("input", () => {
      this.conversation.system = plainLines(at["system-text"].value);
      this.keep();
    });
    window.addEventListener("pagehide", () => this.keeper.writeNow());
    document.addEventListener("visibilitychange", () => this.keeper.writeNow());
    window.addEventListener("storage", (event) => {
      if (event.key !== `${this.keeper.key}:conversation`) return;
      this.page.tell("This conversation is open in a second window too, and only what changed last is kept. Close one "
        + "of them.");
    });
    this.restore();
    this.show();
  }

  // --- Messages ---

  /* Send what was typed; where nothing was, answer the last message that has no answer. */
  send() {
    if (!this.page.writing.engine || this.running || this.choosing) return null;
    const {conversation} = this, content = stripped(plainLines(this.at.message.value));
    const last = conversation.nodes[conversation.current];
    if (content === "" && last.role !== USER) return null;
    this.at.message.value = "";
    this.fit();
    return this.answer(content === "" ? conversation.current : conversation.add(conversation.current, USER, content));
  }

  /* Another answer in place of a message. */
  again(number = this.lastAnswer()) {
    if (number === null || this.running || this.choosing) return null;
    const {parent} = this.conversation.nodes[number];
    return parent === 0 ? null : this.answer(parent);
  }

  /* Go on with an answer that was cut off. */
  goOn(number) {
    return this.running || this.choosing ? null : this.answer(number, true);
  }

  /* Show an edited message as a version of its own; a user's is answered. */
  edit(number, content) {
    const {parent, role} = this.conversation.nodes[number];
    const edited = this.conversation.add(parent, role, content);
    if (role === USER) return this.answer(edited);
    this.changed();
    return null;
  }

  choose(number, steps) {
    if (number === null || this.running || this.choosing || !this.conversation.choose(number, steps)) return;
    const {index, siblings} = this.conversation.versions(number);
    this.changed();
    this.page.say(`Version ${index + 1 + steps} of ${siblings.length}.`);
  }

  restart() {
    if (this.choosing) return;
    this.stop();
    this.conversation.restart();
    this.remark = "";
    this.changed();
    this.at.message.focus();
  }

  /* Return the number of the last message if it is an answer, else null. */
  lastAnswer() {
    const {nodes, current} = this.conversation;
    return nodes[current].role === ASSISTANT ? current : null;
  }

  /* Return how many of the oldest turns the model did not see at the last answer. */
  get turnsLeftOut() {
    const {nodes} = this.conversation;
    const last = this.conversation.path().findLast((number) => nodes[number].details !== null);
    return last === undefined ? 0 : nodes[last].details.turns_left_out ?? 0;
  }

  // --- Answers ---

  /* Answer the message `number`, or go on with it where it is an answer. */
  async answer(number, continues = false) {
    const run = {controller: new AbortController(), number: continues ? number : null, parent: number, continues,
      messages: this.conversation.messages(number), tokens: 0, bits: 0, unsaid: "", startedAt: performance.now(),
      settings: this.page.writing.engineSettings()};
    this.running = run;
    this.remark = "";
    this.conversation.go(number);
    if (!continues) {                   // what came after it belongs to earlier answers
      this.conversation.current = number;
      this.conversation.nodes[number].chosen = null;
    }
    this.changed();
    this.follow(true);
    const earlier = this._finished, count = continues ? 1 : Number(this.at["chat-count"].value);
    this._finished = (async () => {
      await earlier;
      if (run.controller.signal.aborted) return;
      await (count > 1 ? this._answerSeveral(run, count) : this._answerOne(run));
    })().catch((error) => {
      if (error.name !== "AbortError") this.page.tell(error.message);
    });
    await this._finished;
    if (this.running === run) this.running = null;
    if (this.conversation.current === number && !continues) this._goBack(number);
    this.changed();
  }

  /* No answer came: show the one that there was. */
  _goBack(number) {
    const {children} = this.conversation.nodes[number];
    if (children.length > 0) this.conversation.go(children.at(-1));
  }

  async _ask(run, count, onPiece) {
    const {page} = this, prompt = {messages: run.messages, continues: run.continues};
    const results = await page.engine.generate(prompt, {count, settings: run.settings, signal: run.controller.signal,
      onPiece});
    if (results[0].window_start > 0) {
      const context = page.about.context.toLocaleString("en");
      page.tell(`The last messages alone are longer than the ${context} tokens that the model can look back on; it did `
        + "not see where they begin.");
    }
    return results;
  }

  async _answerOne(run) {
    const {conversation} = this;
    const [result] = await this._ask(run, 1, (index, piece) => this._take(run, piece));
    if (run.number === null) {
      this.remark = result.ended === "aborted" ? "" : "The model answered nothing.";
      return;
    }
    const node = conversation.nodes[run.number];
    node.content = result.ended === "end" ? stripped(node.content) : node.content;
    node.details = this._details(run.settings, 0, result, run.bits);
    this.remark = result.ended === "length" ? "Cut off at the maximum length: Go on continues it." : "";
    this._say(run, true);
  }

  /* Show a piece of the growing answer. */
  _take(run, piece) {
    if (this.running !== run || run.controller.signal.aborted) return;          // the conversation may be another
    const {conversation} = this, text = plainLines(piece.text);
    run.tokens += piece.tokens ?? 1;
    run.bits += piece.bits;
    if (run.number === null) {
      if (stripped(text) === "") return;
      run.number = conversation.add(run.parent, ASSISTANT, strippedStart(text));
      this.show();
    } else {
      conversation.nodes[run.number].content += text;
      this.transcript.extend(run.number, text);
    }
    run.unsaid += text;
    this._say(run, false);
    this.at["chat-status"].textContent = this.statusLine();
    this.follow();
    this.keep();
  }

  /* Read aloud the sentences that are finished; at the end, what is left. */
  _say(run, isEnd) {
    const [finished, rest] = isEnd ? [run.unsaid, ""] : finishedSentences(run.unsaid);
    run.unsaid = rest;
    if (finished.trim() !== "") this.page.say(finished.trim());
  }

  /* Show several answers side by side, keep each as a version, and show the one that a person takes. */
  async _answerSeveral(run, count) {
    const {conversation} = this, answers = new Answers(this.at.answers, count);
    this.choosing = true;
    try {
      const taken = answers.open(() => run.controller.abort());
      this.changed();
      this.follow(true);
      const results = await this._ask(run, count, (index, piece) => answers.add(index, piece));
      if (this.running === run) this.running = null;
      answers.finish(results);
      this.page.say(`${results.length} answers are there. Take one by its number, or close them by Escape.`);
      this.changed();
      const index = await taken;
      const numbers = results.map((result, stream) => (stripped(result.text) === "" ? null
        : conversation.add(run.parent, ASSISTANT, stripped(plainLines(result.text)),
          this._details(run.settings, stream, result, answers.bits[stream]))));
      if (index !== null && numbers[index] !== null) {
        conversation.go(numbers[index]);
        this._prefer(run.messages, numbers, index);
      } else if (numbers.some((number) => number !== null)) {
        this.remark = "All answers are kept as versions.";
      }
    } finally {
      answers.close();
      this.choosing = false;
    }
  }

  /* Tell whoever collects preferences which of several finished answers was taken. */
  _prefer(messages, numbers, index) {
    const {nodes} = this.conversation, contentOf = (number) => nodes[number].content;
    const finished = numbers.filter((number) => number !== null && nodes[number].details.ended !== "aborted");
    if (!finished.includes(numbers[index])) return;
    const chosen = contentOf(numbers[index]);
    const rejected = finished.map(contentOf).filter((content) => content !== chosen);
    if (rejected.length > 0) this.onPrefer?.({messages, chosen, rejected});
  }

  _details(settings, stream, result, bits) {
    return {...answerDetails(settings, stream, result, bits), turns_left_out: result.turns_left_out ?? 0};
  }

  /* Stop the answer that is being written; what there is of it stays. */
  stop() {
    this.running?.controller.abort();
  }

  // --- What is shown ---

  changed() {
    this.show();
    this.keep();
  }

  show() {
    const {at, running, choosing, page} = this;
    this.transcript.show();
    if (document.activeElement !== at["system-text"]) at["system-text"].value = this.conversation.system;
    at["send-label"].textContent = running ? "Stop" : "Send";
    at["send-key"].textContent = running ? "Esc" : "Enter";
    at.send.disabled = page.writing.engine === null || (choosing && !running);
    at.composer.classList.toggle("busy", running !== null);
    page.showChoosing();
    at["chat-new"].disabled = choosing || this.conversation.current === 0;
    at["chat-status"].textContent = this.statusLine();
  }

  statusLine() {
    const {running, remark, page} = this;
    if (page.writing.engine === null) return page.at.notice.hidden ? "Reading the model …" : "";
    if (running && running.tokens > 1) {
      const seconds = (performance.now() - running.startedAt) / 1000;
      return `${running.tokens} tokens · ${Math.round(running.tokens / seconds).toLocaleString("en")} tokens/s`;
    }
    return running ? "…" : remark;
  }

  /* Make the field as high as its text. */
  fit() {
    const {message} = this.at;
    message.style.height = "auto";
    message.style.height = `${message.scrollHeight}px`;
  }

  /* Scroll along with a growing answer, where its end was in the window. */
  follow(isAnyway = false) {
    const {scrollHeight} = document.documentElement, below = scrollHeight - window.innerHeight - window.scrollY;
    if (below > 0 && (isAnyway || below < FOLLOW_CHAT)) window.scrollTo(0, scrollHeight);
  }

  // --- Keys ---

  /* Return what a key does, null where it does what it always does. */
  actionOf(event) {
    const {key, shiftKey, altKey} = event, command = event.ctrlKey || event.metaKey;
    const inMessage = document.activeElement === this.at.message;
    if (key === "Escape" && this.running && !this.choosing) return () => this.stop();
    if (key === "Enter" && command && shiftKey) return () => this.again();
    // On a screen keyboard Enter begins a line, and Send has a button.
    const sends = command || (!shiftKey && !altKey && matchMedia("(hover: hover)").matches);
    if (key === "Enter" && inMessage && sends) return () => this.send();
    if (key === "ArrowUp" && inMessage && this.at.message.value === "" && !this.running) return () => this.editLast();
    if (key === "PageUp" && altKey) return () => this.choose(this.lastAnswer(), -1);
    if (key === "PageDown" && altKey) return () => this.choose(this.lastAnswer(), 1);
    const letter = command && !altKey && !shiftKey ? key.toLowerCase() : "";
    if (letter === "s") return () => saveStory(this.page);
    if (letter === "o") return () => this.at.open.click();
    return null;
  }

  editLast() {
    const {nodes} = this.conversation;
    const last = this.conversation.path().findLast((number) => nodes[number].role === USER);
    if (last !== undefined) this.transcript.edit(last);
  }

  // --- What is kept, and files ---

  keep() {
    this.keeper.writeSoon(() => this.asJson());
  }

  asJson() {
    return conversationToJson(this.conversation, {model: this.page.about, settings: this.page.writing.values});
  }

  toSave() {
    return {text: writtenMessages(this.conversation.messages()), json: () => this.asJson()};
  }

  restore() {
    const kept = this.keeper.read();
    if (kept === null) return;
    try {
      this.conversation = conversationFromJson(kept).conversation;
      this.unfoldSystem();
    } catch (error) {
      const aside = this.keeper.setAside(kept);
      this.page.tell(`The conversation kept in this browser cannot be shown. ${error.message} ${aside}`);
    }
  }

  /* Show the system prompt where there is one: it is a part of every answer. */
  unfoldSystem() {
    this.at["chat-system"].open = stripped(this.conversation.system) !== "";
  }

  /* Open the text of a file: JSON in place of all that is here, after asking, plain text as one version more. */
  async open(source, isJson) {
    this.stop();
    if (isJson) {
      const {conversation, settings} = conversationFromJson(source);
      const sentence = "The conversation here and all its versions give way to those of the file.";
      if (this.conversation.nodes.length > 1 && !await mayReplace(this.page, sentence)) return;
      this.conversation = conversation;
      if (settings !== null) this.page.useSettings(settings);
    } else {
      this.conversation.addAll(readMessages(source));
    }
    this.unfoldSystem();
    this.remark = "";
    this.changed();
  }
}
