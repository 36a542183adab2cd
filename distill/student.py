"""The student: a smaller recogniser cut out of the teacher's own layers.

Blocks are chosen whole. Where the student is narrower, what the teacher leans on most is kept, by the size of its weights:
channels that are read most, heads, feed-forward units and block-convolution channels that say most.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.config import RegularSettings, StudentSettings
from distill.cutting import Kept, cut, everything, shape_of
from lalia.exits import UserError
from lalia.models.encoder import Encoder
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape


def choose_blocks(settings: StudentSettings, teacher_layers: int) -> list[int]:
    """The teacher's blocks, from 0, that the student's start from (and are compared with)."""
    if settings.blocks:
        if settings.layers not in (0, len(settings.blocks)):
            raise UserError(f"student.layers {settings.layers} and {len(settings.blocks)} student.blocks contradict")
        wrong = [b for b in settings.blocks if not 0 <= b < teacher_layers]
        if wrong or sorted(set(settings.blocks)) != settings.blocks:
            raise UserError(f"student.blocks {settings.blocks}: expected rising numbers from 0 to {teacher_layers - 1}")
        return list(settings.blocks)
    layers = settings.layers or -(-teacher_layers // 2)
    if not 1 <= layers <= teacher_layers:
        raise UserError(f"student.layers {layers}: the teacher has {teacher_layers}; expected 1 to as many")
    if layers == 1:
        return [teacher_layers - 1]
    return [round(i * (teacher_layers - 1) / (layers - 1)) for i in range(layers)]


def make_student(teacher: Recogniser, settings: StudentSettings, regular: RegularSettings) -> Recogniser:
    """A recogniser cut out of ``teacher`` as the settings say, or the one they say to start from."""
    if settings.start:
        return _from_folder(teacher, settings, regular)
    encoder = teacher.encoder
    kept, kernel = choose(encoder, settings)
    shape = _as_asked(shape_of(encoder.shape, kept, kernel), settings, regular)
    student = Recogniser(Encoder(shape), teacher.tokens, teacher.normaliser)
    student.encoder.load_state_dict(cut(encoder, kept, shape))
    student.head.load_state_dict({"weight": teacher.head.weight[:, kept.channels], "bias": teacher.head.bias})
    return student


def choose(encoder: Encoder, settings: StudentSettings) -> tuple[Kept, int]:
    """What of the teacher's ``encoder`` the student keeps, and its position kernel; a ``UserError`` where that cannot be."""
    shape = encoder.shape
    kernel = settings.position_kernel or shape.position_kernel
    for name, value, most in (
        ("feedforward", settings.feedforward or 1, shape.feedforward), ("position_kernel", kernel, shape.position_kernel),
    ):  # fmt: skip
        if not 1 <= value <= most:
            raise UserError(f"student.{name} {value}: the teacher has {most}; expected 1 to as many")
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
        kept.heads.append(_largest(_said_by_heads(layer.self_attn, head_width), heads))
        kept.units.append({
            name: _largest(_said_by_units(getattr(layer, name)), min(settings.feedforward or len(units), len(units)))
            for name, units in whole.units[block].items()
        })  # fmt: skip
        filters = len(whole.filters[block])
        if filters and width < shape.width:
            filters = min(filters, width)
        kept.filters.append(_largest(_said_by_filters(layer.conv), filters) if filters else whole.filters[block])
    return kept, kernel


@torch.no_grad()
def kept_channels(encoder: Encoder, width: int) -> Tensor:
    """The teacher's channels that a student of ``width`` keeps, rising: those its blocks read with the largest weights.

    Where positions come from a grouped convolution, as many of each group.
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
    """Linear maps from the student's hidden frames to the teacher's, one per compared layer; each begins as what was cut out."""
    projections = nn.ModuleList()
    for _ in range(layers):
        projection = nn.Linear(len(channels), teacher.width)
        nn.init.zeros_(projection.weight)
        nn.init.zeros_(projection.bias)
        with torch.no_grad():
            projection.weight[channels, torch.arange(len(channels))] = 1.0
        projections.append(projection)
    return projections


def _from_folder(teacher: Recogniser, settings: StudentSettings, regular: RegularSettings) -> Recogniser:
    folder = settings.start
    found = Recogniser.load(Path(folder))
    if found.tokens != teacher.tokens:
        raise UserError(f"student.start {folder}: speaks other tokens than the teacher; expected the same alphabet")
    if found.encoder.shape.hop != teacher.encoder.shape.hop:
        raise UserError(
            f"student.start {folder}: has frames of {1000 * found.frame_s:g} ms, the teacher of {1000 * teacher.frame_s:g} ms; "
            "expected the same"
        )
    student = Recogniser(Encoder(_as_asked(found.encoder.shape, settings, regular)), found.tokens, found.normaliser)
    student.load_state_dict(found.state_dict())
    return student


def _as_asked(shape: EncoderShape, settings: StudentSettings, regular: RegularSettings) -> EncoderShape:
    """``shape`` in chunks where the settings ask for them; its weights are the same. Dropout is the student's own."""
    if settings.chunk or settings.left_chunks:
        shape = replace(shape, chunk=settings.chunk, left_chunks=settings.left_chunks)
    return replace(
        shape,
        dropout=regular.dropout,
        attention_dropout=regular.dropout,
        feedforward_dropout=regular.dropout,
        layerdrop=0.0,
    )


@torch.no_grad()
def _said_by_heads(attention: Any, head_width: int) -> Tensor:
    value_H = attention.v_proj.weight.unflatten(0, (-1, head_width)).flatten(1).norm(dim=1)
    output_H = attention.output_proj.weight.T.unflatten(0, (-1, head_width)).flatten(1).norm(dim=1)
    return value_H * output_H


@torch.no_grad()
def _said_by_units(feedforward: Any) -> Tensor:
    return feedforward.inner_proj.weight.norm(dim=1) * feedforward.output_proj.weight.norm(dim=0)


@torch.no_grad()
def _said_by_filters(convolution: Any) -> Tensor:
    return convolution.pointwise_conv2.weight.flatten(1).norm(dim=0) * convolution.layer_norm.weight.abs()


def _largest(score: Tensor, count: int) -> Tensor:
    return score.argsort(descending=True)[:count].sort().values
