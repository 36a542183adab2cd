"""Students for other runtimes: folders that sherpa-onnx and onnx-asr load.

Both decode greedily and join the symbols of a list in which ``▁`` is a space; the graph does the rest.

sherpa-onnx has one family of CTC models on the raw wave (``OfflineRecognizer.from_omnilingual_asr_ctc``). It gets one clip,
normalised to mean 0 and variance 1, and assumes frames of 20 ms. So the graph gets a gain in front and, where frames are longer,
repeats each frame as often as 20 ms fit into it: CTC merges repeats, so the text stays and the times become right.

onnx-asr's ``wav2vec2-ctc`` gets a padded batch with the clips' lengths, and reads ``length // hop + 1`` frames of each. So the
graph is a loop over the clips, each cut to its length, and fills up with blanks: a clip's text is the same in every batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

from lalia.cards import read_card, write_json, write_text
from lalia.errors import UserError
from lalia.model_folder import MODEL, TOKENS, TRANSDUCER, check_files
from lalia.models.convert.hf import CARD
from lalia.models.export.external_weights import data_file
from lalia.models.store import replacing
from lalia.runtime.streaming import SILENCE_PEAK
from lalia.runtime.student import SHORTEST
from lalia.runtime.windows import silence
from lalia.text.tokens import BLANK, BOUNDARY, Tokens
from lalia.units import Samples, to_samples

SPACE = "▁"
FRAME_S = 0.02
"""The frame length that sherpa-onnx assumes for this family, seconds."""
SPEECH_RMS = 0.07
"""sherpa-onnx gives waves of RMS 1; speech in recordings lies about here, and log-mel students were trained on recordings."""
_BYTE_PIECES = 0xC6
"""Where this is the highest byte of all symbols, sherpa-onnx takes them for byte pieces."""


def _read_student(source: Path, runtime: str) -> tuple[dict[str, Any], onnx.ModelProto, Tokens]:
    """The card, the graph with log-probabilities alone, and the tokens of a student; ``UserError`` if it is not complete."""
    card = read_card(source, "student")
    check_files(source, card)
    if data_file(source / MODEL).is_file():
        raise UserError(
            f"{source}: has its weights beside its graph, which is too large for a file of {runtime}; export a smaller student"
        )
    model = onnx.load(source / MODEL)
    del model.graph.input[1:]
    del model.graph.output[1:]
    return card, model, Tokens.load(source / TOKENS)


def _left_out(card: dict[str, Any]) -> list[str]:
    return ["without its transducer"] if TRANSDUCER in card["files"] else []


# --- sherpa-onnx -----------------------------------------------------------------------------------------


def write_sherpa(source: Path, target: Path) -> list[str]:
    """Make the folder ``target`` (``model.onnx``, ``tokens.txt``, our card) of the student ``source``; what to know of it.

    Raises ``UserError`` if ``source`` is not a complete student.
    """
    card, model, tokens = _read_student(source, "sherpa-onnx")
    repeats = round(card["frame_s"] / FRAME_S)
    exact = repeats >= 1 and abs(repeats * FRAME_S - card["frame_s"]) < 1e-6
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
    wrong = f"times are wrong by {card['frame_s'] / FRAME_S:g}: its frames are not multiples of 20 ms"
    return [*_left_out(card), *([] if exact else [wrong])]


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


# --- onnx-asr --------------------------------------------------------------------------------------------


def write_onnx_asr(source: Path, target: Path) -> list[str]:
    """Make the folder ``target`` (graph, ``vocab.txt``, ``config.json``, our card) of the student ``source``; returns remarks.

    Raises ``UserError`` if ``source`` is not a complete student.
    """
    card, model, tokens = _read_student(source, "onnx-asr")
    hop = to_samples(card["frame_s"])
    model.graph.CopyFrom(_loop_over_clips(model.graph, hop, len(tokens)))
    onnx.checker.check_model(model, full_check=True)
    names = {BLANK: "<blk>", BOUNDARY: SPACE}
    with replacing(target) as folder:
        (folder / MODEL).write_bytes(model.SerializeToString())
        write_text(folder / "vocab.txt", "".join(f"{names.get(s, s)} {i}\n" for i, s in enumerate(tokens.symbols)))
        write_json(folder / "config.json", {"model_type": "wav2vec2-ctc", "subsampling_factor": hop})
        write_json(folder / CARD, card)
    return _left_out(card)


# Each clip is padded and, if it is silent, not transcribed, as in our own runtime. ``Student`` stands for the student's nodes.
_LOOP = """
batch (float[B, S] input_values, int64[B] input_lengths) => (float[B, T, V] logprobs)
<int64[1] zero = {0}, int64[1] one = {1}, int64[1] hop = {HOP}, int64[1] shortest = {SHORTEST},
 float silence = {SILENCE}, bool yes = {1}>
{
  clips = Shape <end = 1> (input_values)
  samples = Shape <start = 1> (input_values)
  count = Squeeze (clips)
  hops = Div (samples, hop)
  frames = Add (hops, one)
  repeats = Concat <axis = 0> (frames, one)
  blanks = Tile (blank, repeats)
  logprobs = Loop (count, yes) <body = clip (int64 number, bool before) => (bool after, float[T, V] row) {
    padded = Gather <axis = 0> (input_values, number)
    length = Gather <axis = 0> (input_lengths, number)
    end = Unsqueeze (length, zero)
    cut = Slice (padded, zero, end)
    lacking = Sub (shortest, end)
    padding = Max (lacking, zero)
    pads = Concat <axis = 0> (zero, padding)
    long = Pad (cut, pads)
    WAVE = Unsqueeze (long, zero)
    LOG_PROBS = Student (WAVE)
    found = Squeeze (LOG_PROBS, zero)
    filled = Concat <axis = 0> (found, blanks)
    spoken = Slice (filled, zero, frames)
    sizes = Abs (long)
    peak = ReduceMax <keepdims = 0> (sizes)
    quiet = Less (peak, silence)
    row = Where (quiet, blanks, spoken)
    after = Identity (before)
  }>
}
"""


def _loop_over_clips(graph: onnx.GraphProto, hop: Samples, tokens: int) -> onnx.GraphProto:
    """``graph``, of a wave to log-probabilities (B, T, V), as one of padded clips and lengths to (B, S // hop + 1, V)."""
    values = {
        "HOP": hop, "SHORTEST": SHORTEST, "SILENCE": SILENCE_PEAK, "WAVE": graph.input[0].name, "LOG_PROBS": graph.output[0].name
    }  # fmt: skip
    text = _LOOP
    for name, value in values.items():
        text = re.sub(rf"\b{name}\b", str(value), text)
    batch = onnx.parser.parse_graph(text)
    batch.initializer.append(numpy_helper.from_array(silence(1, tokens), "blank"))
    body = batch.node[-1].attribute[0].g
    nodes = list(body.node)
    place = next(place for place, node in enumerate(nodes) if node.op_type == "Student")
    nodes[place : place + 1] = graph.node
    del body.node[:]
    body.node.extend(nodes)
    body.initializer.extend(graph.initializer)
    return batch
