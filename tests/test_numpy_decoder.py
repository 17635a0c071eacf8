"""One token of one stream in NumPy: the log-probabilities of Model.py everywhere, and one rule for where it is used."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_model import CLASSIC, COMBINATIONS, TINY, network, some_tokens

from folio import networks, numpy_decoder
from folio.decoder import Decoder, generate, window_start
from folio.numpy_decoder import NumpyTransformer, in_numpy
from Model_Params import ModelParams

SHAPES = [dict(num_kv_heads=1, head_len=10), dict(head_len=14, hidden_len=20), dict(family="classic"), dict(num_layers=1, num_heads=1)]


# --- The network ---

@pytest.mark.parametrize("parts", [dict(parts, num_kv_heads=2) for parts in COMBINATIONS] + SHAPES, ids=lambda parts: "-".join(map(str, parts.values())))
def test_at_every_position_and_beyond_the_context_the_log_probabilities_are_those_of_the_model(parts, monkeypatch):
    net, tokens = network(replace(TINY, **parts)), some_tokens(TINY, 1, 40)
    decoder, expected, pieces, compute = Decoder(net), {}, [], net.continue_from
    monkeypatch.setattr(net, "continue_from", lambda state, piece: pieces.append(piece.shape[1]) or compute(state, piece))
    for length in range(1, 41):
        found = decoder.read(tokens[:, length - 1:length])[0]
        start = window_start(length, TINY.block_size)
        if start not in expected:
            with torch.inference_mode():
                expected[start] = net(tokens[:, start:start + TINY.block_size])[0]
        torch.testing.assert_close(found.log_softmax(-1), expected[start][length - 1 - start].log_softmax(-1), rtol=0, atol=1e-4)
    assert pieces == [8, 8, 8]          # torch computes the windows that restart, and nothing else


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_what_keeps_the_norms_from_dividing_by_nothing_is_the_models(norm):
    net, tokens = network(replace(TINY, norm=norm)), some_tokens(TINY, 1, TINY.block_size)
    with torch.no_grad():
        for part in (net.embedding, *(matrix for block in net.blocks for matrix in (block.attention.query, block.attention.key))):
            part.weight *= 1e-3                     # whose squares are as small as Model.NORM_EPS
        decoder, expected = Decoder(net), net(tokens)[0].log_softmax(-1)
    found = torch.stack([decoder.read(token)[0] for token in tokens.split(1, dim=1)]).log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_full_context_refuses_more():
    net = network(TINY)
    with torch.inference_mode():
        state = net.continue_from(net.empty_state(1), some_tokens(TINY, 1, TINY.block_size))[1]
        with pytest.raises(ValueError, match="17 tokens do not fit into a context of block_size=16"):
            in_numpy(net).continue_from(state, some_tokens(TINY, 1, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_weights_that_are_unusable_are_refused_in_one_sentence_and_no_warning(value, recwarn):
    net = network(TINY)
    with torch.no_grad():
        net.blocks[0].mlp.up.weight[0, 0] = net.head.weight[0, 0] = value
    with pytest.raises(ValueError, match="not finite"):
        Decoder(net).read(torch.tensor([[1]]))
    assert not recwarn.list


# --- The rule ---

def test_numpy_serves_small_transformers_in_float32_that_are_not_being_trained(monkeypatch):
    net = network(TINY)
    assert isinstance(in_numpy(net), NumpyTransformer) and isinstance(in_numpy(network(CLASSIC)), NumpyTransformer)
    assert in_numpy(net.train()) is None
    assert in_numpy(networks.in_type(net.eval(), torch.bfloat16)) is None
    assert in_numpy(network(ModelParams(family="lstm", vocab_size=50, emb_len=16))) is None
    with torch.inference_mode():
        assert in_numpy(network(TINY)) is None          # torch does not say whether such weights have changed
    monkeypatch.setattr(numpy_decoder, "PARAMETERS", networks.count_parameters(net) - 1)
    assert in_numpy(net) is None


def test_several_streams_are_torchs_and_one_that_is_left_goes_on_in_numpy(monkeypatch):
    net, tokens = network(TINY), some_tokens(TINY, 3, 9)
    expected, compute, computed = net(tokens)[:, 4:].detach(), NumpyTransformer.continue_from, []
    monkeypatch.setattr(NumpyTransformer, "continue_from", lambda self, state, piece: computed.append(state.length) or compute(self, state, piece))
    decoder = Decoder(net, 3)
    decoder.read(tokens[:, :5])
    torch.testing.assert_close(decoder.read(tokens[:, 5:6]), expected[:, 1], rtol=1e-4, atol=1e-4)
    decoder.select([2])
    for place in range(6, 8):
        torch.testing.assert_close(decoder.read(tokens[2:, place:place + 1])[0], expected[2, place - 4], rtol=1e-4, atol=1e-4)
    decoder.select([0, 0])
    torch.testing.assert_close(decoder.read(tokens[2:, 8:].expand(2, 1)), expected[2, 4].expand(2, -1), rtol=1e-4, atol=1e-4)
    assert computed == [6, 7]


def test_weights_are_folded_once_and_anew_when_they_have_changed():
    net = network(TINY).requires_grad_(False)
    assert in_numpy(net) is in_numpy(net)
    other, greedily = network(TINY, seed=1), dict(tokens=20, temperature=0.0, seed=0)
    before, expected = list(generate(net, [1], **greedily)), list(generate(other, [1], **greedily))
    net.load_state_dict(other.state_dict())
    assert list(generate(net, [1], **greedily)) == expected != before
    net.requires_grad_(True)                                    # and in training, where fused optimizers leave no trace in the tensors
    before = in_numpy(net).head.matrix
    net(some_tokens(TINY, 1, 5)).logsumexp(-1).sum().backward()
    torch.optim.AdamW(net.parameters(), lr=0.1, fused=True).step()
    assert not np.allclose(in_numpy(net).head.matrix, before)
