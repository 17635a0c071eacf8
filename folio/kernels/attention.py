"""Attention for a CPU, where torch's fused kernel is slow in its backward pass on short contexts.

`attend` chooses between that kernel, plain matrix products, and `causal_attention`: matrix products with a gradient
written by hand, because autograd would make half a dozen passes over the scores that are not needed.

Letters: B sequences, T queries, S positions seen, H heads, G key/value heads, D channels per head.
"""

import math

import torch
import torch.nn.functional as F

# On a CPU, plain matrix products train twice as fast up to this length; beyond it memory matters more. Without a
# gradient they are slower.
FUSED_ATTENTION_LEN = 512


def attend(query, key, value, dropout, visible=None):
    """Return softmax(Q K^T / sqrt(D)) V over the positions that each query sees (Vaswani et al., 2017).

    query: (B, H, T, D); key, value: (B, G, S, D), each shared by H / G consecutive query heads -> (B, H, T, D)
    visible: the mask, (T, S) or (B, 1, T, S): booleans, or what is added to the scores, 0 or -inf; by default causal
    (T = S), or everything for a single query
    """
    B, H, T, D = query.shape
    G, S = key.shape[1:3]
    is_causal = visible is None and T > 1
    if query.is_cuda or T > FUSED_ATTENTION_LEN or is_causal and not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, visible, dropout, is_causal=is_causal,
                                              enable_gqa=H != G)
    is_packed = visible is not None and visible.is_floating_point() and torch.is_grad_enabled()
    if (is_causal or is_packed) and not dropout:
        heads = (part.repeat_interleave(H // part.shape[1], dim=1).reshape(B * H, T, D) for part in (query, key, value))
        return causal_attention(*heads, visible).view(B, H, T, D)
    query = query.reshape(B, G, -1, D) * D ** -0.5          # (B, G, H/G * T, D): heads that share keys in one matrix
    scores = (query @ key.transpose(-2, -1)).view(B, H, T, S)
    if is_causal:
        visible = torch.ones(T, T, dtype=torch.bool, device=query.device).tril()
    if visible is not None:
        is_added = visible.is_floating_point()
        scores = scores + visible if is_added else scores.masked_fill(~visible, -math.inf)
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights.to(value.dtype).view(B, G, -1, S) @ value).view(B, H, T, D)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, mask):
        N, T, D = query.shape
        if mask is None:
            mask = torch.full((T, T), -math.inf, dtype=query.dtype, device=query.device).triu(1)    # the future
        # The copy of the mask becomes the scores, so that no head has one of its own.
        scores = query.new_empty(N, T, T)
        scores.view(len(mask) if mask.ndim == 4 else 1, -1, T, T).copy_(mask)
        weights = scores.baddbmm_(query, key.transpose(1, 2), alpha=D ** -0.5).softmax(-1)          # (N, T, T)
        ctx.save_for_backward(query, key, value, weights)
        return torch.bmm(weights, value)

    @staticmethod
    def backward(ctx, grad):
        query, key, value, weights = ctx.saved_tensors
        grad_weights = torch.bmm(grad, value.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        scale = query.shape[-1] ** -0.5
        return (torch.bmm(grad_scores, key) * scale, torch.bmm(grad_scores.transpose(1, 2), query) * scale,
                torch.bmm(weights.transpose(1, 2), grad), None)


def causal_attention(query, key, value, mask=None):
    """Return each position's attention over itself and the positions before it, in the type of the inputs.

    query, key, value: (N, T, D) each, N = B * H heads of all sequences together -> (N, T, D)
    mask: what is added to the scores, 0 or -inf: (B, 1, T, T), or (T, T) for all alike (default: the causal one)
    """
    return _CausalAttention.apply(query, key, value, mask)
