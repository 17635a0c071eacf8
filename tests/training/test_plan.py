"""The plan: a run says before its first step how long it takes and how much memory, and open sizes suit its text."""

import re
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import run_python
from folio.base.errors import FolioError
from folio.base.lines import wrapped
from folio.cli.command_line import one_length
from folio.data import corpus
from folio.networks import build as networks
from folio.training import plan, runs, sizes, summary
from folio.training.plan import Resources
from Model_Params import PRESETS, ModelParams, Params, TextParams, TrainingParams

CPU = Resources("cpu", 16, units=2, memory_bytes=16e9)
KINDS = st.sampled_from(["cpu", "cuda", "mps"])
SIZES = st.integers(100, 10**10)


def text_of(train_bytes, tokenizer="bpe"):
    """The numbers of a corpus of so many bytes."""
    return SimpleNamespace(train_bytes=train_bytes, train_tokens=train_bytes // 3 + 1,
                           text=TextParams(tokenizer=tokenizer))


def trained(**values):
    return replace(TrainingParams(), **one_length(values)).resolved()


def size_for(train_bytes, kind="cpu", model=ModelParams(), **length):
    chosen = sizes.sized(model, trained(**length), text_of(train_bytes), kind)
    return chosen.emb_len, chosen.num_layers, chosen.num_heads


def planned(train_bytes=500_000, emb_len=128, resources=CPU, tokenizer="bpe", **values):
    model = ModelParams(vocab_size=1024, emb_len=emb_len).resolved()
    return plan.make(model, trained(**values), text_of(train_bytes, tokenizer), resources)


# --- Which size ---

@pytest.mark.parametrize("train_bytes, length, expected", [
    (18_000, {"minutes": 3.0}, (64, 3, 2)),                 # learned by heart before a larger one is of use
    (90_000, {"minutes": 3.0}, (96, 3, 3)),
    (1_000_000, {"minutes": 0.16}, (96, 3, 3)),
    (450_000, {"minutes": 3.0}, (128, 4, 2)),               # the plays
    (450_000, {"steps": 1000}, (128, 4, 2)),                # as the shipped model was made
    (1_000_000, {"minutes": 3.0}, (128, 4, 2)),             # tiny shakespeare
    (1_000_000, {"minutes": 10.0}, (192, 5, 3)),
    (100_000_000, {"minutes": 3.0}, (128, 4, 2)),           # the time is too short for more
    (100_000_000, {"minutes": 60.0}, (256, 6, 4)),
    (100_000_000, {"steps": 3}, (32, 2, 1)),
])
def test_the_size_follows_the_text_and_the_time(train_bytes, length, expected):
    assert size_for(train_bytes, **length) == expected


@given(SIZES, SIZES, st.integers(1, 10**6), st.integers(1, 10**6), KINDS)
def test_more_text_and_more_time_never_make_a_smaller_model(some_bytes, other_bytes, some_steps, other_steps, kind):
    fewer_bytes, more_bytes = sorted((some_bytes, other_bytes))
    fewer, more = sorted((some_steps, other_steps))
    assert size_for(fewer_bytes, kind, steps=fewer)[0] <= size_for(more_bytes, kind, steps=more)[0]
    assert size_for(fewer_bytes, kind, minutes=fewer / 100)[0] <= size_for(more_bytes, kind, minutes=more / 100)[0]


@given(SIZES, st.floats(0.01, 10**5), KINDS, st.none() | st.integers(2, 300), st.none() | st.integers(1, 12),
       st.none() | st.integers(1, 12), st.none() | st.integers(1, 4), st.sampled_from(["folio", "classic"]))
def test_what_is_given_stays_and_the_rest_fits_to_it(train_bytes, minutes, kind, emb_len, num_layers, num_heads,
                                                     num_kv_heads, family):
    given_sizes = {"emb_len": emb_len, "num_layers": num_layers, "num_heads": num_heads, "num_kv_heads": num_kv_heads}
    model = ModelParams(family=family, **given_sizes)
    try:
        chosen = sizes.sized(model, trained(minutes=minutes), text_of(train_bytes), kind)
    except FolioError:
        assert list(model.problems())
        return
    for name, value in given_sizes.items():
        assert value is None or getattr(chosen, name) == value
    assert None not in (chosen.emb_len, chosen.num_layers, chosen.num_heads)
    assert list(chosen.problems()) == list(model.problems())        # what is wrong was wrong with what was given


def test_more_layers_than_usual_make_a_narrower_model():
    usual = size_for(10**9, minutes=60.0)
    assert size_for(10**9, minutes=60.0, model=ModelParams(num_layers=24))[0] < usual[0]


def test_without_a_text_the_sizes_are_those_for_half_a_megabyte():
    assert ModelParams().resolved() == ModelParams(emb_len=128, num_layers=4, num_heads=2).resolved()
    assert ModelParams(num_heads=3).resolved().emb_len == 126 and ModelParams(emb_len=100).resolved().num_heads == 2


def test_the_sizes_do_not_depend_on_the_clock_or_on_how_many_cores_there_are(home, plays, monkeypatch):
    made, found = home(plays[:20_000]), []
    tokenizer, text = corpus.open_corpus(made, TextParams(vocab_size=270))
    params = replace(PRESETS["default"], training=TrainingParams(minutes=3.0, device="cpu", compile=False))
    for number, threads in enumerate((1, 3, 64)):
        some = replace(params, training=replace(params.training, threads=threads))
        with runs.new_run(made, f"run{number}", some, tokenizer, text, started_at=-1000.0 * number,
                          say=lambda text: None) as run:
            found.append(run.params.model)
    assert found == 3 * [ModelParams(vocab_size=270, emb_len=64, num_layers=3, num_heads=2).resolved()]


def test_a_preset_that_names_sizes_keeps_them():
    preset = PRESETS["shakespeare-10m"]
    assert sizes.sized(preset.model, trained(steps=1), text_of(100, "char"), "cpu") == preset.model


# --- How long, how much ---

def written_out(model):
    """The matrices in the blocks of a resolved network, as its diagram has them: {(rows, columns): count}."""
    if model.is_recurrent:          # for the input and for the state, the four gates' in one
        later = Counter({(4 * model.hidden_len, model.hidden_len): 2 * model.num_layers - 1})
        return Counter({(4 * model.hidden_len, model.emb_len): 1}) + later
    query, key = model.num_heads * model.head_len, model.num_kv_heads * model.head_len
    block = [(query, model.emb_len), (model.emb_len, query), (key, model.emb_len), (key, model.emb_len)]
    into_hidden = 2 if model.mlp == "swiglu" else 1
    block += [(model.hidden_len, model.emb_len)] * into_hidden + [(model.emb_len, model.hidden_len)]
    return Counter(model.num_layers * block)


@pytest.mark.parametrize("emb_len", [None, 64, 192])
@pytest.mark.parametrize("values", [
    {}, {"num_layers": 1}, {"num_layers": 9}, {"num_kv_heads": 1}, {"num_heads": 4, "num_kv_heads": 2},
    {"head_len": 24},
    {"hidden_len": 100}, {"mlp": "relu2"}, {"norm": "layer", "biases": "gpt2"}, {"positions": "learned"},
    {"tied_head": True}, {"family": "classic"}, {"family": "classic", "mlp": "swiglu"}, {"family": "lstm"},
    {"family": "lstm", "num_layers": 1}, {"family": "lstm", "num_layers": 3, "hidden_len": 64},
    {"family": "lstm", "tied_head": True},
])
def test_a_plan_computes_with_the_matrices_that_the_network_has(values, emb_len):
    model = ModelParams(vocab_size=300, emb_len=emb_len, **values).resolved()
    matrices, net = written_out(model), networks.build_network(model)
    assert sizes.block_matrices(model) == matrices
    assert sizes.block_parameters(model) == sum(rows * columns * count for (rows, columns), count in matrices.items())
    assert sizes.block_matrices(model) == Counter(tuple(matrix.shape) for matrix in net.blocks.parameters()
                                                  if matrix.ndim == 2)
    assert sizes.head_parameters(model) == net.head.weight.numel()
    assert sizes.count_parameters(model) == networks.count_parameters(net)


@pytest.mark.parametrize("values, optimizer, flops, memory_bytes", [
    ({}, "muon", 16950755328, 480747648),
    ({}, "adamw", 14308343808, 484761216),
    ({"family": "classic", "emb_len": 384}, "muon", 332835323904, 1402278636),
    ({"family": "lstm", "emb_len": 96}, "muon", 10236395520, 392696940),
])
def test_the_cost_of_a_step_is_the_one_that_was_checked_against_measurements(values, optimizer, flops, memory_bytes):
    model, training = ModelParams(vocab_size=777, **values).resolved(), trained(steps=100, optimizer=optimizer)
    assert (plan.flops_per_step(model, training), plan.memory_bytes(model, training, CPU)) == (flops, memory_bytes)


def test_a_run_of_steps_says_its_minutes_and_a_run_of_minutes_its_steps():
    by_steps = planned(steps=1400)
    line = by_steps.line()
    assert by_steps.steps == 1400 and "about " in line and "minutes" in line and "steps" not in line
    by_minutes = planned(minutes=by_steps.minutes)
    assert by_minutes.steps == pytest.approx(1400, abs=1)
    assert by_minutes.line() == "about 1,400 steps, 17 passes over the text"
    assert by_steps.passes == pytest.approx(1400 * 8 * 256 / text_of(500_000).train_tokens)


def test_it_takes_about_as_long_as_it_took_where_it_was_measured():
    """The shipped model's 1,000 steps: 152 seconds on two cores with AVX512-BF16, which others shared."""
    assert 60 * planned(steps=1000).minutes == pytest.approx(152, rel=0.3)


@given(st.sampled_from([64, 128, 256]), st.integers(1, 64), st.sampled_from(sorted(plan.SPEED)))
def test_wider_models_and_larger_batches_take_longer_and_more_units_less(emb_len, batch_size, kind):
    model = ModelParams(vocab_size=1024, emb_len=emb_len).resolved()
    machine = Resources(*kind, units=2, memory_bytes=None)
    wider = ModelParams(vocab_size=1024, emb_len=2 * emb_len).resolved()
    one, more = trained(batch_size=batch_size), trained(batch_size=2 * batch_size)
    seconds = plan.seconds_per_step(model, one, machine)
    assert 0 < plan.seconds_per_step(model, one, replace(machine, units=4)) <= seconds
    assert seconds <= plan.seconds_per_step(model, more, machine)
    assert plan.seconds_per_step(wider, one, machine) > seconds
    own = plan.memory_bytes(model, one, machine)
    assert own < min(plan.memory_bytes(model, more, machine), plan.memory_bytes(wider, one, machine))
    assert plan.memory_bytes(model, replace(more, micro_batch_size=batch_size), machine) == own


MEASURE = """
import re, sys, time
from pathlib import Path
from folio.base.errors import FolioError
from folio.base.lines import wrapped
from folio.data import corpus
from folio.training import plan, runs
from folio.base.home import Home
from Model_Params import ModelParams, Params, TrainingParams
home = Home(Path(sys.argv[1]))
training = TrainingParams(steps=9, minutes=None, batch_size=8, threads=1, device="cpu")
params = Params(model=ModelParams(emb_len=128), training=training)
with runs.new_run(home, "x", params, *corpus.open_corpus(home), time.perf_counter(), say=lambda text: None) as run:
    run.step()
    # ru_maxrss begins with what the process had that started this one
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(peak, plan.memory_bytes(run.params.model, run.training, plan.Resources.of(run.training)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_a_process_takes_about_as_much_memory_as_was_said(home, plays):
    made = home(plays[:60_000])
    corpus.open_corpus(made, TextParams(vocab_size=1024))
    done = run_python("-c", MEASURE, made.folder)
    peak, expected = map(float, done.stdout.split())
    assert expected == pytest.approx(peak * 1024, rel=0.3), done.stderr


# --- What is advised ---

def test_where_all_is_well_nothing_is_advised():
    assert planned(450_000, steps=1000).advice == () == planned(1_000_000, minutes=3.0).advice


@pytest.mark.parametrize("tokenizer, helps", [("bpe", "more text, --steps 1600 or --bpe-dropout 0.2 help."),
                                              ("char", "more text or --steps 810 help.")])
def test_too_many_passes_are_said_with_what_to_try(tokenizer, helps):
    advice = planned(tokenizer=tokenizer, minutes=30.0).advice
    assert "may overfit" in advice[0] and advice[0].endswith(helps), advice


def test_the_steps_that_are_advised_need_no_more_advice():
    steps = int(re.search(r"--steps (\d+)", planned(20_000, emb_len=64, steps=50_000).advice[0])[1])
    assert not any("overfit" in each for each in planned(20_000, emb_len=64, steps=int(steps * 0.95)).advice)


def test_small_texts_bear_more_passes_and_four_are_always_good():
    passes = [plan.passes_before_overfitting(trained(), text_of(size)) for size in (20_000, 500_000, 10**12)]
    assert passes == pytest.approx([58, 20, 4], rel=0.02)
    assert plan.passes_before_overfitting(trained(bpe_dropout=0.0), text_of(500_000)) == 10


@pytest.mark.parametrize("emb_len, said", [(512, "large for this text and this time"), (32, "good for a larger model")])
def test_a_size_far_off_is_said_with_the_flags_that_fit(emb_len, said):
    advice = planned(emb_len=emb_len, minutes=3.0).advice
    assert said in advice[-1] and advice[-1].endswith("--emb-len 128 --num-layers 4 --num-heads 2")


def test_a_run_whose_size_is_settled_is_not_told_another():
    model = ModelParams(vocab_size=1024, emb_len=512).resolved()
    settled = plan.make(model, trained(steps=600), text_of(500_000), CPU, sizes_are_open=False)
    assert not any("--emb-len" in sentence for sentence in settled.advice)


def test_text_that_will_not_be_read_is_said():
    advice = planned(10**8, minutes=3.0).advice[0]
    assert advice.startswith("The model will read 10% of its text. For all of it: --minutes ")
    assert re.search("--steps 16000$", planned(10**8, steps=600).advice[0])


@pytest.mark.parametrize("memory_bytes, said", [
    (1e9, "--micro-batch-size 16"), (0.35e9, "a smaller --emb-len or --block-size"), (None, None), (64e9, None)])
def test_too_little_memory_is_said_with_what_fits(memory_bytes, said):
    resources = replace(CPU, memory_bytes=memory_bytes)
    advice = [sentence for sentence in planned(batch_size=64, steps=100, resources=resources).advice
              if "memory" in sentence]
    assert [each.endswith(f"Try {said}") for each in advice] == [True] * (said is not None), advice


def test_even_a_batch_beyond_all_memory_is_answered_at_once():
    assert "Try --micro-batch-size " in planned(batch_size=10**12, steps=1).advice[0]


def test_the_plan_is_said_before_the_first_step(home, plays):
    made, said = home(plays[:20_000]), []
    tokenizer, text = corpus.open_corpus(made, TextParams(vocab_size=270))
    params = Params(training=TrainingParams(minutes=60.0, compile=False, device="cpu"))
    with runs.new_run(made, "test", params, tokenizer, text, 0.0, say=said.append):
        pass
    lines = said[-1].splitlines()
    assert [line.split()[0] for line in lines] == ["run", "text", "model", "machine", "time", "advice"]
    assert re.search(r"; about 0\.\d GB of memory$", lines[3])
    assert re.match(r"time      about [\d,]+ steps, [\d,]+ passes over the text$", lines[4])
    assert re.search(r"--steps \d+", lines[5])


@pytest.fixture
def longest_start(home, plays, monkeypatch):
    """What is said where there is most to say: of a new run, of it resumed, and with all settings; and the run."""
    monkeypatch.setattr(plan.hardware, "memory_bytes", lambda device: 350e6)
    made, said = home(plays[:20_000]), []
    tokenizer, text = corpus.open_corpus(made, TextParams(vocab_size=270))
    params = Params(model=ModelParams(emb_len=32, num_layers=1), training=TrainingParams(
        minutes=6000.0, compile=False, device="cpu", threads=1, precision="fp32", tensorboard=True))
    name = "a-name-that-somebody-took-pains-over"
    with runs.new_run(made, name, params, tokenizer, text, 0.0, say=said.append) as run:
        new = summary.describe(run)
        run.progress.step, run.progress.seconds = 1_234_567, 123_456.0
        run.progress.started_from = {"name": "another-name-of-this-kind", "fingerprint": "0123456789abcdef"}
        yield new, summary.describe(run), summary.describe(run, verbose=True), run


def test_the_start_fits_a_small_terminal(longest_start):
    assert [text.count("\nadvice") for text in longest_start[:2]] == [3, 2]
    for columns, text in [(columns, text) for columns in (60, 80, 120) for text in longest_start[:2]]:
        lines = wrapped(text, columns).split("\n")
        command = next(line for line in lines if "tensorboard" in line)     # is not broken, however long the path is
        assert all(len(line) <= columns for line in lines if line is not command)
        assert len(lines) + len(command) // columns <= 24
        titles = filter(None, (line[:10].strip() for line in lines))
        assert list(dict.fromkeys(titles)) == ["run", "text", "model", "machine", "time", "events", "advice"]


def test_verbose_adds_every_setting(longest_start):
    _, brief, verbose, run = longest_start
    line, ratio = [line for line in verbose.split("\n") if line not in brief.split("\n")]
    assert line.split()[0] == "settings"
    assert {f"{name}={value}" for name, value in run.settings.items()} == set(line.split()[1:])
    assert re.fullmatch(r"ratio     .*\d tokens of text a parameter", ratio)


def test_a_resumed_run_says_that_its_minutes_are_in_all_and_how_many_are_made(longest_start):
    assert "about 4.2 days in all, 34 hours done, starting from 'another" in longest_start[1]


def test_the_length_of_a_run_is_said_in_the_unit_that_suits_it(longest_start):
    run = longest_start[-1]
    for minutes, said in ((1.0, "about 1 minute"), (0.05, "about 3 seconds"), (1e7, "about 6,900 days")):
        run._params = replace(run._params, training=replace(run.training, minutes=minutes))
        assert f": {said} in all," in summary.describe(run)


@pytest.mark.parametrize("before", range(60, 120))
def test_no_flag_is_torn_apart_at_the_end_of_a_line(before):
    assert "--micro-batch-size" in wrapped("advice    " + "x " * before + " --micro-batch-size 4", 118).split()


@pytest.mark.parametrize("passes, steps, minutes, said", [
    (1.0, 1, 1.0, "about 1 step, 1 pass over"), (9.96, 20, 1.0, "about 20 steps, 10 passes over"),
    (0.5, 20, 1.0, "about 20 steps, 0.5 passes over"), (2.0, None, 1.0, "about 1 minute, 2 passes over"),
    (2.0, None, 60.0, "about 60 minutes, 2 passes"), (2.0, None, 1 / 60, "about 1 second, 2 passes")])
def test_a_plan_counts_in_the_singular_and_the_plural(passes, steps, minutes, said):
    line = plan.Plan(1, steps or 5, minutes, steps is not None, passes, "text", 1.0, 1e9, ()).line()
    assert line.startswith(said)
