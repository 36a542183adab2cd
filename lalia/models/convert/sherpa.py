"""sherpa-onnx: write a student as one of its CTC models on the raw wave (``OfflineRecognizer.from_omnilingual_asr_ctc``).

That model family gets one clip, normalised to mean 0 and variance 1, assumes frames of 20 ms, decodes greedily, and joins the
symbols of ``tokens.txt``, where ``▁`` is a space. So the graph gets a gain in front and, where frames are longer, repeats each
frame as often as 20 ms fit into it: CTC merges repeats, so the text stays and the times become right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lalia.cards import read_card, write_json, write_text
from lalia.errors import UserError
from lalia.model_folder import MODEL, TOKENS, check_files
from lalia.models.convert.hf import CARD
from lalia.models.export.external_weights import data_file
from lalia.models.store import replacing
from lalia.text.tokens import BOUNDARY, Tokens

SPACE = "▁"
FRAME_S = 0.02
"""The frame length that sherpa-onnx assumes for this family, seconds."""
SPEECH_RMS = 0.07
"""sherpa-onnx gives waves of RMS 1; speech in recordings lies about here, and log-mel students were trained on recordings."""
_BYTE_PIECES = 0xC6
"""Where this is the highest byte of all symbols, sherpa-onnx takes them for byte pieces."""


def write_sherpa(source: Path, target: Path) -> list[str]:
    """Make the folder ``target`` (``model.onnx``, ``tokens.txt``, our card) of the student ``source``; what to know of it.

    Raises ``UserError`` if ``source`` is not a complete student.
    """
    card = read_card(source, "student")
    check_files(source, card)
    if data_file(source / MODEL).is_file():
        raise UserError(
            f"{source}: has its weights beside its graph, which is too large for a file of sherpa-onnx; export a smaller student"
        )
    tokens = Tokens.load(source / TOKENS)
    model = onnx.load(source / MODEL)
    repeats = round(card["frame_s"] / FRAME_S)
    exact = repeats >= 1 and abs(repeats * FRAME_S - card["frame_s"]) < 1e-6
    _remove_states(model.graph)
    _set_level(model.graph)
    if exact and repeats > 1:
        _repeat_frames(model.graph, repeats, len(tokens))
    facts = {
        "model_type": "omnilingual-asr",
        "vocab_size": len(tokens),
        "sample_rate": 16_000,
        "comment": card["made_by"],
    }
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=str(value))
    onnx.checker.check_model(model, full_check=True)
    with replacing(target) as folder:
        (folder / MODEL).write_bytes(model.SerializeToString())
        write_text(folder / TOKENS, _token_lines(tokens.symbols))
        write_json(folder / CARD, card)
    return [] if exact else [f"times are wrong by {card['frame_s'] / FRAME_S:g}: its frames are not multiples of 20 ms"]


def _remove_states(graph: onnx.GraphProto) -> None:
    """Remove the streaming states: sherpa-onnx takes only wave and log-probabilities."""
    del graph.input[1:]
    del graph.output[1:]


def _set_level(graph: onnx.GraphProto) -> None:
    wave = graph.input[0].name
    for node in graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise UserError(f"{node.op_type}: graphs with branches cannot be changed; export the student again")
        for place, name in enumerate(node.input):
            if name == wave:
                node.input[place] = f"{wave}.levelled"
    graph.initializer.append(numpy_helper.from_array(np.array(SPEECH_RMS, np.float32), f"{wave}.level"))
    graph.node.insert(0, helper.make_node("Mul", [wave, f"{wave}.level"], [f"{wave}.levelled"], "level"))


def _repeat_frames(graph: onnx.GraphProto, repeats: int, tokens: int) -> None:
    """(B, T, V) -> (B, T · repeats, V)."""
    out = graph.output[0].name
    once = f"{out}.once"
    for node in graph.node:
        for place, name in enumerate(node.output):
            if name == out:
                node.output[place] = once
        for place, name in enumerate(node.input):
            if name == out:
                node.input[place] = once
    constants = {"axis": [2], "times": [1, 1, repeats, 1], "shape": [0, -1, tokens]}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.int64), f"{out}.{name}") for name, value in constants.items()
    )
    graph.node.extend(
        [
            helper.make_node("Unsqueeze", [once, f"{out}.axis"], [f"{out}.column"], "column"),
            helper.make_node("Expand", [f"{out}.column", f"{out}.times"], [f"{out}.repeated"], "repeat"),
            helper.make_node("Reshape", [f"{out}.repeated", f"{out}.shape"], [out], "frames"),
        ]
    )


def _token_lines(symbols: Sequence[str]) -> str:
    written = [SPACE if symbol == BOUNDARY else symbol for symbol in symbols]
    if max(max(symbol.encode()) for symbol in written if symbol != SPACE) == _BYTE_PIECES:
        # An extra symbol that the model never outputs, so that they are not all bytes.
        written.append("字")
    return "".join(f"{symbol} {number}\n" for number, symbol in enumerate(written))
