"""Which precision and how many threads make a training step fastest on this processor: measured, before the first step.

What a processor lists among its capabilities does not tell: some list bfloat16 and multiply it at half the speed of float32. And two threads are slower
than one where a network is small. So a part of the step is timed, forward and backward, with each choice in turn. What is chosen is stored with the run,
which a resumed one repeats.

What counts is the clock, and the mean: beside other programs on the same cores two threads often wait for each other, and one is then faster.
"""

import math
import time
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F

from folio.base import hardware
from folio.networks import build as networks
from folio.training import plan

SHARE = 0.02                # of a run's time that measuring may take,
SECONDS = 0.1, 0.5          # ... and the least and the most of it
MARGIN = 0.95               # another choice has to take less than this share of the time: a moment's measurement is a few percent off
PASSES = 8                  # in a comparison: four rounds of two
PRODUCT = 256               # rows and columns of the matrices whose product tells in a millisecond which precisions are emulated


def settle(model, training):
    """Choose precision and threads where they are open. -> TrainingParams, and about how many seconds a step will take

    model: ModelParams, resolved; training: TrainingParams, the device and compile settled
    """
    most = training.threads or torch.get_num_threads()
    guess = replace(training, threads=most, precision=hardware.usual_precision(training.device) if training.precision == "auto" else training.precision)
    seconds_per_step = plan.seconds_per_step(model, guess, plan.Machine.of(guess))
    if training.device != "cpu" or guess == training:
        return guess, seconds_per_step
    run_seconds = training.steps * seconds_per_step if training.steps else 60 * training.minutes
    with _threads_as_before():
        hardware.keep_memory()
        part = _Part(model, training, min(max(SHARE * run_seconds, SECONDS[0]), SECONDS[1]))
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
    chosen = replace(training, precision=precision, threads=threads)
    machine = plan.Machine.of(chosen)
    return chosen, plan.seconds_per_step(model, chosen, machine) * seconds / plan.seconds_per_step(part.model, part.training, machine)


class _Part:
    """One block of a network between its embedding and its head, and a batch of as many sequences as are measured in the time there is."""

    def __init__(self, model, training, seconds):
        self.seconds = seconds / 2              # of a comparison; there are two, where there are two threads
        self.model = replace(model, num_layers=1)
        one = replace(training, batch_size=1, optimizer="adamw")                        # without Muon, which is not timed
        most = self.seconds / PASSES * plan.FLOPS_AT_HAND["cpu"] / 2 / plan.flops_per_step(self.model, one)        # / 2: of one thread
        rows = max(1, min(training.micro_batch_size or training.batch_size, int(most)))
        self.training = replace(one, batch_size=rows, micro_batch_size=rows)
        tokens = torch.randint(model.vocab_size, (rows, model.block_size + 1))
        self.inputs, self.targets = tokens[:, :-1], tokens[:, 1:].flatten()
        self.net = networks.build_network(self.model)
        self.nets = {}                          # by precision

    def fastest(self, choices):
        """-> which of some (precision, threads) makes a pass fastest, and the seconds it takes. The first is kept where the others are hardly faster."""
        ends, rounds = time.perf_counter() + self.seconds, []
        while not rounds or time.perf_counter() < ends:
            rounds.append([self._seconds(*choice) for choice in choices])
        counted = rounds[1:] or rounds              # the first passes, which fetch memory and make kernels, take longer than what follows
        means = {choice: sum(column) / len(counted) for choice, column in zip(choices, zip(*counted))}
        best = min(choices, key=means.get)
        chosen = best if means[best] < MARGIN * means[choices[0]] else choices[0]
        return chosen, means[chosen]

    def _seconds(self, precision, threads):
        """The time of a forward and a backward pass."""
        torch.set_num_threads(threads)
        if precision not in self.nets:
            self.nets[precision] = networks.in_type(self.net, hardware.TYPES[precision])
        net, began = self.nets[precision], time.perf_counter()
        loss = F.cross_entropy(net(self.inputs).float().flatten(0, 1), self.targets)
        torch.autograd.grad(loss, list(net.parameters()))
        return time.perf_counter() - began


def not_emulated():
    """-> "fp32", and those of "bf16" and "fp16" in which a product takes no longer"""
    shortest = {}
    for precision in ("fp32", "bf16", "fp16"):
        matrix = torch.ones(PRODUCT, PRODUCT, dtype=hardware.TYPES[precision])
        for _ in range(4):
            began = time.perf_counter()
            matrix @ matrix
            shortest[precision] = min(time.perf_counter() - began, shortest.get(precision, math.inf))
    return [precision for precision, seconds in shortest.items() if seconds <= shortest["fp32"]]


@contextmanager
def _threads_as_before():
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
