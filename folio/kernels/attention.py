"""Attention as short contexts on a CPU want it: plain matrix products and a gradient written by hand.

torch's fused kernel is slow there in its backward pass, and autograd would make half a dozen passes over the scores that are not needed.
"""

import math

import torch


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value):
        T, D = query.shape[1:]
        mask = torch.full((T, T), -math.inf, dtype=query.dtype, device=query.device).triu(1)        # what comes later is not seen
        weights = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=D ** -0.5).softmax(-1)      # (N, T, T)
        ctx.save_for_backward(query, key, value, weights)
        return torch.bmm(weights, value)

    @staticmethod
    def backward(ctx, grad):
        query, key, value, weights = ctx.saved_tensors
        grad_scores = torch._softmax_backward_data(torch.bmm(grad, value.transpose(1, 2)), weights, -1, weights.dtype)
        scale = query.shape[-1] ** -0.5
        return (torch.bmm(grad_scores, key) * scale, torch.bmm(grad_scores.transpose(1, 2), query) * scale,
                torch.bmm(weights.transpose(1, 2), grad))


def causal_attention(query, key, value):
    """Each position's mixture of the values up to its own (Vaswani et al., 2017), in the type of what comes in.

    query, key, value: (N, T, D) each, N attention heads of all streams together -> (N, T, D)
    """
    return _CausalAttention.apply(query, key, value)
