"""A student folder made by hand: each token is a tone, so a tune is a text and every test knows the right answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lalia.cards import write_card
from lalia.model_folder import file_hashes
from lalia.text.normaliser import NormaliserSettings
from lalia.text.tokens import Tokens

FRAME = 640
FRAME_S = 0.04
SYMBOLS = ("<blank>", "|", "a", "b", "c", "d", "e")


def frequency_hz(symbol: str, symbols: Sequence[str] = SYMBOLS) -> float:
    """The tone of a symbol: whole periods in a frame, so that tones don't leak into each other."""
    return 300.0 + 100.0 * symbols.index(symbol)


def sing(text: str, symbols: Sequence[str] = SYMBOLS, frames: int = 3) -> np.ndarray:
    """A wave that the tiny student hears as ``text``: a tone of ``frames`` frames per letter, a silent frame after it."""
    t = np.arange(frames * FRAME) / 16_000
    pieces = [np.zeros(2 * FRAME)]
    for letter in text:
        hz = frequency_hz("|" if letter == " " else letter, symbols)
        pieces += [0.3 * np.sin(2 * np.pi * hz * t), np.zeros(FRAME)]
    pieces.append(np.zeros(2 * FRAME))
    return np.concatenate(pieces).astype(np.float32)


def tone_model(symbols: Sequence[str] = SYMBOLS) -> bytes:
    """An ONNX model, wave (B, S) to log_probs (B, T, V): energies at the tones' frequencies, smoothed over three frames."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    count = len(symbols)
    t = np.arange(FRAME) / 16_000
    filters = np.zeros((2 * count, 1, FRAME), np.float32)
    pairs = np.zeros((2 * count, count), np.float32)
    for i in range(1, count):
        phase = 2 * np.pi * frequency_hz(symbols[i], symbols) * t
        filters[2 * i, 0], filters[2 * i + 1, 0] = np.cos(phase), np.sin(phase)
        pairs[2 * i : 2 * i + 2, i] = (2 / FRAME) ** 2
    smooth = np.zeros((2 * count, 1, 3), np.float32)
    smooth[:, 0] = [0.1, 0.8, 0.1]
    bias = np.zeros(count, np.float32)
    bias[0] = 0.045  # half the energy of a tone of amplitude 0.3
    constants = {
        "filters": filters,
        "pairs": pairs,
        "smooth": smooth,
        "bias": bias,
        "gain": np.array([200.0], np.float32),
    }
    nodes = [
        helper.make_node("Unsqueeze", ["wave", "one"], ["wave_1"]),
        helper.make_node("Conv", ["wave_1", "filters"], ["tones"], strides=[FRAME]),
        helper.make_node("Mul", ["tones", "tones"], ["energies"]),
        helper.make_node("Conv", ["energies", "smooth"], ["smoothed"], pads=[1, 1], group=2 * count),
        helper.make_node("Transpose", ["smoothed"], ["by_frame"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["by_frame", "pairs"], ["summed"]),
        helper.make_node("Add", ["summed", "bias"], ["biased"]),
        helper.make_node("Mul", ["biased", "gain"], ["logits"]),
        helper.make_node("LogSoftmax", ["logits"], ["log_probs"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "tones",
        [helper.make_tensor_value_info("wave", TensorProto.FLOAT, ["B", "S"])],
        [helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["B", "T", count])],
        [numpy_helper.from_array(np.array([1], np.int64), "one")]
        + [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def make_student(folder: Path, symbols: Sequence[str] = SYMBOLS, **facts: Any) -> Path:
    """A whole student folder that hears tunes made by ``sing``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(tone_model(symbols))
    Tokens(symbols).save(folder / "tokens.txt")
    NormaliserSettings().to_json(folder / "normaliser.json")
    seal(folder, **facts)
    return folder


def seal(folder: Path, **facts: Any) -> None:
    """(Re)write the card for the files that are there."""
    write_card(
        folder, "student", [], **{"files": file_hashes(folder), "frame_s": FRAME_S, "sample_rate": 16_000, **facts}
    )
