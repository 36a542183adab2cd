"""The recogniser: an encoder with a CTC head, its tokens and its normaliser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lalia.models.encoder import Encoder
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens


class Recogniser(nn.Module):
    """wave_BS, lengths_B -> logits_BTV, frame lengths_B. Token 0 is CTC's blank.

    The wave is what every other room hands on: float32, mono, 16 kHz, not normalised.
    """

    def __init__(self, encoder: Encoder, tokens: Tokens, normaliser: Normaliser, head_dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokens = tokens
        self.normaliser = normaliser
        self.head_dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(encoder.shape.width, len(tokens))
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        hidden_BTD, frames_B = self.encoder(wave_BS, lengths_B)
        return self.head(self.head_dropout(hidden_BTD)), frames_B

    @torch.inference_mode()
    def log_probs(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """(log-probabilities_BTV in float32, frame lengths_B), in eval mode whatever mode the model is in."""
        training = self.training
        self.eval()
        try:
            logits_BTV, frames_B = self(wave_BS, lengths_B)
            return logits_BTV.float().log_softmax(-1), frames_B
        finally:
            self.train(training)

    @property
    def frame_s(self) -> float:
        """Seconds from one frame of the output to the next."""
        return self.encoder.shape.frame_s

    @classmethod
    def load(cls, folder: Path | str, language: str = "") -> Recogniser:
        """The recogniser in ``folder``, on the CPU, in eval mode; of one with adapters, that of ``language`` (ISO 639-3)."""
        from lalia.models.store import load_recogniser

        return load_recogniser(Path(folder), language)

    def save(self, folder: Path | str, parents: list[dict[str, Any]], **facts: Any) -> None:
        """Write config, weights, tokens, normaliser and card to ``folder``."""
        from lalia.models.store import save_recogniser

        save_recogniser(self, Path(folder), parents, **facts)
