"""Surprisal of words equals an enumeration of everything that could follow, and minicons' on the exported model."""

import math
import re
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import folio
from conftest import ROOT
from folio.evaluation import bits_per_byte
from folio.evaluation.surprisal import boundary_tokens, measure_document
from folio.evaluation.texts import read_text
from folio.networks import build as networks
from Model_Params import ModelParams
from tokenizer import BPETokenizer, CharTokenizer, Tokenizer

CONTENTS = [b"a", b"b", b" a", b" b", b"\n", b".", b".\n", b" ab", b" "]


class Longest(Tokenizer):
    """Nine tokens; a text is cut from the left into the longest ones."""

    kind = "test"

    def __init__(self):
        super().__init__(CONTENTS, [repr(content) for content in CONTENTS], ["<|endoftext|>"])

    def _encode_ordinary(self, text):
        pieces = re.findall("|".join(sorted(map(re.escape, map(bytes.decode, CONTENTS)), key=len, reverse=True)), text)
        assert "".join(pieces) == text
        return np.array([CONTENTS.index(piece.encode()) for piece in pieces], self.dtype)


def model_of(tokenizer, block_size=12):
    torch.manual_seed(0)
    net = networks.build_network(ModelParams(vocab_size=tokenizer.vocab_size, block_size=block_size, emb_len=16,
                                             num_layers=1, num_heads=2)).eval()
    with torch.no_grad():
        net.head.weight *= 30           # confident predictions, as a trained network has
    return SimpleNamespace(net=net, tokenizer=tokenizer, opening=[tokenizer.end_of_text])


def continuations(model, context, length):
    """Return every continuation of so many tokens, and its probability: (continuations, length), (continuations,)."""
    tokens = torch.tensor(list(product(range(model.tokenizer.vocab_size), repeat=length)))
    inputs = torch.cat([torch.tensor(context).expand(len(tokens), -1), tokens], dim=1)
    with torch.inference_mode():
        likely = model.net(inputs[:, :-1])[:, len(context) - 1:].double().log_softmax(-1)
    return tokens.tolist(), likely.gather(-1, tokens[..., None]).sum((1, 2)).exp().tolist()


def ends_a_word(model, token):
    return token == model.tokenizer.end_of_text or model.tokenizer.token_bytes[token][:1].isspace()


@pytest.mark.parametrize("text", ["ab a ba", " b ab", "a b\na ab ", "a.\nb a", "a. b", "a", "ab\n\n b"])
def test_a_word_costs_what_all_continuations_say_that_begin_with_it_and_end_there(text):
    """Of the probability of everything that may follow the word before and its end, the share that is this word."""
    model = model_of(Longest())
    measured = measure_document(model, text)
    ids = measured.tokens.tolist()
    for (start, end), found in zip(measured.words, measured.of_words, strict=True):
        # The tokens of the word: from the first that starts after the word before, to the one with its last letter.
        ends = np.cumsum([len(CONTENTS[token]) for token in ids]).tolist()
        before = max([0, *(word.end() for word in re.finditer(r"\S+", text) if word.end() <= start)])
        first = [0, *ends].index(next(place for place in [0, *ends] if place >= before))
        last = next(number for number, place in enumerate(ends) if place >= end)
        wanted, context = ids[first:last + 1], [*model.opening, *ids[:first]]
        tokens, likely = continuations(model, context, len(wanted) + 1)
        is_settled = ends[last] > end                   # the last token contains the end of the word
        this_word = sum(chance for row, chance in zip(tokens, likely) if row[:-1] == wanted
                        and (is_settled or ends_a_word(model, row[-1])))
        is_open = first > 0 and not text[:ends[first - 1]][-1:].isspace()        # the word before may go on
        possible = sum(chance for row, chance in zip(tokens, likely) if not is_open or ends_a_word(model, row[0]))
        assert found == pytest.approx(-math.log2(this_word / possible), abs=1e-4)
        assert len(wanted) == measured.tokens_of_words[[s for s, _ in measured.words.tolist()].index(start)]


def test_the_correction_moves_surprisal_and_adds_only_the_end_of_the_document():
    model = model_of(Longest())
    for text in ("ab a ba b.\na", "a ab ", " b a\n\nba"):
        measured = measure_document(model, text)
        after = 0 if text[-1].isspace() else measured.boundary[-1]
        unmoved = measured.boundary[-2] if text[-1] == " " else 0      # the white space at the end has lost it
        assert measured.of_words.sum() == pytest.approx(measured.uncorrected.sum() + after + unmoved, abs=1e-9)
        assert measured.of_words.tolist() != pytest.approx(measured.uncorrected.tolist(), abs=0.01)


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
def test_a_text_longer_than_the_window_is_measured_as_bits_per_byte_are(stride):
    model, text = model_of(Longest(), block_size=8), "ab a ba b.\na bb ab\n" * 4
    measured = measure_document(model, text, stride)
    tokens = np.concatenate([model.opening, measured.tokens])
    expected = bits_per_byte.evaluate(model.net, tokens, measured.bytes, block_size=8, batch_size=3, device="cpu",
                                      stride=stride)
    assert measured.bits.sum() / measured.bytes == pytest.approx(expected.bits_per_byte, rel=1e-5)
    for place in range(1, len(tokens) + 1):             # the boundary before each token, and after the last one
        start = 0 if place <= 8 else stride * math.ceil((place - 8) / stride)
        likely = continuations(model, tokens[start:place].tolist(), 1)[1]
        ends = sum(chance for token, chance in enumerate(likely) if ends_a_word(model, token))
        assert measured.boundary[place - 1] == pytest.approx(-math.log2(ends), abs=1e-4)


def test_by_default_the_window_slides_by_half():
    model, text = model_of(Longest(), block_size=8), "ab a ba b.\na bb ab\n" * 4
    assert measure_document(model, text).bits.tolist() == measure_document(model, text, 4).bits.tolist()


@pytest.mark.parametrize("tokenizer", [BPETokenizer.train(["naïve 中文 of the sea\u3000the sea " * 5], 280),
                                       CharTokenizer.train(["naïve 中文 of the sea\u3000"], ["<|endoftext|>"])])
@pytest.mark.parametrize("text", ["naïve 中文\u3000of the sea", "   ", "sea", " 中 "])
def test_words_are_those_between_white_space_whatever_the_tokens(tokenizer, text):
    measured = measure_document(model_of(tokenizer, block_size=32), text)
    assert [text[start:end] for start, end in measured.words] == text.split()
    assert len(measured.of_words) == len(text.split())
    assert measured.bytes == len(text.encode()) and np.isfinite(measured.of_words).all()
    counted = measured.uncorrected.sum() + measured.bits[measured.word_of_token == len(measured.words)].sum()
    assert counted == pytest.approx(measured.bits.sum())
    assert measured.tokens_of_words.sum() == (measured.word_of_token < len(measured.words)).sum()


def test_nothing_is_moved_where_white_space_is_split_between_tokens():
    measured = measure_document(model_of(BPETokenizer([]), block_size=32), "sea\u3000air of")
    moved = measured.of_words - measured.uncorrected
    assert moved[0] == 0 and moved[1] == pytest.approx(measured.boundary[9])        # before the space
    assert moved[2] == pytest.approx(measured.boundary[-1] - measured.boundary[9])


def test_undecodable_bytes_are_a_byte_each():
    measured = measure_document(model_of(BPETokenizer([]), block_size=32), "caf\udce9 au")
    assert measured.word_ends.tolist() == [4, 7] and measured.tokens_of_words.tolist() == [4, 3]


def test_a_document_is_measured_like_a_file_of_its_own(tmp_path, plays):
    model, text = folio.load(ROOT / "Saved_Weights" / "weights-pretrained.pth"), plays[1000:3000]
    (tmp_path / "a.txt").write_text(text, encoding="utf-8", newline="\n")
    read, _ = read_text(model, tmp_path / "a.txt")
    expected = bits_per_byte.evaluate(model.net, read.tokens, read.bytes, block_size=256, batch_size=2, device="cpu",
                                      stride=100)
    measured = measure_document(model, text, 100)
    assert measured.bits.sum() / measured.bytes == pytest.approx(expected.bits_per_byte, rel=1e-5)


@pytest.mark.slow
def test_minicons_finds_the_same_on_the_exported_model(tmp_path):
    """minicons counts only tokens with a space as the beginning of a word; here it is told of line ends and the end.

    In an environment of its own: pip install minicons transformers (0.3.39 and 5.23.0 were tried).
    """
    scorer = pytest.importorskip("minicons.scorer")
    from folio.formats import hugging_face, trained_model
    path = ROOT / "Saved_Weights" / "weights-pretrained.pth"
    model = folio.load(path)
    hugging_face.write(trained_model.load(path), tmp_path / "exported")
    theirs = scorer.IncrementalLMScorer(str(tmp_path / "exported"), "cpu")
    theirs.bow_subword_idx = boundary_tokens(model.tokenizer).tolist()
    model = replace(model, opening=[model.tokenizer.end_of_text])
    for text in ("I have the key to the harbour, Nollet.", "To sneeze is not to be useful in the lighthouse"):
        measured = measure_document(model, text)
        for corrected, ours in ((True, measured.of_words), (False, measured.uncorrected)):
            [found] = theirs.token_score(["<|endoftext|>" + text], bow_correction=corrected, surprisal=True,
                                         base_two=True)
            costs = np.array([cost for _, cost in found][-len(measured.tokens):])
            words = np.bincount(measured.word_of_token, costs)
            np.testing.assert_allclose(words, ours, rtol=1e-4, atol=1e-4)
