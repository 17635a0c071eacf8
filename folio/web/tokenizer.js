// Text to token ids and back, as tokenizer.py does it: byte pair encoding, and a tokenizer of characters.
//
// Defines: makeTokenizer(values), class BpeTokenizer, class CharTokenizer, class StreamingDecoder, refuseHalfPairs.
//
// values: what Tokenizer.to_dict() returns in Python, {kind, special_tokens, pattern, merges | characters}, and in
// `expression` the split pattern's regular expression. Bytes are strings whose characters have the codes 0 to 255:
// these can be compared, joined, cut and used as keys of a Map.
//
// JavaScript's \s has U+FEFF and not U+0085, so \s is read as \p{White_Space}, which is Python's (the module regex).
// \p{L} and \p{N} are those of the browser's version of Unicode. Where a text has a letter or a number that Unicode
// has added since, that text may have other tokens than in Python.
"use strict";

// As in tokenizer.py and folio/kernels/splitting.py: tokens that end a document; code points without a safe place after
// which a text is cut anyway.
const END_TOKENS = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<EOS>", "[EOS]", "<|im_end|>"];
const LONGEST_RUN = 1 << 18;
const BEFORE_SAFE_PLACE = /\P{White_Space}(?= )|\p{L}(?=\P{L})/gu;
// Pre-tokens whose ids are remembered: about 15 MB; longer ones hardly ever repeat.
const CACHED_PRETOKENS = 1 << 16;
const CACHED_CHARACTERS = 100;
const MOST_LISTED = 10;         // unknown characters in a message
const POSITIONS = 2 ** 22;      // more than a pre-token can have bytes

// Return the tokenizer that `values` describe.
function makeTokenizer(values) {
  return values.kind === "bpe" ? new BpeTokenizer(values) : new CharTokenizer(values);
}

// What both tokenizers share. A subclass defines encode(text) -> [ids], encodePretoken(bytes) -> [ids] and
// split(text) -> [pre-tokens]; `split` is null where every character is a token.
class Tokenizer {
  // ordinaryTokens: the bytes of each token, by id; the special tokens' ids follow.
  constructor(ordinaryTokens, specialTokens) {
    this.tokenBytes = [...ordinaryTokens, ...specialTokens.map(toBytes)];
    this.vocabSize = this.tokenBytes.length;
    this.ordinaryCount = ordinaryTokens.length;
    this.specialIds = new Map(specialTokens.map((name, index) => [name, ordinaryTokens.length + index]));
    this.endOfText = this.specialIds.get(END_TOKENS.find((name) => this.specialIds.has(name))) ?? null;
  }

  // Return the text of ids; bytes that are not UTF-8 become U+FFFD.
  decode(ids) {
    return decodeUtf8(this.decodeBytes(ids));
  }

  decodeBytes(ids) {
    return ids.map((id) => this.tokenBytes[id]).join("");
  }
}

class BpeTokenizer extends Tokenizer {
  constructor(values) {
    const tokens = Array.from({length: 256}, (_, value) => String.fromCharCode(value));
    const newIds = new Map();           // left id * 2^24 + right id -> the token that they become
    for (const [left, right] of values.merges) {
      newIds.set(left * 2 ** 24 + right, tokens.length);
      tokens.push(tokens[left] + tokens[right]);
    }
    super(tokens, values.special_tokens);
    this.newIds = newIds;
    this.expression = splitExpression(values.expression);
    this.cache = new Map();
  }

  split(text) {
    return text.match(this.expression) ?? [];
  }

  // Return the ids of a text. A spelled-out special token is ordinary text. Throws an Error for half a surrogate pair.
  encode(text) {
    refuseHalfPairs(text);
    const ids = [];
    for (const part of cutRuns(text)) {
      for (const pretoken of this.split(part)) {
        for (const id of this.pretokenIds(pretoken)) ids.push(id);
      }
    }
    return ids;
  }

  pretokenIds(pretoken) {
    let ids = this.cache.get(pretoken);
    if (ids === undefined) {
      ids = this.encodePretoken(toBytes(pretoken));
      if (pretoken.length <= CACHED_CHARACTERS) {
        if (this.cache.size >= CACHED_PRETOKENS) this.cache.clear();
        this.cache.set(pretoken, ids);
      }
    }
    return ids;
  }

  // Return the ids of bytes as one pre-token: apply the merges in the order they were learned, the leftmost first.
  // A heap has the possible merges and a linked list the neighbors: n bytes take n log n steps.
  encodePretoken(bytes) {
    const ids = Array.from(bytes, (byte) => byte.charCodeAt(0));
    const end = ids.length, rightOf = ids.map((_, place) => place + 1), leftOf = ids.map((_, place) => place - 1);
    const newId = (left, right) => left < 0 || right >= end ? undefined
      : this.newIds.get(ids[left] * 2 ** 24 + ids[right]);
    const heap = new Heap();            // of id * POSITIONS + position of the left token
    const note = (left, right) => {
      const id = newId(left, right);
      if (id !== undefined) heap.push(id * POSITIONS + left);
    };
    for (let left = 0; left + 1 < end; left++) note(left, left + 1);
    while (heap.size) {
      const least = heap.pop(), left = least % POSITIONS, id = (least - left) / POSITIONS;
      const right = rightOf[left];
      if (ids[left] < 0 || newId(left, right) !== id) continue;         // merged since into another token
      ids[left] = id;
      ids[right] = -1;
      rightOf[left] = rightOf[right];
      if (rightOf[left] < end) leftOf[rightOf[left]] = left;
      note(left, rightOf[left]);
      note(leftOf[left], left);
    }
    return ids.filter((id) => id >= 0);
  }
}

class CharTokenizer extends Tokenizer {
  constructor(values) {
    super(values.characters.map(toBytes), values.special_tokens);
    this.idOf = new Map(values.characters.map((character, id) => [character, id]));
    this.split = null;
  }

  // Return the ids of a text. Throws an Error for unknown characters and for half a surrogate pair.
  encode(text) {
    refuseHalfPairs(text);
    const characters = Array.from(text), ids = characters.map((character) => this.idOf.get(character));
    if (ids.includes(undefined)) this.refuse(characters);
    return ids;
  }

  refuse(characters) {
    const unknown = [...new Set(characters.filter((character) => !this.idOf.has(character)))];
    unknown.sort((one, other) => one.codePointAt(0) - other.codePointAt(0));
    const listed = unknown.slice(0, MOST_LISTED).map((character) => {
      const code = character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      return `${quoted(character)} (U+${code})`;
    });
    const others = unknown.length > MOST_LISTED ? " and others" : "";
    throw new Error(`This character tokenizer has no token for ${listed.join(", ")}${others}; it can encode only ` +
      `the ${this.idOf.size} characters of the text it was made from.`);
  }
}

// Decode token by token into whole characters: the bytes of a character may be spread over several tokens.
class StreamingDecoder {
  // skip: number of bytes at the beginning to leave out
  constructor(tokenizer, skip = 0) {
    this.tokenizer = tokenizer;
    this.skip = skip;
    this.decoder = new TextDecoder("utf-8", {ignoreBOM: true});
  }

  // Return the text that this token completes: often a word, sometimes nothing yet.
  add(token) {
    const content = this.tokenizer.tokenBytes[token], known = this.skip;
    this.skip = Math.max(0, known - content.length);
    return this.decoder.decode(toArray(content.slice(known)), {stream: true});
  }
}

// --- Regular expressions ---

// Return the JavaScript form of a split pattern.
function splitExpression(source) {
  const names = {s: "\\p{White_Space}", S: "\\P{White_Space}"};
  return new RegExp(source.replace(/\\([^])/g, (escape, letter) => names[letter] ?? escape), "gu");
}

// Cut a text wherever LONGEST_RUN code points contain no safe place, as folio/kernels/splitting.py does; most texts
// stay in one part.
function cutRuns(text) {
  if (text.length <= LONGEST_RUN) return [text];
  const parts = [];
  let start = 0, place = 0;             // of the current part; of the last safe place or cut
  const cutTo = (limit) => {            // cut while more than LONGEST_RUN characters lie between `place` and `limit`
    for (;;) {
      const cut = afterCharacters(text, place, LONGEST_RUN, limit);
      if (cut >= limit) return;
      parts.push(text.slice(start, cut));
      start = place = cut;
    }
  };
  for (const {0: before, index} of text.matchAll(BEFORE_SAFE_PLACE)) {
    cutTo(index + before.length);
    place = index + before.length;
  }
  cutTo(text.length);
  return [...parts, text.slice(start)];
}

// Return the position `count` code points after `start`, or `limit` where that comes first.
function afterCharacters(text, start, count, limit) {
  if (limit - start <= count) return limit;
  let place = start;
  for (let left = count; left > 0 && place < limit; left--) place += text.codePointAt(place) > 0xffff ? 2 : 1;
  return Math.min(place, limit);
}

// --- Bytes ---

// Return the UTF-8 bytes of a text without halves of surrogate pairs.
function toBytes(text) {
  let bytes = "";
  for (const byte of new TextEncoder().encode(text)) bytes += String.fromCharCode(byte);
  return bytes;
}

function toArray(bytes) {
  return Uint8Array.from(bytes, (byte) => byte.charCodeAt(0));
}

// Return the text of bytes; what is not UTF-8 becomes U+FFFD.
function decodeUtf8(bytes) {
  return new TextDecoder("utf-8", {ignoreBOM: true}).decode(toArray(bytes));
}

// Throw an Error, with the position in code points, where a text has half a surrogate pair.
function refuseHalfPairs(text) {
  const place = text.search(/\p{Cs}/u);
  if (place >= 0) {
    throw new Error(`Character ${Array.from(text.slice(0, place)).length} of the text, ${quoted(text[place])}, is ` +
      "half a surrogate pair and no character; it cannot be encoded.");
  }
}

// Return a character as Python's repr shows it.
function quoted(character) {
  const short = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": '"\'"'}[character];
  if (short) return character === "'" ? short : `'${short}'`;
  const code = character.codePointAt(0), digits = code.toString(16);
  if (character === " " || !/[\p{C}\p{Z}]/u.test(character)) return `'${character}'`;
  return code < 0x100 ? `'\\x${digits.padStart(2, "0")}'`
    : code < 0x10000 ? `'\\u${digits.padStart(4, "0")}'` : `'\\U${digits.padStart(8, "0")}'`;
}

// A binary heap of numbers: the smallest comes first.
class Heap {
  constructor() {
    this.items = [];
  }

  get size() {
    return this.items.length;
  }

  push(item) {
    const items = this.items;
    let place = items.length;
    while (place > 0) {
      const parent = place - 1 >> 1;
      if (items[parent] <= item) break;
      items[place] = items[parent];
      place = parent;
    }
    items[place] = item;
  }

  pop() {
    const items = this.items, least = items[0], last = items.pop(), count = items.length;
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      if (child + 1 < count && items[child + 1] < items[child]) child++;
      if (child >= count || last <= items[child]) break;
      items[place] = items[child];
      place = child;
    }
    if (count) items[place] = last;
    return least;
  }
}
