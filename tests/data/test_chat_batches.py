"""Conversations as batches: what is learned, what becomes of long ones, and that each comes once an epoch."""

import numpy as np
import pytest

from folio.base.errors import FolioError
from folio.chat.messages import Message
from folio.chat.template import ChatTemplate, taught
from folio.data.batches import IGNORED
from folio.data.chat_batches import Batches, Dialogues, PlainText, encode, fitted, grouped, packed
from folio.data.conversations import Conversations
from tokenizer import BPETokenizer, CharTokenizer


@pytest.fixture(scope="module")
def template():
    return ChatTemplate(taught(BPETokenizer.train(["How many are there?"], 257)))


def talk(*contents, system=None):
    """A conversation of these contents, the user's and the assistant's in turn."""
    roles = ("user", "assistant") * len(contents)
    first = [Message("system", system)] if system else []
    return first + [Message(role, content) for role, content in zip(roles, contents)]


def said(template, ids, learned):
    """The text of what is learned."""
    specials = {number: name for name, number in template.tokenizer.special_ids.items()}
    kept = [token for token, is_learned in zip(ids, learned) if is_learned]
    return "".join(specials.get(token) or template.tokenizer.decode([token]) for token in kept)


def test_answers_and_their_end_are_learned_and_nothing_else(template):
    sequences, fate = encode([talk("How many?", "Three.", "Sure?", "Yes.")], template, 1000)
    assert fate.sentences(1000) == []
    ids = [*sequences.ids, -1]
    is_learned = [False, *(sequences.targets != IGNORED)]
    ids[-1] = sequences.targets[-1]
    assert said(template, ids, is_learned) == "Three.<|im_end|>Yes.<|im_end|>"
    known = sequences.targets != IGNORED
    assert (sequences.targets[:-1][known[:-1]] == sequences.ids[1:][known[:-1]]).all()


def test_a_long_conversation_loses_whole_turns_from_the_front_and_keeps_its_system_message(template):
    long = talk("a" * 60, "b" * 60, "c" * 30, "d" * 30, system="Be brief.")
    ids, learned, fate = fitted(long, template, 160)
    whole = template.encode([long[0], *long[3:]])[0]
    # The line end after the last turn is not read.
    assert ids == whole[:-1] and len(ids) <= 161 and fate == "cut"
    assert said(template, ids, learned) == "d" * 30 + "<|im_end|>"
    exact = len(ids) - 1
    assert fitted(long, template, exact)[2] == "cut" and fitted(long, template, exact - 1)[2] == "unfinished"


def test_however_many_turns_have_to_go_each_message_is_encoded_once(template, monkeypatch):
    long = talk(*(f"{number}" for number in range(600)), system="Be brief.")
    encoded = []
    encode_one = BPETokenizer.encode
    monkeypatch.setattr(BPETokenizer, "encode",
                        lambda self, text, *rest: encoded.append(text) or encode_one(self, text, *rest))
    ids, learned, fate = fitted(long, template, 200)
    assert fate == "cut" and len(encoded) <= 3 * len(long)      # its role, content and line end
    kept = next(start for start in range(1, 600, 2) if len(template.encode([long[0], *long[start:]])[0]) - 1 <= 201)
    assert ids == template.encode([long[0], *long[kept:]])[0][:-1]
    assert said(template, ids, learned).endswith("599<|im_end|>")


def test_what_a_character_tokenizer_lacks_is_named_with_the_conversation(template):
    characters = taught(CharTokenizer.train(["user assistant system\n How many?"]))
    with pytest.raises(FolioError, match="that begins .How many.. cannot be learned. .*'3'.*start from"):
        encode([talk("How many?", "3")], ChatTemplate(characters), 100)


def test_of_a_turn_that_is_too_long_the_beginning_of_the_answer_is_learned_without_an_end(template):
    ids, learned, fate = fitted(talk("Why?", "x" * 500), template, 64)
    assert len(ids) == 65 and fate == "unfinished"
    assert set(said(template, ids, learned)) == {"x"}
    assert fitted(talk("y" * 500, "No."), template, 64) == ([], [], "left_out")


def test_what_became_of_long_conversations_is_counted_and_said(template):
    many = [talk("Why?", "No."), talk("a" * 90, "b", "c", "d"), talk("a", "b" * 90), talk("a" * 90, "b")]
    sequences, fate = encode(many, template, 64)
    assert len(sequences) == 3 and (fate.cut, fate.unfinished, fate.left_out) == (1, 1, 1)
    assert [sentence.split(" conversation")[0] for sentence in fate.sentences(64)] == ["1", "1", "1"]


@pytest.mark.parametrize("arrange", [packed, grouped])
def test_every_sequence_comes_once_and_none_has_too_little_room(arrange):
    lengths = np.random.default_rng(3).integers(1, 65, size=500)
    for seed in range(3):
        rows = arrange(lengths, 64 if arrange is packed else 512, np.random.default_rng(seed))
        assert sorted(number for row in rows for number in row) == list(range(500))
        if arrange is packed:
            assert max(lengths[row].sum() for row in rows) <= 64
            assert len(rows) <= -(-lengths.sum() // 64) * 1.05                 # hardly any room is left
        else:
            assert all(len(row) * lengths[row].max() <= 512 for row in rows)
            assert sum(len(row) * lengths[row].max() for row in rows) < 1.1 * lengths.sum()


def test_the_rows_of_an_epoch_are_as_many_in_every_order():
    lengths = np.random.default_rng(4).integers(1, 65, size=300)
    assert len({len(packed(lengths, 64, np.random.default_rng(seed))) for seed in range(20)}) == 1


@pytest.fixture(scope="module")
def talks():
    chance = np.random.default_rng(5)
    return [talk(f"{number}?" + "q" * chance.integers(20), "a" * chance.integers(1, 20)) for number in range(40)]


def batches_of(talks, template, packing, **more):
    sequences, _ = encode(talks, template, 64)
    return Batches(sequences, **{"batch_size": 4, "block_size": 64, "packing": packing, "seed": 1, **more})


@pytest.mark.parametrize("packing", [True, False])
def test_a_batch_is_a_function_of_the_seed_and_the_step_and_epochs_differ(talks, template, packing):
    one, other = batches_of(talks, template, packing), batches_of(talks, template, packing)
    steps = range(0, 4 * round(one.steps_per_epoch + 1))
    ahead = {step: one.at(step) for step in steps}
    for step in reversed(steps):
        for found, expected in zip(other.at(step).arrays, ahead[step].arrays, strict=True):
            assert (found == expected).all()
    third = batches_of(talks, template, packing, seed=2)
    assert any(third.at(step).inputs.tolist() != ahead[step].inputs.tolist() for step in steps)


@pytest.mark.parametrize("packing", [True, False])
def test_an_epoch_has_every_answer_once(talks, template, packing):
    # 40 of about 45 tokens; a batch size that divides an epoch's rows.
    batches = batches_of(talks, template, packing, batch_size=1 if packing else 4)
    for epoch in range(2):
        steps = range(epoch * round(batches.steps_per_epoch), (epoch + 1) * round(batches.steps_per_epoch))
        found = np.concatenate([batches.at(step).counted_targets for step in steps])
        whole = encode(talks, template, 64)[0].targets
        assert sorted(found.tolist()) == sorted(whole[whole != IGNORED].tolist())


def test_segments_tell_the_conversations_of_a_row_and_its_empty_end_apart(talks, template):
    batch = batches_of(talks, template, True).at(0)
    start = template.start_id
    for inputs, targets, segments in zip(*batch.arrays):
        begins = np.flatnonzero(np.diff(segments, prepend=-1))
        assert (np.diff(segments) >= 0).all()
        assert all(inputs[place] == start for place in begins[:-1])
        empty = segments == segments[-1]
        assert (targets[empty] == IGNORED).all() or inputs[begins[-1]] == start


@pytest.mark.parametrize("packing", [True, False])
def test_a_share_of_the_rows_is_plain_text_all_of_which_is_learned(talks, template, packing):
    text = PlainText(np.full(1000, 7, np.uint16), 0.25)
    batches = batches_of(talks, template, packing, text=text)
    steps = 40 * round(batches.steps_per_epoch)
    rows = [(inputs == 7).all() for step in range(steps) for inputs in batches.at(step).inputs]
    assert np.mean(rows) == pytest.approx(0.25, abs=0.02)
    batch = batches.at(3)
    plain = (batch.inputs == 7).all(1)
    assert (batch.targets[plain] == 7).all() and plain.any()


def test_dialogues_in_which_nothing_fits_are_refused(template):
    long = [talk("q" * 100, "a")] * 2
    with pytest.raises(FolioError, match="None of the 2 conversations to learn from fits into a context of 64 tokens"):
        Dialogues(Conversations(long, [talk("q", "a")], "x"), template, 64)
