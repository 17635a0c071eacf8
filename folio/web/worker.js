// The model's side of the page's engine: answers the requests of engine.js, in a worker, or in the page itself.
//
// Defines: class ModelServer. In a worker it starts at once.
//
// Requests are {id, kind, ...}: load {model: base64}, generate {prompt (a text, or {messages, continues}), options},
// surprise {text}, alternatives {text, count}, view {text}, abort (with the id of what is to end). To each but abort
// come {id, result} or {id, error: a sentence} or {id, aborted: true}, and to generate before that any number of {id,
// pieces: [[index, text, bits]]}.
"use strict";

const BUSY_MILLISECONDS = 8;            // of work between two looks at the requests that have come in

class ModelServer {
  // post: a function that sends an answer
  constructor(post) {
    this.post = post;
    this.running = new Set();           // ids of requests
    this.model = null;                  // a promise, from the first request on
    this.pause = pauses();
  }

  async receive(request) {
    const {id, kind} = request;
    if (kind === "abort") {
      this.running.delete(id);
      return;
    }
    this.running.add(id);
    try {
      if (kind === "load") this.model = openModel(request.model);
      const result = await this[kind](await this.model, request);
      this.post(result === undefined ? {id, aborted: true} : {id, result});
    } catch (error) {
      this.post({id, error: error.message});
    } finally {
      this.running.delete(id);
    }
  }

  load({about, fields}) {
    return {about, settings: fields};
  }

  async generate(model, {id, prompt, options}) {
    const started = performance.now(), pieces = [];
    const flush = () => {
      if (pieces.length) this.post({id, pieces: pieces.splice(0)});
    };
    const onPiece = (index, {text, bits}) => pieces.push([index, text, bits]);
    const answers = await this.run(id, model.answers(prompt, options, onPiece), flush);
    if (answers === undefined) {        // aborted before the first token
      const nothing = {text: "", tokens: 0, seconds: (performance.now() - started) / 1000, ended: "aborted",
        turns_left_out: 0, window_start: 0};
      return Array.from({length: options.count ?? 1}, () => ({...nothing}));
    }
    await this.run(id, model.generate(answers), flush);
    for (const answer of answers) if (answer.ended === null) answer.finish("aborted");
    flush();
    return answers.map(({text, tokens, endedAt, ended, number, sequence}) => ({
      text, tokens, seconds: (endedAt - started) / 1000, ended, seed: sequence.settings.sampling_seed, stream: number,
      turns_left_out: sequence.turnsLeftOut, window_start: windowStart(sequence.prompt.length, model.network.context),
    }));
  }

  surprise(model, {id, text}) {
    return this.run(id, model.surprise(text));
  }

  alternatives(model, {id, text, count}) {
    return this.run(id, model.alternatives(text, count));
  }

  view(model, {text}) {
    return model.view(text);
  }

  // Return what a generator returns, or undefined where its request was aborted. onPause: called before each pause
  async run(id, work, onPause = () => {}) {
    let since = performance.now();
    for (;;) {
      const {done, value} = work.next();
      if (done) return value;
      if (performance.now() - since < BUSY_MILLISECONDS) continue;
      onPause();
      await this.pause();
      if (!this.running.has(id)) return undefined;
      since = performance.now();
    }
  }
}

// Return the LanguageModel in a base64 text, with `about`: plain values for people.
async function openModel(base64) {
  const {about, params, weights, tokenizer: values, opening, settings, chat = null} = await loadModel(base64);
  const network = createNetwork(params, weights), tokenizer = makeTokenizer(values);
  const template = chat === null ? null : new ChatTemplate(chat, tokenizer);
  const model = new LanguageModel({network, tokenizer, opening, fields: settings, chat: template});
  return Object.assign(model, {about: {...about, context: network.context, chat: template !== null}});
}

// Return a function whose promise is kept as soon as what waits has had its turn: setTimeout would take 4 ms or more.
function pauses() {
  const channel = new MessageChannel(), waiting = [];
  channel.port1.onmessage = () => waiting.shift()();
  return () => new Promise((resolve) => {
    waiting.push(resolve);
    channel.port2.postMessage(null);
  });
}

if (typeof importScripts === "function") {              // in a worker
  const server = new ModelServer((answer) => postMessage(answer));
  onmessage = ({data}) => server.receive(data);
  postMessage({started: true});
}
