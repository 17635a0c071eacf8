/* The messages of the chat view as elements: bubbles of the user, plain text of the model, and what can be done with
 * each: copy, edit, again, go on, another version. */

class Transcript {
  /* list: the element of the messages; chat: a ChatView, which does what the buttons say */
  constructor(list, chat) {
    Object.assign(this, {list, chat});
    this.editing = null;                // number of the message that is edited
    this._form = null;                  // ... and its field, with what was typed so far
  }

  /* Show the conversation anew. */
  show() {
    const {conversation, running} = this.chat, path = conversation.path();
    const {activeElement} = document, focused = this.list.contains(activeElement) ? activeElement.dataset.does : null;
    const isTyping = this._form?.contains(activeElement) ?? false;
    const unseen = this._unseen(path);
    const items = path.flatMap((number) => (number === unseen ? [this._mark(), this._message(number)]
      : [this._message(number)]));
    if (running && running.number === null && !this.chat.choosing) {
      items.push(makeElement("li", "message by-assistant waiting", "…"));
    }
    this.list.replaceChildren(...items);
    this.chat.at["chat-empty"].hidden = items.length > 0;
    if (isTyping && activeElement.isConnected) activeElement.focus({preventScroll: true});
    else if (focused) (this.list.querySelector(`[data-does="${focused}"]:enabled`) ?? this.chat.at.message).focus();
  }

  /* Append to the text of a message. */
  extend(number, text) {
    this.list.querySelector(`[data-number="${number}"] .message-text`)?.append(text);
  }

  /* Return the number of the first message that the model saw at the last answer, where it did not see all. */
  _unseen(path) {
    const leftOut = this.chat.turnsLeftOut, {nodes} = this.chat.conversation;
    if (leftOut === 0) return null;
    const turns = path.filter((number, place) =>
      place === 0 || (nodes[number].role === USER && nodes[path[place - 1]].role !== USER));
    return turns[leftOut] ?? null;
  }

  _mark() {
    const mark = makeElement("li", "chat-mark");
    mark.append(makeElement("span", "", "the model sees from here"));
    return mark;
  }

  _message(number) {
    const {role, content} = this.chat.conversation.nodes[number];
    const item = makeElement("li", `message by-${role}`);
    item.dataset.number = number;
    item.append(makeElement("h2", "hidden", role === USER ? "You" : "The model"));
    if (this.editing === number) item.append(this._form);
    else item.append(makeElement("div", "message-text", content), this._tools(number));
    return item;
  }

  _tools(number) {
    const {chat} = this, node = chat.conversation.nodes[number];
    const tools = makeElement("div", "message-tools");
    if (chat.running && chat.running.number === number) return tools;
    const isBusy = chat.running !== null || chat.choosing;
    const button = (name, label, action, isEnabled = true) => {
      const made = makeElement("button", "", label);
      made.type = "button";
      made.dataset.does = `${name}-${number}`;
      made.disabled = isBusy || !isEnabled;
      made.addEventListener("click", action);
      return made;
    };
    tools.append(this._fork(number, button), button("copy", "Copy", () => this.copy(number)),
      button("edit", "Edit", () => this.edit(number)));
    const isAsked = node.parent > 0;     // else a file began with it, and there is nothing to answer
    if (node.role === ASSISTANT && isAsked) tools.append(button("again", "Again", () => chat.again(number)));
    if (node.role === ASSISTANT && number === chat.conversation.current && node.details?.ended !== "end") {
      tools.append(button("go-on", "Go on", () => chat.goOn(number)));
    }
    if (node.role === USER && number === chat.conversation.current) {
      tools.append(button("answer", "Answer", () => chat.answer(number)));
    }
    return tools;
  }

  /* Return the buttons that lead through the versions of a message; nothing where it has one. */
  _fork(number, button) {
    const {index, siblings} = this.chat.conversation.versions(number);
    if (siblings.length < 2) return "";
    const fork = makeElement("span", "fork");
    fork.setAttribute("role", "group");
    fork.setAttribute("aria-label", "Versions of this message");
    const previous = button("previous", "‹", () => this.chat.choose(number, -1), index > 0);
    const next = button("next", "›", () => this.chat.choose(number, 1), index < siblings.length - 1);
    previous.setAttribute("aria-label", "Previous version of this message");
    next.setAttribute("aria-label", "Next version of this message");
    fork.append(previous, makeElement("span", "", `${index + 1}/${siblings.length}`), next);
    return fork;
  }

  /* Put a field in the place of a message. */
  edit(number) {
    this.editing = number;
    this._form = this._editor(number, this.chat.conversation.nodes[number].content);
    this.show();
    const field = this.list.querySelector(".message-field");
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  _editor(number, content) {
    const form = makeElement("form", "message-editor"), field = makeElement("textarea", "message-field");
    const role = this.chat.conversation.nodes[number].role;
    const save = makeElement("button", "main", role === USER ? "Send" : "Keep");
    const end = makeElement("div", "panel-buttons");
    const cancel = makeElement("button", "", "Cancel");
    field.value = content;
    field.rows = Math.min(12, content.split("\n").length + 1);
    field.setAttribute("aria-label", "Edited message");
    cancel.type = "button";
    end.append(cancel, save);
    form.append(field, end);
    const close = () => {
      this.editing = this._form = null;
      this.show();
      this.chat.at.message.focus();
    };
    cancel.addEventListener("click", close);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const edited = stripped(plainLines(field.value));
      close();
      if (edited !== "" && edited !== stripped(content)) this.chat.edit(number, edited);
    });
    form.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") close();
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    return form;
  }

  async copy(number) {
    await copyText(this.chat.conversation.nodes[number].content);
    this.chat.remark = "Copied.";
    this.chat.at["chat-status"].textContent = this.chat.statusLine();
  }
}

/* Put a text on the clipboard, also where the page comes over plain HTTP, which the browser's clipboard refuses. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const focused = document.activeElement, field = makeElement("textarea", "hidden");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
  focused?.focus();
  return undefined;
}
