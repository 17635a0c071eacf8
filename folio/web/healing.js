// Token healing, as folio/generation/healing.py does it: continue a prompt from its bytes, whatever tokens its end
// would have in a longer text. That module explains how far back tokens are taken, and what takes their place.
//
// Defines: class Healer, continuations(reader, healing, settings, unsaid).
//
// A healing is {taken, covers, others}: the bytes at the end of a prompt that were taken back; [{path, tokens,
// numbers}], the covers that share one path of ids: the ids that cross the end (null: any, after a path of all bytes
// taken back) and for each of them the number of its continuation, an id or vocabSize + a place in `others`; byte
// strings that continuations add and that are no token.
"use strict";

const MOST_TAKEN_BACK = 64;                     // bytes: longer than nearly every token
const SPLIT_LEN = 4 * MOST_TAKEN_BACK;          // characters at the end of a prompt that are split
// Nothing, a letter, white space: after each, the white space before it is split in another way.
const FOLLOWING = ["", "x", "\n"];

// Take back the ends of prompts. Make one for each tokenizer.
class Healer {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    const tokens = tokenizer.tokenBytes;
    this.ids = Array.from({length: tokenizer.ordinaryCount}, (_, id) => id);
    this.ids.sort((one, other) => tokens[one] < tokens[other] ? -1 : tokens[one] > tokens[other] ? 1 : one - other);
    this.contents = this.ids.map((id) => tokens[id]);
    this.idOf = new Map(this.ids.map((id) => [tokens[id], id]));
  }

  // Return [the ids that stay, a healing], or [ids, null] where no longer text gives the end other tokens.
  // ids: the prompt's tokens
  takeBack(prompt, ids) {
    if (this.tokenizer.split === null || !ids.length) return [ids, null];
    const end = Array.from(prompt.slice(-2 * SPLIT_LEN)).slice(-SPLIT_LEN).join("");
    const ways = this.waysToSplit(end), whole = ways[0].join(""), sizeOf = (id) => this.tokenizer.tokenBytes[id].length;
    let taken = 0, count = 0;                   // bytes, tokens
    while (count < ids.length) {
      const size = sizeOf(ids[ids.length - 1 - count]);
      if (taken === whole.length || taken + size > MOST_TAKEN_BACK) break;
      taken += size;
      count++;
    }
    const cut = whole.length - taken, paths = this.paths(whole.slice(cut), ways.map((way) => withoutFirst(way, cut)));
    let alike = 0;                              // tokens with which all paths begin: they stay
    while (paths.every((path) => path.length > alike && path[alike] === paths[0][alike])) alike++;
    if (paths.every((path) => path.length === alike)) return [ids, null];
    const stays = paths[0].slice(0, alike), kept = stays.reduce((sum, id) => sum + sizeOf(id), 0);
    const healing = this.healing(whole.slice(cut + kept), paths.map((path) => path.slice(alike)));
    return [[...ids.slice(0, ids.length - count), ...stays], healing];
  }

  // Return all ways to split the end of a text that more text can change: lists of pre-tokens, bytes.
  waysToSplit(text) {
    const pieces = this.tokenizer.split(text), blank = text.search(/\p{White_Space}*$/u), ways = new Map();
    let start = text.length;
    while (pieces.length && (start === text.length || start - pieces.at(-1).length >= blank)) {
      start -= pieces.pop().length;
    }
    for (const more of FOLLOWING) {
      const way = [];
      let place = 0;
      for (const piece of this.tokenizer.split(text + more)) {
        const own = piece.slice(Math.max(0, start - place), Math.max(0, text.length - place));
        if (own) way.push(toBytes(own));
        place += piece.length;
      }
      ways.set(JSON.stringify(way), way);
    }
    return [...ways.values()];
  }

  // Return the paths to all places of `end` from which a token crosses it. ways: lists of its pre-tokens
  paths(end, ways) {
    const paths = new Map();
    for (let place = 0; place <= end.length; place++) {
      if (place < end.length && !this.crossing(end.slice(place)).length) continue;
      for (const way of ways) {
        const path = firstBytes(way, place).flatMap((piece) => this.tokenizer.encodePretoken(piece));
        if (!paths.has(path.join())) paths.set(path.join(), path);
      }
    }
    return [...paths.values()];
  }

  // Return the ids of all ordinary tokens that begin with `rest`, at least one byte, and are longer.
  crossing(rest) {
    const first = firstPlace(this.contents, 0, (content) => content > rest);
    return this.ids.slice(first, firstPlace(this.contents, first, (content) => !content.startsWith(rest)));
  }

  healing(end, paths) {
    const others = new Map(), tokenBytes = this.tokenizer.tokenBytes;
    const numberOf = (added) => {
      if (this.idOf.has(added)) return this.idOf.get(added);
      if (!others.has(added)) others.set(added, others.size);
      return this.tokenizer.vocabSize + others.get(added);
    };
    const covers = paths.map((path) => {
      const rest = end.slice(this.tokenizer.decodeBytes(path).length);
      if (!rest) return {path, tokens: null, numbers: null};
      const tokens = this.crossing(rest);
      return {path, tokens, numbers: tokens.map((token) => numberOf(tokenBytes[token].slice(rest.length)))};
    });
    return {taken: end, covers, others: [...others.keys()]};
  }
}

// Return byte strings without the first `count` bytes of all together.
function withoutFirst(pieces, count) {
  const kept = [];
  for (const piece of pieces) {
    kept.push(piece.slice(count));
    count = Math.max(0, count - piece.length);
  }
  return kept.filter((piece) => piece);
}

// Return the first `count` bytes of byte strings.
function firstBytes(pieces, count) {
  const kept = [];
  for (const piece of pieces) {
    kept.push(piece.slice(0, count));
    count = Math.max(0, count - piece.length);
  }
  return kept.filter((piece) => piece);
}

// Return the first place from `low` on where `isBeyond`, which is true for all items after some place, is true.
function firstPlace(items, low, isBeyond) {
  let high = items.length;
  while (low < high) {
    const middle = low + high >> 1;
    if (isBeyond(items[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
}

// Compute what may come first after a prompt whose end was taken back. -> {logits, plain, tokensOf(number)}
//
// logits: (continuations,), a Float64Array of log-probabilities in nats; plain: the same without penalties; tokensOf:
// the ids of a continuation, those of the bytes taken back included.
// reader: a Reader (generation.js) that has read the rest of the prompt; it is not changed
// settings: their penalties apply to the tokens that cross the end, and to no other
// unsaid: leading ids of the reader that penalties skip
function* continuations(reader, healing, settings, unsaid) {
  const after = yield* logitsAfter(reader, healing.covers.map((cover) => cover.path));
  const likely = new Map(Array.from(after, ([path, logits]) => [path, logSoftmax(logits)]));
  const covers = healing.covers.map(({path, tokens, numbers}) => ({
    path, tokens, numbers,
    before: path.reduce((sum, id, step) => sum + likely.get(path.slice(0, step).join())[id], 0),
    plain: likely.get(path.join()),
  }));
  const size = reader.logits.length + healing.others.length, plain = sumOfCovers(covers, size);
  if (!hasPenalties(settings)) return {...plain, plain: plain.logits};
  const said = reader.tokens.slice(unsaid);
  const shaped = sumOfCovers(covers.map((cover) => {
    const logits = penalized(after.get(cover.path.join()), [...said, ...cover.path], settings);
    return {...cover, plain: logSoftmax(logits)};
  }), size);
  // Where penalties exclude all, do without them.
  return {...(shaped.logits.some(Number.isFinite) ? shaped : plain), plain: plain.logits};
}

// Add up the probabilities of the covers that make the same continuation; remember the likeliest.
// covers: [{path, tokens, numbers, before: nats of the path, plain: log-probabilities after it}]
function sumOfCovers(covers, size) {
  const total = new Float64Array(size).fill(-Infinity), best = total.slice();
  const bestCover = new Int32Array(size), bestToken = new Int32Array(size);
  for (const [index, {tokens, numbers, before, plain}] of covers.entries()) {
    const count = tokens === null ? plain.length : tokens.length;
    for (let place = 0; place < count; place++) {
      const token = tokens === null ? place : tokens[place], number = tokens === null ? place : numbers[place];
      const value = plain[token] + before;
      total[number] = logAddExp(total[number], value);
      if (value > best[number]) {
        best[number] = value;
        bestCover[number] = index;
        bestToken[number] = token;
      }
    }
  }
  return {logits: logSoftmax(total), tokensOf: (number) => [...covers[bestCover[number]].path, bestToken[number]]};
}

function logAddExp(one, other) {
  const larger = Math.max(one, other);
  return larger === -Infinity ? larger : larger + Math.log1p(Math.exp(-Math.abs(one - other)));
}

// Return a Map from each path, its ids joined by commas, and each of its prefixes to the logits after it.
// reader: has read `prefix`, with which all paths begin
function* logitsAfter(reader, paths, prefix = [], found = new Map()) {
  found.set(prefix.join(), reader.logits);
  const longer = paths.filter((path) => path.length > prefix.length);
  for (const id of new Set(longer.map((path) => path[prefix.length]))) {
    const branch = reader.copy();
    yield* branch.read([id]);
    yield* logitsAfter(branch, longer.filter((path) => path[prefix.length] === id), [...prefix, id], found);
  }
  return found;
}
