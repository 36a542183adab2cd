"""FLAC as corpora hold it, decoded in one call: no file object between, and a decoder nearly twice as fast as libsndfile's.

Trainings read millions of short clips that `lalia prepare` wrote, so what each costs beside its samples matters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from lalia.audio.reading import AudioError, read_audio
from lalia.units import SAMPLE_RATE, Samples

_STREAMINFO_END = 42
_BEFORE_STREAMINFO = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")  # the second where no other block follows


@cache
def _dr_flac() -> Any:
    """The package that has dr_flac; None in the light installation, which reads few files, and any kind: libsndfile does."""
    try:
        import miniaudio
    except ImportError:
        return None
    return miniaudio


def read_flac(data: bytes, name: Callable[[], str]) -> np.ndarray:
    """The wave (samples,) float32 of a FLAC file's bytes; ``name`` is called for the name that an error shows.

    Whatever is not a whole, sound FLAC file of 16 kHz mono goes the way of `lalia.audio.reading.read_audio`, with its
    errors; a FLAC file that gives fewer samples than its header says is an AudioError too.
    """
    samples = _samples(data)
    miniaudio = _dr_flac()
    if samples and miniaudio is not None:
        try:
            decoded = miniaudio.flac_read_f32(data).samples
        except miniaudio.MiniaudioError:
            decoded = None
        # A damaged frame fails its checksum and is left out: then there are fewer samples than the header says.
        if decoded is not None and len(decoded) == samples:
            return np.frombuffer(decoded, np.float32)
    wave = read_audio(data, name=name())
    if samples and len(wave) != samples:
        raise AudioError(f"{name()}: is damaged: of {samples} samples {len(wave)} can be read; prepare the clip again")
    return wave


def _samples(data: bytes) -> Samples:
    """How many samples the header says there are; 0 where it does not say, or not of 16 kHz mono."""
    if len(data) < _STREAMINFO_END or not data.startswith(_BEFORE_STREAMINFO):
        return 0
    # 20 bits of rate, 3 of channels - 1, 5 of bits per sample - 1, 36 of samples (RFC 9639, section 8.2)
    facts = int.from_bytes(data[18:26], "big")
    rate, channels, samples = facts >> 44, (facts >> 41 & 7) + 1, facts & (1 << 36) - 1
    return samples if (rate, channels) == (SAMPLE_RATE, 1) else 0
