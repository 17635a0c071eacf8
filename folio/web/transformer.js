/* The transformer of Model.py, for network.js: its families folio and classic, and whatever lies between them.

Letters as in network.js: C channels, D channels per head, G key/value heads, H heads, T tokens read at once, S
positions seen. */

"use strict";

class TransformerNetwork extends Network {
  constructor(params, weights, useWasm) {
    super(params, weights, useWasm);
    const { num_heads: heads, num_kv_heads: kvHeads, head_len: headLen, num_layers: layers } = params;
    this.context = params.block_size;
    this.positions = padded(this.context);
    this.headLen = padded(headLen);
    this.queryLen = heads * this.headLen;
    this.keyLen = kvHeads * this.headLen;
    this.qkvLen = this.queryLen + 2 * this.keyLen;
    this.normalize = params.norm === "rms" ? rmsNorm : layerNorm;
    this.activate = ACTIVATIONS[params.mlp];
    this.table = params.positions === "learned" ? this.matrix(["positions.table"]) : null;
    this.blocks = Array.from({ length: layers }, (_, index) => this.block(`blocks.${index}`));
    this.norm = this.normOf("norm");
    this.output = this.head();
    this.weights = null;                                                        // they are in memory now
    this.hidden = this.blocks[0].down.columns;
    this.allocateScratch();
    this.cacheLen = this.keyLen * this.positions;       // of a block: keys (G, S, D) or values (G, D, S)
    this.places = new Places(this.memory, layers * 2 * this.cacheLen);
    // Rounded to float32 as in Model.py, so that far positions turn by the same angles.
    this.speeds = Float32Array.from({ length: params.positions === "rotary" ? headLen / 2 : 0 }, (_, pair) =>
      params.rope_base ** -Math.fround(2 * pair / headLen));
    this.cos = new Float32Array(BLOCK * this.speeds.length);                    // (T, D/2)
    this.sin = new Float32Array(BLOCK * this.speeds.length);
  }

  allocateScratch() {
    const rows = (count, length) => this.memory.allocate(count * length);
    this.normedAt = rows(BLOCK, this.width);                                    // (T, C)
    this.qkvAt = rows(BLOCK, this.qkvLen);                                      // (T, H queries, G keys, G values, D)
    this.scoresAt = rows(BLOCK, this.positions);                                // (T, S), of one head
    this.mixedAt = rows(BLOCK, this.queryLen);                                  // (T, H, D)
    this.hiddenAt = rows(BLOCK, this.blocks[0].up.rows);                        // (T, hidden_len), twice with SwiGLU
    this.branchAt = rows(BLOCK, this.width);                                    // (T, C)
  }

  block(name) {
    const group = this.params.head_len;
    const up = this.params.mlp === "swiglu" ? [`${name}.mlp.gate`, `${name}.mlp.up`] : [`${name}.mlp.up`];
    return {
      attentionNorm: this.normOf(`${name}.attention_norm`),
      queryKeyValue: this.matrix(["query", "key", "value"].map((part) => `${name}.attention.${part}`),
        { rowGroup: group }),
      queryNorm: this.normOf(`${name}.attention.query_norm`),
      keyNorm: this.normOf(`${name}.attention.key_norm`),
      output: this.matrix([`${name}.attention.output`], { columnGroup: group }),
      mlpNorm: this.normOf(`${name}.mlp_norm`),
      up: this.matrix(up),
      down: this.matrix([`${name}.mlp.down`]),
    };
  }

  /** Return {weightAt, biasAt}; weightAt: null where the network has no such norm */
  normOf(name) {
    return { weightAt: this.vector(`${name}.weight`), biasAt: this.vector(`${name}.bias`) };
  }

  /** Read up to BLOCK tokens: leaves the last block's output in xAt. */
  advance(state, ids) {
    const stateAt = this.places.place(state), start = state.length, count = ids.length;
    this.embed(ids);
    if (this.table !== null) {
      this.add(this.xAt, this.table.at + start * this.width, count * this.width);
    }
    this.findAngles(start, count);
    this.blocks.forEach((block, index) => {
      this.addAttention(block, stateAt + index * 2 * this.cacheLen, start, count);
      this.addMlp(block, count);
    });
    state.length += count;
  }

  predict(first, count) {
    this.normRows(this.norm, this.xAt + first * this.width, count);
    this.linear(this.output, this.normedAt, this.width, this.logitsAt, this.output.rows, count);
  }

  /** Write the norm of `count` vectors at xAt to normedAt. */
  normRows(norm, xAt, count) {
    const { emb_len: length, norm_eps: eps } = this.params;
    for (let row = 0; row < count; row++) {
      const offset = row * this.width;
      this.normalize(this.memory.floats, xAt + offset, this.normedAt + offset, length, norm, eps);
    }
  }

  /** Add `length` numbers to others. */
  add(at, othersAt, length) {
    const floats = this.memory.floats;
    for (let index = 0; index < length; index++) {
      floats[at + index] += floats[othersAt + index];
    }
  }

  addMlp(block, count) {
    const floats = this.memory.floats, rows = block.up.rows;
    this.normRows(block.mlpNorm, this.xAt, count);
    this.linear(block.up, this.normedAt, this.width, this.hiddenAt, rows, count);
    for (let row = 0; row < count; row++) {
      this.activate(floats, this.hiddenAt + row * rows, this.hidden);
    }
    this.linear(block.down, this.hiddenAt, rows, this.branchAt, this.width, count);
    this.add(this.xAt, this.branchAt, count * this.width);
  }

  addAttention(block, cacheAt, start, count) {
    this.normRows(block.attentionNorm, this.xAt, count);
    this.linear(block.queryKeyValue, this.normedAt, this.width, this.qkvAt, this.qkvLen, count);
    for (let row = 0; row < count; row++) {
      const at = this.qkvAt + row * this.qkvLen;
      this.prepareHeads(at, this.params.num_heads, block.queryNorm, row);
      this.prepareHeads(at + this.queryLen, this.params.num_kv_heads, block.keyNorm, row);
      this.remember(at + this.queryLen, cacheAt, start + row);
    }
    for (let head = 0; head < this.params.num_heads; head++) {
      this.mix(head, cacheAt, start, count);
    }
    this.linear(block.output, this.mixedAt, this.queryLen, this.branchAt, this.width, count);
    this.add(this.xAt, this.branchAt, count * this.width);
  }

  /** Write cos and sin of the angles by which the pairs of channels turn at positions start to start + count. */
  findAngles(start, count) {
    const pairs = this.speeds.length;
    for (let row = 0; row < count; row++) {
      for (let pair = 0; pair < pairs; pair++) {
        const angle = Math.fround((start + row) * this.speeds[pair]);
        this.cos[row * pairs + pair] = Math.cos(angle);
        this.sin[row * pairs + pair] = Math.sin(angle);
      }
    }
  }

  /** Normalize and rotate the queries or keys of token `row`, in place. */
  prepareHeads(at, heads, norm, row) {
    const floats = this.memory.floats, { head_len: length, norm_eps: eps } = this.params;
    const { cos, sin, speeds: { length: half } } = this;
    for (let head = 0; head < heads; head++, at += this.headLen) {
      if (norm.weightAt !== null) {
        this.normalize(floats, at, at, length, norm, eps);
      }
      for (let pair = 0; pair < half; pair++) {
        const first = floats[at + pair], second = floats[at + half + pair];
        const c = cos[row * half + pair], s = sin[row * half + pair];
        floats[at + pair] = first * c - second * s;
        floats[at + half + pair] = second * c + first * s;
      }
    }
  }

  /** Copy a token's keys and values, (2, G, D), to the cache of a block. */
  remember(at, cacheAt, position) {
    const floats = this.memory.floats, { headLen, positions } = this;
    for (let head = 0; head < this.params.num_kv_heads; head++) {
      const from = at + head * headLen;
      floats.copyWithin(cacheAt + (head * positions + position) * headLen, from, from + headLen);
      const valuesAt = cacheAt + this.cacheLen + head * headLen * positions + position;
      for (let channel = 0; channel < headLen; channel++) {
        floats[valuesAt + channel * positions] = floats[from + this.keyLen + channel];
      }
    }
  }

  /** Write the mean of the values that each token sees, weighed by one head's query and their keys, to mixedAt. */
  mix(head, cacheAt, start, count) {
    const { headLen, positions } = this, seen = padded(start + count);
    const kvHead = Math.floor(head * this.params.num_kv_heads / this.params.num_heads);
    const keysAt = cacheAt + kvHead * positions * headLen;
    const keys = { at: keysAt, stride: headLen, rows: seen, columns: headLen };
    const values = { at: keysAt + this.cacheLen, stride: positions, rows: headLen, columns: seen };
    this.memory.multiply(keys, this.qkvAt + head * headLen, this.qkvLen, this.scoresAt, positions, count);
    for (let row = 0; row < count; row++) {
      softmax(this.memory.floats, this.scoresAt + row * positions, start + row + 1, seen, this.params.head_len ** -0.5);
    }
    this.memory.multiply(values, this.scoresAt, positions, this.mixedAt + head * headLen, this.queryLen, count);
  }
}

/** Write the softmax of `count` scaled scores over them, and zeros behind them up to `length`. */
function softmax(floats, at, count, length, scale) {
  let largest = -Infinity, sum = 0;
  for (let index = at; index < at + count; index++) {
    largest = Math.max(largest, floats[index]);
  }
  for (let index = at; index < at + count; index++) {
    sum += floats[index] = Math.exp((floats[index] - largest) * scale);
  }
  for (let index = at; index < at + count; index++) {
    floats[index] /= sum;
  }
  floats.fill(0, at + count, at + length);
}

/** Divide by the root of the mean square. from, to: offsets of `length` numbers */
function rmsNorm(floats, from, to, length, { weightAt }, eps) {
  let squares = 0;
  for (let index = 0; index < length; index++) {
    squares += floats[from + index] ** 2;
  }
  const scale = 1 / Math.sqrt(squares / length + eps);
  for (let index = 0; index < length; index++) {
    floats[to + index] = floats[from + index] * scale * floats[weightAt + index];
  }
}

/** Subtract the mean, divide by the standard deviation. from, to: offsets of `length` numbers */
function layerNorm(floats, from, to, length, { weightAt, biasAt }, eps) {
  let sum = 0, squares = 0;
  for (let index = 0; index < length; index++) {
    sum += floats[from + index];
  }
  const mean = sum / length;
  for (let index = 0; index < length; index++) {
    squares += (floats[from + index] - mean) ** 2;
  }
  const scale = 1 / Math.sqrt(squares / length + eps);
  for (let index = 0; index < length; index++) {
    const bias = biasAt === null ? 0 : floats[biasAt + index];
    floats[to + index] = (floats[from + index] - mean) * scale * floats[weightAt + index] + bias;
  }
}

// --- What an MLP does between its matrices, in place: by the names of ModelParams.mlp ---

const ACTIVATIONS = {
  /** (gate, up), `length` numbers each: silu(gate) * up replaces gate */
  swiglu(floats, at, length) {
    for (let index = at; index < at + length; index++) {
      const gate = floats[index];
      floats[index] = gate / (1 + Math.exp(-gate)) * floats[index + length];
    }
  },
  relu(floats, at, length) {
    for (let index = at; index < at + length; index++) {
      floats[index] = Math.max(0, floats[index]);
    }
  },
  relu2(floats, at, length) {
    for (let index = at; index < at + length; index++) {
      floats[index] = Math.max(0, floats[index]) ** 2;
    }
  },
  /** with tanh, as in GPT-2 */
  gelu(floats, at, length) {
    for (let index = at; index < at + length; index++) {
      const x = floats[index];
      floats[index] = 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
    }
  },
};
