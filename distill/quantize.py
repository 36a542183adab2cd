"""Int8 quantization: of an ONNX graph for export, and simulated in torch for quantization-aware training.

Matrix products become int8 with one scale per output channel and dynamic activation ranges; wide convolutions are only stored in
int8; the rest stays float. A *group* is quantized as a whole: a part of a block (``blocks.0.attention``), ``projection``,
``head``, ``position``.

The simulation rounds as the file does and passes gradients straight through (Bengio et al. 2013, "Estimating or propagating
gradients through stochastic neurons", section 4; Jacob et al. 2018).
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn
from torch.nn import functional as F

from lalia.models.recogniser import Recogniser

# --- Quantizing an ONNX graph --------------------------------------------------------------------------

PRODUCT = ".weight_IO"
"""Suffix of the names of matrix-product weights (``lalia/models/export/deployed.py``)."""
WIDE = 1 << 16
"""A convolution with at least this many weights is stored in int8 and computed in float."""
_PARTS = {"self_attn": "attention", "conv": "convolution"}


def group_of(weight: str) -> str:
    """The group of a weight by its name: ``blocks.layers.0.ffn.inner_proj.weight_IO`` -> ``blocks.0.feed-forward``."""
    found = re.match(r"blocks\.layers\.(\d+)\.(\w+)\.", weight)
    if not found:
        return weight.partition(".")[0]
    number, part = found.groups()
    return f"blocks.{number}.{'feed-forward' if part.startswith('ffn') else _PARTS.get(part, part)}"


def kind_of(group: str) -> str:
    """The kind of a group: ``blocks.0.attention`` -> ``attention``."""
    return group.rpartition(".")[2]


def groups(graph: Path) -> list[str]:
    """All groups of ``graph`` that can become int8, in order of computation."""
    model = onnx.load(graph)
    return list(dict.fromkeys(group_of(name) for name in [*_products(model), *_wide_convolutions(model)]))


def quantize(source: Path, target: Path, chosen: Collection[str], reduce_range: bool = False) -> None:
    """Write ``source`` to ``target`` with the groups ``chosen`` in int8.

    Weights of matrix products: int8 per output channel; what they are multiplied by: uint8 with the range of the moment
    (dynamic), so that no calibration audio is needed. Wide convolutions: int8 per output channel in the file only.
    """
    model = onnx.load(source)
    for name, initializer in _wide_convolutions(model).items():
        if group_of(name) in chosen:
            _store_small(model, initializer)
    products = _products(model)
    kept = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.name not in products.values()]
    kept += [node for weight, node in products.items() if group_of(weight) not in chosen]
    if len(kept) == sum(node.op_type == "MatMul" for node in model.graph.node):
        target.write_bytes(model.SerializeToString())
        return
    # Through a file: with a model in memory the library infers shapes differently and leaves temporary files.
    with tempfile.TemporaryDirectory() as work:
        float_path = Path(work) / "float.onnx"
        float_path.write_bytes(model.SerializeToString())
        logger = logging.getLogger()
        level = logger.level
        logger.setLevel(logging.ERROR)  # it recommends a preprocessing that the export has done
        try:
            quantize_dynamic(
                float_path, target, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=reduce_range,
                weight_type=QuantType.QInt8, nodes_to_exclude=kept,
            )  # fmt: skip
        finally:
            logger.setLevel(level)


def _products(model: onnx.ModelProto) -> dict[str, str]:
    """Weight of each matrix product -> its node; both by name."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {
        node.input[1]: node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights and node.input[1].endswith(PRODUCT)
    }


def _wide_convolutions(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Name of each wide convolution's weight -> its tensor, without the frontend."""
    weights = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    return {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.name in weights and np.prod(tensor.dims) >= WIDE and not tensor.name.startswith("frontend.")
    }


def _store_small(model: onnx.ModelProto, tensor: onnx.TensorProto) -> None:
    """Replace ``tensor`` by int8 and a scale per output channel, which runtimes multiply when they load the model."""
    weight = numpy_helper.to_array(tensor)
    axes = tuple(range(1, weight.ndim))
    scale = np.maximum(np.abs(weight).max(axis=axes, keepdims=True), 1e-12) / 127
    name = tensor.name
    model.graph.initializer.remove(tensor)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.rint(weight / scale).astype(np.int8), f"{name}.int8"),
            numpy_helper.from_array(scale.astype(np.float32), f"{name}.scale"),
        ]
    )
    nodes = [
        helper.make_node("Cast", [f"{name}.int8"], [f"{name}.number"], f"{name}.number", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.number", f"{name}.scale"], [name], name),
    ]
    for place, node in enumerate(nodes):
        model.graph.node.insert(place, node)


# --- Simulated int8 in torch ---------------------------------------------------------------------------

LEVELS, REDUCED_LEVELS = 127, 64
"""Largest int8 weight; one bit less with ``reduce_range``."""


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
