/* The page: buttons, keys, panels and messages around a Writing. Begins by startPage(engine).
 *
 * The engine computes; this page knows nothing else of it. Every call returns a promise:
 *   describe() -> {about: {name, parameters, bits_per_byte, context, chat, ...}, settings: as settings.js has them}
 *   generate(prompt, {count, settings, signal, onPiece(index, {text, bits})})
 *     -> [{text, tokens, seconds, ended: "length" | "stop" | "end" | "aborted"}], `count` answers side by side; in
 *     place of a prompt {messages: [{role, content}], continues}, where about.chat is true
 *   surprise(text) -> [{text, bits}], which add up to the text
 *   alternatives(text, count) -> [{text, probability}]: what may follow, the likeliest first
 *   view(text) -> number of characters at the beginning that the model does not see any more
 *
 * Files, in this order: story, story_file, settings, sheet, surprise, colors, answers, alternatives, keeping, writing,
 * panels, messages, conversation, transcript, chat, page.
 */

const COUNT_DELAY_MS = 150;             // after a change
const FOLLOW_MARGIN = 56;               // pixels between a growing answer and the bar below it

/* Open the page with an engine that may still be loading. */
function startPage(engine) {
  const page = new Page(engine);
  page.start();
  return page;
}

class Page {
  constructor(engine) {
    this.engine = engine;
    this.at = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
    this.sheet = new Sheet(this.at.text, this.at.layer);
    this.writing = new Writing(this.sheet);
    this.colors = new Colors(this.writing, this.at["view-mark"], this.at.legend);
    this.alternatives = new Alternatives(this.writing, this.at.others, this.at["others-title"], this.at["others-list"]);
    this.keeper = new Keeper(document.title, (sentence) => this.tell(sentence));
    this.about = {};
    this.view = this.keeper.read("view") || "chat";     // of a model that chats: "chat" or "writing"
    this.chat = new ChatView(this);
    this.words = 0;
    this.end = null;                    // where the growing answer ended, in pixels from the top of the document
    this.tabLeaves = false;             // after Escape, Tab moves on instead of writing
    this.kept = {};                     // settings of a story, until the engine says which there are
    this.onDescribe = () => {};         // set by whoever shows more of the engine
    this.writing.onChange = (change) => this.changed(change);
    this.writing.tell = (sentence) => this.tell(sentence);
    this.writing.say = (text) => this.say(text);
  }

  async start() {
    this.restore();
    this.listen();
    listenToPanels(this);
    listenToFiles(this);
    this.chat.start();
    this.changed();
    this.focus();
    this.at.status.textContent = "Reading the model …";
    await this.connect();
  }

  /* Ask the engine what it is, at the beginning and when it computes with another model. -> whether it answered */
  async connect() {
    try {
      const {about, settings} = await this.engine.describe();
      this.about = about;
      this.writing.settings = settings;
      const isFirst = this.writing.engine === null;
      this.writing.engine = this.engine;
      if (isFirst) this.useSettings(this.kept);
      this.describe(about);
      this.showView();
      this.onDescribe();
      this.colors.useEngine(this.engine);
      this.changed();
      return true;
    } catch (error) {
      this.at.status.textContent = "";
      this.tell(error.message);
      return false;
    }
  }

  /* Say what the model is. */
  describe({name, parameters, bits_per_byte: bits, context}) {
    this.at.name.textContent = name;
    const short = new Intl.NumberFormat("en", {notation: "compact", maximumSignificantDigits: 3});
    const facts = [parameters && `${short.format(parameters)} parameters`,
      bits && `${bits.toFixed(2)} bits per byte`,
      context ? `sees ${context.toLocaleString("en")} tokens` : "sees the whole text"];
    this.at.facts.textContent = facts.filter(Boolean).join(" · ");
  }

  // --- Views ---

  /* Whether the conversation is shown in place of the text. */
  get isChatting() {
    return this.about.chat === true && this.view === "chat";
  }

  /* Show the text or the conversation; neither, where a view of the server's takes their place. */
  showView() {
    const {at, isChatting} = this, isOther = document.body.classList.contains("shows-training");
    document.body.classList.toggle("shows-chat", isChatting);
    at.writing.hidden = isChatting || isOther;
    at.chat.hidden = !isChatting || isOther;
    at.bar.hidden = isChatting;
    at.composer.hidden = !isChatting;
    at["chat-view"].hidden = !this.about.chat || isOther;
    at["chat-view"].textContent = isChatting ? "Writing" : "Chat";
    at["chat-keys"].hidden = !this.about.chat;
    this.chat.show();
    if (!isOther && document.activeElement.offsetParent === null) this.focus();         // what had it is hidden
  }

  /* Go from writing to chat, or back. */
  switchView() {
    this.writing.stop();
    this.chat.stop();
    this.view = this.isChatting ? "writing" : "chat";
    this.keeper.write(this.view, "view");
    this.showView();
    this.focus();
    this.changed();
    if (this.isChatting) this.chat.follow(true);
  }

  focus() {
    this.at[this.isChatting ? "message" : "text"].focus({preventScroll: true});
  }

  // --- Text and state ---

  /* Show the state after a change of text or of what goes on. */
  changed({grown = false} = {}) {
    const {story, running, choosing, engine, canRetry} = this.writing;
    this.at["continue"].disabled = engine === null || (choosing && running === null);
    this.at["continue-label"].textContent = running ? "Stop" : "Continue";
    this.at["continue-key"].textContent = running ? "Esc" : "Tab";
    this.at.bar.classList.toggle("busy", running !== null);
    this.enable(this.at.retry, canRetry && !choosing);
    this.showChoosing();
    this.enable(this.at.undo, story.canUndo() && !choosing);
    this.enable(this.at.redo, story.canRedo() && !choosing);
    const fork = choosing ? null : story.fork();
    this.at.fork.hidden = fork === null;
    if (fork) {
      this.at["fork-count"].textContent = `${fork.index + 1}/${fork.siblings.length}`;
      this.enable(this.at.previous, fork.index > 0);
      this.enable(this.at.next, fork.index < fork.siblings.length - 1);
    }
    this.at.status.textContent = this.statusLine();
    this.countSoon();
    this.colors.changed();
    if (!running) this.end = null;
    else if (grown) this.follow();
    if (choosing && running) this.follow(true);
    this.keeper.writeSoon(() => this.storyAsJson());
  }

  /* While one of several answers is to be taken, nothing else may come in the place of what is shown. */
  showChoosing() {
    const isFree = !this.writing.choosing && !this.chat.choosing;
    for (const name of ["open", "versions", "chat-view"]) this.enable(this.at[name], isFree);
  }

  /* Enable or disable a button without losing the focus that it may have. */
  enable(button, isEnabled) {
    if (!isEnabled && document.activeElement === button) this.focus();
    button.disabled = !isEnabled;
  }

  statusLine() {
    const {running, speed, remark, engine} = this.writing;
    if (engine === null && !this.at.notice.hidden) return "";
    if (engine === null) return "Reading the model …";
    if (this.tabLeaves) return "Tab now leaves the text.";
    if (remark) return remark;
    if (this.sheet.text === "" && !running && matchMedia("(hover: hover)").matches) {
      return "Tab: go on · Esc: stop · Esc, then Tab: leave the text";
    }
    const parts = running ? [] : [`${this.words.toLocaleString("en")} ${this.words === 1 ? "word" : "words"}`];
    if (running && running.tokens > 1) {
      const seconds = (performance.now() - running.startedAt) / 1000;
      parts.push(`${running.tokens} tokens`, `${Math.round(running.tokens / seconds).toLocaleString("en")} tokens/s`);
    } else if (speed !== null) {
      parts.push(`${Math.round(speed).toLocaleString("en")} tokens/s`);
    }
    return parts.join(" · ");
  }

  /* Count the words a little later: in a long text that takes longer than a letter typed may. */
  countSoon() {
    clearTimeout(this.countTimer);
    this.countTimer = setTimeout(() => {
      this.words = (this.writing.story.text.match(/[\p{L}\p{N}][\p{L}\p{N}\p{M}'’-]*/gu) || []).length;
      this.at.status.textContent = this.statusLine();
    }, COUNT_DELAY_MS);
  }

  /* Scroll to the caret where it is out of the window. */
  reveal() {
    const {top, bottom} = this.sheet.rectangleAt(this.sheet.caret);
    const floor = this.at.bottom.getBoundingClientRect().top - FOLLOW_MARGIN;
    if (top < 0 || bottom > floor) window.scrollBy(0, top < 0 ? top - FOLLOW_MARGIN : bottom - floor);
  }

  /* Scroll along with a growing answer, but only where its end was in the window before; or, with several answers
   * over the text, to where they go on. */
  follow(isAnyway = false) {
    const {bottom} = this.sheet.rectangleAt(this.writing.place);
    const floor = this.at.bottom.getBoundingClientRect().top - FOLLOW_MARGIN;
    const beyond = bottom - floor, before = this.end === null ? beyond : this.end - window.scrollY - floor;
    if (beyond > 0 && (isAnyway || before < 3 * this.sheet.leading)) window.scrollBy(0, beyond);
    this.end = bottom + window.scrollY;
  }

  /* What goes wrong: one sentence above the bar, until it is dismissed. */
  tell(sentence) {
    this.at["notice-text"].textContent = sentence;
    this.at.notice.hidden = false;
  }

  /* Have a screen reader say something, when it has finished what it says. */
  say(text) {
    const line = document.createElement("p");
    line.textContent = text;
    this.at.spoken.append(line);
    while (this.at.spoken.childElementCount > 20) this.at.spoken.firstElementChild.remove();
  }

  // --- What is kept ---

  /* Return {text, json: a function} of what is shown. */
  toSave() {
    return this.isChatting ? this.chat.toSave() : {text: this.sheet.text, json: () => this.storyAsJson()};
  }

  storyAsJson() {
    const {story, values, engine} = this.writing;
    const settings = engine === null ? this.kept : values;
    return storyToJson(story, {model: this.about, settings, caret: this.sheet.caret});
  }

  restore() {
    setTheme(this, this.keeper.read("theme") || "auto");
    const kept = this.keeper.read();
    if (kept === null) return;
    try {
      this.openStory(storyFromJson(kept));
    } catch (error) {
      const aside = this.keeper.setAside(kept);
      this.tell(`The text kept in this browser cannot be shown. ${error.message} ${aside}`);
    }
  }

  openStory({story, settings, caret}) {
    this.writing.open(story, caret);
    if (this.writing.engine) this.useSettings(settings);
    else this.kept = settings;
  }

  useSettings(settings) {
    const {values, problems} = checkedSettings(this.writing.settings, settings);
    this.writing.values = values;
    if (problems.length > 0) this.tell(`Not all settings of this text can be used. ${problems.join(" ")}`);
  }

  // --- Keys and buttons ---

  goOn() {
    if (this.writing.running) this.writing.stop();
    else this.writing.goOn(this.newAnswers());
  }

  retry() {
    this.writing.retry(this.newAnswers());
  }

  choose(steps) {
    this.writing.choose(steps);
    const fork = this.writing.story.fork();
    if (fork) this.say(`Version ${fork.index + 1} of ${fork.siblings.length}.`);
  }

  newAnswers() {
    const count = Number(this.at.count.value);
    return count > 1 ? new Answers(this.at.answers, count) : null;
  }

  listen() {
    const {text} = this.at;
    const click = (id, action) => this.at[id].addEventListener("click", action);
    click("continue", () => this.goOn());
    click("retry", () => this.retry());
    click("previous", () => this.choose(-1));
    click("next", () => this.choose(1));
    click("undo", () => this.writing.undo());
    click("redo", () => this.writing.redo());
    click("notice-close", () => {
      this.at.notice.hidden = true;
      this.focus();
    });
    click("chat-view", () => this.switchView());
    for (const radio of document.querySelectorAll("input[name=colors]")) {
      radio.addEventListener("change", () => this.color(radio.value));
    }
    document.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("selectionchange", () => this.colors.changed());
    this.listenToText(text);
    this.listenToWindow();
  }

  listenToText(text) {
    text.addEventListener("beforeinput", (event) => this.beforeInput(event));
    text.addEventListener("input", () => this.writing.takeIn(performance.now()));
    text.addEventListener("paste", (event) => {
      event.preventDefault();
      this.writing.paste(event.clipboardData.getData("text/plain"), performance.now());
      this.reveal();
    });
    text.addEventListener("compositionstart", () => {
      this.writing.composing = true;
    });
    text.addEventListener("compositionend", () => this.writing.endComposition(performance.now()));
    text.addEventListener("click", () => this.clicked());
    text.addEventListener("blur", () => {
      this.tabLeaves = false;
      this.at.status.textContent = this.statusLine();
    });
  }

  listenToWindow() {
    window.addEventListener("scroll", () => this.colors.repaint(), {passive: true});
    window.addEventListener("resize", () => this.colors.repaint());
    window.addEventListener("beforeunload", (event) => {
      const isLost = (keeper, {nodes}) => keeper.hasFailed && nodes.length > 1;
      if (isLost(this.keeper, this.writing.story) || isLost(this.chat.keeper, this.chat.conversation)) {
        event.preventDefault();
      }
    });
    // A keyboard on the screen covers the bottom of the window; the bar stays above it.
    window.visualViewport?.addEventListener("resize", () => {
      const {height, scale} = window.visualViewport;
      const covered = scale === 1 ? Math.max(0, window.innerHeight - height) : 0;
      this.at.bottom.style.bottom = `${covered}px`;
    });
    window.addEventListener("pagehide", () => this.keeper.writeNow());
    document.addEventListener("visibilitychange", () => this.keeper.writeNow());
    window.addEventListener("storage", (event) => {
      if (event.key === `${this.keeper.key}:story`) {
        this.tell("This text is open in a second window too, and only what changed last is kept. Close one of them.");
      }
    });
  }

  color(mode) {
    if (!this.sheet.canColor) this.tell("This browser cannot color text: one of 2025 or later can.");
    this.colors.setMode(mode);
  }

  /* The browser's own undo would not know of versions. */
  beforeInput(event) {
    const own = {historyUndo: () => this.writing.undo(), historyRedo: () => this.writing.redo()}[event.inputType];
    if (!own) return;
    event.preventDefault();
    own();
  }

  /* With colors on, a click on a word asks for its alternatives; a selection or a click elsewhere does not. */
  clicked() {
    const {selectionStart, selectionEnd} = this.at.text;
    if (this.colors.mode === "off" || selectionStart !== selectionEnd || this.writing.choosing) return;
    if (this.colors.clicked(selectionStart)) return;
    const word = this.sheet.wordAt(selectionStart);
    if (word && word.from <= selectionStart) this.alternatives.openAt(selectionStart);
  }

  key(event) {
    if (event.isComposing || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    const action = this.isChatting ? this.chat.actionOf(event)
      : this.actionOf(event, document.activeElement === this.at.text);
    if (event.key !== "Shift") {
      this.tabLeaves = event.key === "Escape" && action === null && document.activeElement === this.at.text
        && !this.writing.choosing;      // there Escape closes the answers
      if (this.tabLeaves) this.say("Tab now leaves the text.");
      this.at.status.textContent = this.statusLine();
    }
    if (action === null) return;
    event.preventDefault();
    action();
  }

  /* Return what a key does, null where it does what it always does. */
  actionOf(event, inText) {
    const {key, shiftKey, altKey} = event;
    const command = event.ctrlKey || event.metaKey;
    const {writing} = this;
    if (this.at.others.matches(":popover-open")) return null;
    if (key === "Escape" && writing.running) return () => writing.stop();
    if (key === "Tab" && inText && !this.tabLeaves && !shiftKey && !command && !altKey) return () => this.goOnOnly();
    if (key === "Enter" && command) return shiftKey ? () => this.retry() : () => this.goOnOnly();
    if (key === "Enter" && altKey && inText) return () => this.alternatives.openAt(this.sheet.caret);
    if (key === "PageUp" && altKey) return () => this.choose(-1);
    if (key === "PageDown" && altKey) return () => this.choose(1);
    const letter = command && !altKey ? key.toLowerCase() : "";
    if (letter === "z" && inText) return () => (shiftKey ? writing.redo() : writing.undo());
    if (letter === "y" && inText) return () => writing.redo();
    if (letter === "s" && !shiftKey) return () => saveStory(this);
    if (letter === "o" && !shiftKey) return () => this.at.open.click();
    return null;
  }

  /* Tab goes on, and does nothing while an answer is being written: only Escape stops. */
  goOnOnly() {
    if (!this.writing.running) this.goOn();
  }
}
