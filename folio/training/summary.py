"""What is said about a run: before its first step what it will be, after its last one what became of that."""

import textwrap
from dataclasses import replace

from folio.base.commands import quoted
from folio.base.spelling import counted
from folio.data.batches import steps_per_epoch
from folio.training import distributed, plan

FAR_SHORT = 0.6         # of the planned steps: the plan itself is no better than that
BUSY = 0.7              # of its threads' processor time: beside a busy program on each core a run has half
COLUMNS = 118           # of a line


def describe(run) -> str:
    """Return what is about to be trained on what, what to expect of it, and every effective setting."""
    model, training, corpus = run.params.model, run.training, run.corpus
    in_all, started_from = "", ""
    if start := run.progress.started_from:
        started_from = f", starting from {start['name']!r} ({start['fingerprint']})"
    if run.progress.step:
        in_all, started_from = "in all ", f"{started_from}, going on after step {run.progress.step:,}"
    threads = counted(training.threads, "thread")
    if distributed.count() > 1:
        threads = f"{distributed.count()} processes of {threads}"
    settings = replace(run.params, training=training).values().items()
    expected_plan = expected(run)
    lines = [
        f"run       {run.name}: {_length(run)}{started_from}",
        f"text      {corpus.train_bytes:,} bytes to learn from, {corpus.val_bytes:,} held out; "
        f"{corpus.train_tokens:,} tokens of a vocabulary of {model.vocab_size:,}",
        f"model     {model.family}, {expected_plan.parameters:,} parameters: {counted(model.num_layers, 'layer')}, "
        f"width {model.emb_len}, {_heads(model)}, context {model.block_size}",
        f"machine   {training.device}, {threads}, {training.precision}, "
        f"{'compiled' if training.compile else 'not compiled'}",
        paragraph("plan", in_all + expected_plan.line()),
        paragraph("settings", " ".join(f"{key}={value}" for key, value in settings if value is not None)),
    ]
    if training.tensorboard:
        lines.append(f"events    tensorboard --logdir {quoted(run.home.tensorboard(run.name).parent)}")
    return "\n".join([*lines, *(paragraph("advice", sentence) for sentence in expected_plan.advice)])


def _length(run):
    """Return how long a run is, in words."""
    training, corpus = run.training, run.corpus
    if training.steps:
        length = counted(training.steps, "step")
    else:
        length = f"about {counted(f'{training.minutes:g}', 'minute')}"
    if training.steps and training.batches != "random":
        epoch = steps_per_epoch(corpus.train_tokens, batch_size=training.batch_size,
                                block_size=run.params.model.block_size, batches=training.batches)
        length += f", {counted(f'{training.steps / epoch:.3g}', 'epoch')}"
    return f"{length} in all" if run.progress.step else length


def _heads(model):
    return f"state {model.hidden_len}" if model.is_recurrent else counted(model.num_heads, "head")


def shortfall(run) -> str | None:
    """Return a sentence, with the likely cause, for a run by the clock that made far fewer steps than planned."""
    made, planned = run.progress.step, expected(run).steps
    if run.training.steps or run.out_of_patience or made >= FAR_SHORT * planned:
        return None
    if run.training.device == "cpu" and run.processor_share < BUSY:
        fewer = ", or with fewer --threads," if run.training.threads > 1 else ""
        cause = (f"another program was probably using the machine, for this one had {run.processor_share:.0%} of the "
                 f"processor time of its {counted(run.training.threads, 'thread')}. With the machine to itself{fewer} "
                 "it gets further.")
    else:
        cause = ("the estimate was for a faster machine than this one. For as many steps, give it more --minutes, or a "
                 "smaller --emb-len.")
    return f"This run made {counted(made, 'step')} of about {planned:,} planned: {cause}"


def expected(run) -> plan.Plan:
    """Return the Plan of a run."""
    is_new = not run.progress.step and not run.progress.started_from        # else its size is given
    resources = plan.Resources.of(run.training, distributed.count())
    return plan.make(run.params.model, run.training, run.corpus, resources, run.progress.measured_step,
                     sizes_are_open=is_new)


def paragraph(title: str, text: str) -> str:
    """Return a text under a title, in lines that keep flags in one piece."""
    return textwrap.fill(f"{title:<10}{text}", COLUMNS, subsequent_indent=" " * 10, break_on_hyphens=False)
