"""folio/web/story.js, story_file.js, settings.js, surprise.js in Node: no version of a text is ever lost."""

import json

import pytest

from node_program import run_node

PURE = ("story.js", "story_file.js", "settings.js", "surprise.js")
# Random edits, answers, retries, undo and jumps. After each the text of the current version is noted, and at the end
# every version must still have the text that it had, also after a round trip through a file.
RANDOM_OPERATIONS = r"""
function random(seed) {                 // a linear congruential generator, so that a failure can be repeated
  let state = seed >>> 0;
  return (end) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * end);
  };
}
function check(condition, sentence) {
  if (!condition) throw new Error(sentence);
}
function textsOf(story) {
  const {current, _typedAt} = story;
  const texts = story.nodes.map((node, number) => {
    story.go(number);
    check(textOfRuns(story.runs) === story.text, "the runs are not the text");
    return story.text;
  });
  story.go(current);
  story._typedAt = _typedAt;            // looking does not end a run of typing
  return texts;
}
function operate(story, below, now) {
  const at = below(story.text.length + 1);
  const remove = below(3) === 0 ? below(Math.min(6, story.text.length - at) + 1) : 0;
  const letters = ["a", "bc", "d\n", "é", "🙂"][below(5)];
  const node = story.nodes[story.current];
  const end = node.at + textOfRuns(node.inserted).length;
  [
    () => story.type(at, remove, letters, now),
    () => story.type(Math.min(end, story.text.length), 0, letters, now),
    () => story.type(Math.max(0, node.at - 1), Math.min(1, story.text.length), "", now),
    () => {
      story.beginAnswer(at);
      for (let piece = below(4); piece >= 0; piece -= 1) story.extendAnswer(letters);
    },
    () => story.addAnswer(at, letters),
    () => {
      const place = story.backBeforeAnswer();
      if (place !== null) story.addAnswer(place, letters);
    },
    () => story.branch(at, letters),
    () => story.undo(), () => story.redo(),
    () => story.choose(below(5) - 2), () => story.go(below(story.nodes.length)),
  ][below(11)]();
}
function run(seed) {
  const below = random(seed);
  const story = new Story();
  const seen = [""];
  let now = 0;
  for (let step = 0; step < 120; step += 1) {
    const before = {number: story.current, text: story.text, count: story.nodes.length,
      inserted: textOfRuns(story.nodes[story.current].inserted)};
    now += below(4) * 700;
    operate(story, below, now);
    check(story.nodes.length >= before.count, "a version is gone");
    const texts = textsOf(story);
    texts.forEach((text, number) => {
      if (number === before.number && text !== before.text) {   // typing on: nothing that was typed is gone
        check(textOfRuns(story.nodes[number].inserted).startsWith(before.inserted), "what was typed is gone");
        check(story.nodes[number].children.length === 0, "a version with others after it has changed");
      } else if (number < before.count) {
        check(text === seen[number], `version ${number} was ${seen[number]} and is ${text}`);
      }
      seen[number] = text;
    });
  }
  const source = storyToJson(story, {settings: {top_k: 4}, caret: 0, model: {name: "plays"}});
  const opened = storyFromJson(source);
  check(storyToJson(opened.story, opened) === source, "the file is not the same after a round trip");
  check(JSON.stringify(textsOf(opened.story)) === JSON.stringify(seen), "versions differ after a round trip");
  return story.nodes.length;
}
"""


@pytest.fixture
def in_node(tmp_path):
    """Return a function that runs a program after the pure files of the page. It has `given`, and returns a value."""
    def run(program, given=None):
        return run_node(tmp_path, PURE, f"const given = cases;\n{program}", given)
    return run


def test_no_version_is_lost_over_random_operations(in_node):
    counts = in_node(RANDOM_OPERATIONS + "return given.map(run);", list(range(150)))
    assert len(counts) == 150 and min(counts) > 20


def test_retry_keeps_every_answer_and_a_corrected_beginning(in_node):
    told = in_node("""
        const story = new Story();
        story.type(0, 0, "Teh sea", 0);
        story.beginAnswer(7);
        story.extendAnswer(" is cold.");
        story.type(1, 2, "he", 9000);                           // "The sea is cold."
        const told = [story.text];
        const at = story.backBeforeAnswer();
        told.push(at, story.text);
        story.beginAnswer(at);
        story.extendAnswer(" sings.");
        told.push(story.text, story.fork().index, story.fork().siblings.length);
        story.choose(-1);
        told.push(story.text);
        story.choose(1);
        told.push(story.text);
        return told;""")
    assert told == ["The sea is cold.", 7, "The sea", "The sea sings.", 1, 2, "The sea is cold.", "The sea sings."]


def test_a_branch_is_a_sibling_of_the_version_that_it_leaves(in_node):
    told = in_node("""
        const story = new Story();
        story.type(0, 0, "One", 0);
        story.beginAnswer(3);
        story.extendAnswer(" two three");
        story.branch(7, " four");
        const told = [story.text, story.fork().index, story.fork().siblings.length];
        story.choose(-1);
        told.push(story.text);
        story.choose(1);
        told.push(story.text, story.backBeforeAnswer(), story.text, story.runs.map(({by}) => by));
        story.go(2);
        story.branch(3, " five");                               // where the answer begins
        told.push(story.text, story.fork().siblings.length);
        return told;""")
    assert told == ["One two four", 1, 2, "One two three", "One two four", 7, "One two", ["typed", "model"],
                    "One five", 3]


def test_authors_are_typed_model_and_edited(in_node):
    runs = in_node("""
        const story = new Story();
        story.type(0, 0, "One ", 0);
        story.beginAnswer(4);
        story.extendAnswer("two three");
        story.type(13, 0, " four", 0);
        story.type(8, 5, "THREE", 0);
        return story.runs.map(({text, by}) => [by, text]);""")
    assert runs == [["typed", "One "], ["model", "two "], ["edited", "THREE"], ["typed", " four"]]


def test_the_change_between_two_texts_is_where_the_caret_is(in_node):
    found = in_node("return given.map(([before, after, caret]) => changeBetween(before, after, caret));",
                    [["hello", "helllo", 3], ["hello", "helllo", 4], ["aaa", "aa", 1], ["ab", "ab", 2], ["", "x", 1]])
    assert [(one["at"], one["remove"], one["insert"]) for one in found] == [
        (2, 0, "l"), (3, 0, "l"), (1, 1, ""), (2, 0, ""), (0, 0, "x")]


def damaged(**changes):
    file = {"folio": "story", "version": 1, "model": {}, "settings": {}, "text": "ab", "caret": 2, "current": 1,
            "versions": [{"chosen": 1}, {"parent": 0, "at": 0, "remove": 0, "insert": [["typed", "ab"]]}]}
    return json.dumps(file | changes)


def second(**changes):
    return [{}, {"parent": 0, "at": 0, "remove": 0, "insert": [["typed", "ab"]]} | changes]


BAD_FILES = {
    "{": "not JSON",
    "[]": "not a text that this page saved",
    '{"folio": "tokens"}': "not a text that this page saved",
    damaged(version=2): "newer page",
    damaged(versions=[]): "no versions",
    damaged(versions=[3]): "not an object",
    damaged(current=2): "current version",
    damaged(text="abc"): "add up to",
    damaged(versions=second(parent=1)): "earlier one",
    damaged(versions=second(at=1)): "past the end",
    damaged(versions=second(remove=1)): "past the end",
    damaged(versions=second(at=-1)): "valid position",
    damaged(versions=second(at=0.5)): "valid position",
    damaged(versions=second(insert=[["god", "ab"]])): "known author",
    damaged(versions=second(insert=None)): "known author",
    damaged(versions=second(insert=[["typed", "a\rb"]])): "known author",
    damaged(versions=second(chosen=1)): "chosen",
    damaged(versions=second(answer=-1)): "answer",
    damaged(versions=second(details={"seed": {"a": 1}})): "plain values",
    damaged(versions=second(details={"text": 1} | {str(n): 1 for n in range(30)})): "plain values",
}


def test_a_damaged_file_is_refused_in_one_sentence(in_node):
    told = in_node("""return given.map((source) => {
        try { storyFromJson(source); return "opened"; } catch (error) { return error.message; }
    });""", [damaged(), *BAD_FILES])
    assert told[0] == "opened"
    for message, (source, expected) in zip(told[1:], BAD_FILES.items()):
        assert expected in message, (source, message)


@pytest.mark.parametrize("changes, expected", [
    ({"versions": [{}] * 200_001}, "at most 200000"),
    ({"versions": [{}, *({"parent": number, "at": 0, "remove": 0, "insert": [["typed", "x" * 100_000]]}
                         for number in range(250))]}, "characters"),
])
def test_a_file_that_would_take_too_much_is_refused(in_node, changes, expected):
    told = in_node("try { storyFromJson(given); return null; } catch (error) { return error.message; }",
                   damaged(**changes))
    assert expected in told


SETTING = {"name": "top_k", "help": "among", "type": "int", "default": None, "low": 1, "high": 100}


@pytest.mark.parametrize("setting, typed, expected", [
    (SETTING, "40", {"value": 40}),
    (SETTING, " ", {}),
    (SETTING, "0", {"problem": "top-k must be at least 1."}),
    (SETTING, "101", {"problem": "top-k must be at most 100."}),
    (SETTING, "4.5", {"problem": 'top-k is a whole number, not "4.5".'}),
    (SETTING | {"type": "float", "low": None, "above": 0}, "0", {"problem": "top-k must be above 0."}),
    (SETTING | {"type": "float"}, "1e1", {"value": 10}),
    (SETTING | {"type": "float"}, "NaN", {"problem": 'top-k is a number, not "NaN".'}),
    (SETTING | {"type": "str", "choices": ["a", "b"]}, "c", {"problem": "top-k is one of a, b."}),
    (SETTING | {"type": "texts"}, "\\n\\n\n\nEnd\\\\", {"value": ["\n\n", "End\\"]}),
    # A seed of run.py has 63 bits; a number of JavaScript holds 53.
    (SETTING | {"high": 2**63 - 1}, str(2**63 - 1), {"value": str(2**63 - 1)}),
    (SETTING | {"high": 2**63 - 1}, str(2**63), {"problem": f"top-k must be at most {2**63 - 1}."}),
])
def test_a_setting_is_read_within_its_bounds(in_node, setting, typed, expected):
    assert in_node("return readSetting(...given);", [setting, typed]) == expected


def test_settings_of_a_file_that_are_unknown_or_impossible_are_left_out_and_named(in_node):
    told = in_node("return checkedSettings(...given);", [[SETTING], {"top_k": 5, "beams": 3}])
    assert told == {"values": {"top_k": 5}, "problems": ["There is no setting beams here."]}
    told = in_node("return checkedSettings(...given);", [[SETTING], {"top_k": {"a": 1}}])
    assert told == {"values": {}, "problems": ["The value of top-k is damaged."]}


def test_blocks_of_surprise_are_the_text_and_cut_no_character(in_node):
    blocks = in_node("return surpriseBlocks(given);", text := "line\n" * 900 + "🙂" * 4000)
    units = text.encode("utf-16-le")
    assert [begin for begin, _ in blocks] == [0, *(end for _, end in blocks[:-1])] and 2 * blocks[-1][1] == len(units)
    for begin, end in blocks:
        assert end - begin <= 2400
        units[2 * begin:2 * end].decode("utf-16-le")           # raises for half a character
