"""What is said about a run: before its first step what it will be, after its last one what became of that."""

from folio.base.commands import quoted
from folio.base.spelling import counted, figure
from folio.data.corpus import DECODED_AT_ONCE, ordinary_bytes
from folio.evaluation import plain_words
from folio.evaluation.baselines import MEASURED_BYTES, beginning, measure_baselines
from folio.training import distributed, plan

FAR_SHORT = 0.6         # of the planned steps: the plan itself is no better than that
BUSY = 0.7              # of its threads' processor time: beside a busy program on each core a run has half


def describe(run, verbose: bool = False) -> str:
    """Return what is about to be trained on what, how long it takes, and advice: a line each, not wrapped yet.

    verbose: add every effective setting; the log has them in any case.
    """
    model, training = run.params.model, run.training
    expected_plan = expected(run)
    lines = [
        ("run", f"{run.name}: {_length(run)}"),
        ("text", f"{run.lessons.described} of a vocabulary of {model.vocab_size:,}"),
        ("model", f"{model.family}, {counted(expected_plan.parameters, 'parameter')}: "
                  f"{counted(model.num_layers, 'layer')}, width {model.emb_len}, {_heads(model)}, "
                  f"context {model.block_size}"),
        *([("adapters", _adapters(run))] if run.base else []),
        ("machine", f"{training.device}, {_threads(training)}, {training.precision}, "
                    f"{'compiled' if training.compile else 'not compiled'}; "
                    f"about {expected_plan.memory_bytes / 1e9:.1f} GB of memory"),
        ("time", ("in all " if run.progress.step else "") + expected_plan.line()),
    ]
    if verbose:
        lines += [("settings", " ".join(f"{key}={value}" for key, value in run.settings.items())),
                  ("ratio", f"{figure(expected_plan.tokens_per_parameter)} tokens of text a parameter")]
    if training.tensorboard:
        lines.append(("events", f"tensorboard --logdir {quoted(run.home.tensorboard(run.name).parent)}"))
    lines += [("advice", sentence) for sentence in expected_plan.advice]
    return "\n".join(f"{title:<10}{text}" for title, text in lines)


def _adapters(run):
    """Return in words what is trained beside a frozen base."""
    adapters = run.net.adapters
    rows = f", and the rows of {counted(len(adapters.rows), 'token')}" if adapters.rows else ""
    return (f"rank {adapters.rank}, alpha {adapters.alpha:g}{rows}: {_trained(run):,} parameters are trained; "
            f"{run.base.name!r} stays as it is and is needed beside them")


def _length(run):
    """Return how long a run is, in words, and where it begins."""
    training, progress = run.training, run.progress
    length = counted(training.steps, "step") if training.steps else f"about {plan.duration(training.minutes)}"
    if training.steps and training.batches != "random":
        epoch = run.lessons.steps_per_epoch(run.params)
        length += f", {counted(figure(training.steps / epoch), 'epoch')}"
    if progress.step:
        made = "" if training.steps else f", {plan.duration(progress.seconds / 60)} done"
        length += f" in all{made}"
    if start := progress.started_from:
        length += f", starting from {start['name']!r} ({start['fingerprint']})"
    return f"{length}, resuming after step {progress.step:,}" if progress.step else length


def _threads(training):
    threads = counted(training.threads, "thread")
    return f"{distributed.count()} processes of {threads}" if distributed.count() > 1 else threads


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


def quality(run) -> str:
    """Return in plain words how well the best weights write, by the text's own yardsticks.

    Takes about 0.2 s for a megabyte of text, and at most 1.7 s. The compressors, which take several times as long, are
    left to folio.evaluate.
    """
    corpus = run.corpus

    def decoded(tokens):
        """Yield the text of some tokens, part by part."""
        for start in range(0, len(tokens), DECODED_AT_ONCE):
            yield ordinary_bytes(run.tokenizer, tokens[start:start + DECODED_AT_ONCE])

    held_out = beginning(decoded(corpus.val[1:]), MEASURED_BYTES)
    baselines = measure_baselines(decoded(corpus.train), corpus.train_bytes, held_out, compressors=False)
    return plain_words.sentence(run.progress.best_nats, baselines)


def expected(run) -> plan.Plan:
    """Return the Plan of a run."""
    is_new = not run.progress.step and not run.progress.started_from        # else its size is given
    resources = plan.Resources.of(run.training, distributed.count())
    return plan.make(run.params.model, run.training, run.corpus, resources, run.progress.measured_step,
                     sizes_are_open=is_new, passes_are_open=run.lessons.advises, trained=_trained(run))


def _trained(run):
    """Return the number of parameters that a run trains."""
    return sum(parameter.numel() for parameter in run.net.parameters() if parameter.requires_grad)
