"""Low-rank adapters: the same equations as an explicit W + s B A, and nothing but adapters is trained."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from folio.base.errors import FolioError
from folio.generation.decoder import generate
from folio.networks import lora
from folio.networks.build import build_network
from Model_Params import ModelParams

QWEN = ModelParams(vocab_size=20, block_size=8, emb_len=16, num_layers=2, num_heads=4, num_kv_heads=2)
KINDS = {"qwen": QWEN, "tied": replace(QWEN, tied_head=True),
         "gpt2": ModelParams(vocab_size=20, block_size=8, emb_len=16, num_layers=2, num_heads=2, family="classic",
                             mlp="gelu", biases="gpt2", tied_head=True),
         "lecture": ModelParams(vocab_size=20, block_size=8, emb_len=16, num_layers=1, num_heads=2, family="classic")}
TOKENS = torch.tensor([[1, 18, 3, 19, 5, 2, 2, 18], [7, 7, 19, 1, 0, 12, 18, 3]])


def base_of(params):
    torch.manual_seed(1)
    return build_network(params).eval().requires_grad_(False)


def adapted(base, rows=(18, 19), rank=3, alpha=6.0, **others):
    """An adapted network whose B are not zero any more."""
    torch.manual_seed(2)
    net = lora.adapted(base, base.params, lora.Adapters(rank, alpha, rows), **others)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return net.eval()


def loss_of(net, tokens=TOKENS):
    return F.cross_entropy(net(tokens)[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="sum")


def plain(base, net):
    """The plain network of a base and the adapters of another."""
    weights = lora.merged(base.state_dict(), lora.trained_weights(net), net.adapters.rows, net.adapters.scale)
    merged = build_network(base.params).eval()
    merged.load_state_dict(weights)
    return merged


@pytest.mark.parametrize("kind", KINDS)
def test_new_adapters_change_nothing(kind):
    base = base_of(KINDS[kind])
    net = lora.adapted(base, base.params, lora.Adapters(2, 4.0, (18, 19)))
    torch.testing.assert_close(net(TOKENS), base(TOKENS))
    a, b = net.blocks[0].mlp.down.a, net.blocks[0].mlp.down.b
    assert not b.any() and 0.5 < a.abs().max() * a.shape[1] ** 0.5 <= 1     # uniform, as PEFT draws it


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_compute_what_base_and_adapters_do(kind):
    base = base_of(KINDS[kind])
    net = adapted(base)
    torch.testing.assert_close(plain(base, net)(TOKENS), net(TOKENS), atol=1e-5, rtol=1e-5)
    assert (net(TOKENS) - base(TOKENS)).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_in_the_blocks_has_an_adapter_and_nothing_else_a_gradient(kind):
    base = base_of(KINDS[kind])
    net = adapted(base)
    trained = lora.trained_weights(net)
    matrices = {name.removesuffix(".weight") for name, weight in base.blocks.named_parameters(prefix="blocks")
                if weight.ndim == 2}
    assert {name.removesuffix(".a") for name in trained if name.endswith(".a")} == matrices
    assert {name: tuple(tensor.shape) for name, tensor in trained.items()} == lora.shapes(base, net.adapters)
    loss_of(net).backward()
    assert {name for name, weight in net.named_parameters() if weight.grad is not None} == trained.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_an_explicit_sum(kind):
    """By the chain rule dA = s B' dW and dB = s dW A'; a row's gradient is its row of the plain matrix's."""
    base = base_of(KINDS[kind])
    net = adapted(base)
    explicit = plain(base, net).requires_grad_(True)
    loss_of(net).backward()
    loss_of(explicit).backward()
    scale, rows = net.adapters.scale, list(net.adapters.rows)
    parameters = dict(net.named_parameters())
    for name, weight in explicit.named_parameters():
        module = name.rpartition(".")[0]
        if f"{module}.a" in parameters and name.endswith(".weight"):
            a, b = parameters[f"{module}.a"], parameters[f"{module}.b"]
            torch.testing.assert_close(a.grad, scale * b.T @ weight.grad, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(b.grad, scale * weight.grad @ a.T, atol=1e-5, rtol=1e-4)
        elif f"{module}.rows" in parameters:
            found = parameters[f"{module}.rows" if name.endswith("weight") else f"{module}.biases"]
            torch.testing.assert_close(found.grad, weight.grad[rows], atol=1e-5, rtol=1e-4)


def test_a_step_leaves_the_base_as_it_was_to_the_bit_and_shares_its_memory():
    base = base_of(QWEN)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    net = adapted(base)
    loss_of(net).backward()
    torch.optim.AdamW([weight for weight in net.parameters() if weight.requires_grad], lr=0.1).step()
    frozen = {name: weight for name, weight in net.state_dict().items() if name.endswith("base.weight")}
    assert frozen["blocks.0.attention.query.base.weight"].data_ptr() == base.blocks[0].attention.query.weight.data_ptr()
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_in_bfloat16_the_frozen_weights_are_halved_and_the_adapters_are_not():
    base = base_of(KINDS["tied"])
    net = adapted(base, type=torch.bfloat16)
    types = {weight.requires_grad: weight.dtype for weight in net.parameters() if weight.ndim == 2}
    assert types == {True: torch.float32, False: torch.bfloat16}
    assert net.head.base.weight is net.embedding.base.weight and base.head.weight.dtype == torch.float32
    torch.testing.assert_close(net(TOKENS).float(), adapted(base)(TOKENS), atol=0.05, rtol=0.1)
    loss_of(net).backward()
    assert all(weight.grad.dtype == torch.float32 for weight in net.parameters() if weight.requires_grad)


def test_what_it_generates_is_what_the_merged_network_generates(recwarn):
    base = base_of(QWEN)
    net = adapted(base)
    texts = [list(generate(network, [1, 18], tokens=12, temperature=0, sampling_seed=1))
             for network in (net, plain(base, net))]
    assert texts[0] == texts[1] and not recwarn.list      # the fast decoder leaves the adapted one to torch


def test_trained_weights_go_from_network_to_network():
    base = base_of(QWEN)
    net, other = adapted(base), lora.adapted(base, base.params, lora.Adapters(3, 6.0, (18, 19)))
    lora.load_trained(other, lora.trained_weights(net))
    assert torch.equal(other.eval()(TOKENS), net(TOKENS))
    with pytest.raises(KeyError, match="rows"):
        lora.load_trained(adapted(base, rows=()), lora.trained_weights(net))


def test_a_recurrent_network_is_refused():
    params = ModelParams(vocab_size=20, family="lstm", emb_len=8, block_size=8).resolved()
    with pytest.raises(FolioError, match="lora_rank=2 is for transformers"):
        lora.adapted(build_network(params), params, lora.Adapters(2, 4.0))
