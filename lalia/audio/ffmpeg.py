"""Decode containers and codecs that libsndfile lacks (M4A, WebM, AMR, ...) with FFmpeg; the only module that imports PyAV."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

_ESTIMATED_DURATION = ("g722", "aac", "mp3", "mpegts", "mpeg", "ac3", "loas", "ogg", "flv", "amr")
_SILENCE_CHECK_S, _SILENCE = 120.0, 1e-3
_MAX_BOXES = 100_000


class DecodingFailed(Exception):
    """FFmpeg cannot open or decode the file; the message is FFmpeg's."""


class DecoderMissing(Exception):
    """PyAV is not installed."""


@dataclass
class DecodingReport:
    """Facts found while a file is decoded; filled by ``stream_blocks``."""

    declared_s: float | None = None
    """duration in the header; None where it has none"""
    tracks: str = ""
    """which of several tracks was read, as a sentence; "" for a file with one"""
    packets: int = 0
    bad_packets: int = 0


def stream_info(file: BinaryIO, container: str) -> tuple[int, int, float | None]:
    """Sample rate in Hz, channels and declared duration in seconds (None where there is none) of the stream that is read."""
    with _open(file, container) as opened:
        number, _ = _choose_track(file, container, opened)
        stream = opened.streams.audio[number]
        return stream.rate, stream.channels, _declared_s(opened, stream)


def stream_blocks(file: BinaryIO, container: str, decoding: DecodingReport) -> Iterator[tuple[int, np.ndarray]]:
    """Decoded blocks as (rate in Hz, float32 (S, C)); fills ``decoding``.

    Of several tracks, reads the first that decodes and is not silent, the default track first. Damaged packets are counted
    and skipped. Raises ``DecodingFailed`` where no packet or too few can be decoded.
    """
    with ExitStack() as stack:
        opened = stack.enter_context(_open(file, container))
        number, decoding.tracks = _choose_track(file, container, opened)
        if decoding.tracks:  # Probing the tracks moved the file position.
            stack.close()
            opened = stack.enter_context(_open(file, container))
        stream = opened.streams.audio[number]
        decoding.declared_s = _declared_s(opened, stream)
        yield from _blocks(opened, stream, decoding)


def check_installed() -> None:
    """``DecoderMissing`` if PyAV is not installed."""
    _av()


def opus_decoder(head: bytes) -> Callable[[bytes], np.ndarray]:
    """A decoder of Opus packets, for the stream with the header ``head`` (OpusHead): packet → mono float32 (S,) at 48 kHz.

    The first samples that the header leaves out (pre-skip) are left out. ``DecodingFailed`` for bytes that are no packet.
    """
    av = _av()
    av.logging.set_level(None)
    context = av.CodecContext.create("opus", "r")
    context.extradata = head
    convert = av.AudioResampler(format="flt", layout="mono", rate=48_000)

    def decode(packet: bytes) -> np.ndarray:
        try:
            frames = [part for frame in context.decode(av.Packet(packet)) for part in convert.resample(frame)]
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise DecodingFailed(_reason(error)) from error
        waves = [frame.to_ndarray().reshape(-1) for frame in frames]
        return np.concatenate(waves) if waves else np.zeros(0, np.float32)

    return decode


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
            return  # The container is truncated.
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
            except ValueError:  # The sample rate or the channels change.
                yield from map(_block, convert.resample(None))
                convert = None
            if convert is None:
                # Interleaved, not planar: PyAV counts a frame's planes up to the first empty one, and with eight or more
                # channels there is none, so that it would read past the last.
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
    """The index of the audio stream to read, and a sentence about it where there are several."""
    streams = opened.streams.audio
    if not streams:
        raise DecodingFailed("it holds no audio stream")
    fit = [number for number, stream in enumerate(streams) if stream.codec_context is not None and stream.rate]
    if not fit:
        known = any(stream.codec_context is not None for stream in streams)
        raise DecodingFailed("it gives no sample rate" if known else "no decoder knows its codec")
    if len(streams) == 1:
        return 0, ""
    fit.sort(key=lambda number: not streams[number].disposition & _av().stream.Disposition.default)
    number = next((number for number in fit if _has_sound(file, container, number)), fit[0])
    language = streams[number].language
    which = f"{number + 1}" + (f" ({language})" if language and language != "und" else "")
    return number, f"holds {len(streams)} audio tracks: read track {which}"


def _has_sound(file: BinaryIO, container: str, number: int) -> bool:
    """Whether the first two minutes of a stream hold more than silence."""
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
                "its index (moov) is missing, as after a recorder lost power; untrunc can rebuild it"
            ) from error
        raise DecodingFailed(_reason(error)) from error


def _has_moov(file: BinaryIO) -> bool:
    """Whether an MP4 file has a ``moov`` box (ISO/IEC 14496-12)."""
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
    """The duration in the header; None for formats without one, whose duration FFmpeg estimates from the bit rate."""
    if opened.format.name.partition(",")[0] in _ESTIMATED_DURATION:
        return None
    if tag := stream.metadata.get("DURATION", ""):  # Matroska's, per track
        hours, _, rest = tag.partition(":")
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
