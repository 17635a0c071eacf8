"""What a run measures, logs, prints and saves."""


import json
import math
import re
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import folio
from folio.base.errors import FolioError
from folio.data import corpus
from folio.evaluation.bits_per_byte import Score, bytes_of_tokens, spread_windows
from folio.formats import checkpoint, run_log
from folio.networks import build as networks
from folio.training import report, runs
from folio.training.preferences import PairScore
from folio.training.report import clock_time, default_eval_interval
from Model_Params import PRESETS
from training_runs import (  # noqa: F401
    VOCABULARY,
    by_the_clock,
    continued,
    half_done,
    make_run,
    project,
    same_weights,
    train_here,
    uninterrupted,
    with_scores,
)


def test_an_endlessly_nested_line_of_the_log_is_skipped(make_run):
    run = make_run()
    run.reporter.log.append(step=1)
    with run.reporter.log.path.open("a") as file:
        file.write("[" * 100_000 + "\n" + '{"a":' * 100_000 + "\n")
    run.reporter.log.append(step=2)
    assert [line["step"] for line in run_log.read(run.reporter.log.path)] == [1, 2]


def test_training_before_init_is_refused(home, monkeypatch, capsys):
    made = home("some text")
    with pytest.raises(FileNotFoundError, match="python init.py"):
        train_here(made, monkeypatch, capsys)
    assert not made.saved_weights.exists()


def test_the_log_has_every_field_at_every_report(uninterrupted):
    made, contents, _, _ = uninterrupted
    lines, most = run_log.read(made.log("default")), contents["training"]["bpe_dropout"]
    assert 0.05 < most < 0.2                    # 300 x 8 x 32 tokens are about five passes over twenty kilobytes
    assert [json.loads(line) for line in made.log("default").read_text(encoding="utf-8").splitlines()] == lines
    assert [line["step"] for line in lines] == list(range(5, 301, 5))
    for line in lines:
        assert line.keys() >= {
            "step",
            "seconds",
            "tokens",
            "train_loss",
            "train_nats_per_byte",
            "learning_rate",
            "bpe_dropout",
            "gradient_length",
            "tokens_per_second",
        }
        assert ("sample" in line) == ("val_bpb" in line)
        assert line["bpe_dropout"] == pytest.approx(most * line["learning_rate"] / 0.01) and line["gradient_length"] > 0
        assert ("val_bpb" in line) == ("val_nats_per_byte" in line) == (line["step"] % 50 == 0)
        assert line["tokens"] == line["step"] * 8 * 32
        assert line["tokens_per_second"] > 0 and line["seconds"] > 0
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    assert lines[-1]["val_bpb"] == pytest.approx(lines[-1]["val_nats_per_byte"] / math.log(2))
    assert lines[3]["learning_rate"] == 0.01 and lines[-1]["learning_rate"] == pytest.approx(0.01 / 120)
    assert lines[-1]["val_bpb"] < lines[9]["val_bpb"] - 0.1                  # it learns
    assert lines[-1]["train_loss"] < lines[0]["train_loss"] - 1
    measured = [line["step"] for line in lines if "train_eval_nats_per_byte" in line]
    assert measured and measured == list(range(measured[0], 301, 50))
    assert lines[-1]["train_eval_nats_per_byte"] < lines[-1]["val_nats_per_byte"]


def test_every_field_of_the_log_is_explained(uninterrupted, project, make_run):
    run, _ = by_the_clock(make_run, "timed", learns=False)
    run.train()
    written = {
        field
        for log in (uninterrupted[0].log("default"), run.reporter.log.path)
        for line in run_log.read(log)
        for field in line
    }
    written |= PairScore(nats=1.0, tokens=2, bytes=2, ordered=1, text=Score(1.0, 2, 3)).in_report().keys()
    assert written == set(re.findall(r"^    (\w+)  ", run_log.__doc__, re.MULTILINE))


def test_the_log_has_the_decay_start_once_and_again_when_a_run_is_made_longer(project, make_run, uninterrupted):
    assert [(line["step"], line["decay_start"]) for line in uninterrupted[2] if "decay_start" in line] == [(5, 180)]
    make_run("constant", schedule="constant").train()
    assert not any("decay_start" in line for line in run_log.read(project.log("constant")))
    make_run().train()
    for steps in (40, 60):
        with continued(project, "test", steps=steps) as run:
            run.train()
    assert [
        (line["step"], line["decay_start"]) for line in run_log.read(project.log("test")) if "decay_start" in line
    ] == [(1, 12), (21, 24), (41, 36)]


def test_the_gradient_norm_in_the_log_is_that_before_clipping(project, make_run):
    lengths = {clip: make_run(f"clip-{clip}", gradient_clip=clip, steps=2, eval_interval=1) for clip in (0.0, 1e-3)}
    for run in lengths.values():
        run.train()
    loose, tight = (run_log.read(run.reporter.log.path)[0]["gradient_length"] for run in lengths.values())
    assert loose == tight > 1e-3


def test_the_training_loss_in_the_log_is_the_mean_since_the_last_report(project, make_run):
    run = make_run(steps=25, eval_interval=20)
    losses, step = [], run.step
    run.step = lambda: losses.append(step())
    run.train()
    lines = run_log.read(project.log("test"))
    assert [line["step"] for line in lines] == [*range(2, 25, 2), 25]
    assert lines[0]["train_loss"] == pytest.approx(np.mean(losses[:2]))
    assert lines[-1]["train_loss"] == pytest.approx(losses[-1])


def test_the_training_loss_is_logged_per_byte_whatever_bpe_dropout_does(make_run, monkeypatch):
    run = make_run(steps=4, eval_interval=20, bpe_dropout=0.3)
    sizes, batches, losses = bytes_of_tokens(run.tokenizer), [], []
    batch, step = run._batch, run.step
    monkeypatch.setattr(run, "_batch", lambda number: batches.append(batch(number)) or batches[-1])
    run.step = lambda: losses.append(step())
    run.train()
    expected = [
        64
        * sum(losses[first : first + 2])
        / sum(sizes[targets.numpy()].sum() for batch in batches[first : first + 2] for targets in [batch.targets])
        for first in (0, 2)
    ]
    assert [line["train_nats_per_byte"] for line in run_log.read(run.reporter.log.path)] == pytest.approx(expected)


def test_targets_without_text_have_no_loss_per_byte(make_run, capsys):
    run = make_run(steps=1)
    run.lessons.token_sizes = torch.zeros_like(run.lessons.token_sizes)
    run.train()
    assert run_log.read(run.reporter.log.path)[0]["train_nats_per_byte"] is None
    assert "train -  val " in capsys.readouterr().out


def test_evaluations_measure_a_sample_of_the_training_text_as_they_measure_the_validation(make_run):
    run = make_run(steps=600, eval_interval=500, dropout=0.5, bpe_dropout=0.3)
    run.progress.step = 500
    total, score = run.corpus.train_tokens, run.evaluator.measure_training_text(run.progress.step)
    # Five steps' time; an evaluation is three times as fast as a step.
    starts = spread_windows(total, 960 // 16, 16)
    assert starts[0] == 0 and starts[-1] == total - 17 and (np.diff(starts) >= 16).all()
    run.net.eval()
    windows = torch.from_numpy(np.stack([run.corpus.train[start:start + 17] for start in starts]).astype(np.int64))
    with torch.inference_mode():
        nats = F.cross_entropy(run.net(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten(), reduction="sum").item()
    assert score.nats == pytest.approx(nats, rel=1e-4)
    assert (score.tokens, score.bytes) == (
        16 * len(starts),
        bytes_of_tokens(run.tokenizer)[windows[:, 1:].numpy()].sum(),
    )
    run.net.train()
    assert score == run.evaluator.measure_training_text(run.progress.step) and run.net.training


def test_the_training_text_is_measured_only_where_that_costs_a_hundredth_of_the_run_at_most(make_run, capsys):
    run = make_run(steps=250, eval_interval=50, learning_rate=0.02)
    run.train()
    lines = [line for line in run_log.read(run.reporter.log.path) if "val_nats_per_byte" in line]
    cost = report.evaluation_steps(16 * (report.train_eval_tokens(run.corpus.val_tokens, 50, 64) // 16), 64)
    assert 0.5 < cost < 2.5
    assert [line["step"] for line in lines if "train_eval_nats_per_byte" in line] == [
        step for step in range(50, 251, 50) if step >= 100 * cost
    ]
    said = [line for line in capsys.readouterr().out.splitlines() if "  val " in line]
    assert "(mean)  val " in said[0] and f"train {lines[-1]['train_eval_nats_per_byte']:.3f}  val " in said[-1]
    assert all(len(line) <= 80 for line in said)


@pytest.mark.parametrize("val_tokens, eval_interval, expected", [
    (1_000, 100, 1_000),                # as large as the validation part, where that is cheap
    (100_000, 100, 25_000),             # a quarter, where somebody wants evaluations that cost more than they should
    # A hundredth of 2,000 steps of 1,000 tokens; an evaluation is three times as fast as a step.
    (100_000, 2_000, 60_000),
])
def test_the_sample_of_the_training_text_is_as_large_as_time_allows(val_tokens, eval_interval, expected):
    assert report.train_eval_tokens(val_tokens, eval_interval, 1000) == expected


@pytest.mark.parametrize("val_tokens", [10, 5_000, 40_000, 3_000_000])
def test_evaluations_have_their_share_of_the_time(val_tokens):
    interval = default_eval_interval(val_tokens, 1000)
    measured = val_tokens + report.train_eval_tokens(val_tokens, interval, 1000)
    assert report.evaluation_steps(measured, 1000) <= report.EVALUATION_SHARE * interval + 1e-6


def test_an_older_resume_file_without_recent_tokens_and_bytes_can_be_resumed(project, make_run):
    run = half_done(make_run)
    contents = checkpoint.load(project.resume("test"))
    assert len(contents["progress"]["recent_losses"]) == 3
    del contents["progress"]["recent_bytes"], contents["progress"]["recent_tokens"]
    run.restore(contents)
    assert run.progress.recent_nats_per_byte(64) is None
    run.step()
    assert 0 < run.progress.recent_nats_per_byte(64) < 10


def test_a_resumed_run_cuts_its_log_back_to_its_step(tmp_path):
    log = run_log.RunLog(tmp_path / "log.jsonl")
    for step in range(1, 6):
        log.append(step=step, train_loss=1.5)
    with log.path.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "tra')                              # a kill left half a line
    assert [line["step"] for line in run_log.read(log.path)] == [1, 2, 3, 4, 5]
    log.cut_back(3)
    log.append(step=4, train_loss=1.0)
    assert [line["step"] for line in map(json.loads, log.path.read_text(encoding="utf-8").splitlines())] == [1, 2, 3, 4]


def test_the_weights_file_has_the_best_step_and_its_score(uninterrupted):
    made, contents, log, _ = uninterrupted
    assert contents.keys() >= {"format", "params", "tokenizer", "weights", "step", "val_bpb"}
    best = min((line for line in log if "val_bpb" in line), key=lambda line: line["val_bpb"])
    assert (contents["step"], contents["val_bpb"]) == (best["step"], best["val_bpb"])
    assert contents["params"]["emb_len"] == 32 and contents["training"]["steps"] == 300
    assert folio.load(made.weights("default")).tokenizer.fingerprint == corpus.open_corpus(made)[0].fingerprint


def test_the_effective_settings_are_in_the_log(uninterrupted):
    out, log = uninterrupted[3], uninterrupted[2]
    head = out[:out.index("step 50")]
    assert "run       default: 300 steps" in head and "settings" not in head
    expected = {"emb_len": 32, "head_len": 16, "dropout": 0.1, "threads": 1, "device": "cpu", "learning_rate": 0.01,
                "block_size": 32, "val_fraction": 0.1}
    assert {name: log[0]["settings"][name] for name in expected} == expected
    assert not any("settings" in report for report in log[1:])
    assert f"{networks.count_parameters(folio.load(uninterrupted[0].weights('default')).net):,} parameters" in head
    assert out.splitlines()[-1] == f"Next: python run.py --home {uninterrupted[0].folder}"
    done, quality = out.splitlines()[-3:-1]
    assert str(uninterrupted[0].weights("default")) in done
    assert re.match(r"Quality:  \w.* \(\d\.\d{3} nats per byte; an order-\d character model reaches \d", quality)


def test_a_sample_is_written_without_dropout(make_run):
    run = make_run(dropout=0.5, sample_tokens=30)
    assert len({run.evaluator.sample() for _ in range(3)}) == 1 and run.net.training


def test_each_evaluation_shows_a_sample_of_text(uninterrupted):
    assert len(re.findall(r"val [0-9.]+ nats/byte \([0-9.]+ bits\)(  best)?\n +\| ", uninterrupted[3])) >= 5


def test_the_best_weights_by_validation_are_kept(project, make_run):
    run = make_run(steps=20)
    scores, kept = iter([3.0, 1.0, 2.0, 1.0]), {}

    def evaluate():
        kept[run.progress.step] = {name: tensor.clone() for name, tensor in run.net.state_dict().items()}
        return Score(next(scores), 1, 1)
    run.evaluate = evaluate
    run.train()
    contents = checkpoint.load(project.weights("test"))
    assert contents["step"] == run.progress.best_step == 10
    assert same_weights(contents["weights"], kept[10])
    assert same_weights(checkpoint.load(project.resume("test"))["weights"], kept[20])


def test_a_run_out_of_patience_stops_and_continues_when_it_gets_more(project, make_run, capsys):
    run = with_scores(make_run(steps=100, patience=2), 3.0, 1.0, 2.0, 0.9, 0.9, 1.1, 5.0)
    run.train()
    # It is measured every 5 steps.
    assert (run.progress.step, run.progress.best_step, run.progress.finished) == (30, 20, True)
    assert "2 validations in a row were no better than step 20's: stopping here." in capsys.readouterr().out
    with (
        pytest.raises(FolioError, match="stopped by its patience of 2 .* --resume --name test --patience 4"),
        continued(project, "test"),
    ):
        pass
    with continued(project, "test", patience=3) as more:
        with_scores(more, 2.0).train()
        assert (more.progress.step, more.progress.finished) == (35, True)


def test_overfitting_is_printed_once_after_three_validations_that_are_no_better(make_run, capsys):
    with_scores(make_run(steps=50), 3.0, 1.0, 2.0, 1.5, 1.0, 1.2, 1.3, 0.9, 2.0, 2.0).train()
    said = capsys.readouterr().out
    assert said.count("The model is overfitting") == 1
    assert (
        said.index("val 1.000", said.index("val 1.500"))
        < said.index("overfitting")
        < said.index("val 1.200")
    )
    assert "more text, more --bpe-dropout or fewer steps help" in said


def test_the_whole_validation_text_is_measured_without_dropout(project, make_run):
    run = make_run(dropout=0.5)
    score = run.evaluate()
    assert (score.tokens, score.bytes) == (run.corpus.val_tokens, run.corpus.val_bytes)
    assert score == run.evaluate()
    assert run.net.training
    # The last training token predicts the first.
    tokens = torch.from_numpy(run.corpus.tokens[run.corpus.train_tokens - 1:].astype(np.int64))
    run.net.eval()
    with torch.inference_mode():
        nats = sum(F.cross_entropy(run.net(window[None, :-1])[0], window[1:], reduction="sum").item()
                   for start in range(0, len(tokens) - 1, 16) for window in [tokens[start:start + 17]])
    assert score.nats == pytest.approx(nats, rel=1e-4)


def test_a_text_too_small_for_the_context_shrinks_it_with_a_message(home, plays, monkeypatch, capsys):
    small = home(plays[:1500])
    _, text = corpus.open_corpus(small, VOCABULARY)
    code, out = train_here(
        small,
        monkeypatch,
        capsys,
        *"--emb-len 16 --num-heads 2 --num-layers 1 --block-size 256 --steps 3 --threads 1".split(),
    )
    assert not code
    assert f"The text has only {text.train_tokens:,} tokens to train on: the context shrinks from 256 to 128." in out
    assert folio.load(small.weights("default")).net.params.block_size == 128


def test_the_lecture_preset_needs_characters(project, monkeypatch, capsys):
    with pytest.raises(FolioError, match="tokenizer is bpe, not char.*--home DIR"):
        train_here(project, monkeypatch, capsys, "--preset", "shakespeare-10m")
    assert not project.saved_weights.exists()


def test_the_lecture_preset_prints_its_number_of_parameters(home):
    made = home("".join(map(chr, range(0x30, 0x30 + 65))) * 40)
    preset, said = PRESETS["shakespeare-10m"], []
    tokenizer, text = corpus.open_corpus(made, preset.text)
    with runs.new_run(made, "test", preset, tokenizer, text, time.perf_counter(), say=said.append):
        assert "classic, " in "\n".join(said)
        assert "5,000 steps" in "\n".join(said)
        assert "10,788,929 parameters" in "\n".join(said)


def test_clock_time_and_the_default_eval_interval():
    assert (clock_time(0), clock_time(83), clock_time(3600)) == ("0:00", "1:23", "60:00")
    assert default_eval_interval(1, 1000) == 100
    assert default_eval_interval(3_000_000, 1000) == 25_000             # 1,000 steps' worth, a twenty-fifth of the time
