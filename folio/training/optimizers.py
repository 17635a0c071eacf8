"""Optimizers: Muon for the matrices inside the blocks and AdamW for everything else, or one for all parameters.

They keep their state in torch.optim's form, but do not derive from torch.optim.Optimizer: that imports torch's
compiler, which takes as long as everything else before the first step.
"""

import math

import torch

ADAM_EPS = 1e-10        # small next to the gradients of rare tokens; the usual 1e-8 would hold their embeddings back
RMSPROP_EPS = 1e-8
# x -> a x + b x^3 + c x^5 for the singular values: the steepest at 0 of those that stay near 1 (Jordan, 2024).
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315
# Muon's at the first step and after its warm-up: early gradients change too fast to be averaged for long.
MOMENTUM = 0.85, 0.95
# Root mean square of an update's elements, as a share of the learning rate: about AdamW's (Liu et al., 2025).
UPDATE_RMS = 0.2


def build(net, training):
    """Return a list of optimizers that together hold each parameter of `net` that is trained once.

    Weight decay is for the matrices inside the blocks alone. A group's `rate` is a factor of the learning rate, applied
    by `set_rates`. training: TrainingParams, resolved
    """
    matrices = [parameter for parameter in net.blocks.parameters() if parameter.ndim == 2 and parameter.requires_grad]
    has_own_rate = training.embedding_rate != 1 and not net.params.tied_head        # a tied one is the head as well
    embedding = [net.embedding.weight] if has_own_rate and net.embedding.weight.requires_grad else []
    grouped = set(map(id, matrices + embedding))
    rest = [parameter for parameter in net.parameters() if id(parameter) not in grouped and parameter.requires_grad]
    matrices_group = {"params": matrices, "weight_decay": training.weight_decay, "rate": 1.0}
    other_groups = [{"params": embedding, "weight_decay": 0.0, "rate": training.embedding_rate},
                    {"params": rest, "weight_decay": 0.0, "rate": 1.0}]
    if training.optimizer == "muon":
        return [Muon([matrices_group]), AdamW(other_groups, training)]
    return [OPTIMIZERS[training.optimizer]([matrices_group, *other_groups], training)]


def set_rates(optimizers, step, learning_rate, training):
    """Set the learning rates of a step, and Muon's momentum. training: TrainingParams, resolved"""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
            if isinstance(optimizer, Muon):
                group["momentum"] = momentum_at(step, training.momentum_warmup)


def momentum_at(step, warmup_steps):
    """Return Muon's momentum at a step: it rises linearly over the warm-up.

    >>> [round(momentum_at(step, 300), 3) for step in (0, 150, 300, 1000)], momentum_at(0, 0)
    ([0.85, 0.9, 0.95, 0.95], 0.95)
    """
    first, last = MOMENTUM
    return last if step >= warmup_steps else first + (last - first) * step / warmup_steps


class Optimizer:
    """Update groups of parameters, and keep some tensors per parameter as the state.

    param_groups: [{"params": [parameter], "lr": ..., ...}], with `lr` set before each step
    state: {parameter: {name: tensor}}, empty before the first step
    A subclass defines `initial_state(parameter)` and `update(group, parameters, gradients)`.
    """

    def __init__(self, groups):
        """groups: dicts with `params` among their keys; groups without parameters are left out"""
        self.param_groups = [{"lr": 0.0, **group} for group in groups if group["params"]]
        self.state = {}

    @torch.no_grad()
    def step(self):
        """Update all parameters by the gradients in `.grad`."""
        for group in self.param_groups:
            if new := [parameter for parameter in group["params"] if parameter not in self.state]:
                self.state |= {parameter: self.initial_state(parameter) for parameter in new}
            self.update(group, group["params"], [parameter.grad for parameter in group["params"]])

    def zero_grad(self):
        """Drop all gradients."""
        for parameter in self._parameters():
            parameter.grad = None

    def state_dict(self):
        """Return what `load_state_dict` restores, in torch.optim's form: parameters are numbered in group order."""
        numbers = {parameter: number for number, parameter in enumerate(self._parameters())}
        groups = [{**group, "params": [numbers[parameter] for parameter in group["params"]]}
                  for group in self.param_groups]
        return {"state": {numbers[parameter]: state for parameter, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, saved):
        """Restore a state of the same parameters, however they were grouped.

        The settings of saved groups are ignored; TrainingParams have them. Raises ValueError where the number of
        parameters differs.
        """
        parameters = list(self._parameters())
        if sum(len(group["params"]) for group in saved["param_groups"]) != len(parameters):
            raise ValueError("the saved state is of another number of parameters")
        self.state = {}
        for number, state in saved["state"].items():
            parameter = parameters[number]
            # A copy: what was loaded may be read again.
            self.state[parameter] = {name: tensor.clone().to(parameter.device) for name, tensor in state.items()}

    def states(self, name, parameters):
        """Return the state tensors of one name of each of these parameters, in their order."""
        return [self.state[parameter][name] for parameter in parameters]

    def _parameters(self):
        return (parameter for group in self.param_groups for parameter in group["params"])


class Muon(Optimizer):
    """Momentum with orthogonalized updates: every direction of a matrix moves equally far (Jordan, 2024).

    Updates are scaled to be as large as AdamW's (Liu et al., 2025), so one learning rate serves both. All matrices of
    one shape are computed together, in half the time that torch.optim.Muon takes for them one by one on a CPU.
    """

    def __init__(self, groups):
        """groups: of two-dimensional parameters, each with its weight_decay"""
        super().__init__([{"momentum": MOMENTUM[-1], **group} for group in groups])

    def initial_state(self, matrix):
        """Return {name: tensor}, named as in torch.optim.Muon: either continues from the other's state."""
        return {"momentum_buffer": torch.zeros_like(matrix)}

    def update(self, group, matrices, gradients):
        """Change the matrices in place. matrices, gradients: lists of tensors"""
        averages = self.states("momentum_buffer", matrices)
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        torch._foreach_lerp_(gradients, averages, group["momentum"])            # Nesterov: look ahead along the average
        torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
        for shape in {_wide(matrix).shape for matrix in matrices}:
            alike = [pair for pair in zip(map(_wide, matrices), map(_wide, gradients)) if pair[0].shape == shape]
            updates = orthogonalized(torch.stack([gradient for _, gradient in alike]))
            # Orthogonal rows have a root mean square of 1 / sqrt(their length).
            updates *= -group["lr"] * UPDATE_RMS * math.sqrt(shape[1])
            torch._foreach_add_([matrix for matrix, _ in alike], list(updates.to(gradients[0].dtype)))


def _wide(matrix):
    """Return the matrix or its transpose, the one with no more rows than columns."""
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T


def orthogonalized(matrices):
    """Return matrices with the same singular vectors and all singular values near 1 (0.7 to 1.2).

    Computed by five Newton-Schulz steps of degree five, in bfloat16 (Jordan, 2024).
    matrices: (count, rows, columns), rows at most columns -> the same shape, bfloat16
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)                      # + 1e-7: zeros stay zeros
    for _ in range(5):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


class AdamW(Optimizer):
    """Mean gradient over root mean square, with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    def __init__(self, groups, training):
        super().__init__(groups)
        self.betas = training.beta1, training.beta2

    def initial_state(self, parameter):
        """Return {name: tensor}."""
        return {"step": torch.zeros((), device=parameter.device), "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter)}

    def update(self, group, parameters, gradients):
        """Change the parameters in place. parameters, gradients: lists of tensors"""
        averages, squares, steps = (self.states(name, parameters) for name in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)
        beta1, beta2 = self.betas
        torch._fused_adamw_(parameters, gradients, averages, squares, [], steps, lr=group["lr"],
                            beta1=beta1, beta2=beta2, weight_decay=group["weight_decay"], eps=ADAM_EPS, amsgrad=False,
                            maximize=False)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak, 1964)."""

    def __init__(self, groups, training):
        super().__init__(groups)
        self.momentum = training.beta1

    def initial_state(self, parameter):
        """Return {name: tensor}."""
        return {"momentum_buffer": torch.zeros_like(parameter)}

    def update(self, group, parameters, gradients):
        """Change the parameters in place. parameters, gradients: lists of tensors"""
        momenta = self.states("momentum_buffer", parameters)
        torch._foreach_mul_(momenta, self.momentum)
        torch._foreach_add_(momenta, torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        torch._foreach_add_(parameters, momenta, alpha=-group["lr"])


class RMSprop(Optimizer):
    """Gradient over the root of its mean square (Hinton, 2012)."""

    def __init__(self, groups, training):
        super().__init__(groups)
        self.decay = training.beta2

    def initial_state(self, parameter):
        """Return {name: tensor}."""
        return {"square_avg": torch.zeros_like(parameter)}

    def update(self, group, parameters, gradients):
        """Change the parameters in place. parameters, gradients: lists of tensors"""
        squares = self.states("square_avg", parameters)
        gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
        torch._foreach_mul_(squares, self.decay)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - self.decay)
        roots = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, RMSPROP_EPS)
        torch._foreach_addcdiv_(parameters, gradients, roots, value=-group["lr"])


OPTIMIZERS = {"adamw": AdamW, "sgd": SGD, "rmsprop": RMSprop}
