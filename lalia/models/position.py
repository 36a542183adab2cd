"""The position convolution of wav2vec 2.0 (128 taps, 16 groups) in large matrix products, which a CPU is fast at.

``P`` frames of output that lie side by side are made at once: the frames they see, times a matrix in which the taps are repeated
``P`` times, each time a frame further down. A convolution with groups has products only as wide as a group.

B clips, T frames, D width, G groups, C and F channels of a group going in and coming out, K taps, P frames of a block, W blocks
that an output block sees, N output blocks of a clip.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from fairseq2.models.wav2vec2.position_encoder import Wav2Vec2PositionEncoder
from torch import Tensor, nn

LEAST_TAPS = 64
WIDEST = {torch.float32: 16, torch.bfloat16: 32}
"""Channels of a group up to which blocks are faster: 2.2 times in float32 at 16, 3.2 and 1.7 times in bfloat16 at 16 and 32, each
forward and backward with 128 taps. Wider groups fill torch's own convolution well enough (docs/pretraining.md)."""


def position_encoder(width: int, kernel: int, groups: int) -> Wav2Vec2PositionEncoder:
    """fairseq2's position encoder; while it trains on a CPU its convolution is computed by blocks."""
    encoder = Wav2Vec2PositionEncoder(width, kernel, groups)
    # The module stays fairseq2's: its weight norm, the names of its parameters, and what it is on a GPU and in an exported graph.
    encoder.conv.forward = partial(_forward, encoder.conv)  # type: ignore[method-assign]
    return encoder


def _forward(conv: nn.Conv1d, x_BDT: Tensor) -> Tensor:
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_BDT.dtype
    narrow = conv.in_channels // conv.groups <= WIDEST.get(kind, 0) and conv.kernel_size[0] >= LEAST_TAPS
    if not (conv.training and narrow and x_BDT.device.type == "cpu"):
        return nn.Conv1d.forward(conv, x_BDT)
    x_BDT, weight_DCK, bias_D = x_BDT.to(kind), conv.weight.to(kind), cast(Tensor, conv.bias).to(kind)
    y_BTD = _ByBlocks.apply(x_BDT.transpose(1, 2), weight_DCK, conv.groups, int(conv.padding[0]))
    return (y_BTD + bias_D).transpose(1, 2)


class _ByBlocks(torch.autograd.Function):
    """x_BTD, weight_DCK -> (B, T + 2 padding - K + 1, D). Between the passes it keeps these two alone."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight_DCK: Tensor, groups: int, padding: int) -> Tensor:
        ctx.save_for_backward(x_BTD, weight_DCK)
        ctx.groups, ctx.padding = groups, padding
        taps_GKCF = weight_DCK.unflatten(0, (groups, -1)).permute(0, 3, 2, 1)
        frames = x_BTD.shape[1] + 2 * padding - weight_DCK.shape[2] + 1
        return _side_by_side(_convolved(_apart(x_BTD, groups), taps_GKCF, padding, frames))

    @staticmethod
    def backward(ctx: Any, gradient_BTD: Tensor) -> tuple[Tensor | None, ...]:
        x_BTD, weight_DCK = ctx.saved_tensors
        D, C, K = weight_DCK.shape
        G = ctx.groups
        x_GBTC, gradient_GBTF = _apart(x_BTD, G), _apart(gradient_BTD, G)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            back_GKFC = weight_DCK.view(G, D // G, C, K).flip(3).permute(0, 3, 1, 2)
            of_x = _side_by_side(_convolved(gradient_GBTF, back_GKFC, K - 1 - ctx.padding, x_BTD.shape[1]))
        if ctx.needs_input_grad[1]:
            of_taps_GKCF = _of_taps(x_GBTC, gradient_GBTF, K, ctx.padding)
            of_weight = of_taps_GKCF.permute(0, 3, 2, 1).reshape(D, C, K).to(weight_DCK.dtype)
        return of_x, of_weight, None, None


def _convolved(x_GBTC: Tensor, taps_GKCF: Tensor, padding: int, frames: int) -> Tensor:
    """(G, B, ``frames``, F): the sum over k of x at frame t + k - ``padding`` (zero outside the clip) times tap k."""
    G, B, _, C = x_GBTC.shape
    K, F = taps_GKCF.shape[1], taps_GKCF.shape[3]
    P, W, N = _blocks(B, frames, K, F)
    seen = _seen(x_GBTC, padding, P, W, N)
    taps_GKCF, repeated = taps_GKCF.contiguous(), taps_GKCF.new_zeros(G, W * P, C, P, F)
    for p in range(P):
        repeated[:, p : p + K, :, p] = taps_GKCF
    return torch.bmm(seen, repeated.view(G, W * P * C, P * F)).view(G, B, N * P, F)[:, :, :frames]


def _of_taps(x_GBTC: Tensor, gradient_GBTF: Tensor, K: int, padding: int) -> Tensor:
    """The gradient of ``_convolved`` to its taps, (G, K, C, F) in float32."""
    G, B, frames, F = gradient_GBTF.shape
    C = x_GBTC.shape[3]
    P, W, N = _blocks(B, frames, K, F)
    seen = _seen(x_GBTC, padding, P, W, N)
    gradient = gradient_GBTF.new_zeros(G, B, N * P, F)
    gradient[:, :, :frames] = gradient_GBTF
    repeated = torch.bmm(seen.transpose(1, 2), gradient.view(G, B * N, P * F)).view(G, W * P, C, P, F)
    of_taps = torch.zeros(G, K, C, F)
    for p in range(P):
        of_taps += repeated[:, p : p + K, :, p]
    return of_taps


def _blocks(clips: int, frames: int, taps: int, channels: int) -> tuple[int, int, int]:
    """(P, W, N): blocks so long that what is seen, copied 1 + K / P times, and the taps, copied P times, are as large."""
    P = 2 ** max(0, round(math.log2(clips * frames / channels) / 2))
    return P, -(-(taps + P - 1) // P), -(-frames // P)


def _seen(x_GBTC: Tensor, padding: int, P: int, W: int, N: int) -> Tensor:
    """The W blocks that each of N output blocks sees, (G, B x N, W x P x C)."""
    G, B, T, C = x_GBTC.shape
    padded = x_GBTC.new_zeros(G, B, (N + W - 1) * P, C)
    padded[:, :, padding : padding + T] = x_GBTC
    blocks = padded.view(G, B, N + W - 1, P * C).unfold(2, W, 1)
    return blocks.transpose(3, 4).reshape(G, B * N, W * P * C)


def _apart(x_BTD: Tensor, groups: int) -> Tensor:
    return x_BTD.unflatten(2, (groups, -1)).permute(2, 0, 1, 3)


def _side_by_side(x_GBTF: Tensor) -> Tensor:
    return x_GBTF.permute(1, 2, 0, 3).flatten(2)
