"""How good a clip is: signal-to-noise ratio, clipping, speech ratio, loudness and bandwidth, from the wave alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lalia.runtime.voice import FRAME_SAMPLES
from lalia.units import SAMPLE_RATE

SPEECH = 0.5  # probability from which a frame counts as speech
NO_SPEECH = 0.2  # and below which it surely holds none
SNR_DB = (-10.0, 60.0)  # Digital silence between words would be infinitely clean.
_BANDS = 64
_WINDOW_SAMPLES = 256


@dataclass(frozen=True)
class Quality:
    """Figures of one clip; ``clipping`` and ``speech_ratio`` are shares from 0 to 1."""

    snr_db: float
    clipping: float
    speech_ratio: float
    loudness_dbfs: float
    bandwidth_hz: float


def measure(wave_S: np.ndarray, voice_T: np.ndarray) -> Quality:
    """The quality of ``wave_S``, float32 (S,) at 16 kHz, of which ``voice_T`` (ceil(S / 512),) tells where speech is."""
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
    """Power of the speech against that of the noise, in dB.

    The noise is the mean of the frames that hold no speech where there are 0.3 s of them, and never less than the mean of
    the quietest tenth of all 16 ms frames (the pauses between words). What frames of speech hold beyond it is the speech.
    """
    powers_T = _frame_powers(wave_S, FRAME_SAMPLES // 2)
    halves_T = np.repeat(voice_T, 2)[: len(powers_T)]
    speech_T, other_T = halves_T >= SPEECH, halves_T < NO_SPEECH
    noise = float(np.sort(powers_T)[: max(1, len(powers_T) // 10)].mean())
    if other_T.sum() >= 20 and speech_T.any():
        noise = max(noise, float(powers_T[other_T].mean()))
    noise = max(noise, 1e-12)
    loud = float(powers_T[speech_T].mean()) if speech_T.any() else float(powers_T.mean())
    return float(np.clip(10 * np.log10(max(loud - noise, 1e-12) / noise), *SNR_DB))


def clipped_share(wave_S: np.ndarray) -> float:
    """The share of samples that stand in runs of three or more at the wave's own ceiling: a limiter's flat tops."""
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


def bandwidth_hz(wave_S: np.ndarray) -> float:
    """Up to which frequency the clip holds anything: 8000 for wide-band speech, about 4000 for a telephone's.

    The highest of 64 bands of 125 Hz whose power, over the louder half of the frames, is within 60 dB of the strongest.
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
    """Mean square of consecutive frames: (T,), T >= 1; a rest at the end is left out unless it is all there is."""
    frames = len(wave_S) // frame_samples
    if frames == 0:
        return np.mean(np.square(wave_S, dtype=np.float64), keepdims=True)
    return np.mean(np.square(wave_S[: frames * frame_samples].reshape(frames, -1), dtype=np.float64), axis=1)
