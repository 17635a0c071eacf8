"""What is computed by hand for speed is what the textbook's formula computes, in value and in gradient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from folio.kernels.attention import causal_attention


def textbook_attention(query, key, value):
    """softmax(Q K^T / sqrt(D)) V, row by row, each row over what is not later than itself."""
    rows = []
    for t in range(query.shape[1]):
        scores = (query[:, t:t + 1] * key[:, :t + 1]).sum(-1) / math.sqrt(query.shape[2])
        rows.append((scores.softmax(-1).unsqueeze(-1) * value[:, :t + 1]).sum(1))
    return torch.stack(rows, dim=1)


def heads(number, time, channels, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(number, time, channels, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 6), st.integers(0, 1000))
def test_attention_by_hand_is_the_textbooks(number, time, channels, seed):
    inputs = heads(number, time, channels, seed)
    found, expected = causal_attention(*inputs), textbook_attention(*inputs)
    torch.testing.assert_close(found, expected)
    slope = torch.cos(torch.arange(found.numel(), dtype=torch.float64)).view_as(found)
    for one, other in zip(torch.autograd.grad(found, inputs, slope), torch.autograd.grad(expected, inputs, slope)):
        torch.testing.assert_close(one, other)


def test_the_gradient_of_attention_is_its_derivative():
    assert torch.autograd.gradcheck(causal_attention, heads(2, 5, 3))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_attention_stays_in_the_type_of_what_comes_in(dtype, tolerance):
    exact = heads(3, 40, 16)
    inputs = [part.detach().to(dtype).requires_grad_() for part in exact]
    found, expected = causal_attention(*inputs), textbook_attention(*exact)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    for one, other in zip(torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(expected.sum(), exact)):
        assert one.dtype == dtype
        torch.testing.assert_close(one.double(), other, rtol=0, atol=20 * tolerance)
