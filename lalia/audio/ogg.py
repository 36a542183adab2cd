"""Parse the pages of an Ogg file (RFC 3533): chained and multiplexed streams, and missing, early or broken ends.

Decoders stop at the first end-of-stream flag; `ogg_structure` returns each link of a chain as a stream with one such flag,
on its last page.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

from lalia.audio.file_structure import AudioFormat, FileStructure, Piece, Stream, whole_file
from lalia.audio.mpeg import Data

_BOS, _EOS = 0x02, 0x04
_MAX_STREAMS = 64  # Multiplexed; more are treated as an attack.
_CODECS = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ", b"fLaC", b"PCM     ")


@dataclass
class _LogicalStream:
    """One logical stream: its pages as (start, length, flags), and whether it is audio."""

    serial: int
    is_audio: bool
    pages: list[tuple[int, int, int]] = field(default_factory=list)
    has_gaps: bool = False
    """whether there are other bytes between its pages"""


def ogg_structure(data: Data, size: int, file_format: AudioFormat) -> FileStructure:
    """The streams of an Ogg file: the first audio stream of each link of a chain."""
    links: list[list[_LogicalStream]] = []
    fresh, end = True, 0
    for start, length, flags, serial in _pages(data, size):
        link = links[-1] if links else []
        stream = next((found for found in link if found.serial == serial), None)
        if flags & _BOS and (stream is None or len(stream.pages) > 0):
            if not links or not fresh:  # Streams that begin together are multiplexed; later ones are chained.
                links.append([])
            body = start + 27 + data[start + 26]
            if len(links[-1]) == _MAX_STREAMS:
                return whole_file(file_format)
            links[-1].append(stream := _LogicalStream(serial, data[body : body + 8].startswith(_CODECS)))
            fresh = True
        else:
            fresh = False
        if stream is None:
            continue  # a page of a stream without a first page
        stream.has_gaps |= bool(stream.pages) and start != end
        stream.pages.append((start, length, flags))
        end = start + length
    chosen = [next((stream for stream in link if stream.is_audio), None) for link in links]
    streams = [stream for stream in chosen if stream is not None and len(stream.pages) > 1]
    if not streams:
        return whole_file(file_format)
    truncation = "" if _ends_on_page(data, end, size) else "its last page is incomplete"
    first = streams[0]
    ends = [number for number, (_, _, flags) in enumerate(first.pages, 1) if flags & _EOS]
    if len(links) == len(links[0]) == 1 and not truncation and not first.has_gaps and ends == [len(first.pages)]:
        return whole_file(file_format)
    return FileStructure(
        tuple(Stream(file_format, tuple(_pieces(data, stream))) for stream in streams), truncation=truncation
    )


def _pages(data: Data, size: int) -> Iterator[tuple[int, int, int, int]]:
    """Complete pages as (start, length, flags, serial number); other bytes are skipped."""
    at = 0
    while at + 27 <= size:
        if data[at : at + 4] != b"OggS":
            at = data.find(b"OggS", at + 1)
            if at < 0:
                return
            continue
        segments = data[at + 26]
        length = 27 + segments + sum(data[at + 27 : at + 27 + segments])
        if data[at + 4] or at + length > size:  # of another version, or truncated
            at += 4
            continue
        yield at, length, data[at + 5], int.from_bytes(data[at + 14 : at + 18], "little")
        at += length


def _ends_on_page(data: Data, end: int, size: int) -> bool:
    """Whether no incomplete page follows the last complete one."""
    return size - end < 4 or data[end : end + 4] != b"OggS"


def _pieces(data: Data, stream: _LogicalStream) -> Iterator[Piece]:
    """The pages of a stream, with the end-of-stream flag on the last page only."""
    begin, end = stream.pages[0][0], stream.pages[0][0]
    for number, (start, length, flags) in enumerate(stream.pages):
        right = flags | _EOS if number == len(stream.pages) - 1 else flags & ~_EOS
        if right == flags and start == end:
            end += length
            continue
        if end > begin:
            yield begin, end - begin
        begin, end = start, start + length
        if right != flags:
            yield _with_flags(bytes(data[start:end]), right)
            begin = end
    if end > begin:
        yield begin, end - begin


def _with_flags(page: bytes, flags: int) -> bytes:
    """``page`` with other ``flags`` and the checksum for them."""
    bare = page[:5] + bytes((flags,)) + page[6:22] + bytes(4) + page[26:]
    checksum, table = 0, _table()
    for byte in bare:
        checksum = (checksum << 8 & 0xFFFFFFFF) ^ table[checksum >> 24 ^ byte]
    return bare[:22] + struct.pack("<I", checksum) + bare[26:]


@cache
def _table() -> tuple[int, ...]:
    """The CRC-32 table of page checksums (RFC 3533, section 6)."""
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(value)
    return tuple(table)
