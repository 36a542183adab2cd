"""Int8 quantization simulated in torch, for quantization-aware training.

What becomes int8 in the file (``lalia/models/export/int8.py``) is rounded as the file does, and gradients pass straight through
(Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons", section 4; Jacob et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lalia.models.export.int8 import LEVELS, REDUCED_LEVELS, WIDE
from lalia.models.recogniser import Recogniser


def fake_int8(recogniser: Recogniser, reduce_range: bool = False) -> None:
    """Make ``recogniser`` compute with weights and activations rounded to int8; its parameters stay float.

    Each clip's activations have their own range, as in the file, which processes one clip at a time.
    """
    levels = REDUCED_LEVELS if reduce_range else LEVELS
    encoder = recogniser.encoder
    made = [module for root in (encoder.blocks, encoder.position) if root is not None for module in root.modules()]
    for module in [encoder.projection, *made, recogniser.head]:
        forward = _rounded(module, levels)
        if forward is not None:
            module.forward = forward


def round_weight(weight: Tensor, levels: int = LEVELS) -> Tensor:
    """``weight`` (O, …) rounded to int8 per output channel and back, float32."""
    weight = weight.float()
    scale = weight.detach().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True) / levels
    scale = torch.where(scale > 0, scale, 1.0)
    return _straight_through(weight, (weight.detach() / scale).round() * scale)


def round_activations(x: Tensor) -> Tensor:
    """``x`` (B, …) rounded to uint8 and back, by each clip's range including 0, as ONNX's DynamicQuantizeLinear does."""
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
    """The rounded forward function of ``module``; None if it is float in the int8 file."""
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
