"""How good a clip is: signal-to-noise ratio, clipping, speech ratio, loudness and bandwidth, from the wave alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lalia.units import SAMPLE_RATE

FRAME_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
SNR_CEILING_DB = 60.0  # Digital silence between words would be infinitely clean.
FLOOR_DB = -100.0


@dataclass(frozen=True)
class Quality:
    """Figures of one clip; ``clipping`` and ``speech_ratio`` are shares from 0 to 1."""

    snr_db: float
    clipping: float
    speech_ratio: float
    loudness_dbfs: float
    bandwidth_hz: float


def measure(wave_S: np.ndarray) -> Quality:
    """The quality of ``wave_S``, float32 (samples,) at 16 kHz, which holds at least one sample that is not zero."""
    powers_T = frame_powers(wave_S)
    levels_T = 10 * np.log10(np.maximum(powers_T, 10 ** (FLOOR_DB / 10)))
    noise_db, speech_T = split_speech(levels_T)
    loud = float(powers_T[speech_T].mean()) if speech_T.any() else float(powers_T.mean())
    noise = 10 ** (noise_db / 10)
    snr = 10 * np.log10(max(loud - noise, 1e-12) / max(noise, 1e-12))
    return Quality(
        snr_db=round(float(np.clip(snr, -10.0, SNR_CEILING_DB)), 2),
        clipping=round(clipped_share(wave_S), 6),
        speech_ratio=round(float(speech_T.mean()), 4),
        loudness_dbfs=round(10 * float(np.log10(max(float(np.mean(np.square(wave_S, dtype=np.float64))), 1e-10))), 2),
        bandwidth_hz=bandwidth(wave_S, speech_T),
    )


def frame_powers(wave_S: np.ndarray) -> np.ndarray:
    """Mean square of every 25 ms frame, 10 ms apart: float64 (T,), T >= 1."""
    short = FRAME_SAMPLES - len(wave_S)
    padded_S = np.pad(wave_S, (0, short)) if short > 0 else wave_S
    sums_S = np.concatenate([[0.0], np.cumsum(np.square(padded_S, dtype=np.float64))])
    starts_T = np.arange(0, len(padded_S) - FRAME_SAMPLES + 1, HOP_SAMPLES)
    return np.maximum(sums_S[starts_T + FRAME_SAMPLES] - sums_S[starts_T], 0.0) / FRAME_SAMPLES


def split_speech(levels_T: np.ndarray) -> tuple[float, np.ndarray]:
    """The level of the noise (dB) and which frames are louder than it by enough to be speech.

    The noise is the mean of the quietest tenth of the frames. A frame is speech where it lies above the middle between
    the noise and the loudest twentieth, or within 20 dB of the latter when the recording is clean.
    """
    ordered_T = np.sort(levels_T)
    quiet = ordered_T[: max(1, len(ordered_T) // 10)]
    noise_db = float(10 * np.log10(np.mean(10 ** (quiet / 10))))
    peak_db = float(ordered_T[int(0.95 * (len(ordered_T) - 1))])
    threshold_db = max(peak_db - 20.0, (peak_db + noise_db) / 2)
    return noise_db, levels_T >= threshold_db


def clipped_share(wave_S: np.ndarray) -> float:
    """The share of samples that stand in runs of three or more at the wave's own ceiling (a limiter's flat tops)."""
    magnitude_S = np.abs(wave_S)
    peak = float(magnitude_S.max(initial=0.0))
    if peak < 0.1:  # Flat tops of a whisper are the steps of 16 bits, not a limiter.
        return 0.0
    at_top_S = magnitude_S >= 0.995 * peak
    flat_S = at_top_S[1:] & at_top_S[:-1] & (np.abs(np.diff(wave_S)) < 1e-4)
    triples_S = flat_S[1:] & flat_S[:-1]
    clipped_S = np.zeros(len(wave_S), bool)
    for shift in range(3):
        clipped_S[shift : shift + len(triples_S)] |= triples_S
    return float(clipped_S.mean())


def bandwidth(wave_S: np.ndarray, speech_T: np.ndarray) -> float:
    """Up to which frequency (Hz) the clip holds anything: 8 kHz for wide-band speech, about 4 kHz for a telephone's.

    It is the highest 125 Hz band of the long-term spectrum that is not 60 dB below the strongest one, nor in the empty
    top that resampling leaves behind.
    """
    size = 256
    short = size - len(wave_S)
    padded_S = np.pad(wave_S, (0, short)) if short > 0 else wave_S
    frames_TS = np.lib.stride_tricks.sliding_window_view(padded_S, size)[::HOP_SAMPLES]
    kept_T = speech_T[: len(frames_TS)]
    frames_TS = frames_TS[: len(kept_T)][kept_T] if kept_T.any() else frames_TS
    spectrum_TF = np.fft.rfft(frames_TS * np.hanning(size).astype(np.float32), axis=1)
    power_F = np.mean(np.square(np.abs(spectrum_TF), dtype=np.float64), axis=0)
    bands = power_F[1:].reshape(-1, 2).mean(axis=1)  # 64 bands of 125 Hz
    present = np.flatnonzero(10 * np.log10(np.maximum(bands, 1e-20)) >= 10 * np.log10(max(bands.max(), 1e-20)) - 60.0)
    return float((present[-1] + 1) * SAMPLE_RATE / 2 / len(bands)) if len(present) else 0.0
