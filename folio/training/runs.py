"""Which run: a new one under a free name, or an old one gone on with exactly as it was."""

import math
import re
import textwrap
import time
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from itertools import chain, count

import torch

from folio.formats import checkpoint
from folio.training import distributed, fastest, plan
from folio.base import hardware
from folio.networks import build as networks
from folio.data.batches import fitting_block_size, steps_per_epoch
from folio.base.commands import command, quoted
from folio.base.errors import FolioError
from folio.base.files import only_one, remove_abandoned, remove_leftovers
from folio.base.spelling import counted
from folio.training.deadline import CLOSING_SECONDS
from folio.training.loop import Progress, Run
from Model_Params import LENGTHS, READING, ModelParams, Params, TextParams, TrainingParams

FAR_SHORT = 0.6         # of the planned steps: the plan itself is no better than that
BUSY = 0.7              # of its threads' processor time: beside a busy program on each core a run has half


@contextmanager
def new_run(home, name, params, tokenizer, corpus, started_at, say=print, start=None):
    """Yield a Run under `name`, or the next free name, with `params` fitted to the text and the machine. All of it is said first.

    start: the LanguageModel whose weights it starts from, with params.model as `tuned_model` has it; None: random ones.
    """
    block_size = fitting_block_size(params.model.block_size, corpus.train_tokens)
    if block_size != params.model.block_size:
        say(f"The text has only {corpus.train_tokens:,} tokens to train on: the context shrinks from {params.model.block_size} to {block_size}.")
    kind = hardware.settle_device(params.training.device).partition(":")[0]
    training = _in_steps(params.training, block_size, corpus)
    model = plan.sized(replace(params.model, vocab_size=tokenizer.vocab_size, block_size=block_size), training, corpus, kind).resolved()
    training, seconds_per_step = _settled(model, training)
    seconds_left = 60 * (training.minutes or 0) - (time.perf_counter() - started_at) - CLOSING_SECONDS
    steps = distributed.agreed(training.steps or plan.steps_in(seconds_left, seconds_per_step))
    training = plan.with_bpe_dropout(training, model, corpus, steps).resolved(steps)
    with _claimed(home, name, say) as name:
        run = Run(home, name, Params(corpus.text, model, training), tokenizer, corpus, started_at=started_at)
        run.progress.measured_step = seconds_per_step
        if start:
            networks.take_over(run.net, start.net)
            run.precision.copy_weights()
            run.progress.started_from = {"name": str(start.name), "fingerprint": checkpoint.checksum(start.net.state_dict())[:16]}
        say(describe(run))
        if start:
            say(f"Before the first step: {run.keep_start().bits_per_byte:.4f} bits/byte on the text held out.")
        yield run


def tuned_model(start, flags):
    """The ModelParams of a LanguageModel to start from, with the flags that keep the shape of its weights.

    Raises FolioError with a list of those that do not. The context may shrink; with rotary positions, which have no weights, it may also grow
    (the shipped model, before any training, on the plays' end: 1.460 nats per byte at its own 256, 1.466 at 512, 1.499 at 1,024).
    """
    model = start.net.params
    wanted = {key: value for key, value in flags.items() if hasattr(model, key) and value is not None}
    different = [f"{key} is {getattr(model, key)}, not {value}" for key, value in wanted.items()
                 if key not in _KEEPS_SHAPE and value != getattr(model, key)]
    if model.positions == "learned" and wanted.get("block_size", 0) > model.block_size:
        different.append(f"it has learned the positions up to block_size={model.block_size}, not {wanted['block_size']}")
    if different:
        raise FolioError(f"The weights of {start.name!r} can only be trained on as they are: {'; '.join(different)}. "
                         "Leave that as it is, or train from nothing, without --start-from.")
    if "dropout" in wanted:
        model = replace(model, attention_dropout=None)          # it may follow dropout, as in the family classic
    return replace(model, **wanted).resolved()


@contextmanager
def resumed_run(home, name, preset, flags, tokenizer, corpus, started_at, say=print):
    """Yield the Run `name` (None: the newest unfinished one) as its resume file has it.

    preset: Params or None, flags: {field: value}, as the command line has them; steps, minutes and reporting may be new. Raises
    FolioError with a list where anything else differs from what the run has, or where the text or the tokenizer is another.
    """
    name = distributed.agreed(name or _newest_unfinished(home, say))
    _load_resume(home, name, checkpoint.load_metadata)          # what is not there leaves no lock behind
    with _held(home, name) if distributed.is_first() else nullcontext():
        distributed.agreed(None)            # the others wait until it is held
        contents, stored = _load_resume(home, name)
        if different := _differences(home, contents, stored, preset, flags, tokenizer, corpus):
            raise FolioError(f"The run {name} can only go on as it began: {'; '.join(different)}. "
                             "Leave that as it is, or start a new run without --resume.")
        training = replace(stored.training, **{key: value for key, value in flags.items()
                                               if key in _MAY_CHANGE and value is not None or key in LENGTHS})
        before, now = contents.get("processes", 1), distributed.count()
        if before != now:
            say(f"The processes that make this run were {before} and are now {now}: the last digits may differ.")
            training = replace(training, threads=max(1, training.threads * before // now))
        training, _ = _settled(stored.model, _in_steps(training, stored.model.block_size, corpus))
        if distributed.is_first():
            for path in (home.weights(name), home.resume(name), home.log(name)):
                remove_leftovers(path)
        run = Run(home, name, replace(stored, training=training), tokenizer, corpus, started_at=started_at)
        run.restore(contents)
        if run.out_of_patience:
            raise FolioError(f"The run {name} was stopped by its patience of {run.training.patience} validations after step {run.progress.step:,}. "
                             f"To train it further, allow more: "
                             f"{command('train.py', '--resume', '--name', name, '--patience', 2 * run.training.patience)}")
        if run.done:
            raise FolioError(f"The run {name} has made all its {counted(run.progress.step, 'step')}. To train it further, say how far: "
                             f"{command('train.py', '--resume', '--name', name, '--steps', 2 * run.progress.step)}")
        if contents["torch"] != torch.__version__:
            say(f"This run began with torch {contents['torch']}, and this is {torch.__version__}: the last digits may differ.")
        if run.progress.best_step is not None and not home.weights(name).exists():
            say(f"{home.weights(name).name} is gone, so the best weights are looked for anew from here.")
            run.progress.best_nats = run.progress.best_step = None
        say(describe(run))
        yield run


def describe(run):
    """What is about to be trained on what, what to expect of it, and every effective setting."""
    model, training, corpus = run.params.model, run.training, run.corpus
    length = counted(training.steps, "step") if training.steps else f"about {counted(f'{training.minutes:g}', 'minute')}"
    if training.steps and training.batches != "random":
        length += f", {counted(f'{training.steps / _steps_per_epoch(training, model.block_size, corpus):.3g}', 'epoch')}"
    if run.progress.step:
        length += " in all"
    threads = counted(training.threads, "thread")
    if distributed.count() > 1:
        threads = f"{distributed.count()} processes of {threads}"
    began = f", starting from {start['name']!r} ({start['fingerprint']})" if (start := run.progress.started_from) else ""
    began += f", going on after step {run.progress.step:,}" if run.progress.step else ""
    settings = " ".join(f"{key}={value}" for key, value in replace(run.params, training=training).values().items() if value is not None)
    events = [f"events    tensorboard --logdir {quoted(run.home.tensorboard(run.name).parent)}"] if training.tensorboard else []
    expected = _expected(run)
    return "\n".join([
        f"run       {run.name}: {length}{began}",
        f"text      {corpus.train_bytes:,} bytes to learn from, {corpus.val_bytes:,} held out; "
        f"{corpus.train_tokens:,} tokens of a vocabulary of {model.vocab_size:,}",
        f"model     {model.family}, {expected.parameters:,} parameters: {counted(model.num_layers, 'layer')}, width {model.emb_len}, "
        f"{counted(model.num_heads, 'head') if model.num_heads else f'state {model.hidden_len}'}, context {model.block_size}",
        f"machine   {training.device}, {threads}, {training.precision}, {'compiled' if training.compile else 'not compiled'}",
        _paragraph("plan", f"{'in all ' * bool(run.progress.step)}{expected.line()}"),
        _paragraph("settings", settings),
        *events,
        *(_paragraph("advice", sentence) for sentence in expected.advice),
    ])


def shortfall(run):
    """Return a sentence, with the likely cause, for a run by the clock that made far fewer steps than planned; else None."""
    made, planned = run.progress.step, _expected(run).steps
    if run.training.steps or run.out_of_patience or made >= FAR_SHORT * planned:
        return None
    if run.training.device == "cpu" and run.processor_share < BUSY:
        fewer = ", or with fewer --threads," if run.training.threads > 1 else ""
        cause = (f"another program was probably using the machine, for this one had {run.processor_share:.0%} of the "
                 f"processor time of its {counted(run.training.threads, 'thread')}. With the machine to itself{fewer} it gets "
                 "further.")
    else:
        cause = ("the estimate was for a faster machine than this one. For as many steps, give it more --minutes, or a "
                 "smaller --emb-len.")
    return f"This run made {counted(made, 'step')} of about {planned:,} planned: {cause}"


def _expected(run):
    fresh = not run.progress.step and not run.progress.started_from         # else another size is no choice any more
    machine = plan.Machine.of(run.training, distributed.count())
    return plan.make(run.params.model, run.training, run.corpus, machine, run.progress.measured_step, sizes_are_open=fresh)


def _paragraph(title, text):
    return textwrap.fill(f"{title:<10}{text}", 118, subsequent_indent=" " * 10, break_on_hyphens=False)        # a flag stays in one piece


def _in_steps(training, block_size, corpus):
    """TrainingParams whose length, where it is in epochs, is in steps."""
    if training.epochs is None:
        return training
    steps = training.epochs * _steps_per_epoch(training, block_size, corpus)
    return replace(training, epochs=None, steps=max(1, math.ceil(round(steps, 6))))        # 0.1 x 30 makes a little more than 3


def _steps_per_epoch(training, block_size, corpus):
    return steps_per_epoch(corpus.train_tokens, batch_size=training.batch_size, block_size=block_size, batches=training.batches)


def _settled(model, training):
    """TrainingParams with all that the machine decides, the same in every process, and about how many seconds a step takes.

    Raises FolioError with everything that is wrong.
    """
    if problems := list(Params(model=model, training=training).problems()):
        raise FolioError("\n".join(problems))
    training = hardware.probe(training, plan.flops_per_step(model, training), can_compile=not model.is_recurrent)
    if problems := list(distributed.problems(training.resolved())):
        raise FolioError("\n".join(problems))
    return distributed.agreed(fastest.settle(model, training))


@contextmanager
def _claimed(home, name, say):
    """Yield `name`, or name-2, name-3...: the first that no run has, held against every other run; given back if nothing was saved."""
    if distributed.is_first():
        remove_abandoned(home.saved_weights,
                         lambda file: (match := _FILE_OF_A_RUN.fullmatch(file)) and home.lock(match[1]))
    with ExitStack() as stack:
        names = chain([name], (f"{name}-{number}" for number in count(2)))
        free = distributed.agreed(next(each for each in names if _claim(home, each, stack)) if distributed.is_first() else None)
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
    """Whether the name is free and its lock ours; `stack` lets go of the lock."""
    with suppress(BlockingIOError):
        if _is_free(home, name):
            stack.enter_context(_held(home, name))
            return _is_free(home, name)         # it may have been taken just before the lock was ours
    return False


def _held(home, name):
    return only_one(home.lock(name), f"The run {name} is being trained by another process right now.")


def _is_free(home, name):
    log = home.log(name)
    return not home.weights(name).exists() and not home.resume(name).exists() and not (log.exists() and log.stat().st_size)


# --- What a resumed run was, and what is wanted of it ---

# What an older run did without saying so.
_BEFORE_IT_WAS_THERE = {"bpe_dropout": 0.0, "embedding_rate": 1.0, "momentum_warmup": 0, "length_warmup": 0}
_KEEPS_SHAPE = {"block_size", "dropout", "attention_dropout"}
_MAY_CHANGE = {each.name for each in fields(TrainingParams) if each.metadata["may_change"]}


def _load_resume(home, name, read=checkpoint.load):
    """-> contents of a run's resume file, and the Params in it. Raises OSError or FolioError where there is none to go on from."""
    if not home.resume(name).exists():
        there = ", ".join(each.stem.removeprefix("resume-") for each in home.newest("resume-*.pth")) or "none"
        raise FileNotFoundError(f"There is no run {name} to go on with; runs that can: {there}.")
    contents = read(home.resume(name))
    try:
        Progress.of(contents["progress"])
        parts = contents["params"]
        return contents, Params(TextParams(**parts["text"]), ModelParams(**parts["model"]), TrainingParams(**_BEFORE_IT_WAS_THERE | parts["training"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise FolioError(f"{home.resume(name)} is not a resume file of this Folio: {error}.") from None


def _newest_unfinished(home, say):
    """The name of the run whose resume file was written last and is not at its end. Raises FileNotFoundError where there is none."""
    paths = home.newest("resume-*.pth")
    for path in paths:
        name = path.stem.removeprefix("resume-")
        if not _load_resume(home, name, checkpoint.load_metadata)[0]["progress"]["finished"]:
            if len(paths) > 1:
                say(f"Going on with {name}, of {len(paths)} runs the newest that is not finished; --name takes another.")
            return name
    raise FileNotFoundError(f"There is no unfinished run in {home.saved_weights}. Start one ({command('train.py')}), or train a finished one further: "
                            f"{command('train.py', '--resume', '--name', 'NAME', '--steps', 'N')}")


def _differences(home, contents, stored, preset, flags, tokenizer, corpus):
    """-> a phrase for everything in which the run could not go on as it began."""
    has = stored.values() | {"vocab_size": stored.text.vocab_size or stored.model.vocab_size}      # what was asked for, where the text gave fewer
    wanted = (preset.values() if preset else {}) | flags
    if "block_size" in wanted:
        wanted["block_size"] = fitting_block_size(wanted["block_size"], corpus.train_tokens)       # as it was fitted when the run began
    # How files are read may differ: the text that came of it is compared itself.
    different = [f"{key} is {has[key]}, not {value}" for key, value in wanted.items()
                 if key not in {*_MAY_CHANGE, *READING} and value not in (None, "auto", has[key])]
    if tokenizer.fingerprint != contents["tokenizer"]:
        kept = home.kept_tokenizer(contents["tokenizer"])
        way_back = f" (its own was kept: copy the files in {kept} back there)" if kept.exists() else ""
        different.append(f"its tokenizer is another than the one in {home.tokenizer}{way_back}")
    elif corpus.fingerprint != contents["corpus"]:
        different.append(f"its text is another than the one in {home.train_data}")
    return different
