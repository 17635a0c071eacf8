"""train.py --sweep: a run for each combination, checked before anything trains, continued by the same command."""

import os
import re
import signal
import sys
from subprocess import PIPE, Popen

import pytest

from conftest import ROOT, refusal, run_script
from folio.cli.command_line import Parser
from folio.cli.sweep import combinations, command_line, lines_of
from folio.formats import run_log
from folio.formats.run_list import Run, list_runs
from training_runs import FLAGS, project, wait_for  # noqa: F401  (a fixture)


def of(*sweep, prefix="x"):
    return combinations(Parser("a test"), sweep, prefix)


def test_every_combination_of_values_is_a_run_whose_name_says_them():
    found = of("learning_rate=1e-3,0.003", "emb-len=128,192", prefix="night")
    assert found == {
        "night-learning_rate-0.001-emb_len-128": {"learning_rate": 0.001, "emb_len": 128},
        "night-learning_rate-0.001-emb_len-192": {"learning_rate": 0.001, "emb_len": 192},
        "night-learning_rate-0.003-emb_len-128": {"learning_rate": 0.003, "emb_len": 128},
        "night-learning_rate-0.003-emb_len-192": {"learning_rate": 0.003, "emb_len": 192}}
    assert list(of("schedule=cosine,cosine")) == ["x-schedule-cosine"]              # once


def test_a_run_has_the_flags_of_the_sweep_and_its_own_values():
    words = ["--steps", "5", "--sweep", "compile=true,false", "--name", "x", "--sweep=seed=1", "--no-tensorboard",
             "--home=y"]
    assert [command_line(words, values) for values in of("compile=true,False", "seed=1").values()] == [
        ["--steps", "5", "--no-tensorboard", "--compile", "--seed=1"],
        ["--steps", "5", "--no-tensorboard", "--no-compile", "--seed=1"]]


@pytest.mark.parametrize("sweep, said", [
    (["learnin_rate=1"], "there is no setting learnin_rate; did you mean learning_rate?"),
    (["vocab_size=300,400"], "there is no setting vocab_size"),         # one home has one tokenizer
    (["emb_len=8,wide"], "emb_len takes whole numbers"),
    (["compile=yes"], "compile takes true and false"),
    (["seed"], "with its values, as in learning_rate=1e-3,3e-3"),
    (["seed=1,"], "with its values, as in learning_rate=1e-3,3e-3"),
    (["seed=1", "seed=2"], "it takes a setting once"),
    (["schedule=a/b"], "cannot be called x-schedule-a/b"),
])
def test_what_is_wrong_with_a_sweep_is_said(sweep, said, capsys):
    with pytest.raises(SystemExit) as ended:
        of(*sweep)
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("width, has", [
    (80, {"steps", "minutes", "tokens/s"}), (60, {"steps", "minutes"}), (40, set())])
def test_the_table_leaves_out_what_a_narrow_terminal_has_no_room_for(width, has):
    swept = {"a": {"learning_rate": 0.001, "emb_len": 32}, "b": {"learning_rate": 0.003, "emb_len": 32}}
    runs = [Run(name=name, nats_per_byte=2.5, steps=1000, minutes=0.1, tokens_per_second=40_322,
                    state="finished") for name in swept]
    heading, *rows = lines_of(runs, swept, width)
    assert set(heading.split()) == has | {"learning_rate", "emb_len", "nats/byte", "state"}
    assert all(len(line) <= max(width, 43) and line.endswith("finished") for line in rows)


def test_a_combination_that_cannot_be_is_refused_before_anything_trains(project):
    for words, said in ((["--sweep", "num_heads=2,3"], "does not split into num_heads=3"),
                        (["--sweep", "seed=1", "--resume"], "--resume is for one"),
                        (["--sweep", "seed=1", "--save-config", "x.json"], "--save-config is for one")):
        assert said in refusal(run_script("train.py", "--home", project.folder, *FLAGS, *words), 2)
    assert not list(project.saved_weights.glob("*"))


def test_where_nothing_can_begin_one_run_says_why(tmp_path):
    done = run_script("train.py", "--home", tmp_path, "--sweep", "seed=1,2,3", "--steps", "1")
    assert done.returncode == 1 and done.stderr.count("No tokenizer in") == 1
    assert done.stdout.splitlines() == ["Run 1 of 3, sweep-seed-1:"]


@pytest.mark.skipif(os.name != "posix", reason="signals to a group of processes")
def test_a_sweep_that_ctrl_c_stopped_goes_on_by_the_same_command(project):
    words = ["--home", project.folder, *FLAGS, "--steps", 800, "--name", "s", "--sweep", "learning_rate=0.01,0.001"]
    words = list(map(str, words))
    process = Popen([sys.executable, ROOT / "train.py", *words], stdout=PIPE, stderr=PIPE, text=True,
                    start_new_session=True)
    first = "s-learning_rate-0.01"
    wait_for(process, lambda: run_log.read(project.log(first)))
    os.killpg(process.pid, signal.SIGINT)               # as a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in err, err
    assert [run.state for run in list_runs(project)] == ["unfinished"] and "Run 2 of 2" not in out
    assert out.splitlines()[-1].startswith("Stopped; the runs so far are saved. To continue: ")
    assert out.splitlines()[-1].count("--home") == 1

    done = run_script("train.py", *words)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(?m)^Run .*", done.stdout) == [
        f"Run 1 of 2, {first}, continued:", "Run 2 of 2, s-learning_rate-0.001:"]
    rows = [line.split() for line in done.stdout.splitlines()[-3:]]
    assert rows[0] == ["learning_rate", "nats/byte", "steps", "minutes", "tokens/s", "state"]
    assert {row[0] for row in rows[1:]} == {"0.01", "0.001"} and {(row[2], row[-1]) for row in rows[1:]} == {
        ("800", "finished")}
    assert float(rows[1][1]) <= float(rows[2][1])       # the best first

    again = run_script("train.py", *words)
    assert again.stdout.count("already finished.") == 2 and again.returncode == 0
    other = run_script("train.py", *words, "--steps", 5)
    assert f"{first} was trained with steps=800, not 5: give this sweep another --name" in refusal(other, 2)
