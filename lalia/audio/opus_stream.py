"""Opus in WebM or Ogg decoded while the bytes arrive, as a browser's MediaRecorder sends them; FFmpeg (PyAV) decodes the packets.

Only what a live recording needs: one pass, no index, elements and segments of unknown size. Memory holds one element or page.

Sources: RFC 8794 (EBML), RFC 9559 (Matroska), RFC 3533 (Ogg), RFC 7845 (Opus in Ogg).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from lalia.audio import ffmpeg
from lalia.errors import AudioError
from lalia.units import Samples

RATE = 48_000
"""Opus always decodes to this rate."""
_MOST_BYTES = 1 << 20
"""Of an element of WebM, or a packet of Ogg, that is read."""
_ENTERED = {0x18538067: "Segment", 0x1654AE6B: "Tracks", 0xAE: "TrackEntry", 0x1F43B675: "Cluster", 0xA0: "BlockGroup"}
_TRACK_NUMBER, _CODEC, _CODEC_PRIVATE, _SIMPLE_BLOCK, _BLOCK, _EBML = 0xD7, 0x86, 0x63A2, 0xA3, 0xA1, 0x1A45DFA3
_LACING, _BEGINS = 0x06, 0x02


class OpusSource:
    """A WebM or Ogg recording in, mono samples at 48 kHz out: ``feed`` any number of bytes, then ``read`` until it is empty."""

    rate = RATE

    def __init__(self, container: str) -> None:
        """``container``: ``webm`` or ``ogg``. ``AudioError`` if PyAV is not installed."""
        self._packets: _Packets = _WebM() if container == "webm" else _Ogg()
        self._name = container
        self.waiting = False
        """whether there may be more to read"""
        self._decoder: Callable[[bytes], np.ndarray] | None = None
        try:
            ffmpeg.check_installed()
        except ffmpeg.DecoderMissing as error:
            raise AudioError("opus: needs the package av on the server; run: pip install av") from error

    def feed(self, data: bytes) -> None:
        """Add bytes, cut anywhere."""
        self.waiting = True
        self._packets.buffer += data

    def read(self, most: Samples) -> np.ndarray:
        """The next samples, float32, a packet more than ``most`` of them at most; empty: more bytes are needed.

        ``AudioError`` for bytes that are no such recording.
        """
        found: list[np.ndarray] = []
        count = 0
        try:
            for packet in self._packets:
                wave_S = self._decoded(packet)
                if len(wave_S):
                    found.append(wave_S)
                    count += len(wave_S)
                if count >= most:
                    break
        except (ValueError, ffmpeg.DecodingFailed) as error:
            raise AudioError(f"stream: cannot be read as Opus in {self._name}: {error}") from error
        self.waiting = count >= most
        return np.concatenate(found) if found else np.zeros(0, np.float32)

    def _decoded(self, packet: bytes) -> np.ndarray:
        head = self._packets.head
        if self._decoder is None:
            if len(head) < 19:
                raise ValueError("its Opus header is damaged")
            self._decoder = ffmpeg.opus_decoder(head)
        return self._decoder(packet)


class _Packets(Protocol):
    """Iterates over the Opus packets that ``buffer`` holds, and takes them out of it; ``head`` is OpusHead by then."""

    buffer: bytearray
    head: bytes

    def __iter__(self) -> Iterator[bytes]: ...


class _WebM:
    """The flat walk over EBML elements: containers are entered, known leaves are read, the rest is skipped."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.head = b""
        self._skip = 0
        self._begun = False
        self._track: dict[int, bytes] = {}
        self._number = -1

    def __iter__(self) -> Iterator[bytes]:
        while (element := self._next()) is not None:
            id, body = element
            if id == 0xAE:
                self._track = {}
            elif id in (_TRACK_NUMBER, _CODEC, _CODEC_PRIVATE):
                self._track[id] = body
                self._take_track()
            elif id in (_SIMPLE_BLOCK, _BLOCK):
                number, at = _vint(body, 0, keep_marker=False) or (-1, 0)
                if number != self._number:
                    if self._number < 0:
                        raise ValueError("it has no Opus track; record with audio/webm;codecs=opus")
                    continue
                if len(body) <= at + 3 or body[at + 2] & _LACING:
                    raise ValueError("its blocks are laced")
                yield bytes(body[at + 3 :])

    def _take_track(self) -> None:
        track = self._track
        if track.get(_CODEC) == b"A_OPUS" and _TRACK_NUMBER in track and len(track.get(_CODEC_PRIVATE, b"")) >= 19:
            self._number, self.head = int.from_bytes(track[_TRACK_NUMBER], "big"), track[_CODEC_PRIVATE]

    def _next(self) -> tuple[int, bytes] | None:
        """The next entered container (without a body) or known leaf; None if the buffer does not hold it all."""
        while True:
            if self._skip:
                dropped = min(self._skip, len(self.buffer))
                del self.buffer[:dropped]
                self._skip -= dropped
                if self._skip:
                    return None
            if (first := _vint(self.buffer, 0, keep_marker=True)) is None:
                return None
            id, at = first
            if not self._begun and id != _EBML:
                raise ValueError("it does not begin with the header of WebM")
            if (second := _vint(self.buffer, at, keep_marker=False)) is None:
                return None
            size, at = second
            self._begun = True
            if id in _ENTERED:
                del self.buffer[:at]
                return id, b""
            if size < 0:
                raise ValueError("an element that is no container has no size")
            if id not in (_TRACK_NUMBER, _CODEC, _CODEC_PRIVATE, _SIMPLE_BLOCK, _BLOCK):
                del self.buffer[:at]
                self._skip = size
                continue
            if size > _MOST_BYTES:
                raise ValueError(f"a block of {size} bytes")
            if len(self.buffer) < at + size:
                return None
            body = bytes(self.buffer[at : at + size])
            del self.buffer[: at + size]
            return id, body


def _vint(data: bytes | bytearray, at: int, keep_marker: bool) -> tuple[int, int] | None:
    """An EBML number and the place after it; -1 for an unknown size; None if ``data`` ends within it."""
    if at >= len(data):
        return None
    first = data[at]
    length = 9 - first.bit_length()
    if length > (4 if keep_marker else 8):
        raise ValueError("it is damaged (an element without a valid length)")
    if at + length > len(data):
        return None
    value = int.from_bytes(data[at : at + length], "big")
    if not keep_marker:
        value -= 1 << 7 * length
        if value == (1 << 7 * length) - 1:
            value = -1
    return value, at + length


class _Ogg:
    """The packets of the first Opus stream."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.head = b""
        self._serial = b""
        self._partial = bytearray()
        self._whole: deque[bytes] = deque()

    def __iter__(self) -> Iterator[bytes]:
        while self._whole or self._next_page():
            while self._whole:
                yield self._whole.popleft()

    def _next_page(self) -> bool:
        """Read the packets of a page; False if the buffer does not hold one."""
        page = self._next()
        if page is None:
            return False
        segments, at = page[26], 27 + page[26]
        if page[14:18] != self._serial:
            if self._serial or (page[5] & _BEGINS and not page[at:].startswith(b"OpusHead")):
                return True  # of another stream
            if not page[at:].startswith(b"OpusHead"):
                raise ValueError("it has no Opus stream; record with audio/ogg;codecs=opus")
            self._serial = page[14:18]
        for length in page[27 : 27 + segments]:
            self._partial += page[at : at + length]
            at += length
            if len(self._partial) > _MOST_BYTES:
                raise ValueError("a packet of more than a megabyte")
            if length == 255:
                continue
            packet = bytes(self._partial)
            self._partial.clear()
            if not self.head:
                self.head = packet
            elif not packet.startswith(b"OpusTags"):
                self._whole.append(packet)
        return True

    def _next(self) -> bytes | None:
        """The next whole page; None if the buffer does not hold one."""
        buffer = self.buffer
        if len(buffer) >= 4 and not buffer.startswith(b"OggS"):
            raise ValueError("bytes that are no page of Ogg")
        if len(buffer) < 27 or len(buffer) < 27 + buffer[26]:
            return None
        size = 27 + buffer[26] + sum(buffer[27 : 27 + buffer[26]])
        if len(buffer) < size:
            return None
        page = bytes(buffer[:size])
        del buffer[:size]
        return page
