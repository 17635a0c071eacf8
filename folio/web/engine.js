// The page's engine: the model that came in the same file, computed in a worker. Another engine may ask a server.
//
// Defines: createWorkerEngine(workerSource, base64Model) -> engine. All that an engine has returns a promise, which is
// broken with an Error whose message is a sentence for people:
//
// - describe() -> {about, settings}: plain values on the model; [{name, help, type, default, low, high, above,
//   choices}]
// - generate(prompt, {count, settings, stream, signal, onPiece(index, {text, bits})}) -> [{text, tokens, seconds,
//   ended, seed, stream, turns_left_out, window_start}]. ended: "length", "stop", "end" or "aborted". Answer i has the
//   number stream + i of the seed settings.sampling_seed, so that the same settings, seed and number give the same text
//   again.
//   prompt: a text; or, where about.chat is true, {messages: [{role, content}], continues}, whose oldest turns are left
//   out where they do not fit; with `continues` the last message is the answer so far. window_start: tokens of the
//   prompt that the model did not see.
// - surprise(text, {signal}) -> [{text, bits}]; the pieces add up to the text
// - alternatives(text, count, {signal}) -> [{text, probability}], the likeliest first
// - view(text) -> characters (UTF-16 code units) at the beginning of the text that the model does not see
//
// An aborted signal ends generate with what has been said, the others with a DOMException named AbortError.
"use strict";

function createWorkerEngine(workerSource, base64Model) {
  const calls = new Map();              // id -> {resolve, reject, onPiece}
  let count = 0;
  const receive = ({id, pieces, result, error, aborted}) => {
    const call = calls.get(id);
    if (call === undefined) return;
    for (const [index, text, bits] of pieces ?? []) call.onPiece?.(index, {text, bits});
    if (pieces !== undefined) return;
    calls.delete(id);
    if (aborted) call.reject(new DOMException("This was aborted.", "AbortError"));
    else if (error !== undefined) call.reject(new Error(error));
    else call.resolve(result);
  };
  const fail = (error) => {
    for (const call of calls.values()) call.reject(error);
    calls.clear();
  };
  const starting = startWorker(workerSource, receive, fail).catch(() => startInPage(workerSource, receive));
  const ask = async (request, {signal, onPiece} = {}) => {
    const post = await starting, id = count++;
    const abort = () => post({id, kind: "abort"});
    const answer = new Promise((resolve, reject) => calls.set(id, {resolve, reject, onPiece}));
    post({id, ...request});
    signal?.addEventListener("abort", abort);
    if (signal?.aborted) abort();
    return answer.finally(() => signal?.removeEventListener("abort", abort));
  };
  const loading = ask({kind: "load", model: base64Model});
  loading.catch(() => {});              // whoever asks first hears of it
  const askLoaded = (request, options) => loading.then(() => ask(request, options));
  return {
    describe: () => loading,
    generate: (prompt, {count = 1, settings = {}, stream = 0, signal, onPiece} = {}) =>
      askLoaded({kind: "generate", prompt, options: {count, settings, stream}}, {signal, onPiece}),
    surprise: (text, {signal} = {}) => askLoaded({kind: "surprise", text}, {signal}),
    alternatives: (text, count = 10, {signal} = {}) => askLoaded({kind: "alternatives", text, count}, {signal}),
    view: (text) => askLoaded({kind: "view", text}),
  };
}

// Start a worker from the source of its scripts. -> a promise of the function that sends it requests
// receive: takes its answers; fail: takes an Error that ends it. The promise is broken where workers are forbidden.
function startWorker(source, receive, fail) {
  return new Promise((resolve, reject) => {
    const address = URL.createObjectURL(new Blob([source], {type: "text/javascript"}));
    const worker = new Worker(address);
    worker.onmessage = () => {          // it has started
      URL.revokeObjectURL(address);
      worker.onmessage = ({data}) => receive(data);
      worker.onerror = ({message}) => fail(new Error(`The model has stopped (${message}). Reload the page.`));
      resolve((request) => worker.postMessage(request));
    };
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error("no worker"));
    };
  });
}

// The same in the page itself, which answers between two pieces of work.
function startInPage(source, receive) {
  const script = document.createElement("script");
  script.textContent = `window.startModelServer = (post) => {\n${source}\nreturn new ModelServer(post);\n};`;
  document.head.append(script);
  script.remove();
  if (!window.startModelServer) throw new Error("This browser cannot run the model: take a newer one.");
  const server = window.startModelServer((answer) => queueMicrotask(() => receive(answer)));
  return (request) => server.receive(request);
}
