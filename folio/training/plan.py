"""Advice before the start: how long it will take, in how much memory, and which size suits the text and the time.

All of it is estimated from what a machine of its kind has, so that the same text, flags and kind of device give the same sizes; how long a step takes is
measured (folio/training/fastest.py) where that is known. Decided here are the sizes that were left open and the BPE-dropout; the rest is only said.
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import torch

from folio.base import hardware
from folio.networks import build as networks
from folio.base.spelling import counted
from folio.kernels.attention import FUSED_ATTENTION_LEN

# --- How large: measured with 2.5 million tokens, three minutes on two cores ---

WIDTHS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)       # what is chosen from; each has about twice the parameters of the one before
# Tokens to train on for each parameter inside the blocks. 20 are best where text is plentiful (Hoffmann et al., 2022), but for
# 2.5 million tokens 4 layers of width 128, 0.8 million parameters, have served well on half a megabyte and on a whole one.
TOKENS_PER_PARAMETER = 2
# Parameters inside the blocks, at most, for each root of a byte of text. On 20 kB widths 32 to 96 came to within 0.02 nats per byte of each other
# and 128 was worse; on 100 kB 96 was better than 64 and 128 (benchmarks/README.md); half a megabyte bears 128, a megabyte also 192.
PARAMETERS_PER_ROOT_BYTE = 2300
FLOPS_AT_HAND = {"cpu": 1.5e11, "mps": 1e12, "cuda": 1e13}            # a second, of a usual machine: two cores; the others are guesses

# Passes over half a megabyte before a model learns it by heart: with BPE-dropout it was still getting better at 14, and that stretches them to
# about twice as many. Smaller texts bear more (20 kB: best at 30 to 100, by width), larger ones fewer, but four passes are as good as new text
# (Muennighoff et al., 2023).
PASSES, PASSES_BYTES, PASSES_AT_LEAST = 20, 500_000, 4
WITHOUT_BPE_DROPOUT = 0.5
# BPE-dropout for each pass over the text, and the most: in half a pass none ended at 1.719 nats per byte and 0.05 at 1.732, after 11 passes over the plays
# 0.2 gave 1.619 where 0.1 gave 1.651 (benchmarks/LOG.md).
BPE_DROPOUT_PER_PASS, BPE_DROPOUT_AT_MOST, PASSES_WITHOUT_BPE_DROPOUT = 0.02, 0.2, 1
MUCH_SMALLER, MUCH_LARGER = 0.4, 2.5        # of the parameters that suit: no need to speak of less

# --- How long: by kind of device and bits, operations a second of a core (cpu), a multiprocessor (cuda) or all of it (mps) on products that are wide,
# and the width at which half of that is reached. cpu: measured on one core with AVX512-BF16, widths 64 to 384. The others
# are guesses from data sheets.
SPEED = {("cpu", 16): (1.9e11, 180), ("cpu", 32): (1.0e11, 120), ("mps", 16): (2e12, 500), ("mps", 32): (1.5e12, 500),
         ("cuda", 16): (1e12, 1000), ("cuda", 32): (1.5e11, 500)}
SECONDS_PER_LAYER = {"cpu": 1e-3, "mps": 1e-2, "cuda": 5e-3}        # the least a step takes, however small the products; mps and cuda are guesses
SECONDS_PER_TOKEN = {"cpu": 5e-6, "mps": 2e-5, "cuda": 2e-5}        # a recurrent layer reads them one after the other; mps and cuda are guesses
COMPILED = 0.85                                                     # of the time of a step; measured on cpu: 0.8 to 0.9
EVALUATIONS = 1.05                                                  # times the time of the steps: training.EVALUATION_SHARE

# --- How much memory: bytes, from the peak of processes of widths 64 to 384 ---

PROCESS_BYTES = 330e6                                               # Python, torch and what the first step brings along
CHANNEL_BYTES = {16: 24, 32: 39}                                    # a token and layer, for each number of emb_len and hidden_len
SCORE_BYTES = 4.5                                                   # a token and layer, for each attention weight that is kept
LOGIT_BYTES = 16                                                    # a token, for each token of the vocabulary
STATE_BYTES = {"muon": 4, "sgd": 4, "rmsprop": 4}                   # a parameter, beside four for itself and four for its gradient; adamw: 8
ENOUGH = 0.9                                                        # of the machine's memory; something else runs there too


@dataclass(frozen=True)
class Machine:
    """What a step is computed on."""
    kind: str                       # cpu, cuda, mps
    bits: int                       # of a number in matrix products: 16, 32
    units: int                      # threads, or multiprocessors, of one process
    memory_bytes: int | None        # None: not known
    compiled: bool = False
    processes: int = 1              # that share it; on GPUs, each has one

    @classmethod
    def of(cls, training, processes=1):
        """The machine that TrainingParams, probed, mean here, where so many processes make the run."""
        kind, cuda = training.device.partition(":")[0], training.device.startswith("cuda")
        units = torch.cuda.get_device_properties(training.device).multi_processor_count if cuda else training.threads if kind == "cpu" else 1
        return cls(kind, 32 if training.precision == "fp32" else 16, units, hardware.memory_bytes(training.device), bool(training.compile), processes)


@dataclass(frozen=True)
class Plan:
    """What a run will be like, as far as that can be known before its first step."""
    parameters: int
    steps: int
    minutes: float
    by_the_clock: bool              # whether minutes are given and steps a guess, or the other way round
    passes: float                   # over the text
    tokens_per_parameter: float     # of the text
    memory_bytes: float
    advice: tuple                   # sentences

    def line(self):
        """The figures, on one line."""
        length = counted(_round(self.steps), "step") if self.by_the_clock else _duration(self.minutes)
        passes = f"{_round(self.passes):,}" if self.passes >= 9.5 else f"{self.passes:.1g}"
        return (f"about {length}, {counted(passes, 'pass', 'passes')} over the text, {self.tokens_per_parameter:.2g} tokens a parameter, "
                f"{self.memory_bytes / 1e9:.1f} GB of memory")


def make(model, training, corpus, machine, a_step=None, sizes_are_open=True):
    """The Plan for a run.

    model, training: ModelParams and TrainingParams, resolved and probed; corpus: a Corpus, of which the numbers alone matter;
    machine: Machine; a_step: the seconds it takes, where they were measured; sizes_are_open: whether another size is worth speaking of.
    """
    a_step = a_step or seconds_per_step(model, training, machine)
    steps = training.steps or steps_in(60 * training.minutes, a_step)
    seconds = EVALUATIONS * a_step
    parameters = count_parameters(model)
    passes = steps * training.batch_size * model.block_size / corpus.train_tokens
    memory = memory_bytes(model, training, machine)
    advice = [*_about_memory(memory, model, training, machine), *_about_passes(passes, steps, seconds, training, corpus)]
    if sizes_are_open:
        advice += _about_size(model, training, corpus, machine.kind)
    return Plan(parameters, steps, steps * seconds / 60 if training.steps else training.minutes, not training.steps, passes,
                corpus.train_tokens / parameters, memory, tuple(advice))


# --- How large ---

def sized(model, training, corpus, kind):
    """ModelParams with those of emb_len, num_layers and num_heads that are open chosen for the text and the time.

    training: TrainingParams; corpus: a Corpus; kind: cpu, cuda or mps. Two machines of a kind choose the same.
    """
    return model.sized(width_for(corpus.train_bytes, training, model, kind))


def width_for(train_bytes, training, model, kind):
    """The largest width with which the model has no more parameters inside its blocks than the text and the time are good for."""
    if training.steps:
        by_time = training.steps * training.batch_size * model.block_size / TOKENS_PER_PARAMETER
    else:               # 6 operations a parameter and token (Kaplan et al., 2020), TOKENS_PER_PARAMETER tokens a parameter
        by_time = math.sqrt(60 * training.minutes * FLOPS_AT_HAND[kind] / (6 * TOKENS_PER_PARAMETER))
    most = min(by_time, PARAMETERS_PER_ROOT_BYTE * math.sqrt(train_bytes))
    return max((width for width in WIDTHS if block_parameters(model.sized(width)) <= most), default=WIDTHS[0])


def with_bpe_dropout(training, model, corpus, steps):
    """TrainingParams with the bpe_dropout that suits how often so many steps read the text, where it is open. model: ModelParams, sized"""
    if training.bpe_dropout is not None:
        return training
    passes = steps * training.batch_size * model.block_size / corpus.train_tokens
    one_way = corpus.text.tokenizer != "bpe" or training.batches == "consecutive"       # to say a text; or windows that have to end where they end
    if one_way or passes < PASSES_WITHOUT_BPE_DROPOUT:
        return replace(training, bpe_dropout=0.0)
    return replace(training, bpe_dropout=round(min(BPE_DROPOUT_AT_MOST, BPE_DROPOUT_PER_PASS * passes), 3))


def steps_in(seconds, seconds_per_step):
    """About how many steps are made in so many seconds, with their evaluations."""
    return max(1, round(seconds / (EVALUATIONS * seconds_per_step)))


def block_parameters(model):
    """Parameters in the matrices of the blocks."""
    return sum(rows * columns for rows, columns in matrix_shapes(model))


def matrix_shapes(model):
    """The shapes (rows, columns), or (columns, rows), of the matrices in the blocks."""
    model = model.resolved()
    if model.is_recurrent:          # for what comes in and for the state, the four gates' in one
        return [(4 * model.hidden_len, model.emb_len)] + (2 * model.num_layers - 1) * [(4 * model.hidden_len, model.hidden_len)]
    query, key = model.num_heads * model.head_len, model.num_kv_heads * model.head_len
    attention = [(model.emb_len, query)] * 2 + [(model.emb_len, key)] * 2
    return model.num_layers * (attention + [(model.emb_len, model.hidden_len)] * (3 if model.mlp == "swiglu" else 2))


@cache
def count_parameters(model):
    """All numbers that training adjusts."""
    return networks.count_parameters(networks.outline(model))


def _about_size(model, training, corpus, kind):
    free = replace(model, emb_len=None, num_layers=None, num_heads=None, num_kv_heads=None, head_len=None, hidden_len=None)
    suits = sized(free, training, corpus, kind)
    ratio = block_parameters(model) / block_parameters(suits)
    flags = f"--emb-len {suits.emb_len} --num-layers {suits.num_layers} "
    flags += f"--hidden-len {suits.resolved().hidden_len}" if suits.is_recurrent else f"--num-heads {suits.num_heads}"
    if ratio > MUCH_LARGER:
        yield f"The model is large for this text and this time. Try {flags}"
    elif ratio < MUCH_SMALLER:
        yield f"This text and this time are good for a larger model. Try {flags}"


# --- How often the text is read ---

def passes_before_overfitting(training, corpus):
    """About how often a model may read a text before it learns it by heart."""
    shuffled = training.bpe_dropout and corpus.text.tokenizer == "bpe"
    return max(PASSES_AT_LEAST, PASSES * (PASSES_BYTES / corpus.train_bytes) ** (1 / 3) * (1 if shuffled else WITHOUT_BPE_DROPOUT))


def _about_passes(passes, steps, seconds_a_step, training, corpus):
    most = passes_before_overfitting(training, corpus)
    if passes > most:
        fewer = f"--steps {_round(steps * most / passes)}"
        helps = ["more text", fewer, *["--bpe-dropout 0.2"] * (corpus.text.tokenizer == "bpe" and training.bpe_dropout < 0.2 and
                                                                   training.batches != "consecutive")]
        yield (f"The model will read its text {_round(passes):,} times, and may begin to learn it by heart after about {_round(most)}. "
               f"The best weights are kept; {', '.join(helps[:-1])} or {helps[-1]} help.")
    elif passes < 1:
        more = f"--steps {_round(steps / passes)}" if training.steps else f"--minutes {_round(seconds_a_step * steps / passes / 60)}"
        yield f"The model will read {passes:.0%} of its text. For all of it: {more}"


# --- How long ---

def flops_per_step(model, training):
    """Floating-point operations of one step: forward once, backward twice, and what Muon takes to orthogonalise.

    model: ModelParams, resolved; training: TrainingParams
    """
    into_head = model.hidden_len if model.is_recurrent and not model.tied_head else model.emb_len
    matrices = block_parameters(model) + into_head * model.vocab_size                           # the embedding is looked up, not multiplied
    attention = 0 if model.is_recurrent else model.num_layers * 2 * model.block_size * model.num_heads * model.head_len     # queries x keys, weights x values
    return 6 * (matrices + attention) * training.batch_size * model.block_size + (_muon_flops(model) if training.optimizer == "muon" else 0)


def seconds_per_step(model, training, machine):
    """What one step takes, roughly."""
    peak, half_width = SPEED[machine.kind, machine.bits]
    width = 2 * model.hidden_len if model.is_recurrent else model.emb_len       # the four gates make wide products
    speed = machine.processes * machine.units * peak * width / (width + half_width)
    in_turn = SECONDS_PER_TOKEN[machine.kind] * model.block_size if model.is_recurrent else 0
    seconds = max(flops_per_step(model, training) / speed, (SECONDS_PER_LAYER[machine.kind] + in_turn) * model.num_layers)
    return seconds * (COMPILED if machine.compiled else 1)


def _muon_flops(model):
    """Five iterations (Jordan, 2024), each three products: two of a matrix's shorter side by itself and its longer side, one of the shorter cubed."""
    return sum(5 * (4 * min(shape) * min(shape) * max(shape) + 2 * min(shape) ** 3) for shape in matrix_shapes(model))


# --- How much memory ---

def memory_bytes(model, training, machine):
    """The most memory that training takes at once, roughly: of the whole process, or on the GPU."""
    weights = count_parameters(model) * (4 + 4 + STATE_BYTES.get(training.optimizer, 8))
    fused = machine.kind == "cuda" or model.block_size > FUSED_ATTENTION_LEN        # then no attention weights are kept
    scores = 0 if fused or model.is_recurrent else model.num_heads * model.block_size
    layer = CHANNEL_BYTES[machine.bits] * (model.emb_len + model.hidden_len) + SCORE_BYTES * scores
    token = model.num_layers * layer + LOGIT_BYTES * model.vocab_size
    windows = min(training.micro_batch_size, -(-training.batch_size // machine.processes))
    on_gpu = machine.kind == "cuda"
    return (1 if on_gpu else machine.processes) * ((not on_gpu) * PROCESS_BYTES + weights + windows * model.block_size * token)


def _about_memory(memory, model, training, machine):
    if machine.memory_bytes is None or memory <= ENOUGH * machine.memory_bytes:
        return
    without, with_one = (memory_bytes(model, replace(training, micro_batch_size=size), machine) for size in (0, 1))
    most = int((ENOUGH * machine.memory_bytes - without) / (with_one - without))            # windows at once
    fitting = (f"--micro-batch-size {size}" for size in range(most, 0, -1) if training.batch_size % size == 0)
    yield (f"This may take {memory / 1e9:.1f} GB of memory, and there are {machine.memory_bytes / 1e9:.1f} GB. "
           f"Try {next(fitting, 'a smaller --emb-len or --block-size')}")


# --- In words ---

def _round(number):
    """A guess with two figures that count: 1234.5 -> 1200; never below 1."""
    number = max(1, round(number))
    return round(number, min(0, 2 - len(str(number))))


def _duration(minutes):
    """Return a length of time in the unit that suits it.
    >>> [_duration(minutes) for minutes in (0.4, 1.0, 2.94, 60 * 24, 1e7)]
    ['24 seconds', '1 minute', '2.9 minutes', '24 hours', '6,900 days']
    """
    number, unit = next(((minutes / length, unit) for unit, length, most in (("second", 1 / 60, 59.5), ("minute", 1, 99.5), ("hour", 60, 98.5))
                         if minutes / length < most), (minutes / 1440, "day"))
    return counted(f"{number:.2g}" if 1 <= number < 9.95 else f"{_round(number):,}", unit)
