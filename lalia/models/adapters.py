"""Adapters: one language's changes to an encoder that many languages share.

An adapter is a low-rank change of each matrix of the blocks (Hu et al. 2021, "LoRA", section 4.1: W + U D) with its own norms and
biases. It can be folded into the shared weights, so a language's recogniser decodes, distils and exports like a plain one.
The adapters of MMS are layers of the encoder instead (``lalia/models/blocks.py``). Where an encoder has them, they alone are the
language's, and folding puts its weights into them.

I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lalia.errors import UserError
from lalia.models.encoder import Encoder

UP, DOWN = "up", "down"
_CHANGE = ".parametrizations.weight.0."
_LAYER = ".ffn_residual."


class LowRank(nn.Module):
    """weight -> weight + up_OR down_RI; no change at first, since ``up`` is zero."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        matrix_OI = weight.flatten(1)
        O, I = matrix_OI.shape  # noqa: E741
        self.up_OR = nn.Parameter(torch.zeros(O, rank))
        self.down_RI = nn.Parameter(torch.randn(rank, I) * I**-0.5)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # the same numbers as folded, whatever the precision
            return weight + (self.up_OR @ self.down_RI).view_as(weight)


def adaptable(encoder: Encoder) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """(name, module, its weight) of every matrix of the blocks: attention, feed-forward and the 1 x 1 convolutions."""
    for name, module in encoder.named_modules():
        weight = getattr(module, "weight", None)
        if not name.startswith("blocks.layers.") or not isinstance(weight, Tensor) or weight.ndim < 2:
            continue
        if getattr(module, "groups", 1) == 1:  # a depthwise filter is no matrix
            yield name, module, weight


def rank_of(encoder: Encoder, share: float) -> int:
    """The rank at which an adapter has about ``share`` of the encoder's weights; at least 1."""
    whole = sum(p.numel() for p in encoder.parameters())
    vectors = sum(p.numel() for _, p in _vectors(encoder))
    each = sum(sum(weight.flatten(1).shape) for _, _, weight in adaptable(encoder))
    if not each:
        raise UserError("an adapter needs an encoder with blocks; this one has none, use --mode full or head")
    return max(1, round((share * whole - vectors) / each))


def adapt(encoder: Encoder, rank: int) -> None:
    """Freeze ``encoder`` but for a new adapter of ``rank``, which changes nothing yet, or for the adapters it has."""
    encoder.requires_grad_(False)
    if _has_layers(encoder):
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(_LAYER in name)
        return
    for _, vector in _vectors(encoder):
        vector.requires_grad_(True)
    for _, module, weight in list(adaptable(encoder)):
        parametrize.register_parametrization(module, "weight", LowRank(weight, rank))


def adapter_of(encoder: Encoder) -> dict[str, Tensor]:
    """The adapter's weights in an encoder that ``adapt`` prepared: ``NAME.up``, ``NAME.down``, and vectors by their names.

    Of an encoder with adapter layers: their weights by name.
    """
    if _has_layers(encoder):
        return {name: weight for name, weight in encoder.state_dict().items() if _LAYER in name}
    found: dict[str, Tensor] = {}
    for name, weight in encoder.state_dict().items():
        if _CHANGE in name:
            module, _, which = name.partition(_CHANGE)
            found[f"{module}.{UP if which == 'up_OR' else DOWN}"] = weight
    vectors = {name for name, _ in _vectors(encoder)}
    return found | {name: weight for name, weight in encoder.state_dict().items() if name in vectors}


def load_adapter(encoder: Encoder, adapter: dict[str, Tensor]) -> None:
    """Put ``adapter`` into an encoder that ``adapt`` prepared with the same rank; a ``UserError`` where it does not fit."""
    state, values = encoder.state_dict(), {}
    for name, weight in adapter.items():
        module, _, which = name.rpartition(".")
        inside = f"{module}{_CHANGE}{'up_OR' if which == UP else 'down_RI'}" if which in (UP, DOWN) else name
        if inside not in state or state[inside].shape != weight.shape:
            found = tuple(state[inside].shape) if inside in state else "nothing"
            raise UserError(
                f"adapter: {name} is {tuple(weight.shape)}, the encoder has {found}; was it made for another?"
            )
        values[inside] = weight
    encoder.load_state_dict(values, strict=False)


@torch.no_grad()
def fold(encoder: Encoder, adapter: dict[str, Tensor]) -> None:
    """Make plain ``encoder`` the encoder of the adapter's language; the same numbers as the adapted one."""
    state = encoder.state_dict()
    changes: dict[str, Tensor] = {}
    for name, weight in adapter.items():
        module, _, which = name.rpartition(".")
        target = f"{module}.weight" if which in (UP, DOWN) else name
        if target not in state:
            raise UserError(f"adapter: the encoder has no {target}; was it made for another?")
        if which == UP:
            down_RI = adapter[f"{module}.{DOWN}"]
            if state[target].flatten(1).shape != (weight.shape[0], down_RI.shape[1]):
                raise UserError(
                    f"adapter: {module} does not fit {tuple(state[target].shape)}; was it made for another?"
                )
            changes[target] = state[target] + (weight @ down_RI).view_as(state[target])
        elif which != DOWN:
            changes[target] = weight
    encoder.load_state_dict(changes, strict=False)


def count(adapter: dict[str, Any]) -> int:
    """Numbers in an adapter."""
    return sum(weight.numel() for weight in adapter.values())


def _has_layers(encoder: Encoder) -> bool:
    return getattr(encoder.shape, "adapter", 0) > 0  # baselines have none


def _vectors(encoder: Encoder) -> Iterator[tuple[str, nn.Parameter]]:
    """Norms and biases of the blocks."""
    for name, parameter in encoder.named_parameters():
        if name.startswith("blocks.") and parameter.ndim == 1:
            yield name, parameter
