"""Any number on a command line is accepted or refused with a message, never with a traceback."""

import sys
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

import init
import run
import train
from conftest import ROOT
from folio import evaluate, tokens
from folio.base.errors import FolioError
from folio.base.fields import takes_several, value_type
from folio.cli.command_line import Parser, chosen
from folio.data import corpus
from folio.training.loop import Run
from Model_Params import PRESETS, GenerationParams, ModelParams, Params, TextParams, TrainingParams

EXTREMES = ["0", "-0", "-1", "1", "8", "nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "1e9", "1" + 400 * "0",
            "-1" + 400 * "0", "9" * 5000, str(2**63), str(2**31), "", " ", "🦊", "1,5", "0x10", "None", "false", "--",
            "1e400", "٣"]
PARTS = (TextParams, ModelParams, TrainingParams, GenerationParams)
NUMBERS = {part: [each.name for each in fields(part) if value_type(each) in (int, float)] for part in PARTS}
NUMBERS[ModelParams].remove("vocab_size")           # the tokenizer decides it


def flag(name, word):
    return f"--{name.replace('_', '-')}={word}"


class Began(Exception):
    """Raised in place of a run's first step: all arguments have been accepted by then."""


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    from folio.base.home import Home
    made = Home(tmp_path_factory.mktemp("extremes"))
    made.train_data.mkdir()
    text = "Once upon a time there was a text. It had an end. " * 90
    (made.train_data / "input.txt").write_text(text, encoding="utf-8")
    corpus.open_corpus(made, TextParams(vocab_size=260))
    return made


@pytest.fixture(autouse=True)
def begin_only(monkeypatch):
    """Let no run take a step."""
    def begin(self):
        raise Began
    monkeypatch.setattr(Run, "train", begin)


@pytest.fixture
def door(monkeypatch, capsys):
    """Return a call of the main of a script: door(main, *words) -> "done", "began", or its message, which is short."""
    def call(main, *words):
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, words)])
        try:
            main()
        except FolioError as error:
            return str(error)
        except Began:
            return "began"
        except SystemExit as stopped:
            message = capsys.readouterr().err
            assert stopped.code == 2 and message.count("\n") <= 4, message
            return message
        return "done"
    return call


@given(st.sampled_from([(part, each) for part in PARTS for each in fields(part)]),
       st.sampled_from(EXTREMES) | st.integers().map(str) | st.floats().map(repr) | st.text(max_size=9))
def test_any_value_of_any_field_is_taken_or_refused(field, word):
    part, each = field
    parser = Parser("A test.", free_text=["--stop"])
    parser.add_configuration()
    parser.add_fields("all", part)
    try:
        values = parser.settings(parser.parse([flag(each.name, word)]), part)
        parser.check(chosen(part(), values))
    except SystemExit as stopped:
        assert stopped.code == 2
    else:
        value = values[each.name]
        assert isinstance(value, tuple) if takes_several(each) else isinstance(value, value_type(each))


@pytest.mark.parametrize("name", [*NUMBERS[TrainingParams], *NUMBERS[ModelParams]])
def test_training_begins_or_refuses(name, learned, door):
    small = {"emb_len": 8, "num_heads": 1, "num_layers": 1, "hidden_len": 8, "block_size": 8, "threads": 1}
    small.pop(name, None)
    given = [flag(*pair) for pair in small.items()]
    began = 0
    for word in EXTREMES:
        ended = door(train.main, "--home", learned.folder, *given, flag(name, word))
        began += ended == "began"
        names = (name, "batch_size", "decay")
        assert ended == "began" or any(part in ended.replace("-", "_") for part in names), (word, ended)
    assert began            # some of them are valid


@pytest.mark.parametrize("name", NUMBERS[GenerationParams])
def test_generation_answers_or_refuses(name, door):
    done = 0
    for word in EXTREMES:
        short = [] if name == "tokens" else ["--tokens=2"]
        if name == "tokens" and word in ("1" + "0" * 9, str(2**31)):
            continue        # it would take forever
        ended = door(run.main, "Once", *short, flag(name, word), *(["--beams=2"] if name == "length_penalty" else []))
        done += ended == "done"
        assert ended == "done" or name in ended.replace("-", "_"), (word, ended)
    assert done


@pytest.mark.parametrize("name", NUMBERS[TextParams])
def test_a_text_is_prepared_or_refused(name, door, home):
    for word in EXTREMES:
        made = home("Once upon a time. " * 50)
        ended = door(init.main, "--home", made.folder, flag(name, word))
        assert ended == "done" or name in ended.replace("-", "_") or "too short" in ended, (word, ended)


@pytest.mark.parametrize("main, words", [(run.main, ["Once", "--tokens=2", "--samples"]),
                                         (evaluate.main, ["--samples"]), (evaluate.main, ["--stride"]),
                                         (tokens.main, ["Once", "--lines"])])
def test_a_number_that_is_no_field_is_taken_or_refused(main, words, door, learned):
    *before, name = words
    if main is evaluate.main:           # weights from elsewhere, on the held-out text of this project
        before = ["--home", learned.folder, "--weights", ROOT / "Saved_Weights" / "weights-pretrained.pth"]
    for word in EXTREMES:
        if main is evaluate.main and word in ("1", "8", "٣"):
            continue        # it would generate and measure for long
        ended = door(main, *before, flag(name[2:], word))
        assert ended == "done" or name in ended, (word, ended)
        if word == "1" + "0" * 400:
            assert f"{name}: 10000000000000000000... is above the largest value possible" in ended


@pytest.mark.parametrize("words, said", [
    (["--minutes", "1e308"], "minutes=1e+308 is above the largest value possible, 10000000.0."),
    (["--epochs", "1e308"], "epochs=1e+308 is above the largest value possible, 1000000.0."),
    (["--steps", "1" + 400 * "0"], "steps=10000000000000000000... is above the largest value possible, 1000000000000."),
])
def test_a_run_of_no_end_is_refused_with_the_longest_there_is(words, said, door, learned):
    assert said in door(train.main, "--home", learned.folder, *words)


def test_a_value_that_is_too_small_is_told_what_leaving_it_out_means():
    assert list(GenerationParams(top_k=0).problems()) == [
        "top_k=0 is below the smallest value possible, 1. Leave it out for the default: all."]
    assert list(TrainingParams(batch_size=0).problems()) == ["batch_size=0 is below the smallest value possible, 1."]
    assert not list(Params().problems()) and "default" in PRESETS
