"""Measure the quality of a clip (SNR, clipping, speech ratio, loudness, bandwidth) and separate music from noise.

Music detection compares the fine structure of a spectrum (its peaks, without its slope) with that of 64 ms later, which shares
no samples with it: notes persist, noise does not. Error rates are in docs/corpora.md (``benchmarks/data/music.py``).
Legend: S samples, T frames of 32 ms, F bins of 15.6 Hz.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lalia.audio.vad import FRAME_S, FRAME_SAMPLES
from lalia.units import SAMPLE_RATE, Frames, Seconds

# --- Quality of a clip -----------------------------------------------------------------------------------

SPEECH = 0.5  # probability from which a frame counts as speech
NO_SPEECH = 0.2  # probability below which a frame surely has no speech
SNR_DB = (-10.0, 60.0)  # Digital silence between words would give an infinite SNR.
_BANDS = 64
_WINDOW_SAMPLES = 256


@dataclass(frozen=True)
class Quality:
    """Quality of one clip; ``clipping`` and ``speech_ratio`` are shares from 0 to 1."""

    snr_db: float
    clipping: float
    speech_ratio: float
    loudness_dbfs: float
    bandwidth_hz: float


def measure(wave_S: np.ndarray, voice_T: np.ndarray) -> Quality:
    """The quality of ``wave_S``, float32 (S,) at 16 kHz, with speech probabilities ``voice_T`` (ceil(S / 512),)."""
    speech_T = voice_T >= SPEECH
    power = float(np.mean(np.square(wave_S, dtype=np.float64)))
    return Quality(
        snr_db=round(snr_db(wave_S, voice_T), 2),
        clipping=round(clipped_share(wave_S), 6),
        speech_ratio=round(float(speech_T.mean()), 4),
        loudness_dbfs=round(10 * float(np.log10(max(power, 1e-10))), 2),
        bandwidth_hz=bandwidth_hz(wave_S),
    )


def snr_db(wave_S: np.ndarray, voice_T: np.ndarray) -> float:
    """Ratio of speech power to noise power, in dB.

    The noise is the median power of frames without speech if there are 0.3 s of them, but no more than the quietest tenth of
    the speech frames has, because the noise is in those too; and at least the mean of the quietest tenth of all 16 ms frames
    (the pauses between words). Speech power is that of speech frames minus the noise.
    """
    powers_T = _frame_powers(wave_S, FRAME_SAMPLES // 2)
    halves_T = np.repeat(voice_T, 2)[: len(powers_T)]
    speech_T, other_T = halves_T >= SPEECH, halves_T < NO_SPEECH
    noise = float(np.sort(powers_T)[: max(1, len(powers_T) // 10)].mean())
    if other_T.sum() >= 20 and speech_T.any():
        # Detectors miss parts of words, most often in short clips: then many frames "without speech" are loud.
        between = min(float(np.median(powers_T[other_T])), float(np.quantile(powers_T[speech_T], 0.1)))
        noise = max(noise, between)
    noise = max(noise, 1e-12)
    loud = float(powers_T[speech_T].mean()) if speech_T.any() else float(powers_T.mean())
    return float(np.clip(10 * np.log10(max(loud - noise, 1e-12) / noise), *SNR_DB))


def clipped_share(wave_S: np.ndarray) -> float:
    """The share of samples in runs of three or more at the wave's maximum: the flat tops of clipping."""
    magnitude_S = np.abs(wave_S)
    peak = float(magnitude_S.max(initial=0.0))
    if peak < 0.1:  # In very soft waves flat tops are 16-bit quantization steps, not clipping.
        return 0.0
    at_top_S = magnitude_S >= 0.995 * peak
    flat_S = at_top_S[1:] & at_top_S[:-1] & (np.abs(np.diff(wave_S)) < 1e-4)
    triples_S = flat_S[1:] & flat_S[:-1]
    clipped_S = np.zeros(len(wave_S), bool)
    for shift in range(3):
        clipped_S[shift : shift + len(triples_S)] |= triples_S
    return float(clipped_S.mean())


def bandwidth_hz(wave_S: np.ndarray) -> float:
    """The bandwidth of a clip in Hz: 8000 for wide-band speech, about 4000 for telephone speech.

    It is the highest of 64 bands of 125 Hz whose power, over the louder half of the frames, is within 60 dB of the strongest.
    """
    short = _WINDOW_SAMPLES - len(wave_S)
    padded_S = np.pad(wave_S, (0, short)) if short > 0 else wave_S
    frames_TS = np.lib.stride_tricks.sliding_window_view(padded_S, _WINDOW_SAMPLES)[:: _WINDOW_SAMPLES // 2]
    powers_T = np.einsum("ts,ts->t", frames_TS, frames_TS)
    louder_TS = frames_TS[powers_T >= np.median(powers_T)]
    window_S = np.hanning(_WINDOW_SAMPLES).astype(np.float32)
    spectrum_F = np.mean(np.square(np.abs(np.fft.rfft(louder_TS * window_S, axis=1))), axis=0)
    bands = spectrum_F[1:].reshape(_BANDS, -1).mean(axis=1)
    present = np.flatnonzero(bands >= bands.max() * 1e-6)
    return float((present[-1] + 1) * SAMPLE_RATE / 2 / _BANDS)


def _frame_powers(wave_S: np.ndarray, frame_samples: int) -> np.ndarray:
    """Mean square of consecutive frames: (T,), T >= 1; an incomplete last frame is left out unless it is the only one."""
    frames = len(wave_S) // frame_samples
    if frames == 0:
        return np.mean(np.square(wave_S, dtype=np.float64), keepdims=True)
    return np.mean(np.square(wave_S[: frames * frame_samples].reshape(frames, -1), dtype=np.float64), axis=1)


# --- Music or noise --------------------------------------------------------------------------------------

MUSIC = 0.25
"""The mean similarity from which a sound counts as music."""
AROUND_S: Seconds = 3.0
"""The length of sound over which the similarity is averaged."""

_WINDOW = 2 * FRAME_SAMPLES
_HIGH = round(3400 * _WINDOW / SAMPLE_RATE)  # telephones pass frequencies below this
_ENVELOPE = 17  # bins, 270 Hz
_AT_ONCE = 1024


def spectral_similarity(wave_S: np.ndarray) -> np.ndarray:
    """Similarity of the spectral peaks of each frame to those two frames later: (ceil(S / 512),), -1 to 1."""
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


def is_music(similarity_T: np.ndarray, selected_T: np.ndarray) -> np.ndarray:
    """Which frames are music: (T,) bool, by the mean similarity around each, of the frames in ``selected_T`` only."""
    width: Frames = round(AROUND_S / FRAME_S)
    weights = np.ones(width)
    if len(similarity_T) < width:
        share, count = float(similarity_T[selected_T].sum()), float(selected_T.sum())
        return selected_T & (share >= MUSIC * max(1.0, count))
    sums_T = np.convolve(np.where(selected_T, similarity_T, 0.0), weights, mode="same")
    counts_T = np.convolve(selected_T.astype(float), weights, mode="same")
    return selected_T & (sums_T >= MUSIC * np.maximum(1.0, counts_T))


def _peaks(windows_TS: np.ndarray) -> np.ndarray:
    """The fine structure of every window's spectrum from 140 to 3300 Hz: (T, F), each row of length 1."""
    window_S = np.hanning(_WINDOW).astype(np.float32)
    power_TF = np.square(np.abs(np.fft.rfft(windows_TS * window_S, axis=1)))[:, 1:_HIGH]
    # The floor prevents peaks in digital silence and in numerical noise next to loud tones.
    floor_T1 = 1e-5 * power_TF.max(axis=1, keepdims=True) + 1e-12
    logs_TF = np.log(power_TF + floor_T1)
    sums_TF = np.cumsum(np.pad(logs_TF, ((0, 0), (1, 0))), axis=1)
    envelope_TF = (sums_TF[:, _ENVELOPE:] - sums_TF[:, :-_ENVELOPE]) / _ENVELOPE
    fine_TF = logs_TF[:, _ENVELOPE // 2 : _ENVELOPE // 2 + envelope_TF.shape[1]] - envelope_TF
    lengths_T1 = np.linalg.norm(fine_TF, axis=1, keepdims=True)
    return fine_TF / np.maximum(lengths_T1, 1e-6)
