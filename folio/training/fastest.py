"""Which precision and how many threads make a training step fastest on this processor, measured before the first step.

A processor's capabilities do not tell: some list bfloat16 and multiply it at half the speed of float32, and two threads
are slower than one where a network is small. So a part of the step is timed, forward and backward, with each choice in
turn. The choice is stored with the run, and a resumed run repeats it.

Means of elapsed time count: beside other programs on the same cores two threads often wait for each other, and one is
then faster.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F

from folio.base import hardware
from folio.networks import build as networks
from folio.training import plan, sizes
from Model_Params import ModelParams, TrainingParams

SHARE = 0.02                # of a run's time that measuring may take,
SECONDS = 0.1, 0.5          # ... and the least and the most of it
# Another choice has to take less than this share of the time: a moment's measurement is a few percent off.
MARGIN = 0.95
PASSES = 8                  # in a comparison: four rounds of two
PRODUCT = 256               # rows and columns of matrices whose product tells in a millisecond what is emulated

Choice = tuple[str, int]    # precision, threads


def choose(model: ModelParams, training: TrainingParams, most_threads: int) -> tuple[TrainingParams, float]:
    """Return TrainingParams with precision and threads chosen where they are open, and about the seconds per step.

    model: resolved; training: device and compile settled; most_threads: to choose from
    """
    most = training.threads or most_threads
    usual = hardware.usual_precision(training.device) if training.precision == "auto" else training.precision
    guess = replace(training, threads=most, precision=usual)
    seconds_per_step = plan.seconds_per_step(model, guess, plan.Resources.of(guess))
    if training.device != "cpu" or guess == training:
        return guess, seconds_per_step
    run_seconds = training.steps * seconds_per_step if training.steps else 60 * training.minutes
    with _threads_as_before():
        hardware.keep_memory()
        part = _Part(model, training, min(max(SHARE * run_seconds, SECONDS[0]), SECONDS[1]))
        (precision, threads), seconds = _measured(part, training, most)
    chosen = replace(training, precision=precision, threads=threads)
    resources = plan.Resources.of(chosen)
    share = seconds / plan.seconds_per_step(part.model, part.training, resources)
    return chosen, plan.seconds_per_step(model, chosen, resources) * share


def _measured(part, training, most) -> tuple[Choice, float]:
    """Return the fastest choice and its seconds: precision first, then twice as many threads as long as it pays."""
    threads = training.threads or 1
    torch.set_num_threads(threads)
    precisions = not_emulated() if training.precision == "auto" else [training.precision]
    (precision, _), seconds = part.fastest([(precision, threads) for precision in precisions])
    while not training.threads and threads < most:
        more = min(2 * threads, most)
        (_, chosen), seconds = part.fastest([(precision, threads), (precision, more)])
        if chosen != more:
            break
        threads = more
    return (precision, threads), seconds


class _Part:
    """One block of a network between its embedding and its head, and a batch as large as the time allows."""

    def __init__(self, model, training, seconds):
        self.seconds = seconds / 2              # of a comparison; there are two, where there are two threads
        self.model = replace(model, num_layers=1)
        one = replace(training, batch_size=1, optimizer="adamw")                # without Muon, which is not timed
        affordable = self.seconds / PASSES * sizes.FLOPS_AT_HAND["cpu"] / 2     # / 2: of one thread
        most = affordable / plan.flops_per_step(self.model, one)
        rows = max(1, min(training.micro_batch_size or training.batch_size, int(most)))
        self.training = replace(one, batch_size=rows, micro_batch_size=rows)
        tokens = torch.randint(model.vocab_size, (rows, model.block_size + 1))
        self.inputs, self.targets = tokens[:, :-1], tokens[:, 1:].flatten()
        self.net = networks.build_network(self.model)
        self.nets = {}                          # by precision

    def fastest(self, choices: list[Choice]) -> tuple[Choice, float]:
        """Return the choice with the fastest pass and its seconds. The first is kept where others are hardly faster."""
        ends, rounds = time.perf_counter() + self.seconds, []
        while not rounds or time.perf_counter() < ends:
            rounds.append([self._seconds(*choice) for choice in choices])
        counted = rounds[1:] or rounds          # the first passes fetch memory and make kernels
        means = {choice: sum(column) / len(counted) for choice, column in zip(choices, zip(*counted))}
        best = min(choices, key=means.get)
        chosen = best if means[best] < MARGIN * means[choices[0]] else choices[0]
        return chosen, means[chosen]

    def _seconds(self, precision, threads):
        """Return the time of a forward and a backward pass."""
        torch.set_num_threads(threads)
        if precision not in self.nets:
            self.nets[precision] = networks.in_type(self.net, hardware.TYPES[precision])
        net, began = self.nets[precision], time.perf_counter()
        loss = F.cross_entropy(net(self.inputs).float().flatten(0, 1), self.targets)
        torch.autograd.grad(loss, list(net.parameters()))
        return time.perf_counter() - began


def not_emulated() -> list[str]:
    """Return "fp32", and those of "bf16" and "fp16" in which a product takes no longer."""
    shortest = {}
    for precision in ("fp32", "bf16", "fp16"):
        matrix = torch.ones(PRODUCT, PRODUCT, dtype=hardware.TYPES[precision])
        for _ in range(4):
            began = time.perf_counter()
            matrix @ matrix
            shortest[precision] = min(time.perf_counter() - began, shortest.get(precision, math.inf))
    return [precision for precision, seconds in shortest.items() if seconds <= shortest["fp32"]]


@contextmanager
def _threads_as_before() -> Iterator[None]:
    """Set torch's number of threads back at the end of the block."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
