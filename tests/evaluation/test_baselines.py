"""Yardsticks from the text itself: the same figures as a dictionary and the standard library's compressors give."""

import bz2
import lzma
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from folio.evaluation import baselines, plain_words
from folio.evaluation.baselines import Baseline, Baselines, beginning, measure_baselines, order_bits, order_name

CYRILLIC = "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 20
CHINESE = "".join(map(chr, range(0x4e00, 0x4e00 + 600))) * 2 + "天地玄黃宇宙洪荒" * 30


def symbols_of(text, training):
    """The symbols of a text: frequent characters and bytes, one by one."""
    def characters(content):
        return content.decode("utf-8", errors="surrogateescape")
    counts = Counter(c for c in characters(training) if ord(c) > 127 and not 0xDC80 <= ord(c) <= 0xDCFF)
    common = {c for c, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:255]}
    found = []
    for c in characters(text):
        found += [c] if c in common else list(c.encode("utf-8", errors="surrogateescape"))
    return found


def naive_bits(training, held_out, order):
    """Witten-Bell by dictionaries, symbol by symbol."""
    learned, measured = symbols_of(training, training), symbols_of(held_out, training)
    followers = defaultdict(Counter)
    for length in range(order + 1):
        for place in range(length, len(learned)):
            followers[tuple(learned[place - length:place])][learned[place]] += 1

    def probability(context, symbol):
        lower = probability(context[1:], symbol) if context else 1 / 511
        counts = followers.get(context)
        if not counts:
            return lower
        return (counts[symbol] + len(counts) * lower) / (sum(counts.values()) + len(counts))

    text = learned + measured
    places = range(len(learned), len(text))
    costs = [-math.log2(probability(tuple(text[max(0, place - order):place]), text[place])) for place in places]
    return sum(costs) / len(held_out)


TEXTS = [("the cat sat on the mat. " * 9, "the mat sat on the cat!"), (CYRILLIC, "Выпей ещё чаю, Ёж."), ("ab", "abc"),
         (CHINESE, "天地人龘玄黃 and 𝄞"), ("x", "y")]


@pytest.mark.parametrize("training, held_out", TEXTS)
def test_the_models_give_the_figures_of_a_dictionary(training, held_out):
    training, held_out = training.encode(), held_out.encode()
    assert order_bits(training, held_out, 5) == pytest.approx(
        [naive_bits(training, held_out, order) for order in range(6)], rel=1e-9)


@given(st.binary(min_size=1, max_size=60), st.binary(min_size=1, max_size=20))
def test_so_they_do_for_any_bytes(training, held_out):
    assert order_bits(training, held_out, 3) == pytest.approx(
        [naive_bits(training, held_out, order) for order in range(4)], rel=1e-9)


def test_a_model_is_a_probability_distribution():
    training = ("abracadabra " * 5).encode()
    total = 0.0
    for byte in range(128):
        # What the last byte alone costs, after the same context.
        total += 2 ** -(4 * order_bits(training, b"bra" + bytes([byte]), 4)[4] - 3 * order_bits(training, b"bra", 4)[4])
    assert 0.9 < total < 1


def test_compressors_are_charged_for_what_the_held_out_text_adds(plays):
    training, held_out = plays[:60_000].encode(), plays[60_000:70_000].encode()
    found = measure_baselines([training], len(training), held_out)
    for name, compress in (("bzip2", bz2.compress), ("xz", lzma.compress)):
        added = len(compress(training + held_out)) - len(compress(training))
        assert found.bits_of(name) == pytest.approx(8 * added / 10_000)
    assert [baseline.name for baseline in found.measured] == [*map(order_name, (2, 3, 4, 5)), "bzip2", "xz"]


def test_no_more_is_read_than_is_needed(monkeypatch):
    monkeypatch.setattr(baselines, "LEARNED_BYTES", 25)
    monkeypatch.setattr(baselines, "MEASURED_BYTES", 5)

    def chunks():
        yield from (b"abcdefghij" * 2, b"klmnopqrst")
        raise AssertionError("too much was read")
    found = measure_baselines(chunks(), 10_000, b"abcabcabc", compressors=False)
    assert (found.learned_bytes, found.train_bytes, found.measured_bytes, found.val_bytes) == (25, 10_000, 5, 9)
    assert found.bits_of("order-2 model") == pytest.approx(order_bits(b"abcdefghij" * 2 + b"klmno", b"abcab", 2)[2])
    assert beginning([b"ab", b"cd"], 3) == b"abc" and beginning([b"ab"], 3) == b"ab"


# --- In plain words ---

def yardsticks(*nats):
    """Baselines of these nats per byte by the orders 2 to 5."""
    return Baselines([Baseline(order_name(order), value / math.log(2)) for order, value in zip((2, 3, 4, 5), nats)],
                     1, 1, 1, 1)


PLAYS, SHAKESPEARE = yardsticks(1.909, 1.718, 1.685, 1.735), yardsticks(2.049, 1.774, 1.669, 1.698)


@pytest.mark.parametrize("text, nats, words", [         # samples at these figures are in docs/evaluation.md
    (PLAYS, 1.964, "hardly a word"), (SHAKESPEARE, 2.125, "hardly a word"), (PLAYS, 1.716, "most of them misspelt"),
    (SHAKESPEARE, 1.756, "most of them misspelt"), (PLAYS, 1.603, "others are made up"),
    (SHAKESPEARE, 1.637, "others are made up"), (PLAYS, 1.484, "sentences not yet"),
    (SHAKESPEARE, 1.475, "sentences not yet"), (PLAYS, 1.403, "sentences seldom"), (PLAYS, 1.2, "seldom fits together"),
    (PLAYS, 0.8, "often fit together"), (yardsticks(0.6, 0.5, 0.4, 0.4), 0.3, "form of this regular text"),
    (yardsticks(0.2, 0.1, 0.1, 0.1), 0.3, "hardly a word")])
def test_figures_in_plain_words(text, nats, words):
    assert words in plain_words.in_plain_words(nats, text)


def test_a_lower_figure_is_never_said_to_be_worse():
    scale = [plain_words.WORST, *(words for _, words in plain_words.SCALE), plain_words.BEST, plain_words.FORM]
    found = [scale.index(plain_words.in_plain_words(nats, PLAYS)) for nats in np.arange(3, 0, -0.001)]
    assert found == sorted(found) and set(found) == set(range(len(scale)))


def test_the_sentence_names_what_the_words_rest_on():
    assert plain_words.sentence(1.4026, PLAYS) == (
        "spells nearly all words; phrases hold, sentences seldom (1.403 nats per byte; counting 4 characters back "
        "reaches 1.685)")
