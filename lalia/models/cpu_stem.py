"""The convolution stem of wav2vec 2.0 as matrix products: faster and smaller than torch's convolutions when training on a CPU.

Frames are rows and channels are columns, so a window of frames is a row of memory, and a convolution is one product for each
``stride`` of its taps, without copies. All clips are the rows of one matrix; each has a number of rows that all strides divide,
so windows never have to be moved. Rows after a clip's frames are computed and never used; their gradient is zero.

Between the passes each layer keeps only its input before GELU, and the first layer only the wave. The rest is recomputed.

B clips, S samples, T frames, N rows of a clip, R = B x N rows, C and F input and output channels, K taps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lalia.models.cpu_products import product

aten = torch.ops.aten


def stem(
    wave_BS: Tensor, frames_B: Sequence[int], convolutions: Sequence[nn.Conv1d], norm: nn.GroupNorm, kind: torch.dtype
) -> Tensor:
    """The output of ``convolutions``, each followed by GELU and the first by ``norm``: (B, T, F), computed in ``kind``.

    ``frames_B`` are each clip's frames after the first convolution; ``norm`` is over these, and later frames are zero there.
    The caller has autocast off.
    """
    first, *others = convolutions
    T = _frames(wave_BS.shape[1], first)
    unit = math.prod(convolution.stride[0] for convolution in others)
    N = -(-T // unit) * unit
    x = _First.apply(
        wave_BS.to(kind), _cast(first.weight, kind), _cast(first.bias, kind), norm.weight, norm.bias, norm.eps,
        first.stride[0], frames_B, N,
    )  # fmt: skip
    for i, convolution in enumerate(others):
        weight_KCF = convolution.weight.to(kind).permute(2, 1, 0).contiguous()
        x = _Next.apply(x, weight_KCF, _cast(convolution.bias, kind), convolution.stride[0], i > 0)
        N, T = N // convolution.stride[0], _frames(T, convolution)
    x_BTF = x.view(len(wave_BS), N, -1)[:, :T]
    return F.gelu(x_BTF) if others else x_BTF


def _frames(frames: int, convolution: nn.Conv1d) -> int:
    return (frames - convolution.kernel_size[0]) // convolution.stride[0] + 1


def _cast(weight: Tensor | None, kind: torch.dtype) -> Tensor | None:
    return None if weight is None else weight.to(kind)


class _First(torch.autograd.Function):
    """GELU of the group norm of the convolution of the wave, clip by clip: (R, F)."""

    @staticmethod
    def forward(
        ctx: Any, wave_BS: Tensor, weight_F1K: Tensor, bias_F: Tensor | None, gain_F: Tensor, shift_F: Tensor,
        epsilon: float, stride: int, frames_B: Sequence[int], N: int,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(wave_BS, weight_F1K, bias_F, gain_F, shift_F)
        ctx.epsilon, ctx.stride, ctx.frames_B, ctx.N = epsilon, stride, frames_B, N
        x = wave_BS.new_empty(len(wave_BS) * N, len(weight_F1K))
        for b, frames in enumerate(frames_B):
            _, normed_1FT, _, _ = _convolved_and_normed(
                wave_BS[b], frames, stride, weight_F1K, bias_F, gain_F, shift_F, epsilon
            )
            x[b * N : b * N + frames] = F.gelu(normed_1FT)[0].T
            x[b * N + frames : (b + 1) * N] = 0
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        wave_BS, weight_F1K, bias_F, gain_F, shift_F = ctx.saved_tensors
        C, stride, kind = len(weight_F1K), ctx.stride, weight_F1K.dtype
        of_weight, of_bias = weight_F1K.new_zeros(weight_F1K.shape, dtype=torch.float32), gain_F.new_zeros(C)
        of_gain, of_shift = gain_F.new_zeros(C), gain_F.new_zeros(C)
        for b, frames in enumerate(ctx.frames_B):
            convolved, normed, mean, scale = _convolved_and_normed(
                wave_BS[b], frames, stride, weight_F1K, bias_F, gain_F, shift_F, ctx.epsilon
            )
            g = gradient[b * ctx.N : b * ctx.N + frames].T.contiguous()[None]
            aten.gelu_backward.grad_input(g, normed, grad_input=g)
            del normed
            g, gain, shift = aten.native_group_norm_backward(
                g, convolved, mean, scale, gain_F, 1, C, frames, C, [True, True, True]
            )
            del convolved
            wave_11S = wave_BS[b, None, None, : (frames - 1) * stride + weight_F1K.shape[2]]
            _, weight, bias = aten.convolution_backward(
                g, wave_11S, weight_F1K, [C], [stride], [0], [1], False, [0], 1, [False, True, True]
            )
            of_weight += weight
            of_bias += bias
            of_gain += gain
            of_shift += shift
        return (
            None, of_weight.to(kind), None if bias_F is None else of_bias.to(kind), of_gain, of_shift, None, None, None, None,
        )  # fmt: skip


def _convolved_and_normed(
    wave_S: Tensor, frames: int, stride: int, weight_F1K: Tensor, bias_F: Tensor | None, gain_F: Tensor, shift_F: Tensor,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(convolution, its group norm, each (1, F, ``frames``); mean and 1 / deviation of each channel)."""
    C, _, K = weight_F1K.shape
    convolved = F.conv1d(wave_S[None, None, : (frames - 1) * stride + K], weight_F1K, bias_F, stride)
    return convolved, *aten.native_group_norm(convolved, gain_F, shift_F, 1, C, frames, C, epsilon)


class _Next(torch.autograd.Function):
    """The convolution of GELU(z), or of z: (R, C) -> (R / stride, F)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight_KCF: Tensor, bias_F: Tensor | None, stride: int, gelu: bool) -> Tensor:
        ctx.save_for_backward(z, weight_KCF)
        ctx.stride, ctx.gelu, ctx.bias = stride, gelu, bias_F is not None
        x = F.gelu(z) if gelu else z
        out: Tensor | None = None
        for first, weight in _parts(weight_KCF, stride):
            seen = product(_windows(x, first, weight, stride), weight, None if first else bias_F)
            if out is None:
                out = seen
            else:
                out[: len(seen)] += seen
        assert out is not None
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        z, weight_KCF = ctx.saved_tensors
        stride, of_weight, of_z = ctx.stride, None, None
        parts = _parts(weight_KCF, stride)
        if ctx.needs_input_grad[1]:
            x = F.gelu(z) if ctx.gelu else z
            windows = (_windows(x, first, weight, stride) for first, weight in parts)
            of_weight = torch.cat([product(g[: len(window)].T, window).T for window in windows]).view_as(weight_KCF)
            del x, windows
        if ctx.needs_input_grad[0]:
            of_z = torch.zeros_like(z) if len(weight_KCF) < stride else None
            for first, weight in parts:
                if of_z is None:
                    of_z = product(g, weight.T).view_as(z)
                else:
                    window = _windows(of_z, first, weight, stride)
                    window += product(g[: len(window)], weight.T)
            if ctx.gelu:
                aten.gelu_backward.grad_input(of_z, z, grad_input=of_z)
        return of_z, of_weight, g.sum(0) if ctx.bias else None, None, None


def _parts(weight_KCF: Tensor, stride: int) -> list[tuple[int, Tensor]]:
    """(first tap, weights (taps x C, F)) of the parts of a convolution: the windows of one part do not overlap."""
    return [(first, weight_KCF[first : first + stride].flatten(0, 1)) for first in range(0, len(weight_KCF), stride)]


def _windows(x: Tensor, first: int, weight: Tensor, stride: int) -> Tensor:
    """A view of ``x``: what a part sees of it from every ``stride``-th row on, as far as the rows reach."""
    C, width = x.shape[1], weight.shape[0]
    rows = (len(x) - first - width // C) // stride + 1
    return x.as_strided((rows, width), (stride * C, 1), first * C)
