"""python -m folio.runs lists every run with what its files say; other commands take the names and globs shown there."""

import json
import math
import os
import shutil
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
import torch

import run
import train
from conftest import ROOT, refusal, run_python
from folio import evaluate, plot, runs
from folio.base.errors import FolioError
from folio.base.hardware import Machine
from folio.base.home import Home
from folio.base.lines import columns as columns_of
from folio.base.run_files import files_of_runs
from folio.data import corpus
from folio.formats import checkpoint, run_list, run_log, run_settings, trained_model
from folio.formats.find_weights import WEIGHTS, find_weights, newest_weights
from folio.formats.run_list import list_runs
from folio.generation import language_model
from folio.training import runs as training_runs
from folio.training.lessons import TextLessons
from folio.training.settle import settle
from Model_Params import PRESETS, ModelParams, Params, TextParams, TrainingParams

MODEL = ModelParams(emb_len=16, num_layers=1, num_heads=2, block_size=16)
TRAINING = TrainingParams(steps=20, minutes=None, batch_size=4, learning_rate=0.01, eval_interval=10, sample_tokens=0,
                          threads=1, precision="fp32", compile=False, device="cpu")
SIZES = {"emb_len", "num_layers", "num_heads", "hidden_len"}
HIDDEN = {"device", "precision", "threads", "compile", "bpe_dropout", "micro_batch_size"}


def train_run(home, name, model=MODEL, training=TRAINING, stop_after=None, start=None):
    """Train a tiny run in this process; stop it without its end where `stop_after` says after how many steps."""
    tokenizer, text = corpus.open_corpus(home)
    params = Params(text.text, model, training)
    with training_runs.new_run(home, name, params, tokenizer, text, time.perf_counter(), say=lambda text: None,
                               start=start) as run:
        for _ in range(stop_after or 0):
            run.step()
        run.save_resume() if stop_after else run.train()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, plays):
    """A project with a finished run, an unfinished one and a fine-tuned one; night is the newest."""
    home = Home(tmp_path_factory.mktemp("runs"))
    home.train_data.mkdir()
    (home.train_data / "input.txt").write_text(plays[:20_000], encoding="utf-8", newline="\n")
    corpus.open_corpus(home, TextParams(vocab_size=300))
    train_run(home, "night", replace(MODEL, mlp="gelu"))
    train_run(home, "half", stop_after=3)
    train_run(home, "tuned", start=language_model.load(home.weights("night")),
              model=training_runs.tuned_model(language_model.load(home.weights("night")), {"dropout": 0.1}))
    for age, name in enumerate(["night", "tuned", "half"]):
        for path in files_of(home, name):
            os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    return home


@pytest.fixture
def project(trained, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(trained.folder, tmp_path / "project")
    return Home(tmp_path / "project")


def files_of(home, name):
    return [path for path in (home.weights(name), home.resume(name), home.log(name)) if path.exists()]


def copied(home, old, *names):
    """Copy a run's files under other names, each newer than the one before."""
    for age, name in enumerate(names):
        for path in files_of(home, old):
            other = path.with_name(path.name.replace(f"-{old}.", f"-{name}."))
            shutil.copy(path, other)
            os.utime(other, (1_800_000_000 + age, 1_800_000_000 + age))


def imported(home, name, start):
    """Write a weights file as an import writes it, of the model in another one."""
    model = trained_model.load(start)
    checkpoint.save(home.weights(name), trained_model.imported(
        name, model.params, model.net.state_dict(), model.tokenizer, model.opening, {"format": "huggingface"}))


def by_name(home, *words, **named):
    return {run.name: run for run in list_runs(home, words, **named)}


@pytest.fixture
def ask(monkeypatch, capsys):
    """Run the command in this process: ask(home, "night*") -> its lines"""
    def run(home, *words, width=160):
        monkeypatch.setattr(sys, "argv", ["runs", "--home", str(home.folder), *words])
        monkeypatch.setenv("COLUMNS", str(width))
        runs.main()
        return capsys.readouterr().out.splitlines()
    return run


@contextmanager
def held_elsewhere(home, name):
    """Hold the lock of a run in another process, as the one that trains it does."""
    code = ("import sys; from folio.base.files import only_one\n"
            "with only_one(sys.argv[1], ''): print('held', flush=True); sys.stdin.read()")
    process = Popen([sys.executable, "-c", code, home.lock(name)], cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield
    finally:
        process.communicate()


# --- What is known of a run ---

def test_a_finished_run_is_described_by_its_files(trained):
    run = by_name(trained)["night"]
    weights, resume = checkpoint.load(trained.weights("night")), checkpoint.load(trained.resume("night"))
    assert (run.state, run.go_on, run.problems) == ("finished", None, [])
    assert run.nats_per_byte == weights["val_nats_per_byte"] == resume["progress"]["best_nats"]
    assert run.bits_per_byte == pytest.approx(weights["val_bpb"])
    assert (run.steps, run.planned_steps) == (20, 20)
    assert run.minutes * 60 == pytest.approx(resume["progress"]["seconds"], abs=5) and run.minutes > 0
    speeds = [report["tokens_per_second"] for report in run_log.read(trained.log("night"))]
    assert min(speeds) <= run.tokens_per_second <= max(speeds)
    assert run.parameters == sum(tensor.numel() for tensor in weights["weights"].values())
    assert run.text == {"name": None, **{"train_bytes": weights["learned_from"]["train_bytes"],
                                         "fingerprint": weights["learned_from"]["text_fingerprint"]}}
    assert run.changed.startswith("2023-11-1")
    assert run.files == {kind: {"path": str(path), "bytes": path.stat().st_size} for kind, path in zip(
        ("weights", "resume", "log"), files_of(trained, "night"))}
    assert run.settings == {key: value for key, value in Params(
        TextParams(**weights["text"]), ModelParams(**weights["params"]),
        TrainingParams(**weights["training"])).values().items()}


def test_tied_weights_count_once(project):
    train_run(project, "tied", replace(MODEL, tied_head=True), replace(TRAINING, steps=1))
    net = language_model.load(project.weights("tied")).net
    assert by_name(project)["tied"].parameters == sum(parameter.numel() for parameter in net.parameters())


def test_an_unfinished_run_has_the_command_that_continues_it(project, monkeypatch, capsys):
    run = by_name(project)["half"]
    assert (run.state, run.go_on, run.steps, run.nats_per_byte) == (
        "unfinished", "python train.py --resume --name half", 3, None)
    monkeypatch.setattr(sys, "argv", ["train.py", "--home", str(project.folder), *run.go_on.split()[2:]])
    assert not train.main()
    assert by_name(project)["half"].state == "finished"


def test_the_command_of_another_project_names_its_folder(project, ask):
    assert ask(project)[-1] == f"To continue half: python train.py --resume --name half --home {project.folder}"


def test_a_run_is_running_while_another_process_holds_its_lock_and_afterwards_unfinished(project, ask):
    with held_elsewhere(project, "half"), held_elsewhere(project, "just begun"):
        found = by_name(project)
        assert found["half"].state == "running" and found["half"].go_on is None
        assert found["just begun"].state == "running" and found["just begun"].files == {}
        assert found["night"].state == "finished"
        assert not any(line.startswith("To continue") for line in ask(project))
    assert by_name(project)["half"].state == "unfinished" and "just begun" not in by_name(project)


def test_looking_leaves_no_file_and_no_lock_behind(project):
    before = set(project.saved_weights.iterdir())
    list_runs(project)
    assert set(project.saved_weights.iterdir()) == before
    with training_runs._held(project, "half"):             # which nobody holds any more
        pass


def test_an_imported_model_is_imported(project, ask):
    imported(project, "gift", project.weights("night"))
    run = by_name(project)["gift"]
    assert (run.state, run.nats_per_byte, run.steps, run.go_on) == ("imported", None, 0, None)
    assert run.differs == {"block_size": 16, "emb_len": 16, "num_heads": 2, "mlp": "gelu"}
    [line] = [line for line in ask(project) if line.startswith("gift")]
    assert "imported" in line and " 0 " not in line and "0.0" not in line


def test_a_fine_tuned_run_names_what_it_started_from_and_not_the_shape_it_has_from_there(trained, ask):
    run = by_name(trained)["tuned"]
    assert run.started_from["name"] == "night" and len(run.started_from["fingerprint"]) == 16
    assert run.differs == {"dropout": 0.1, "eval_interval": 10, "sample_tokens": 0, "batch_size": 4,
                           "learning_rate": 0.01, "block_size": 16, "length_warmup": 10, "steps": 20}
    assert any("start-from night, block-size 16, dropout 0.1" in line for line in ask(trained))


def test_only_weights_and_only_a_log_say_what_they_can(project):
    project.resume("night").unlink()
    project.log("night").unlink()
    project.weights("half").unlink(missing_ok=True)
    project.resume("half").unlink()
    run_log.RunLog(project.log("old")).append(step=7, seconds=90.0, val_nats_per_byte=1.5, tokens_per_second=1000)
    found = by_name(project)
    assert (found["night"].state, found["night"].steps) == ("weights only", 20) and found["night"].settings
    old = found["old"]
    assert (old.state, old.steps, old.minutes, old.nats_per_byte, old.tokens_per_second, old.parameters) == (
        "log only", 7, 1.5, 1.5, 1000, None)


def test_a_log_alone_says_the_settings_of_its_run(project):
    before = by_name(project)["night"]
    project.weights("night").unlink()
    project.resume("night").unlink()
    alone = by_name(project)["night"]
    assert (alone.state, alone.planned_steps, alone.differs) == ("log only", 20, before.differs)
    assert alone.settings == {name: value for name, value in before.settings.items() if name in alone.settings}
    assert {name for name in before.settings if before.settings[name] is not None} <= set(alone.settings)
    log = run_log.RunLog(project.log("night"))
    log.append(step=21, settings=alone.settings | {"steps": 50, "minutes": None})
    assert by_name(project)["night"].planned_steps == 50
    log.append(step=22, settings={"emb_len": "wide"})
    assert by_name(project)["night"].settings == {} == by_name(project)["night"].differs


def test_of_a_log_only_the_end_is_read(project, monkeypatch):
    for step in range(1, 101):
        run_log.RunLog(project.log("long")).append(step=step, tokens_per_second=step)
    assert by_name(project)["long"].tokens_per_second == 50.5
    monkeypatch.setattr(run_list, "LOG_BYTES", 200)
    assert by_name(project)["long"].steps == 100 and by_name(project)["long"].tokens_per_second > 95
    lines = project.log("long").read_bytes().splitlines(keepends=True)
    monkeypatch.setattr(run_list, "LOG_BYTES", sum(map(len, lines[-3:])))           # exactly at the start of a line
    assert by_name(project)["long"].tokens_per_second == 99


def test_no_tensor_is_read(project, monkeypatch):
    content = bytearray(project.weights("night").read_bytes())
    content[len(content) // 2] ^= 1             # in a tensor: only reading all of it tells
    project.weights("night").write_bytes(content)
    with pytest.raises(FolioError, match="damaged"):
        checkpoint.load(project.weights("night"))
    assert by_name(project)["night"].problems == []


def test_the_text_has_its_name_while_the_project_has_that_text(project, ask):
    assert all("input.txt" in line for line in ask(project, "night", "half")[1:3])
    project.resume("night").unlink()
    assert "input.txt" in ask(project, "night")[1]
    (project.train_data / "input.txt").write_text("Another text, much shorter.\n" * 200, encoding="utf-8")
    corpus.open_corpus(project, TextParams(vocab_size=280))
    [_, line] = ask(project, "night")
    assert "input.txt" not in line and "18 kB" in line


# --- What cannot be read ---

DAMAGES = {"cut": lambda content: content[:-100], "empty": lambda content: b"", "text": lambda content: b"hello",
           "gguf": lambda content: b"GGUF" + content}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_is_one_line_and_hides_no_other(project, ask, damage):
    project.weights("bad").write_bytes(DAMAGES[damage](project.weights("night").read_bytes()))
    run = by_name(project)["bad"] if damage != "empty" else None
    whole = ask(project)
    if run is None:             # a file without a byte is what a run leaves that saved nothing
        assert not any(line.startswith("bad") for line in whole)
        return
    [line] = [line for line in whole if "bad" in line]
    assert damage != "gguf" or f"import {project.weights('bad')} --name NAME" in run.problems[0]
    assert run.state == "damaged" and line.startswith("bad    weights-bad.pth is ")
    assert [line for line in whole if "bad" not in line] == ask(project, "night", "tuned", "half")


def test_a_run_with_a_damaged_file_keeps_what_its_others_say(project, ask):
    project.weights("night").write_bytes(b"hello")
    run = by_name(project)["night"]
    assert (run.state, run.steps, len(run.problems)) == ("finished", 20, 1) and run.nats_per_byte
    lines = ask(project)
    place = next(number for number, line in enumerate(lines) if line.startswith("night"))
    assert "finished" in lines[place] and lines[place + 1].strip().startswith("weights-night.pth is ")
    for name in ("half", "tuned"):
        project.resume(name).write_bytes(b"hello")
        assert by_name(project)[name].state == "damaged"         # nothing says whether it is finished


@pytest.mark.parametrize("changes", [
    {"params": None}, {"params": {"emb_len": "wide"}}, {"params": {"emb_len": 0}}, {"params": [1]}, {"text": 3},
    {"training": {"steps": "many"}}, {"training": {"learning_rate": float("nan")}}, {"params": {"family": "llama"}}])
def test_settings_that_no_run_has_are_a_damage(project, changes):
    contents = checkpoint.load(project.weights("night"))
    checkpoint.save(project.weights("odd"), contents | changes)
    run = by_name(project)["odd"]
    assert run.state == "damaged" and "weights-odd.pth cannot be read" in run.problems[0]
    assert len(run.problems[0].splitlines()) == 1


@pytest.mark.parametrize("changes", [
    {"step": "many"}, {"step": -1}, {"step": 1 << 200}, {"seconds": None}, {"val_nats_per_byte": float("inf")},
    {"val_bpb": float("nan"), "val_nats_per_byte": None}, {"started_from": [1]}, {"started_from": {"name": 3}},
    {"learned_from": 3}, {"learned_from": None}, {"weights": None}, {"weights": {"x": 3}}], ids=str)
def test_values_of_another_kind_are_left_out(project, changes, ask):
    for path in (project.resume("night"), project.log("night")):
        path.unlink()
    checkpoint.save(project.weights("night"), checkpoint.load(project.weights("night")) | changes)
    run = by_name(project)["night"]
    assert run.problems == [] and run.settings
    assert any(line.startswith("night") for line in ask(project)) and json.loads("".join(ask(project, "--json")))


def test_a_log_of_nonsense_is_a_problem_and_a_huge_number_is_none(project):
    project.log("nonsense").write_bytes(b"\xff\x00\n[]\n" * 3)
    project.log("huge").write_text('{"step": 3, "seconds": 1e999, "tokens_per_second": ' + "9" * 400 + "}\n")
    found = by_name(project)
    assert found["nonsense"].state == "damaged" and "no line of it is a report" in found["nonsense"].problems[0]
    assert (found["huge"].steps, found["huge"].minutes, found["huge"].tokens_per_second) == (3, None, None)


def test_a_file_that_disappears_meanwhile_is_a_problem_of_its_run_only(project, monkeypatch):
    read = checkpoint.load_metadata

    def vanishing(path):
        if path == project.weights("night"):
            path.unlink()
        return read(path)
    monkeypatch.setattr(checkpoint, "load_metadata", vanishing)
    found = by_name(project)
    assert "weights-night.pth: " in found["night"].problems[0] and found["tuned"].problems == []


# --- How it differs from the defaults ---

@pytest.mark.parametrize("preset", PRESETS)
def test_of_a_preset_at_least_what_it_says_of_its_own_is_named(home, plays, preset):
    made, wanted = home(plays[:20_000]), PRESETS[preset]
    tokenizer, text = corpus.open_corpus(made, replace(wanted.text, vocab_size=None))
    training = replace(wanted.training, threads=1, precision="fp32", device="cpu", compile=False)
    lessons = TextLessons(tokenizer, text)
    settled, seconds = settle(replace(wanted, text=text.text, training=training), lessons, Machine.here())
    found = run_settings.differing(settled, [60 * training.minutes / seconds] if training.minutes else [])
    given = {name for name, value in wanted.values().items() if value not in (None, Params().values()[name])}
    # An emb_len may be what half a megabyte gets, epochs have become steps, and other batches have no length_warmup.
    given -= HIDDEN | {"vocab_size", "epochs"}
    assert given - SIZES - {"length_warmup"} <= found.keys() <= given | SIZES | {"steps"}, found
    assert preset != "default" or found.keys() <= {"emb_len"}


@pytest.mark.parametrize("given", [
    {"num_heads": 2, "head_len": 64}, {"num_kv_heads": 1}, {"hidden_len": 100}, {"norm": "layer"}, {"mlp": "relu2"},
    {"family": "classic"}, {"family": "lstm"}, {"family": "lstm", "hidden_len": 7},
    {"family": "classic", "mlp": "gelu"}, {"tied_head": True}, {"query_key_norm": False}, {"num_layers": 9},
    {"rope_base": 1e6}, {"norm_eps": 1e-4},
    {"attention_dropout": 0.3}, {"family": "classic", "dropout": 0.2}, {"emb_len": 256}, {}], ids=str)
def test_of_a_model_what_was_given_is_named_and_nothing_that_follows_from_it(given):
    params = Params(model=ModelParams(**{"emb_len": 256, "vocab_size": 300, **given}).resolved(),
                    training=TrainingParams().resolved())
    assert run_settings.differing(params) == {"emb_len": 256, **given}


@pytest.mark.parametrize("given", [{}, {"learning_rate": 0.02}, {"optimizer": "adamw"}, {"seed": 3}, {"steps": 2000},
                                   {"batches": "shuffled"}, {"warmup_steps": 0}, {"schedule": "cosine", "steps": 9},
                                   {"eval_interval": 7}, {"length_warmup": 0}, {"decay_fraction": 0.1}])
def test_of_training_what_was_given_is_named_and_nothing_that_follows_from_it(given):
    values = {"minutes": None} | given if "steps" in given else given
    resolved = TrainingParams(**values).resolved(900)
    params = Params(model=ModelParams(vocab_size=300).resolved(), training=resolved)
    assert run_settings.differing(params, [1000]) == given


def test_a_learning_rate_between_those_of_nearby_lengths_is_the_default_only_where_the_clock_decided():
    for steps, named in (({"minutes": None, "steps": 1000}, True), ({}, False)):
        training = TrainingParams(**steps, learning_rate=0.0033).resolved(1000)
        params = Params(model=ModelParams(vocab_size=300).resolved(), training=training)
        assert ("learning_rate" in run_settings.differing(params, [1000])) == named


def test_what_an_older_run_did_not_store_is_no_difference():
    run = by_name(Home(ROOT), "pretrained")["pretrained"]
    assert run.differs == {"learning_rate": 0.003, "decay_fraction": 0.4, "steps": 1000}
    assert not {"embedding_rate", "length_warmup"} & run.settings.keys() and run.settings["warmup_steps"] == 20
    assert run.state == "weights only" or run.files.keys() > {"weights"}


# --- The list ---

def test_the_newest_run_comes_first(project):
    assert list(by_name(project)) == ["night", "tuned", "half"]
    os.utime(project.resume("half"), (1_800_000_000, 1_800_000_000))           # its newest file counts
    assert list(by_name(project)) == ["half", "night", "tuned"]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 160, 250])
def test_lines_are_as_wide_as_the_terminal_and_what_matters_most_stays(project, ask, width):
    copied(project, "night", "a very long name of a run that somebody chose to give to it", "夜" * 30)
    project.weights("bad").write_bytes(b"hello" * 100)
    imported(project, "gift", project.weights("night"))
    lines = ask(project, width=width)
    table = lines[:lines.index("")]
    assert max(map(columns_of, table)) <= width and len(table) == 8
    assert all(word in table[0] for word in ("name", "state")) and any("unfinished" in line for line in table)
    shown_from = {"nats/byte": 60, "date": 60, "own settings": 80, "steps": 80, "size": 120, "min": 120, "text": 120,
                  "tokens/s": 120, "file": 120, "time": 160}
    titles = table[0].replace("own settings", "own-settings").split()
    assert {title for title in shown_from if title.replace(" ", "-") in titles} == {
        title for title, least in shown_from.items() if width >= least}


@pytest.mark.parametrize("width", [60, 80])
def test_names_of_a_sweep_are_not_cut_to_the_same(project, ask, width):
    names = [f"sweep-learning_rate-0.00{rate}-emb_len-{emb_len}" for rate in (1, 3) for emb_len in (32, 64)]
    copied(project, "night", *names)
    lines = ask(project, "sweep-*", width=width)
    assert {line.split()[0] for line in lines[1:5]} == set(names) and max(map(len, lines[:5])) <= width
    assert "nats/byte" in lines[0]


def test_a_wide_terminal_shows_all_of_it(trained, ask):
    [heading, line] = ask(trained, "night", width=200)
    assert heading.split() == ["name", "nats/byte", "steps", "min", "tokens/s", "size", "file", "text", "date", "time",
                               "state", "own", "settings"]
    run = by_name(trained)["night"]
    assert line.split()[:3] == ["night", f"{run.nats_per_byte:.4f}", "20"]
    assert "finished  block-size 16, emb-len 16, num-heads 2, mlp gelu" in line and "Nov 2023" in line


def test_json_has_every_documented_field_of_every_run(project, ask):
    project.weights("bad").write_bytes(b"hello")
    imported(project, "gift", project.weights("night"))
    found = json.loads("\n".join(ask(project, "--json")))
    assert {run["name"] for run in found} == {"night", "tuned", "half", "bad", "gift"}
    for documented in (run_list.__doc__, (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")):
        assert all(name in documented for run in found for name in run)
    assert all(run.keys() == found[0].keys() for run in found)
    half = next(run for run in found if run["name"] == "half")
    assert half["go_on"].startswith("python train.py --resume --name half") and half["nats_per_byte"] is None
    assert half["text"]["name"] == "input.txt"
    night = next(run for run in found if run["name"] == "night")
    assert night["differs"]["mlp"] == "gelu"
    assert math.isclose(night["bits_per_byte"], night["nats_per_byte"] / math.log(2))


def test_names_and_globs_choose(project, ask):
    copied(project, "night", "night-2", "other")
    assert list(by_name(project, "night*")) == ["night-2", "night"]
    assert list(by_name(project, "half", "o*")) == ["other", "half"]
    assert list(by_name(project, "weights-night.pth")) == ["night"]
    with pytest.raises(FileNotFoundError, match="There is no run nihgt; did you mean night?.* has "):
        ask(project, "nihgt")
    with pytest.raises(FileNotFoundError, match="There is no run lost. .* has "):       # beside one that there is
        ask(project, "night*", "lost")
    assert json.loads("".join(ask(project, "--json", "half")))[0]["name"] == "half"


@pytest.mark.parametrize("stamps", [5, None])
def test_a_damaged_record_of_an_older_folio_names_no_text(project, stamps):
    path = project.tokens / "corpus.json"
    record = json.loads(path.read_bytes())
    assert record.pop("sha256") and record.pop("checksum")
    path.write_text(json.dumps(record | {"stamps": stamps}), encoding="utf-8")
    assert runs.names_of_texts(project) == {}


def test_a_path_means_its_run_however_it_is_spelled(trained, monkeypatch):
    monkeypatch.chdir(trained.folder)
    for path in (Path("Saved_Weights"), Path("Saved_Weights", "..", "Saved_Weights"), trained.saved_weights):
        assert list(by_name(trained, str(path / "weights-night.pth"))) == ["night"]
        assert list(by_name(trained, str(path / "resume-h*"))) == ["half"]
        assert train.run_to_resume(trained, str(path / "resume-half.pth")) == "half"
        assert train.run_to_resume(trained, str(path / "*half*")) == "half"
    with pytest.raises(FileNotFoundError, match="There is no run"):
        by_name(trained, str(Path("elsewhere", "weights-night.pth")))


def test_an_empty_name_is_not_taken_for_the_newest(trained):
    with pytest.raises(FolioError, match="The name of the weights is empty. Name a run or a file."):
        find_weights(trained, "")
    assert find_weights(trained, None) == newest_weights(trained)


@pytest.mark.parametrize("words, said, code", [
    (["train.py", "--start-from", ""], "The name of the weights is empty", 1),
    (["train.py", "--resume", "--name", ""], "--name  cannot be part of a file's name", 2),
    (["run.py", "--weights", ""], "The name of the weights is empty", 1)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_an_empty_flag_is_no_flag_left_out(trained, words, said, code):
    assert said in refusal(run_python(*words, "--home", trained.folder), code=code)


def test_without_any_run_one_sentence_has_the_next_command(tmp_path, ask):
    [line] = ask(Home(tmp_path))
    assert line == f"There is no run in {tmp_path / 'Saved_Weights'} yet. Train one: python train.py --home {tmp_path}"
    assert ask(Home(tmp_path), "--json") == ["[]"]
    assert not (tmp_path / "Saved_Weights").exists()


def test_the_command_runs_and_does_not_read_what_is_no_run(project):
    (project.saved_weights / "weights-folder.pth").mkdir()
    (project.saved_weights / "model.safetensors").write_bytes(b"x")
    project.log("empty").touch()
    done = run_python("-m", "folio.runs", "--home", project.folder, "--json")
    assert done.returncode == 0 and done.stderr == ""
    assert [run["name"] for run in json.loads(done.stdout)] == ["night", "tuned", "half"]
    assert "did you mean night?" in refusal(run_python("-m", "folio.runs", "nigth", "--home", project.folder))


# --- Names, globs and paths in other commands ---

NAMES = ["v1.5", "my run", "Nächte", "a[1]", "x*", "-dash"] if os.name != "nt" else ["v1.5", "my run", "Nächte", "a[1]"]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_that_is_listed_is_taken(project, name, monkeypatch, capsys):
    copied(project, "night", name, "a1", "xyz")
    for word in (name, f"weights-{name}.pth", str(project.weights(name))):
        assert find_weights(project, word) == project.weights(name)
    assert list(by_name(project, name)) == [name]
    assert files_of_runs(project, "log-*.jsonl", name) == [project.log(name)]
    assert train.run_to_resume(project, name) == name


def test_a_glob_means_names_file_names_or_paths(project, tmp_path, monkeypatch):
    path = str(project.saved_weights / "*-ni*.pth")
    for word in ("nig*", "n[ij]ght", "?ight", "weights-n*", "weights-nig*.pth", path):
        assert find_weights(project, word) == project.weights("night")
    monkeypatch.chdir(tmp_path)
    shutil.copy(project.weights("night"), tmp_path / "gift.pth")
    (tmp_path / "gift.txt").touch()
    assert find_weights(project, "gi*") == Path("gift.pth")
    for age, name in enumerate(["old", "new", "middle"]):
        shutil.copy(project.weights("night"), tmp_path / f"zz-{name}.pth")
        os.utime(tmp_path / f"zz-{name}.pth", (10**9 + age % 2, 10**9 + age % 2))
    assert files_of_runs(project, WEIGHTS, "zz-*") == [Path("zz-new.pth"), Path("zz-old.pth"), Path("zz-middle.pth")]
    assert files_of_runs(project, WEIGHTS, "zzz*") == []


def test_a_glob_that_matches_several_lists_them_where_one_is_wanted(project, ask):
    copied(project, "night", "night-2", "night-3")
    with pytest.raises(FolioError) as refused:
        find_weights(project, "night*")
    assert str(refused.value) == ("night* matches 3 files, and one is wanted. Newest first they are: "
                                  "weights-night-3.pth, weights-night-2.pth, weights-night.pth. Name one of them.")
    with pytest.raises(FolioError, match="night\\* matches 3 files"):
        train.run_to_resume(project, "night*")
    assert train.run_to_resume(project, "night") == "night" and train.run_to_resume(project, "zzz") == "zzz"
    assert train.run_to_resume(project, None) is None


def test_several_runs_are_drawn_by_one_glob_newest_first(project, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    copied(project, "night", "night-2")
    monkeypatch.setattr(sys, "argv", ["plot.py", "loss", "night*", "--home", str(project.folder)])
    plot.main()
    assert capsys.readouterr().out.startswith("night-2, night: ")
    assert (project.saved_weights / "loss-night-2-and-1-more.png").exists()


def test_near_misses_are_named(project):
    with pytest.raises(FileNotFoundError, match=r"no weights named nigth; did you mean night\? .* has weights-night"):
        find_weights(project, "nigth")
    for number in range(12):
        copied(project, "night", f"run-{number}")
    with pytest.raises(FileNotFoundError, match="weights-run-11.pth, .* and [0-9]+ more"):
        find_weights(project, "zzz")


def test_train_starts_from_what_a_glob_means_and_continues_it(project, monkeypatch, capsys):
    words = ["train.py", "--home", str(project.folder), "--steps", "21", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--resume", "--name", "ha*"])
    assert not train.main() and by_name(project)["half"].steps == 21
    monkeypatch.setattr(sys, "argv", [*words, "--start-from", "nig*", "--name", "next", "--device", "cpu"])
    assert not train.main() and by_name(project)["next"].started_from["name"] == "night"
    monkeypatch.setattr(sys, "argv", [*words, "--resume", "--name", "halv"])
    with pytest.raises(FileNotFoundError, match=r"no run halv to go on with; did you mean half\? Runs that can: "):
        train.main()


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_model_of_another_program_is_refused_with_the_command_that_imports_it(project, tmp_path, kind, monkeypatch):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    if kind == "folder":
        path = tmp_path / "their model"
        path.mkdir()
        (path / "config.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["train.py", "--home", str(project.folder), "--start-from", str(path)])
    with pytest.raises(FolioError) as refused:
        train.main()
    quoted = f"'{path}'" if kind == "folder" and os.name != "nt" else str(path)
    assert f"python -m folio.convert import {quoted} --name NAME" in str(refused.value)


# --- Imported models ---

def test_an_imported_model_counts_as_complete(project):
    imported(project, "gift", project.weights("night"))
    os.utime(project.weights("gift"), (1_900_000_000, 1_900_000_000))
    assert newest_weights(project, say=pytest.fail) == project.weights("gift")
    contents = checkpoint.load(project.weights("night"))
    checkpoint.save(project.weights("stopped"), contents | {"val_bpb": None, "val_nats_per_byte": None})
    said = []
    os.utime(project.weights("stopped"), (2_000_000_000, 2_000_000_000))
    assert newest_weights(project, say=said.append) == project.weights("gift")
    assert "weights-stopped.pth is newer than weights-gift.pth" in said[0]


def test_evaluate_measures_an_imported_model_and_says_what_is_not_known(project, monkeypatch, capsys):
    imported(project, "gift", project.weights("night"))
    monkeypatch.setattr(sys, "argv", ["evaluate", "--home", str(project.folder), "--weights", "gi*", "--samples", "1",
                                      "--tokens", "5"])
    monkeypatch.setenv("COLUMNS", "80")
    evaluate.main()
    out = capsys.readouterr().out
    heading = out.splitlines()[0]
    assert heading.startswith("weights-gift.pth: ") and "step" not in heading
    assert "This model was imported. It has not learned from the text of this project" in " ".join(out.split())


def test_run_says_that_a_model_was_imported(project, monkeypatch, capsys):
    imported(project, "gift", project.weights("night"))
    monkeypatch.setattr(sys, "argv", ["run.py", "--home", str(project.folder), "--weights", "gi*", "To be"])
    run.main()
    out, err = capsys.readouterr()
    assert out.startswith("To be") and "parameters, imported, not measured, vocabulary of 300 tokens" in err


def test_plot_takes_an_imported_model_and_says_that_it_has_no_log(project, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    imported(project, "gift", project.weights("night"))
    monkeypatch.setattr(sys, "argv", ["plot.py", "vocabulary", "--weights", "gi*", "--home", str(project.folder)])
    plot.main()
    assert (project.saved_weights / "vocabulary-gift.png").exists()
    monkeypatch.setattr(sys, "argv", ["plot.py", "loss", "gift", "--home", str(project.folder)])
    with pytest.raises(FileNotFoundError, match="The run gift has weights, but no log: it was imported"):
        plot.main()


def test_training_goes_on_from_an_imported_model(project, monkeypatch, capsys):
    imported(project, "gift", project.weights("night"))
    monkeypatch.setattr(sys, "argv", ["train.py", "--home", str(project.folder), "--start-from", "gift", "--steps", "2",
                                      "--threads", "1", "--device", "cpu"])
    assert not train.main()
    run = by_name(project)["tuned-2"]
    assert run.state == "finished" and run.started_from["name"] == "gift"
    assert torch.isfinite(torch.tensor(run.nats_per_byte))
