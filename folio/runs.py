"""Which run: a new one under a free name, or an old one gone on with exactly as it was."""

import textwrap
from contextlib import contextmanager
from dataclasses import asdict, fields, replace

import torch

from folio import checkpoint, hardware, networks
from folio.batches import fitting_block_size
from folio.files import only_one, remove_leftovers
from folio.training import Progress, Run
from Model_Params import ModelParams, Params, TextParams, TrainingParams


@contextmanager
def new_run(home, name, params, tokenizer, corpus, started_at, say=print):
    """Yield a Run under `name`, or the next free name, with `params` fitted to the text and the machine. All of it is said first."""
    block_size = fitting_block_size(params.model.block_size, corpus.train_tokens)
    if block_size != params.model.block_size:
        say(f"The text has only {corpus.train_tokens:,} tokens to train on: the context shrinks from {params.model.block_size} to {block_size}.")
    model = replace(params.model, vocab_size=tokenizer.vocab_size, block_size=block_size).resolved()
    training = params.training.resolved()
    training = hardware.probe(training, flops_per_step(model, training))
    with _claimed(home, name, say) as name:
        run = Run(home, name, Params(corpus.text, model, training), tokenizer, corpus, started_at=started_at)
        say(describe(run))
        yield run


@contextmanager
def resumed_run(home, name, preset, flags, tokenizer, corpus, started_at, say=print):
    """Yield the Run `name` (None: the newest unfinished one) as its resume file has it.

    preset: Params or None, flags: {field: value}, as the command line has them; steps, minutes and reporting may be new. Raises
    ValueError with a list where anything else differs from what the run has, or where the text or the tokenizer is another.
    """
    path, contents = _find_resume(home, name)
    stored = Params(TextParams(**contents["params"]["text"]), ModelParams(**contents["params"]["model"]),
                    TrainingParams(**contents["params"]["training"]))
    may_change = {each.name for each in fields(TrainingParams) if each.metadata["may_change"]}
    has, wanted = _flat(stored), (_flat(preset) if preset else {}) | flags
    if "block_size" in wanted:
        wanted["block_size"] = fitting_block_size(wanted["block_size"], corpus.train_tokens)       # as it was fitted when the run began
    different = [f"{key} is {has[key]}, not {value}" for key, value in wanted.items()
                 if key not in may_change and value not in (None, "auto", has[key])]
    if tokenizer.fingerprint != contents["tokenizer"]:
        different.append(f"its tokenizer is another than the one in {home.tokenizer}")
    elif corpus.fingerprint != contents["corpus"]:
        different.append(f"its text is another than the one in {home.train_data}")
    if different:
        raise ValueError(f"The run {contents['name']} can only go on as it began: {'; '.join(different)}. "
                         "Leave that as it is, or start a new run without --resume.")
    training = replace(stored.training, **{key: value for key, value in flags.items() if key in may_change})
    training = hardware.probe(training, flops_per_step(stored.model, training))
    with only_one(home.lock(contents["name"]), f"The run {contents['name']} is being trained by another process right now."):
        for leftover in (home.weights(contents["name"]), path, home.log(contents["name"])):
            remove_leftovers(leftover)
        run = Run(home, contents["name"], replace(stored, training=training), tokenizer, corpus, started_at=started_at)
        run.restore(contents)
        if run.done:
            raise ValueError(f"The run {run.name} has made all its {run.progress.step:,} steps. To train it further, say how far: "
                             f"--resume --name {run.name} --steps {2 * run.progress.step}")
        if contents["torch"] != torch.__version__:
            say(f"This run began with torch {contents['torch']}, and this is {torch.__version__}: the last digits may differ.")
        if run.progress.best_step is not None and not home.weights(run.name).exists():
            say(f"{home.weights(run.name).name} is gone, so the best weights are looked for anew from here.")
            run.progress.best_nats = run.progress.best_step = None
        say(describe(run))
        yield run


def describe(run):
    """What is about to be trained on what, and every effective setting."""
    model, training, corpus = run.params.model, run.training, run.corpus
    length = f"{training.steps:,} steps" if training.steps else f"about {training.minutes:g} minutes"
    began = f", going on after step {run.progress.step:,}" if run.progress.step else ""
    settings = " ".join(f"{key}={value}" for part in (run.params.text, model, training) for key, value in asdict(part).items() if value is not None)
    return "\n".join([
        f"run       {run.name}: {length}{began}",
        f"text      {corpus.train_bytes:,} bytes to learn from, {corpus.val_bytes:,} held out; "
        f"{corpus.train_tokens:,} tokens of a vocabulary of {model.vocab_size:,}",
        f"model     {model.family}, {networks.count_parameters(run.net):,} parameters: {model.num_layers} layers, width {model.emb_len}, "
        f"{model.num_heads} heads, context {model.block_size}",
        f"machine   {training.device}, {training.threads} threads, {training.precision}, {'compiled' if training.compile else 'not compiled'}",
        textwrap.fill(settings, 118, initial_indent="settings  ", subsequent_indent="          "),
    ])


def flops_per_step(model, training):
    """Floating-point operations of one step, roughly: 6 a parameter and token (Kaplan et al., 2020)."""
    with torch.device("meta"):
        return 6 * networks.count_parameters(networks.build(model)) * training.batch_size * model.block_size


@contextmanager
def _claimed(home, name, say):
    """Yield `name`, or name-2, name-3...: the first that no run has, held against every other process; given back if nothing was saved."""
    home.saved_weights.mkdir(parents=True, exist_ok=True)
    number, free = 1, name
    while True:
        if not any(path(free).exists() for path in (home.weights, home.resume)):
            try:
                home.log(free).open("x").close()            # whoever creates the log has the name
                break
            except FileExistsError:
                pass
        number += 1
        free = f"{name}-{number}"
    if free != name:
        say(f"There is a run named {name} already; this one is {free}.")
    try:
        with only_one(home.lock(free), f"The run {free} is being trained by another process right now."):
            yield free
    finally:
        if not home.log(free).stat().st_size and not home.resume(free).exists():
            home.log(free).unlink()
            home.lock(free).unlink(missing_ok=True)


def _flat(params):
    """Params -> {field: value} of all its parts; no two parts share a field's name."""
    return asdict(params.text) | asdict(params.model) | asdict(params.training)


def _find_resume(home, name):
    """-> path and contents of the resume file to go on from. Raises FileNotFoundError where there is none."""
    if name is not None:
        path = home.resume(name)
        if not path.exists():
            there = ", ".join(each.stem.removeprefix("resume-") for each in home.newest("resume-*.pth")) or "none"
            raise FileNotFoundError(f"There is no run {name} to go on with; runs that can: {there}.")
        return path, checkpoint.load(path)
    for path in home.newest("resume-*.pth"):
        contents = checkpoint.load(path)
        if not Progress(**contents["progress"]).finished:
            return path, contents
    raise FileNotFoundError(f"There is no unfinished run in {home.saved_weights}. Start one (python train.py), or train a finished one further: "
                            "--resume --name NAME --steps N")
