/* The LSTM of folio/networks/lstm.py, for network.js. Its context has no end. */

"use strict";

class LstmNetwork extends Network {
  constructor(params, weights, useWasm) {
    super(params, weights, useWasm);
    this.context = null;
    this.hidden = padded(params.hidden_len);
    this.layers = Array.from({ length: params.num_layers }, (_, index) => this.layer(index));
    this.projection = params.tied_head ? this.matrix(["projection"]) : null;
    this.output = this.head();
    this.weights = null;                                                        // they are in memory now
    this.gatesAt = this.memory.allocate(BLOCK * 4 * this.hidden);               // (T, 4 gates)
    this.recurrentAt = this.memory.allocate(4 * this.hidden);
    this.outputsAt = this.memory.allocate(BLOCK * this.hidden);                 // (T, hidden_len), of the last layer
    this.projectedAt = this.memory.allocate(PREDICTED * this.width);
    this.places = new Places(this.memory, params.num_layers * 2 * this.hidden);    // a hidden and a cell state each
  }

  /** Return the two matrices of a layer. The first one has the sum of both biases. */
  layer(index) {
    const group = { rowGroup: this.params.hidden_len };
    return {
      input: this.matrix(["blocks"], { ...group, weight: `weight_ih_l${index}`,
        biases: [`bias_ih_l${index}`, `bias_hh_l${index}`] }),
      recurrent: this.matrix(["blocks"], { ...group, weight: `weight_hh_l${index}`, biases: ["none"] }),
    };
  }

  /** Read up to BLOCK tokens: leaves the last layer's output in outputsAt. */
  advance(state, ids) {
    const stateAt = this.places.place(state), gates = 4 * this.hidden;
    this.embed(ids);
    this.layers.forEach(({ input, recurrent }, index) => {
      const [x, width] = index ? [this.outputsAt, this.hidden] : [this.xAt, this.width];
      const hiddenAt = stateAt + index * 2 * this.hidden;
      this.linear(input, x, width, this.gatesAt, gates, ids.length);
      for (let row = 0; row < ids.length; row++) {
        this.memory.multiply(recurrent, hiddenAt, this.hidden, this.recurrentAt, gates, 1);
        this.step(this.gatesAt + row * gates, hiddenAt, this.outputsAt + row * this.hidden);
      }
    });
    state.length += ids.length;
  }

  /** Update the hidden and the cell state of a layer by its gates, and copy the hidden state to `outputAt`. */
  step(gatesAt, hiddenAt, outputAt) {
    const floats = this.memory.floats, length = this.params.hidden_len, stride = this.hidden;
    const cellAt = hiddenAt + stride;
    for (let index = 0; index < length; index++) {
      const gate = (number) => floats[gatesAt + number * stride + index]
        + floats[this.recurrentAt + number * stride + index];
      const cell = sigmoid(gate(1)) * floats[cellAt + index] + sigmoid(gate(0)) * Math.tanh(gate(2));
      floats[cellAt + index] = cell;
      floats[hiddenAt + index] = floats[outputAt + index] = sigmoid(gate(3)) * Math.tanh(cell);
    }
  }

  predict(first, count) {
    let x = this.outputsAt + first * this.hidden, width = this.hidden;
    if (this.projection !== null) {
      this.linear(this.projection, x, width, this.projectedAt, this.width, count);
      [x, width] = [this.projectedAt, this.width];
    }
    this.linear(this.output, x, width, this.logitsAt, this.output.rows, count);
  }
}

function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}
