"""Encode waves: FLAC for corpora, MP3 for pages, and GSM 06.10 round trips as telephone augmentation."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from lalia.units import SAMPLE_RATE

TELEPHONE_RATE = 8_000
_GSM_FRAME_SAMPLES = 160


def flac_bytes(wave: np.ndarray) -> bytes:
    """``wave`` (S,), -1 to 1, 16 kHz, as the bytes of a 16-bit FLAC file; exact to 1/65536."""
    # Rounded here: libsndfile truncates towards zero, which costs half a bit and adds a bias.
    whole = np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)
    out = io.BytesIO()
    soundfile.write(out, whole, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def mp3_bytes(wave: np.ndarray) -> bytes:
    """``wave`` (S,), -1 to 1, 16 kHz, as the bytes of an MP3 file of about 5 kB per second, which every browser plays."""
    out = io.BytesIO()
    soundfile.write(
        out, wave, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.7, bitrate_mode="VARIABLE"
    )
    return out.getvalue()


def gsm_round_trip(wave_S: np.ndarray) -> np.ndarray:
    """``wave_S`` (S,) float32 at 8 kHz, -1 to 1, coded and decoded by GSM 06.10 full rate (13 kbit/s): same length, no delay."""
    out = io.BytesIO()
    odd = -len(wave_S) % (2 * _GSM_FRAME_SAMPLES)  # WAV holds GSM frames in pairs.
    soundfile.write(out, np.pad(wave_S, (0, odd)), TELEPHONE_RATE, format="WAV", subtype="GSM610")
    decoded_S, _ = soundfile.read(io.BytesIO(out.getvalue()), dtype="float32")
    return np.pad(decoded_S, (0, max(0, len(wave_S) - len(decoded_S))))[: len(wave_S)]
