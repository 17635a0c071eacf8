"""Presets, files of settings and flags: in that order, by one name each, and whatever is wrong is said together before
anything is made.
"""

import json
import re
import sys
import time
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import init
import run as run_door
import train
from conftest import FullDisk, refusal, run_script
from folio.base import spelling
from folio.base.errors import FolioError
from folio.base.fields import value_type
from folio.cli import configuration
from folio.cli.command_line import Parser, chosen
from folio.data import corpus, paths
from folio.formats import checkpoint
from folio.networks import build as networks
from folio.training import runs
from Model_Params import (
    PRESETS,
    SHORT_NAMES,
    GenerationParams,
    ModelParams,
    Params,
    TextParams,
    TrainingParams,
    TuningParams,
)
from tokenizer import load

SMALL = ("--emb-len 16 --num-layers 1 --num-heads 2 --block-size 16 --batch-size 4 --threads 1 --precision fp32 "
         "--sample-tokens 0").split()
# What LLM-V0 keeps in its own file.
LLM_V0 = {"data_file": "shakespeare.txt", "seq_length": 64, "batch_size": 32, "embedding_dim": 64, "hidden_dim": 128,
          "learning_rate": 0.001}


@pytest.fixture
def file(tmp_path):
    """Makes files of settings: file({"steps": 5}), or file("text as it is"), or file(b"bytes") -> path"""
    def make(content):
        path = tmp_path / "settings.json"
        content = json.dumps(content) if isinstance(content, dict) else content
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return path
    return make


@pytest.fixture
def door(monkeypatch, capsys):
    """The main of a script in this process: door(train, home, "--steps", 5) -> what it printed"""
    def call(script, home, *words):
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", "--home", str(home.folder), *map(str, words)])
        capsys.readouterr()
        assert not script.main()
        return capsys.readouterr().out
    return call


@pytest.fixture
def refused(door, capsys):
    """The message with which a script turns words down with exit code 2, before it makes anything."""
    def call(script, home, *words):
        with pytest.raises(SystemExit) as stopped:
            door(script, home, *words)
        assert stopped.value.code == 2
        assert not home.saved_weights.exists()
        return capsys.readouterr().err
    return call


@pytest.fixture
def read(file):
    """What a text says as a file of settings: read("{}") -> values, problems"""
    return lambda text: configuration.load(file(text))


# --- What a file of settings may look like ---

@pytest.mark.parametrize("text, words", [
    ("", "is empty"),
    (" \n", "is empty"),
    ("[1, 2]", "should be one object of settings"),
    ('"steps"', "should be one object of settings"),
    ('{"steps": 5, // as long as it takes\n "seed": 1}', "line 1, column 14: JSON has no comments"),
    ('{"steps": 5,\n # seeds\n "seed": 1}', "line 2, column 2: JSON has no comments"),
    ('{"steps": /* many */ 5}', "line 1, column 11: JSON has no comments"),
    ('// mine\n{"steps": 5}', "line 1, column 1: JSON has no comments"),
    ('{"steps": 5}\n# end', "line 2, column 1: JSON has no comments"),
    ('{"steps": 5,\n}', "the last setting has a comma behind it"),
    ("{'steps': 5}", "double quotes"),
    ('{"query_key_norm": True}', "line 1, column 20: JSON writes True as true."),
    ('{"patience": None}', "JSON writes None as null."),
    ('{"steps" 5}', "line 1, column 10: this is not JSON"),
    ('{"steps": 5', "this is not JSON"),
    ('{"dropout": NaN}', "JSON has no number NaN"),
    ("[" * 100_000, "cannot be used"),
    (b'{"steps": \xff}', "is not in UTF-8: its byte 10"),
    ('{"steps": 5}'.encode("utf-16"), "is not in UTF-8"),
])
def test_a_file_that_is_no_json_is_explained(text, words, read):
    values, [problem] = read(text)
    assert values == {} and "settings.json" in problem and words in problem


def test_a_file_that_is_not_there_or_is_a_folder_is_explained(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        values, [problem] = configuration.load(path)
        assert values == {} and str(path) in problem and "cannot be read" in problem and "--save-config" in problem


def test_a_byte_order_mark_is_no_mistake(read):
    assert read('\ufeff{"steps": 5}') == ({"steps": 5}, [])


def test_all_names_that_are_wrong_are_said_together_each_with_the_right_one(read):
    values, problems = read('{"steps": 5, "steps": 6, "emb_length": 1, "n_layer": 2, "emb-len": 3, "zzzz": 4, '
                            '"model": {"dropout": 0.1}, "lr": 1}')
    assert [problem.partition("settings.json: ")[2] for problem in problems] == [
        "steps is there 2 times; keep one.", "there is no setting emb_length; did you mean emb_len?",
        "there is no setting n_layer; that is num_layers here",
        "there is no setting emb-len; did you mean emb_len?", "there is no setting zzzz",
        "there is no setting model; settings stand side by side, not in groups",
        "there is no setting lr; that is learning_rate here"]


def test_the_names_of_llm_v0_are_answered_with_ours(read):
    values, problems = read(LLM_V0)
    assert values == {"batch_size": 32, "learning_rate": 0.001}
    told = "\n".join(problems)
    for words in ("data_file; the text is named to init.py", "seq_length; that is block_size here",
                  "embedding_dim; that is emb_len here",
                  "hidden_dim; that is hidden_len here"):
        assert words in told


def test_what_others_call_our_fields_leads_to_a_field_and_hides_none():
    assert set(spelling.OTHER_NAMES.values()) <= configuration.NAMES
    assert not configuration.NAMES & {*spelling.OTHER_NAMES, *spelling.ELSEWHERE}
    assert not spelling.OTHER_NAMES.keys() & spelling.ELSEWHERE.keys()


def test_of_thousands_of_names_that_are_wrong_the_first_ten_are_said_and_how_many_more(read):
    names = {f"their_own_{number}": number for number in range(5000)}
    values, problems = read(json.dumps(names | {"steps": 5}))
    assert values == {"steps": 5} and len(problems) == 11
    assert problems[9].endswith("there is no setting their_own_9")
    assert problems[10].endswith("settings.json: and so on, 4,990 more mistakes")
    assert len(read(json.dumps(dict(list(names.items())[:10])))[1]) == 10


# --- Values ---

@pytest.mark.parametrize("name, value",
                         [("steps", 5.0), ("steps", True), ("steps", "5"), ("steps", [5]), ("learning_rate", "0.1"),
                          ("learning_rate", False),
                          ("compile", 1), ("tensorboard", "no"), ("device", 0), ("seed", None), ("vocab_size", "many"),
                          ("tokenizer", 3),
                          ("block_size", {"tokens": 3})])
def test_a_value_of_another_type_is_named_with_everything_else(name, value, file, refused, home):
    message = refused(train, home("text"), "--config", file({name: value, "emb_length": 3, "batch_size": 0}))
    assert f"{name}=" in message and "did you mean emb_len?" in message and "batch_size=0" in message
    assert message.count("\n") == 4


def test_a_whole_number_is_a_number():
    assert not list(TrainingParams(learning_rate=1).problems())


@pytest.mark.parametrize("words", [[], ["--resume"], ["--start-from", "x"]])
@pytest.mark.parametrize("settings", [{"block_size": "wide"}, {"n_head": 3}])
def test_a_file_is_looked_at_before_anything_else(words, settings, file, refused, home):
    assert next(iter(settings)) in refused(train, home("text"), *words, "--config", file(settings))


def test_steps_and_minutes_from_one_place_contradict_each_other_and_from_two_the_later_counts(file, refused, home):
    assert "steps or minutes" in refused(train, home("text"), "--config", file({"steps": 5, "minutes": 1.0}))
    parser = Parser("A test.")
    parser.add_configuration()
    parser.add_fields("training", TrainingParams)

    def length(settings, *words):
        flags = parser.settings(parser.parse(["--config", str(file(settings)), *words]), TrainingParams)
        training = chosen(PRESETS["shakespeare-10m"].training, flags)
        return training.steps, training.minutes
    assert length({"minutes": 2.0}) == (None, 2.0)
    assert length({"minutes": 2.0}, "--steps", "7") == (7, None)
    assert length({"steps": 3, "minutes": None}) == (3, None)
    assert length({"seed": 3}) == (5000, None)


# --- Preset, file, flags ---

def test_flags_go_before_the_file_and_the_file_before_the_preset(file, door, home, plays):
    made = home(plays[:3000])
    out = door(train, made, *SMALL, "--verbose", "--preset", "personal", "--config",
               file({"steps": 3, "batch_size": 2, "num_heads": 1, "temperature": 3.0}))
    assert "personal: 3 steps" in out and "batch_size=4" in out and "num_heads=2" in out
    assert "learning_rate=0.001" in out
    assert checkpoint.load(made.weights("personal"))["training"]["steps"] == 3


def test_what_was_saved_makes_the_same_run_again(door, home, plays, tmp_path):
    made, path = home(plays[:3000]), tmp_path / "new" / "saved.json"
    door(train, made, *SMALL, "--steps", 3, "--tokenizer", "char", "--name", "run", "--save-config", path)
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert saved.keys() == {each.name for part in (TextParams, ModelParams, TrainingParams, TuningParams)
                             for each in fields(part)}
    # for another machine
    assert saved["device"] == "auto" and saved["num_kv_heads"] is None and (saved["steps"],
                                                                            saved["minutes"]) == (3, None)
    second = door(train, made, "--preset", "micropgpt", "--config", path, "--name", "run", "--save-config", path)
    assert "this one is run-2" in second and json.loads(path.read_text(encoding="utf-8")) == saved
    assert checkpoint.load(made.weights("run"))["training"] == checkpoint.load(made.weights("run-2"))["training"]
    one, other = (checkpoint.load(made.weights(name))["weights"] for name in ("run", "run-2"))
    assert checkpoint.checksum(one) == checkpoint.checksum(other)
    assert "resuming after step 3" in door(train, made, "--resume", "--name", "run", "--config", path, "--steps", 4)
    with pytest.raises(FolioError, match="seed is 1, not 2"):
        door(train, made, "--resume", "--name", "run", "--config", path, "--steps", 5, "--seed", 2)
    tuned = door(train, made, "--start-from", "run", "--steps", 2, "--save-config", path, "--verbose", *SMALL[8:])
    assert "learning_rate=0.0015" in tuned
    with pytest.raises(FolioError, match="val_fraction is 0.1, not 0.3"):
        door(train, made, "--start-from", "run", "--val-fraction", 0.3)
    again = door(train, made, "--start-from", "run", "--config", path, "--verbose")
    assert [line for line in again.splitlines() if "learning_rate" in line] == [line for line in tuned.splitlines()
                                                                                if "learning_rate" in line]


def test_settings_saved_where_init_prepared_the_text_tell_how(door, home, plays, tmp_path):
    made, path = home(plays[:3000]), tmp_path / "saved.json"
    corpus.open_corpus(made, TextParams(tokenizer="char", val_fraction=0.2))
    door(train, made, *SMALL, "--steps", 1, "--save-config", path)
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert (saved["tokenizer"], saved["val_fraction"]) == ("char", 0.2)
    assert "this one is default-2" in door(train, made, "--config", path)


PARTS = {"training": TrainingParams, "model": ModelParams, "text": TextParams, "generation": GenerationParams}


@given(st.sampled_from(sorted(PARTS)), st.data())
def test_any_settings_come_back_as_they_were_saved(tmp_path_factory, part, data):
    kinds = {bool: st.booleans(), int: st.integers(-2**70, 2**70),
             float: st.floats(allow_nan=False, allow_infinity=False), str: st.text()}
    values = data.draw(st.fixed_dictionaries({},
                                             optional={each.name: st.none() | kinds[value_type(each)]
                                                       for each in fields(PARTS[part])}))
    path = tmp_path_factory.getbasetemp() / "any.json"
    configuration.save(path, values)
    assert configuration.load(path) == (values, [])


def test_a_full_disk_leaves_the_old_file(file, monkeypatch):
    path = file({"steps": 5})
    monkeypatch.setattr("os.fsync", FullDisk(good_calls=0))
    with pytest.raises(OSError):
        configuration.save(path, {"steps": 6})
    assert configuration.load(path) == ({"steps": 5}, []) and list(path.parent.glob("*.tmp")) == []


def test_init_and_run_take_their_own_settings_from_the_same_file(file, door, home, plays, tmp_path, capsys):
    made = home(plays[:3000])
    shared = file({"tokenizer": "char", "val_fraction": 0.2,
                   **{"steps": 2, "emb_len": 8, "num_heads": 1, "num_layers": 1}, "tokens": 4, "temperature": 0.0})
    door(init, made, "--config", shared, "--save-config", tmp_path / "text.json")
    assert json.loads((tmp_path / "text.json").read_text(encoding="utf-8")) == asdict(TextParams(tokenizer="char",
                                                                                                 val_fraction=0.2))
    door(train, made, "--config", shared)
    written = door(run_door, made, "a", "--config", shared, "--save-config", tmp_path / "generation.json")
    assert len(written.rstrip("\n")) == len("a") + 4
    assert configuration.load(tmp_path / "generation.json") == (asdict(GenerationParams(tokens=4, temperature=0.0)), [])
    for script, settings in ((init, {"vocab_size": 3}), (run_door, {"temperature": "hot"})):
        with pytest.raises(SystemExit) as stopped:
            door(script, made, "--config", file(settings))
        assert stopped.value.code == 2 and next(iter(settings)) in capsys.readouterr().err


# --- One file for all three scripts ---

HAND_WRITTEN = {"tokenizer": "char", "val_fraction": 0.2, "emb_len": 8, "num_heads": 1, "num_layers": 1,
                "block_size": 16, "steps": 2, "seed": 3,
                "precision": "fp32", "threads": 1, "tokens": 4, "temperature": 0.9, "sampling_seed": 5,
                "weight_precision": "int8"}


def test_no_name_is_a_field_of_training_and_of_generation():
    parts = [{each.name for each in fields(part)}
             for part in (TextParams, ModelParams, TrainingParams, GenerationParams)]
    shared = {name for place, part in enumerate(parts) for others in parts[place + 1:] for name in part & others}
    assert shared == {"vocab_size"}             # of a text and of its model: the same number
    assert {*SHORT_NAMES} <= parts[2] and {*SHORT_NAMES.values()} <= parts[3]


def test_a_file_that_one_script_wrote_serves_all_three(door, home, plays, tmp_path, file):
    written, shared = {}, file(HAND_WRITTEN)
    first = home(plays[:3000])
    for script, words in ((init, []), (train, []), (run_door, ["a"])):
        written[script] = tmp_path / f"{script.__name__}.json"
        door(script, first, *words, "--config", shared, "--save-config", written[script])
    saved = {script: json.loads(path.read_text(encoding="utf-8")) for script, path in written.items()}
    assert (saved[train]["seed"], saved[train]["precision"], saved[train]["val_fraction"]) == (3, "fp32", 0.2)
    assert (saved[run_door]["sampling_seed"], saved[run_door]["weight_precision"],
            saved[run_door]["tokens"]) == (5, "int8", 4)
    for writer, path in written.items():
        made = home(plays[:3000])
        again = {script: tmp_path / f"{script.__name__}-again.json" for script in written}
        door(init, made, "--config", path, "--save-config", again[init])
        door(train, made, *SMALL, "--steps", 1, "--config", path, "--save-config", again[train])
        door(run_door, made, "a", "--tokens", 1, "--config", path, "--save-config", again[run_door])
        found = json.loads(again[writer].read_text(encoding="utf-8"))
        flags = {"emb_len", "num_heads", "block_size", "batch_size", "sample_tokens", "steps", "tokens", "vocab_size"}
        assert {name: value for name, value in found.items() if name not in flags} == \
            {name: value for name, value in saved[writer].items() if name not in flags}


@pytest.mark.parametrize("settings, renamed", [
    (dict(tokens=5, stop=[], precision="float32", seed=None),
     dict(tokens=5, stop=(), weight_precision="float32", sampling_seed=None)),
    (dict(precision="int8", seed=7), dict(weight_precision="int8", sampling_seed=7)),
    (dict(temperature=0.5, seed=7), dict(temperature=0.5, sampling_seed=7)),
    (dict(tokens=5, steps=10, seed=7), dict(tokens=5, steps=10, seed=7)),
    (dict(tokens=5, emb_len=16, precision="int8", seed=7), dict(tokens=5, emb_len=16, weight_precision="int8", seed=7)),
    (dict(tokens=5, precision="fp32", seed=7), dict(tokens=5, precision="fp32", seed=7)),
    (dict(seed=7), dict(seed=7)),
    (dict(seed=7, sampling_seed=8, tokens=1), dict(seed=7, sampling_seed=8, tokens=1)),
])
def test_a_file_that_run_wrote_before_its_two_fields_had_names_of_their_own_is_read(settings, renamed, file):
    assert configuration.load(file(settings)) == (renamed, [])


def test_run_takes_the_short_names_too_and_says_so_in_help(door, home, plays, tmp_path):
    made, path = home(plays[:3000]), tmp_path / "saved.json"
    door(train, made, *SMALL, "--steps", 1, "--tokenizer", "char")
    short = door(run_door, made, "a", "--tokens", 9, "--seed", 5, "--precision", "int8", "--save-config", path)
    assert short == door(run_door, made, "a", "--tokens", 9, "--sampling-seed", 5, "--weight-precision", "int8")
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert (saved["sampling_seed"], saved["weight_precision"]) == (5, "int8") and not saved.keys() & {*SHORT_NAMES}
    listed = run_script("run.py", "--help").stdout
    assert "--sampling-seed N, --seed N" in listed
    assert re.search(r"--weight-precision float32\|int8, --precision\s+float32\|int8", listed)


def test_a_short_name_and_the_full_one_are_not_given_together():
    with pytest.raises(FolioError, match="seed is short for sampling_seed, and both are given"):
        spelling.by_full_name({"seed": 1, "sampling_seed": 1}, SHORT_NAMES)


def test_a_flag_by_another_programs_name_is_answered_with_ours(home):
    message = refusal(run_script("train.py", "--home", home("text").folder, "--n-layer", 3, "--hidden_dim", 5,
                                 "--max-iters", 3), code=2)
    for words in ("--n-layer; that is --num-layers here", "--hidden-dim; that is --hidden-len here",
                  "--max-iters; that is --steps here"):
        assert words in message


# --- Presets prepare what is missing ---

def test_the_presets_have_the_parameters_that_their_projects_tell():
    def parameters(name, vocab_size):
        return networks.count_parameters(networks.build_network(replace(PRESETS[name].model, vocab_size=vocab_size)))
    assert parameters("personal", 65) == 209_729            # its page says about 85 thousand
    assert parameters("shakespeare-10m", 65) == 10_788_929
    assert 3.9e6 < parameters("llm-example", PRESETS["llm-example"].text.vocab_size) < 4.2e6
    micropgpt = PRESETS["micropgpt"]
    assert (micropgpt.model.emb_len, micropgpt.model.num_heads, micropgpt.model.num_layers,
            micropgpt.model.block_size) == (384, 4, 4, 128)
    assert (micropgpt.training.batch_size, micropgpt.training.learning_rate, micropgpt.training.steps,
            micropgpt.training.optimizer,
            micropgpt.text.val_fraction) == (32, 3e-4, 3000, "adamw", 0.2)


def tiny_shakespeare_of(monkeypatch, text):
    """Let this be the text that is known as tiny shakespeare."""
    from hashlib import sha256
    monkeypatch.setattr(paths, "TINY_SHAKESPEARE_SHA256", sha256(text).hexdigest())


def test_one_command_prepares_trains_and_writes(monkeypatch, door, home, plays):
    monkeypatch.setattr(paths, "OWN", home(plays[:3000]))
    made = home({})
    out = door(train, made, "--preset", "personal", "--steps", 2, *SMALL[8:])
    assert out.startswith(f"There was no text in {made.train_data}; {paths.OWN.train_data / 'input.txt'} is copied "
                          f"there.\nLearned a char tokenizer")
    quality, _, rest = out.partition(f"are in {made.weights('personal')}\n")[2].partition("\n\n")
    written = rest.rpartition(f"\n\nNext: python run.py --home {made.folder}\n")[0]
    assert quality.startswith("Quality: ")
    assert len(written) == 500 and set(written) <= set(plays[:3000])
    before = {path: path.read_bytes() for folder in (made.tokens, made.tokenizer) for path in folder.iterdir()}
    again = door(train, made, "--preset", "personal", "--steps", 2, *SMALL[8:], "--closing-tokens", 0)
    assert "Learned" not in again and "this one is personal-2" in again and "are in " in again and written not in again
    assert before == {path: path.read_bytes() for folder in (made.tokens, made.tokenizer) for path in folder.iterdir()}


def test_a_preset_takes_the_homes_own_text_then_tiny_shakespeare_then_the_plays(monkeypatch, home, capsys):
    own, text = home({"input.txt": "the plays " * 50}), b"tiny shakespeare " * 50
    monkeypatch.setattr(paths, "OWN", own)
    tiny_shakespeare_of(monkeypatch, text)
    monkeypatch.setattr("urllib.request.urlopen", lambda *how, **more: pytest.fail("a preset downloads nothing"))

    def taken(made):
        paths.supply_text(made)
        return (made.train_data / "input.txt").read_bytes()
    assert taken(home("mine")) == b"mine"
    assert taken(home({})) == b"the plays " * 50
    own.downloads.mkdir()
    (own.downloads / "tinyshakespeare.txt").write_bytes(text)
    assert taken(home("mine")) == b"mine" and taken(home({})) == text
    assert taken(home({"downloads/tinyshakespeare.txt": text})) == text
    with pytest.raises(FolioError, match="is not tinyshakespeare"):
        taken(home({"downloads/tinyshakespeare.txt": text[:-1]}))


@pytest.mark.parametrize("made_with, wanted, words", [
    (TextParams(vocab_size=270), {"--preset": "personal"}, "tokenizer is bpe, not char"),
    (TextParams(vocab_size=270), {"--preset": "llm-example"}, "vocab_size is 270, not 1024"),
    (TextParams(vocab_size=270, pattern="gpt2"), {"--preset": "default"}, "pattern is gpt2, not qwen2"),
    (TextParams(tokenizer="char"), {"--preset": "micropgpt"}, "val_fraction is 0.1, not 0.2"),
    (TextParams(tokenizer="char", val_fraction=0.2), {"--preset": "default"},
     "tokenizer is char, not bpe; val_fraction is 0.2, not 0.1"),
    (TextParams(tokenizer="char"), {"--val-fraction": 0.3}, "val_fraction is 0.1, not 0.3"),
])
def test_what_was_prepared_otherwise_is_named_and_never_replaced(made_with, wanted, words, home, door, plays):
    made = home(plays[:3000])
    corpus.open_corpus(made, made_with)
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    with pytest.raises(FolioError) as stopped:
        door(train, made, *(word for pair in wanted.items() for word in pair))
    assert f"wanted: {words}. " in str(stopped.value) and "--home DIR" in str(stopped.value)
    assert before == {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}


def test_what_a_preset_prepared_for_a_text_too_small_for_it_is_what_it_wanted(home, plays):
    made, wanted = home(plays[:3000]), asdict(PRESETS["llm-example"].text)
    tokenizer, text = corpus.open_corpus(made, wanted=wanted, say=lambda text: None)
    assert tokenizer.vocab_size < 1024
    assert corpus.open_corpus(made, wanted=wanted, say=pytest.fail)[1].fingerprint == text.fingerprint
    with runs.new_run(made, "test", Params(text.text, ModelParams(emb_len=16), TrainingParams(steps=1, minutes=None)),
                      tokenizer, text, time.perf_counter(),
                      say=lambda text: None) as run:
        run.save_resume()
    with runs.resumed_run(made, "test", None, {"vocab_size": 1024}, tokenizer, text, time.perf_counter(),
                          say=lambda text: None):
        pass


def test_the_tokenizer_that_is_there_encodes_the_text_with_the_presets_share_held_out(home, plays):
    made = home(plays[:3000])
    corpus.open_corpus(made, TextParams(tokenizer="char"))
    for path in made.tokens.iterdir():
        path.unlink()
    text = corpus.open_corpus(made, wanted=asdict(PRESETS["micropgpt"].text), say=lambda text: None)[1]
    assert text.text.val_fraction == 0.2 and text.val_bytes == pytest.approx(0.2 * 3000, rel=0.02)


def test_a_text_from_elsewhere_is_found_again_where_the_tokenizer_alone_is_gone(home, plays, tmp_path):
    made, elsewhere = home({}), tmp_path / "elsewhere.txt"
    elsewhere.write_text(plays[:3000], encoding="utf-8", newline="\n")
    before = corpus.open_corpus(made, TextParams(tokenizer="char"), [elsewhere])[1]
    for path in made.tokenizer.iterdir():
        path.unlink()
    assert corpus.open_corpus(made, wanted={"tokenizer": "char"},
                              say=lambda text: None)[1].fingerprint == before.fingerprint
    assert not (made.train_data / "input.txt").exists()


def test_init_prepares_what_a_preset_wants_and_says_how_to_go_on(home, plays, door):
    made = home(plays[:3000])
    assert door(init, made, "--preset",
                "micropgpt").endswith(f"Next: python train.py --preset micropgpt --home {made.folder}\n")
    assert load(made.tokenizer).kind == "char"
    assert corpus.open_corpus(made, wanted=asdict(PRESETS["micropgpt"].text), say=pytest.fail)


def test_without_a_preset_nothing_is_prepared(home):
    made = home("text " * 100)
    assert "Make one first: python init.py" in refusal(run_script("train.py", "--home", made.folder))
    assert not made.tokenizer.exists()


def test_saving_the_settings_of_a_run_that_goes_on_is_refused(home, refused, tmp_path):
    assert "--save-config writes what a new run" in refused(train, home("text"), "--resume", "--save-config",
                                                            tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


# --- What is there already ---

@pytest.mark.parametrize("script, words",
                         [("init.py", ["--vocab-size", 300]), ("train.py", ["--steps", 1]), ("run.py", ["Once"])])
@pytest.mark.parametrize("content", ["Once upon a time.", '{"chapters": 3}', "[1, 2]", "\x00" * 99, "[" * 100_000])
def test_settings_are_saved_over_nothing_but_settings(script, words, content, home):
    made = home("Once upon a time. " * 90)
    novel = made.folder / "novel.txt"
    novel.write_text(content, encoding="utf-8")
    message = refusal(run_script(script, "--home", made.folder, *words, "--save-config", novel))
    assert "novel.txt exists, and is not a file of settings, as --save-config writes; it was left as it is." in message
    assert novel.read_text(encoding="utf-8") == content and not made.tokenizer.exists()
    assert not made.saved_weights.exists()


def test_settings_may_be_saved_over_older_settings_and_an_empty_file_but_not_a_folder(file, tmp_path):
    for content in ({"steps": 5, "emb_length": 3}, "", {"tokenizer": "char"}):
        configuration.save(file(content), {"steps": 6})
    with pytest.raises(FileExistsError,
                       match="is a folder, and a file of settings.* is to be written there. Name a file."):
        configuration.save(tmp_path, {"steps": 6})
