"""Cutting: an encoder with some of its blocks, channels, heads and units taken out, the weights of the others unchanged.

D width, A = heads x head width, I feed-forward units, C channels of a block's convolution, S channels of a layer of the stem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lalia.exits import UserError
from lalia.models.encoder import Encoder
from lalia.models.shape import EncoderShape

State = Mapping[str, Tensor]

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
    (r"blocks\.layers\.\d+\.conv\.pointwise_conv1\.weight", ("2C", "D", None)),
    (r"blocks\.layers\.\d+\.conv\.(depthwise_conv|layer_norm)\.", ("C", None, None)),
    (r"blocks\.layers\.\d+\.conv\.pointwise_conv2\.weight", ("D", "C", None)),
)


@dataclass(frozen=True)
class Kept:
    """What of an encoder is kept: numbers from 0, rising. Lists have an entry for each block that is kept."""

    blocks: list[int]
    channels: Tensor
    """of the width"""
    heads: list[Tensor]
    units: list[dict[str, Tensor]]
    """of each feed-forward layer of a block by its name: ``ffn``, or ``ffn1`` and ``ffn2``"""
    filters: list[Tensor]
    """channels of a block's convolution; none where blocks have none"""
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
    """The shape of what is kept of ``old``; the middle of the position convolution may be kept alone."""
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
    """The state of an encoder of ``shape``, which is ``shape_of`` what is kept of ``encoder``."""
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
    raise UserError(f"{name} is a parameter of a kind that cannot be cut yet")


def _places(axis: str | None, name: str, block: int, kept: Kept, old: EncoderShape) -> Tensor | None:
    """Which places of ``axis`` the parameter ``name`` keeps; None = all."""
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
