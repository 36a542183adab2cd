"""FLAC as corpora hold it, decoded in one call: no file object between, and a decoder nearly twice as fast as libsndfile's.

Trainings read millions of short clips that `lalia prepare` wrote, so what each costs beside its samples matters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from lalia.audio.reading import read_audio
from lalia.errors import AudioError
from lalia.units import SAMPLE_RATE, Samples

_STREAMINFO_END = 42
_SMALLEST_FRAME_BYTES, _LARGEST_FRAME = 8, 65_535  # a forged header must not reserve memory without end
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
        wave = np.empty(samples, np.float32)
        # A damaged frame fails its checksum and is left out: then there are fewer samples than the header says.
        if _decode(miniaudio, data, wave) == samples:
            return wave
    wave = read_audio(data, name=name())
    if samples and len(wave) != samples:
        raise AudioError(f"{name()}: is damaged: of {samples} samples {len(wave)} can be read; prepare the clip again")
    return wave


def _decode(miniaudio: Any, data: bytes, wave: np.ndarray) -> Samples:
    """Decode ``data`` into ``wave`` (samples,) float32; how many samples there were. The decoder is dr_flac."""
    decoder = miniaudio.lib.ma_dr_flac_open_memory(data, len(data), miniaudio.ffi.NULL)
    if not decoder:
        return 0
    try:
        into = miniaudio.ffi.from_buffer("float[]", wave)
        return int(miniaudio.lib.ma_dr_flac_read_pcm_frames_f32(decoder, len(wave), into))
    finally:
        miniaudio.lib.ma_dr_flac_close(decoder)


def _samples(data: bytes) -> Samples:
    """How many samples the header says there are; 0 where it does not say, or not of 16 kHz mono."""
    if len(data) < _STREAMINFO_END or not data.startswith(_BEFORE_STREAMINFO):
        return 0
    # 20 bits of rate, 3 of channels - 1, 5 of bits per sample - 1, 36 of samples (RFC 9639, section 8.2)
    facts = int.from_bytes(data[18:26], "big")
    rate, channels, samples = facts >> 44, (facts >> 41 & 7) + 1, facts & (1 << 36) - 1
    possible = samples <= len(data) // _SMALLEST_FRAME_BYTES * _LARGEST_FRAME
    return samples if (rate, channels) == (SAMPLE_RATE, 1) and possible else 0
