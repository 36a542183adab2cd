"""Containers and codecs that libsndfile does not know, decoded by FFmpeg: the one door to PyAV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

_ESTIMATED_DURATION = ("g722", "aac", "mp3", "mpegts", "mpeg", "ac3", "loas", "ogg", "flv", "amr")
_SILENCE_CHECK_S, _SILENCE = 120.0, 1e-3
_MAX_BOXES = 100_000


class DecodingFailed(Exception):
    """FFmpeg could not open or decode the file; the message says what it said."""


class DecoderMissing(Exception):
    """PyAV is not installed."""


@dataclass
class DecodingReport:
    """What became of a file while it was decoded, for those who tell people."""

    declared_s: float | None = None
    """seconds that its header promises; None: it does not say"""
    tracks: str = ""
    """which of several tracks was read, in words"""
    packets: int = 0
    bad_packets: int = 0


def stream_info(file: BinaryIO, container: str) -> tuple[int, int, float | None]:
    """Sample rate, channels and declared duration in seconds (None: not said) of the stream that is read."""
    with _open(file, container) as opened:
        number, _ = _choose_track(file, container, opened)
        stream = opened.streams.audio[number]
        return stream.rate, stream.channels, _declared_s(opened, stream)


def stream_blocks(file: BinaryIO, container: str, decoding: DecodingReport) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of a file's sound as (rate, float32 samples of shape (samples, channels)); ``decoding`` is filled meanwhile.

    Of several tracks the first that decodes and is not silent. Packets that are damaged are counted and left out; raises
    ``DecodingFailed`` where nothing can be decoded, or most of it cannot.
    """
    with ExitStack() as stack:
        opened = stack.enter_context(_open(file, container))
        number, decoding.tracks = _choose_track(file, container, opened)
        if decoding.tracks:  # Listening to them moved the file.
            stack.close()
            opened = stack.enter_context(_open(file, container))
        stream = opened.streams.audio[number]
        decoding.declared_s = _declared_s(opened, stream)
        yield from _blocks(opened, stream, decoding)


def _blocks(opened: Any, stream: Any, decoding: DecodingReport) -> Iterator[tuple[int, np.ndarray]]:
    av = _av()
    convert: Any = None
    failed: Exception | None = None
    packets = opened.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.error.FFmpegError, ValueError, OSError) as error:
            if not decoding.packets:
                raise DecodingFailed(_reason(error)) from error
            return  # The container ends in the middle of something.
        if packet is None:
            break
        try:
            frames = packet.decode()
            decoding.packets += 1
        except (av.error.FFmpegError, ValueError, OSError) as error:
            failed = error
            decoding.bad_packets += 1
            if decoding.bad_packets > 20 + decoding.packets:
                raise DecodingFailed(_reason(error)) from error
            continue
        for frame in frames:
            try:
                parts = convert.resample(frame) if convert is not None else []
            except ValueError:  # The sound goes on in another form.
                yield from map(_block, convert.resample(None))
                convert = None
            if convert is None:
                # Channels side by side, not each by itself: PyAV counts a frame's planes up to the first that is empty, and
                # of eight or more none is, so it reads on behind the last.
                convert = av.AudioResampler(format="flt", rate=frame.sample_rate)
                parts = convert.resample(frame)
            yield from map(_block, parts)
    if convert is not None:
        yield from map(_block, convert.resample(None))
    elif failed is not None:
        raise DecodingFailed(_reason(failed)) from failed


def _block(frame: Any) -> tuple[int, np.ndarray]:
    return frame.sample_rate, frame.to_ndarray().reshape(frame.samples, -1)


def _choose_track(file: BinaryIO, container: str, opened: Any) -> tuple[int, str]:
    """Which of the audio streams is read, and, where there are several, in words."""
    streams = opened.streams.audio
    if not streams:
        raise DecodingFailed("it holds no audio stream")
    fit = [number for number, stream in enumerate(streams) if stream.codec_context is not None and stream.rate]
    if not fit:
        known = any(stream.codec_context is not None for stream in streams)
        raise DecodingFailed("it does not say how many samples a second has" if known else "no decoder knows its codec")
    if len(streams) == 1:
        return 0, ""
    fit.sort(key=lambda number: not streams[number].disposition & _av().stream.Disposition.default)
    number = next((number for number in fit if _has_sound(file, container, number)), fit[0])
    language = streams[number].language
    which = f"{number + 1}" + (f" ({language})" if language and language != "und" else "")
    return number, f"holds {len(streams)} audio tracks: read track {which}"


def _has_sound(file: BinaryIO, container: str, number: int) -> bool:
    """Whether the first minutes of a stream hold more than silence."""
    try:
        with _open(file, container) as opened:
            seconds = 0.0
            for rate, block_SC in _blocks(opened, opened.streams.audio[number], DecodingReport()):
                if len(block_SC) and float(np.abs(block_SC).max()) > _SILENCE:
                    return True
                seconds += len(block_SC) / rate
                if seconds > _SILENCE_CHECK_S:
                    break
    except DecodingFailed:
        pass
    return False


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
        if container == "mov" and not _has_moov(file):
            raise DecodingFailed(
                "its index (moov) is missing, as when a recorder is switched off; untrunc can make one"
            ) from error
        raise DecodingFailed(_reason(error)) from error


def _has_moov(file: BinaryIO) -> bool:
    """Whether an MP4 file has a box ``moov``, by a walk over its boxes."""
    size, at = file.seek(0, os.SEEK_END), 0
    for _ in range(_MAX_BOXES):
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[8:16] if head[:4] == b"\0\0\0\x01" else head[:4], "big")
        if head[4:8] == b"moov":
            return True
        at += length
        if length < 8 or at >= size:
            break
    return False


def _declared_s(opened: Any, stream: Any) -> float | None:
    """What the header promises; None for streams without one, of which FFmpeg guesses the length by their bit rate."""
    if opened.format.name.partition(",")[0] in _ESTIMATED_DURATION:
        return None
    if said := stream.metadata.get("DURATION", ""):  # Matroska's, per track
        hours, _, rest = said.partition(":")
        minutes, _, seconds = rest.partition(":")
        try:
            return 3600 * float(hours) + 60 * float(minutes) + float(seconds)
        except ValueError:
            return None
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if opened.duration is not None and len(opened.streams) == 1:
        return float(opened.duration / _av().time_base)
    return None


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[0].lower() + text[1:]
