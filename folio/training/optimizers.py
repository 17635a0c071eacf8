"""What turns gradients into steps: Muon for the matrices inside the blocks and AdamW for everything else, or one of them all for all.

They keep their state as torch.optim does, but are no torch.optim.Optimizer: that imports torch's compiler, which takes as long as all else together
before the first step.
"""

import math

import torch

ADAM_EPS = 1e-10        # small next to the gradients of rare tokens, which AdamW is here for; its 1e-8 would hold them back
RMSPROP_EPS = 1e-8
NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315         # x -> a x + b x^3 + c x^5 for the singular values: steepest at 0 of those that stay near 1 (Jordan, 2024)
MOMENTUM = 0.85, 0.95           # Muon's, at the first step and after its warm-up: early gradients change too fast to be averaged for long
STEP_LENGTH = 0.2       # root mean square of a step's elements, as a share of the learning rate: about AdamW's (Liu et al., 2025)


def build(net, training):
    """-> a list of optimizers that share the parameters of `net` between them. The matrices inside the blocks alone decay.

    training: TrainingParams, resolved. A group's `rate` is what the learning rate is multiplied by; `schedule` does.
    """
    matrices = [parameter for parameter in net.blocks.parameters() if parameter.ndim == 2]
    embedding = [net.embedding.weight] if training.embedding_rate != 1 and not net.params.tied_head else []         # a tied one is the head as well
    apart = set(map(id, matrices + embedding))
    others = [parameter for parameter in net.parameters() if id(parameter) not in apart]
    decaying = {"params": matrices, "weight_decay": training.weight_decay, "rate": 1.0}
    others = [{"params": embedding, "weight_decay": 0.0, "rate": training.embedding_rate}, {"params": others, "weight_decay": 0.0, "rate": 1.0}]
    if training.optimizer == "muon":
        return [Muon([decaying]), AdamW(others, training)]
    return [OPTIMIZERS[training.optimizer]([decaying, *others], training)]


def schedule(optimizers, step, learning_rate, training):
    """Set what the optimizers take a step with: their learning rates and Muon's momentum. training: TrainingParams, resolved"""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
            if isinstance(optimizer, Muon):
                group["momentum"] = momentum_at(step, training.momentum_warmup)


def momentum_at(step, warmup_steps):
    """Muon's momentum at a step: it rises in a line over the warm-up.
    >>> [round(momentum_at(step, 300), 3) for step in (0, 150, 300, 1000)], momentum_at(0, 0)
    ([0.85, 0.9, 0.95, 0.95], 0.95)
    """
    first, last = MOMENTUM
    return last if step >= warmup_steps else first + (last - first) * step / warmup_steps


class Optimizer:
    """Groups of parameters, with a learning rate `lr` each (set before each step), and tensors that are remembered of each parameter.

    param_groups: [{"params": [parameter], "lr": ..., ...}], state: {parameter: {name: tensor}}, empty before the first step
    """

    def __init__(self, groups):
        """groups: dictionaries, `params` among them; those without parameters are left out."""
        self.param_groups = [{"lr": 0.0, **group} for group in groups if group["params"]]
        self.state = {}

    @torch.no_grad()
    def step(self):
        """Take one step down the gradients in `.grad`."""
        for group in self.param_groups:
            if new := [parameter for parameter in group["params"] if parameter not in self.state]:
                self.state |= {parameter: self.before_the_first_step(parameter) for parameter in new}
            self.update(group, group["params"], [parameter.grad for parameter in group["params"]])

    def zero_grad(self):
        """Let go of all gradients."""
        for parameter in self._parameters():
            parameter.grad = None

    def state_dict(self):
        """What `load_state_dict` goes on from, in torch.optim's form: parameters are numbers there, in the order of the groups."""
        numbers = {parameter: number for number, parameter in enumerate(self._parameters())}
        groups = [{**group, "params": [numbers[parameter] for parameter in group["params"]]} for group in self.param_groups]
        return {"state": {numbers[parameter]: state for parameter, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, saved):
        """Go on from a state of the same parameters, however they were grouped; what groups hold is the TrainingParams' to say.

        Raises ValueError where there are more or fewer parameters.
        """
        parameters = list(self._parameters())
        if sum(len(group["params"]) for group in saved["param_groups"]) != len(parameters):
            raise ValueError("the saved state is of another number of parameters")
        self.state = {parameters[number]: {name: self._like(tensor, parameters[number]) for name, tensor in state.items()}
                      for number, state in saved["state"].items()}

    def of(self, name, parameters):
        """What is remembered by a name of each of some parameters: a list of tensors."""
        return [self.state[parameter][name] for parameter in parameters]

    def _parameters(self):
        return (parameter for group in self.param_groups for parameter in group["params"])

    @staticmethod
    def _like(tensor, parameter):
        return tensor.clone().to(parameter.device)          # a copy: what was loaded may be read again


class Muon(Optimizer):
    """Momentum whose step for each matrix is made orthogonal: it moves every direction equally far (Jordan, 2024).

    Steps are scaled so that they are as long as AdamW's (Liu et al., 2025): one learning rate serves both. What torch.optim.Muon computes
    matrix by matrix is computed here for all matrices of one shape together, in half the time on a CPU.
    """

    def __init__(self, groups):
        """groups: of parameters of two dimensions, each with its weight_decay."""
        super().__init__([{"momentum": MOMENTUM[-1], **group} for group in groups])

    def before_the_first_step(self, matrix):
        """-> {name: tensor}, as torch.optim.Muon calls it: either goes on from the other's"""
        return {"momentum_buffer": torch.zeros_like(matrix)}

    def update(self, group, matrices, gradients):
        """Change the matrices in place. matrices, gradients: lists of tensors"""
        averages = self.of("momentum_buffer", matrices)
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


class AdamW(Optimizer):
    """The mean gradient over the root of the mean square, with decay apart from both (Loshchilov and Hutter, 2019), by torch's fused kernel."""

    def __init__(self, groups, training):
        super().__init__(groups)
        self.betas = training.beta1, training.beta2

    def before_the_first_step(self, parameter):
        """-> {name: tensor}"""
        return {"step": torch.zeros((), device=parameter.device), "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}

    def update(self, group, parameters, gradients):
        """Change the parameters in place. parameters, gradients: lists of tensors"""
        averages, squares, steps = (self.of(name, parameters) for name in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)
        beta1, beta2 = self.betas
        torch._fused_adamw_(parameters, gradients, averages, squares, [], steps, lr=group["lr"], beta1=beta1, beta2=beta2,
                            weight_decay=group["weight_decay"], eps=ADAM_EPS, amsgrad=False, maximize=False)


class SGD(Optimizer):
    """The gradient itself, with momentum (Polyak, 1964)."""

    def __init__(self, groups, training):
        super().__init__(groups)
        self.momentum = training.beta1

    def before_the_first_step(self, parameter):
        """-> {name: tensor}"""
        return {"momentum_buffer": torch.zeros_like(parameter)}

    def update(self, group, parameters, gradients):
        """Change the parameters in place. parameters, gradients: lists of tensors"""
        momenta = self.of("momentum_buffer", parameters)
        torch._foreach_mul_(momenta, self.momentum)
        torch._foreach_add_(momenta, torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        torch._foreach_add_(parameters, momenta, alpha=-group["lr"])


class RMSprop(Optimizer):
    """The gradient over the root of its mean square (Hinton, 2012)."""

    def __init__(self, groups, training):
        super().__init__(groups)
        self.decay = training.beta2

    def before_the_first_step(self, parameter):
        """-> {name: tensor}"""
        return {"square_avg": torch.zeros_like(parameter)}

    def update(self, group, parameters, gradients):
        """Change the parameters in place. parameters, gradients: lists of tensors"""
        squares = self.of("square_avg", parameters)
        gradients = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
        torch._foreach_mul_(squares, self.decay)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - self.decay)
        lengths = torch._foreach_sqrt(squares)
        torch._foreach_add_(lengths, RMSPROP_EPS)
        torch._foreach_addcdiv_(parameters, gradients, lengths, value=-group["lr"])


OPTIMIZERS = {"adamw": AdamW, "sgd": SGD, "rmsprop": RMSprop}
