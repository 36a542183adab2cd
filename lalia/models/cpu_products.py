"""Matrix products for training on a CPU in float32, by oneDNN instead of torch's BLAS library.

torch computes float32 products with MKL, which uses half of the vector units of a CPU that is not Intel's. oneDNN, which torch
has for convolutions and bfloat16, takes less than half the time there, with the same rounding error (docs/pretraining.md).

``torch.ops.mkldnn._linear_pointwise`` is private and without autograd; torch's version is pinned, and
tests/models/test_products.py holds what is assumed of it.

M rows, I and O input and output features.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from fairseq2.nn import ColumnShardedLinear, Linear, RowShardedLinear
from torch import Tensor, nn
from torch.nn import functional as F

ONEDNN = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether oneDNN is used: with 512-bit vectors it is the faster on AMD's CPUs, and equal on Intel's."""


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a (M, I) times b (I, O), plus ``bias`` (O,); in any strides, without gradients."""
    if ONEDNN and a.dtype == torch.float32 and a.device.type == "cpu":
        if not (b.is_contiguous() or b.T.is_contiguous()):
            b = b.contiguous()  # oneDNN has only a slow reference kernel for other strides
        return torch.ops.mkldnn._linear_pointwise(a, b.T, bias, "none", [], "")
    return torch.mm(a, b) if bias is None else torch.addmm(bias, a, b)


def replace_products(module: nn.Module) -> None:
    """While they train in float32 on a CPU, the linear layers in ``module`` compute with ``product``."""
    for child in module.modules():
        if isinstance(child, nn.Linear | Linear | ColumnShardedLinear | RowShardedLinear):
            child.forward = partial(_forward, child)  # type: ignore[method-assign]


def _forward(linear: Any, x: Tensor) -> Tensor:
    weight_OI, bias_O = linear.weight, linear.bias
    plain = (
        not ONEDNN or not linear.training or x.device.type != "cpu" or not x.dtype == weight_OI.dtype == torch.float32
        or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or not x.numel()
    )  # fmt: skip
    return F.linear(x, weight_OI, bias_O) if plain else _Linear.apply(x, weight_OI, bias_O)


class _Linear(torch.autograd.Function):
    """x (..., I), weight (O, I), bias (O,) -> (..., O)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        return product(x.flatten(0, -2), weight_OI.T, bias_O).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_OI = ctx.saved_tensors
        g = gradient.flatten(0, -2)
        of_x = product(g, weight_OI).view(x.shape) if ctx.needs_input_grad[0] else None
        of_weight = product(g.T, x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, g.sum(0) if ctx.needs_input_grad[2] else None
