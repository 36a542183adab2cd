"""Fake int8: a recogniser in torch that says what its int8 file will say, and can still learn.

The rounding is that of ``quantize.py``: weights of products by output channel, what they are multiplied by with the range of the
moment, wide convolutions by output channel in their weights alone. Gradients pass it as if it were not there (Bengio et al. 2013,
"Estimating or propagating gradients through stochastic neurons", section 4; Jacob et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.quantize import WIDE
from lalia.models.recogniser import Recogniser

LEVELS, REDUCED_LEVELS = 127, 64
"""Largest weight as a number; with reduced range one bit less."""


def fake_int8(recogniser: Recogniser, reduce_range: bool = False) -> None:
    """From now on ``recogniser`` computes in rounded numbers; its parameters stay what they are, in float.

    A clip's activations are rounded by its own range, as the file does where it hears one clip at a time.
    """
    levels = REDUCED_LEVELS if reduce_range else LEVELS
    encoder = recogniser.encoder
    made = [module for root in (encoder.blocks, encoder.position) if root is not None for module in root.modules()]
    for module in [encoder.projection, *made, recogniser.head]:
        forward = _rounded(module, levels)
        if forward is not None:
            module.forward = forward


def round_weight(weight: Tensor, levels: int = LEVELS) -> Tensor:
    """``weight`` (O, …) as int8 by output channel would give it back, float32."""
    weight = weight.float()
    scale = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) / levels
    scale = torch.where(scale > 0, scale, 1.0)
    return _straight_through(weight, (weight.detach() / scale).round() * scale)


def round_activations(x: Tensor) -> Tensor:
    """``x`` (B, …) as uint8 would give it back, each clip by its own range, in which 0 lies: ONNX's DynamicQuantizeLinear."""
    x = x.float()
    now = x.detach()
    rest = tuple(range(1, x.ndim))
    low, high = now.amin(rest, keepdim=True).clamp(max=0), now.amax(rest, keepdim=True).clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale > 0, scale, 1.0)
    zero = (-low / scale).round().clamp(0, 255)
    return _straight_through(x, (((now / scale).round() + zero).clamp(0, 255) - zero) * scale)


def _straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    return x + (rounded - x).detach()


def _rounded(module: Any, levels: int) -> Callable[[Tensor], Tensor] | None:
    """What ``module`` shall do from now on; None where its int8 file computes as before."""
    if isinstance(module, nn.Linear) or (
        isinstance(getattr(module, "weight", None), Tensor) and hasattr(module, "input_dim")
    ):
        return partial(_product, module, levels)
    if isinstance(module, nn.Conv1d):
        if module.kernel_size == (1,) and module.groups == 1:
            return partial(_convolution, module, levels, True)
        if module.weight.numel() >= WIDE:
            return partial(_convolution, module, LEVELS, False)
    return None


def _product(module: Any, levels: int, x: Tensor) -> Tensor:
    return F.linear(round_activations(x), round_weight(module.weight, levels), module.bias)


def _convolution(module: nn.Conv1d, levels: int, both: bool, x: Tensor) -> Tensor:
    weight = round_weight(module.weight, levels)
    return module._conv_forward(round_activations(x) if both else x, weight.to(x.dtype), module.bias)
