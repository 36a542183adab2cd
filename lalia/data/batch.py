"""Batches: clips of different lengths as one padded tensor, with their labels.

Legend: B clips, S samples, U tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch, padded with zeros at the end of each clip."""

    number: int  # of the plan's micro-batch
    wave_BS: Tensor  # float32, 16 kHz
    lengths_B: Tensor  # int64, samples
    rows_B: Tensor  # int64, row numbers of the corpus
    languages_B: Tensor  # int64, the corpus's language codes
    labels_BU: Tensor | None  # int64, 0 after the end of each text; None without labels
    label_lengths_B: Tensor | None  # int64
    bad: tuple[str, ...]  # one line for each clip that could not be read and was left out

    @property
    def labels(self) -> list[Tensor]:
        """Each clip's labels without padding: B tensors (U,)."""
        if self.labels_BU is None or self.label_lengths_B is None:
            raise ValueError("this batch has no labels; make the loader with labels=")
        return [label_U[:length] for label_U, length in zip(self.labels_BU, self.label_lengths_B.tolist(), strict=True)]

    @property
    def samples(self) -> int:
        """Samples of audio, padding not counted."""
        return int(self.lengths_B.sum())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on ``device``."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (DataLoader calls this)."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            values[field.name] = change(value) if isinstance(value, Tensor) else value
        return Batch(**values)


def pad(
    number: int,
    rows: list[int],
    waves: list[NDArray[np.float32]],
    languages: NDArray[np.integer],
    labels: list[list[int]] | None,
    bad: list[str],
) -> Batch:
    """The Batch of ``waves`` (each (S,) float32) and their ``labels``; ``languages`` are the whole corpus's codes."""
    lengths_B = torch.tensor([len(wave) for wave in waves])
    wave_BS = torch.zeros(len(waves), int(lengths_B.max()))
    filled = wave_BS.numpy()
    for place, wave in enumerate(waves):
        filled[place, : len(wave)] = wave
    rows_B = torch.tensor(rows)
    languages_B = torch.from_numpy(np.asarray(languages[np.asarray(rows)], np.int64))
    labels_BU = label_lengths_B = None
    if labels is not None:
        label_lengths_B = torch.tensor([len(label) for label in labels])
        labels_BU = torch.zeros(len(labels), int(label_lengths_B.max()), dtype=torch.int64)
        for place, label in enumerate(labels):
            labels_BU[place, : len(label)] = torch.tensor(label, dtype=torch.int64)
    return Batch(number, wave_BS, lengths_B, rows_B, languages_B, labels_BU, label_lengths_B, tuple(bad))
