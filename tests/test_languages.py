"""Every writing system is learned alike: ten of them, and emoji, from the text to its completion and its figures."""

import time
from dataclasses import replace

import pytest

from conftest import run_script
from folio.base.home import Home
from folio.data import corpus
from folio.generation import language_model
from folio.training import runs
from Model_Params import PRESETS, TextParams

# One scene, written for this test, a line per writing system; the last line has characters that combine several.
LINES = {
    "Latin": "The lamp on the pier went out, and nobody rowed home that night.\n",
    "Greek": "Η βάρκα γύρισε αργά, γεμάτη ψάρια και παλιές ιστορίες.\n",
    "Cyrillic": "Старый фонарь у моста горел до самого утра.\n",
    "Arabic": "عاد القارب إلى الميناء قبل أن تشرق الشمس.\n",
    "Hebrew": "הסירה חזרה אל הנמל לפני שזרחה השמש.\n",
    "Devanagari": "नाव सूरज निकलने से पहले घाट पर लौट आई।\n",
    "Thai": "เรือลำเล็กกลับถึงท่าก่อนพระอาทิตย์ขึ้น\n",
    "Han": "天亮之前,小船回到了港口,灯还亮着。\n",
    "kana": "夜が明ける前に、小さな舟は港へ帰ってきた。\n",
    "Hangul": "해가 뜨기 전에 작은 배가 항구로 돌아왔다.\n",
    "emoji": "👩‍👩‍👧‍👦 🚣🏽‍♀️ 🏴‍☠️ 👍🏽 e\u0301 n\u0303\n",
}
TEXT = "".join(LINES.values()) * 4


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Return a project whose model overfits the lines."""
    home = Home(tmp_path_factory.mktemp("languages"))
    home.train_data.mkdir()
    (home.train_data / "input.txt").write_text(TEXT, encoding="utf-8", newline="\n")
    tokenizer, text = corpus.open_corpus(home, TextParams(vocab_size=400))
    default = PRESETS["default"]
    params = replace(default, model=replace(default.model, emb_len=64, num_layers=2, num_heads=2, block_size=64),
                     training=replace(default.training, steps=120, minutes=None, learning_rate=0.01, bpe_dropout=0.0,
                                      weight_decay=0.0, sample_tokens=0, eval_interval=120, threads=1,
                                      precision="fp32", compile=False))
    with runs.new_run(home, "many", params, tokenizer, text, time.perf_counter(), say=lambda text: None) as run:
        run.train()
    return home


@pytest.fixture(scope="module")
def model(learned):
    return language_model.load(learned.weights("many"))


@pytest.mark.parametrize("kind", [{"vocab_size": 400}, {"tokenizer": "char"}], ids=["bpe", "char"])
def test_every_script_survives_the_tokenizer(kind, home):
    tokenizer, _ = corpus.open_corpus(home(TEXT), TextParams(**kind))
    for line in LINES.values():
        assert tokenizer.decode(tokenizer.encode(line)) == line


@pytest.mark.parametrize("script, following", list(zip(LINES, [*list(LINES)[1:], "Latin"])))
def test_a_line_is_continued_with_the_next_one_in_whole_characters(model, script, following):
    stream = list(model.stream(LINES[script], tokens=90, temperature=0))
    assert "".join(stream).startswith(LINES[following])
    # The last token may be part of a character.
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in stream[:-1])
    assert model.bits_per_byte(LINES[following]) < 2


def test_run_py_continues_them_too(learned):
    done = run_script("run.py", "--home", learned.folder, "--temperature", 0, "--tokens", 90, LINES["Cyrillic"])
    assert done.returncode == 0 and done.stdout.startswith(LINES["Cyrillic"] + LINES["Arabic"]), done.stderr


def test_pictures_show_every_script(model, tmp_path):
    pytest.importorskip("matplotlib")
    from folio.pictures.canvas import save
    from folio.pictures.surprise import surprise_figure
    from folio.pictures.vocabulary import vocabulary_figure
    pieces = model.surprise("".join(LINES.values()))
    assert "".join(piece for piece, _ in pieces) == "".join(LINES.values())
    save(surprise_figure("many", pieces), tmp_path / "surprise.svg")
    embeddings = model.net.embedding.weight.detach().numpy()
    save(vocabulary_figure("many", model.tokenizer.token_bytes, embeddings), tmp_path / "vocabulary.svg")
    drawn = (tmp_path / "surprise.svg").read_text(encoding="utf-8")
    assert all(letter in drawn for line in LINES.values() for letter in line if letter.isalpha())
