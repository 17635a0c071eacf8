/* How much each part of the text surprises the model, measured block by block and only where a person looks.
 *
 * A block is 1,200 to 2,400 characters that end at a line where possible. Each is measured with up to 800 characters
 * before it as context, and remembered by its text and context: an edit costs the blocks that it changes.
 */

const SHORTEST_BLOCK = 1200;
const LONGEST_BLOCK = 2400;             // some 800 tokens, a fraction of a second
const CONTEXT_CHARACTERS = 800;
const MOST_BLOCKS = 200;                // remembered; the oldest are forgotten
// Bits from which a piece is painted, in levels: the model gave it 1 chance in 4, 16, 128 and 1,024.
const SURPRISE_LEVELS = [2, 4, 7, 10];

/* Return the level of a surprise, 0 for none. */
function surpriseLevel(bits) {
  return SURPRISE_LEVELS.filter((threshold) => bits >= threshold).length;
}

/* Return the blocks of a text as [[from, to], ...]. */
function surpriseBlocks(text) {
  const blocks = [];
  for (let from = 0; from < text.length;) {
    const newline = text.indexOf("\n", from + SHORTEST_BLOCK);
    let to = newline === -1 ? text.length : newline + 1;
    if (to - from > LONGEST_BLOCK) to = cutBetweenCharacters(text, from + LONGEST_BLOCK);
    blocks.push([from, to]);
    from = to;
  }
  return blocks;
}

/* Return a position, or the one before it where it would cut a surrogate pair. */
function cutBetweenCharacters(text, position) {
  const code = text.charCodeAt(position);
  return code >= 0xdc00 && code <= 0xdfff ? position - 1 : position;
}

class Surprise {
  constructor(engine) {
    this.engine = engine;
    this.known = new Map();             // context and block -> [{from, to, bits}] in the block
    this._measuring = null;
  }

  _keyOf(text, [from, to]) {
    const begin = cutBetweenCharacters(text, Math.max(0, from - CONTEXT_CHARACTERS));
    const [context, block] = [text.slice(begin, from), text.slice(from, to)];
    return {key: `${context.length}:${context}${block}`, context, block};
  }

  /* Return what is known between two positions: {pieces: [{from, to, bits}], missing: number of blocks}. */
  between(text, from, to) {
    const pieces = [];
    let missing = 0;
    for (const block of surpriseBlocks(text).filter(([begin, end]) => begin < to && end > from)) {
      const known = this.known.get(this._keyOf(text, block).key);
      if (!known) missing += 1;
      for (const piece of known || []) {
        pieces.push({from: block[0] + piece.from, to: block[0] + piece.to, bits: piece.bits});
      }
    }
    return {pieces, missing};
  }

  /* Return what is known of the whole text: {bits, bytes: in UTF-8, share: of the characters, 0 to 1}. */
  average(text) {
    const encoder = new TextEncoder();
    let [bits, bytes, characters] = [0, 0, 0];
    for (const block of surpriseBlocks(text)) {
      const known = this.known.get(this._keyOf(text, block).key);
      if (!known) continue;
      bits += known.reduce((sum, piece) => sum + piece.bits, 0);
      bytes += encoder.encode(text.slice(...block)).length;
      characters += block[1] - block[0];
    }
    return {bits, bytes, share: text === "" ? 1 : characters / text.length};
  }

  /* Measure the first unknown block between two positions. -> a promise of whether there was one */
  async measureNext(text, from, to) {
    for (const block of surpriseBlocks(text).filter(([begin, end]) => begin < to && end > from)) {
      const {key, context, block: words} = this._keyOf(text, block);
      if (this.known.has(key)) continue;
      const pieces = [];
      let position = -context.length;
      for (const {text: piece, bits} of await this.engine.surprise(context + words)) {
        const end = position + piece.length;
        if (end > 0) pieces.push({from: Math.max(0, position), to: end, bits});
        position = end;
      }
      this.known.set(key, pieces);
      if (this.known.size > MOST_BLOCKS) this.known.delete(this.known.keys().next().value);
      return true;
    }
    return false;
  }
}
