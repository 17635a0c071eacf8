/* The page's engine where a server computes: the interface of engine.js over HTTP (folio/server/page.py).
 *
 * Defines: createServerEngine() -> engine, with what only a server has beside it:
 *   models: names, after describe(); choose(name): the model that is asked from now on
 *   copies(text, {signal}) -> {state, reason, stretches: [{from, to, words, file, line, before, source, after}], ...}
 *   prefer({prompt or messages, chosen, rejected: [text]}) -> {kept, file}: for train.py --preferences
 *   voices(text, settings, {signal}) -> [{text, name}]: which of the models that are mixed shaped each piece most
 *   runs() -> [run, ...]; log(name, after) -> [report, ...], those after a step
 *   askKey: set to a function (a sentence) -> a promise of the API key that the server demands, null for none
 *   onConnection: called with false when the server stops answering, and with true when it answers again
 */
"use strict";

const LONGEST_SENT = 250000;            // characters of a text: with the escapes of JSON below a megabyte
const SENT_STEP = 50000;                // characters by which its beginning moves, so that it stays while one types
const RETRY_MS = 2000;                  // between two looks at whether the server is back
const NO_ANSWER = "The server does not answer. Your text is kept in this browser; the page goes on when it is back.";

function createServerEngine() {
  const connection = new Connection();
  const ask = async (path, body, {signal} = {}) => (await connection.ask(path, body, signal)).json();
  const engine = {
    model: null,                        // the server's first
    models: [],
    set onConnection(listener) {
      connection.listener = listener;
    },
    set askKey(ask) {
      connection.askKey = ask;
    },
    choose(name) {
      engine.model = name;
    },
    async describe() {
      const query = engine.model === null ? "" : `?model=${encodeURIComponent(engine.model)}`;
      const {about, settings, models} = await ask(`/folio/describe${query}`).catch((error) => {
        if (error.status !== 404 || engine.model === null) throw error;
        return ask("/folio/describe");          // the run is gone: its name was kept from another day
      });
      Object.assign(engine, {models, model: about.name});
      return {about, settings};
    },
    async generate(prompt, {count = 1, settings = {}, stream = 0, signal, onPiece} = {}) {
      const {question, unsent} = sentPart(prompt);
      const body = {model: engine.model, ...question, count, stream, settings: withTexts(settings)};
      const said = Array.from({length: count}, (_, index) => ({text: "", tokens: 0, seconds: 0, ended: "aborted",
        seed: settings.sampling_seed ?? null, stream: stream + index, turns_left_out: unsent,
        window_start: 0}));
      const startedAt = performance.now();
      const take = ([index, text, bits, tokens]) => {
        const answer = said[index];
        answer.text += text;
        answer.tokens += tokens;
        answer.seconds = (performance.now() - startedAt) / 1000;
        if (text !== "") onPiece?.(index, {text, bits, tokens});
      };
      try {
        const results = await connection.stream("/folio/generate", body, signal, take);
        return results.map((result) => ({...result, turns_left_out: result.turns_left_out + unsent}));
      } catch (error) {
        if (signal?.aborted) return said;
        throw error;
      }
    },
    async surprise(text, options) {
      const {pieces} = await ask("/folio/surprise", {model: engine.model, text}, options);
      return pieces.map(([piece, bits]) => ({text: piece, bits}));
    },
    async alternatives(text, count = 10, options = {}) {
      const body = {model: engine.model, text: text.slice(sentFrom(text)), count};
      const {pieces} = await ask("/folio/alternatives", body, options);
      return pieces.map(([piece, probability]) => ({text: piece, probability}));
    },
    async view(text) {
      const from = sentFrom(text);
      const {start} = await ask("/folio/view", {model: engine.model, text: text.slice(from)});
      return from + start;
    },
    prefer({prompt, messages, chosen, rejected}) {
      const asked = messages === undefined ? {prompt: prompt.slice(sentFrom(prompt))} : {messages};
      return ask("/folio/prefer", {...asked, chosen, rejected});
    },
    copies: (text, options) => ask("/folio/copies", {model: engine.model, text}, options),
    async voices(text, settings, options) {
      const {pieces} = await ask("/folio/voices", {model: engine.model, text, settings: withTexts(settings)}, options);
      return pieces.map(([piece, name]) => ({text: piece, name}));
    },
    runs: async () => (await ask("/folio/runs")).runs,
    async log(name, after = -1) {
      const response = await connection.ask(`/folio/runs/${encodeURIComponent(name)}/log?after=${after}`);
      return (await response.text()).split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
    },
  };
  return engine;
}

/* Requests, and whether the server answers them. */
class Connection {
  constructor() {
    this.listener = null;
    this.isLost = false;
    this.askKey = null;
    this.key = keptKey();
    this._keyAsked = null;              // a promise, while a person is asked
  }

  /* Return the response to a request, a POST where it has a body; throw an Error with the sentence of a failed one. */
  async ask(path, body, signal) {
    const options = body === undefined ? {signal, headers: {}} : {signal, method: "POST", body: JSON.stringify(body),
      headers: {"Content-Type": "application/json"}};
    const key = this.key;
    if (key !== null) options.headers.Authorization = `Bearer ${key}`;
    const response = await fetch(path, options).catch((error) => this._failed(error, signal));
    this._found();
    if (response.status === 401 && this.askKey !== null) {
      const sentence = key === null ? "This server wants an API key." : "The API key is not right.";
      if (this.key === key) {           // else another request has asked meanwhile
        this._keyAsked ??= this.askKey(sentence);
        this.key = await this._keyAsked;
        this._keyAsked = null;
        keepKey(this.key);
      }
      if (this.key === null) throw new Error(`${sentence} Reload the page to enter one.`);
      return this.ask(path, body, signal);
    }
    if (!response.ok) throw Object.assign(new Error(await sentenceOf(response)), {status: response.status});
    return response;
  }

  /* Ask for answers as a stream. take: called with each piece -> the results */
  async stream(path, body, signal, take) {
    const response = await this.ask(path, body, signal);
    try {
      for await (const {pieces, result, error} of serverEvents(response.body)) {
        if (error !== undefined) throw new Refusal(error.message);
        (pieces ?? []).forEach(take);
        if (result !== undefined) return result;
      }
    } catch (error) {
      if (error instanceof Refusal) throw new Error(error.message);
      this._failed(error, signal);
    }
    throw new Error("The server ended the answer before it was complete. What there is of it stays.");
  }

  _failed(error, signal) {
    if (signal?.aborted) throw new DOMException("This was aborted.", "AbortError");
    if (!this.isLost) {
      this.isLost = true;
      this.listener?.(false);
      this._wait();
    }
    throw new Error(NO_ANSWER);
  }

  _found() {
    if (!this.isLost) return;
    this.isLost = false;
    this.listener?.(true);
  }

  /* Look from time to time whether the server is back. */
  _wait() {
    setTimeout(async () => {
      const response = await fetch("/health").catch(() => null);
      if (response?.ok) this._found();
      else if (this.isLost) this._wait();
    }, RETRY_MS);
  }
}

/* Return the API key that was typed in this tab of the browser, null for none. */
function keptKey() {
  try {
    return sessionStorage.getItem("folio:key");
  } catch (error) {
    return null;                        // the browser keeps nothing: it is asked for again
  }
}

function keepKey(key) {
  try {
    if (key === null) sessionStorage.removeItem("folio:key");
    else sessionStorage.setItem("folio:key", key);
  } catch (error) {
    // as above
  }
}

/* What the server says that it cannot do. */
class Refusal extends Error {}

/* Yield the values of server-sent events, each JSON; body: a stream of bytes, cut anywhere. */
async function* serverEvents(body) {
  const reader = body.getReader(), decoder = new TextDecoder();
  let waiting = "";
  for (;;) {
    const {done, value} = await reader.read();
    waiting += done ? decoder.decode() : decoder.decode(value, {stream: true});
    const lines = waiting.split("\n");
    waiting = done ? "" : lines.pop();
    for (const line of lines) {
      if (line.startsWith("data:")) yield JSON.parse(line.slice(5));
    }
    if (done) return;
  }
}

/* Return the sentence of a failed response. */
async function sentenceOf(response) {
  try {
    const {error} = await response.json();
    if (typeof error.message === "string") return error.message;
  } catch (error) {
    // it is none of this server's: something between has answered
  }
  return `The server answered with status ${response.status}.`;
}

/* Return {question: fields of a request, unsent: oldest turns that are not sent} of a text or a conversation. */
function sentPart(prompt) {
  if (typeof prompt === "string") return {question: {prompt: prompt.slice(sentFrom(prompt))}, unsent: 0};
  const lengthOf = (messages) => messages.reduce((sum, {content}) => sum + content.length, 0);
  let {messages} = prompt, unsent = 0;
  for (;;) {
    const fewer = lengthOf(messages) > LONGEST_SENT ? withoutOldestTurn(messages) : null;
    if (fewer === null) return {question: {messages, continues: prompt.continues ?? false}, unsent};
    messages = fewer;
    unsent += 1;
  }
}

/* Return where the part of a text begins that is sent: a model sees a few thousand characters of its end. */
function sentFrom(text) {
  if (text.length <= LONGEST_SENT) return 0;
  const from = Math.ceil((text.length - LONGEST_SENT) / SENT_STEP) * SENT_STEP;
  const code = text.charCodeAt(from);
  return code >= 0xdc00 && code <= 0xdfff ? from - 1 : from;            // not inside a surrogate pair
}

/* Return settings with large integers as texts, since JSON.stringify takes no BigInt. */
function withTexts(settings) {
  return Object.fromEntries(Object.entries(settings).map(([name, value]) =>
    [name, typeof value === "bigint" ? value.toString() : value]));
}
