"""Scaled dot-product attention that is fast on a CPU too, in the socket where fairseq2's attention layers expect it."""

from __future__ import annotations

from typing import Any

import torch
from fairseq2.models.transformer import SDPA, IdentityBias
from fairseq2.models.transformer.attention_bias import (
    AttentionBias,
    AttentionBiasCache,
    maybe_get_attention_bias_tensor,
)
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn import functional as F

from lalia.models.dropout import draw_kept, masked


class Attention(SDPA):
    """softmax(q k / sqrt(d)) v over the valid frames of each clip.

    On a GPU this is torch's fused kernel, on a CPU in float32 without dropout too. Elsewhere on a CPU the products are written
    out, in which the fused kernel took 1.5 times as long with dropout, 2 times in bfloat16 and 3 times with both
    (`python -m benchmarks.pretrain_profile --attention`; docs/pretraining.md).
    """

    def __init__(self, dropout_p: float, bias: AttentionBias | None = None) -> None:
        """``bias`` says who may see whom; all may unless given."""
        super().__init__()
        self.bias = bias or IdentityBias()
        self.dropout_p = dropout_p

    def forward(
        self,
        q: Tensor,
        q_layout: BatchLayout,
        k: Tensor,
        k_layout: BatchLayout,
        v: Tensor,
        bias_cache: AttentionBiasCache,
        *,
        needs_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """q, k, v (B, T, H, d) -> (attended (B, T, H, d), the weights (B, H, T, T) where asked for)."""
        bias = maybe_get_attention_bias_tensor(self.bias, q, q_layout, k_layout, bias_cache)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        dropout = self.dropout_p if self.training else 0.0
        plain = q.dtype == torch.float32 and not dropout and not torch.is_autocast_enabled("cpu")
        if (plain or q.device.type != "cpu") and not needs_weights:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
            return attended.transpose(1, 2), None
        if needs_weights:
            scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3))
            weights = (scores if bias is None else scores + bias).softmax(-1, dtype=torch.float32).to(v.dtype)
            return torch.matmul(weights, v).transpose(1, 2), weights
        return attend(q, k, v, bias, dropout).transpose(1, 2), None


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """q, k, v (B, H, T, d) -> attended (B, H, T, d); ``bias`` is added to the scores, ``dropout`` is the share of weights left
    out. Products in autocast's type where that is on; between the passes it keeps the weights and a byte for each draw."""
    device = q.device.type
    if torch.is_autocast_enabled(device):
        q, k, v = (x.to(torch.get_autocast_dtype(device)) for x in (q, k, v))
    kept = draw_kept((*q.shape[:3], k.shape[2]), dropout, q.device) if dropout else None
    with torch.autocast(device, enabled=False):
        return _WrittenOut.apply(q * q.shape[-1] ** -0.5, k, v, bias, *(kept or (None, 1.0)))


class _WrittenOut(torch.autograd.Function):
    """softmax(q k + bias) v in few passes over the (T, T) weights, of which one copy is kept."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kept: Tensor | None, scale: float
    ) -> Tensor:
        scores = torch.matmul(q, k.transpose(2, 3))
        if bias is not None:
            scores += bias
        weights = scores.softmax(-1)
        del scores
        ctx.save_for_backward(q, k, v, weights, kept)
        ctx.scale = scale
        if kept is None:
            return torch.matmul(weights, v)
        return torch.matmul(masked(weights, kept), v * scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, kept = ctx.saved_tensors
        if kept is not None:
            gradient = gradient * ctx.scale
        dropped = weights if kept is None else masked(weights, kept)
        of_v = torch.matmul(dropped.transpose(2, 3), gradient)
        del dropped
        of_weights = torch.matmul(gradient, v.transpose(2, 3))
        if kept is not None:
            of_weights = masked(of_weights, kept)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        del of_weights
        return torch.matmul(of_scores, k), torch.matmul(of_scores.transpose(2, 3), q), of_v, None, None, None
