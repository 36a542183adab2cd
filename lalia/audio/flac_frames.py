"""Count the samples of a FLAC file by its last frame, for files whose STREAMINFO is wrong or empty (RFC 9639).

Recorders that stream or lose power leave a total of 0 or a wrong one, and joined files hold several streams.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from lalia.audio.file_structure import AudioFormat, FileStructure, Stream, whole_file
from lalia.audio.mpeg import Data, id3_end

_STREAM_START = b"fLaC\x00\x00\x00\x22"
_HEAD_BYTES = 42
_TAIL_BYTES = 1 << 15
_LARGEST_FRAME_BYTES = 1 << 18
_BLOCK_SIZES = {
    1: 192,
    **{code: 576 << code - 2 for code in range(2, 6)},
    **{code: 256 << code - 8 for code in range(8, 16)},
}


def flac_structure(data: Data, size: int, file_format: AudioFormat) -> FileStructure:
    """The streams of a FLAC file, each with the total samples that its last intact frame gives."""
    begins = [id3_end(data)]
    while (joined := data.find(_STREAM_START, begins[-1] + _HEAD_BYTES)) >= 0:
        begins.append(joined)
    found = [_stream(data, begin, end, file_format) for begin, end in pairwise([*begins, size])]
    if len(found) == 1 and found[0].declared_s == found[0].actual_s:
        return whole_file(file_format)
    declared_s = sum(one.declared_s or 0.0 for one in found[:1]) or None
    actual_s = sum(one.actual_s for one in found if one.actual_s) if all(one.actual_s for one in found) else None
    return FileStructure(
        tuple(stream for one in found for stream in one.streams), declared_s, actual_s, found[-1].truncation
    )


def _stream(data: Data, start: int, end: int, file_format: AudioFormat) -> FileStructure:
    """One stream between bytes ``start`` and ``end``; both durations are None where no more is known."""
    head = data[start : start + _HEAD_BYTES]
    unchanged = (start, end - start)
    if len(head) < _HEAD_BYTES or head[:4] != b"fLaC" or head[4] & 0x7F or not any(head[18:21]):
        return FileStructure((Stream(file_format, (unchanged,)),))
    facts = int.from_bytes(head[18:26], "big")
    rate, total = facts >> 44, facts & (1 << 36) - 1
    block = int.from_bytes(head[8:10], "big") if head[8:10] == head[10:12] else 0  # 0: variable block sizes
    actual, truncation = 0, ""
    begin = start + _HEAD_BYTES
    for tail_bytes in (_TAIL_BYTES, _LARGEST_FRAME_BYTES):
        tail = max(begin, end - tail_bytes)
        ends = _last_frames(data[tail:end], block, total)
        if any(frame.end == total for frame in ends):
            return FileStructure((Stream(file_format, (unchanged,)),), total / rate, total / rate)
        if ends:
            # The last frame is intact where its checksum matches; a tag may follow it.
            actual = ends[0].end if ends[0].intact else ends[0].first
            if not ends[0].intact:
                end, truncation = tail + ends[0].at, "its last frame is incomplete"
            break
    if not actual or not rate:
        return FileStructure((Stream(file_format, (unchanged,)),))
    patched = head[:18] + struct.pack(">Q", facts >> 36 << 36 | actual) + head[26:]
    pieces = (bytes(patched), (begin, end - begin))
    return FileStructure((Stream(file_format, pieces),), total / rate if total else None, actual / rate, truncation)


@dataclass(frozen=True)
class _Frame:
    """A frame at byte ``at`` with the samples from ``first`` to before ``end``; ``intact``: its checksum matches."""

    at: int
    first: int
    end: int
    intact: bool


def _last_frames(tail: bytes, block: int, total: int) -> list[_Frame]:
    """The frames that begin in ``tail``, last first; stops at a frame that ends at sample ``total``."""
    found: list[_Frame] = []
    at = len(tail)
    sync = b"\xff\xf8" if block else b"\xff"
    while (at := tail.rfind(sync, 0, at)) >= 0 and len(found) < 64:
        header = _parse_header(tail, at, block)
        if header is None:
            continue
        first, samples = header
        if first + samples == total:
            return [_Frame(at, first, total, True)]
        found.append(_Frame(at, first, first + samples, not found and _crc_matches(tail[at:])))
    return found


def _parse_header(data: bytes, at: int, fixed: int) -> tuple[int, int] | None:
    """First sample and number of samples by the frame header at ``at``; None where its CRC-8 fails (RFC 9639, section 9.1)."""
    if at + 6 > len(data) or data[at + 1] & 0xFE != 0xF8:
        return None
    size_code, rate_code = data[at + 2] >> 4, data[at + 2] & 15
    if not size_code or rate_code == 15 or data[at + 3] & 1:
        return None
    first_byte, end = data[at + 4], at + 5
    extra = (
        0 if first_byte < 0x80 else 7 - (first_byte ^ 0xFF).bit_length()
    )  # UTF-8-like coding: leading ones, less one
    if extra > 6 or 0x80 <= first_byte < 0xC0 or end + extra + 5 > len(data):
        return None
    number = first_byte if not extra else first_byte & (0x3F >> extra)
    for byte in data[end : end + extra]:
        number = number << 6 | byte & 0x3F
    end += extra
    samples = _BLOCK_SIZES.get(size_code, 0)
    if size_code in (6, 7):
        width = size_code - 5
        samples = int.from_bytes(data[end : end + width], "big") + 1
        end += width
    end += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if end >= len(data) or _crc(data[at:end], 8) != data[end]:
        return None
    variable = data[at + 1] & 1
    if not variable and not fixed:
        return None
    return (number if variable else number * fixed), samples


def _crc_matches(frame: bytes) -> bool:
    """Whether a frame's CRC-16 matches, with or without an ID3v1 tag of 128 bytes after it."""
    for tag_bytes in (0, 128):
        body = frame[: len(frame) - tag_bytes]
        if len(body) > 2 and _crc(body[:-2], 16) == int.from_bytes(body[-2:], "big"):
            return True
    return False


def _crc(data: bytes, bits: int) -> int:
    table, value = _table(bits), 0
    mask = (1 << bits) - 1
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> bits - 8 ^ byte]
    return value


@cache
def _table(bits: int) -> tuple[int, ...]:
    polynomial = {8: 0x07, 16: 0x8005}[bits]
    table = []
    for byte in range(256):
        value = byte << bits - 8
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value >> bits - 1 & 1 else 0)) & (1 << bits) - 1
        table.append(value)
    return tuple(table)
