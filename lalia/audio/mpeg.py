"""Count the frames of an MP3 file, for files whose Xing, Info or VBRI header is wrong or missing (ISO/IEC 11172-3).

An MP3 file is a sequence of frames; only an optional first one says how many follow. Recorded streams have none, joined files
have that of their first part, and libsndfile trusts it or guesses.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from mmap import mmap

from lalia.audio.file_structure import AudioFormat, FileStructure, Stream, whole_file
from lalia.units import Samples, Seconds

MP3 = AudioFormat("MP3", "mp3", True)
Data = bytes | mmap

_KBPS_MPEG1 = {
    1: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_KBPS_MPEG2 = {
    1: (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    3: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_DECODER_DELAY: Samples = 529
_SYNC = re.compile(rb"\xff[\xe2-\xff][\x10-\xef]")
_MIN_FRAMES = 3
"""Minimum number of consecutive frames that count as audio; fewer may be other bytes that look like a header."""


class _FrameBytes(dict[int, int]):
    """Frame length in bytes by the second and third header byte; 0 for no valid header (ISO/IEC 11172-3, 2.4.1.3)."""

    def __missing__(self, key: int) -> int:
        version, layer = key >> 11 & 3, 4 - (key >> 9 & 3)
        bits, rate_code, padding = key >> 4 & 15, key >> 2 & 3, key >> 1 & 1
        length = 0
        if key >> 13 == 7 and version != 1 and layer != 4 and bits not in (0, 15) and rate_code != 3:
            kbps, rate = (_KBPS_MPEG1 if version == 3 else _KBPS_MPEG2)[layer][bits], _rate(version, rate_code)
            if layer == 1:
                length = (12_000 * kbps // rate + padding) * 4
            else:
                length = (72_000 if layer == 3 and version != 3 else 144_000) * kbps // rate + padding
        self[key] = length
        return length


_FRAME_BYTES = _FrameBytes()


class _FrameBytesOfFormat(dict[int, int]):
    """Frame length in bytes by the whole header; 0 for no valid header of the same format."""

    def __init__(self, form: tuple[int, int, int, int] | None) -> None:
        self._wanted = form

    def __missing__(self, header: int) -> int:
        data = header.to_bytes(4, "big")
        self[header] = length = frame_bytes(data, 0) if _frame_format(data, 0) == self._wanted else 0
        return length


def frame_bytes(data: Data, at: int) -> int:
    """Length in bytes of the MPEG audio frame at ``at``; 0 where none starts there."""
    if at + 4 > len(data) or data[at] != 0xFF:
        return 0
    return _FRAME_BYTES[data[at + 1] << 8 | data[at + 2]]


@dataclass
class FrameRun:
    """Consecutive frames of one layer, rate and number of channels; ``pieces`` are their (start, length) in the file."""

    layer: int
    rate: int
    channels: int
    frame_samples: Samples
    frames: int = 0
    pieces: list[tuple[int, int]] = field(default_factory=list)
    declared_frames: int | None = None
    """frames by its info frame (Xing, Info or VBRI); None where it has none"""
    info_frame: bytes = b""
    """the bytes of its Xing or Info frame"""

    @property
    def duration_s(self) -> Seconds:
        """Of the audio, without the encoder delay and padding that decoders remove."""
        return self._seconds(self.frames)

    @property
    def declared_s(self) -> Seconds | None:
        return None if self.declared_frames is None else self._seconds(self.declared_frames)

    def _seconds(self, frames: int) -> Seconds:
        delay, padding = self.encoder_padding
        removed = delay + _DECODER_DELAY + (max(0, padding - _DECODER_DELAY) if frames == self.declared_frames else 0)
        return max(0, frames * self.frame_samples - removed) / self.rate

    @property
    def encoder_padding(self) -> tuple[Samples, Samples]:
        """Encoder delay and padding in samples, from the LAME tag; 0 without one."""
        at = _lame_tag_at(self.info_frame)
        delays = int.from_bytes(self.info_frame[at + 21 : at + 24], "big") if at else 0
        return delays >> 12, delays & 0xFFF


@dataclass
class FrameScan:
    """Runs of frames, and whether the last frame is truncated."""

    runs: list[FrameRun]
    truncated: bool
    has_junk: bool
    """whether there are other bytes between or after the frames"""


def scan_frames(data: Data, start: int, end: int) -> FrameScan:
    """All frames between bytes ``start`` and ``end``; other bytes are skipped."""
    found = FrameScan([], False, False)
    unpack = struct.Struct(">I").unpack_from
    at = start
    while (begin := _find_run(data, at, end)) is not None:
        found.has_junk |= bool(found.runs)
        at = begin
        while at + 4 <= end and data[at] == 0xFF:  # a run, or the rest of one after other bytes
            form = _frame_format(data, at)
            if form is None or (found.runs and form != _run_format(found.runs[-1]) and not _begins_run(data, at, end)):
                break
            if not found.runs or form != _run_format(found.runs[-1]):
                found.runs.append(FrameRun(*form))
                if len(found.runs) == 1:  # In joined files, players decode later info frames as silence.
                    at = _read_info_frame(data, at, end, found.runs[-1])
            run, first, frames, last = found.runs[-1], at, 0, end - 4
            lengths = _FrameBytesOfFormat(form)
            while at <= last:
                length = lengths[unpack(data, at)[0]]
                if not length:
                    break
                at += length
                frames += 1
            if at > end:
                at, frames, found.truncated = at - length, frames - 1, True
            if frames:
                run.frames += frames
                if run.pieces and sum(run.pieces[-1]) == first:
                    first, _ = run.pieces.pop()
                run.pieces.append((first, at - first))
            if found.truncated or not frames:
                break
        if found.truncated:
            # A frame that seems to pass the end may be a tag that looks like one.
            found.truncated = end - at >= 4 and data[at : at + 3] not in (b"TAG", b"APE", b"LYR", b"ID3")
            break
        at = max(at, begin + 1)
    found.runs = [run for run in found.runs if run.frames]
    found.has_junk |= end > at and bool(found.runs)
    return found


def xing_frame(run: FrameRun) -> bytes:
    """A Xing or Info frame with the right number of frames of ``run``, for decoders that trust it."""
    count = struct.pack(">I", run.frames)
    if run.info_frame and (at := max(run.info_frame.find(b"Xing"), run.info_frame.find(b"Info"))) > 0:
        head = bytearray(run.info_frame)
        (flags,) = struct.unpack(">I", head[at + 4 : at + 8])
        head[at + 8 : at + 12] = count
        if flags & 2:
            length = len(head) + sum(length for _, length in run.pieces)
            head[at + 12 : at + 16] = struct.pack(">I", length & 0xFFFFFFFF)
        encoder = _lame_tag_at(run.info_frame)
        if run.declared_frames != run.frames and encoder:
            # The padding belongs to another end: decoders must remove none here.
            head[encoder + 22] &= 0xF0
            head[encoder + 23] = 0
        return bytes(head)
    version = {1152: 3, 576: 2}[run.frame_samples]
    rates = {_rate(v, code): (v, code) for v in (3, 2, 0) for code in range(3)}
    version, rate_code = rates[run.rate]
    # MPEG version, layer III, no checksum; 128 or 80 kbit/s leave room; plain stereo needs no mode extension.
    header = bytes((0xFF, 0xE0 | version << 3 | 1 << 1 | 1, 9 << 4 | rate_code << 2, 0xC0 if run.channels == 1 else 0))
    side = _side_info_bytes(version, run.channels)
    body = header + bytes(side) + b"Xing" + struct.pack(">I", 1) + count
    return body.ljust(frame_bytes(header, 0), b"\0")


def mpeg_structure(data: Data, start: int, end: int, inside: bool = False) -> FileStructure:
    """The streams of MPEG audio between bytes ``start`` and ``end``; ``inside``: of another container (WAV)."""
    found = scan_frames(data, start, end)
    if not found.runs:
        return whole_file(MP3)
    first = found.runs[0]
    truncation = "its last frame is incomplete" if found.truncated else ""
    if (
        len(found.runs) == 1
        and not (found.has_junk or found.truncated or inside)
        and first.declared_frames == first.frames
    ):
        return whole_file(MP3)
    streams = (Stream(MP3, (*((xing_frame(run),) if run.layer == 3 else ()), *run.pieces)) for run in found.runs)
    return FileStructure(tuple(streams), first.declared_s, sum(run.duration_s for run in found.runs), truncation)


def _lame_tag_at(head: bytes) -> int:
    """The offset of the LAME tag (encoder, delay, padding) in a Xing or Info frame; 0 where it has none."""
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at < 0:
        return 0
    flags = int.from_bytes(head[at + 4 : at + 8], "big")
    encoder = at + 8 + 4 * (flags & 1) + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1)
    return encoder if encoder + 24 <= len(head) else 0


def id3_end(data: Data, at: int = 0) -> int:
    """Where the ID3v2 tag that begins at ``at`` ends; 0 where none begins."""
    head = data[at : at + 10]
    if head[:3] != b"ID3" or len(head) < 10 or any(b & 0x80 for b in head[6:10]):
        return 0
    a, b, c, d = head[6:10]
    return at + 10 + (a << 21 | b << 14 | c << 7 | d)


def _find_run(data: Data, at: int, end: int) -> int | None:
    """Where the next run of frames begins. Tags are skipped, because their pictures may hold bytes like frames."""
    while at < end:
        if tag := id3_end(data, at):
            at = tag
        elif data[at : at + 8] == b"APETAGEX" and at + 16 <= end:
            at += 32 + int.from_bytes(data[at + 12 : at + 16], "little")
        elif data[at : at + 3] == b"TAG":
            at += 128
        else:
            break
    while at < end and (found := _SYNC.search(data, at, end)):
        at = found.start()
        if _begins_run(data, at, end):
            return at
        if (tagged := data.find(b"ID3", at, min(end, at + 3))) >= 0 and (tag := id3_end(data, tagged)):
            at = tag
        else:
            at += 1
    return None


def _begins_run(data: Data, at: int, end: int) -> bool:
    """Whether ``_MIN_FRAMES`` frames of one format follow from ``at`` on; fewer only at the end."""
    form, frames = _frame_format(data, at), 0
    while form is not None and frames < _MIN_FRAMES:
        at += frame_bytes(data, at)
        frames += 1
        if at >= end:
            return at == end
        if frames < _MIN_FRAMES and _frame_format(data, at) != form:
            return False
    return frames == _MIN_FRAMES


def _frame_format(data: Data, at: int) -> tuple[int, int, int, int] | None:
    """Layer, rate, channels and samples of the frame at ``at``."""
    if not frame_bytes(data, at):
        return None
    version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    return layer, _rate(version, data[at + 2] >> 2 & 3), 1 if data[at + 3] >> 6 == 3 else 2, samples


def _run_format(run: FrameRun) -> tuple[int, int, int, int]:
    return run.layer, run.rate, run.channels, run.frame_samples


def _rate(version: int, code: int) -> int:
    return (44_100, 48_000, 32_000)[code] // {3: 1, 2: 2, 0: 4}[version]


def _side_info_bytes(version: int, channels: int) -> int:
    return {(3, 1): 17, (3, 2): 32}.get((version, channels), 9 if channels == 1 else 17)


def _read_info_frame(data: Data, at: int, end: int, run: FrameRun) -> int:
    """Read the info frame at ``at`` into ``run``, if there is one; where the audio begins."""
    length = frame_bytes(data, at)
    if run.layer != 3 or at + length > end:
        return at
    head = bytes(data[at : at + length])
    side = 4 + _side_info_bytes(head[1] >> 3 & 3, run.channels)
    for found in (side, side + 2):  # the second: with a checksum after the header
        if head[found : found + 4] in (b"Xing", b"Info") and len(head) >= found + 12:
            (flags,) = struct.unpack(">I", head[found + 4 : found + 8])
            if flags & 1:
                run.info_frame = head
                (run.declared_frames,) = struct.unpack(">I", head[found + 8 : found + 12])
            return at + length
    if head[36:40] == b"VBRI" and len(head) >= 54:
        (run.declared_frames,) = struct.unpack(">I", head[50:54])
        return at + length
    return at
