"""ONNX export: from a recogniser to one graph (wave in, log-probabilities out) and to a student folder that runs without PyTorch.

``wave`` (B, S) float32, 16 kHz, unpadded -> ``log_probs`` (B, T, V) float32; B and S are free. Features are inside. A classifier
becomes a tagger in the same way: its output is ``logits`` (B, T, C), which the runtime averages over time.

A recogniser with a transducer has a second output, ``joint`` (B, T, J), which its joiner adds to (``transducer.npz``).
A streaming recogniser's graph also has inputs ``state.NAME``, which may be left out at the start of a stream, and outputs
``next.NAME``, the states for the next piece. So one file transcribes whole clips and streams (``deployed.py``).
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
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
from torch import Tensor, nn

from lalia.cards import read_card, write_card, write_json
from lalia.decoding.transducer_search import JOINT, Joiner
from lalia.model_folder import (
    MODEL,
    NORMALISER,
    SEPARATOR,
    SEPARATOR_FILES,
    TAGGER,
    TOKENS,
    TRANSDUCER,
    file_hashes,
    languages_in,
)
from lalia.models.classifier import Classifier
from lalia.models.export.deployed import Product, StreamingDeployed, deploy, streaming_facts
from lalia.models.export.external_weights import LARGE, WeightWriter, copy_graph, graph_files
from lalia.models.export.int8 import groups, quantize
from lalia.models.frontend import FFT
from lalia.models.recogniser import Recogniser
from lalia.models.separator import VOICES, Separator
from lalia.models.store import count_parameters, replacing
from lalia.units import SAMPLE_RATE

# --- Graph -----------------------------------------------------------------------------------------------

INPUT, OUTPUT, LOGITS = "wave", "log_probs", "logits"
STATE, NEXT = "state.", "next."
OPSET = 20
"""The first with GELU as one operator; ONNX Runtime has it since 1.17."""


def export_graph(source: Recogniser | Classifier, path: Path) -> None:
    """Write ``source`` to ``path`` as ONNX in float32; of more than ``LARGE`` bytes, with the weights of products beside it."""
    if isinstance(source, Classifier):
        widths = {LOGITS: len(source.facts.labels)}
    else:
        joint = {JOINT: source.transducer.project.out_features} if source.transducer else {}
        widths = {OUTPUT: len(source.tokens), **joint}
    with torch.no_grad(), _quiet():
        buffer = io.BytesIO()
        deployed = deploy(source).eval()
        states = deployed.begin() if isinstance(deployed, StreamingDeployed) else []
        names = [state.name for state in deployed.states] if isinstance(deployed, StreamingDeployed) else []
        kept = [STATE + name for name in names]
        external = _weights_as_inputs(deployed) if 4 * count_parameters(deployed) > LARGE else {}
        # Tracing needs their shapes alone: one number for each, repeated, takes no memory.
        stand_ins = [torch.zeros(1).expand(weight.shape) for weight in external.values()]
        axes = {INPUT: {0: "B", 1: "S"}} | {output: {0: "B", 1: "T"} for output in widths}
        axes |= {name: {0: "C", 1: "P"} for name in kept}
        # By tracing: torch.export makes the same graph in ten times as long, and specialises lengths silently.
        torch.onnx.export(
            deployed,
            (torch.zeros(2, SAMPLE_RATE * 3 // 2), *states, *stand_ins),
            buffer,  # type: ignore[arg-type]  # the tracing exporter takes files; its annotation knows paths only
            input_names=[INPUT, *kept, *external],
            output_names=[*widths, *(NEXT + name for name in names)],
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        # Folds constants; the large weights are already stored the way they are used.
        model = onnxscript.optimizer.optimize(onnx.load_from_string(buffer.getvalue()))
    for name, function in (("frontend.cos_KF", "Cos"), ("frontend.sin_KF", "Sin")):
        _compute_table(model, name, function)
    _clean(model, widths)
    for name, following, state in zip(kept, model.graph.output[len(widths) :], states, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(state.numpy(), name))
        following.CopyFrom(
            helper.make_tensor_value_info(following.name, TensorProto.FLOAT, ["B", "P", *state.shape[2:]])
        )
    if not external:
        onnx.checker.check_model(model, full_check=True)
        path.write_bytes(model.SerializeToString())
        return
    inputs = [given for given in model.graph.input if given.name not in external]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    with WeightWriter(path) as writer:
        model.graph.initializer.extend(writer.add(name, weight.numpy()) for name, weight in external.items())
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(os.fspath(path), full_check=True)


def _weights_as_inputs(deployed: nn.Module) -> dict[str, Tensor]:
    """Make the weights of matrix products inputs of ``deployed``, behind its own; returns them by name."""
    products = {f"{name}.weight_IO": part for name, part in deployed.named_modules() if isinstance(part, Product)}
    weights = {name: part.weight_IO.detach() for name, part in products.items()}
    forward = deployed.forward
    for part in products.values():
        del part.weight_IO

    def with_weights(*inputs: Tensor) -> Any:
        given = inputs[len(inputs) - len(products) :]
        for part, weight in zip(products.values(), given, strict=True):
            part.weight_IO = weight  # type: ignore[assignment]
        return forward(*inputs[: len(inputs) - len(products)])

    deployed.forward = with_weights
    return weights


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


def _clean(model: onnx.ModelProto, widths: dict[str, int]) -> None:
    """Remove exporter metadata; name the free axes. ``widths``: numbers per frame of each output."""
    _strip(model, "recogniser")
    graph = model.graph
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["B", "S"]))
    for given, (output, width) in zip(graph.output, widths.items(), strict=False):
        given.CopyFrom(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["B", "T", width]))


def _strip(model: onnx.ModelProto, name: str) -> None:
    """Remove exporter metadata (stack traces, source paths, intermediate shapes), and name the graph."""
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
    graph.name, graph.doc_string, model.doc_string = name, "", ""


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
    copy_graph(graph, folder / MODEL)
    write_student_files(recogniser, folder, parents, language)


def write_student_files(
    recogniser: Recogniser, folder: Path, parents: list[dict[str, Any]], language: str | Sequence[str], **facts: Any
) -> dict[str, Any]:
    """Write tokens, normaliser, the joiner of a transducer and the card beside the graph in ``folder``; returns the card."""
    recogniser.tokens.save(folder / TOKENS)
    recogniser.normaliser.to_json(folder / NORMALISER)
    if streaming := streaming_facts(recogniser.encoder.shape):
        facts["streaming"] = streaming
    files = [*(path.name for path in graph_files(folder / MODEL)), TOKENS, NORMALISER]
    if recogniser.transducer:
        Joiner(recogniser.transducer.tables()).save(folder / TRANSDUCER)
        files.append(TRANSDUCER)
    return write_card(
        folder, "student", parents, frame_s=recogniser.frame_s, sample_rate=SAMPLE_RATE, language=language,
        tokens=len(recogniser.tokens), bytes=sum((folder / name).stat().st_size for name in files),
        files=file_hashes(folder, files), **facts,
    )  # fmt: skip


def export_student(source: Path, out: Path, language: str = "", int8: bool = False) -> dict[str, Any]:
    """Write the student ``out`` of the recogniser in ``source`` (of many languages: that of ``language``); its card.

    In float32 or int8, with the recogniser's own outputs and without a measurement; ``lalia distill`` makes small students and
    checks what int8 costs. Raises ``UserError`` for kinds of recogniser that cannot be exported.
    """
    recogniser = Recogniser.load(source, language)
    with replacing(out) as folder:
        graph = folder / MODEL
        export_graph(recogniser, graph)
        facts: dict[str, Any] = {"parameters": count_parameters(recogniser)}
        if int8:
            facts["quantization"] = {"int8": groups(graph)}
            quantize(graph, graph, facts["quantization"]["int8"])
        spoken = language or languages_in(source)
        return write_student_files(recogniser, folder, [read_card(source, "recogniser")], spoken, **facts)


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
            bytes=sum(path.stat().st_size for path in graph_files(graph)), quantization={"int8": chosen if int8 else []},
            files=file_hashes(folder, [*(path.name for path in graph_files(graph)), TAGGER]), **facts,
        )  # fmt: skip


# --- Separator folder ------------------------------------------------------------------------------------

MAGNITUDE, MASKS = "magnitude", "masks"


def export_separator(
    separator: Separator, out: Path, parents: list[dict[str, Any]], int8: bool = True, **facts: Any
) -> dict[str, Any]:
    """Write the separator ``out`` (its convolutions stored in int8); its card.

    The graph holds the network alone, ``magnitude`` (B, F, T) -> ``masks`` (B, 2, F, T); the runtime computes the Fourier
    transforms.
    """
    shape = separator.shape
    with replacing(out) as folder:
        graph = folder / MODEL
        with torch.no_grad(), _quiet():
            buffer = io.BytesIO()
            torch.onnx.export(
                separator.network, (torch.rand(1, shape.frequencies, 64),), buffer,  # type: ignore[arg-type]
                input_names=[MAGNITUDE], output_names=[MASKS],
                dynamic_axes={MAGNITUDE: {0: "B", 2: "T"}, MASKS: {0: "B", 3: "T"}}, opset_version=OPSET, dynamo=False,
            )  # fmt: skip
            model = onnxscript.optimizer.optimize(onnx.load_from_string(buffer.getvalue()))
        _strip(model, "separator")
        graph.write_bytes(model.SerializeToString())
        chosen = groups(graph)
        if int8:
            quantize(graph, graph, chosen)
        write_json(folder / SEPARATOR, {"window": shape.window, "hop": shape.hop, "voices": VOICES})
        return write_card(
            folder, "separator", parents, sample_rate=SAMPLE_RATE, parameters=count_parameters(separator),
            bytes=graph.stat().st_size, quantization={"int8": chosen if int8 else []},
            files=file_hashes(folder, SEPARATOR_FILES), **facts,
        )  # fmt: skip
