"""Clips of a micro-batch: read, cropped, augmented, labelled; those that cannot be read are named and left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lalia.data.batch import Batch, pad
from lalia.data.plan import MicroBatch
from lalia.exits import UserError

Labels = Callable[[str], list[int]]
Augmenter = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]
"""A wave (S,) to another, every choice drawn from the generator."""


class Clips(Protocol):
    """What the loader needs of a corpus (``lalia.data.corpus.Corpus`` has it)."""

    @property
    def durations_s(self) -> NDArray[np.float32]: ...
    @property
    def languages(self) -> NDArray[np.integer]: ...
    def id(self, row: int) -> str: ...
    def text(self, row: int) -> str: ...
    def wave(self, row: int) -> NDArray[np.float32]: ...


class NothingReadable(UserError):
    """Not one clip of a micro-batch, nor any of its spares, could be read."""

    bad: tuple[str, ...] = ()
    """a line for each of them, where they are known"""

    def __init__(self, message: str, bad: Sequence[str] = ()) -> None:
        self.bad = tuple(bad)
        # A DataLoader raises a worker's error again with the traceback for a message, whose last line is this one.
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


class PlannedClips(Dataset[Batch]):
    """A map from a MicroBatch, which the sampler makes, to its Batch; workers need the corpus, not the plan."""

    def __init__(
        self, corpus: Clips, *, seed: int, labels: Labels | None, augment: Augmenter | None, normalise: bool
    ) -> None:
        self._corpus, self._seed, self._labels, self._augment = corpus, seed, labels, augment
        self._normalise = normalise

    def __getitem__(self, micro_batch: MicroBatch) -> Batch:
        """Read the clips. What cannot be read is left out; if nothing is left, the spares are tried in turn.

        Raises NothingReadable where not one clip or spare can be read.
        """
        rows: list[int] = []
        waves: list[NDArray[np.float32]] = []
        labels: list[list[int]] = []
        bad: list[str] = []
        decoded: tuple[int, NDArray[np.float32]] = (
            -1,
            np.zeros(0, np.float32),
        )  # the last: pieces of a long clip follow it
        wanted = [*zip(micro_batch.rows, micro_batch.starts, micro_batch.lengths, strict=True)]
        longest = int(micro_batch.lengths.max())
        for place, (row, start, length) in enumerate(wanted + [(spare, 0, longest) for spare in micro_batch.spares]):
            if place >= len(wanted) and waves:
                break
            try:
                if decoded[0] != row:
                    decoded = (int(row), self._corpus.wave(int(row)))
                wave, label = self._part(*decoded, int(start), int(length), micro_batch.number, place)
            except UserError as error:
                bad.append(str(error))
                continue
            rows.append(int(row))
            waves.append(wave)
            labels.append(label)
        if not waves:
            raise NothingReadable(
                f"micro-batch {micro_batch.number}: none of {len(bad)} clips can be read; the first: {bad[0]}", bad
            )
        return pad(micro_batch.number, rows, waves, self._corpus.languages, labels if self._labels else None, bad)

    def _part(
        self, row: int, whole: NDArray[np.float32], start: int, length: int, number: int, place: int
    ) -> tuple[NDArray[np.float32], list[int]]:
        start = max(0, min(start, len(whole) - length))  # shorter than its index says: what is there
        wave = whole[start : start + length]
        if not len(wave):
            raise UserError(f"{self._corpus.id(row)}: has no samples; prepare the corpus again without it")
        label = self._labels(self._corpus.text(row)) if self._labels else []
        if self._augment:
            # The same place of the same micro-batch draws the same, in whatever worker.
            wave = self._augment(wave, np.random.default_rng((self._seed & (2**64 - 1), number, place)))
        if self._normalise:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + np.float32(1e-5))
        return wave, label
