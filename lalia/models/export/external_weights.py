"""Weights beside an ONNX graph: protobuf files end at 2 GB, so those of large models are in ``GRAPH.data`` (external data).

They are written and read one at a time, so that a model of 4 GB is exported and quantized without a second copy in memory.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import TracebackType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LARGE = 1 << 30
"""Graphs with more bytes of weights have them beside the file: half of protobuf's limit, for models are copied in memory."""
_ALIGNMENT = 4096
"""Weights begin at multiples of a memory page, so that runtimes can map them."""


def data_file(graph: Path) -> Path:
    """Where the external weights of ``graph`` are."""
    return graph.with_name(graph.name + ".data")


def graph_files(graph: Path) -> list[Path]:
    """``graph`` and the file of its external weights, if it has one."""
    return [path for path in (graph, data_file(graph)) if path.is_file()]


class WeightWriter:
    """Writes the external weights of ``graph``, one at a time; a context manager."""

    def __init__(self, graph: Path) -> None:
        self._path = data_file(graph)
        self._file = self._path.open("wb")

    def __enter__(self) -> WeightWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, name: str, array: np.ndarray) -> TensorProto:
        """Append ``array``; returns the tensor that refers to it."""
        self._file.seek(math.ceil(self._file.tell() / _ALIGNMENT) * _ALIGNMENT)
        place = {"location": self._path.name, "offset": self._file.tell(), "length": array.nbytes}
        self._file.write(np.ascontiguousarray(array).data)
        tensor = TensorProto(
            name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )  # fmt: skip
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor


def is_external(tensor: TensorProto) -> bool:
    """Whether ``tensor`` refers to a weight beside its graph."""
    return tensor.data_location == TensorProto.EXTERNAL


def read_weight(tensor: TensorProto, folder: Path) -> np.ndarray:
    """The numbers of ``tensor``, whose graph is in ``folder``; external ones are mapped, not read."""
    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    place = {entry.key: entry.value for entry in tensor.external_data}
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.memmap(folder / place["location"], dtype, "r", int(place["offset"]), tuple(tensor.dims))


def load_graph(path: Path) -> onnx.ModelProto:
    """The graph at ``path``; external weights stay where they are."""
    return onnx.load(path, load_external_data=False)


def copy_graph(source: Path, target: Path) -> None:
    """Copy the graph ``source`` with its external weights."""
    if not data_file(source).is_file():
        shutil.copyfile(source, target)
        return
    shutil.copyfile(data_file(source), data_file(target))
    model = load_graph(source)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = data_file(target).name
    target.write_bytes(model.SerializeToString())
