"""The optimizers follow their equations, and torch's own."""


import math
from dataclasses import replace

import pytest
import torch

from folio.networks import build as networks
from folio.training import optimizers
from training_runs import MODEL, TRAINING, make_run, project  # noqa: F401


def orthogonalized(matrix):
    """Newton and Schulz's iteration with Jordan's coefficients, five times, in float64."""
    x = matrix / matrix.norm()
    if len(x) > len(x[0]):
        return orthogonalized(matrix.T).T
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd", "rmsprop"])
def test_the_optimizers_follow_their_equations(optimizer):
    torch.manual_seed(0)
    net = networks.build_network(replace(MODEL, vocab_size=30, emb_len=32, biases="gpt2").resolved())
    options = replace(TRAINING, optimizer=optimizer, weight_decay=0.3, beta1=0.8, beta2=0.9)
    built = optimizers.build(net, options)
    reference = {name: parameter.detach().double().clone() for name, parameter in net.named_parameters()}
    momentum = {name: torch.zeros_like(value) for name, value in reference.items()}
    square = {name: torch.zeros_like(value) for name, value in reference.items()}
    for step, rate in enumerate([0.01, 0.02, 0.005, 0.01], 1):
        for name, parameter in net.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            gradient, value = parameter.grad.double(), reference[name]
            if name.startswith("blocks.") and value.ndim == 2:
                if optimizer in ("muon", "adamw"):
                    value *= 1 - rate * 0.3
                else:                                                           # where decay is part of the gradient
                    gradient = gradient + 0.3 * value
            if name.startswith("blocks.") and value.ndim == 2 and optimizer == "muon":
                momentum[name] = 0.95 * momentum[name] + 0.05 * gradient
                value -= (
                    rate * 0.2 * math.sqrt(max(value.shape)) * orthogonalized(0.05 * gradient + 0.95 * momentum[name])
                )
            elif optimizer == "sgd":
                momentum[name] = 0.8 * momentum[name] + gradient
                value -= rate * momentum[name]
            elif optimizer == "rmsprop":
                square[name] = 0.9 * square[name] + 0.1 * gradient ** 2
                value -= rate * gradient / (square[name].sqrt() + 1e-8)
            else:
                momentum[name] = 0.8 * momentum[name] + 0.2 * gradient
                square[name] = 0.9 * square[name] + 0.1 * gradient ** 2
                value -= (
                    rate
                    * momentum[name]
                    / (1 - 0.8**step)
                    / ((square[name] / (1 - 0.9**step)).sqrt() + optimizers.ADAM_EPS)
                )
        for each in built:
            for group in each.param_groups:
                group["lr"] = rate
            each.step()
    for name, parameter in net.named_parameters():
        by_muon = optimizer == "muon" and name.startswith("blocks.") and parameter.ndim == 2
        difference = (parameter.detach().double() - reference[name]).abs().max().item()
        assert difference < (5e-3 if by_muon else 2e-6), name           # Muon's products are of bfloat16: 8 bits


def test_muon_makes_the_updates_of_torchs_own():
    torch.manual_seed(0)
    shapes = [(16, 16), (24, 16), (16, 24), (16, 16), (24, 16), (1, 8)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    one = optimizers.Muon([{"params": ours, "weight_decay": 0.3, "rate": 1.0}])
    other = torch.optim.Muon(theirs, lr=0.0, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    for rate in (0.01, 0.02, 0.005):
        for a, b in zip(ours, theirs):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        for optimizer in (one, other):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)             # products of bfloat16, summed in another order


@pytest.mark.parametrize(
    "optimizer, theirs",
    [
        ("adamw", lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=optimizers.ADAM_EPS, fused=True)),
        ("sgd", lambda groups: torch.optim.SGD(groups, momentum=0.9)),
        ("rmsprop", lambda groups: torch.optim.RMSprop(groups, alpha=0.95)),
    ],
)
def test_the_state_of_torchs_own_optimizer_can_be_restored(optimizer, theirs):
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(3))]
    other = [torch.nn.Parameter(parameter.detach().clone()) for parameter in mine]
    groups = [{"params": [parameter], "weight_decay": decay, "rate": 1.0} for parameter, decay in zip(mine, (0.3, 0.0))]
    one = optimizers.OPTIMIZERS[optimizer](groups, TRAINING)
    two = theirs([{"params": [parameter], "weight_decay": decay} for parameter, decay in zip(other, (0.3, 0.0))])
    for step in range(4):
        for a, b in zip(mine, other):
            a.grad, b.grad = [torch.randn_like(a)] * 2
        for group in two.param_groups:
            group["lr"] = 0.01
        two.step()
        if step >= 2:
            for group in one.param_groups:
                group["lr"] = 0.01
            one.step()
        if step == 1:
            one.load_state_dict(two.state_dict())
            for a, b in zip(mine, other):
                a.data.copy_(b)
    for a, b in zip(mine, other):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_the_embedding_has_its_own_learning_rate_unless_it_is_tied(make_run):
    for tied_head, rates in ((False, {5.0, 1.0}), (True, {1.0})):
        run = make_run(f"tied-{tied_head}", tied_head=tied_head, embedding_rate=None)
        run.step()
        assert {
            group["lr"] / run.schedule.learning_rate(0)
            for each in run.train_step.optimizers
            for group in each.param_groups
        } == rates


def test_muon_makes_no_update_from_a_zero_gradient():
    matrix = torch.nn.Parameter(torch.ones(4, 6))
    matrix.grad = torch.zeros(4, 6)
    optimizer = optimizers.Muon([{"params": [matrix], "weight_decay": 0.0, "rate": 1.0}])
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert torch.equal(matrix, torch.ones(4, 6))


def test_every_parameter_has_one_optimizer():
    for params in (MODEL, replace(MODEL, tied_head=True), replace(MODEL, family="classic")):
        net = networks.build_network(replace(params, vocab_size=30).resolved())
        for optimizer in ("muon", "adamw", "sgd", "rmsprop"):
            built = optimizers.build(net, replace(TRAINING, optimizer=optimizer))
            held = [id(parameter) for each in built for group in each.param_groups for parameter in group["params"]]
            assert sorted(held) == sorted(id(parameter) for parameter in net.parameters())
