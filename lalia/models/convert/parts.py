"""What every layout is read into and written from: a shape, tensors by this house's names, and what belongs to them.

D width, V tokens or entries, G codebooks, d dimensions of an entry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lalia.cards import read_card
from lalia.exits import UserError
from lalia.models.contrastive import ContrastiveHead, ContrastiveShape
from lalia.models.encoder import Encoder
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape
from lalia.models.store import load_encoder, load_quantizer, load_recogniser
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens

State = dict[str, Tensor]


@dataclass
class Head:
    """A CTC head: token 0 is the blank."""

    weight_VD: Tensor
    bias_V: Tensor
    tokens: Tokens
    normaliser: Normaliser


@dataclass
class Quantizer:
    """What contrastive pretraining adds; names of ``state`` are ``ContrastiveHead``'s."""

    shape: ContrastiveShape
    state: State


@dataclass
class Parts:
    """A model on its way from one layout to another; names of ``encoder`` are ``Encoder``'s."""

    shape: EncoderShape
    encoder: State
    head: Head | None = None
    quantizer: Quantizer | None = None
    parents: list[dict[str, Any]] = field(default_factory=list)


def from_lalia(folder: Path) -> Parts:
    """The encoder (with its quantizer) or recogniser in ``folder``."""
    card = read_card(folder)
    if card["kind"] == "recogniser":
        recogniser = load_recogniser(folder)
        encoder = recogniser.encoder
        weight, bias = recogniser.head.weight.detach(), recogniser.head.bias.detach()
        head = Head(weight, bias, recogniser.tokens, recogniser.normaliser)
        return Parts(encoder.shape, encoder.state_dict(), head, parents=[card])
    encoder = load_encoder(folder)
    quantizer = load_quantizer(folder)
    kept = None if quantizer is None else Quantizer(quantizer.shape, quantizer.state_dict())
    return Parts(encoder.shape, encoder.state_dict(), quantizer=kept, parents=[card])


def to_lalia(parts: Parts, folder: Path, source: str, **facts: Any) -> str:
    """Write ``parts`` to ``folder`` as a recogniser where they have a CTC head, else as an encoder; return which."""
    encoder = Encoder(parts.shape)
    _fill(encoder, parts.encoder, source)
    if parts.head is not None:
        recogniser = Recogniser(encoder, parts.head.tokens, parts.head.normaliser)
        with torch.no_grad():
            recogniser.head.weight.copy_(parts.head.weight_VD)
            recogniser.head.bias.copy_(parts.head.bias_V)
        recogniser.save(folder, parts.parents, **facts)
        return "recogniser"
    quantizer = None
    if parts.quantizer is not None:
        quantizer = ContrastiveHead(parts.shape, parts.quantizer.shape)
        _fill(quantizer, parts.quantizer.state, source)
    encoder.save(folder, parts.parents, quantizer=quantizer, **facts)
    return "encoder"


def _fill(module: nn.Module, state: State, source: str) -> None:
    expected = module.state_dict()
    missing, unknown = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or unknown:
        what = [f"lacks {missing[:3]}"] * bool(missing) + [
            f"has {unknown[:3]} that this model has no place for"
        ] * bool(unknown)
        raise UserError(f"{source}: {' and '.join(what)}; expected a wav2vec 2.0 model")
    for key, tensor in state.items():
        if expected[key].shape != tensor.shape:
            raise UserError(
                f"{source}: {key} has shape {tuple(tensor.shape)}, expected {tuple(expected[key].shape)}; "
                "do its weights belong to its config?"
            )
    module.load_state_dict({key: tensor.float() for key, tensor in state.items()})
