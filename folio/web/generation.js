// Tokens one after the other: what folio/generation/decoder.py and language_model.py do in Python, without beams.
//
// Defines: class LanguageModel, and what it is made of: windowStart, class Reader, class StopFilter, class Answer,
// checkedSettings.
//
// What takes long is a generator: it yields nothing, each few milliseconds of work, so that its caller can let other
// work in or give up. The caller is worker.js.
//
// A network (network.js): context, vocabSize, emptyState(), read(state, ids) -> the logits after the last id, a
// Float32Array that stays as it is, readAll(state, ids) -> those of every position; state.copy().
"use strict";

const READ_AT_ONCE = 64;        // tokens between two yields: 15 ms with a million parameters
// Tokens in a window in which a recurrent network is measured, as in folio/evaluation/bits_per_byte.py.
const UNENDING = 4096;
const MOST_ANSWERS = 8;         // side by side: what fits on a screen
const BEYOND_DOUBLES = 2 ** 53; // integers up to here are exact

// Return where the window begins through which a network sees `length` tokens. It begins at the first token until they
// no longer fit; then the window is the last blockSize / 2 tokens and grows again. blockSize: null has no end
function windowStart(length, blockSize) {
  if (blockSize === null || length <= blockSize) return 0;
  const step = blockSize + 1 - Math.floor(blockSize / 2);
  return (Math.floor((length - blockSize - 1) / step) + 1) * step;
}

// One sequence of tokens, each read once.
class Reader {
  constructor(network) {
    this.network = network;
    this.tokens = [];
    this.start = null;          // of the window
    this.state = null;          // of the window up to the last token
    this.logits = null;         // for the token that comes next
  }

  // Read the next tokens, at least one. Throws an Error where the logits are not finite.
  * read(ids) {
    for (const id of ids) this.tokens.push(id);
    const start = windowStart(this.tokens.length, this.network.context);
    const unread = start === this.start ? ids : this.tokens.slice(start);
    if (start !== this.start) {
      this.start = start;
      this.state = this.network.emptyState();
    }
    for (let place = 0; place < unread.length; place += READ_AT_ONCE) {
      if (place) yield;
      this.logits = this.network.read(this.state, unread.slice(place, place + READ_AT_ONCE));
    }
    if (!areFinite(this.logits)) {
      throw new Error("The model's output is not finite: its weights are unusable. Train it again with a lower " +
        "learning rate.");
    }
  }

  copy() {
    const other = Object.assign(new Reader(this.network), this);
    other.tokens = this.tokens.slice();
    other.state = this.state.copy();
    return other;
  }
}

function areFinite(values) {
  let sum = 0;
  for (let place = 0; place < values.length; place++) sum += 0 * values[place];
  return sum === 0;             // NaN where one is infinite or no number
}

// Pass a streamed text on up to its first stop string; of several, the one that is complete first counts.
class StopFilter {
  constructor(stops) {
    this.stops = stops;
    this.ended = false;
    this.held = "";
  }

  // Return the text that has become certain with this piece; nothing more after a stop string.
  add(text) {
    if (this.ended) return "";
    this.held += text;
    const found = this.stops.filter((stop) => this.held.includes(stop)).map((stop) => {
      const start = this.held.indexOf(stop);
      return [start + stop.length, start];
    });
    if (found.length) {
      this.ended = true;
      found.sort((one, other) => one[0] - other[0] || one[1] - other[1]);
      return this.held.slice(0, found[0][1]);
    }
    const isBeginning = (size) => this.stops.some((stop) =>
      size < stop.length && stop.startsWith(this.held.slice(-size)));
    let heldBack = Math.min(this.held.length, Math.max(0, ...this.stops.map((stop) => stop.length - 1)));
    while (heldBack && !isBeginning(heldBack)) heldBack--;
    return this.release(this.held.length - heldBack);
  }

  // Return the text that is still held back when nothing follows.
  end() {
    return this.ended ? "" : this.release(this.held.length);
  }

  release(count) {
    const certain = this.held.slice(0, count);
    this.held = this.held.slice(count);
    return certain;
  }
}

// One of several answers to a prompt.
class Answer {
  // sequence: {settings, healing, unsaid, ends}, shared by all answers; number: tells apart the answers of a seed
  // reader: has read the prompt; first: what may come first (healing.js) where its end was taken back, or null
  // onPiece({text, bits}): takes whole characters that are certain, and the surprise of the tokens that complete them
  constructor(model, sequence, number, reader, first, onPiece) {
    Object.assign(this, {model, sequence, number, reader, first, onPiece});
    this.random = new RandomNumbers(sequence.settings.sampling_seed, number);
    this.decoder = new StreamingDecoder(model.tokenizer, sequence.healing === null ? 0 : sequence.healing.taken.length);
    this.filter = new StopFilter(sequence.settings.stop);
    this.unread = [];           // ids
    this.bits = 0;              // of the tokens whose text is not certain yet
    this.text = "";
    this.tokens = 0;            // those that begin the answer of a healed prompt count as one
    this.ended = null;          // "length", "stop", "end" or "aborted"
    this.endedAt = null;        // performance.now()
  }

  // Say the next token.
  * step() {
    if (this.unread.length) yield* this.reader.read(this.unread);
    const [ids, bits] = this.choose();
    this.unread = ids;
    this.first = null;
    const isEnd = this.sequence.ends.includes(ids.at(-1)), said = isEnd ? ids.slice(0, -1) : ids;
    if (!isEnd) {
      this.tokens++;
      this.bits += bits;
    }
    this.say(said.map((id) => this.filter.add(this.decoder.add(id))).join(""));
    if (this.filter.ended) this.finish("stop");
    else if (isEnd) this.finish("end");
    else if (this.tokens >= this.sequence.settings.tokens) this.finish("length");
  }

  // Return the ids that come next, one or those of a continuation, and what they cost the model.
  choose() {
    const {settings, unsaid} = this.sequence, chance = this.random.next();
    if (this.first !== null) {
      const number = pick(probabilities(this.first.logits, settings), chance);
      return [this.first.tokensOf(number), -this.first.plain[number] / Math.LN2];
    }
    const {logits, tokens} = this.reader;
    const shaped = hasPenalties(settings) ? penalized(logits, tokens.slice(unsaid), settings) : logits;
    const token = pick(probabilities(shaped, settings), chance);
    return [[token], natsOf(logits, token) / Math.LN2];
  }

  say(text) {
    if (!text) return;
    this.text += text;
    this.onPiece({text, bits: this.bits});
    this.bits = 0;
  }

  // End here; an incomplete character is left out.
  finish(ended) {
    this.ended = ended;
    this.endedAt = performance.now();
    this.say(this.filter.end());
  }
}

// Return the logarithm of the sum of the exponentials.
function logSumExp(logits) {
  const largest = maximum(logits);
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id] - largest);
  return largest + Math.log(sum);
}

// Return the cross-entropy of a token in nats.
function natsOf(logits, token) {
  return logSumExp(logits) - logits[token];
}

// A network and the tokenizer it was trained with.
class LanguageModel {
  // opening: ids before a text that begins from nothing; fields: the settings that there are (model_file.js)
  // chat: a ChatTemplate, or null where the model was not taught to chat
  constructor({network, tokenizer, opening, fields, chat = null}) {
    Object.assign(this, {network, tokenizer, opening, fields, chat});
    this.healer = new Healer(tokenizer);
  }

  // Return what an answer continues from: {prompt: ids, healing, unsaid, ends, turnsLeftOut}; where no token of a text
  // stays, the opening.
  after(prompt) {
    const [ids, healing] = this.healer.takeBack(prompt, this.tokenizer.encode(prompt));
    return {prompt: ids.length ? ids : this.opening, healing, unsaid: ids.length ? 0 : this.opening.length,
      ends: [this.tokenizer.endOfText], turnsLeftOut: 0};
  }

  // Return the same for a conversation. tokens: most of the answer
  answering({messages, continues = false}, tokens) {
    if (this.chat === null) throw new Error("This model continues texts and was not taught to chat.");
    const [kept, turnsLeftOut] = this.chat.fitted(messages, this.network.context, tokens, continues);
    return {prompt: this.chat.prompt(kept, continues), healing: null, unsaid: 0, ends: this.chat.ends, turnsLeftOut};
  }

  // Return `count` Answers that have said nothing yet. prompt: a text, or {messages, continues}
  // values: {setting: value}; answer i has the number stream + i; onPiece(i, {text, bits})
  * answers(prompt, {count = 1, settings: values = {}, stream = 0}, onPiece) {
    const settings = checkedSettings(values, this.fields);
    settings.sampling_seed ??= crypto.getRandomValues(new Uint32Array(1))[0];
    settings.temperature ??= 0.8;               // as GenerationParams.resolved has it
    if (!(Number.isInteger(count) && count >= 1 && count <= MOST_ANSWERS)) {
      throw new Error(`count=${count} is not a number of answers from 1 to ${MOST_ANSWERS}.`);
    }
    const begun = typeof prompt === "string" ? this.after(prompt) : this.answering(prompt, settings.tokens);
    const sequence = {...begun, settings}, reader = new Reader(this.network);
    yield* reader.read(sequence.prompt);
    const first = sequence.healing === null ? null
      : yield* continuations(reader, sequence.healing, settings, sequence.unsaid);
    return Array.from({length: count}, (_, index) => {
      const own = index === count - 1 ? reader : reader.copy();
      const answer = new Answer(this, sequence, stream + index, own, first, (piece) => onPiece(index, piece));
      if (settings.tokens === 0) answer.finish("length");
      return answer;
    });
  }

  // Let Answers say all that they have to say, in turn.
  * generate(answers) {
    for (;;) {
      const running = answers.filter((answer) => answer.ended === null);
      if (!running.length) return;
      for (const answer of running) {
        yield* answer.step();
        yield;
      }
    }
  }

  // Return what each piece of a text costs the model: [{text, bits}], in order; the pieces add up to the text. Each
  // token is predicted from at least half a context, as far as the text has it.
  * surprise(text) {
    const ids = [...this.opening.slice(-1), ...this.tokenizer.encode(text)], found = [];
    const decoder = new StreamingDecoder(this.tokenizer), blockSize = this.network.context ?? UNENDING;
    const stride = Math.max(1, Math.floor(blockSize / 2));
    let bits = 0, place = 1;
    for (let start = 0; place < ids.length; start += stride) {
      for (const nats of yield* this.costs(ids.slice(start, start + blockSize + 1), place - start)) {
        const piece = decoder.add(ids[place++]);
        bits += nats / Math.LN2;
        if (piece) {
          found.push({text: piece, bits});
          bits = 0;
        }
      }
    }
    return found;
  }

  // Return the nats of the ids of a window from the place `first` on, at least 1.
  * costs(ids, first) {
    const state = this.network.emptyState(), nats = [];
    let place = 0;
    while (place < ids.length - 1) {
      const isCounted = place >= first - 1;
      const end = Math.min(place + READ_AT_ONCE, isCounted ? ids.length - 1 : first - 1);
      const read = ids.slice(place, end);
      if (isCounted) {
        this.network.readAll(state, read).forEach((logits, index) => nats.push(natsOf(logits, ids[place + index + 1])));
      } else {
        this.network.read(state, read);
      }
      place = end;
      yield;
    }
    return nats;
  }

  // Return the likeliest pieces that may follow a text: [{text, probability}], in falling order.
  * alternatives(text, count = 10) {
    const {prompt, healing} = this.after(text), reader = new Reader(this.network);
    yield* reader.read(prompt);
    const plain = {repetition_penalty: 1, frequency_penalty: 0, no_repeat_ngram: null};
    const logits = healing === null ? reader.logits : (yield* continuations(reader, healing, plain, 0)).logits;
    const all = logSumExp(logits), pieces = [...this.tokenizer.tokenBytes, ...healing?.others ?? []];
    const falling = logits.slice().sort().reverse(), size = Math.min(count, logits.length);
    return likeliest(logits, size, falling[size - 1]).map((id) => ({
      text: decodeUtf8(pieces[id]), probability: Math.exp(logits[id] - all),
    }));
  }

  // Return the number of characters (UTF-16 code units) at the beginning of a text that the network does not see when
  // it continues the text.
  view(text) {
    const ids = this.tokenizer.encode(text), start = windowStart(ids.length, this.network.context);
    const before = toArray(this.tokenizer.decodeBytes(ids.slice(0, start)));
    const seen = new TextDecoder("utf-8", {ignoreBOM: true}).decode(before, {stream: true});
    const isCut = new TextEncoder().encode(seen).length < before.length;        // inside a character: it counts too
    return seen.length + (isCut ? String.fromCodePoint(text.codePointAt(seen.length)).length : 0);
  }
}

// --- Settings ---

// Return the settings with every default filled in. Throws an Error, in the sentences of run.py, for what is wrong.
// values: {name: value}; `stop` may be one text; fields: [{name, help, type, default, low, high, above, choices}]
function checkedSettings(values, fields) {
  const known = new Map(fields.map((field) => [field.name, field])), problems = [];
  const given = Object.entries(values).filter(([, value]) => value !== undefined);
  for (const [name] of given) {
    if (!known.has(name)) problems.push(`There is no setting ${name}; there are ${[...known.keys()].join(", ")}.`);
  }
  const settings = Object.fromEntries(fields.map((field) => [field.name, field.default]).concat(given));
  if (typeof settings.stop === "string") settings.stop = [settings.stop];
  for (const field of fields) problems.push(...fieldProblems(field, settings[field.name]));
  if (!problems.length && settings.stop.includes("")) {
    problems.push("A stop string is empty, and every text begins with that: leave it out, or say where to stop.");
  }
  if (!problems.length && settings.stop.some((stop) => /\p{Cs}/u.test(stop))) {
    problems.push("A stop string has half a surrogate pair, or a byte that is not UTF-8: give whole characters.");
  }
  if (problems.length) throw new Error(problems.join("\n"));
  return settings;
}

// Return a sentence for everything that is wrong with a setting's value: folio/base/fields.py in JavaScript.
function fieldProblems(field, value) {
  if (field.type !== "texts") return value === null && usualOf(field) !== null ? [] : valueProblems(field, value);
  return Array.isArray(value) ? value.flatMap((item) => valueProblems(field, item))
    : [`${field.name}=${shown(value)} should be a list.`];
}

// Return the default of a setting that may be left out, as its help names it, or null.
function usualOf({help}) {
  return help.match(/\(default: (.*)\)$/)?.[1] ?? null;
}

function valueProblems(field, value) {
  const {name, type, low, high, above, choices} = field, usual = usualOf(field);
  const kind = type === "texts" ? "str" : type;
  const isInteger = Number.isInteger(value) || typeof value === "bigint";
  const isOfKind = {int: isInteger, float: typeof value === "number", str: typeof value === "string"}[kind];
  if (choices?.length && !choices.includes(value)) {
    return [`${name}=${shown(value)} is not one of ${choices.join(", ")}.`];
  }
  if (!isOfKind) return [`${name}=${shown(value)} should be of type ${kind}.`];
  if (kind === "float" && !Number.isFinite(value)) return [`${name}=${value} is not a finite number.`];
  const problem = kind === "str" ? null : boundsProblem(value, low ?? null, above ?? null, exact(high ?? null));
  if (problem === null) return [];
  return [`${name}=${problem}${usual === null ? "" : ` Leave it out for the default: ${usual}.`}`];
}

function boundsProblem(value, low, above, high) {
  if (low !== null && value < low) return `${value} is below the smallest value possible, ${low}.`;
  if (above !== null && value <= above) return `${value} must be above ${above}.`;
  return high !== null && value > high ? `${value} is above the largest value possible, ${high}.` : null;
}

// Return a bound; 2^63 - 1, which JSON rounds up in JavaScript, as a BigInt.
function exact(high) {
  return high > BEYOND_DOUBLES ? BigInt(high) - 1n : high;
}

// Return a value as Python's repr shows it.
function shown(value) {
  const names = {null: "None", true: "True", false: "False"};
  return typeof value === "string" ? `'${value}'` : names[value] ?? String(value);
}
