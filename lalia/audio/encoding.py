"""Codecs of telephone lines, there and back: what mobile networks do to a voice.

Write a wave: as FLAC, exact to 16 bits and quick to read, or as MP3, to be heard in a page.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile

from lalia.units import SAMPLE_RATE

# --- Write a wave ----------------------------------------------------------------------------------------


def flac_bytes(wave: np.ndarray) -> bytes:
    """``wave`` (samples,), -1 to 1, 16 kHz, as the bytes of a 16-bit FLAC file; reading it gives it back to 1/65536."""
    # Rounded here: libsndfile cuts off towards zero, which costs half a bit and adds a bias.
    whole = np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)
    out = io.BytesIO()
    soundfile.write(out, whole, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def mp3_bytes(wave: np.ndarray) -> bytes:
    """``wave`` (samples,), -1 to 1, 16 kHz, as an MP3 file of about 5 kB per second, which every browser plays."""
    out = io.BytesIO()
    soundfile.write(
        out, wave, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.7, bitrate_mode="VARIABLE"
    )
    return out.getvalue()


# --- Codecs of telephone lines, there and back -----------------------------------------------------------

TELEPHONE_RATE = 8_000
_FRAME_SAMPLES = 160


def gsm_round_trip(wave_S: np.ndarray) -> np.ndarray:
    """``wave_S`` (S,) float32 at 8 kHz, -1 to 1, after GSM 06.10 full rate (13 kbit/s): as long, not delayed."""
    out = io.BytesIO()
    odd = -len(wave_S) % (2 * _FRAME_SAMPLES)  # WAV holds GSM frames in pairs.
    soundfile.write(out, np.pad(wave_S, (0, odd)), TELEPHONE_RATE, format="WAV", subtype="GSM610")
    heard_S, _ = soundfile.read(io.BytesIO(out.getvalue()), dtype="float32")
    return np.pad(heard_S, (0, max(0, len(wave_S) - len(heard_S))))[: len(wave_S)]
