"""What turns gradients into steps: Muon for the matrices inside the blocks, AdamW for everything else."""

import torch

ADAM_EPS = 1e-10        # small next to the gradients of rare tokens, which AdamW is here for; its 1e-8 would hold them back


def build(net, training):
    """-> a list of optimizers that share the parameters of `net` between them. The weights of matrices alone decay.

    Muon orthogonalises the update of each matrix (Jordan, 2024), scaled so that it moves as far as AdamW's would (Liu et al., 2025):
    one learning rate serves both. AdamW: Loshchilov and Hutter, 2019.
    """
    matrices = [parameter for parameter in net.blocks.parameters() if parameter.ndim == 2]
    in_matrices = set(map(id, matrices))
    others = [parameter for parameter in net.parameters() if id(parameter) not in in_matrices]
    if training.optimizer == "muon":
        return [torch.optim.Muon(matrices, lr=0.0, weight_decay=training.weight_decay, adjust_lr_fn="match_rms_adamw"),
                _adamw([{"params": others, "weight_decay": 0.0}], training)]
    return [_adamw([{"params": matrices, "weight_decay": training.weight_decay}, {"params": others, "weight_decay": 0.0}], training)]


def _adamw(groups, training):
    return torch.optim.AdamW(groups, lr=0.0, betas=(training.beta1, training.beta2), eps=ADAM_EPS, fused=True)
