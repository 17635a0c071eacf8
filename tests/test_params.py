"""Model_Params.py and the flags made from it: every value is explained, checked and named alike, without torch."""

import re
import subprocess
import sys
from dataclasses import MISSING, asdict, fields, replace

import pytest

from conftest import ROOT, refusal, run_python, run_script
from folio.base.fields import takes_several, value_type
from folio.base.home import Home
from folio.base.spelling import nearest
from folio.cli import configuration
from folio.cli.command_line import Parser, chosen, given, one_length
from Model_Params import (
    FAMILIES,
    MLPS,
    NORMS,
    POSITIONS,
    PRESETS,
    GenerationParams,
    ModelParams,
    Params,
    TextParams,
    TrainingParams,
)

ALL = (TextParams, ModelParams, TrainingParams, GenerationParams)
EVERY_FIELD = [pytest.param(part, each, id=f"{part.__name__}.{each.name}") for part in ALL for each in fields(part)]


def parser_for(*parts):
    parser = Parser("A test.")
    for part in parts:
        parser.add_fields(part.__name__, part, without=["vocab_size"] if part is ModelParams else [])
    return parser


def refused(capsys, parser, words):
    """The message with which a parser turns down some words."""
    with pytest.raises(SystemExit) as stopped:
        parser.parse(words)
    assert stopped.value.code == 2
    return capsys.readouterr().err


# --- The fields ---

@pytest.mark.parametrize("part, each", EVERY_FIELD)
def test_every_field_has_a_default_a_type_and_a_meaning_of_one_line(part, each):
    assert each.default is not MISSING and value_type(each) in (bool, int, float, str)
    assert len(each.metadata["help"].split()) >= 3 and "\n" not in each.metadata["help"]


def test_no_two_parts_of_a_run_share_a_field_but_the_vocabulary():
    names = [each.name for part in (TextParams, ModelParams, TrainingParams) for each in fields(part)]
    assert {name for name in names if names.count(name) > 1} == {"vocab_size"}


def test_params_cannot_be_changed_or_misspelt():
    with pytest.raises(AttributeError):
        ModelParams().emb_len = 3
    with pytest.raises(TypeError, match="emb_length"):
        replace(ModelParams(), emb_length=3)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_no_problems(name):
    assert list(PRESETS[name].problems()) == []


def test_default_comes_first_and_the_model_of_the_lectures_second():
    assert list(PRESETS)[:2] == ["default", "shakespeare-10m"]


def test_a_family_is_nothing_but_a_name_for_values():
    parts = {"norm", "positions", "mlp", "query_key_norm", "biases", "tied_head"}
    for family, values in FAMILIES.items():
        assert values.keys() == parts
        assert asdict(ModelParams(family=family).resolved()).items() >= values.items()
        assert ModelParams(family=family, norm="layer", tied_head=True).resolved().norm == "layer"


def test_what_is_not_given_is_worked_out_and_nothing_stays_open_but_the_vocabulary():
    params = ModelParams(emb_len=128, num_heads=4).resolved()
    assert (params.num_kv_heads, params.head_len) == (4, 32)
    assert params.hidden_len == 352             # 8/3 * 128 = 341.3, in multiples of 32
    assert ModelParams(family="classic", emb_len=128).resolved().hidden_len == 512
    assert [name for name, value in asdict(params).items() if value is None] == ["vocab_size"]
    assert params.resolved() == params
    assert replace(params, num_kv_heads=2).resolved().num_kv_heads == 2
    assert TrainingParams(batch_size=8).resolved().micro_batch_size == 8


@pytest.mark.parametrize("values, norm_eps, rope_base", [
    ({}, 1e-6, 10_000.0),                                   # Qwen3's
    ({"norm": "layer"}, 1e-5, 10_000.0),                    # GPT-2's
    ({"family": "classic"}, 1e-5, None),                    # learned positions have no wavelengths
    ({"family": "lstm"}, None, None),
    ({"norm_eps": 1e-3, "rope_base": 500.0}, 1e-3, 500.0),
])
def test_the_constants_of_norms_and_positions_are_fields_that_follow_from_them(values, norm_eps, rope_base):
    whole = ModelParams(**values).resolved()
    assert (whole.norm_eps, whole.rope_base) == (norm_eps, rope_base)
    without = {name: value for name, value in asdict(whole).items() if name not in ("norm_eps", "rope_base")}
    if "norm_eps" not in values:
        assert ModelParams(**without).resolved() == whole           # as in the checkpoints from before these fields


def test_every_choice_of_a_part_is_in_one_table_here_and_one_in_the_model():
    import Model
    for own, built in ((NORMS, Model.NORMS), (MLPS, Model.MLPS), (POSITIONS, Model.POSITIONS)):
        assert set(own) == set(built)


# --- Problems ---

@pytest.mark.parametrize("params, word", [
    (TextParams(tokenizer="words"), "tokenizer='words'"),
    (TextParams(vocab_size=256), "vocab_size=256"),
    (TextParams(tokenizer="char", vocab_size=300), "char"),
    (TextParams(tokenizer="char", invalid_bytes="keep"), "invalid_bytes"),
    (TextParams(val_fraction=0), "val_fraction=0"),
    (TextParams(val_fraction=0.6), "val_fraction=0.6"),
    (ModelParams(emb_len=128, num_heads=3), "num_heads=3"),
    (ModelParams(num_heads=4, num_kv_heads=3), "num_kv_heads=3"),
    (ModelParams(head_len=7), "even"),
    (ModelParams(block_size=1), "block_size=1"),
    (ModelParams(positions="none", rope_base=500.0), "rope_base=500.0 is for positions=rotary"),
    (ModelParams(family="classic", rope_base=500.0), "rope_base=500.0 is for positions=rotary"),
    (ModelParams(norm_eps=0.0), "norm_eps=0.0"),
    (ModelParams(emb_len="wide"), "emb_len='wide'"),
    (ModelParams(dropout=float("nan")), "dropout=nan"),
    (TrainingParams(minutes=None), "steps or minutes"),
    (TrainingParams(steps=5), "steps or minutes"),
    (TrainingParams(minutes=0), "minutes=0"),
    (TrainingParams(minutes=float("nan")), "minutes=nan"),
    (TrainingParams(minutes=float("inf")), "minutes=inf"),
    (TrainingParams(epochs=float("inf"), minutes=None), "epochs=inf"),
    (TrainingParams(learning_rate=10**400), "learning_rate=1000"),
    (TrainingParams(batch_size=8, micro_batch_size=3), "micro_batch_size=3"),
    (TrainingParams(batches="shuffled", length_warmup=5), "take length_warmup=0"),
    (TrainingParams(batches="consecutive", length_warmup=5), "take length_warmup=0"),
    (TrainingParams(learning_rate=0.0), "learning_rate=0.0"),
    (TrainingParams(seed=-1), "seed=-1"),
    (GenerationParams(temperature=-0.1), "temperature=-0.1"),
    (GenerationParams(temperature=float("nan")), "temperature=nan"),
    (GenerationParams(top_p=0.0), "top_p=0.0"),
    (GenerationParams(top_p=1.5), "top_p=1.5"),
    (GenerationParams(top_k=0), "top_k=0"),
    (GenerationParams(stop="x"), "stop='x'"),
    (GenerationParams(stop=("x", 1)), "stop=1"),
])
def test_a_value_that_cannot_work_is_named(params, word):
    found = list(params.problems())
    assert len(found) == 1 and word in found[0], found


def test_all_problems_of_all_parts_are_listed_together():
    params = Params(TextParams(val_fraction=2.0), ModelParams(emb_len=0, num_layers=0, dropout=1.0),
                    TrainingParams(batch_size=0, beta1=2.0))
    found = "\n".join(params.problems())
    for name in ("val_fraction=2.0", "emb_len=0", "num_layers=0", "dropout=1.0", "batch_size=0", "beta1=2.0"):
        assert name in found


@pytest.mark.parametrize("family", ["folio", "classic"])
@pytest.mark.parametrize("emb_len, num_heads", [(100, 3), (100, 8), (1, 2), (2, 3)])
def test_a_width_that_does_not_split_into_heads_gets_one_to_try_that_works(emb_len, num_heads, family):
    params = ModelParams(emb_len=emb_len, num_heads=num_heads, family=family)
    found = list(params.problems())
    assert len(found) == 1
    tried = replace(params, emb_len=int(re.search(r"try emb_len=(\d+)", found[0])[1]))
    assert list(tried.problems()) == []


# --- Steps or minutes ---

def test_steps_and_minutes_displace_each_other():
    assert one_length({"steps": 5}) == {"steps": 5, "minutes": None, "epochs": None}
    assert one_length({"minutes": 5.0, "seed": 1}) == {"minutes": 5.0, "seed": 1, "steps": None, "epochs": None}
    assert one_length({"seed": 1}) == {"seed": 1}
    by_minutes, by_steps = PRESETS["default"], PRESETS["shakespeare-10m"]
    assert list(chosen(by_minutes, one_length({"steps": 5})).problems()) == []
    assert chosen(by_steps, one_length({"minutes": 5.0})).training.steps is None


def test_steps_and_minutes_together_are_refused(tmp_path):
    message = refusal(run_script("train.py", "--home", tmp_path, "--steps", 5, "--minutes", 1), code=2)
    assert "steps or minutes" in message


# --- Flags ---

@pytest.mark.parametrize("part, each", [case for case in EVERY_FIELD if case.id != "ModelParams.vocab_size"])
def test_every_field_is_a_flag_with_hyphens_or_underscores(part, each):
    kind = value_type(each)
    word = {bool: None, str: (each.metadata["choices"] or ["x"])[-1]}.get(kind, "3")
    value = True if kind is bool else (kind(word),) if takes_several(each) else kind(word)
    for flag in ("--" + each.name, "--" + each.name.replace("_", "-")):
        words = [[flag]] if kind is bool else [[flag, word], [f"{flag}={word}"]]
        for some in words:
            assert given(parser_for(part).parse(some), part) == {each.name: value}
    if kind is bool:
        assert given(parser_for(part).parse(["--no-" + each.name.replace("_", "-")]), part) == {each.name: False}


def test_a_flag_that_is_not_given_leaves_the_preset_alone():
    arguments = parser_for(ModelParams, TrainingParams).parse(["--emb-len", "96", "--seed", "7"])
    params = chosen(PRESETS["default"], given(arguments, ModelParams, TrainingParams))
    default = PRESETS["default"]
    assert params == replace(default, model=replace(default.model, emb_len=96),
                             training=replace(default.training, seed=7))


def test_the_help_says_what_a_field_means_and_its_default():
    text = " ".join(parser_for(*ALL[1:3]).format_help().split())
    for part in ALL[1:3]:
        for each in fields(part):
            if each.name != "vocab_size":
                assert f"--{each.name.replace('_', '-')}" in text
                assert each.metadata["help"].split()[0] in text
    assert f"(default: {ModelParams().block_size})" in text


@pytest.mark.parametrize("words, hint", [
    (["--emb-length", "3"], "unknown flag --emb-length; did you mean --emb-len?"),
    (["--emb_lenn=3"], "unknown flag --emb-lenn; did you mean --emb-len?"),
    (["--batchsize", "3"], "did you mean --batch-size?"),
    (["--emb", "3"], "unknown flag --emb"),             # never a short form for --emb-len
    (["--momentum", "0.9"], "unknown flag --momentum; that is --beta1 here"),
    (["--zzzzzz"], "unknown flag --zzzzzz\n"),          # nothing is like it
    (["--emb-len", "wide"], "--emb-len"),
    (["--emb-len"], "--emb-len"),
    (["--vocab-size", "300"], "unknown flag --vocab-size"),         # the tokenizer's to say
    (["stray"], "stray"),
])
def test_a_wrong_flag_gets_the_nearest_right_one_and_exit_code_2(words, hint, capsys):
    message = refused(capsys, parser_for(ModelParams, TrainingParams), words)
    assert hint in message and "Traceback" not in message


def test_several_wrong_flags_are_named_together(capsys):
    message = refused(capsys, parser_for(ModelParams), ["--emb-length", "3", "--num-head", "2"])
    assert "--emb-len?" in message and "--num-heads?" in message


def test_the_nearest_word_is_offered_only_where_there_is_one():
    assert nearest("defalt", ["default", "shakespeare-10m"]) == "; did you mean default?"
    assert nearest("qqq", ["default", "shakespeare-10m"]) == ""


OTHERS = "home preset config save_config name start_from resume samples weights".split()
FLAGS = [f"--{name.replace('_', '-')}" for name in [*sorted(configuration.NAMES), *OTHERS]]


@pytest.mark.parametrize("word, right", [
    ("--emb-length", "--emb-len"), ("--batchsize", "--batch-size"), ("--lerning-rate", "--learning-rate"),
    ("--leraning_rate", "--learning-rate"), ("--num-head", "--num-heads"), ("--stpes", "--steps"),
    ("--minute", "--minutes"), ("--temprature", "--temperature"), ("--Seed", "--seed"), ("--tpo-k", "--top-k"),
    ("--weigths", "--weights"), ("--resum", "--resume"), ("--learning", "--learning-rate"), ("--optim", "--optimizer"),
    ("--nam", "--name"), ("-seed", "--seed"), ("--repetition-penality", "--repetition-penalty"),
    ("--saveconfig", "--save-config")])
def test_a_word_that_is_spelled_alike_is_offered(word, right):
    assert nearest(word, FLAGS) == f"; did you mean {right}?"


@pytest.mark.parametrize("word", (
    "--wandb --data --num-predict --log-interval --num-workers --batch-norm --weight-init --eval-only --backend "
    "--min-lr --ddp --gpu --debug --model --input --file --train --alpha --mirostat --presence-penalty --n-gpu-layers "
    "--rank --cache-dir --flash-attn --push-to-hub --zzzzzz -x -- --é --🦊").split())
def test_a_word_that_is_only_somewhat_like_another_is_not_answered_with_it(word):
    assert nearest(word, FLAGS) == ""


def test_a_long_word_among_many_names_is_no_long_search():
    assert nearest("x" * 10_000, [f"{number:05}" for number in range(100_000)]) == ""


def test_what_stands_behind_two_hyphens_is_left_as_it_was_typed():
    parser = Parser("A test.")
    parser.add_argument("prompt", nargs="?")
    assert parser.parse(["--", "--a_b"]).prompt == "--a_b"


def test_a_value_is_left_as_it_was_typed():
    parser = Parser("A test.")
    parser.add_argument("--prompt")
    assert parser.parse(["--prompt=--a_b"]).prompt == "--a_b"
    assert parser.parse(["--prompt", "a_b"]).prompt == "a_b"


def test_the_home_is_where_the_script_lies_unless_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    assert Parser("A test.").parse().home == Home(tmp_path.resolve())
    assert Parser("A test.").parse(["--home", "there"]).home.folder.name == "there"


# --- The scripts ---

def test_a_width_that_does_not_split_is_refused_before_anything_is_made(tmp_path):
    message = refusal(run_script("train.py", "--home", tmp_path, "--emb-len", 100, "--num-heads", 3), code=2)
    assert "emb_len=100 does not split into num_heads=3" in message and "try emb_len=" in message
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_preset_gets_the_nearest_one(tmp_path):
    message = refusal(run_script("train.py", "--home", tmp_path, "--preset", "shakespear-10m"), code=2)
    assert "did you mean shakespeare-10m?" in message and "default" in message


def test_an_unknown_flag_of_train_gets_the_nearest_one(tmp_path):
    message = refusal(run_script("train.py", "--home", tmp_path, "--lerning-rate", 1), code=2)
    assert "did you mean --learning-rate?" in message


@pytest.mark.parametrize("script", ["init.py", "train.py", "run.py"])
def test_help_does_not_wait_for_torch(script):
    code = ("import runpy, sys\nsys.argv = [sys.argv[1], '--help']\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit as stopped: code = stopped.code\n"
            "print(code, 'torch' in sys.modules, file=sys.stderr)")
    done = run_python("-c", code, ROOT / script)
    assert done.stderr == "0 False\n"
    assert "--home" in done.stdout


@pytest.mark.parametrize("script", ["init.py", "train.py", "run.py"])
def test_help_and_refusals_leave_the_folder_as_it_was(script, tmp_path):
    for words in (["--help"], ["--no-such-flag"]):
        subprocess.run([sys.executable, ROOT / script, "--home", tmp_path, *words], capture_output=True, check=False)
    assert list(tmp_path.iterdir()) == []


# --- Habits of other programs ---

@pytest.mark.parametrize("words, said", [
    (["--compile=False"],
     "--compile takes no value, and here is False: write --compile alone, or --no-compile for the opposite"),
    (["--compile", "true"], "--compile takes no value, and here is true"),
    (["--no-compile=1"], "--no-compile takes no value"),
    (["--compile="], "--compile takes no value, and here is an empty one: write --compile alone"),
    (["--resume=night"], "--resume takes no value, and here is night: write --resume alone\n"),
    (["--resume", "night"], "night belongs to no flag (a text is named to init.py, a run by --name)"),
    (["book.txt"], "book.txt belongs to no flag (a text is named to init.py, a run by --name)"),
    (["--data", "book.txt"], "unknown flag --data; the text is named to init.py"),
    (["--batch-size=--"], "invalid int value: '--'"),
])
def test_what_other_programs_would_take_is_answered_with_what_to_write(words, said, tmp_path):
    assert said in refusal(run_script("train.py", "--home", tmp_path, *words), code=2)


def test_what_other_programs_call_the_length_of_an_answer_is_answered_with_ours(tmp_path):
    message = refusal(run_script("run.py", "--home", tmp_path, "--num-predict", 5, "--top-k=0", "Once"), code=2)
    assert "unknown flag --num-predict; that is --tokens here" in message
    assert "top_k=0 is below the smallest value possible, 1. Leave it out for the default: all." in refusal(
        run_script("run.py", "--home", tmp_path, "--top-k", 0, "Once"), code=2)
