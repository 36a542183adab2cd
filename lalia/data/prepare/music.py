"""Music told from noise: its notes stand still for longer than anything noise does.

Of what holds no speech. The fine structure of a spectrum (its peaks, without its slope) is compared with that of 64 ms
later, which shares no sample with it: notes stay where they are, noise begins anew. How often that errs is in
docs/corpora.md (``benchmarks/music.py``). Legend: S samples, T frames of 32 ms, F bins of 15.6 Hz.
"""

from __future__ import annotations

import numpy as np

from lalia.runtime.voice import FRAME_S, FRAME_SAMPLES
from lalia.units import SAMPLE_RATE, Frames, Seconds

MUSIC = 0.25
"""The mean likeness from which a sound counts as music."""
AROUND_S: Seconds = 3.0
"""Over how much sound the likeness is averaged."""

_WINDOW = 2 * FRAME_SAMPLES
_HIGH = round(3400 * _WINDOW / SAMPLE_RATE)  # A telephone passes what is below.
_ENVELOPE = 17  # bins, 270 Hz
_AT_ONCE = 1024


def likeness(wave_S: np.ndarray) -> np.ndarray:
    """How alike the peaks of every frame's spectrum are to those of the next but one: (ceil(S / 512),), -1 to 1."""
    frames: Frames = -(-len(wave_S) // FRAME_SAMPLES)
    found_T = np.zeros(frames, np.float32)
    if not frames:
        return found_T
    padded_S = np.pad(wave_S, (0, (frames + 3) * FRAME_SAMPLES - len(wave_S)), mode="symmetric")
    windows_TS = np.lib.stride_tricks.sliding_window_view(padded_S, _WINDOW)[::FRAME_SAMPLES]
    for start in range(0, frames, _AT_ONCE):
        end = min(frames, start + _AT_ONCE)
        peaks_TF = _peaks(windows_TS[start : end + 2])
        found_T[start:end] = np.sum(peaks_TF[:-2] * peaks_TF[2:], axis=1)
    return found_T


def is_music(likeness_T: np.ndarray, heard_T: np.ndarray) -> np.ndarray:
    """Which frames are music: (T,) bool, by the mean likeness around each, of the frames in ``heard_T`` alone."""
    width: Frames = round(AROUND_S / FRAME_S)
    weights = np.ones(width)
    if len(likeness_T) < width:
        share, count = float(likeness_T[heard_T].sum()), float(heard_T.sum())
        return heard_T & (share >= MUSIC * max(1.0, count))
    sums_T = np.convolve(np.where(heard_T, likeness_T, 0.0), weights, mode="same")
    counts_T = np.convolve(heard_T.astype(float), weights, mode="same")
    return heard_T & (sums_T >= MUSIC * np.maximum(1.0, counts_T))


def _peaks(windows_TS: np.ndarray) -> np.ndarray:
    """The fine structure of every window's spectrum from 140 to 3300 Hz: (T, F), each row of length 1."""
    window_S = np.hanning(_WINDOW).astype(np.float32)
    power_TF = np.square(np.abs(np.fft.rfft(windows_TS * window_S, axis=1)))[:, 1:_HIGH]
    # The floor keeps digital silence and the numerical noise beside loud tones from having peaks.
    floor_T1 = 1e-5 * power_TF.max(axis=1, keepdims=True) + 1e-12
    logs_TF = np.log(power_TF + floor_T1)
    sums_TF = np.cumsum(np.pad(logs_TF, ((0, 0), (1, 0))), axis=1)
    envelope_TF = (sums_TF[:, _ENVELOPE:] - sums_TF[:, :-_ENVELOPE]) / _ENVELOPE
    fine_TF = logs_TF[:, _ENVELOPE // 2 : _ENVELOPE // 2 + envelope_TF.shape[1]] - envelope_TF
    lengths_T1 = np.linalg.norm(fine_TF, axis=1, keepdims=True)
    return fine_TF / np.maximum(lengths_T1, 1e-6)
