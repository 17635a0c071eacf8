"""Everything that is decided about a run before its first step: one function, in order, with the reasons."""

import time
from dataclasses import replace
from math import ceil, inf

from folio.base import hardware
from folio.base.errors import FolioError
from folio.base.hardware import Machine
from folio.training import distributed, fastest, plan, sizes
from Model_Params import ModelParams, Params, TrainingParams

# A shorter run gains less from torch.compile than its start costs: (minutes, floating-point operations).
# cpu: the start took 25 to 36 s on two cores, 7 s where a run of the same shape had been compiled before, and the steps
# then 15 to 20 % less. cuda: not measured yet.
WORTH_COMPILING = {"cpu": (5, 6e13), "cuda": (3, 1e16)}
# BPE-dropout per pass over the text, and the most: in half a pass none ended at 1.719 nats per byte and 0.05 at 1.732,
# after 11 passes over the plays 0.2 gave 1.619 where 0.1 gave 1.651 (benchmarks/LOG.md).
BPE_DROPOUT_PER_PASS, BPE_DROPOUT_AT_MOST, PASSES_WITHOUT_BPE_DROPOUT = 0.02, 0.2, 1


def settle(params: Params, lessons, machine: Machine, ends_at: float | None = None) -> tuple[Params, float]:
    """Return Params with everything decided, and about how many seconds a step will take.

    What is set stays as it is, so a resumed run passes its stored Params.
    lessons: Lessons, what the run learns from; ends_at: when the last step of a run by the clock has to end, by
    time.perf_counter (default: all its minutes from now).
    Raises FolioError with everything that is wrong.
    """
    model, training, corpus = params.model, params.training, lessons.corpus
    # Vocabulary and context: a logit per token of the tokenizer, and sequences of which the text has several.
    if model.vocab_size is None:
        model = replace(model, vocab_size=lessons.tokenizer.vocab_size,
                        block_size=lessons.fitting_block_size(model.block_size))
    # Device: the fastest kind here. Its kind decides what follows, so machines of a kind make the same network.
    training = replace(training, device=hardware.settle_device(training.device, machine.devices))
    kind = training.device.partition(":")[0]
    # Length: in steps or minutes, now that context and text are known; epochs are steps.
    training = in_steps(replace(params, model=model, training=training), lessons)
    refuse(Params(model=model, training=training, tuning=params.tuning).problems())
    # Width, layers, heads: as many parameters as text and time are good for. The rest of the shape, the family's parts
    # and the dropouts follow from them.
    model = sizes.sized(model, training, corpus, kind).resolved()
    # torch.compile: where the run is long enough to earn its start, and before speed is estimated.
    if training.compile is None:
        training = replace(training, compile=pays_to_compile(model, training, kind, machine))
    refuse(distributed.problems(training.resolved()))
    # Precision and threads: measured on a processor, whose capabilities do not tell; every process takes the first's.
    training, seconds_per_step = distributed.agreed(fastest.choose(model, training, machine.threads))
    # Steps: expected of a run by the clock, since what is left to decide depends on their number.
    seconds_left = 60 * (training.minutes or 0) if ends_at is None else ends_at - time.perf_counter()
    steps = distributed.agreed(training.steps or plan.steps_in(seconds_left, seconds_per_step))
    # BPE-dropout: the more often the text will be read, the more.
    if training.bpe_dropout is None:
        training = replace(training, bpe_dropout=bpe_dropout_for(steps, training, model, corpus))
    # Learning rate, warm-ups and decay: the fewer steps, the higher and the shorter. Micro-batch: the whole batch; the
    # step itself halves it when memory runs out.
    return replace(params, model=model, training=training.resolved(steps)), seconds_per_step


# --- Rules ---

def in_steps(params: Params, lessons) -> TrainingParams:
    """Return TrainingParams whose length, where it is in epochs, is in steps."""
    training = params.training
    if training.epochs is None:
        return training
    steps = training.epochs * lessons.steps_per_epoch(params)
    steps = max(1, ceil(round(steps, 6)))           # 0.1 x 30 makes a little more than 3
    return replace(training, epochs=None, steps=steps)


def pays_to_compile(model: ModelParams, training: TrainingParams, kind: str, machine: Machine) -> bool:
    """Return whether compiling gains a run more than it costs. training: a length in steps or minutes"""
    if model.is_recurrent or kind not in machine.compilers:
        return False
    minutes, flops = WORTH_COMPILING.get(kind, (inf, inf))
    if training.minutes:
        return training.minutes >= minutes
    return training.steps * plan.flops_per_step(model, training) >= flops


def bpe_dropout_for(steps: int, training: TrainingParams, model: ModelParams, corpus) -> float:
    """Return the bpe_dropout that suits how often a run reads its text in so many steps. model: sized"""
    passes = steps * training.batch_size * model.block_size / corpus.train_tokens
    # Characters have one way to spell a text; consecutive sequences have to end where they end.
    one_way = corpus.text.tokenizer != "bpe" or training.batches == "consecutive"
    if one_way or passes < PASSES_WITHOUT_BPE_DROPOUT:
        return 0.0
    return round(min(BPE_DROPOUT_AT_MOST, BPE_DROPOUT_PER_PASS * passes), 3)


def refuse(problems) -> None:
    """Raise FolioError with all of some problems, or do nothing where there are none."""
    if problems := list(problems):
        raise FolioError("\n".join(problems))
