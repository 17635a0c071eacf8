"""What turns gradients into steps: Muon for the matrices inside the blocks and AdamW for everything else, or one of them all for all."""

import torch

ADAM_EPS = 1e-10        # small next to the gradients of rare tokens, which AdamW is here for; its 1e-8 would hold them back


def build(net, training):
    """-> a list of optimizers that share the parameters of `net` between them. The matrices inside the blocks alone decay."""
    matrices = [parameter for parameter in net.blocks.parameters() if parameter.ndim == 2]
    in_matrices = set(map(id, matrices))
    others = [parameter for parameter in net.parameters() if id(parameter) not in in_matrices]
    if training.optimizer == "muon":
        return [_muon(matrices, training), _adamw([{"params": others, "weight_decay": 0.0}], training)]
    return [OPTIMIZERS[training.optimizer]([{"params": matrices, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}],
                                           training)]


def _muon(matrices, training):
    """Orthogonalises the update of each matrix (Jordan, 2024), scaled so that it moves as far as AdamW's would (Liu et al., 2025):
    one learning rate serves both."""
    return torch.optim.Muon(matrices, lr=0.0, weight_decay=training.weight_decay, adjust_lr_fn="match_rms_adamw")


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
