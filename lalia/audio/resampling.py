"""From any rate and any number of channels to mono at 16 kHz, block by block."""

from __future__ import annotations

import numpy as np
import soxr

from lalia.units import SAMPLE_RATE


class Resampler:
    """Turns blocks of shape (samples, channels) at ``rate`` into blocks of a mono wave at 16 kHz.

    Blocks of any size give the same wave. The channels are averaged.
    """

    def __init__(self, rate: int) -> None:
        self._stream = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")

    def __call__(self, block_SC: np.ndarray, last: bool = False) -> np.ndarray:
        mono = block_SC[:, 0] if block_SC.shape[1] == 1 else block_SC.mean(axis=1, dtype=np.float32)
        if self._stream is not None:
            mono = self._stream.resample_chunk(np.ascontiguousarray(mono), last=last)
        # A steep filter overshoots at clipped peaks.
        return np.clip(mono, -1.0, 1.0)


def resample(wave: np.ndarray, rate: int) -> np.ndarray:
    """``wave`` (samples,) at ``rate`` as a wave at 16 kHz."""
    return Resampler(rate)(wave.astype(np.float32, copy=False)[:, None], last=True)
