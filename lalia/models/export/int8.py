"""Int8 quantization of an ONNX graph: dynamic int8 of matrix products, wide convolutions stored in int8, the rest float.

Matrix products become int8 with one scale per output channel and dynamic activation ranges, so that no calibration audio is
needed. A *group* is quantized as a whole: a part of a block (``blocks.0.attention``), ``projection``, ``head``, ``position``.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

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
