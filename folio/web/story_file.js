/* A story as a file, and back: JSON that is checked whole before anything of it is used. Pure.
 *
 * {"folio": "story", "version": 1,
 *  "model": plain values on the model, for people,
 *  "settings": {name: value}, those that differ from the defaults,
 *  "text": the current text, "caret": position in it, "current": number of the current version,
 *  "versions": [{"parent": number of an earlier one, "at": position in its text, "remove": characters,
 *                "insert": [[author, text], ...], and where it has them: "chosen", "answer", "details"}, ...]}
 *
 * Version 0 is the empty text: {} or {"chosen": number}. What a version removes is found by making the changes again.
 */

const LARGEST_STORY_BYTES = 64e6;       // a novel with all its versions is a tenth of it
const MOST_VERSIONS = 200000;
const LONGEST_TEXT = 20e6;              // characters of any version
const MOST_REPLAYED = 1e10;             // characters of all versions together: some seconds of replaying
const MOST_DETAILS = 20;                // plain values on an answer

/* Return a story as the text of a file. `extra`: {model, settings, caret} */
function storyToJson(story, extra) {
  const versions = story.nodes.map((node) => {
    const kept = {};
    if (node.parent !== null) {
      kept.parent = node.parent;
      kept.at = node.at;
      kept.remove = textOfRuns(node.removed).length;
      kept.insert = node.inserted.map((run) => [run.by, run.text]);
    }
    for (const name of ["chosen", "answer", "details"]) {
      if (node[name] !== null) kept[name] = node[name];
    }
    return kept;
  });
  const {model = {}, settings = {}, caret = 0} = extra;
  return JSON.stringify({folio: "story", version: 1, model, settings, text: story.text, caret,
    current: story.current, versions});
}

/* Return {story, model, settings, caret} of the text of a file; throw an Error with one sentence for what is wrong. */
function storyFromJson(source) {
  if (source.length > LARGEST_STORY_BYTES) {
    throw new Error(`It has ${source.length} characters; a story has at most ${LARGEST_STORY_BYTES}.`);
  }
  let file;
  try {
    file = JSON.parse(source);
  } catch (error) {
    throw new Error("It is not JSON, or it was cut off.");
  }
  if (!isPlainObject(file) || file.folio !== "story") {
    throw new Error("It is JSON, but not a text that this page saved.");
  }
  if (file.version !== 1) throw new Error("A newer page saved it: this one reads version 1 of the format.");
  const {versions, current, text, caret, settings, model} = file;
  if (!Array.isArray(versions) || versions.length === 0) throw new Error("It holds no versions of a text.");
  if (versions.length > MOST_VERSIONS) {
    throw new Error(`It holds ${versions.length} versions; at most ${MOST_VERSIONS} are read.`);
  }
  const story = new Story();
  story.nodes = versions.map(readVersion);
  connectVersions(story);
  replayVersions(story);
  if (!isIndex(current, versions.length)) throw new Error("Its current version is none of its versions.");
  story.go(current);
  story.nodes.forEach((node, number) => {                       // which go() has changed on the way
    node.chosen = versions[number].chosen ?? node.chosen;
  });
  if (story.text !== text) throw new Error("Its text is not what its versions add up to: it was changed or damaged.");
  return {story, model: isPlainObject(model) ? model : {}, settings: isPlainObject(settings) ? settings : {},
    caret: isIndex(caret, story.text.length + 1) ? caret : story.text.length};
}

function isPlainObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isIndex(value, end) {
  return Number.isInteger(value) && value >= 0 && value < end;
}

/* Return a version of a file as a node of a story, still without what it removes. */
function readVersion(version, number) {
  const wrong = (what) => new Error(`Version ${number} of it is damaged: ${what}.`);
  if (!isPlainObject(version)) throw wrong("it is not an object");
  const {at = 0, remove = 0, insert = [], parent = null, answer = null, details = null} = version;
  if (!Array.isArray(insert) || !insert.every(isWritten)) throw wrong("its text has no known author");
  if (number === 0 ? parent !== null || insert.length !== 0 : !isIndex(parent, number)) {
    throw wrong("it does not come out of an earlier one");
  }
  if (!isIndex(at, LONGEST_TEXT) || !isIndex(remove, LONGEST_TEXT)) throw wrong("its change has no valid position");
  if (answer !== null && !isIndex(answer, MOST_VERSIONS)) throw wrong("its answer has no valid number");
  if (details !== null && !isDetails(details)) throw wrong("what it says on its answer is not plain values");
  const inserted = joinedRuns(insert.map(([by, text]) => ({text, by})));
  return {parent, at, removed: remove, inserted, children: [], chosen: version.chosen ?? null, answer, details};
}

/* Return whether a value is [author, text]. */
function isWritten(value) {
  return Array.isArray(value) && value.length === 2 && AUTHORS.includes(value[0]) && typeof value[1] === "string"
    && !value[1].includes("\r");        // a text area would make another text of it
}

function isDetails(value) {
  const values = isPlainObject(value) ? Object.values(value) : null;
  return values !== null && values.length <= MOST_DETAILS
    && values.every((one) => one === null || typeof one === "number" || typeof one === "string");
}

/* Fill in the children of all nodes, and check that what was chosen is one of them. */
function connectVersions(story) {
  story.nodes.forEach((node, number) => {
    if (number > 0) story.nodes[node.parent].children.push(number);
    story.answers = Math.max(story.answers, (node.answer ?? -1) + 1);
  });
  story.nodes.forEach((node, number) => {
    if (node.chosen !== null && !node.children.includes(node.chosen)) {
      throw new Error(`Version ${number} of it is damaged: what was chosen did not come out of it.`);
    }
  });
}

/* Make every change once, depth first, to check its position and to find what it removes. */
function replayVersions(story) {
  const stack = [[0, 0]];                                       // [node number, children done]
  let replayed = 0;
  while (stack.length > 0) {
    const top = stack[stack.length - 1];
    const [number, done] = top;
    const node = story.nodes[number];
    if (done === 0) {
      if (node.at + node.removed > story.text.length) {
        throw new Error(`Version ${number} of it is damaged: its change reaches past the end of the text.`);
      }
      node.removed = splitRuns(splitRuns(story.runs, node.at + node.removed)[0], node.at)[1];
      story._apply(node);
      if (story.text.length > LONGEST_TEXT) {
        throw new Error(`Version ${number} of it has over ${LONGEST_TEXT} characters.`);
      }
      replayed += story.text.length;
      if (replayed > MOST_REPLAYED) throw new Error("It holds too many versions of too long a text.");
    }
    if (done < node.children.length) {
      top[1] += 1;
      stack.push([node.children[done], 0]);
    } else {
      story._revert(node);
      stack.pop();
    }
  }
}
