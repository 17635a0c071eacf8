/* The model in the page: base64 of gzip of what folio/formats/page.py describes.

  const { about, params, weights, tokenizer, opening, settings, chat } = await loadModel(base64Text);

weights: {name: {shape, values}}, values a Float32Array in row-major order. The other values are the header's own. It
needs fromBase64 of kernel.js. */

"use strict";

/** Return the model in a text of base64. Rejects with an Error of one sentence where it is damaged or too new for the
 * browser. */
async function loadModel(base64Text) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser is too old for this page: it cannot unpack the model. Take one of 2023 or later.");
  }
  let bytes;
  try {
    bytes = await unpacked(fromBase64(base64Text));
  } catch (error) {
    throw damaged("its checksum is wrong", error);
  }
  const headerLength = bytes.length < 4 ? Infinity : new DataView(bytes.buffer).getUint32(0, true);
  if (4 + headerLength > bytes.length) {
    throw damaged("it has no header");
  }
  let header;
  try {
    header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + headerLength)));
  } catch (error) {
    throw damaged("its header is not JSON", error);
  }
  const { tensors, ...values } = header;
  return { ...values, weights: readTensors(tensors, bytes, 4 + headerLength) };
}

function damaged(what, cause) {
  return new Error(`The model in this page is damaged: ${what}. Copy or download the file again.`, { cause });
}

/** Unpack gzip, whose end has a checksum of all bytes. -> Uint8Array */
async function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Read the tensors [[name, type, shape]], one behind the other from `at` to the end. -> {name: {shape, values}} */
function readTensors(tensors, bytes, at) {
  const weights = {};
  for (const [name, type, shape] of tensors) {
    const count = shape.reduce((product, length) => product * length, 1);
    const length = count * TENSOR_TYPES[type].bytes + (type === "int8" ? 4 * shape[0] : 0);
    if (at + length > bytes.length) {
      throw damaged(`it ends within ${name}`);
    }
    weights[name] = { shape, values: TENSOR_TYPES[type].read(bytes.subarray(at, at + length), count, shape[0]) };
    at += length;
  }
  if (at !== bytes.length) {
    throw damaged("it goes on behind its last tensor");
  }
  return weights;
}

// --- Types of tensors: bytes per number, and how they are read ---

const TENSOR_TYPES = {
  float16: { bytes: 2, read: readFloat16 },
  float32: { bytes: 4, read: readFloat32 },
  int8: { bytes: 1, read: readInt8 },
};

/** planes: the low bytes of all numbers, then the high bytes -> Float32Array (count) */
function readFloat16(planes, count) {
  const table = float16Table(), values = new Float32Array(count);
  for (let index = 0; index < count; index++) {
    values[index] = table[planes[index] | planes[count + index] << 8];
  }
  return values;
}

let table16 = null;

/** Return the value of each of the 65,536 float16 numbers. */
function float16Table() {
  table16 ??= Float32Array.from({ length: 1 << 16 }, (_, bits) => {
    const sign = bits >> 15 ? -1 : 1, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent === 31) {
      return fraction ? NaN : sign * Infinity;
    }
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * fraction / 1024);
  });
  return table16;
}

/** planes: the four bytes of all numbers, the lowest first -> Float32Array (count) */
function readFloat32(planes, count) {
  const bits = new Uint32Array(count);
  for (let index = 0; index < count; index++) {
    bits[index] = planes[index] | planes[count + index] << 8 | planes[2 * count + index] << 16
      | planes[3 * count + index] << 24;
  }
  return new Float32Array(bits.buffer);
}

/** bytes: integers from -127 to 127, row by row, then a float32 scale for each row -> Float32Array (count) */
function readInt8(bytes, count, rows) {
  const integers = new Int8Array(bytes.buffer, bytes.byteOffset, count), columns = count / rows;
  const scales = readFloat32(bytes.subarray(count), rows), values = new Float32Array(count);
  for (let row = 0, index = 0; row < rows; row++) {
    for (const end = index + columns; index < end; index++) {
      values[index] = integers[index] * scales[row];
    }
  }
  return values;
}
