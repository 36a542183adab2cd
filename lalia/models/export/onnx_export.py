"""ONNX export: from a recogniser to one graph (wave in, log-probabilities out) and to a student folder that runs without PyTorch.

``wave`` (B, S) float32, 16 kHz, unpadded -> ``log_probs`` (B, T, V) float32; B and S are free. Features are inside. A classifier
becomes a tagger in the same way: its output is ``logits`` (B, T, C), which the runtime averages over time.

A streaming recogniser's graph also has inputs ``state.NAME``, which may be left out at the start of a stream, and outputs
``next.NAME``, the states for the next piece. So one file transcribes whole clips and streams (``deployed.py``).
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxscript.optimizer
import torch
from onnx import TensorProto, helper, numpy_helper

from lalia.cards import read_card, write_card, write_json
from lalia.model_folder import MODEL, NORMALISER, TAGGER, TAGGER_FILES, TOKENS, file_hashes, languages_in
from lalia.models.classifier import Classifier
from lalia.models.export.deployed import StreamingDeployed, deploy, streaming_facts
from lalia.models.export.int8 import groups, quantize
from lalia.models.frontend import FFT
from lalia.models.recogniser import Recogniser
from lalia.models.store import count_parameters, replacing
from lalia.units import SAMPLE_RATE

# --- Graph -----------------------------------------------------------------------------------------------

INPUT, OUTPUT, LOGITS = "wave", "log_probs", "logits"
STATE, NEXT = "state.", "next."
OPSET = 20
"""The first with GELU as one operator; ONNX Runtime has it since 1.17."""


def export_graph(source: Recogniser | Classifier, path: Path) -> None:
    """Write ``source`` to ``path`` as ONNX in float32."""
    output, width = (
        (LOGITS, len(source.facts.labels)) if isinstance(source, Classifier) else (OUTPUT, len(source.tokens))
    )
    with torch.no_grad(), _quiet():
        buffer = io.BytesIO()
        deployed = deploy(source).eval()
        states = deployed.begin() if isinstance(deployed, StreamingDeployed) else []
        names = [state.name for state in deployed.states] if isinstance(deployed, StreamingDeployed) else []
        kept = [STATE + name for name in names]
        axes = {INPUT: {0: "B", 1: "S"}, output: {0: "B", 1: "T"}} | {name: {0: "C", 1: "P"} for name in kept}
        # By tracing: torch.export makes the same graph in ten times as long, and specialises lengths silently.
        torch.onnx.export(
            deployed,
            (torch.zeros(2, SAMPLE_RATE * 3 // 2), *states),
            buffer,  # type: ignore[arg-type]  # the tracing exporter takes files; its annotation knows paths only
            input_names=[INPUT, *kept],
            output_names=[output, *(NEXT + name for name in names)],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        # Folds constants; the large weights are already stored the way they are used.
        model = onnxscript.optimizer.optimize(onnx.load_from_string(buffer.getvalue()))
    for name, function in (("frontend.cos_KF", "Cos"), ("frontend.sin_KF", "Sin")):
        _compute_table(model, name, function)
    _clean(model, output, width)
    for name, following, state in zip(kept, model.graph.output[1:], states, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(state.numpy(), name))
        following.CopyFrom(
            helper.make_tensor_value_info(following.name, TensorProto.FLOAT, ["B", "P", *state.shape[2:]])
        )
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def _compute_table(model: onnx.ModelProto, name: str, function: str) -> None:
    """Replace a 200 kB table of the Fourier transform by the few operators that compute it; runtimes do so once, on loading."""
    graph = model.graph
    table = next((tensor for tensor in graph.initializer if tensor.name == name), None)
    if table is None:
        return
    taps, frequencies = table.dims
    constants = {
        "taps": np.arange(taps, dtype=np.int64)[:, None],
        "frequencies": np.arange(frequencies, dtype=np.int64)[None],
        "turn": np.array(FFT, np.int64),
        "step": np.array(2 * math.pi / FFT, np.float32),
    }
    graph.initializer.remove(table)
    graph.initializer.extend(numpy_helper.from_array(value, f"{name}.{key}") for key, value in constants.items())
    nodes = [
        helper.make_node("Mul", [f"{name}.taps", f"{name}.frequencies"], [f"{name}.product"]),
        # Whole turns are left out while the numbers are whole: a cosine of a large angle in float32 is not exact.
        helper.make_node("Mod", [f"{name}.product", f"{name}.turn"], [f"{name}.part"]),
        helper.make_node("Cast", [f"{name}.part"], [f"{name}.number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.number", f"{name}.step"], [f"{name}.angle"]),
        helper.make_node(function, [f"{name}.angle"], [name]),
    ]
    for node in nodes:
        node.name = node.output[0]
    for place, node in enumerate(nodes):
        graph.node.insert(place, node)


def _clean(model: onnx.ModelProto, output: str, width: int) -> None:
    """Remove exporter metadata (stack traces, source paths, intermediate shapes); name the free axes."""
    graph = model.graph
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""
    del graph.value_info[:]
    del graph.metadata_props[:]
    del model.metadata_props[:]
    del model.functions[:]
    graph.name, graph.doc_string, model.doc_string = "recogniser", "", ""
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["B", "S"]))
    graph.output[0].CopyFrom(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["B", "T", width]))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence exporter warnings that a user cannot act on."""
    names = ("torch.onnx", "onnxscript", "onnx_ir")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


# --- Student folder --------------------------------------------------------------------------------------


def assemble(
    recogniser: Recogniser, graph: Path, folder: Path, parents: list[dict[str, Any]], language: str | Sequence[str]
) -> None:
    """Make ``folder`` a student of ``recogniser`` that runs ``graph``."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(graph, folder / MODEL)
    write_student_files(recogniser, folder, parents, language)


def write_student_files(
    recogniser: Recogniser, folder: Path, parents: list[dict[str, Any]], language: str | Sequence[str], **facts: Any
) -> dict[str, Any]:
    """Write tokens, normaliser and card beside the graph in ``folder``; returns the card."""
    recogniser.tokens.save(folder / TOKENS)
    recogniser.normaliser.to_json(folder / NORMALISER)
    if streaming := streaming_facts(recogniser.encoder.shape):
        facts["streaming"] = streaming
    return write_card(
        folder, "student", parents, frame_s=recogniser.frame_s, sample_rate=SAMPLE_RATE, language=language,
        tokens=len(recogniser.tokens), bytes=sum((folder / name).stat().st_size for name in (MODEL, TOKENS, NORMALISER)),
        files=file_hashes(folder), **facts,
    )  # fmt: skip


def export_student(source: Path, out: Path, language: str = "") -> dict[str, Any]:
    """Write the student ``out`` of the recogniser in ``source`` (of many languages: that of ``language``); its card.

    In float32, with the recogniser's own outputs; ``lalia distill`` makes small int8 students. Raises ``UserError`` for kinds of
    recogniser that cannot be exported.
    """
    recogniser = Recogniser.load(source, language)
    with replacing(out) as folder:
        export_graph(recogniser, folder / MODEL)
        spoken = language or languages_in(source)
        return write_student_files(
            recogniser, folder, [read_card(source, "recogniser")], spoken, parameters=count_parameters(recogniser)
        )


# --- Tagger folder ---------------------------------------------------------------------------------------


def export_tagger(
    classifier: Classifier, out: Path, parents: list[dict[str, Any]], int8: bool = True, **facts: Any
) -> dict[str, Any]:
    """Write the tagger ``out`` of ``classifier`` (in int8 except for its linear layer); its card."""
    with replacing(out) as folder:
        graph = folder / MODEL
        export_graph(classifier, graph)
        chosen = [group for group in groups(graph) if group != "head"]
        if int8:
            quantize(graph, graph, chosen)
        write_json(folder / TAGGER, asdict(classifier.facts))
        return write_card(
            folder, "tagger", parents, frame_s=classifier.encoder.shape.frame_s, sample_rate=SAMPLE_RATE,
            task=classifier.facts.task, labels=len(classifier.facts.labels), licence=classifier.facts.licence,
            bytes=graph.stat().st_size, quantization={"int8": chosen if int8 else []},
            files=file_hashes(folder, TAGGER_FILES), **facts,
        )  # fmt: skip
