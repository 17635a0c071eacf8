/* The networks of Model.py and folio/networks/lstm.py, in JavaScript: tokens in, logits for the next token out.

  const network = createNetwork(params, weights);
  network.context, network.vocabSize         tokens that it sees (null: all), tokens in its vocabulary
  const state = network.emptyState();        before the first token of one sequence
  network.read(state, ids)                   reads on; -> logits after the last id: Float32Array (vocabulary)
  network.readAll(state, ids)                the same after each of the ids: [Float32Array]
  state.length, state.copy()                 tokens read; a state that is continued by itself

params are resolved ModelParams under Python's names. weights: {name in Python's state_dict: {shape, values}}, values a
Float32Array in row-major order; a tied head has none of its own. The kinds of networks are in transformer.js and
lstm.js, and kernel.js computes their products.

Letters: C channels (emb_len), D channels per head, G key/value heads, H heads, T tokens read at once, S positions seen;
each is padded with zeros where it is the length of a vector. A name that ends in "At" is an offset in memory.floats. */

"use strict";

const BLOCK = 32;               // tokens read at once: a row of a matrix is loaded once for all of them
const PREDICTED = 8;            // rows of logits computed at once
const MOST_PLACED = 16;         // states in memory at the same time ...
const MOST_STATE_FLOATS = 1 << 28;      // ... and their float32 numbers together: 1 GB, where the browser has it

/** Return a network. useWasm: whether to compute with WebAssembly where it is there */
function createNetwork(params, weights, useWasm = true) {
  return new (params.family === "lstm" ? LstmNetwork : TransformerNetwork)(params, weights, useWasm);
}

/** What a network has seen of one sequence. While others have the room in memory, its numbers are `saved` outside. */
class State {
  constructor(network) {
    this.network = network;
    this.length = 0;            // tokens read
    this.at = null;             // where its numbers are in memory; null: not there
    this.saved = null;          // Float32Array; null: all zeros, or in memory
  }

  /** Return a state that has seen the same and is continued by itself. */
  copy() {
    const other = new State(this.network);
    other.length = this.length;
    other.saved = this.at === null ? this.saved : this.network.places.numbersOf(this).slice();
    return other;
  }
}

/** Room in memory for the numbers of a few states. Who has waited longest makes room for another. */
class Places {
  constructor(memory, size) {
    this.memory = memory;
    this.size = size;                   // float32 numbers of a state
    this.most = Math.max(1, Math.min(MOST_PLACED, Math.floor(MOST_STATE_FLOATS / size)));
    this.owners = new Map();            // offset -> WeakRef of a state, in the order of their last use
  }

  numbersOf(state) {
    return this.memory.floats.subarray(state.at, state.at + this.size);
  }

  /** Put a state into memory, unless it is there. -> its offset */
  place(state) {
    if (state.at === null) {
      state.at = this.free();
      this.numbersOf(state).fill(0);
      if (state.saved !== null) {
        this.numbersOf(state).set(state.saved);
        state.saved = null;
      }
    }
    this.owners.delete(state.at);
    this.owners.set(state.at, new WeakRef(state));
    return state.at;
  }

  /** Return the offset of a place that no state has. */
  free() {
    for (const [at, owner] of this.owners) {
      if (owner.deref() === undefined) {
        return at;
      }
    }
    if (this.owners.size < this.most) {
      try {
        return this.memory.allocate(this.size);
      } catch (error) {
        if (this.owners.size === 0) {
          throw error;
        }
        this.most = this.owners.size;
      }
    }
    const [at, owner] = this.owners.entries().next().value;
    const state = owner.deref();
    state.saved = this.numbersOf(state).slice();
    state.at = null;
    return at;
  }
}

/** What both kinds of networks share: weights in memory, and blocks of tokens. A subclass has stateLength(),
 * advance(state, ids) for up to BLOCK ids, and predict(first, count). */
class Network {
  constructor(params, weights, useWasm) {
    this.params = params;
    this.weights = weights;
    this.vocabSize = params.vocab_size;
    this.memory = new Memory(useWasm);
    this.width = padded(params.emb_len);
    this.embedding = this.matrix(["embedding"]);
    this.xAt = this.memory.allocate(BLOCK * this.width);                    // (T, C), the residual stream
    this.logitsAt = this.memory.allocate(PREDICTED * this.embedding.rows);
  }

  emptyState() {
    return new State(this);
  }

  read(state, ids) {
    let count = 0;
    for (const block of this.blocksOf(state, ids)) {
      this.advance(state, block);
      count = block.length;
    }
    return this.predicted(count - 1, 1)[0];
  }

  readAll(state, ids) {
    const logits = [];
    for (const block of this.blocksOf(state, ids)) {
      this.advance(state, block);
      for (let first = 0; first < block.length; first += PREDICTED) {
        logits.push(...this.predicted(first, Math.min(PREDICTED, block.length - first)));
      }
    }
    return logits;
  }

  /** Return ids in blocks. Throws an Error where there are none, where one is no token, or where they do not fit. */
  blocksOf(state, ids) {
    if (!ids.length) {
      throw new Error("There are no tokens to read.");
    }
    if (this.context !== null && state.length + ids.length > this.context) {
      throw new Error(`${state.length + ids.length} tokens do not fit into a context of block_size=${this.context}.`);
    }
    const blocks = [];
    for (let first = 0; first < ids.length; first += BLOCK) {
      blocks.push(Array.from(ids.slice(first, first + BLOCK)));
    }
    const wrong = blocks.flat().find((id) => !(Number.isInteger(id) && id >= 0 && id < this.vocabSize));
    if (wrong !== undefined) {
      throw new Error(`Token id ${wrong} is outside the vocabulary, which has the ids 0 to ${this.vocabSize - 1}.`);
    }
    return blocks;
  }

  /** Return the logits of `count` tokens of the last block, from number `first` on: [Float32Array (vocabulary)] */
  predicted(first, count) {
    this.predict(first, count);
    return Array.from({ length: count }, (_, row) => {
      const at = this.logitsAt + row * this.embedding.rows;
      return this.memory.floats.slice(at, at + this.vocabSize);
    });
  }

  /** Copy the embeddings of a block of tokens to x. */
  embed(ids) {
    const floats = this.memory.floats;
    ids.forEach((id, row) => {
      const at = this.embedding.at + id * this.width;
      floats.copyWithin(this.xAt + row * this.width, at, at + this.width);
    });
  }

  // --- Weights ---

  /** Put a weight into memory and return {at, stride, rows, columns, biasAt}, one below the other where there are
   * several. biasAt: null where there is no bias.
   *
   * rowGroup, columnGroup: rows or columns that belong together, such as a head's; each group is padded by itself */
  matrix(names, { rowGroup = null, columnGroup = null, weight = "weight", biases = ["bias"] } = {}) {
    const parts = names.map((name) => this.weights[`${name}.${weight}`]);
    const columns = groupedLength(parts[0].shape[1], columnGroup);
    const rows = parts.map((part) => groupedLength(part.shape[0], rowGroup));
    const total = rows.reduce((sum, count) => sum + count, 0);
    const matrix = { at: this.memory.allocate(total * columns), stride: columns, rows: total, columns, biasAt: null };
    const hasBias = `${names[0]}.${biases[0]}` in this.weights;
    if (hasBias) {
      matrix.biasAt = this.memory.allocate(total);
    }
    let first = 0;
    parts.forEach((part, index) => {
      this.putMatrix(part, matrix.at + first * columns, columns, rowGroup, columnGroup);
      for (const bias of hasBias ? biases : []) {
        this.addVector(this.weights[`${names[index]}.${bias}`], matrix.biasAt + first, rowGroup);
      }
      first += rows[index];
    });
    return matrix;
  }

  putMatrix({ shape: [rows, columns], values }, at, stride, rowGroup, columnGroup) {
    const floats = this.memory.floats;
    for (let row = 0; row < rows; row++) {
      const to = at + grouped(row, rowGroup) * stride;
      if (columnGroup === null) {
        floats.set(values.subarray(row * columns, (row + 1) * columns), to);
        continue;
      }
      for (let column = 0; column < columns; column++) {
        floats[to + grouped(column, columnGroup)] = values[row * columns + column];
      }
    }
  }

  addVector({ values }, at, group) {
    values.forEach((value, index) => {
      this.memory.floats[at + grouped(index, group)] += value;
    });
  }

  /** Put a vector into memory. -> its offset, or null where the network has none */
  vector(name) {
    const tensor = this.weights[name];
    if (tensor === undefined) {
      return null;
    }
    const at = this.memory.allocate(tensor.values.length);
    this.memory.floats.set(tensor.values, at);
    return at;
  }

  /** Return the output matrix: the embedding itself where it is tied. */
  head() {
    if (!this.params.tied_head) {
      return this.matrix(["head"]);
    }
    const biasAt = "head.bias" in this.weights ? this.memory.allocate(this.embedding.rows) : null;
    if (biasAt !== null) {
      this.addVector(this.weights["head.bias"], biasAt, null);
    }
    return { ...this.embedding, biasAt };
  }

  /** y = matrix x + bias, for `count` vectors. */
  linear(matrix, x, xStride, y, yStride, count) {
    this.memory.multiply(matrix, x, xStride, y, yStride, count);
    if (matrix.biasAt === null) {
      return;
    }
    const floats = this.memory.floats;
    for (let row = 0; row < count; row++) {
      const at = y + row * yStride;
      for (let index = 0; index < matrix.rows; index++) {
        floats[at + index] += floats[matrix.biasAt + index];
      }
    }
  }
}

/** Return where number `index` of a vector is once each group of it is padded; group: its length, or null. */
function grouped(index, group) {
  return group === null ? index : Math.floor(index / group) * padded(group) + index % group;
}

/** Return the length of a vector once each group of it is padded. */
function groupedLength(length, group) {
  return group === null ? padded(length) : length / group * padded(group);
}
