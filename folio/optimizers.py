"""What turns gradients into steps: Muon for the matrices inside the blocks and AdamW for everything else, or one of them all for all."""

import math

import torch

ADAM_EPS = 1e-10        # small next to the gradients of rare tokens, which AdamW is here for; its 1e-8 would hold them back
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315         # x -> a x + b x^3 + c x^5 for the singular values: steepest at 0 of those that stay near 1 (Jordan, 2024)
MOMENTUM = 0.85, 0.95           # Muon's, at the first step and after its warm-up: early gradients change too fast to be averaged for long
STEP_LENGTH = 0.2       # root mean square of a step's elements, as a share of the learning rate: about AdamW's (Liu et al., 2025)


def build(net, training):
    """-> a list of optimizers that share the parameters of `net` between them. The matrices inside the blocks alone decay.

    training: TrainingParams, resolved. A group's `rate`, where it has one, is what the learning rate is multiplied by; `schedule` does.
    """
    matrices = [parameter for parameter in net.blocks.parameters() if parameter.ndim == 2]
    embedding = [net.embedding.weight] * (training.embedding_rate != 1 and not net.params.tied_head)         # a tied one is the head as well
    apart = set(map(id, matrices + embedding))
    others = [parameter for parameter in net.parameters() if id(parameter) not in apart]
    groups = [{"params": embedding, "weight_decay": 0.0, "rate": training.embedding_rate}] * len(embedding) + [{"params": others, "weight_decay": 0.0}]
    if training.optimizer == "muon":
        return [Muon(matrices, training.weight_decay), _adamw(groups, training)]
    return [OPTIMIZERS[training.optimizer]([{"params": matrices, "weight_decay": training.weight_decay}, *groups], training)]


def schedule(optimizers, step, learning_rate, training):
    """Set what the optimizers take a step with: their learning rates and Muon's momentum. training: TrainingParams, resolved"""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group.get("rate", 1.0)
            if isinstance(optimizer, Muon):
                group["momentum"] = momentum_at(step, training.momentum_warmup)


def momentum_at(step, warmup_steps):
    """Muon's momentum at a step: it rises in a line over the warm-up.
    >>> [round(momentum_at(step, 300), 3) for step in (0, 150, 300, 1000)], momentum_at(0, 0)
    ([0.85, 0.9, 0.95, 0.95], 0.95)
    """
    first, last = MOMENTUM
    return last - (last - first) * max(0.0, 1 - step / max(1, warmup_steps)) * (warmup_steps > 0)


class Muon(torch.optim.Optimizer):
    """Momentum whose step for each matrix is made orthogonal: it moves every direction equally far (Jordan, 2024).

    Steps are scaled so that they are as long as AdamW's (Liu et al., 2025): one learning rate serves both. What torch.optim.Muon computes
    matrix by matrix is computed here for all matrices of one shape together, in half the time on a CPU.
    """

    def __init__(self, matrices, weight_decay, momentum=MOMENTUM[-1]):
        """matrices: parameters of two dimensions; the learning rate `lr` is set in the groups, before each step (see `schedule`)."""
        super().__init__(matrices, {"lr": 0.0, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        """Take one step down the gradients in `.grad`."""
        for group in self.param_groups:
            matrices = group["params"]
            gradients = [matrix.grad for matrix in matrices]
            for matrix in matrices:
                if not self.state[matrix]:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)        # as torch.optim.Muon calls it: either goes on from the other's
            averages = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            torch._foreach_lerp_(gradients, averages, group["momentum"])            # Nesterov's: look ahead along the new average
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            for shape in {_wide(matrix).shape for matrix in matrices}:
                alike = [pair for pair in zip(map(_wide, matrices), map(_wide, gradients)) if pair[0].shape == shape]
                steps = orthogonalised(torch.stack([gradient for _, gradient in alike]))
                steps *= -group["lr"] * STEP_LENGTH * math.sqrt(shape[1])           # orthogonal rows have a root mean square of 1 / sqrt(their length)
                torch._foreach_add_([matrix for matrix, _ in alike], list(steps.to(gradients[0].dtype)))


def _wide(matrix):
    """The matrix itself or its transpose: that which has no more rows than columns."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def orthogonalised(matrices):
    """Matrices with the same directions whose singular values are all near 1 (0.7 to 1.2): five Newton-Schulz steps of degree five, in bfloat16
    (Jordan, 2024).

    matrices: (number, rows, columns), rows at most columns -> the same shape, bfloat16
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)                      # + 1e-7: zeros stay zeros
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def _adamw(groups, training):
    """Loshchilov and Hutter, 2019."""
    return torch.optim.AdamW(groups, lr=0.0, betas=(training.beta1, training.beta2), eps=ADAM_EPS, fused=True)


def _sgd(groups, training):
    """The gradient itself, with momentum (Polyak, 1964)."""
    return torch.optim.SGD(groups, lr=0.0, momentum=training.beta1)


def _rmsprop(groups, training):
    """The gradient over the root of its mean square (Hinton, 2012)."""
    return torch.optim.RMSprop(groups, lr=0.0, alpha=training.beta2)


OPTIMIZERS = {"adamw": _adamw, "sgd": _sgd, "rmsprop": _rmsprop}
