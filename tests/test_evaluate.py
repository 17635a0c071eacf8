"""python -m folio.evaluate: figures equal a plain computation, and the report states what could not be measured."""

import gzip
import json
import lzma
import math
import os
import re
import shutil
import sys
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import folio
from conftest import ROOT, refusal, run_python
from folio import evaluate
from folio.base.errors import FolioError
from folio.base.home import Home
from folio.base.lines import columns as columns_of
from folio.base.lines import table
from folio.base.visible import on_one_line
from folio.data import corpus
from folio.evaluation import baselines, bits_per_byte, copying
from folio.evaluation.texts import read_text
from folio.formats import checkpoint
from folio.training import runs
from Model_Params import ModelParams, Params, TextParams, TrainingParams
from tokenizer import CharTokenizer


def trained(folder, text_params, text):
    """Make a home with a tiny model trained for 30 steps on a text."""
    made = Home(folder)
    made.train_data.mkdir()
    (made.train_data / "input.txt").write_text(text, encoding="utf-8", newline="\n")
    tokenizer, prepared = corpus.open_corpus(made, text_params)
    params = Params(text_params, ModelParams(emb_len=16, num_layers=1, num_heads=2, block_size=32),
                    TrainingParams(steps=30, minutes=None, batch_size=8, learning_rate=0.01, threads=1, sample_tokens=0,
                                   device="cpu", precision="fp32", compile=False))
    with runs.new_run(made, "tiny", params, tokenizer, prepared, time.perf_counter(), say=lambda message: None) as run:
        run.train()
    return made


@pytest.fixture(scope="module")
def project(tmp_path_factory, plays):
    return trained(tmp_path_factory.mktemp("bpe"), TextParams(vocab_size=300), plays[:20_000])


@pytest.fixture(scope="module")
def characters(tmp_path_factory, plays):
    return trained(tmp_path_factory.mktemp("char"), TextParams(tokenizer="char"), plays[:20_000])


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run the command in this process: ask(home, "--json") -> its output"""
    def run(home, *words, columns=80):
        monkeypatch.setattr(sys, "argv", ["evaluate", "--home", str(home.folder), "--samples=2", "--tokens=50",
                                          *map(str, words)])
        monkeypatch.setenv("COLUMNS", str(columns))
        evaluate.main()
        return capsys.readouterr().out
    return run


@pytest.fixture
def tell(ask):
    """Run it with --json: tell(home) -> dict"""
    return lambda home, *words: json.loads(ask(home, *words, "--json"))


@pytest.fixture
def copy_of(tmp_path):
    """Copy a home: copy_of(home) -> Home"""
    def make(home):
        shutil.copytree(home.folder, tmp_path / "copy")
        return Home(tmp_path / "copy")
    return make


def costs(model, tokens):
    """Compute the cost of each token, and whether it is the most likely one, window by window."""
    nats, right = [], []
    for start in range(0, len(tokens) - 1, model.net.params.block_size):
        window = torch.tensor(tokens[start:start + model.net.params.block_size + 1])
        with torch.inference_mode():
            likely = model.net(window[None, :-1])[0].double().log_softmax(-1)
        nats += [-row[token].item() for row, token in zip(likely, window[1:].tolist())]
        right += [row.argmax().item() == token for row, token in zip(likely, window[1:].tolist())]
    return nats, right


# --- How well it predicts ---

def test_figures_on_the_held_out_text_are_those_of_training(project, tell):
    report = tell(project)
    model, text = folio.load(project.weights("tiny")), corpus.open_corpus(project)[1]
    nats, right = costs(model, text.val.tolist())
    assert (report["weights"], report["step"]) == ("weights-tiny.pth", 30)
    assert (report["bytes"], report["tokens"]) == (text.val_bytes, text.val_tokens)
    assert report["bits_per_byte"] == pytest.approx(model.val_bpb, rel=1e-5)
    assert report["nats_per_byte"] == pytest.approx(sum(nats) / text.val_bytes, rel=1e-5)
    assert report["nats_per_token"] == pytest.approx(sum(nats) / text.val_tokens, rel=1e-5)
    assert report["perplexity_per_byte"] == pytest.approx(math.exp(sum(nats) / text.val_bytes), rel=1e-4)
    assert report["perplexity_per_token"] == pytest.approx(math.exp(sum(nats) / text.val_tokens), rel=1e-4)
    assert report["accuracy"] == pytest.approx(sum(right) / len(right)) and 0 < sum(right) < len(right)
    assert report["notes"] == [] and report["stride"] == 32


def test_the_yardsticks_learn_from_the_training_part_alone(project, tell, ask, plays):
    report, content = tell(project, "--samples", 0), plays[:20_000].encode()
    split = corpus.open_corpus(project)[1].train_bytes
    found = {each["name"]: each["bits_per_byte"] for each in report["baselines"]["measured"]}
    bits = baselines.order_bits(content[:split], content[split:], 5)
    assert [found[f"order-{order} model"] for order in (2, 3, 4, 5)] == pytest.approx(bits[2:])
    added = len(lzma.compress(content)) - len(lzma.compress(content[:split]))
    assert found["xz"] == pytest.approx(8 * added / (len(content) - split))
    shown = ask(project, "--samples", 0)
    assert re.search(rf"^xz +{found['xz']:.4f} +{report['bits_per_byte'] / found['xz']:.2f}$", shown, re.MULTILINE)
    assert f"in plain words: {report['quality']}\n" in shown and "have seen only" not in shown


def test_what_the_yardsticks_have_not_seen_is_said(project, ask, monkeypatch):
    monkeypatch.setattr(baselines, "LEARNED_BYTES", 5000)
    assert "The yardsticks have seen only the first 5,000 of 18,0" in ask(project, "--samples", 0)


def test_without_the_training_text_there_are_no_yardsticks(project, tell, copy_of, tmp_path):
    made = copy_of(project)
    shutil.rmtree(made.train_data)
    (tmp_path / "other.txt").write_text("A text.", encoding="utf-8")
    report = tell(made, "--text", tmp_path / "other.txt")
    assert (report["baselines"], report["quality"]) == (None, None)
    assert "Without the training text there are no yardsticks" in report["notes"][-1]


def test_with_a_stride_the_window_slides(project, tell):
    report = tell(project, "--stride", 4, "--samples", 0)
    model, text = folio.load(project.weights("tiny")), corpus.open_corpus(project)[1]
    expected = bits_per_byte.evaluate(model.net, text.val, text.val_bytes, block_size=32, batch_size=3, device="cpu",
                                      stride=4)
    assert report["stride"] == 4 and report["copying"] is None
    assert report["nats_per_byte"] == pytest.approx(expected.nats_per_byte, rel=1e-5)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_another_text_is_measured_as_the_python_interface_measures_it(project, tell, tmp_path, packed):
    content = "Grüße, 世界!\n\nA second paragraph: " * 9
    path = tmp_path / ("other.txt.gz" if packed else "other.txt")
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    report = tell(project, "--text", path)
    expected = folio.load(project.weights("tiny")).bits_per_byte(content)
    assert report["bits_per_byte"] == pytest.approx(expected, rel=1e-5)
    assert (report["text"], report["bytes"]) == (str(path), len(content.encode()))


def test_documents_are_separated_as_in_the_training_text(project, tmp_path):
    path = tmp_path / "two.txt"
    path.write_bytes(b"One.\n<|endoftext|>\nTwo.\n")
    model = folio.load(project.weights("tiny"))
    text, _ = read_text(model, path)
    # The model was trained on one document.
    assert text.bytes == 10 and model.tokenizer.decode(text.tokens.tolist()) == "\nOne.\nTwo.\n"
    parted = replace(model, opening=[model.tokenizer.end_of_text])
    text, _ = read_text(parted, path)
    assert text.bytes == 10 and model.tokenizer.decode(text.tokens.tolist()) == "<|endoftext|>One.\n<|endoftext|>Two.\n"


@pytest.mark.parametrize("content", ["x", "To be", "é"])
def test_a_text_may_be_shorter_than_a_window(project, tell, tmp_path, content):
    path = tmp_path / "short.txt"
    path.write_text(content, encoding="utf-8")
    report = tell(project, "--text", path)
    assert report["bytes"] == len(content.encode()) and report["nats_per_byte"] > 0
    assert [passage["text"] for passage in report["hardest"]] == [content]
    assert report["copying"]["held_out"]["bytes"] == len(content.encode())


def test_mended_bytes_are_reported(project, ask, tmp_path):
    path = tmp_path / "mended.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\xe4")
    report = ask(project, "--text", path, "--invalid-bytes", "replace", "--samples", 0)
    assert "Mended while reading: 1 x byte order mark." in report and "Mended while reading: 1 x CRLF." in report


# --- The hardest passages ---

def test_random_letters_in_a_text_are_its_hardest_passage(project, tell, tmp_path, plays):
    strange = "qZx#9\x1b[31m~kJw}{vvX"
    path = tmp_path / "strange.txt"
    path.write_text(plays[15_000:17_000] + strange + plays[17_000:19_000], encoding="utf-8", newline="\n")
    passage = tell(project, "--text", path)["hardest"][0]
    assert max(passage["tokens"], key=lambda token: token[1])[0] in strange
    assert strange in passage["text"] == "".join(text for text, _ in passage["tokens"])
    assert abs(passage["start"] - len(plays[15_000:17_000].encode())) < 48


# --- What is copied ---

def test_copies_are_those_of_a_search_of_the_training_text(project, tell):
    report = tell(project, "--samples", 3, "--tokens", 40, "--seed", 7)["copying"]
    model, (tokenizer, prepared) = folio.load(project.weights("tiny")), corpus.open_corpus(project)
    learned = tokenizer.decode_bytes(prepared.train.tolist())
    written = [model.complete("", sample, tokens=40, seed=7, temperature=1.0).encode() for sample in range(3)]
    lengths = [max(length for length in range(len(text) - start + 1) if text[start:start + length] in learned)
               for text in written for start in range(len(text))]
    assert report["written"]["bytes"] == report["held_out"]["bytes"] == len(lengths)
    assert report["written"]["longest"] == max(lengths)
    assert report["written"]["mean"] == pytest.approx(sum(lengths) / len(lengths))
    assert report["written"]["stretch"].encode() in learned
    assert any(report["written"]["stretch"].encode() in text for text in written)
    assert report["searched_bytes"] == report["train_bytes"] == prepared.train_bytes == len(learned)


def test_a_part_of_the_training_text_is_found_whole(project, plays):
    _, text = corpus.read_corpus(project)
    found = copying.measure_copying([plays[3_000:3_200].encode(), b"\x00\x01"], b"zzzz" * 100, text)
    assert found.written.longest == 200 and found.written.stretch == plays[3_000:3_200]
    assert found.written.mean == pytest.approx(sum(range(1, 201)) / 202)
    assert found.held_out.longest < 3


def test_of_a_large_text_only_a_part_is_searched_and_the_report_says_so(project, ask, monkeypatch):
    whole = ask(project)
    monkeypatch.setattr(corpus, "DECODED_AT_ONCE", 700)           # the size of the parts changes nothing
    assert ask(project) == whole and "Copies were looked for in" not in whole
    monkeypatch.setattr(copying, "SEARCHED_BYTES", 5_000)
    assert "Copies were looked for in the first 5,000 of " in " ".join(ask(project).split())


@pytest.mark.parametrize("words", [["--samples", 0], ["--tokens", 0]])
def test_without_generated_text_the_report_does_not_mention_copies(project, ask, words):
    assert "training text" not in ask(project, *words)


# --- What cannot be measured ---

def test_weights_without_a_project_are_measured_without_copying(project, tmp_path, ask):
    alone = Home(tmp_path / "alone")
    alone.saved_weights.mkdir(parents=True)
    shutil.copy(project.weights("tiny"), alone.weights("tiny"))
    path = tmp_path / "text.txt"
    path.write_text("I have the key.", encoding="utf-8")
    report = " ".join(ask(alone, "--text", path).split())
    assert "bits" in report and ("Without the training text there are no yardsticks, and copies cannot be searched "
                                 "for (") in report
    with pytest.raises(FolioError, match=r"no held-out text to measure on \(.*\). Pass a text: --text FILE"):
        ask(alone)


def test_weights_of_another_text_and_weights_of_an_unknown_text_get_different_notes(project, copy_of, tell, plays):
    home = copy_of(project)
    (home.train_data / "input.txt").write_text(plays[30_000:50_000], encoding="utf-8", newline="\n")
    [note] = tell(home)["notes"]
    assert note.startswith("These weights learned from another text than the training part of")
    contents = checkpoint.load(home.weights("tiny"))
    del contents["learned_from"]
    checkpoint.save(home.weights("tiny"), contents)
    [note] = tell(home)["notes"]
    assert note.startswith("These weights do not say which text they learned from")


def test_another_tokenizer_of_the_same_text_gives_no_note_and_nearly_the_same_figures(project, copy_of, tell):
    home = copy_of(project)
    expected = tell(home, "--samples", 0)
    corpus.open_corpus(home, TextParams(vocab_size=280))
    report = tell(home, "--samples", 0)
    assert report["notes"] == [] and report["bytes"] == expected["bytes"]
    # The tokens differ, and so do the windows.
    assert report["bits_per_byte"] == pytest.approx(expected["bits_per_byte"], rel=0.02)


# --- Nothing is written ---

def everything_in(home):
    """Return {path: (content, time of change)} of all files."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in home.folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["project", "characters"])
@pytest.mark.parametrize("text", [
    lambda plays: {"input.txt": plays[20_000:50_000]},
    lambda plays: {"input.txt": plays[:20_000].replace(" ", "  ")},
    lambda plays: {f"{number:02}.txt": plays[number * 1000:number * 1000 + 990] for number in range(30)},
    lambda plays: {"a.txt": plays[:1000], "b.txt": "", "c.txt": plays[:10_000], "d.txt": "", "e.txt": plays[:1000]},
], ids=["another text", "twice the spaces", "many documents", "empty ones"])
def test_a_changed_text_is_read_as_train_would_encode_it_and_nothing_is_written(request, copy_of, plays, kind, text):
    home = copy_of(request.getfixturevalue(kind))
    if kind == "characters":
        CharTokenizer(sorted(set(plays))).save(home.tokenizer)
    (home.train_data / "input.txt").unlink()
    for name, content in text(plays).items():
        (home.train_data / name).write_text(content, encoding="utf-8")
    before, said = everything_in(home), []
    tokenizer, found = corpus.read_corpus(home, say=said.append)
    assert everything_in(home) == before and len(said) == 1
    assert said[0] == (f"{home.tokens} has no tokens of the text that is there now. "
                       "The text itself is read instead; train.py will encode it.")
    expected = corpus.open_corpus(home, say=lambda message: None)[1]
    assert found.val.tolist() == expected.val.tolist()
    assert (found.val_bytes, found.train_bytes) == (expected.val_bytes, expected.train_bytes)
    assert found.training_part == expected.training_part
    assert b"".join(found.training_text()) == corpus.ordinary_bytes(tokenizer, expected.train)
    assert b"".join(corpus.read_corpus(home, say=pytest.fail)[1].training_text()) == b"".join(found.training_text())


@pytest.mark.parametrize("damage", ["damaged tokens", "no tokens", "another time", "no text"])
def test_evaluating_leaves_every_file_as_it_is(project, copy_of, tell, capsys, damage):
    home = copy_of(project)
    expected = tell(home)
    [path] = home.tokens.glob("*.npy")
    if damage == "damaged tokens":
        path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    elif damage == "no tokens":
        shutil.rmtree(home.tokens)
    elif damage == "another time":
        os.utime(home.train_data / "input.txt", (0, 0))
    else:
        (home.train_data / "input.txt").unlink()
    before = everything_in(home)
    report = tell(home)
    assert everything_in(home) == before
    assert {**report, "notes": 0} == {**expected, "notes": 0} and report["notes"] == []


def test_with_a_text_and_no_samples_the_project_is_not_read(project, copy_of, ask, tmp_path, monkeypatch):
    home = copy_of(project)
    path = tmp_path / "text.txt"
    path.write_text("I have the key.", encoding="utf-8")
    expected = ask(home, "--text", path, "--samples", 0)
    (home.train_data / "input.txt").write_bytes(b"\xff")
    monkeypatch.setattr(evaluate, "find_project", lambda home: pytest.fail("the project was read"))
    assert ask(home, "--text", path, "--samples", 0) == expected


# --- Display ---

@pytest.mark.parametrize("columns", [40, 80, 120])
def test_the_report_fits_the_terminal_and_cannot_control_it(project, ask, tmp_path, columns):
    path = tmp_path / "awkward.txt"
    path.write_text("Plain text. \x1b[2J\x07 中文中文中文 \u202eright to left\u202c\ttab\n" * 20, encoding="utf-8")
    lines = ask(project, "--text", path, columns=columns).splitlines()
    assert all(columns_of(line) <= columns for line in lines)
    assert all(line.isprintable() for line in lines)
    assert "\\x1b[2J" in "".join(lines) or columns == 40


@given(st.lists(st.tuples(st.text(alphabet="ab \n\x1b\ufffd中", max_size=4), st.floats(0, 12)), max_size=8),
       st.integers(8, 40))
def test_highlighting_changes_no_text_and_marks_only_costly_tokens(tokens, width):
    text = "".join(text for text, _ in tokens).strip("\ufffd")
    [line] = table([(on_one_line(text), "1.00")], "<>", width)
    warm = evaluate.highlighted(line, tokens)
    assert re.sub(r"\x1b\[[0-9;]*m", "", warm) == line
    if all(nats < 3 for _, nats in tokens):
        assert warm == line


def test_the_background_gets_warmer_with_the_cost():
    assert evaluate.highlighted("abcd  2.00", [("a", 2.9), ("b", 3.0), ("c", 6.5), ("d", 99.0)]) == (
        "a\x1b[48;5;230m\x1b[38;5;16mb\x1b[0m\x1b[48;5;223m\x1b[38;5;16mc\x1b[0m"
        "\x1b[48;5;217m\x1b[38;5;16md\x1b[0m  2.00")


def test_with_json_only_the_report_is_on_stdout(project):
    done = run_python("-m", "folio.evaluate", "--home", project.folder, "--json", "--weights", "tiny", "--samples", 1,
                      "--tokens", 20, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert {"bits_per_byte", "nats_per_byte", "perplexity_per_token", "perplexity_per_byte", "accuracy", "hardest",
            "copying"} <= report.keys()


# --- Errors ---

@pytest.mark.parametrize("content, said", [
    (b"", "There is nothing in"), (b"\xef\xbb\xbf", "There is nothing in"), (b"a\0b", "binary"),
    (b"caf\xe9 au lait", "--encoding windows-1252"),
    ("wide".encode("utf-16") + b"\0", "not utf-16 throughout"), (None, "There is no"),
])
def test_a_file_without_usable_text_is_refused_with_the_reason(project, tmp_path, ask, content, said):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((FolioError, FileNotFoundError), match=said):
        ask(project, "--text", path)


def test_a_character_that_a_character_model_does_not_know_is_named(characters, tmp_path, ask, tell):
    path = tmp_path / "text.txt"
    path.write_text("I have the key, 世界", encoding="utf-8")
    with pytest.raises(FolioError, match="'世'"):
        ask(characters, "--text", path)
    report = tell(characters)
    assert report["bytes"] >= report["tokens"] and report["copying"]["written"]["longest"] > 0


def test_a_wrong_flag_gives_one_message(project):
    flags = {"--stride=0": 2, "--samples=-1": 2, "--temperature=-1": 2, "--stride=99": 1, "--weights=nobody": 1,
             "--txt=a": 2}
    for flag, code in flags.items():
        said = refusal(run_python("-m", "folio.evaluate", "--home", project.folder, flag, cwd=ROOT), code)
        assert flag.partition("=")[0].strip("-") in said or "nobody" in said, said


def test_weights_that_are_not_finite_are_refused(project, copy_of, ask):
    home = copy_of(project)
    contents = checkpoint.load(home.weights("tiny"))
    contents["weights"]["head.weight"][0] = math.nan
    checkpoint.save(home.weights("tiny"), contents)
    with pytest.raises(FolioError, match="not finite"):
        ask(home, "--samples", 0)
