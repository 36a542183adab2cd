"""Classifiers of whole utterances (language, speaker, emotion, command, …): an encoder and one linear layer on its frames.

The layer gives each frame a logit per label; the softmax is over their mean over the valid frames. So a clip, a window of it and
its speech without the silence are scored by averages of the same frame logits. The features of a frame are those of one layer of
the encoder, of several side by side, or a weighted sum of them; with ``moments`` 2 also their squares, whose mean holds the
deviation over time.

B clips, S samples, T frames, D features of a frame, C labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lalia.errors import UserError
from lalia.models.baselines import Baseline
from lalia.models.encoder import Encoder
from lalia.models.frontend import valid_frames


@dataclass
class TaggerFacts:
    """What a classifier tells apart, and from which features; ``tagger.json``."""

    task: str
    """what the labels are: language, speaker, emotion, command, …"""
    labels: list[str]
    layer: int | list[float] = -1
    """the layer whose frames are classified: 0 is the input of the first block, N the output of block N, -1 the last; or a weight
    for each of them, from 0 on"""
    moments: int = 1
    """1 = the frames; 2 = also their squares"""
    licence: str = ""
    """licence of the weights, where they are not the user's own"""
    clip_s: float = 0.0
    """median duration of the training clips; windows of a stream are as long"""
    rejected: list[str] = field(default_factory=list)
    """labels that mean that none of the others is there, such as background noise"""
    joined: bool = False
    """whether the layers below ``layer`` are features too, all side by side"""

    def check(self, layers: int, where: Path | str) -> None:
        """Raise ``UserError`` if these facts do not fit an encoder of ``layers`` blocks."""
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise UserError(f"{where}: has the labels {self.labels}; expected two or more different ones")
        if self.moments not in (1, 2):
            raise UserError(f"{where}: moments is {self.moments}; expected 1 or 2")
        if isinstance(self.layer, list):
            if len(self.layer) != layers + 1:
                raise UserError(f"{where}: has {len(self.layer)} weights of layers; expected {layers + 1}")
            if self.joined:
                raise UserError(f"{where}: layers are joined or summed with weights, not both")
        elif not -1 <= self.layer <= layers:
            raise UserError(f"{where}: layer is {self.layer}; expected -1 to {layers}")

    def top(self, layers: int) -> int:
        """The highest layer that is used."""
        if isinstance(self.layer, list):
            return max((number for number, weight in enumerate(self.layer) if weight), default=layers)
        return layers if self.layer < 0 else self.layer

    def features(self, width: int, layers: int) -> int:
        """How many features a frame has, of an encoder of ``width`` and ``layers`` blocks."""
        return self.moments * width * (self.top(layers) + 1 if self.joined else 1)


class Classifier(nn.Module):
    """wave_BS, lengths_B -> logits_BC; lengths are on the CPU."""

    def __init__(self, encoder: Encoder, facts: TaggerFacts) -> None:
        super().__init__()
        if isinstance(encoder, Baseline):
            raise UserError(
                f"{encoder.shape.kind} has no blocks; expected an encoder made by lalia pretrain or lalia convert"
            )
        self.encoder, self.facts = encoder, facts
        self.head = nn.Linear(facts.features(encoder.shape.width, encoder.shape.layers), len(facts.labels))

    def frame_logits(
        self, wave_BS: Tensor, lengths_B: Tensor, mask_BT: Tensor | None = None, channel_mask_BD: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(logits_BTC of each frame, frame lengths_B); masks as in ``Encoder.contextualise``."""
        states, frames_B = self.encoder.hidden_states(wave_BS, lengths_B, mask_BT, channel_mask_BD)
        return self.head(frame_features(states, self.facts)), frames_B

    def forward(
        self, wave_BS: Tensor, lengths_B: Tensor, mask_BT: Tensor | None = None, channel_mask_BD: Tensor | None = None
    ) -> Tensor:
        logits_BTC, frames_B = self.frame_logits(wave_BS, lengths_B, mask_BT, channel_mask_BD)
        return mean_over_time(logits_BTC, frames_B)

    @classmethod
    def load(cls, folder: Path | str) -> Classifier:
        """The classifier in ``folder``."""
        from lalia.models.store import load_classifier

        return load_classifier(Path(folder))

    def save(self, folder: Path | str, parents: list[dict[str, Any]], **facts: Any) -> None:
        """Write the encoder, ``tagger.json``, ``tagger.safetensors`` and ``card.json`` to ``folder``, which it replaces."""
        from lalia.models.store import save_classifier

        save_classifier(self, Path(folder), parents, **facts)


def frame_features(states: Sequence[Tensor], facts: TaggerFacts) -> Tensor:
    """The features of each frame, (B, T, moments × layers × D), from the ``hidden_states`` of an encoder."""
    if isinstance(facts.layer, list):
        x_BTD = torch.stack([weight * state for weight, state in zip(facts.layer, states, strict=True) if weight]).sum(
            0
        )
    elif facts.joined:
        x_BTD = torch.cat(list(states[: facts.top(len(states) - 1) + 1]), -1)
    else:
        x_BTD = states[facts.layer]
    return x_BTD if facts.moments == 1 else torch.cat([x_BTD, x_BTD * x_BTD], -1)


def mean_over_time(x_BTC: Tensor, frames_B: Tensor) -> Tensor:
    """The mean over the valid frames of each clip, (B, C)."""
    valid_BT1 = valid_frames(frames_B, x_BTC.shape[1], x_BTC.device)[:, :, None]
    return (x_BTC * valid_BT1).sum(1) / valid_BT1.sum(1).clamp(min=1)
