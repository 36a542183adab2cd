"""Containers and codecs that libsndfile does not know, decoded by FFmpeg: the one door to PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

import numpy as np


class DecodingFailed(Exception):
    """FFmpeg could not open or decode the file; the message says what it said."""


class DecoderMissing(Exception):
    """PyAV is not installed."""


def stream_facts(file: BinaryIO, container: str) -> tuple[int, int, float | None]:
    """Sample rate, channels and declared duration in seconds (None: not said) of the first audio stream."""
    with _open(file, container) as opened:
        stream = _stream(opened)
        return _facts(opened, stream)


def stream_blocks(file: BinaryIO, container: str) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of the first audio stream as (rate, float32 samples of shape (samples, channels)).

    Raises ``DecodingFailed`` where the file is broken, or ends long before the duration it declares.
    """
    av = _av()
    try:
        with _open(file, container) as opened:
            stream = _stream(opened)
            rate, _, declared_s = _facts(opened, stream)
            # Channels side by side, not each by itself: PyAV counts a frame's planes up to the first that is empty, and of eight
            # or more none is, so it reads on behind the last.
            convert = av.AudioResampler(format="flt", rate=rate)
            decoded = 0
            for frame in chain(opened.decode(stream), [None]):
                for part in convert.resample(frame):
                    decoded += part.samples
                    yield rate, part.to_ndarray().reshape(part.samples, -1)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DecodingFailed(_reason(error)) from error
    if declared_s is not None and decoded / rate < 0.95 * declared_s - 0.5:
        raise DecodingFailed(f"it ends after {decoded / rate:.1f} of {declared_s:.1f} seconds")


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise DecoderMissing from error
    return av


def _open(file: BinaryIO, container: str) -> Any:
    av = _av()
    av.logging.set_level(None)
    file.seek(0)
    try:
        # The container is named, never guessed: FFmpeg finds an audio format in almost any bytes.
        return av.open(file, format=container, metadata_errors="ignore")
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise DecodingFailed(_reason(error)) from error


def _stream(opened: Any) -> Any:
    if not opened.streams.audio:
        raise DecodingFailed("it holds no audio stream")
    stream = opened.streams.audio[0]
    if stream.codec_context is None:
        raise DecodingFailed("no decoder knows its codec")
    if not stream.rate:
        raise DecodingFailed("it does not say how many samples a second has")
    return stream


def _facts(opened: Any, stream: Any) -> tuple[int, int, float | None]:
    if opened.format.name == "g722":  # Without a header FFmpeg guesses a duration, and guesses it wrong.
        return stream.rate, stream.channels, None
    if stream.duration is not None and stream.time_base is not None:
        return stream.rate, stream.channels, float(stream.duration * stream.time_base)
    if opened.duration is not None:
        return stream.rate, stream.channels, opened.duration / _av().time_base
    return stream.rate, stream.channels, None


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[0].lower() + text[1:]
