"""From any rate to 16 kHz, block by block."""

from __future__ import annotations

import numpy as np
import soxr

from lalia.units import SAMPLE_RATE


class Resampler:
    """Turns blocks of a mono wave at ``rate``, of shape (samples,), into blocks of a wave at 16 kHz.

    Blocks of any size give the same wave.
    """

    def __init__(self, rate: int) -> None:
        self._stream = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")

    def __call__(self, block_S: np.ndarray, last: bool = False) -> np.ndarray:
        if self._stream is not None:
            block_S = self._stream.resample_chunk(np.ascontiguousarray(block_S), last=last)
        # A steep filter overshoots at clipped peaks.
        return np.clip(block_S, -1.0, 1.0)


def resample(wave: np.ndarray, rate: int) -> np.ndarray:
    """``wave`` (samples,) at ``rate`` as a wave at 16 kHz."""
    return Resampler(rate)(wave.astype(np.float32, copy=False), last=True)
