"""Direct preference optimization (DPO; Rafailov et al., 2023): make chosen answers likelier than rejected ones.

The loss of a pair is

    -log sigmoid(beta * (log p(chosen) - log p(rejected) - (log r(chosen) - log r(rejected))))

p: the probability of an answer's tokens after its prompt, by the network; r: by the reference, the network as it was
before the first step. What the reference says never changes. So it is computed once, before training, and there is no
second network in memory.
"""

import torch
import torch.nn.functional as F

from folio.data.batches import IGNORED


def log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of the counted targets of each row, summed, in nats.

    logits: (batch, time, vocabulary), targets: (batch, time) -> (batch,) float32
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return -losses.view_as(targets).sum(-1)


def margins(log_probs: torch.Tensor) -> torch.Tensor:
    """Return by how much each chosen answer is likelier than the rejected one, in nats: (2 pairs,) -> (pairs,)."""
    return log_probs[0::2] - log_probs[1::2]


def dpo_losses(policy_margins: torch.Tensor, reference_margins: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the loss of each pair, in nats: (pairs,) each."""
    return -F.logsigmoid(beta * (policy_margins - reference_margins))
