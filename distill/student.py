"""The student: a smaller recogniser cut out of the teacher's own layers.

Blocks are chosen whole. Where the student is narrower, what the teacher leans on most is kept, by the size of its weights:
channels that are read most, heads and feed-forward units that say most. D width, A = heads x head width, I feed-forward units,
C channels of a block's convolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from distill.config import RegularSettings, StudentSettings
from lalia.exits import UserError
from lalia.models.encoder import Encoder
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape

State = Mapping[str, Tensor]

# Which of D, A, I and C each dimension of a parameter is; None = all of it is kept. The feed-forward layer of I is in the name.
_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"frontend\.|feature_norm\.", (None, None, None)),
    (r"projection\.weight", ("D", None)),
    (r"(projection\.bias|mask_embedding|input_norm\.\w+|position\.conv\.bias)", ("D",)),
    (r"blocks\.layer_norm\.\w+", ("D",)),
    (r"(blocks\.layers\.\d+\.)\w*layer_norm\.\w+", ("D",)),
    (r"(blocks\.layers\.\d+\.)self_attn\.[qkv]_proj\.weight", ("A", "D")),
    (r"(blocks\.layers\.\d+\.)self_attn\.[qkv]_proj\.bias", ("A",)),
    (r"(blocks\.layers\.\d+\.)self_attn\.output_proj\.weight", ("D", "A")),
    (r"(blocks\.layers\.\d+\.)self_attn\.output_proj\.bias", ("D",)),
    (r"(blocks\.layers\.\d+\.ffn\d?\.)inner_proj\.weight", ("I", "D")),
    (r"(blocks\.layers\.\d+\.ffn\d?\.)inner_proj\.bias", ("I",)),
    (r"(blocks\.layers\.\d+\.ffn\d?\.)output_proj\.weight", ("D", "I")),
    (r"(blocks\.layers\.\d+\.ffn\d?\.)output_proj\.bias", ("D",)),
    (r"(blocks\.layers\.\d+\.)conv\.pointwise_conv1\.weight", ("2C", "D", None)),
    (r"(blocks\.layers\.\d+\.)conv\.(depthwise_conv\.weight|layer_norm\.\w+)", ("C", None, None)),
    (r"(blocks\.layers\.\d+\.)conv\.pointwise_conv2\.weight", ("D", "C", None)),
)


def choose_blocks(settings: StudentSettings, teacher_layers: int) -> list[int]:
    """The teacher's blocks, from 0, that the student's start from."""
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


def student_shape(settings: StudentSettings, regular: RegularSettings, teacher: EncoderShape) -> EncoderShape:
    """The student's shape; a ``UserError`` where it cannot be cut out of the teacher's."""
    width = settings.width or teacher.width
    head_width = teacher.width // teacher.heads
    if width > teacher.width or width % head_width:
        raise UserError(
            f"student.width {width}: expected a multiple of the teacher's head width {head_width}, at most {teacher.width}"
        )
    feedforward = settings.feedforward or teacher.feedforward
    kernel = settings.position_kernel or teacher.position_kernel
    for name, value, most in (
        ("feedforward", feedforward, teacher.feedforward), ("position_kernel", kernel, teacher.position_kernel),
    ):  # fmt: skip
        if not 1 <= value <= most:
            raise UserError(f"student.{name} {value}: the teacher has {most}; expected 1 to as many")
    return replace(
        teacher, layers=len(choose_blocks(settings, teacher.layers)), width=width, heads=width // head_width,
        feedforward=feedforward, position_kernel=kernel, dropout=regular.dropout, attention_dropout=regular.dropout,
        feedforward_dropout=regular.dropout, layerdrop=0.0,
    )  # fmt: skip


def make_student(teacher: Recogniser, settings: StudentSettings, regular: RegularSettings) -> Recogniser:
    """A recogniser of the settings' shape that starts from the teacher's weights."""
    shape = student_shape(settings, regular, teacher.encoder.shape)
    blocks = choose_blocks(settings, teacher.encoder.shape.layers)
    student = Recogniser(Encoder(shape), teacher.tokens, teacher.normaliser)
    channels = kept_channels(teacher.encoder, shape)
    student.encoder.load_state_dict(cut_encoder(teacher.encoder, shape, blocks, channels))
    student.head.load_state_dict({"weight": teacher.head.weight[:, channels], "bias": teacher.head.bias})
    return student


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


@torch.no_grad()
def kept_channels(encoder: Encoder, shape: EncoderShape) -> Tensor:
    """The teacher's channels that the student keeps, rising: those whose numbers its blocks read with the largest weights.

    Where positions come from a grouped convolution, as many of each group.
    """
    old = encoder.shape
    if shape.width == old.width:
        return torch.arange(old.width)
    read_D = torch.zeros(old.width)
    for name, weight in encoder.blocks.named_parameters():
        if re.search(r"(q_proj|k_proj|v_proj|inner_proj|pointwise_conv1)\.weight$", name):
            read_D += weight.flatten(1).square().sum(0)
    groups = old.position_groups if old.position == "convolution" else 1
    each = read_D.view(groups, -1).argsort(dim=1, descending=True)[:, : shape.width // groups].sort(1).values
    return (each + torch.arange(groups)[:, None] * (old.width // groups)).flatten()


@torch.no_grad()
def cut_encoder(encoder: Encoder, shape: EncoderShape, blocks: list[int], channels: Tensor) -> dict[str, Tensor]:
    """The state of an encoder of ``shape`` whose block i is the teacher's block ``blocks[i]``, ``channels`` wide."""
    teacher = encoder.state_dict()
    number = {str(old): str(new) for new, old in enumerate(blocks)}
    cut: dict[str, Tensor] = {}
    for name, weight in teacher.items():
        found = re.match(r"blocks\.layers\.(\d+)\.", name)
        if found and found[1] not in number:
            continue
        if name.startswith("position.conv.weight_"):
            continue
        new = f"blocks.layers.{number[found[1]]}.{name[found.end() :]}" if found else name
        for dim, axis in enumerate(_axes(name)[: weight.ndim]):
            if axis is not None:
                weight = weight.index_select(dim, _kept(axis, name, teacher, encoder.shape, shape, channels))
        cut[new] = weight.clone()
    if shape.position == "convolution":
        cut |= _cut_positions(teacher, encoder.shape, shape, channels)
    return cut


def _axes(name: str) -> tuple[str | None, ...]:
    for pattern, axes in _AXES:
        if re.match(pattern, name):
            return axes
    raise UserError(f"the teacher's {name} is of a kind that cannot be cut to a student yet")


def _kept(axis: str, name: str, teacher: State, old: EncoderShape, new: EncoderShape, channels: Tensor) -> Tensor:
    """Which places of ``axis`` the parameter ``name`` keeps."""
    if axis == "D":
        return channels
    if axis == "I":
        stem = re.match(r".*ffn\d?\.", name)
        assert stem is not None
        said_I = teacher[stem[0] + "inner_proj.weight"].norm(dim=1) * teacher[stem[0] + "output_proj.weight"].norm(
            dim=0
        )
        return _largest(said_I, new.feedforward)
    block = re.match(r"blocks\.layers\.\d+\.", name)
    assert block is not None
    if axis == "A":
        d = old.width // old.heads
        read_H = teacher[block[0] + "self_attn.v_proj.weight"].view(old.heads, -1).norm(dim=1)
        said_H = teacher[block[0] + "self_attn.output_proj.weight"].T.reshape(old.heads, -1).norm(dim=1)
        heads = _largest(read_H * said_H, new.heads)
        return (heads[:, None] * d + torch.arange(d)).flatten()
    conv = block[0] + "conv."
    said_C = teacher[conv + "pointwise_conv2.weight"].flatten(1).norm(dim=0) * teacher[conv + "layer_norm.weight"].abs()
    kept = _largest(said_C, new.width)
    return torch.cat([kept, kept + old.width]) if axis == "2C" else kept


def _largest(score: Tensor, count: int) -> Tensor:
    return score.argsort(descending=True)[:count].sort().values


def _cut_positions(teacher: State, old: EncoderShape, new: EncoderShape, channels: Tensor) -> dict[str, Tensor]:
    """The middle of the position convolution's kernel between the kept channels; weight norm is taken off and put on anew."""
    direction = teacher["position.conv.weight_v"]
    weight = direction * (teacher["position.conv.weight_g"] / direction.norm(dim=(0, 1), keepdim=True))
    groups = old.position_groups
    # Output channel c of group g reads the inputs of its group alone, numbered within the group.
    inside = (channels % (old.width // groups)).view(groups, -1).repeat_interleave(new.width // groups, 0)
    start = old.position_kernel // 2 - new.position_kernel // 2
    taps = slice(start, start + new.position_kernel)
    kept = weight[channels].gather(1, inside[:, :, None].expand(-1, -1, weight.shape[2]))[:, :, taps]
    return {"position.conv.weight_v": kept.clone(), "position.conv.weight_g": kept.norm(dim=(0, 1), keepdim=True)}
