// Logits to the next token, as folio/generation/sampling.py computes it from NumPy arrays.
//
// Defines: penalized, logSoftmax, probabilities, pick, and the three penalties.
//
// Logits are a Float32Array or a Float64Array, (vocabulary,); results are rounded as NumPy rounds them in that type.
// settings: an object with the fields of Python's GenerationParams, resolved.
"use strict";

// The smallest temperature: float32's numbers divided by it are finite in float64.
const MIN_TEMPERATURE = 1e-200;

// Return the function that rounds to the type of these logits.
function rounding(logits) {
  return logits instanceof Float32Array ? Math.fround : (value) => value;
}

function hasPenalties(settings) {
  return settings.repetition_penalty !== 1 || settings.frequency_penalty !== 0 || settings.no_repeat_ngram !== null;
}

// Return the logits after the penalties for repetition that the settings ask for. tokens: the ids so far
function penalized(logits, tokens, settings) {
  const recent = tokens.slice(-settings.penalty_window);
  if (settings.repetition_penalty !== 1) logits = repetitionPenalty(logits, recent, settings.repetition_penalty);
  if (settings.frequency_penalty !== 0) logits = frequencyPenalty(logits, recent, settings.frequency_penalty);
  return settings.no_repeat_ngram === null ? logits : noRepeatNgram(logits, tokens, settings.no_repeat_ngram);
}

// Divide the logits of recent tokens by `penalty`; multiply negative ones (CTRL, Keskar et al., 2019).
function repetitionPenalty(logits, recent, penalty) {
  const changed = logits.slice(), factor = rounding(logits)(penalty);
  for (const id of recent) changed[id] = logits[id] < 0 ? logits[id] * factor : logits[id] / factor;
  return changed;
}

// Subtract `penalty` from a token's logit for each recent occurrence (as OpenAI's API defines it, 2021).
function frequencyPenalty(logits, recent, penalty) {
  const changed = logits.slice(), counts = new Map(), rounded = rounding(logits);
  for (const id of recent) counts.set(id, (counts.get(id) ?? 0) + 1);
  for (const [id, count] of counts) changed[id] = logits[id] - rounded(penalty * count);
  return changed;
}

// Exclude every token that would complete an n-gram of `length` tokens a second time (Paulus et al., 2018). Where that
// would exclude every token, it excludes none.
function noRepeatNgram(logits, tokens, length) {
  if (tokens.length < length) return logits;
  const changed = logits.slice(), beginning = tokens.length - length + 1;       // of the n-gram that comes next
  for (let start = 0; start + length <= tokens.length; start++) {
    let alike = 0;
    while (alike < length - 1 && tokens[start + alike] === tokens[beginning + alike]) alike++;
    if (alike === length - 1) changed[tokens[start + alike]] = -Infinity;
  }
  return changed.some((value) => value > -Infinity) ? changed : logits;
}

// Return log-probabilities (nats): a Float64Array.
function logSoftmax(logits) {
  const found = Float64Array.from(logits), largest = maximum(logits);
  let sum = 0;
  for (let id = 0; id < found.length; id++) {
    found[id] -= largest;
    sum += Math.exp(found[id]);
  }
  const logarithm = Math.log(sum);
  for (let id = 0; id < found.length; id++) found[id] -= logarithm;
  return found;
}

// Loops with an index, here and below: they run for each token, and iterators and callbacks take several times as long.
function maximum(values) {
  let largest = -Infinity;
  for (let place = 0; place < values.length; place++) if (values[place] > largest) largest = values[place];
  return largest;
}

function total(values) {
  let sum = 0;
  for (let place = 0; place < values.length; place++) sum += values[place];
  return sum;
}

// Return the candidates for the next token: {likely: their probabilities, a Float64Array; ids}, the likeliest first.
// Where all tokens are candidates, in their order, the ids are null. Of equal logits the first tokens are taken.
//
// settings: temperature (0 leaves the likeliest token alone), top_k, top_p and min_p (null: all)
function probabilities(logits, settings) {
  const greedy = settings.temperature === 0, hasTopP = settings.top_p !== null && settings.top_p < 1;
  const temperature = greedy ? 1 : Math.max(settings.temperature, MIN_TEMPERATURE), largest = maximum(logits);
  let count = greedy ? 1 : Math.min(settings.top_k ?? logits.length, logits.length), ids = null, chosen = logits;
  if (count === 1) {
    ids = [logits.indexOf(largest)];
  } else if (count < logits.length || hasTopP) {
    const falling = logits.slice().sort().reverse();
    if (hasTopP) count = fewest(weightsOf(falling.subarray(0, count), largest, temperature), settings.top_p);
    ids = likeliest(logits, count, falling[count - 1]);
  }
  if (ids !== null) chosen = logits.constructor.from(ids, (id) => logits[id]);
  const weights = weightsOf(chosen, largest, temperature);
  if (settings.min_p) {
    for (let place = 0; place < weights.length; place++) if (weights[place] < settings.min_p) weights[place] = 0;
  }
  const sum = total(weights);
  for (let place = 0; place < weights.length; place++) weights[place] /= sum;
  return {likely: weights, ids};
}

// Return what the probabilities of logits are in proportion to, a Float64Array. The largest becomes 1.
function weightsOf(logits, largest, temperature) {
  const shifted = logits.slice(), weights = new Float64Array(logits.length);
  for (let place = 0; place < weights.length; place++) {
    shifted[place] -= largest;                  // rounded to the type of the logits
    weights[place] = Math.exp(shifted[place] / temperature);
  }
  return weights;
}

// Return how many of these weights, in falling order, are needed for a share of top_p (Holtzman et al., 2020).
function fewest(weights, top_p) {
  const enough = top_p * total(weights);
  let before = 0, count = 0;
  while (count < weights.length && before < enough) before += weights[count++];
  return count;
}

// Return the ids of the `count` largest logits, in falling order; of equal ones the first. least: the smallest of them
function likeliest(logits, count, least) {
  const ids = [], equal = [];
  for (let id = 0; id < logits.length; id++) {
    if (logits[id] > least) ids.push(id);
    else if (logits[id] === least) equal.push(id);
  }
  ids.sort((one, other) => logits[other] - logits[one]);        // stable: of equal ones the first
  return [...ids, ...equal.slice(0, count - ids.length)];
}

// Return the token at which the cumulative probability passes `chance`, in [0, 1); never one whose probability is 0.
function pick({likely, ids}, chance) {
  const sum = total(likely), passed = chance * sum;
  let place = 0, summed = likely[0];
  // The second condition: the product may be rounded up to the sum.
  while (summed <= passed && summed < sum) summed += likely[++place];
  return ids === null ? place : ids[place];
}
