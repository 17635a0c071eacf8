// The random numbers of numpy's default_rng, so that the same seed gives the same text as in Python.
//
// Defines: class RandomNumbers.
//
// SeedSequence (O'Neill, 2015, as numpy has it) mixes a seed into 128 bits of state and 128 bits of increment; PCG64
// XSL-RR (O'Neill, 2014) makes the numbers. numpy/random/bit_generator.pyx and src/pcg64/pcg64.h are the sources of
// the constants.
"use strict";

class RandomNumbers {
  // seed, number: integers from 0 on (number, BigInt or digits), as in numpy.random.default_rng((seed, number))
  constructor(seed, number = 0) {
    const words = new Uint32Array(seedState([...asWords(seed), ...asWords(number)], 8));
    const [stateHigh, stateLow, incrementHigh, incrementLow] = [0, 2, 4, 6].map(
      (place) => BigInt(words[place]) | BigInt(words[place + 1]) << 32n);
    this.increment = BigInt.asUintN(128, (incrementHigh << 64n | incrementLow) << 1n | 1n);
    this.state = BigInt.asUintN(128, this.increment + (stateHigh << 64n | stateLow));
    this.advance();
  }

  advance() {
    this.state = BigInt.asUintN(128, this.state * 0x2360ed051fc65da44385df649fccf645n + this.increment);
  }

  // Return the next number, at least 0 and below 1: 53 random bits.
  next() {
    this.advance();
    const mixed = BigInt.asUintN(64, this.state >> 64n ^ this.state);
    const turns = this.state >> 122n;
    const rotated = BigInt.asUintN(64, mixed >> turns | mixed << (64n - turns));
    return Number(rotated >> 11n) / 2 ** 53;
  }
}

// Return an integer's 32-bit words, the lowest first; at least one.
function asWords(value) {
  const words = [];
  let rest = BigInt(value);
  do {
    words.push(Number(rest & 0xffffffffn));
    rest >>= 32n;
  } while (rest > 0n);
  return words;
}

// Return a function that hashes one 32-bit word after another, each with another constant.
function wordHash(constant, multiplier) {
  return (word) => {
    const crossed = word ^ constant;
    constant = Math.imul(constant, multiplier);
    const product = Math.imul(crossed, constant);
    return (product ^ product >>> 16) >>> 0;
  };
}

// SeedSequence(entropy).generate_state(count): entropy, a list of 32-bit words -> `count` 32-bit words
function seedState(entropy, count) {
  const hashed = wordHash(0x43b0d7e5, 0x931e8875);
  const mixed = (one, other) => {
    const difference = Math.imul(0xca01f9dd, one) - Math.imul(0x4973f715, other) | 0;
    return (difference ^ difference >>> 16) >>> 0;
  };
  const pool = [0, 1, 2, 3].map((place) => hashed(entropy[place] ?? 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) {
      if (from !== to) pool[to] = mixed(pool[to], hashed(pool[from]));
    }
  }
  for (const word of entropy.slice(4)) {
    for (let to = 0; to < 4; to++) pool[to] = mixed(pool[to], hashed(word));
  }
  const drawn = wordHash(0x8b51f9dd, 0x58f38ded);
  return Array.from({length: count}, (_, place) => drawn(pool[place % 4]));
}
