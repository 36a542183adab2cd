"""The wave of a recording of hours, kept in a nameless file: memory does not grow with its length."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lalia.runtime.voice import FRAME_SAMPLES
from lalia.units import SAMPLE_RATE, Frames, Samples

_MINUTE: Frames = 60 * SAMPLE_RATE // FRAME_SAMPLES


class StoredWave:
    """Samples are added at the end and read anywhere; the file is gone with the ``with`` block."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self.count: Samples = 0

    def __enter__(self) -> StoredWave:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def add(self, block_S: np.ndarray) -> None:
        self._file.write(block_S.astype("<f4").tobytes())
        self.count += len(block_S)

    def part(self, start: Samples, end: Samples) -> np.ndarray:
        """The samples from ``start`` to ``end`` or the recording's, float32."""
        self._file.seek(4 * start)
        return np.frombuffer(self._file.read(4 * max(0, min(end, self.count) - start)), "<f4").astype(np.float32)

    def minutes(self, start: Frames, end: Frames) -> Iterator[np.ndarray]:
        """The samples of the 32 ms frames from ``start`` to ``end`` or the recording's, a minute at a time."""
        for at in range(start, end, _MINUTE):
            part_S = self.part(at * FRAME_SAMPLES, min(end, at + _MINUTE) * FRAME_SAMPLES)
            if len(part_S):
                yield part_S

    def levels(self) -> np.ndarray:
        """Mean square of every 32 ms frame: (T,)."""
        minutes = []
        for part_S in self.minutes(0, -(-self.count // FRAME_SAMPLES)):
            odd: Samples = -len(part_S) % FRAME_SAMPLES
            squares_S = np.square(np.pad(part_S, (0, odd)), dtype=np.float64)
            minutes.append(squares_S.reshape(-1, FRAME_SAMPLES).mean(axis=1))
        return np.concatenate(minutes) if minutes else np.zeros(0)
