"""Scaled dot-product attention that is fast on a CPU too, in the socket where fairseq2's attention layers expect it."""

from __future__ import annotations

import torch
from fairseq2.models.transformer import SDPA, IdentityBias
from fairseq2.models.transformer.attention_bias import AttentionBiasCache, maybe_get_attention_bias_tensor
from fairseq2.nn import BatchLayout
from torch import Tensor
from torch.nn import functional as F

from lalia.models.dropout import dropout as drop


class Attention(SDPA):
    """softmax(q k / sqrt(d)) v over the valid frames of each clip.

    On a GPU this is torch's fused kernel. On a CPU the two products are written out: the fused kernel's backward pass was 2.6
    times slower than all of this (benchmarks/pretrain_step.py has the comparison).
    """

    def __init__(self, dropout_p: float) -> None:
        super().__init__()
        self.bias = IdentityBias()
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
        if q.is_cuda and not needs_weights:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
            return attended.transpose(1, 2), None
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3))
        if bias is not None:
            scores = scores + bias
        weights = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
        if dropout:
            weights = drop(weights, dropout)
        return torch.matmul(weights, v).transpose(1, 2), weights if needs_weights else None
