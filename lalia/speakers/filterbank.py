"""Log-mel filterbanks as Kaldi computes them, for networks that were trained on its features.

Equal to ``torchaudio.compliance.kaldi.fbank`` with 80 bins and ``dither=0``. Legend: S samples, T frames, F bins.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from lalia.units import SAMPLE_RATE, Frames, Samples

FRAME: Samples = 400
HOP: Samples = 160
BINS = 80
_FFT = 512
_LOW_HZ, _HIGH_HZ = 20.0, SAMPLE_RATE / 2
_PRE_EMPHASIS = 0.97
_FLOOR = np.finfo(np.float32).eps
_FRAMES_AT_ONCE: Frames = 4096


def kaldi_filterbanks(wave_S: np.ndarray) -> np.ndarray:
    """Log-mel filterbanks (T, F) float32 of a wave (S,), 16 kHz, -1 to 1: frames of 25 ms every 10 ms that lie in it whole."""
    if len(wave_S) < FRAME:
        return np.zeros((0, BINS), np.float32)
    frames_TN = np.lib.stride_tricks.sliding_window_view(wave_S.astype(np.float32, copy=False), FRAME)[::HOP]
    parts = [
        _log_mel(frames_TN[start : start + _FRAMES_AT_ONCE]) for start in range(0, len(frames_TN), _FRAMES_AT_ONCE)
    ]
    return np.concatenate(parts)


def _log_mel(frames_TN: np.ndarray) -> np.ndarray:
    window_N, mel_KF = _tables()
    frames_TN = frames_TN - frames_TN.mean(axis=1, keepdims=True)
    before_TN = np.concatenate([frames_TN[:, :1], frames_TN[:, :-1]], axis=1)
    spectrum_TK = np.fft.rfft((frames_TN - np.float32(_PRE_EMPHASIS) * before_TN) * window_N, _FFT)
    power_TK = np.square(spectrum_TK.real) + np.square(spectrum_TK.imag)
    return np.log(np.maximum(power_TK.astype(np.float32)[:, :-1] @ mel_KF, _FLOOR))


@lru_cache(1)
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Povey's window (N,) and the triangular mel filters (K, F) of Kaldi's mel scale, 1127 · ln(1 + f / 700)."""
    window_N = np.power(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1)), 0.85).astype(np.float32)
    low, high = _mel(np.array([_LOW_HZ, _HIGH_HZ]))
    edges = low + (high - low) / (BINS + 1) * np.arange(BINS + 2)
    mels_K1 = _mel(np.arange(_FFT // 2) * SAMPLE_RATE / _FFT)[:, None]
    rising_KF = (mels_K1 - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling_KF = (edges[2:] - mels_K1) / (edges[2:] - edges[1:-1])
    return window_N, np.maximum(0, np.minimum(rising_KF, falling_KF)).astype(np.float32)


def _mel(hertz: np.ndarray) -> np.ndarray:
    mels: np.ndarray = 1127 * np.log(1 + hertz / 700)
    return mels
