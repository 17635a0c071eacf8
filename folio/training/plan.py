"""Predictions and advice before the first step: how long a run takes, how much memory, and what would suit it better.

Nothing is decided here: folio/training/settle.py decides. All of it is estimated from what a machine of its kind has,
except the time of a step where that is measured (folio/training/fastest.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from folio.base import hardware
from folio.base.spelling import counted, figure
from folio.kernels.attention import FUSED_ATTENTION_LEN
from folio.training import sizes
from Model_Params import ModelParams, TrainingParams

# --- How long ---

# By kind of device and bits: peak operations per second of a core (cpu), a multiprocessor (cuda) or all of it (mps) on
# wide products, and the width at which half of that is reached. cpu: measured on one core with AVX512-BF16, widths 64
# to 384. The others are guesses from data sheets.
SPEED = {("cpu", 16): (1.9e11, 180), ("cpu", 32): (1.0e11, 120), ("mps", 16): (2e12, 500), ("mps", 32): (1.5e12, 500),
         ("cuda", 16): (1e12, 1000), ("cuda", 32): (1.5e11, 500)}
# The least a step takes, however small the products; mps and cuda are guesses.
SECONDS_PER_LAYER = {"cpu": 1e-3, "mps": 1e-2, "cuda": 5e-3}
# A recurrent layer reads tokens one after the other; mps and cuda are guesses.
SECONDS_PER_TOKEN = {"cpu": 5e-6, "mps": 2e-5, "cuda": 2e-5}
COMPILED = 0.85             # of the time of a step; measured on cpu: 0.8 to 0.9
EVALUATIONS = 1.05          # times the time of the steps: EVALUATION_SHARE of the training loop

# --- How much memory: bytes, from the peak of processes of widths 64 to 384 ---

PROCESS_BYTES = 330e6                               # Python, torch and what the first step brings along
CHANNEL_BYTES = {16: 24, 32: 39}                    # per token and layer, for each number of emb_len and hidden_len
SCORE_BYTES = 4.5                                   # per token and layer, for each attention weight that is kept
LOGIT_BYTES = 16                                    # per token, for each token of the vocabulary
# Per parameter, beside four for itself and four for its gradient; adamw: 8.
STATE_BYTES = {"muon": 4, "sgd": 4, "rmsprop": 4}
ENOUGH = 0.9                                        # of the machine's memory; something else runs there too

# --- What is advised ---

# Passes over half a megabyte before a model overfits: with BPE-dropout it was still improving at 14, and that stretches
# them to about twice as many. Smaller texts bear more (20 kB: best at 30 to 100, by width), larger ones fewer, but four
# passes are as good as new text (Muennighoff et al., 2023).
PASSES, PASSES_BYTES, PASSES_AT_LEAST = 20, 500_000, 4
WITHOUT_BPE_DROPOUT = 0.5
MUCH_SMALLER, MUCH_LARGER = 0.4, 2.5                # of the parameters that suit: no need to speak of less


@dataclass(frozen=True)
class Resources:
    """What a step of one run is computed with."""
    kind: str                       # cpu, cuda, mps
    bits: int                       # of a number in matrix products: 16, 32
    units: int                      # threads, or multiprocessors, of one process
    memory_bytes: int | None        # None: not known
    compiled: bool = False
    processes: int = 1              # that share it; on GPUs, each has one

    @classmethod
    def of(cls, training: TrainingParams, processes: int = 1) -> "Resources":
        """Return what settled TrainingParams use here, in a run of this many processes."""
        kind = training.device.partition(":")[0]
        units = training.threads if kind == "cpu" else 1
        if kind == "cuda":
            units = torch.cuda.get_device_properties(training.device).multi_processor_count
        bits = 32 if training.precision == "fp32" else 16
        return cls(kind, bits, units, hardware.memory_bytes(training.device), bool(training.compile), processes)


@dataclass(frozen=True)
class Plan:
    """What a run will be like, as far as that can be known before its first step."""
    parameters: int
    steps: int
    minutes: float
    by_the_clock: bool              # whether minutes are given and steps estimated, or the other way round
    passes: float                   # over what is learned from
    material: str                   # what that is: "text", "conversations"
    tokens_per_parameter: float     # of the text
    memory_bytes: float
    advice: tuple[str, ...]         # sentences

    def line(self) -> str:
        """Return how long the run takes, in the unit that it was not given in, and how often it reads the text."""
        length = counted(_round(self.steps), "step") if self.by_the_clock else duration(self.minutes)
        return f"about {length}, {counted(figure(self.passes), 'pass', 'passes')} over the {self.material}"


def make(model: ModelParams, training: TrainingParams, corpus, resources: Resources, a_step: float | None = None,
         sizes_are_open: bool = True, epoch: tuple[float, str] | None = None, trained: int | None = None) -> Plan:
    """Return the Plan for a run.

    model, training: settled; corpus: a Corpus, of which only the numbers are read; a_step: its seconds, where they were
    measured; sizes_are_open: whether to advise another size; epoch: the steps of a pass, and over what, where that is
    no text: then nothing is advised about their number; trained: number of parameters that are trained (default: all).
    """
    a_step = a_step or seconds_per_step(model, training, resources)
    steps = training.steps or steps_in(60 * training.minutes, a_step)
    seconds = EVALUATIONS * a_step
    parameters = sizes.count_parameters(model)
    epoch_steps, material = epoch or (corpus.train_tokens / (training.batch_size * model.block_size), "text")
    passes = steps / epoch_steps
    memory = memory_bytes(model, training, resources, trained)
    advice = [*_about_memory(memory, model, training, resources, trained)]
    if epoch is None:
        advice += _about_passes(passes, steps, seconds, training, corpus)
    if sizes_are_open:
        advice += _about_size(model, training, corpus, resources.kind)
    minutes = steps * seconds / 60 if training.steps else training.minutes
    return Plan(parameters, steps, minutes, not training.steps, passes, material,
                corpus.train_tokens / parameters, memory, tuple(advice))


# --- How long ---

def steps_in(seconds: float, seconds_per_step: float) -> int:
    """Return about how many steps fit into this time, with their evaluations."""
    return max(1, round(seconds / (EVALUATIONS * seconds_per_step)))


def flops_per_step(model: ModelParams, training: TrainingParams) -> int:
    """Return the floating-point operations of a step: forward once, backward twice, and Muon's orthogonalization.

    model: resolved
    """
    matrices = sizes.block_parameters(model) + sizes.head_parameters(model)     # the embedding is a lookup
    attention = 0 if model.is_recurrent else model.num_layers * _attention_products(model)
    muon = _muon_flops(model) if training.optimizer == "muon" else 0
    return 6 * (matrices + attention) * training.batch_size * model.block_size + muon


def _attention_products(model):
    """Return a layer's multiplications per token: queries by keys, and weights by values."""
    return 2 * model.block_size * model.num_heads * model.head_len


def _muon_flops(model):
    """Return the operations of five iterations (Jordan, 2024) for every matrix in the blocks.

    Each has three products: two of the shorter side by itself and the longer one, one of the shorter side cubed.
    """
    return sum(count * 5 * (4 * min(shape) * min(shape) * max(shape) + 2 * min(shape) ** 3)
               for shape, count in sizes.block_matrices(model).items())


def seconds_per_step(model: ModelParams, training: TrainingParams, resources: Resources) -> float:
    """Return roughly how long a step takes."""
    peak, half_width = SPEED[resources.kind, resources.bits]
    width = 2 * model.hidden_len if model.is_recurrent else model.emb_len       # the four gates make wide products
    speed = resources.processes * resources.units * peak * width / (width + half_width)
    in_turn = SECONDS_PER_TOKEN[resources.kind] * model.block_size if model.is_recurrent else 0
    at_least = (SECONDS_PER_LAYER[resources.kind] + in_turn) * model.num_layers
    seconds = max(flops_per_step(model, training) / speed, at_least)
    return seconds * (COMPILED if resources.compiled else 1)


# --- How much memory ---

def memory_bytes(model: ModelParams, training: TrainingParams, resources: Resources,
                 trained: int | None = None) -> float:
    """Return roughly the peak memory of training: of all processes, or on the GPU.

    trained: number of parameters that have gradients and an optimizer's state (default: all)
    """
    parameters = sizes.count_parameters(model)
    of_trained = 4 + STATE_BYTES.get(training.optimizer, 8)         # bytes of gradient and state
    weights = 4 * parameters + of_trained * (parameters if trained is None else trained)
    on_gpu = resources.kind == "cuda"
    fused = on_gpu or model.block_size > FUSED_ATTENTION_LEN        # then no attention weights are kept
    scores = 0 if fused or model.is_recurrent else model.num_heads * model.block_size
    layer = CHANNEL_BYTES[resources.bits] * (model.emb_len + model.hidden_len) + SCORE_BYTES * scores
    token = model.num_layers * layer + LOGIT_BYTES * model.vocab_size
    sequences = min(training.micro_batch_size, -(-training.batch_size // resources.processes))
    activations = sequences * model.block_size * token
    if on_gpu:
        return weights + activations
    return resources.processes * (PROCESS_BYTES + weights + activations)


# --- What is advised: sentences ---

def _about_memory(memory, model, training, resources, trained) -> Iterator[str]:
    if resources.memory_bytes is None or memory <= ENOUGH * resources.memory_bytes:
        return
    without, with_one = (memory_bytes(model, replace(training, micro_batch_size=size), resources, trained)
                         for size in (0, 1))
    most = int((ENOUGH * resources.memory_bytes - without) / (with_one - without))      # sequences at a time
    fitting = (f"--micro-batch-size {size}" for size in range(most, 0, -1) if training.batch_size % size == 0)
    yield (f"This may take {memory / 1e9:.1f} GB of memory, and there are {resources.memory_bytes / 1e9:.1f} GB. "
           f"Try {next(fitting, 'a smaller --emb-len or --block-size')}")


def passes_before_overfitting(training: TrainingParams, corpus) -> float:
    """Return about how often a model may read a text before it overfits."""
    varied = training.bpe_dropout and corpus.text.tokenizer == "bpe"
    passes = PASSES * (PASSES_BYTES / corpus.train_bytes) ** (1 / 3) * (1 if varied else WITHOUT_BPE_DROPOUT)
    return max(PASSES_AT_LEAST, passes)


def _about_passes(passes, steps, seconds_a_step, training, corpus) -> Iterator[str]:
    most = passes_before_overfitting(training, corpus)
    if passes > most:
        helps = ["more text", f"--steps {_round(steps * most / passes)}"]
        if corpus.text.tokenizer == "bpe" and training.bpe_dropout < 0.2 and training.batches != "consecutive":
            helps.append("--bpe-dropout 0.2")
        yield (f"The model will read its text {_round(passes):,} times, and may overfit after about {_round(most)}. "
               f"The best weights are kept; {', '.join(helps[:-1])} or {helps[-1]} help.")
    elif passes < 1:
        minutes = seconds_a_step * steps / passes / 60
        more = f"--steps {_round(steps / passes)}" if training.steps else f"--minutes {_round(minutes)}"
        yield f"The model will read {passes:.0%} of its text. For all of it: {more}"


def _about_size(model, training, corpus, kind) -> Iterator[str]:
    free = replace(model, emb_len=None, num_layers=None, num_heads=None, num_kv_heads=None, head_len=None,
                   hidden_len=None)
    suits = sizes.sized(free, training, corpus, kind)
    ratio = sizes.block_parameters(model) / sizes.block_parameters(suits)
    flags = f"--emb-len {suits.emb_len} --num-layers {suits.num_layers} "
    flags += f"--hidden-len {suits.resolved().hidden_len}" if suits.is_recurrent else f"--num-heads {suits.num_heads}"
    if ratio > MUCH_LARGER:
        yield f"The model is large for this text and this time. Try {flags}"
    elif ratio < MUCH_SMALLER:
        yield f"This text and this time are good for a larger model. Try {flags}"


# --- In words ---

def _round(number):
    """Return an estimate rounded to two significant figures: 1234.5 -> 1200; never below 1."""
    number = max(1, round(number))
    return round(number, min(0, 2 - len(str(number))))


def duration(minutes: float) -> str:
    """Return a length of time in the unit that suits it.
    >>> [duration(minutes) for minutes in (0.4, 1.0, 2.94, 60 * 24, 1e7)]
    ['24 seconds', '1 minute', '2.9 minutes', '24 hours', '6,900 days']
    """
    units = (("second", 1 / 60, 59.5), ("minute", 1, 99.5), ("hour", 60, 98.5))
    number, unit = next(((minutes / length, unit) for unit, length, most in units if minutes / length < most),
                        (minutes / 1440, "day"))
    return counted(f"{number:.2g}" if 1 <= number < 9.95 else f"{_round(number):,}", unit)
