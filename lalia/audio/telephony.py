"""Codecs of telephone lines, there and back: what mobile networks do to a voice."""

from __future__ import annotations

import io

import numpy as np
import soundfile

TELEPHONE_RATE = 8_000
_FRAME_SAMPLES = 160


def gsm(wave_S: np.ndarray) -> np.ndarray:
    """``wave_S`` (S,) float32 at 8 kHz, -1 to 1, after GSM 06.10 full rate (13 kbit/s): as long, not delayed."""
    out = io.BytesIO()
    odd = -len(wave_S) % (2 * _FRAME_SAMPLES)  # WAV holds GSM frames in pairs.
    soundfile.write(out, np.pad(wave_S, (0, odd)), TELEPHONE_RATE, format="WAV", subtype="GSM610")
    heard_S, _ = soundfile.read(io.BytesIO(out.getvalue()), dtype="float32")
    return np.pad(heard_S, (0, max(0, len(wave_S) - len(heard_S))))[: len(wave_S)]
