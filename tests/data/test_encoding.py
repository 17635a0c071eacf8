"""folio/data/encoding.py: the split cuts no character, the tokens spell the whole text, processes change nothing."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import InMemory
from folio.base import parallel
from folio.base.errors import FolioError
from folio.data import corpus, encoding, hold_out
from folio.data.sources import Documents
from folio.kernels import splitting
from folio.readers import source
from Model_Params import TextParams
from small_texts import CHARACTERS, END, SMALL, WORDS, json_lines, texts_of, trained_on
from tokenizer import END_OF_TEXT, BPETokenizer


def test_no_text_is_too_small_for_the_default_vocabulary():
    for text_bytes in (0, 1, 1_000, 100_000, 131_000, 10**12):
        assert BPETokenizer.merges_for(encoding.default_vocab_size(text_bytes)) >= 0
    expected = {20_000: 512, 524_348: 1024, 1_115_394: 2048, 4_000_000: 2048, 100_000_000: 4096, 10**12: 4096}
    assert {text_bytes: encoding.default_vocab_size(text_bytes) for text_bytes in expected} == expected


def test_the_shortest_text_has_three_tokens_to_train_on_and_one_byte_held_out(home):
    tokenizer, made = corpus.open_corpus(home("abcd"), CHARACTERS)
    assert (made.train_tokens, made.val_tokens, made.val_bytes) == (3, 1, 1)
    with pytest.raises(FolioError, match="too short: its 3 bytes make 2 tokens to train on and 1 held out"):
        corpus.open_corpus(home("abc"), CHARACTERS)


def test_kept_bytes_come_back_from_the_tokens(home):
    content = np.random.default_rng(1).bytes(3000).replace(b"\r", b"")
    tokenizer, made = corpus.open_corpus(home(content), TextParams(vocab_size=260, invalid_bytes="keep"))
    assert tokenizer.decode_bytes(made.tokens) == content
    assert made.train_bytes + made.val_bytes == len(content)


def test_documents_are_separated_by_end_of_text(home):
    project = home({"b.txt": "second " * 20, "a.txt": "first " * 20, "c/d.txt": "third " * 20})
    tokenizer, made = corpus.open_corpus(project, replace(SMALL, hold_out="end"))
    assert (made.documents, list(made.tokens).count(tokenizer.end_of_text)) == (3, 3)
    documents = [word * 20 + END_OF_TEXT for word in ("first ", "second ", "third ")]
    assert "".join(texts_of(tokenizer, made)) == "".join(documents)


def test_one_document_has_no_separator_and_characters_have_one_only_for_several(home):
    tokenizer, made = corpus.open_corpus(home(WORDS), SMALL)
    assert tokenizer.end_of_text not in made.tokens
    assert corpus.open_corpus(home(WORDS), CHARACTERS)[0].special_tokens == ()
    tokenizer, made = corpus.open_corpus(home({"a": WORDS, "b": WORDS}), END)
    assert tokenizer.special_tokens == (END_OF_TEXT,)
    assert "".join(texts_of(tokenizer, made)) == (WORDS + END_OF_TEXT) * 2


def test_a_text_that_spells_end_of_text_has_no_separator_in_it(home):
    tokenizer, made = corpus.open_corpus(home(f"one {END_OF_TEXT} two " * 20), SMALL)
    assert tokenizer.end_of_text not in made.tokens


@pytest.mark.parametrize("text_bytes", [11, 100, 999, 1000, 1001, 54_321])
def test_the_first_nine_tenths_of_a_text_are_for_training(home, plays, text_bytes):
    text = plays[:text_bytes]
    tokenizer, made = corpus.open_corpus(home(text), CHARACTERS)
    cut = text_bytes * 9 // 10
    assert texts_of(tokenizer, made) == (text[:cut], text[cut:])
    assert (made.train_bytes, made.val_bytes, made.characters) == (cut, text_bytes - cut, text_bytes)
    assert (made.train_tokens, made.val_tokens) == (cut, text_bytes - cut)


def test_tiny_shakespeare_is_split_where_everybody_splits_it(home, tiny_shakespeare):
    tokenizer, made = corpus.open_corpus(home(tiny_shakespeare), CHARACTERS)
    assert (tokenizer.vocab_size, made.train_tokens, made.val_tokens) == (65, 1_003_854, 111_540)
    assert tokenizer.decode(made.val[1:]) == tiny_shakespeare[int(len(tiny_shakespeare) * 0.9):]


@pytest.mark.parametrize("text", [WORDS * 3, "床前明月光，疑是地上霜。" * 50, "Größe 😀é" * 70, "no-space" * 100],
                         ids=["ASCII", "Chinese", "mixed", "one word"])
@pytest.mark.parametrize("val_fraction", [0.1, 0.37, 0.5])
@pytest.mark.parametrize("block_bytes", [50, 1 << 20])
@pytest.mark.parametrize("shorter", [1, 7, 14, 28])         # so that the split meets each byte of a character
def test_the_split_loses_nothing_and_cuts_no_character(home, monkeypatch, text, val_fraction, block_bytes, shorter):
    monkeypatch.setattr(source, "BLOCK_BYTES", block_bytes)
    text = text[:-shorter]
    tokenizer, made = corpus.open_corpus(home(text), TextParams(vocab_size=300, val_fraction=val_fraction))
    train, val = texts_of(tokenizer, made)
    assert "\ufffd" not in train + val and train + val == text
    assert (len(train.encode()), len(val.encode())) == (made.train_bytes, made.val_bytes)
    wanted = len(text.encode()) * (1 - val_fraction)
    assert wanted - 4 < made.train_bytes <= wanted


def test_the_first_validation_token_follows_the_last_training_token(home):
    made = corpus.open_corpus(home(WORDS), SMALL)[1]
    assert len(made.train) + len(made.val) == len(made.tokens) + 1
    assert made.train[-1] == made.val[0]
    assert (len(made.val) - 1, made.train.tolist() + made.val[1:].tolist()) == (made.val_tokens, made.tokens.tolist())


def test_merges_are_learned_from_the_training_part_alone(home):
    train = "the quick brown fox " * 90
    tokenizer, _ = corpus.open_corpus(home(train + "zzzz" * 50), TextParams(vocab_size=1000))
    assert tokenizer.merges == BPETokenizer.train([train], 1000).merges


def documents_of(lengths):
    return {f"{index:02}.txt": chr(97 + index) * length for index, length in enumerate(lengths)}


@pytest.mark.parametrize("lengths, train_documents", [
    ([100] * 20, 18), ([100] * 15, 13), ([900, 100], 1), ([800, 200], 1), ([50, 50, 850, 50], 3)])
def test_where_a_document_ends_near_the_split_no_document_is_cut(home, lengths, train_documents):
    tokenizer, made = corpus.open_corpus(home(documents_of(lengths)), END)
    parts = [text + END_OF_TEXT for text in documents_of(lengths).values()]
    train, val = texts_of(tokenizer, made)
    assert train + val == "".join(parts)
    assert train in ("".join(parts[:train_documents]), "".join(parts[:train_documents + 1]))
    assert made.val_bytes in (sum(lengths[train_documents:]), sum(lengths[train_documents + 1:]))


@pytest.mark.parametrize("lengths", [[820, 140, 40], [810, 100, 80, 10]])
def test_no_document_is_cut_though_another_one_ends_nearer_and_leaves_too_little(home, lengths):
    made = corpus.open_corpus(home(documents_of(lengths)), END)[1]
    assert made.val_bytes in [sum(lengths[index:]) for index in range(len(lengths))]
    assert 50 <= made.val_bytes <= 200


@pytest.mark.parametrize("lengths", [[500, 500], [300, 680, 20], [1000, 0]])
def test_where_no_document_ends_near_the_split_a_document_is_cut(home, lengths):
    made = corpus.open_corpus(home(documents_of(lengths)), END)[1]
    assert made.val_bytes == 100


def test_empty_documents_are_no_place_for_the_split(home):
    made = corpus.open_corpus(home({"a.txt": "", "b.txt": WORDS}), TextParams(vocab_size=300, val_fraction=0.5))[1]
    assert made.val_bytes == len(WORDS) / 2


def test_no_more_is_held_out_than_the_limit(home, monkeypatch):
    monkeypatch.setattr(hold_out, "VAL_BYTES_LIMIT", 50)
    assert corpus.open_corpus(home(WORDS), SMALL)[1].val_bytes == 50
    made = corpus.open_corpus(home(documents_of([900, 50, 35, 15])), END)[1]
    assert made.val_bytes == 50
    made = corpus.open_corpus(home(documents_of([920, 80])), END)[1]
    assert made.val_bytes <= 50


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_two_processes_make_what_one_makes(home, plays, kind, monkeypatch):
    made = {}
    for processes in (1, 2):
        project = home({"a.txt": plays[:60_000], "b.txt": "Größe 数え \r\n" * 300, "c.txt": plays[60_000:90_000]})
        monkeypatch.setattr(source, "BLOCK_BYTES", 10_000)
        monkeypatch.setattr(encoding, "_processes", lambda survey: processes)
        _, text = corpus.open_corpus(project, TextParams(tokenizer=kind))
        made[processes] = {path.name: path.read_bytes() for path in project.tokenizer.iterdir()}, text.tokens.tolist()
    assert made[1] == made[2]


def test_small_documents_reach_other_processes_together(home, monkeypatch):
    messages = []

    def watched(function, batches, *arguments):
        batches = list(batches)
        messages.append(len(batches))
        return parallel.in_order(function, batches, *arguments)

    monkeypatch.setattr(encoding, "in_order", watched)
    texts = [f"document {number}" for number in range(20_000)]
    tokenizer, made = corpus.open_corpus(home({"a.jsonl": json_lines(texts)}), SMALL)
    assert made.documents == 20_000 and sorted(trained_on(made, tokenizer)) == sorted(texts)
    assert len(messages) == 2 and max(messages) <= 3


@pytest.mark.parametrize("message_characters, processes", [(1, 1), (1000, 2), (10**9, 1)])
def test_tokens_do_not_depend_on_what_goes_together(home, plays, monkeypatch, message_characters, processes):
    texts = [plays[start:start + 300] for start in range(0, 60_000, 300)]
    expected = corpus.open_corpus(home({"a.jsonl": json_lines(texts), "b.txt": plays[:50_000]}), SMALL)
    monkeypatch.setattr(splitting, "BATCH", message_characters)
    monkeypatch.setattr(encoding, "_processes", lambda survey: processes)
    tokenizer, made = corpus.open_corpus(home({"a.jsonl": json_lines(texts), "b.txt": plays[:50_000]}), SMALL)
    assert tokenizer.merges == expected[0].merges
    assert (made.tokens.tolist(), made.fingerprint, made.train_tokens) == (
        expected[1].tokens.tolist(), expected[1].fingerprint, expected[1].train_tokens)


@given(st.lists(st.integers(1, 60), min_size=2, max_size=40), st.floats(0.02, 0.5), st.integers(20, 500))
def test_the_split_is_the_one_that_all_document_ends_together_would_give(lengths, val_fraction, limit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hold_out, "VAL_BYTES_LIMIT", limit)
        patch.setattr(Documents, "file_bytes", 0)
        documents = Documents([InMemory(b"x" * length) for length in lengths])
        survey = encoding.survey_text(documents, TextParams(val_fraction=val_fraction, hold_out="end"))
    total = sum(lengths)
    ends = [sum(lengths[:number + 1]) for number in range(len(lengths))]
    wanted = min(total - int(total * (1 - val_fraction)), limit)
    suitable = [end for end in ends if wanted / 2 <= total - end <= min(wanted * 2, total / 2, limit)]
    assert survey.split.position == min(suitable, key=lambda end: abs(end - (total - wanted)), default=total - wanted)
    assert survey.documents == len(lengths)


@pytest.mark.parametrize("processes", [1, 2])
def test_encodings_that_take_turns_keep_to_their_own_tokenizers(home, monkeypatch, processes):
    monkeypatch.setattr(splitting, "BATCH", 1)      # so that every text is a batch, and has a result of its own
    tokenizers = [corpus.open_corpus(home(WORDS), params)[0]
                  for params in (SMALL, TextParams(vocab_size=260), CHARACTERS)]
    texts = ["to be, or not", "question", "that is the"]
    encodings = [encoding.encode_all((([text], False, False) for text in texts * 3), tokenizer, [], processes)
                 for tokenizer in tokenizers]
    made = [[], [], []]
    for results in zip(*encodings, strict=True):    # one result of each in turn
        for ids, (content, *_), tokenizer in zip(made, results, tokenizers):
            ids += np.frombuffer(content, tokenizer.dtype).tolist()
    assert made == [[number for text in texts * 3 for number in tokenizer.encode(text)] for tokenizer in tokenizers]
