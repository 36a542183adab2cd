"""Int8 quantization of an ONNX graph: dynamic int8 of matrix products, wide convolutions stored in int8, the rest float.

Matrix products become int8 with one scale per output channel and dynamic activation ranges, so that no calibration audio is
needed. A *group* is quantized as a whole: a part of a block (``blocks.0.attention``), ``projection``, ``head``, ``position``.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lalia.models.export.external_weights import (
    WeightWriter,
    graph_files,
    is_external,
    load_graph,
    read_weight,
)

LEVELS, REDUCED_LEVELS = 127, 64
"""Largest int8 weight; one bit less with ``reduce_range``."""
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
    model = load_graph(graph)
    return list(dict.fromkeys(group_of(name) for name in [*_products(model), *_wide_convolutions(model)]))


def quantize(source: Path, target: Path, chosen: Collection[str], reduce_range: bool = False) -> None:
    """Write ``source`` to ``target`` with the groups ``chosen`` in int8.

    Weights of matrix products: int8 per output channel; what they are multiplied by: uint8 with the range of the moment
    (dynamic), so that no calibration audio is needed. Wide convolutions: int8 per output channel in the file only. Weights
    beside ``source`` are quantized one at a time and written beside ``target``.
    """
    model = load_graph(source)
    for name, initializer in _wide_convolutions(model).items():
        if group_of(name) in chosen:
            _store_small(model, initializer)
    products = {weight: node for weight, node in _products(model).items() if group_of(weight) in chosen}
    replaced = {*products.values()}
    nodes: list[onnx.NodeProto] = []
    quantized: set[str] = set()
    for node in model.graph.node:
        nodes += _integer_product(node, quantized) if node.name in replaced else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    external = any(is_external(tensor) for tensor in model.graph.initializer)
    with contextlib.ExitStack() as stack:
        # Beside, then in place: source and target may be one file.
        work = stack.enter_context(tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}."))
        graph = Path(work) / target.name
        writer = stack.enter_context(WeightWriter(graph)) if external else None
        tensors: list[TensorProto] = []
        for tensor in model.graph.initializer:
            if tensor.name in products:
                weight_IO = read_weight(tensor, source.parent)
                tensors += _integer_weight(tensor.name, weight_IO, REDUCED_LEVELS if reduce_range else LEVELS, writer)
            elif writer is not None and is_external(tensor):
                tensors.append(writer.add(tensor.name, read_weight(tensor, source.parent)))
            else:
                tensors.append(tensor)
        del model.graph.initializer[:]
        model.graph.initializer.extend(tensors)
        graph.write_bytes(model.SerializeToString())
        for path in graph_files(graph):
            path.replace(target.parent / path.name)


def _integer_product(node: onnx.NodeProto, quantized: set[str]) -> list[onnx.NodeProto]:
    """``node`` (a MatMul with a weight) in integers; inputs in ``quantized`` have been quantized for another product."""
    x, weight = node.input
    out, name = node.output[0], node.name
    nodes = []
    if x not in quantized:
        quantized.add(x)
        outputs = [f"{x}_quantized", f"{x}_scale", f"{x}_zero_point"]
        nodes.append(helper.make_node("DynamicQuantizeLinear", [x], outputs, f"{x}_quantize"))
    inputs = [f"{x}_quantized", f"{weight}_quantized", f"{x}_zero_point", f"{weight}_zero_point"]
    return [
        *nodes,
        helper.make_node("MatMulInteger", inputs, [f"{out}_integer"], f"{name}_integer"),
        helper.make_node("Cast", [f"{out}_integer"], [f"{out}_cast"], f"{name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{x}_scale", f"{weight}_scale"], [f"{out}_scale"], f"{name}_scale"),
        helper.make_node("Mul", [f"{out}_cast", f"{out}_scale"], [out], name),
    ]


def _integer_weight(
    name: str, weight_IO: np.ndarray, levels: int, writer: WeightWriter | None
) -> list[onnx.TensorProto]:
    """A weight in int8, its scales and its zero points (which are 0), each per output."""
    scale_O = np.maximum(weight_IO.max(0), -weight_IO.min(0)) / np.float32(levels)
    scale_O = np.where(scale_O < np.finfo(np.float32).tiny, np.float32(1), scale_O)
    int8_IO = np.rint(weight_IO / scale_O).astype(np.int8)
    stored = f"{name}_quantized"
    return [
        writer.add(stored, int8_IO) if writer else numpy_helper.from_array(int8_IO, stored),
        numpy_helper.from_array(scale_O, f"{name}_scale"),
        numpy_helper.from_array(np.zeros(len(scale_O), np.int8), f"{name}_zero_point"),
    ]


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
