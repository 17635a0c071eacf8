/* An engine for tests of the page: words that depend on the prompt, the seed and the answer's number only. With
 * `held` each answer writes as many words as the test lets it: engine.release(3), so that nothing depends on time.
 */

const MOCK_WORDS = ("sea harbour bell the of and a night ship sang under cold light. rope master wind\n "
  + "went home").split(" ");

function mockHash(text) {
  let hash = 2166136261;
  for (let index = 0; index < text.length; index += 1) hash = Math.imul(hash ^ text.charCodeAt(index), 16777619) >>> 0;
  return hash;
}

function mockEngine({context = 200, delay = 2, held = false, failure = null, chat = false, leftOut = 0, ended = "length",
  refusal = null} = {}) {
  const calls = [];
  let released = 0;
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  const settings = [
    {name: "tokens", help: "maximum length of the answer in tokens", type: "int", default: 12, low: 0, high: 2 ** 63},
    {name: "temperature", help: "below 1 safer, above 1 wilder; 0 always takes the likeliest token", type: "float",
      default: 0.8, low: 0, high: 1e6},
    {name: "top_k", help: "sample among this many likeliest tokens (default: all)", type: "int", default: null, low: 1,
      high: 1 << 24},
    {name: "top_p", help: "sample among the fewest tokens that together have this probability (default: all)",
      type: "float", default: null, above: 0, high: 1},
    {name: "stop", help: "stop string: end before this text; can be given several times; \\n is a new line",
      type: "texts", default: []},
    {name: "sampling_seed", help: "makes an answer repeatable (default: a new one each time)", type: "int",
      default: null, low: 0, high: 2 ** 63},
  ];
  const about = {name: "plays", parameters: 1066624, bits_per_byte: 2.021, context: 256, chat};
  const one = async (asked, stream, {settings: chosen, signal, onPiece}) => {
    let text = "";
    const prompt = typeof asked === "string" ? asked : asked.messages.map(({content}) => content).join("|");
    const startedAt = performance.now();
    let tokens = 0;
    while (tokens < chosen.tokens && !signal.aborted) {
      do await pause(delay); while (held && tokens >= released && !signal.aborted);
      if (signal.aborted) break;
      const hash = mockHash(`${prompt.slice(-40)}|${text}|${chosen.sampling_seed}|${stream}`);
      const piece = {text: ` ${MOCK_WORDS[hash % MOCK_WORDS.length]}`, bits: (hash % 97) / 9};
      text += piece.text;
      tokens += 1;
      onPiece(stream, piece);
    }
    const seconds = (performance.now() - startedAt) / 1000;
    return {text, tokens, seconds, ended: signal.aborted ? "aborted" : ended, turns_left_out: leftOut};
  };
  return {
    calls,
    release(words) {
      released += words;
    },
    async describe() {
      if (failure) throw new Error(failure);
      return {about, settings};
    },
    generate(prompt, options) {
      calls.push({prompt, count: options.count, settings: options.settings});
      if (refusal) return Promise.reject(new Error(refusal));
      return Promise.all(Array.from({length: options.count}, (_, stream) => one(prompt, stream, options)));
    },
    async surprise(text) {
      await pause(1);
      return (text.match(/\s*\S+|\s+$/g) || []).map((piece) => ({text: piece, bits: (mockHash(piece) % 130) / 10}));
    },
    async alternatives(text, count) {
      calls.push({alternativesTo: text});
      const shares = [0.31, 0.2, 0.12, 0.08, 0.05, 0.031, 0.02, 0.01, 0.004, 0.0004];
      return shares.slice(0, count).map((probability, index) => ({text: ` ${MOCK_WORDS[index].trim()}`, probability}));
    },
    async view(text) {
      return Math.max(0, text.length - context);
    },
  };
}
