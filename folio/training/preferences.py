"""Direct preference optimization (DPO; Rafailov et al., 2023): make chosen answers likelier than rejected ones.

The loss of a pair is

    -log sigmoid(beta * (log p(chosen) - log p(rejected) - (log r(chosen) - log r(rejected))))

p: the probability of an answer's tokens after its prompt, by the network; r: by the reference, the network as it was
before the first step. What the reference says never changes. So it is computed once, before training, and there is no
second network in memory. A resume file has it.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from folio.base.errors import FolioError
from folio.data.batches import IGNORED, Batch
from folio.data.preferences import batch_of, pairs_of_step
from folio.evaluation.bits_per_byte import Score, evaluate, window_len
from folio.training import distributed
from folio.training.lessons import Lessons
from folio.training.report import Evaluator
from folio.training.step import LAST_GOOD

VALIDATION_PAIRS = 32       # in a forward pass where nothing is learned


@dataclass(frozen=True)
class PairBatch(Batch):
    """Pairs of answers, the chosen one first: inputs and targets are (pairs, 2, time)."""
    reference: Any          # (pairs,) float32: how much likelier the chosen answer was to the reference, in nats


def log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each row's counted targets, summed, in nats.

    logits: (batch, time, vocabulary), targets: (batch, time) -> (batch,) float32
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return -losses.view_as(targets).sum(-1)


def margins(forward, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return how much likelier each chosen answer is than the rejected one, in nats.

    inputs, targets: (pairs, 2, time) -> (pairs,) float32
    """
    answers = targets.flatten(0, 1)                                                     # (2 pairs, time)
    chosen, rejected = log_probabilities(forward(inputs.flatten(0, 1)), answers).view(-1, 2).unbind(-1)
    return chosen - rejected


def dpo_losses(policy: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the loss of each pair, in nats. policy, reference: margins, (pairs,) -> (pairs,)"""
    return -F.logsigmoid(beta * (policy - reference))
