"""The initial student: a smaller recogniser cut from the teacher's layers.

Blocks are kept whole. A narrower student keeps the channels, heads, feed-forward units and filters with the largest weights;
these weights do not change. Pruning (``prune.py``) cuts with the same functions.

A student with a frontend that its teacher does not have starts, where the shapes allow it, from the teacher's blocks, else from
the shipped encoder ``nano-multilingual``, else from random weights (``initial_student``).

D width, A = heads x head width, I feed-forward units, C channels of a block's convolution, S channels of a layer of the stem.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.config import RegularSettings, StudentSettings
from distill.teacher import Teacher, TorchTeacher
from lalia.cards import read_card
from lalia.errors import UserError
from lalia.models.encoder import Encoder
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape
from lalia.text.tokens import Tokens

State = Mapping[str, Tensor]
SHIPPED = Path(__file__).parents[1] / "finetune" / "encoders" / "nano-multilingual"
"""A small pretrained log-mel encoder, where a student may start that is no part of its teacher."""
HEAD_WIDTH = 48
"""Least width of an attention head of a student with random weights."""

# --- The initial student -------------------------------------------------------------------------------


def choose_blocks(settings: StudentSettings, teacher_layers: int) -> list[int]:
    """The teacher's blocks, from 0, that the student keeps and is compared with."""
    if settings.blocks:
        if settings.layers not in (0, len(settings.blocks)):
            raise UserError(f"student.layers {settings.layers} and {len(settings.blocks)} student.blocks contradict")
        wrong = [b for b in settings.blocks if not 0 <= b < teacher_layers]
        if wrong or sorted(set(settings.blocks)) != settings.blocks:
            raise UserError(
                f"student.blocks {settings.blocks}: expected ascending numbers from 0 to {teacher_layers - 1}"
            )
        return list(settings.blocks)
    layers = settings.layers or -(-teacher_layers // 2)
    if not 1 <= layers <= teacher_layers:
        raise UserError(f"student.layers {layers}: the teacher has {teacher_layers}; expected 1 to that many")
    if layers == 1:
        return [teacher_layers - 1]
    return [round(i * (teacher_layers - 1) / (layers - 1)) for i in range(layers)]


@dataclass(frozen=True)
class Initial:
    """The initial student."""

    student: Recogniser
    origin: str
    """where its weights are from, as a phrase"""
    measure: bool = False
    """whether the frontend is new, and its normalisation has to be measured on training audio"""
    cards: list[dict[str, Any]] = field(default_factory=list)
    """the card of what it starts from, if that is not the teacher"""


def initial_student(
    teacher: Teacher, settings: StudentSettings, regular: RegularSettings, tokens: Tokens | None = None
) -> Initial:
    """The student of ``teacher`` by the settings, with ``tokens`` (None = the teacher's).

    Raises ``UserError`` if a student with the teacher's frontend cannot be cut from it.
    """
    tokens = tokens or teacher.tokens
    if settings.start:
        cards = [read_card(Path(settings.start))]
        return Initial(_from_folder(tokens, settings, regular), settings.start, cards=cards)
    if isinstance(teacher, TorchTeacher) and same_frontend(teacher.recogniser.encoder.shape, settings):
        return Initial(make_student(teacher.recogniser, settings, regular, tokens), "the teacher")
    shipped = Encoder.load(SHIPPED)
    wanted = own_shape(settings, shipped.shape)
    sources = [("the shipped encoder nano-multilingual", shipped)]
    if isinstance(teacher, TorchTeacher):
        sources.insert(0, ("the teacher's blocks, with a new frontend", teacher.recogniser.encoder))
    for origin, source in sources:
        if (found := _cut_to(source, wanted, settings)) is not None:
            new = source.shape.features != wanted.features or source.shape.input != wanted.input
            student = _recogniser(found, settings, regular, tokens, teacher)
            return Initial(student, origin, new, [read_card(SHIPPED)] if source is shipped else [])
    return Initial(_recogniser(Encoder(wanted), settings, regular, tokens, teacher), "random weights", True)


def make_student(
    teacher: Recogniser, settings: StudentSettings, regular: RegularSettings, tokens: Tokens | None = None
) -> Recogniser:
    """The student cut from ``teacher`` by the settings, or the recogniser in ``settings.start``."""
    tokens = tokens or teacher.tokens
    if settings.start:
        return _from_folder(tokens, settings, regular)
    encoder = teacher.encoder
    kept, kernel = choose(encoder, settings)
    shape = _with_settings(shape_of(encoder.shape, kept, kernel), settings, regular)
    student = Recogniser(Encoder(shape), tokens, teacher.normaliser)
    student.encoder.load_state_dict(cut(encoder, kept, shape))
    rows = [teacher.tokens.symbols.index(symbol) for symbol in tokens.symbols]
    with torch.no_grad():
        student.head.weight.copy_(teacher.head.weight[rows][:, kept.channels])
        student.head.bias.copy_(teacher.head.bias[rows])
    return student


def same_frontend(teacher: EncoderShape, settings: StudentSettings) -> bool:
    """Whether the student by ``settings`` has the frontend of a ``teacher`` of this shape."""
    if not settings.input:
        return not (settings.bins or settings.stack) or (
            (settings.bins or teacher.bins, settings.stack or teacher.stack) == (teacher.bins, teacher.stack)
        )
    wanted = (settings.input, settings.bins or teacher.bins, settings.stack or teacher.stack)
    return wanted == (teacher.input, teacher.bins, teacher.stack)


def own_shape(settings: StudentSettings, default: EncoderShape) -> EncoderShape:
    """The shape of a student that is not cut from its teacher; what the settings leave out is as in ``default``."""
    width = settings.width or default.width
    heads = next(h for h in range(max(1, width // HEAD_WIDTH), 0, -1) if width % h == 0)
    return replace(
        default,
        bins=settings.bins or default.bins,
        stack=settings.stack or default.stack,
        block=settings.block or default.block,
        layers=len(settings.blocks) or settings.layers or default.layers,
        width=width,
        heads=heads,
        feedforward=settings.feedforward or (4 * width if settings.width else default.feedforward),
        position_groups=math.gcd(width, default.position_groups),
        norm="pre" if settings.block == "transformer" else default.norm,
    )


def _cut_to(source: Encoder, wanted: EncoderShape, settings: StudentSettings) -> Encoder | None:
    """The part of ``source`` with the depth, width and blocks of ``wanted``; None if it is not that large, or differs in kind.

    A frontend that differs from the wanted one is new.
    """
    old = source.shape
    alike = old.block == wanted.block and (old.block == "transformer" or old.block_kernel == wanted.block_kernel)
    if not alike or (settings.chunk and old.position == "convolution") or wanted.feedforward > old.feedforward:
        return None
    shape_settings = replace(settings, width=wanted.width, layers=wanted.layers, feedforward=wanted.feedforward)
    try:
        kept, kernel = choose(source, shape_settings)
    except UserError:
        return None
    inside = shape_of(old, kept, kernel)
    shape = replace(
        wanted, heads=inside.heads, norm=inside.norm, position=inside.position, position_kernel=inside.position_kernel,
        position_groups=inside.position_groups, adapter=inside.adapter, heads_by_block=inside.heads_by_block,
        feedforward_by_block=inside.feedforward_by_block, channels_by_block=inside.channels_by_block,
    )  # fmt: skip
    made = Encoder(shape)
    state, fresh = cut(source, kept, inside), made.state_dict()
    new = (old.input, old.bins, old.stack) != (shape.input, shape.bins, shape.stack)
    frontend = ("frontend.", "feature_norm.", "projection.")
    made.load_state_dict({name: fresh[name] if new and name.startswith(frontend) else state[name] for name in fresh})
    return made


def _recogniser(
    encoder: Encoder, settings: StudentSettings, regular: RegularSettings, tokens: Tokens, teacher: Teacher
) -> Recogniser:
    """``encoder`` with a new head, and the chunks and dropout of the settings."""
    student = Recogniser(Encoder(_with_settings(encoder.shape, settings, regular)), tokens, teacher.normaliser)
    student.encoder.load_state_dict(encoder.state_dict())
    return student


def choose(encoder: Encoder, settings: StudentSettings) -> tuple[Kept, int]:
    """The parts of the teacher's ``encoder`` to keep, and the position kernel; a ``UserError`` for impossible settings."""
    shape = encoder.shape
    kernel = settings.position_kernel or shape.position_kernel
    for name, value, most in (
        ("feedforward", settings.feedforward or 1, shape.feedforward), ("position_kernel", kernel, shape.position_kernel),
    ):  # fmt: skip
        if not 1 <= value <= most:
            raise UserError(f"student.{name} {value}: the teacher has {most}; expected 1 to that many")
    width, head_width = settings.width or shape.width, shape.width // shape.heads
    if width > shape.width or width % head_width:
        raise UserError(
            f"student.width {width}: expected a multiple of the teacher's head width {head_width}, at most {shape.width}"
        )
    blocks = choose_blocks(settings, shape.layers)
    whole = everything(encoder)
    kept = Kept(blocks, kept_channels(encoder, width), [], [], [], whole.stem)
    for block in blocks:
        layer = encoder.blocks.layers[block]
        heads = len(whole.heads[block])
        if width < shape.width:
            heads = min(heads, width // head_width)
        kept.heads.append(_largest(_heads_importance(layer.self_attn, head_width), heads))
        kept.units.append({
            name: _largest(_units_importance(getattr(layer, name)), min(settings.feedforward or len(units), len(units)))
            for name, units in whole.units[block].items()
        })  # fmt: skip
        filters = len(whole.filters[block])
        if filters and width < shape.width:
            filters = min(filters, width)
        kept.filters.append(_largest(_filters_importance(layer.conv), filters) if filters else whole.filters[block])
    return kept, kernel


@torch.no_grad()
def kept_channels(encoder: Encoder, width: int) -> Tensor:
    """The teacher's channels that a student of ``width`` keeps, ascending: those with the largest input weights in the blocks.

    With a grouped positional convolution, the same number of each group.
    """
    old = encoder.shape
    if width == old.width:
        return torch.arange(old.width)
    read_D = torch.zeros(old.width)
    for name, weight in encoder.blocks.named_parameters():
        if re.search(r"(q_proj|k_proj|v_proj|inner_proj|pointwise_conv1)\.weight$", name):
            read_D += weight.flatten(1).square().sum(0)
    groups = old.position_groups if old.position == "convolution" else 1
    each = read_D.view(groups, -1).argsort(dim=1, descending=True)[:, : width // groups].sort(1).values
    return (each + torch.arange(groups)[:, None] * (old.width // groups)).flatten()


def make_projections(teacher: EncoderShape, channels: Tensor, layers: int) -> nn.ModuleList:
    """Linear maps from the student's hidden frames to the teacher's, one per compared layer, initialised to the kept channels."""
    projections = nn.ModuleList()
    for _ in range(layers):
        projection = nn.Linear(len(channels), teacher.width)
        nn.init.zeros_(projection.weight)
        nn.init.zeros_(projection.bias)
        with torch.no_grad():
            projection.weight[channels, torch.arange(len(channels))] = 1.0
        projections.append(projection)
    return projections


def _from_folder(tokens: Tokens, settings: StudentSettings, regular: RegularSettings) -> Recogniser:
    folder = settings.start
    found = Recogniser.load(Path(folder))
    if found.transducer is not None:
        raise UserError(
            f"student.start {folder}: has a transducer, and distillation trains CTC heads only; export it with lalia distill "
            "export, or start from a recogniser fitted with --head ctc"
        )
    if found.tokens != tokens:
        raise UserError(
            f"student.start {folder}: has other tokens than the teacher; expected the same, or --student.alphabet {folder}"
        )
    student = Recogniser(
        Encoder(_with_settings(found.encoder.shape, settings, regular)), found.tokens, found.normaliser
    )
    student.load_state_dict(found.state_dict())
    return student


def _with_settings(shape: EncoderShape, settings: StudentSettings, regular: RegularSettings) -> EncoderShape:
    """``shape`` with the chunks and dropout of the settings; the weights do not depend on them."""
    if settings.chunk or settings.left_chunks:
        shape = replace(shape, chunk=settings.chunk, left_chunks=settings.left_chunks)
    return replace(
        shape,
        dropout=regular.dropout,
        dropout_input=0.0,
        attention_dropout=regular.dropout,
        feedforward_dropout=regular.dropout,
        layerdrop=0.0,
    )


@torch.no_grad()
def _heads_importance(attention: Any, head_width: int) -> Tensor:
    value_H = attention.v_proj.weight.unflatten(0, (-1, head_width)).flatten(1).norm(dim=1)
    output_H = attention.output_proj.weight.T.unflatten(0, (-1, head_width)).flatten(1).norm(dim=1)
    return value_H * output_H


@torch.no_grad()
def _units_importance(feedforward: Any) -> Tensor:
    return feedforward.inner_proj.weight.norm(dim=1) * feedforward.output_proj.weight.norm(dim=0)


@torch.no_grad()
def _filters_importance(convolution: Any) -> Tensor:
    return convolution.pointwise_conv2.weight.flatten(1).norm(dim=0) * convolution.layer_norm.weight.abs()


def _largest(score: Tensor, count: int) -> Tensor:
    return score.argsort(descending=True)[:count].sort().values


# --- Cutting an encoder --------------------------------------------------------------------------------

# What each dimension of a parameter is, D to S as above (R: the stem's layer before it); None = all of it is kept.
_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"frontend\.layers\.\d+\.conv\.weight", ("S", "R", None)),
    (r"frontend\.layers\.\d+\.", ("S",)),
    (r"frontend\.|feature_norm\.", (None, None)),
    (r"projection\.weight", ("D", None)),
    (r"projection\.bias|mask_embedding|input_norm\.\w+|position\.conv\.bias|blocks\.layer_norm\.\w+", ("D",)),
    (r"blocks\.layers\.\d+\.\w*layer_norm\.\w+", ("D",)),
    (r"blocks\.layers\.\d+\.self_attn\.[qkv]_proj\.", ("A", "D")),
    (r"blocks\.layers\.\d+\.self_attn\.output_proj\.", ("D", "A")),
    (r"blocks\.layers\.\d+\.ffn\d?\.inner_proj\.", ("I", "D")),
    (r"blocks\.layers\.\d+\.ffn\d?\.output_proj\.", ("D", "I")),
    (r"blocks\.layers\.\d+\.ffn_residual\.(layer_norm|up_proj)\.", ("D", None)),
    (r"blocks\.layers\.\d+\.ffn_residual\.down_proj\.", (None, "D")),
    (r"blocks\.layers\.\d+\.conv\.pointwise_conv1\.weight", ("2C", "D", None)),
    (r"blocks\.layers\.\d+\.conv\.(depthwise_conv|layer_norm)\.", ("C", None, None)),
    (r"blocks\.layers\.\d+\.conv\.pointwise_conv2\.weight", ("D", "C", None)),
)


@dataclass(frozen=True)
class Kept:
    """The parts of an encoder to keep: ascending indices from 0. Lists have an entry for each kept block."""

    blocks: list[int]
    channels: Tensor
    """dimensions of a frame"""
    heads: list[Tensor]
    units: list[dict[str, Tensor]]
    """units of each feed-forward layer of a block by name: ``ffn``, or ``ffn1`` and ``ffn2``"""
    filters: list[Tensor]
    """channels of a block's convolution; none if blocks have none"""
    stem: list[Tensor] = field(default_factory=list)
    """channels of each layer of the stem; none = all"""


def everything(encoder: Encoder) -> Kept:
    """All of ``encoder``."""
    shape = encoder.shape
    blocks = range(shape.layers)
    return Kept(
        list(blocks),
        torch.arange(shape.width),
        [torch.arange(shape.heads_of(b)) for b in blocks],
        [{name: torch.arange(shape.feedforward_of(b)) for name in feedforwards(encoder, b)} for b in blocks],
        [torch.arange(shape.channels_of(b)) if shape.block != "transformer" else torch.arange(0) for b in blocks],
        [torch.arange(row[0]) for row in shape.stem] if shape.input == "wave" else [],
    )


def feedforwards(encoder: Encoder, block: int) -> list[str]:
    """Names of the feed-forward layers of a block."""
    return [name for name, _ in encoder.blocks.layers[block].named_children() if re.fullmatch(r"ffn\d?", name)]


def shape_of(old: EncoderShape, kept: Kept, position_kernel: int | None = None) -> EncoderShape:
    """The shape of the kept parts of ``old``; ``position_kernel`` keeps only the middle of the positional convolution."""
    head_width = old.width // old.heads
    width = len(kept.channels)
    heads, filters = [len(h) for h in kept.heads], [len(f) for f in kept.filters]
    units = [max(map(len, names.values())) for names in kept.units]
    return replace(
        old,
        stem=[[len(s), *row[1:]] for s, row in zip(kept.stem, old.stem, strict=True)] if kept.stem else old.stem,
        layers=len(kept.blocks),
        width=width,
        heads=width // head_width,
        heads_by_block=heads if set(heads) != {width // head_width} else [],
        feedforward=max(units),
        feedforward_by_block=units if len(set(units)) > 1 else [],
        channels_by_block=filters if old.block != "transformer" and set(filters) != {width} else [],
        position_kernel=position_kernel or old.position_kernel,
    )


@torch.no_grad()
def cut(encoder: Encoder, kept: Kept, shape: EncoderShape) -> dict[str, Tensor]:
    """The state dict of the kept parts of ``encoder``; ``shape`` is their ``shape_of``."""
    old = encoder.state_dict()
    number = {str(block): new for new, block in enumerate(kept.blocks)}
    state: dict[str, Tensor] = {}
    for name, weight in old.items():
        found = re.match(r"blocks\.layers\.(\d+)\.", name)
        if (found and found[1] not in number) or name.startswith("position.conv.weight_"):
            continue
        block = number[found[1]] if found else 0
        for dim, axis in enumerate(_axes(name)[: weight.ndim]):
            places = _places(axis, name, block, kept, encoder.shape)
            if places is not None:
                weight = weight.index_select(dim, places)
        state[f"blocks.layers.{block}.{name[found.end() :]}" if found else name] = weight.clone()
    if shape.position == "convolution":
        state |= _cut_positions(old, encoder.shape, shape, kept.channels)
    return state


def _axes(name: str) -> tuple[str | None, ...]:
    for pattern, axes in _AXES:
        if re.match(pattern, name):
            return axes
    raise UserError(f"{name}: a parameter of this kind cannot be cut yet")


def _places(axis: str | None, name: str, block: int, kept: Kept, old: EncoderShape) -> Tensor | None:
    """The indices along ``axis`` that the parameter ``name`` keeps; None = all."""
    if axis == "D":
        return kept.channels
    if axis == "I":
        return kept.units[block][name.split(".")[3]]
    if axis == "A":
        d = old.width // old.heads
        return (kept.heads[block][:, None] * d + torch.arange(d)).flatten()
    if axis == "C":
        return kept.filters[block]
    if axis == "2C":  # values, then their gates
        return torch.cat([kept.filters[block], kept.filters[block] + old.channels_of(kept.blocks[block])])
    if axis in ("S", "R") and kept.stem:
        layer = int(name.split(".")[2]) - (axis == "R")
        return kept.stem[layer] if layer >= 0 else None
    return None


def _cut_positions(old: State, before: EncoderShape, after: EncoderShape, channels: Tensor) -> dict[str, Tensor]:
    """The middle of the position convolution's kernel between the kept channels; weight norm is taken off and put on anew."""
    direction = old["position.conv.weight_v"]
    weight = direction * (old["position.conv.weight_g"] / direction.norm(dim=(0, 1), keepdim=True))
    groups = before.position_groups
    # Output channel c of group g reads the inputs of its group alone, numbered within the group.
    inside = (channels % (before.width // groups)).view(groups, -1).repeat_interleave(after.width // groups, 0)
    start = before.position_kernel // 2 - after.position_kernel // 2
    taps = slice(start, start + after.position_kernel)
    kept = weight[channels].gather(1, inside[:, :, None].expand(-1, -1, weight.shape[2]))[:, :, taps]
    return {"position.conv.weight_v": kept.clone(), "position.conv.weight_g": kept.norm(dim=(0, 1), keepdim=True)}
