"""The pictures of a trained model: they show what the model computes, and every character is readable."""

import itertools
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.formats import checkpoint
from folio.networks import build as networks
from folio.networks.attention_weights import attention_weights
from Model_Params import ModelParams
from test_plot import draw, panel

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from folio.pictures.attention import attention_figure  # noqa: E402
from folio.pictures.canvas import SCALE, missing_characters, save  # noqa: E402
from folio.pictures.surprise import MAX_LINES, in_visual_order, parts_of, surprise_figure, wrapped  # noqa: E402
from folio.pictures.vocabulary import principal, vocabulary_figure  # noqa: E402

TINY = ModelParams(vocab_size=50, block_size=16, emb_len=24, num_layers=2, num_heads=4)


def texts_of(figure):
    return "\n".join(text.get_text() for text in figure.texts)


def nothing_overlaps(texts, figure):
    """Assert that no text overlaps another one or leaves the figure."""
    boxes, whole = [text.get_window_extent() for text in texts], figure.bbox
    for number, box in enumerate(boxes):
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1, texts[number]
        assert not any(box.overlaps(other) for other in boxes[:number]), texts[number]


# --- Attention ---

@pytest.mark.parametrize("parts", [{}, {"num_kv_heads": 2}, {"family": "classic"},
                                   {"positions": "none", "query_key_norm": False}], ids=str)
def test_the_weights_mix_the_values_as_the_network_mixes_them(parts):
    torch.manual_seed(0)
    net = networks.build_network(replace(TINY, **parts)).eval()
    for parameter in net.parameters():
        # At initialization all attention weights are about equal.
        parameter.data += 0.3 * torch.randn_like(parameter)
    tokens = torch.arange(9)
    values, mixed = [], []
    for block in net.blocks:
        block.attention.value.register_forward_hook(lambda module, inputs, output: values.append(output[0]))
        block.attention.output.register_forward_hook(lambda module, inputs, output: mixed.append(inputs[0][0]))
    weights = attention_weights(net, tokens)
    assert weights.shape == (2, 4, 9, 9) and weights.triu(1).eq(0).all()
    assert weights[..., 1:, :].std(-1).min() > 0.01
    for layer in range(2):
        grouped = values[layer].view(9, -1, 6).transpose(0, 1)                                          # (G, T, D)
        ours = weights[layer] @ grouped.repeat_interleave(4 // len(grouped), dim=0)                     # (H, T, D)
        torch.testing.assert_close(ours.transpose(0, 1).flatten(1), mixed[layer], rtol=1e-4, atol=1e-5)
    assert not any(norm._forward_hooks for block in net.blocks
                   for norm in (block.attention.query_norm, block.attention.key_norm))


def test_a_network_without_attention_is_refused():
    class Recurrent(torch.nn.LSTM):
        params = ModelParams()
    with pytest.raises(FolioError, match="has no attention"):
        attention_weights(Recurrent(4, 4), torch.arange(3))


def test_each_map_shows_the_weights_of_its_head_with_every_token_beside_its_row():
    weights = np.random.default_rng(0).dirichlet(np.ones(3), (2, 3, 3))
    figure = attention_figure("night", ["MERRAN", "·has", "⏎"], weights)
    figure.canvas.draw()
    for layer, head in itertools.product(range(2), range(3)):
        axis = panel(figure, f"layer {layer + 1}, head {head + 1}")
        shades = axis.collections[0].get_array()
        # The future has no squares.
        assert shades.mask.tolist() == np.triu(np.ones((3, 3), bool), 1).tolist()
        np.testing.assert_allclose(shades.data ** 2, weights[layer, head])
        rows = [(text.get_text(), int(text.get_position()[1])) for text in axis.texts]
        assert rows == [("MERRAN", 0), ("·has", 1), ("⏎", 2)]
    nothing_overlaps([text for axis in figure.axes for text in axis.texts], figure)


# --- The vocabulary ---

def test_the_two_directions_are_those_of_the_largest_variance():
    vectors = np.random.default_rng(0).normal(size=(200, 5)) * [1, 9, 2, 5, 1] + 100
    places, share = principal(vectors)
    values, directions = np.linalg.eigh(np.cov(vectors.T))
    assert share == pytest.approx(values[-2:].sum() / values.sum())
    expected = (vectors - vectors.mean(0)) @ directions[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-9)


@pytest.mark.filterwarnings("ignore:Glyph")         # which fonts there are differs from machine to machine
def test_a_token_is_its_text_or_a_dot_and_no_text_hides_another():
    words = ["wörter".encode(), b" the", b"", b"x" * 99, "中文".encode(), b"\x1b[31m"]
    tokens = [bytes([value]) for value in range(256)] + words
    figure = vocabulary_figure("night", tokens, np.random.default_rng(1).normal(size=(len(tokens), 7)))
    figure.canvas.draw()
    axis = panel(figure, "vocabulary")
    assert len(axis.texts) + sum(len(line.get_xdata()) for line in axis.lines) == len(tokens)
    assert len(axis.texts) > 60 and not any("\x1b" in text.get_text() for text in axis.texts)
    nothing_overlaps(axis.texts, figure)


def test_a_vocabulary_of_two_or_of_equal_tokens_can_be_drawn():
    for vectors in (np.eye(2), np.ones((3, 2)), np.ones((4, 1))):
        vocabulary_figure("night", [b"a", b"b", b"c", b"d"][:len(vectors)], vectors).canvas.draw()


# --- Surprise ---

TEXTS = st.text(st.sampled_from("ab ⏎\n\t.שלמعин中😀\u200d\u0301"), min_size=1, max_size=60)


@given(st.lists(TEXTS, min_size=1, max_size=12), st.integers(1, 12))
def test_lines_are_the_text_and_none_is_too_wide(texts, max_width):
    parts = list(parts_of([(text, 1.0) for text in texts]))
    lines = list(wrapped(parts, max_width, len))
    assert all(0 < sum(len(part.text) for part in line) <= max_width for line in lines)
    written = "".join(part.text for line in lines for part in line)
    # Only spaces may be lost, at line breaks.
    assert written.replace(" ", "") == "".join(texts).replace("\n", "⏎").replace("\t", "→").replace(" ", "")
    assert sum(line[-1].ends_line for line in lines) == "".join(texts).count("\n")
    assert not any(part.ends_line for line in lines for part in line[:-1])
    for line in lines:
        assert sorted(map(id, in_visual_order(line))) == sorted(map(id, line))


def test_lines_break_between_words_where_they_can():
    texts = ("I", " have", " the", " ke", "y", "\n", "and", " incomprehensibly")
    lines = wrapped(parts_of([(text, 1.0) for text in texts]), 10, len)
    # A word longer than a line is broken where the line is full.
    assert ["".join(part.text for part in line) for line in lines] == ["I have the", "key⏎", "and incomp", "rehensibly"]


@pytest.mark.parametrize("pieces, seen", [
    (["שלום", " עולם", "!"], ["!", " עולם", "שלום"]),
    (["MERRAN: ", "של", "ום", ", I say"], ["MERRAN: ", "ום", "של", ", I say"]),
    (["של", " Merran", " Varrow", " ום"], [" ום", " Merran", " Varrow", "של"]),
    (["مرحبا", " ", "بك", " 7"], [" 7", "بك", " ", "مرحبا"]),
    (["MERRAN: ", "שלום", " ?! ", "Varrow"], ["MERRAN: ", "שלום", " ?! ", "Varrow"]),
    (["ב", " ", "1", "9", " Merran", " 8", "4", " ", "של"], ["של", " ", " Merran", " 8", "4", "1", "9", " ", "ב"]),
    (["MERRAN: ", "של", " 1", ",", "5", " ום", " 7", "7"], ["MERRAN: ", " 7", "7", " ום", " 1", ",", "5", "של"]),
], ids=["backwards", "within", "the other way round", "blanks", "between two directions", "numbers", "numbers within"])
def test_right_to_left_text_is_laid_out_from_right_to_left(pieces, seen):
    assert [part.text for part in in_visual_order(list(parts_of([(piece, 1.0) for piece in pieces])))] == seen


def test_punctuation_and_numbers_follow_their_line_and_lie_on_their_own_background():
    figure = surprise_figure("night", [("של", 0.0), (" 7", 1.0), (" (", 2.0), ("ום ", 3.0), (" Merran", 4.0),
                                       (".\n", 5.0)])
    figure.canvas.draw()
    backgrounds = sorted((patch.get_window_extent() for patch in figure.artists if isinstance(patch, Rectangle)),
                         key=lambda band: band.x0)
    texts = {text.get_text(): text.get_window_extent() for text in figure.texts}
    # With the mark, "." ends the line at its left, and "(" opens to the left.
    seen = ["\u200f.⏎", "Merran", "\u200fום", "\u200f(", "\u200f7", "\u200fשל"]
    assert len(backgrounds) == len(seen)
    letter = backgrounds[-1].width / 2
    for word, band, blanks_before in zip(seen, backgrounds, (0, 1, 1, 0, 0, 0)):
        assert texts[word].x0 == pytest.approx(band.x0 + blanks_before * letter, abs=letter / 2), word


def test_the_color_behind_a_piece_says_its_bits():
    pieces = [("I", 0.0), (" have", 4.0), (" the", 8.0), (" key", 80.0)]
    figure = surprise_figure("night", pieces)
    figure.canvas.draw()
    backgrounds = [patch for patch in figure.artists if isinstance(patch, Rectangle)]
    colors = [to_hex(patch.get_facecolor()).upper() for patch in backgrounds]
    lightness = [sum(patch.get_facecolor()[:3]) for patch in backgrounds]
    assert colors[0] == SCALE[0] and colors[-1] == SCALE[-1] and lightness == sorted(lightness, reverse=True)
    assert "6.57 bits per byte here, 23.0 for each of 4 tokens" in texts_of(figure)
    words = {text.get_text(): text for text in figure.texts}
    for word, patch in zip(("I", "have", "the", "key"), backgrounds):           # each word lies on its own background
        box, band = words[word].get_window_extent(), patch.get_window_extent()
        assert band.x0 - 1 <= box.x0 and box.x1 <= band.x1 + 1 and band.y0 <= box.y0 and box.y1 <= band.y1


def test_a_long_text_ends_with_the_number_of_characters_left_out():
    figure = surprise_figure("night", [("word\n", 1.0)] * (MAX_LINES + 3), more=985)
    assert "… and 1,000 characters more" in texts_of(figure)
    assert "more" not in texts_of(surprise_figure("night", [("word\n", 1.0)] * MAX_LINES)).replace("or more", "")


# --- Files and commands ---

@pytest.mark.parametrize("words, word", [(["attention", "I have the key."], "·have"), (["vocabulary"], "MERRAN"),
                                         (["surprise", "I have the key.\n"], "have")],
                         ids=["attention", "vocabulary", "surprise"])
def test_the_command_draws_the_shipped_model_with_text_that_stays_text(words, word, tmp_path, monkeypatch, capsys):
    for name, begins in (("a.png", b"\x89PNG\r\n"), ("a.svg", b"<?xml"), ("b.svg", b"<?xml")):
        picture = tmp_path / name
        code, out, err = draw(monkeypatch, capsys, *words, "--output", picture)
        assert (code, err) == (0, "") and out.startswith("pretrained: ") and out.endswith(f"-> {picture}\n")
        assert picture.read_bytes().startswith(begins)
    # The same model and text give the same file.
    assert picture.read_bytes() == (tmp_path / "a.svg").read_bytes()
    svg = picture.read_text(encoding="utf-8")
    assert re.search(rf"<text[^>]*>{word}</text>", svg)
    assert picture.stat().st_size < 400_000


@pytest.mark.parametrize("words, said, code", [
    (["attention", ""], "0 tokens", 1),
    (["attention", "key " * 300], "from 1 to 64", 1),
    (["attention"], "required: TEXT", 2),
    (["surprise", ""], "The text is empty", 1),
    (["surprise"], "a text or a file", 2),
    (["surprise", "no-such.txt"], "There is no no-such.txt", 1),
    (["vocabulary", "--weights", "nihgt"], "weights-pretrained.pth", 1),
    (["vocabulary", "--output", "a.gif"], ".png or .svg", 2),
    (["atention", "key"], "did you mean attention?", 2),
], ids=lambda value: " ".join(value)[:24] if isinstance(value, list) else "")
def test_what_cannot_be_drawn_is_refused_with_one_message(words, said, code, monkeypatch, capsys):
    found = draw(monkeypatch, capsys, *words)
    assert found[:2] == (code, "") and said in found[2] and len(found[2].splitlines()) <= 2


def test_a_network_without_attention_gives_that_message_alone(tmp_path, monkeypatch, capsys):
    model = replace(ModelParams(), family="lstm", vocab_size=1024, emb_len=8, hidden_len=8, num_layers=1, block_size=4)
    shipped = checkpoint.load(ROOT / "Saved_Weights" / "weights-pretrained.pth")
    net = networks.build_network(model.resolved())
    Home(tmp_path).saved_weights.mkdir()
    checkpoint.save(Home(tmp_path).weights("night"),
                    shipped | {"params": asdict(net.params), "weights": net.state_dict(), "name": "night\x1b[31m"})
    for prompt in ("I have the key to the harbour.", "key " * 300):
        code, out, err = draw(monkeypatch, capsys, "attention", prompt, "--home", tmp_path)
        assert (code, out) == (1, "") and "has no attention" in err and len(err.splitlines()) == 1
    code, out, err = draw(monkeypatch, capsys, "surprise", "I have the key.", "--home", tmp_path)
    assert code == 0 and out.startswith("night\\x1b[31m: ")          # the name is read from an untrusted file


def test_before_any_training_it_says_how_to_get_weights(tmp_path, monkeypatch, capsys):
    code, out, err = draw(monkeypatch, capsys, "vocabulary", "--home", tmp_path)
    assert (code, out) == (1, "") and "python train.py" in err


def test_characters_without_a_font_give_a_warning_where_they_are_boxes(tmp_path, capsys):
    figure = surprise_figure("night", [("\U00012000\U00012001 and a key", 1.0)])           # cuneiform
    save(figure, tmp_path / "a.svg")
    assert capsys.readouterr().err == "" and "\U00012000" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    if missing_characters(figure):            # on a machine that has no such font
        save(figure, tmp_path / "a.png")
        assert capsys.readouterr().err.startswith("No font on this machine has 2 characters")
