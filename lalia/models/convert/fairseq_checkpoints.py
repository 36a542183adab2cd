"""fairseq and fairseq2 checkpoints: read wav2vec 2.0 models, whose shape is inferred from the tensors, and write fairseq2's."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lalia.cards import write_text
from lalia.errors import UserError
from lalia.models.convert.parts import (
    Head,
    Layout,
    Parts,
    State,
    beside,
    check_expressible,
    from_dictionary,
    make_head,
    plain,
    read_encoder,
    read_quantizer,
    read_symbols,
    read_torch,
    write_model,
)
from lalia.models.quantizer import ContrastiveShape
from lalia.models.shape import WAV2VEC2_STEM, EncoderShape

# By width: wav2vec 2.0 BASE, LARGE and XLS-R 0.3B, XLS-R 1B, XLS-R 2B, and the largest of Omnilingual ASR.
_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16, 2048: 16}
# The shape's dropouts by fairseq's names; a checkpoint without its configuration gets BASE's.
_DROPOUTS = {
    "dropout": "dropout", "dropout_input": "dropout_input", "attention_dropout": "attention_dropout",
    "feedforward_dropout": "activation_dropout", "layerdrop": "encoder_layerdrop",
}  # fmt: skip


@dataclass
class Hints:
    """What the user adds about a checkpoint that its tensors do not show."""

    heads: int = 0
    """attention heads; 0 = as the checkpoint's own configuration says, or as published for its width"""
    strides: tuple[int, ...] = ()
    """stride of each convolution of the stem; none = as the configuration says, or as in wav2vec 2.0"""
    norm: Literal["", "pre", "post"] = ""
    """"" = as the configuration says, or pre where the stem has layer norms"""
    tokens: Path | None = None
    """the CTC head's symbols; None = a dictionary in or beside the checkpoint"""
    language: str = ""
    """ISO 639-3 for the normaliser"""


def read_checkpoint(path: Path, layout: Layout, hints: Hints) -> Parts:
    """The wav2vec 2.0 model in the file at ``path``, pretrained or with a CTC head."""
    loaded = read_torch(path)
    state = loaded.get("model", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        raise UserError(f"{path}: holds no model's weights; expected a {layout} checkpoint")
    state = {key.removeprefix("module."): tensor for key, tensor in state.items()}
    head_name = "final_proj."
    if layout == "fairseq":
        state = {key.removeprefix("w2v_encoder.").removeprefix("w2v_model."): t for key, t in state.items()}
        head_name = "proj."
    if strange := sorted(key for key in state if "adapter" in key):
        raise UserError(f"{path}: has adapters ({strange[0]}), which cannot be converted; take a model without them")

    config = _config(loaded) if layout == "fairseq" else {}
    stem_norm = "group" if any(re.search(r"layers\.0\.(group_norm|2)\.weight$", key) for key in state) else "layer"
    norm = hints.norm or _norm(state, layout, config, stem_norm)
    encoder, others = read_encoder(state, layout, stem_norm, norm)
    dropout_features = float(config.get("dropout_features", ContrastiveShape.dropout_features))
    quantizer, others = read_quantizer(others, layout, str(path), dropout_features)
    shape = _shape(encoder, stem_norm, norm, config, hints, path)
    head = None
    if head_name + "weight" in others:
        bias, weight = others.pop(head_name + "bias"), others.pop(head_name + "weight")
        head = _head(weight, bias, loaded, path, hints, layout)
    unknown = sorted(key for key in others if key not in ("quantizer.num_updates",))
    if unknown:
        raise UserError(f"{path}: has weights that are no part of wav2vec 2.0: {', '.join(unknown[:3])}")
    return Parts(shape, encoder, head, quantizer)


def write_fairseq2(parts: Parts, path: Path) -> str:
    """Write ``parts`` as the checkpoint of fairseq2's Wav2Vec2AsrModel or Wav2Vec2Model; return which."""
    check_expressible(parts.shape, "fairseq2")
    if parts.classifier is not None:
        raise UserError("fairseq2 has no classifiers of whole utterances; give hf:FOLDER")
    if parts.shape.features == parts.shape.width:
        raise UserError(
            f"fairseq2 cannot express an encoder whose features are as wide as its frames ({parts.shape.width})"
        )
    if parts.head is None and parts.quantizer is None:
        raise UserError("fairseq2 loads an encoder only with its quantizer or a CTC head, and this one has neither")
    state, added = write_model(parts.encoder, parts.shape, parts.quantizer, "fairseq2")
    if parts.head is not None:
        added = {"final_proj.weight": parts.head.weight_VD, "final_proj.bias": parts.head.bias_V}
    else:
        added["quantizer.num_updates"] = torch.zeros((), dtype=torch.int64)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save({"model": {key: t.detach().cpu().contiguous() for key, t in (state | added).items()}}, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if parts.head is None:
        return "Wav2Vec2Model"
    write_text(path.with_suffix(".tokens.txt"), "".join(f"{s} {i}\n" for i, s in enumerate(parts.head.tokens.symbols)))
    return "Wav2Vec2AsrModel"


def _config(loaded: dict[str, Any]) -> dict[str, Any]:
    """fairseq's settings of the encoder, and its task's ``normalize``; fine-tuned models hold them one level further in."""
    outer = plain(loaded.get("cfg")) or plain(loaded.get("args")) or {}
    found: dict[str, Any] = {}
    for level in (outer, outer.get("model")):
        if isinstance(level, dict):
            inner = level.get("w2v_args")
            for part in (
                level,
                level.get("task"),
                inner,
                *((inner.get("model"), inner.get("task")) if isinstance(inner, dict) else ()),
            ):
                if isinstance(part, dict):
                    found |= {k: v for k, v in part.items() if v is not None and not isinstance(v, dict)}
    return found


def _norm(state: State, layout: Layout, config: dict[str, Any], stem_norm: str) -> str:
    if layout == "fairseq2":
        return "post" if "encoder_frontend.layer_norm.weight" in state else "pre"
    if "layer_norm_first" in config:
        return "pre" if config["layer_norm_first"] else "post"
    return "pre" if stem_norm == "layer" else "post"


def _shape(encoder: State, stem_norm: str, norm: str, config: dict[str, Any], hints: Hints, path: Path) -> EncoderShape:
    try:
        width = len(encoder["projection.bias"])
        position = encoder["position.conv.weight_v"]
        blocks = 1 + max(int(key.split(".")[2]) for key in encoder if key.startswith("blocks.layers."))
        convolutions = 1 + max(int(key.split(".")[2]) for key in encoder if key.startswith("frontend.layers."))
        stem = [list(encoder[f"frontend.layers.{i}.conv.weight"].shape[::2]) for i in range(convolutions)]
        feedforward = len(encoder["blocks.layers.0.ffn.inner_proj.bias"])
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path}: is no wav2vec 2.0 checkpoint of this layout (lacks {error})") from error
    strides = _strides(stem, config, hints, path)
    heads = hints.heads or int(config.get("encoder_attention_heads") or 0) or _HEADS.get(width, 0)
    if not heads:
        raise UserError(
            f"{path}: its tensors do not say how many attention heads {width} dimensions have; say --heads N"
        )
    dropouts: dict[str, Any] = {ours: float(config[theirs]) for ours, theirs in _DROPOUTS.items() if theirs in config}
    return EncoderShape(
        input="wave",
        stem=[[*row, stride] for row, stride in zip(stem, strides, strict=True)],
        stem_norm="layer" if stem_norm == "layer" else "group",
        stem_bias="frontend.layers.0.conv.bias" in encoder,
        normalise_wave=bool(config.get("normalize", stem_norm == "layer")),
        width=width,
        layers=blocks,
        heads=heads,
        feedforward=feedforward,
        norm="pre" if norm == "pre" else "post",
        position_kernel=position.shape[2],
        position_groups=width // position.shape[1],
        **dropouts,
    )


def _strides(stem: list[list[int]], config: dict[str, Any], hints: Hints, path: Path) -> list[int]:
    strides = list(hints.strides)
    written = config.get("conv_feature_layers")
    if not strides and isinstance(written, str):  # such as "[(512, 10, 5)] + [(512, 3, 2)] * 4"
        for stride, times in re.findall(r"\(\s*\d+\s*,\s*\d+\s*,\s*(\d+)\s*\)\s*\]?(?:\s*\*\s*(\d+))?", written):
            strides += [int(stride)] * int(times or 1)
    if not strides and [row[1] for row in stem] == [row[1] for row in WAV2VEC2_STEM]:
        strides = [row[2] for row in WAV2VEC2_STEM]
    if len(strides) != len(stem):
        raise UserError(
            f"{path}: the strides of its {len(stem)} convolutions are not known (found {len(strides)}); say --strides 5,2,…"
        )
    return strides


def _head(
    weight: torch.Tensor, bias: torch.Tensor, loaded: dict[str, Any], path: Path, hints: Hints, layout: Layout
) -> Head:
    where = hints.tokens or beside(path)
    symbols = read_symbols(where) if where is not None else from_dictionary(loaded)
    if symbols is None:
        raise UserError(
            f"{path}: has a CTC head, but its symbols are not known; say --tokens dict.ltr.txt (or a tokenizer)"
        )
    if len(symbols) != len(weight):
        raise UserError(
            f"{where or path}: names {len(symbols)} symbols, but the head of {path} has {len(weight)} outputs; "
            "expected the dictionary it was trained with (--tokens FILE)"
        )
    return make_head(weight, bias, symbols, 0, "▁" if "▁" in symbols else "|", hints.language)
