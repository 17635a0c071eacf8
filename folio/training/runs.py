"""Open a run: a new one under a free name, or an old one to continue exactly as it was."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from itertools import chain, count
from typing import Any

import torch

from folio.base.commands import command
from folio.base.errors import FolioError
from folio.base.files import only_one, remove_abandoned, remove_leftovers
from folio.base.hardware import Machine
from folio.base.home import Home
from folio.base.run_files import listed, meant
from folio.base.spelling import counted
from folio.formats import checkpoint
from folio.networks import build as networks
from folio.training import distributed, summary
from folio.training.bases import Base
from folio.training.chat import ChatLessons
from folio.training.deadline import CLOSING_SECONDS
from folio.training.lessons import TextLessons
from folio.training.loop import Progress, Run
from folio.training.preferences import PreferenceLessons
from folio.training.settle import refuse, settle
from Model_Params import LENGTHS, OLDER_TEXT, READING, ModelParams, Params, TextParams, TrainingParams, TuningParams

LESSONS = {kind.learns: kind for kind in (TextLessons, ChatLessons, PreferenceLessons)}      # by TuningParams.learns


# --- A new run ---

@contextmanager
def new_run(home: Home, name: str, params: Params, tokenizer, corpus, started_at: float,
            say: Callable[[str], None] = print, start=None, verbose: bool = False) -> Iterator[Run]:
    """Yield a Run under `name`, or the next free name, with `params` settled for the text and the machine.

    started_at: when the run's minutes began, by time.perf_counter; start: the LanguageModel whose weights it starts
    from, with params.model from `tuned_model` (default: random weights); say: is told all about the run; verbose:
        with every setting.
    """
    wanted = replace(params, text=corpus.text, model=replace(params.model, vocab_size=None))
    ends_at = started_at + 60 * (params.training.minutes or 0) - CLOSING_SECONDS
    lessons = LESSONS[params.tuning.learns](tokenizer, corpus)
    if start:
        lessons.start_from(start)
    refuse(lessons.problems(wanted))
    base = _base_for(params, start, home)
    settled, seconds_per_step = settle(wanted, lessons, Machine.here(), ends_at)
    if settled.model.block_size != params.model.block_size:
        say(f"The text has only {corpus.train_tokens:,} tokens to train on: the context shrinks from "
            f"{params.model.block_size} to {settled.model.block_size}.")
    with _claimed(home, name, say) as name:
        run = Run(home, name, settled, lessons, started_at=started_at, base=base)
        run.progress.measured_step = seconds_per_step
        if base:
            run.progress.started_from = base.named
        elif start:
            networks.take_over(run.net, start.net, settled.training.seed)
            run.precision.copy_weights()
            fingerprint = checkpoint.checksum(start.net.state_dict())[:16]
            run.progress.started_from = {"name": str(start.name), "fingerprint": fingerprint}
        start = base = None         # their memory is needed for training
        say(summary.describe(run, verbose))
        if run.progress.started_from:
            say(f"Before the first step: {lessons.start_in_words(run.keep_start())}.")
        with closing(run.reporter.log):
            yield run


def _base_for(params, start, home):
    """Return the Base of a run that trains adapters, else None."""
    if params.tuning.lora_rank is None:
        return None
    if start is None:
        raise FolioError(f"lora_rank={params.tuning.lora_rank} trains adapters on trained weights: name these by "
                         "--start-from, or leave --lora-rank out.")
    return Base.of(start, home)


def tuned_model(start, flags: dict[str, Any]) -> ModelParams:
    """Return the ModelParams of a LanguageModel to start from, with the flags that keep the shape of its weights.

    Raises FolioError with a list of those that do not. The context may shrink. With rotary positions, which have no
    weights, it may also grow (the shipped model, before any training, on the plays' end: 1.460 nats per byte at its own
    256, 1.466 at 512, 1.499 at 1,024).
    """
    model = start.net.params
    wanted = {key: value for key, value in flags.items() if hasattr(model, key) and value is not None}
    different = [f"{key} is {getattr(model, key)}, not {value}" for key, value in wanted.items()
                 if key not in _KEEPS_SHAPE and value != getattr(model, key)]
    if model.positions == "learned" and wanted.get("block_size", 0) > model.block_size:
        different.append(f"it has learned the positions up to block_size={model.block_size}, "
                         f"not {wanted['block_size']}")
    if different:
        raise FolioError(f"The weights of {start.name!r} can only be trained on as they are: {'; '.join(different)}. "
                         "Leave that as it is, or train from nothing, without --start-from.")
    if "dropout" in wanted:
        model = replace(model, attention_dropout=None)          # it may follow dropout, as in the family classic
    return replace(model, **wanted).resolved()


# --- A resumed run ---

@contextmanager
def resumed_run(home: Home, name: str | None, preset: Params | None, flags: dict[str, Any], tokenizer, corpus,
                started_at: float, say: Callable[[str], None] = print, verbose: bool = False) -> Iterator[Run]:
    """Yield the Run `name` (None: the newest unfinished one) as its resume file has it.

    preset, flags ({field: value}): as the command line has them; steps, minutes and reporting may be new.
    Raises FolioError with a list where anything else differs from the run's own, or where text or tokenizer do.
    """
    name = distributed.agreed(name or newest_unfinished(home, say))
    _load_resume(home, name, checkpoint.load_metadata)          # what is not there leaves no lock behind
    with _held(home, name) if distributed.is_first() else nullcontext():
        distributed.agreed(None)            # the others wait until it is held
        contents, stored = _load_resume(home, name)
        lessons = LESSONS[stored.tuning.learns](tokenizer, corpus)
        if different := _differences(home, contents, stored, preset, flags, lessons):
            raise FolioError(f"The run {name} can only go on as it began: {'; '.join(different)}. "
                             "Leave that as it is, or start a new run without --resume.")
        wanted = replace(stored, training=_changed(stored.training, flags, contents.get("processes", 1), say))
        settled, _ = settle(wanted, lessons, Machine.here())
        base = Base.again(contents["progress"]["started_from"], home) if stored.tuning.lora_rank else None
        if distributed.is_first():
            for path in (home.weights(name), home.resume(name), home.log(name)):
                remove_leftovers(path)
        run = Run(home, name, settled, lessons, started_at=started_at, base=base)
        base = None                 # its memory is needed for training
        run.restore(contents)
        _refuse_finished(run)
        if contents["torch"] != torch.__version__:
            say(f"This run began with torch {contents['torch']}, and this is {torch.__version__}: "
                "the last digits may differ.")
        if run.progress.best_step is not None and not home.weights(name).exists():
            say(f"{home.weights(name).name} is gone, so the best weights are looked for anew from here.")
            run.progress.best_nats = run.progress.best_step = None
        say(summary.describe(run, verbose))
        with closing(run.reporter.log):
            yield run


def _changed(training, flags, processes, say):
    """Return a run's TrainingParams with the flags that may change, and threads for as many processes as there are now.

    processes: that have made the run so far
    """
    new = {key: value for key, value in flags.items() if key in _MAY_CHANGE and value is not None or key in LENGTHS}
    training = replace(training, **new)
    if processes == distributed.count():
        return training
    say(f"The processes that make this run were {processes} and are now {distributed.count()}: "
        "the last digits may differ.")
    return replace(training, threads=max(1, training.threads * processes // distributed.count()))


def _refuse_finished(run):
    """Raise FolioError, with the command that trains it further, for a run that has reached its end."""
    further = ("train.py", "--resume", "--name", run.name)
    if run.out_of_patience:
        patience = run.training.patience
        raise FolioError(f"The run {run.name} was stopped by its patience of {patience} validations after step "
                         f"{run.progress.step:,}. To train it further, allow more: "
                         f"{command(*further, '--patience', 2 * patience)}")
    if run.done:
        raise FolioError(f"The run {run.name} has made all its {counted(run.progress.step, 'step')}. To train it "
                         f"further, say how far: {command(*further, '--steps', 2 * run.progress.step)}")


# What an older run did without saying so.
_BEFORE_IT_WAS_THERE = {"bpe_dropout": 0.0, "embedding_rate": 1.0, "momentum_warmup": 0, "length_warmup": 0}
_KEEPS_SHAPE = {"block_size", "dropout", "attention_dropout"}
_MAY_CHANGE = {field.name for field in fields(TrainingParams) if field.metadata["may_change"]}


def _load_resume(home, name, read=checkpoint.load):
    """Return the contents of a run's resume file, and the Params in it.

    Raises OSError or FolioError where there is none to continue from.
    """
    if not home.resume(name).exists():
        names = [path.stem.removeprefix("resume-") for path in home.newest("resume-*.pth")]
        raise FileNotFoundError(f"There is no run {name} to go on with{meant(name, names)} "
                                f"Runs that can: {listed(names)}.")
    contents = read(home.resume(name))
    try:
        Progress.of(contents["progress"])
        parts = contents["params"]
        model, training = ModelParams(**parts["model"]), TrainingParams(**_BEFORE_IT_WAS_THERE | parts["training"])
        tuning = TuningParams(**parts.get("tuning", {}))
        params = Params(TextParams(**OLDER_TEXT | parts["text"]), model, training, tuning)
        if problems := list(model.problems()):
            raise TypeError(problems[0].removesuffix("."))
        return contents, replace(params, model=model.resolved())        # older files lack some of today's fields
    except (KeyError, TypeError, AttributeError) as error:
        raise FolioError(f"{home.resume(name)} is not a resume file of this Folio: {error}.") from None


def stored_run(home: Home, name: str) -> tuple[dict[str, Any], Params]:
    """Return the contents of a run's resume file, without the numbers of its tensors, and the Params in it.

    Raises OSError or FolioError where there is none to continue from.
    """
    return _load_resume(home, name, checkpoint.load_metadata)


def newest_unfinished(home: Home, say: Callable[[str], None] = print) -> str:
    """Return the name of the unfinished run whose resume file is the newest. Raises FileNotFoundError without one."""
    paths = home.newest("resume-*.pth")
    for path in paths:
        name = path.stem.removeprefix("resume-")
        if not _load_resume(home, name, checkpoint.load_metadata)[0]["progress"]["finished"]:
            if len(paths) > 1:
                say(f"Going on with {name}, of {len(paths)} runs the newest that is not finished; "
                    "--name takes another.")
            return name
    further = command("train.py", "--resume", "--name", "NAME", "--steps", "N")
    raise FileNotFoundError(f"There is no unfinished run in {home.saved_weights}. Start one ({command('train.py')}), "
                            f"or train a finished one further: {further}")


def _differences(home, contents, stored, preset, flags, lessons):
    """Return a phrase for everything in which the run could not continue as it began."""
    # The vocabulary that was asked for, where the text gave fewer; the context as it was fitted when the run began.
    corpus = lessons.corpus
    has = stored.values() | {"vocab_size": stored.text.vocab_size or stored.model.vocab_size}
    wanted = ({key: value for key, value in preset.values().items() if key != "hold_out"} if preset else {}) | flags
    if "block_size" in wanted:
        wanted["block_size"] = lessons.fitting_block_size(wanted["block_size"])
    # How files are read, and what a preset holds out, may differ: the text that came of it is compared itself.
    different = [f"{key} is {has[key]}, not {value}" for key, value in wanted.items()
                 if key not in {*_MAY_CHANGE, *READING} and value not in (None, "auto", has[key])]
    if lessons.tokenizer.fingerprint != contents["tokenizer"]:
        kept = home.kept_tokenizer(contents["tokenizer"])
        way_back = f" (its own was kept: copy the files in {kept} back there)" if kept.exists() else ""
        different.append(f"its tokenizer is another than the one in {home.tokenizer}{way_back}")
    elif corpus.fingerprint != contents["corpus"]:
        places = ", ".join(getattr(corpus, "sources", ())) or home.train_data
        is_text = stored.tuning.learns == "text"
        what = "its text is another than the one" if is_text else "what it learns from is not the same"
        different.append(f"{what} in {places}")
    return different


# --- Names: a run has its own, and is trained by one process or group of them ---

@contextmanager
def _claimed(home, name, say):
    """Yield `name`, or name-2, name-3...: the first that no run has, locked; given back if nothing was saved."""
    if distributed.is_first():
        remove_abandoned(home.saved_weights,
                         lambda file: (match := _FILE_OF_A_RUN.fullmatch(file)) and home.lock(match[1]))
    with ExitStack() as stack:
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        claimed = (name for name in names if _claim(home, name, stack))
        free = distributed.agreed(next(claimed) if distributed.is_first() else None)
        if free != name:
            say(f"There is a run named {name} already; this one is {free}.")
        try:
            yield free
        finally:
            if distributed.is_first() and _is_free(home, free):
                home.log(free).unlink(missing_ok=True)
                with suppress(PermissionError):         # Windows keeps a file that is open, as the lock still is
                    home.lock(free).unlink(missing_ok=True)


_FILE_OF_A_RUN = re.compile(r"(?:weights|resume|log)-(.+)\.(?:pth|jsonl)")


def _claim(home, name, stack):
    """Return whether the name is free and its lock now ours; `stack` releases the lock."""
    with suppress(BlockingIOError):
        if _is_free(home, name):
            stack.enter_context(_held(home, name))
            return _is_free(home, name)         # it may have been taken just before the lock was ours
    return False


def _held(home, name):
    return only_one(home.lock(name), f"The run {name} is being trained by another process right now.")


def _is_free(home, name):
    log = home.log(name)
    is_logged = log.exists() and log.stat().st_size > 0
    return not (is_logged or home.weights(name).exists() or home.resume(name).exists())
