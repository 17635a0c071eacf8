"""python -m folio.evaluate FILE: figures per file, tables of words and tokens, and two models on the same text."""

import csv
import io
import json
import math
import sys

import numpy as np
import pytest

import folio
from conftest import ROOT, refusal, run_python
from folio import evaluate
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.base.lines import columns as columns_of
from folio.data import corpus
from folio.evaluation.comparison import compare
from folio.evaluation.studies import TOKEN_COLUMNS, WORD_COLUMNS
from folio.evaluation.surprisal import measure_document
from Model_Params import TextParams
from test_evaluate import trained

ITEMS = "The key is on the table.\n<|endoftext|>\nThe keys are, he said,\n\non the table.\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory, plays):
    """Two models of different tokenizers, "tiny" and "other"."""
    made = trained(tmp_path_factory.mktemp("one"), TextParams(vocab_size=300), plays[:20_000])
    other = trained(tmp_path_factory.mktemp("two"), TextParams(tokenizer="char"), plays[:20_000])
    made.weights("other").write_bytes(other.weights("tiny").read_bytes())
    return made


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run the command in this process: ask(home, "file.txt") -> its output and what it says on stderr"""
    def run(home, *words, columns=80):
        monkeypatch.setattr(sys, "argv", ["evaluate", "--home", str(home.folder), *map(str, words)])
        monkeypatch.setenv("COLUMNS", str(columns))
        evaluate.main()
        return capsys.readouterr()
    return run


@pytest.fixture
def items(tmp_path):
    """A file with two documents."""
    path = tmp_path / "items.txt"
    path.write_text(ITEMS, encoding="utf-8", newline="\n")
    return path


def text_both_know(folder, plays):
    """Write 13 kB of the plays, without the characters that a model of the first 20 kB does not know. -> the path"""
    known, path = set(plays[:20_000]), folder / "text.txt"
    path.write_text("".join(filter(known.__contains__, plays[17_000:30_000])), encoding="utf-8", newline="\n")
    return path


def rows_of(text, columns):
    reader = csv.DictReader(io.StringIO(text))
    assert tuple(reader.fieldnames) == columns
    return list(reader)


# --- Tables ---

def test_every_word_has_a_row_with_its_surprisal(project, ask, items, tmp_path):
    ask(project, items, "--weights", "tiny", "--csv", tmp_path / "words.csv")
    rows = rows_of((tmp_path / "words.csv").read_text(encoding="utf-8"), WORD_COLUMNS)
    model, expected = folio.load(project.weights("tiny")), []
    for number, document in enumerate(["The key is on the table.\n", "The keys are, he said,\n\non the table.\n"], 1):
        measured = measure_document(model, document)
        expected += [(str(items), str(number), str(place), word, document.index(word))
                     for place, word in enumerate(document.split(), 1)]
        here = [row for row in rows if row["document"] == str(number)]
        assert [float(row["surprisal"]) for row in here] == pytest.approx(measured.of_words.tolist(), abs=1e-6)
        assert [float(row["uncorrected"]) for row in here] == pytest.approx(measured.uncorrected.tolist(), abs=1e-6)
        assert [int(row["tokens"]) for row in here] == measured.tokens_of_words.tolist()
        assert all(document[int(row["start"]):].startswith(row["word"]) for row in here)
    assert [(row["file"], row["document"], row["number"], row["word"]) for row in rows] == [row[:4] for row in expected]


def test_the_rows_of_tokens_add_up_to_the_words(project, ask, items, tmp_path):
    ask(project, items, "--weights=tiny", "--csv", tmp_path / "words.csv", "--csv-tokens", tmp_path / "tokens.csv")
    words = rows_of((tmp_path / "words.csv").read_text(encoding="utf-8"), WORD_COLUMNS)
    tokens = rows_of((tmp_path / "tokens.csv").read_text(encoding="utf-8"), TOKEN_COLUMNS)
    assert "".join(row["token"] for row in tokens) == ITEMS.replace("<|endoftext|>\n", "")
    for word in words:
        inside = [row for row in tokens
                  if (row["document"], row["word_number"]) == (word["document"], word["number"])]
        assert len(inside) == int(word["tokens"])
        assert sum(float(row["surprisal"]) for row in inside) == pytest.approx(float(word["uncorrected"]), abs=1e-5)
    vocabulary = folio.load(project.weights("tiny")).tokenizer.token_bytes
    starts = [int(row["start"]) for row in tokens if row["document"] == "2"]
    sizes = [len(vocabulary[int(row["id"])]) for row in tokens if row["document"] == "2"]
    assert starts == [sum(sizes[:place]) for place in range(len(sizes))]


def test_standard_output_has_the_table_alone(project, items):
    done = run_python("-m", "folio.evaluate", "--home", project.folder, items, "--csv", "-", "--weights=tiny", cwd=ROOT)
    assert done.returncode == 0 and "weights-tiny.pth: windows slide by 16 tokens" in done.stderr
    assert [row["word"] for row in rows_of(done.stdout, WORD_COLUMNS)] == ITEMS.replace("<|endoftext|>", "").split()


def test_words_with_commas_quotes_and_undecodable_bytes_stay_one_field(project, ask, tmp_path):
    (tmp_path / "odd.txt").write_bytes(b'say "no, no" caf\xe9 \xf0\x9f\x98\x80 =1+1')
    ask(project, tmp_path / "odd.txt", "--weights=tiny", "--invalid-bytes=keep", "--csv", tmp_path / "words.csv")
    rows = rows_of((tmp_path / "words.csv").read_text(encoding="utf-8"), WORD_COLUMNS)
    assert [row["word"] for row in rows] == ["say", '"no,', 'no"', "caf\\xe9", "😀", "=1+1"]


# --- Figures ---

def test_the_figures_of_a_file_are_sums_over_its_documents(project, ask, items, tmp_path):
    (tmp_path / "other.txt").write_text("To be, or not to be.", encoding="utf-8")
    report = json.loads(ask(project, items, tmp_path / "other.txt", "--weights=tiny", "--json", "--stride=3").out)
    model = folio.load(project.weights("tiny"))
    for file, documents in zip(report["files"], [ITEMS.split("<|endoftext|>\n"), ["To be, or not to be."]]):
        measured = [measure_document(model, document, 3) for document in documents]
        bits, tokens = sum(part.bits.sum() for part in measured), sum(len(part.tokens) for part in measured)
        of_words = np.concatenate([part.of_words for part in measured])
        assert (file["documents"], file["words"], file["tokens"]) == (len(documents), len(of_words), tokens)
        assert file["bits_per_byte"] == pytest.approx(bits / sum(len(document) for document in documents))
        assert file["bits_per_word"] == pytest.approx(of_words.mean())
        assert file["perplexity_per_word"] == pytest.approx(2 ** of_words.mean())
        assert file["perplexity_per_token"] == pytest.approx(2 ** (bits / tokens))
    assert report["stride"] == 3 and report["comparison"] is None


@pytest.mark.parametrize("columns", [76, 80, 120])
def test_the_figures_fit_the_terminal(project, ask, items, columns):
    lines = ask(project, items, "--compare", "other", "--weights", "tiny", columns=columns).out.splitlines()
    assert all(columns_of(line) <= columns for line in lines) and lines[3].startswith("items.txt")


def test_without_a_file_the_held_out_text_is_measured(project, ask):
    report = json.loads(ask(project, "--weights=tiny", "--compare=other", "--json").out)
    text = corpus.open_corpus(project)[1]
    [file] = report["files"]
    assert (file["file"], file["tokens"]) == ("held-out text", text.val_tokens)
    comparison = report["comparison"]
    assert comparison["difference"] == pytest.approx(
        comparison["first_bits_per_byte"] - comparison["second_bits_per_byte"])
    assert comparison["first_bits_per_byte"] == pytest.approx(file["bits_per_byte"])


def test_a_text_without_words_has_figures_without_them(project, ask, tmp_path):
    (tmp_path / "blank.txt").write_text(" \n ", encoding="utf-8")
    [file] = json.loads(ask(project, tmp_path / "blank.txt", "--weights=tiny", "--json").out)["files"]
    assert (file["words"], file["bits_per_word"]) == (0, None) and file["bits_per_byte"] > 0
    assert ask(project, tmp_path / "blank.txt", "--weights=tiny", "--compare=other").out.count("-") >= 2


# --- Two models ---

def test_models_of_different_tokenizers_are_compared_word_by_word(project, ask, tmp_path, plays):
    path = text_both_know(tmp_path, plays)
    out = " ".join(ask(project, path, "--weights=tiny", "--compare=other").out.split())
    report = json.loads(ask(project, path, "--weights=tiny", "--compare=other", "--json").out)["comparison"]
    models = [folio.load(project.weights(name)) for name in ("tiny", "other")]
    whole = path.read_text(encoding="utf-8")
    for model, field in zip(models, ("first_bits_per_byte", "second_bits_per_byte")):
        measured = measure_document(model, whole, 16)
        assert report[field] == pytest.approx(measured.bits.sum() / len(whole.encode()))
    assert report["parts"] >= 20 and report["low"] <= report["difference"] <= report["high"]
    better, worse = ("tiny", "other") if report["difference"] < 0 else ("other", "tiny")
    assert report["low"] > 0 or report["high"] < 0, "the two models differ clearly on this text"
    assert f"weights-{better}.pth is better by {abs(report['difference']):.4f}, between" in out
    assert "more than the choice of this text explains" in out and f"weights-{worse}.pth is better" not in out


def test_a_difference_that_may_be_chance_is_called_that(project, ask, monkeypatch, tmp_path, plays):
    path = text_both_know(tmp_path, plays)
    shaken = np.random.default_rng(0)
    monkeypatch.setattr("folio.evaluation.studies.compare", lambda documents: compare(
        [(sizes, first, first + shaken.normal(size=len(first))) for sizes, first, _ in documents]))
    assert "it may be chance" in " ".join(ask(project, path, "--weights=tiny", "--compare=other").out.split())


def test_a_short_text_is_too_short_for_an_interval(project, ask, items):
    out = " ".join(ask(project, items, "--weights=tiny", "--compare=other").out.split())
    assert "The text is too short to say how much of that is chance: 20 parts of 512 bytes are the least" in out


# --- Errors ---

def test_what_cannot_be_measured_is_refused_and_no_table_is_written(project, ask, tmp_path, items):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "strange.txt").write_text("世", encoding="utf-8")
    table = tmp_path / "words.csv"
    for words, said in [(["empty.txt"], "There is nothing in"), (["itmes.txt"], "did you mean items.txt"),
                        (["items.txt", "--compare=tiny"], "names the weights that are measured already"),
                        (["items.txt", "--stride=99"], "would skip tokens"),
                        (["items.txt", "empty.txt"], "There is nothing in"),
                        (["strange.txt", "--compare=other"], "'世'")]:
        with pytest.raises((FolioError, OSError), match=said):
            ask(project, *(tmp_path / word if word.endswith("txt") else word for word in words), "--weights=tiny",
                "--csv", table)
        assert not table.exists()
    with pytest.raises(FileExistsError, match="is not a table with the columns"):
        ask(project, items, "--weights=tiny", "--csv", items)
    assert items.read_text(encoding="utf-8") == ITEMS


def test_an_earlier_table_is_replaced(project, ask, tmp_path, items):
    table = tmp_path / "words.csv"
    ask(project, items, "--weights=tiny", "--csv", table)
    before = table.read_bytes()
    ask(project, items, items, "--weights=tiny", "--csv", table)
    assert len(table.read_bytes()) > len(before)
    with pytest.raises(FileExistsError):
        ask(project, items, "--weights=tiny", "--csv-tokens", table)


def test_contradictory_flags_give_one_message(project, items):
    for flags, problem in ((["--csv=-", "--csv-tokens=-"], "cannot both go to standard output"),
                           (["--csv=a.csv", "--csv-tokens=./a.csv"], "cannot both go to a.csv"),
                           (["--text", items, "--csv=-"], "without --text")):
        done = run_python("-m", "folio.evaluate", "--home", project.folder, *flags, cwd=ROOT)
        assert problem in refusal(done, code=2)


def test_weights_without_a_project_need_a_file(project, ask, tmp_path, items):
    alone = Home(tmp_path / "alone")
    alone.saved_weights.mkdir(parents=True)
    alone.weights("tiny").write_bytes(project.weights("tiny").read_bytes())
    assert math.isfinite(json.loads(ask(alone, items, "--json").out)["files"][0]["bits_per_byte"])
    with pytest.raises(FolioError, match="Pass a file"):
        ask(alone, "--csv", tmp_path / "words.csv")
