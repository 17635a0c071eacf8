/* A conversation and all its versions. Pure: knows neither the page nor the engine.
 *
 * It is a tree of messages: another answer, or an edited message, is one more child of the same parent, so nothing is
 * ever lost. Node 0 is no message; the conversation that is shown leads from it to `current`.
 *
 * node: {parent, role: "user" | "assistant", content, children: [number], chosen: the child seen last or null,
 *        details: plain values on an answer, as its seed, or null}
 *
 * As a file: {"folio": "conversation", "version": 1, "model", "settings", "messages": those that are shown, in OpenAI's
 * form, so that other programs and the training read them, "system", "current", "versions": [{"parent", "role",
 * "content", and where it has them: "chosen", "details"}, ...]}. A file with "messages" alone is read too.
 */

const LONGEST_MESSAGE = 1e6;            // characters

class Conversation {
  constructor() {
    this.nodes = [{parent: null, role: null, content: "", children: [], chosen: null, details: null}];
    this.current = 0;
    this.system = "";                   // the system prompt
  }

  /* Return the numbers of the messages from the first one to a node. */
  path(number = this.current) {
    const path = [];
    for (let node = number; node > 0; node = this.nodes[node].parent) path.unshift(node);
    return path;
  }

  /* Return the messages up to a node, the system prompt first. */
  messages(number = this.current) {
    const said = this.path(number).map((node) => ({role: this.nodes[node].role, content: this.nodes[node].content}));
    return stripped(this.system) === "" ? said : [{role: SYSTEM, content: stripped(this.system)}, ...said];
  }

  /* Add a message after a node, and show it. -> its number */
  add(parent, role, content, details = null) {
    const number = this.nodes.length;
    this.nodes.push({parent, role, content, children: [], chosen: null, details});
    this.nodes[parent].children.push(number);
    this.go(number);
    return number;
  }

  /* Show a node, and what was seen last after it. */
  go(number) {
    this.current = number;
    for (let node = number; node > 0; node = this.nodes[node].parent) this.nodes[this.nodes[node].parent].chosen = node;
    while (this.nodes[this.current].chosen !== null) this.current = this.nodes[this.current].chosen;
  }

  /* Begin a new one; the earlier ones stay as versions of the first message. */
  restart() {
    this.current = 0;
    this.nodes[0].chosen = null;
  }

  /* Return the versions of a message. -> {index, siblings: [number]} */
  versions(number) {
    const siblings = this.nodes[this.nodes[number].parent].children.filter((one) =>
      this.nodes[one].role === this.nodes[number].role);
    return {index: siblings.indexOf(number), siblings};
  }

  /* Show another version of a message, `steps` after it. -> whether there is one */
  choose(number, steps) {
    const {index, siblings} = this.versions(number);
    if (siblings[index + steps] === undefined) return false;
    this.go(siblings[index + steps]);
    return true;
  }

  /* Show other messages, as a version of their own. */
  addAll(messages) {
    const {system, said} = systemApart(messages);
    this.restart();
    this.system = system;
    let parent = 0;
    for (const {role, content} of said) parent = this.add(parent, role, content);
  }
}

/* Return {system, said}: the system messages at the beginning as one, and the others. Throws an Error for others. */
function systemApart(messages) {
  const first = systemCount(messages), said = messages.slice(first);
  if (said.some(({role}) => role === SYSTEM)) {
    throw new Error("A system message stands in its middle; it may only begin.");
  }
  return {system: messages.slice(0, first).map(({content}) => content).join("\n\n"), said};
}

/* Return a conversation as the text of a file. extra: {model, settings} */
function conversationToJson(conversation, {model = {}, settings = {}} = {}) {
  const versions = conversation.nodes.slice(1).map(({parent, role, content, chosen, details}) =>
    ({parent, role, content, ...(chosen === null ? {} : {chosen}), ...(details === null ? {} : {details})}));
  const {system, current} = conversation;
  return JSON.stringify({folio: "conversation", version: 1, model, settings, messages: conversation.messages(), system,
    current, versions});
}

/* Return {conversation, settings: null where there are none} of the text of a file; throw an Error with one sentence
 * for what is wrong. */
function conversationFromJson(source) {
  let file;
  try {
    file = JSON.parse(source);
  } catch (error) {
    throw new Error("It is not JSON, or it was cut off.");
  }
  if (!isPlainObject(file) || (file.folio !== undefined && file.folio !== "conversation")) {
    throw new Error(file?.folio === "story" ? "It is a text: open it in the view for writing."
      : "It is JSON, but no conversation.");
  }
  const settings = isPlainObject(file.settings) ? file.settings : null;
  const conversation = new Conversation();
  if (file.folio === undefined) {
    if (!Array.isArray(file.messages) || file.messages.length === 0) {
      throw new Error("It is JSON, but no conversation.");
    }
    file.messages.forEach((message, index) => checkMessage(message, [SYSTEM, USER, ASSISTANT], index + 1));
    conversation.addAll(file.messages);
    return {conversation, settings};
  }
  if (file.version !== 1) throw new Error("A newer page saved it: this one reads version 1 of the format.");
  const {versions, system, current} = file;
  if (!Array.isArray(versions) || typeof system !== "string") throw new Error("It holds no messages.");
  readNodes(conversation, versions);
  if (!isIndex(current, conversation.nodes.length)) throw new Error("What it shows is none of its messages.");
  Object.assign(conversation, {system, current});
  conversation.nodes[0].chosen = conversation.path()[0] ?? null;
  return {conversation, settings};
}

function checkMessage(message, roles, number) {
  const {role, content} = isPlainObject(message) ? message : {};
  if (!roles.includes(role) || typeof content !== "string" || content.length > LONGEST_MESSAGE) {
    throw new Error(`Message ${number} of it is damaged: it has no known role, or no text of at most `
      + `${LONGEST_MESSAGE} characters.`);
  }
}

/* Fill in the nodes of a file. */
function readNodes(conversation, versions) {
  versions.forEach((version, index) => {
    const number = index + 1;
    checkMessage(version, [USER, ASSISTANT], number);
    const {parent, role, content, details = null} = version;
    if (!isIndex(parent, number) || (details !== null && !isDetails(details))) {
      throw new Error(`Message ${number} of it is damaged: it does not follow an earlier one.`);
    }
    conversation.nodes.push({parent, role, content, children: [], chosen: null, details});
    conversation.nodes[parent].children.push(number);
  });
  versions.forEach(({chosen = null}, index) => {
    const node = conversation.nodes[index + 1];
    if (chosen !== null && !node.children.includes(chosen)) {
      throw new Error(`Message ${index + 1} of it is damaged: what was chosen does not follow it.`);
    }
    node.chosen = chosen;
  });
}
