"""Preferences: pairs of answers, from files to token sequences."""

import json

import numpy as np
import pytest

from folio.base.errors import FolioError
from folio.chat.messages import Message
from folio.chat.template import ChatTemplate, taught
from folio.data.batches import IGNORED
from folio.data.preferences import Encoder, Preference, batch_of, pairs_of_step, preference_of, read_preferences
from Model_Params import TextParams
from tokenizer import BPETokenizer, CharTokenizer

ASKED = {"role": "user", "content": "How many?"}
SAID = [{"role": "assistant", "content": "Three."}, {"role": "assistant", "content": "Many."}]
TEXT = "the sea, the sea. How many are there? Three are there.\n" * 3


@pytest.fixture
def tokenizer():
    return BPETokenizer.train([TEXT], 290)


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


# --- Records ---

def test_a_text_and_messages_may_stand_for_each_other():
    asked = (Message("user", "How many?"),)
    expected = Preference(asked, "Three.", "Many.")
    for record in ({"prompt": [ASKED], "chosen": "Three.", "rejected": "Many."},
                   {"messages": [ASKED], "chosen": "Three.", "rejected": "Many."},
                   {"messages": [ASKED], "chosen": SAID[:1], "rejected": SAID[1:]},
                   {"prompt": [ASKED], "chosen": [ASKED, SAID[0]], "rejected": [ASKED, SAID[1]]},
                   {"chosen": [ASKED, SAID[0]], "rejected": [ASKED, SAID[1]]}):
        assert preference_of(record, "here") == expected
    assert preference_of({"prompt": "How many?", "chosen": SAID[:1], "rejected": "Many."}, "here") == Preference(
        "How many?", "Three.", "Many.")


@pytest.mark.parametrize(("record", "why"), [
    ({"prompt": "a", "chosen": "b"}, "has no rejected"),
    ({"prompt": "a"}, "has no chosen and no rejected"),
    ({"chosen": "b", "rejected": "c"}, "has no prompt and no messages"),
    ({"prompt": "a", "chosen": "b", "rejected": " b\n"}, "the same text as chosen and as rejected"),
    ({"prompt": "a", "chosen": "b", "rejected": " "}, "an empty rejected answer"),
    ({"prompt": "a", "chosen": {"b": 1}, "rejected": "c"}, "a chosen that is neither a text nor a list of messages"),
    ({"prompt": [ASKED], "chosen": [ASKED], "rejected": "c"}, "a chosen that is not one message of the assistant"),
    ({"prompt": [ASKED, SAID[0]], "chosen": "b", "rejected": "c"}, "does not end with a message to be answered"),
    ({"prompt": [{"role": "judge", "content": "x"}], "chosen": "b", "rejected": "c"}, "'judge' as the role"),
    (["a"], "is no object"),
])
def test_what_is_no_preference_is_refused_with_its_place(tmp_path, record, why):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = written(tmp_path / "pairs.jsonl", [good, record])
    with pytest.raises(FolioError) as refused:
        read_preferences([path], say=pytest.fail)
    assert f"{path}, line 2, " in str(refused.value) and why in str(refused.value)


def test_tables_are_read_as_lines_of_json_are(tmp_path):
    rows = [{"prompt": f"p{number}", "chosen": f"good {number}", "rejected": "bad"} for number in range(8)]
    table = tmp_path / "pairs.csv"
    table.write_text("prompt,chosen,rejected\n" + "".join(",".join(row.values()) + "\n" for row in rows), "utf-8")
    one, other = (read_preferences([path], say=lambda text: None)
                  for path in (table, written(tmp_path / "a.jsonl", rows)))
    assert (one.train, one.val, one.fingerprint) == (other.train, other.val, other.fingerprint)


# --- Held out ---

def test_all_pairs_of_a_prompt_are_on_one_side_and_stay_there(tmp_path):
    rows = [{"prompt": f"p{number // 3}", "chosen": f"good {number}", "rejected": "bad"} for number in range(300)]
    sides = []
    for count in (150, 300):
        found = read_preferences([written(tmp_path / "pairs.jsonl", rows[:count])], TextParams(val_fraction=0.2),
                                 say=lambda text: None)
        sides.append([{pair.prompt for pair in part} for part in (found.train, found.val)])
    for train, val in sides:
        assert train and val and not train & val
    assert sides[0][0] <= sides[1][0] and sides[0][1] <= sides[1][1]
    assert 0.1 < len(sides[1][1]) / 100 < 0.3


def test_pairs_of_one_prompt_are_held_out_by_their_answers(tmp_path):
    rows = [{"prompt": "", "chosen": f"good {number}", "rejected": "bad"} for number in range(3)]
    found = read_preferences([written(tmp_path / "pairs.jsonl", rows)], say=lambda text: None)
    assert len(found.train) + len(found.val) == 3 and found.train and found.val
    with pytest.raises(FolioError, match="one choice, and two are needed"):
        read_preferences([written(tmp_path / "one.jsonl", rows[:1] * 3)], say=pytest.fail)


def test_few_pairs_are_said_to_be_few(tmp_path):
    said = []
    rows = [{"prompt": f"p{number}", "chosen": "good", "rejected": "bad"} for number in range(400)]
    read_preferences([written(tmp_path / "pairs.jsonl", rows[:20])], say=said.append)
    assert any("That is few" in text for text in said)
    said.clear()
    read_preferences([written(tmp_path / "pairs.jsonl", rows)], say=said.append)
    assert len(said) == 1


# --- Tokens ---

def test_prompt_and_answer_are_encoded_as_one_text_and_the_answer_is_learned(tokenizer):
    chosen, rejected = Encoder(tokenizer, None, [10], 64).pair(Preference("the ", "sea.", "seven"))
    assert chosen.ids.tolist() == tokenizer.encode("the sea.")
    assert rejected.ids.tolist() == tokenizer.encode("the seven")
    assert tokenizer.decode(chosen.ids[chosen.learned]) == " sea."
    assert tokenizer.decode(rejected.ids[rejected.learned]) == " seven"


def test_an_answer_to_nothing_follows_the_opening(tokenizer):
    for prompt in ("", "t"):            # "t" is the beginning of a token, so none is left before the answer
        chosen, _ = Encoder(tokenizer, None, [10], 64).pair(Preference(prompt, "the sea"[len(prompt):], "xy"))
        assert chosen.ids.tolist() == [10, *tokenizer.encode("the sea")]
        assert chosen.learned.tolist() == [False] + [True] * (len(chosen.ids) - 1)


def test_a_chat_models_answers_are_in_turns_and_end_with_the_end_token(tokenizer):
    tokenizer = taught(tokenizer)
    chat = ChatTemplate(tokenizer)
    asked = [Message("user", "How?"), Message("assistant", "So."), Message("user", "How many?")]
    chosen, _ = Encoder(tokenizer, chat, [10], 99).pair(Preference(tuple(asked), " Three. ", "Many."))
    whole, _ = chat.encode([*asked, Message("assistant", "Three.")])
    assert whole[:len(chosen.ids)] == chosen.ids.tolist()
    assert tokenizer.decode(chosen.ids[chosen.learned]) == f"Three.{chat.end}"
    as_text, _ = Encoder(tokenizer, chat, [10], 99).pair(Preference("How many?", "Three.", "Many."))
    assert as_text.ids.tolist() == chat.encode([asked[-1], Message("assistant", "Three.")])[0][:len(as_text.ids)]


def test_a_base_model_refuses_conversations(tokenizer):
    pair = Preference((Message("user", "How many?"),), "Three.", "Many.", "pairs.jsonl, line 4,")
    with pytest.raises(FolioError, match="pairs.jsonl, line 4, is a conversation.*not taught to chat"):
        Encoder(tokenizer, None, [10], 64).pair(pair)


def test_prompts_lose_their_beginning_and_answers_nothing(tokenizer):
    prompt, answers = "the sea, the sea." * 10, (" Three.", " Many are there.")
    for block_size in (16, 20):
        pair = Encoder(tokenizer, None, [10], block_size).pair(Preference(prompt, *answers))
        assert max(len(answered.ids) for answered in pair) == block_size + 1
        for answered, answer in zip(pair, answers):
            assert tokenizer.decode(answered.ids[answered.learned]) == answer
            assert not answered.learned[0]
        first, second = (answered.ids[~answered.learned].tolist() for answered in pair)
        assert first == second
    assert Encoder(tokenizer, None, [10], 4).pairs([Preference(prompt, *answers)]) == ([], 1)


def test_a_conversation_loses_its_oldest_turns(tokenizer):
    tokenizer = taught(tokenizer)
    chat = ChatTemplate(tokenizer)
    turns = [Message("user", "How?"), Message("assistant", "So."), Message("user", "How many?")]
    room = len(chat.encode([turns[-1], Message("assistant", "Three.")])[0])
    chosen, _ = Encoder(tokenizer, chat, [10], room).pair(Preference(tuple(turns), "Three.", "Many."))
    assert chosen.ids.tolist() == chat.encode([turns[-1], Message("assistant", "Three.")])[0][:-1]
    assert Encoder(tokenizer, chat, [10], 4).pair(Preference(tuple(turns), "Three.", "Many.")) is None


def test_a_batch_has_the_chosen_answer_first_and_only_answers_as_targets(tokenizer):
    pairs, _ = Encoder(tokenizer, None, [10], 64).pairs([Preference("the ", "sea", "sea, the sea, the sea"),
                                                         Preference("How ", "many", "are there")])
    batch = batch_of(pairs)
    assert batch.inputs.shape == batch.targets.shape == (2, 2, max(len(a.ids) for pair in pairs for a in pair) - 1)
    for rows, pair in zip(batch.targets, pairs):
        for row, answered in zip(rows, pair):
            assert row[row != IGNORED].tolist() == answered.ids[answered.learned].tolist()


def test_every_pair_is_learned_from_once_an_epoch():
    steps = [pairs_of_step(10, step, 4, seed=1) for step in range(5)]
    both = np.concatenate(steps)
    assert sorted(both[:10]) == sorted(both[10:]) == list(range(10))
    assert both[:10].tolist() != both[10:].tolist()


def test_what_a_character_tokenizer_lacks_is_named_with_the_file_and_the_line():
    encoder = Encoder(CharTokenizer.train(["the sea"]), None, [0], 32)
    with pytest.raises(FolioError, match="pairs.jsonl, line 3 cannot be learned. .*'!'.*start from weights"):
        encoder.pairs([Preference("the ", "sea", "sea!", "pairs.jsonl, line 3,")])
