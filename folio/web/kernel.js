/* Memory for numbers, and matrix products in it: by kernel.wat where WebAssembly has vectors, else in JavaScript.

Both compute the same but for rounding: vectors add in another order. Offsets, strides and lengths count float32
numbers. All of them are multiples of LANES, so that vectors are aligned and no product has a remainder; what is longer
than a row of the matrix is filled with zeros. */

"use strict";

const LANES = 4;        // float32 numbers in a vector of WebAssembly
const PAGE = 1 << 14;   // float32 numbers in a page of its memory

// kernel.wat, compiled.
const KERNEL = `
AGFzbQEAAAABFQJgBHt7e3sBe2AJf39/f39/f39/AAMDAgABBQMBAAEHFQIGbWVtb3J5AgAIbXVsdGlwbHkAAQrIBwKVAQECeyAAIAH9DQAB
AgMQERITBAUGBxQVFhcgACAB/Q0ICQoLGBkaGwwNDg8cHR4f/eQBIQQgAiAD/Q0AAQIDEBESEwQFBgcUFRYXIAIgA/0NCAkKCxgZGhsMDQ4P
HB0eH/3kASEFIAQgBf0NAAECAwQFBgcQERITFBUWFyAEIAX9DQgJCgsMDQ4PGBkaGxwdHh/95AELrgYCC38LeyADQQJ0IQkCQANAIAJBAEwN
ASAIIQsgBCEMIAYhDQJAA0AgC0ECSA0BIAAhDiAOIAFqIQ8gDyABaiEQIBAgAWohESAMIRIgEiAFaiETIBIgCWohCv0MAAAAAAAAAAAAAAAA
AAAAACEX/QwAAAAAAAAAAAAAAAAAAAAAIRv9DAAAAAAAAAAAAAAAAAAAAAAhGP0MAAAAAAAAAAAAAAAAAAAAACEc/QwAAAAAAAAAAAAAAAAA
AAAAIRn9DAAAAAAAAAAAAAAAAAAAAAAhHf0MAAAAAAAAAAAAAAAAAAAAACEa/QwAAAAAAAAAAAAAAAAAAAAAIR4DQCAS/QAEACEUIBP9AAQA
IRUgDv0ABAAhFiAXIBYgFP3mAf3kASEXIBsgFiAV/eYB/eQBIRsgD/0ABAAhFiAYIBYgFP3mAf3kASEYIBwgFiAV/eYB/eQBIRwgEP0ABAAh
FiAZIBYgFP3mAf3kASEZIB0gFiAV/eYB/eQBIR0gEf0ABAAhFiAaIBYgFP3mAf3kASEaIB4gFiAV/eYB/eQBIR4gDkEQaiEOIA9BEGohDyAQ
QRBqIRAgEUEQaiERIBNBEGohEyASQRBqIhIgCkcNAAsgDSAXIBggGSAaEAD9CwQAIA0gB2ogGyAcIB0gHhAA/QsEACAMIAVBAXRqIQwgDSAH
QQF0aiENIAtBAmshCwwACwsgCwRAIAAhDiAOIAFqIQ8gDyABaiEQIBAgAWohESAMIRIgEiAJaiEK/QwAAAAAAAAAAAAAAAAAAAAAIRf9DAAA
AAAAAAAAAAAAAAAAAAAhGP0MAAAAAAAAAAAAAAAAAAAAACEZ/QwAAAAAAAAAAAAAAAAAAAAAIRoDQCAS/QAEACEUIBcgDv0ABAAgFP3mAf3k
ASEXIBggD/0ABAAgFP3mAf3kASEYIBkgEP0ABAAgFP3mAf3kASEZIBogEf0ABAAgFP3mAf3kASEaIA5BEGohDiAPQRBqIQ8gEEEQaiEQIBFB
EGohESASQRBqIhIgCkcNAAsgDSAXIBggGSAaEAD9CwQACyAAIAFBAnRqIQAgBkEQaiEGIAJBBGshAgwACwsLAIwCBG5hbWUBBwEABHN1bXMC
twECAAYAAWEBAWICAWMDAWQEAmFiBQJjZAEfAAZtYXRyaXgBBnN0cmlkZQIEcm93cwMHY29sdW1ucwQBeAUIeF9zdHJpZGUGAXkHCHlfc3Ry
aWRlCAVjb3VudAkFYnl0ZXMKBHN0b3ALBGxlZnQMBHhfYXQNBHlfYXQOAncwDwJ3MRACdzIRAnczEgFwEwFxFAFhFQFiFgF3FwJhMBgCYTEZ
AmEyGgJhMxsCYjAcAmIxHQJiMh4CYjMDQgEBBgAIYWxsX3Jvd3MBCWZvdXJfcm93cwIJYWxsX3BhaXJzAwt0d29fdmVjdG9ycwQHY29sdW1u
cwYHY29sdW1ucw==`;

/** Return the smallest multiple of LANES that is at least `length`. */
function padded(length) {
  return Math.ceil(length / LANES) * LANES;
}

/** Return the bytes that a text in base64 stands for. */
function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let index = 0; index < bytes.length; index++) {
    bytes[index] = binary.charCodeAt(index);
  }
  return bytes;
}

/** Memory that grows, and is never given back but as a whole. `floats` is a view of all of it: read it anew after each
 * `allocate`. */
class Memory {
  /** useWasm: whether to use WebAssembly where it is there */
  constructor(useWasm = true) {
    this.used = 0;
    this.exports = useWasm ? Memory.kernel() : null;
    this.isWasm = this.exports !== null;
    this.floats = new Float32Array(this.isWasm ? this.exports.memory.buffer : PAGE);
  }

  /** Return the exports of kernel.wat, or null where the browser has no WebAssembly, no vectors or forbids it. */
  static kernel() {
    try {
      return new WebAssembly.Instance(new WebAssembly.Module(fromBase64(KERNEL))).exports;
    } catch {
      return null;
    }
  }

  /** Return the offset of `length` zeros. Throws an Error where there is no memory for them. */
  allocate(length) {
    const offset = this.used;
    const missing = offset + padded(length) - this.floats.length;
    if (missing > 0) {
      try {
        this.grow(missing);
      } catch (error) {
        throw new Error("The browser has not enough memory for this model.", { cause: error });
      }
    }
    this.used += padded(length);
    return offset;
  }

  /** Make `floats` longer by at least `missing` numbers; those that are there keep their offsets. */
  grow(missing) {
    if (this.isWasm) {
      this.exports.memory.grow(Math.ceil(missing / PAGE));
      this.floats = new Float32Array(this.exports.memory.buffer);
      return;
    }
    const longer = new Float32Array(this.floats.length + Math.max(missing, this.floats.length >> 1));
    longer.set(this.floats);
    this.floats = longer;
  }

  /** Multiply a matrix with each of `count` vectors x: y[t][r] = sum over c of matrix[r][c] * x[t][c].
   *
   * matrix: {at, stride, rows, columns}; x, y: offsets of the first vector; xStride, yStride: to the next one */
  multiply(matrix, x, xStride, y, yStride, count) {
    if (!this.isWasm) {
      this.multiplyWithoutVectors(matrix, x, xStride, y, yStride, count);
    } else if (count) {
      this.exports.multiply(matrix.at * 4, matrix.stride * 4, matrix.rows, matrix.columns,
        x * 4, xStride * 4, y * 4, yStride * 4, count);
    }
  }

  /** Do the same in JavaScript, four rows at once, whose sums are independent of each other. */
  multiplyWithoutVectors({ at, stride, rows, columns }, x, xStride, y, yStride, count) {
    const floats = this.floats;
    for (let row = 0; row < rows; row += 4) {
      const w0 = at + row * stride, w1 = w0 + stride, w2 = w1 + stride, w3 = w2 + stride;
      for (let t = 0; t < count; t++) {
        const from = x + t * xStride;
        let sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
        for (let column = 0; column < columns; column++) {
          const value = floats[from + column];
          sum0 += floats[w0 + column] * value;
          sum1 += floats[w1 + column] * value;
          sum2 += floats[w2 + column] * value;
          sum3 += floats[w3 + column] * value;
        }
        const to = y + t * yStride + row;
        floats[to] = sum0;
        floats[to + 1] = sum1;
        floats[to + 2] = sum2;
        floats[to + 3] = sum3;
      }
    }
  }
}
