"""A recogniser that has learned the chords of ``tiny_corpus``: small, made in seconds, and right most of the time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lalia.cards import read_card
from lalia.models.encoder import Encoder
from lalia.models.recogniser import Recogniser, ctc
from lalia.models.shape import EncoderShape
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import Tokens
from tests.tiny_corpus import WORDS, chant

SHAPE: dict[str, Any] = {
    "input": "logmel", "bins": 40, "stack": 4, "width": 48, "layers": 4, "heads": 4, "feedforward": 96, "block": "convolutional",
    "block_kernel": 5, "position": "rotary", "dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0,
}  # fmt: skip


def make_recogniser(seed: int = 0, **shape: Any) -> Recogniser:
    """An untrained recogniser of Italian chants."""
    torch.manual_seed(seed)
    encoder = Encoder(EncoderShape(**{**SHAPE, **shape}))
    return Recogniser(encoder, Tokens.from_texts(WORDS["ita"]), Normaliser(NormaliserSettings(language="ita"))).eval()


def train(recogniser: Recogniser, steps: int, lr: float = 4e-3) -> float:
    """CTC on fresh chants; the last loss in nats per letter."""
    random = np.random.default_rng(0)
    torch.manual_seed(0)

    def batch() -> tuple[list[str], list[np.ndarray]]:
        texts = [" ".join(random.choice(WORDS["ita"], random.integers(1, 4))) for _ in range(8)]
        return texts, [chant(text, random) for text in texts]

    recogniser.encoder.measure(batch()[1])
    optimizer = torch.optim.AdamW(recogniser.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    recogniser.train()
    loss = torch.zeros(())
    for _ in range(steps):
        texts, waves = batch()
        labels = [torch.tensor(recogniser.tokens.encode(text)) for text in texts]
        logits_BTV, frames_B = recogniser(
            torch.nn.utils.rnn.pad_sequence([torch.from_numpy(wave) for wave in waves], batch_first=True),
            torch.tensor([len(wave) for wave in waves]),
        )
        total = ctc(
            logits_BTV, frames_B, torch.nn.utils.rnn.pad_sequence(labels, batch_first=True),
            torch.tensor([len(label) for label in labels]),
        )  # fmt: skip
        loss = total.loss / total.count
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(recogniser.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    recogniser.eval()
    return float(loss.detach())


def make_teacher(folder: Path, corpus: Path, steps: int = 160) -> Path:
    """A recogniser folder that hears the chants."""
    recogniser = make_recogniser()
    train(recogniser, steps)
    recogniser.save(folder, [read_card(corpus)])
    return folder


def sharpen(made: Recogniser) -> None:
    """Let every number matter: biases and gains are not what they begin as, and posteriors are sharp."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        made.head.weight *= 8
