"""Find the samples of WAV, RF64, BW64, W64, AIFF, AU, CAF and NIST SPHERE files whose header gives a wrong size.

A recorder that loses power leaves an old size or none, and a program that writes into a pipe does not know the size. The bytes
after the declared end decide: if another chunk begins there, the samples end; if not, they continue.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from lalia.audio.file_structure import AudioFormat, FileStructure, Piece, Stream, read_or_map, whole_file
from lalia.audio.mpeg import Data, mpeg_structure
from lalia.units import Seconds

_MOST_CHUNKS = 10_000
_STREAMING_SIZE = 0x7FFF0000  # Sizes from here on mean "until the file ends" where the file is shorter.
_STREAMING_SIZE_64 = 1 << 62
_NAMES = (
    b"LISTINFObextiXMLaxmlcue factJUNKjunkPAD FLLRsmplinstid3 ID3 PEAKcartumidacidafspDISPlevlminffmt dataSSNDelm1regn"
    b"_PMXSAURLGWVmextlinkchnaCOMTMARKINSTAUTHNAMEANNOAPPL(c) AESDMIDIFVERCOMM"
)
_KNOWN = frozenset(_NAMES[at : at + 4] for at in range(0, len(_NAMES), 4))
_PADDING_BYTES = 1 << 16
_STRAY_BYTES = 4096
"""Up to this many bytes after the samples that are not a chunk are ignored; more are samples that the header does not count."""
_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}
_SPHERE = re.compile(rb"(sample_count|sample_n_bytes|channel_count|sample_rate) -i (\d{1,12})")
_PLAIN_TAGS = (1, 3, 6, 7)
_BLOCK_TAGS = (0x02, 0x11, 0x31)
_MPEG_TAGS = (0x50, 0x55)
_MAX_RIFF_BYTES = 0xFFFF_F000  # Longer files do not fit into 32-bit sizes with their headers.
_W64_TAIL = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


@dataclass
class _SampleData:
    """Where the samples begin, their bytes by the header (None: unknown) and in the file, and other bytes after them."""

    start: int
    declared: int | None
    actual: int
    trailing: int = 0

    @property
    def consistent(self) -> bool:
        return self.declared == self.actual


def wav_structure(file: BinaryIO, file_format: AudioFormat, size: int) -> FileStructure:
    """The streams of WAV, RIFX, RF64, BW64 and W64 files, also of several joined ones."""
    streams: list[Stream] = []
    declared_s: Seconds | None = 0.0
    actual_s: Seconds | None = 0.0
    truncation, at, consistent, trailing = "", 0, True, 0
    data: Data | None = None
    while True:
        file.seek(at)
        head = file.read(24)
        order = ">" if head[:4] == b"RIFX" else "<"
        w64 = head[:4] == b"riff"
        chunks = _w64_chunks(file, at, size) if w64 else _riff_chunks(file, order, at + 12, size)
        form, samples = _wav_samples(file, chunks, order, size, w64)
        if form is None or samples is None or len(form) < 16:
            break
        tag, per_s, block = _codec(form, order)
        last = samples.start + samples.actual
        after = last + (last - at & 1)
        joined = _wav_begins(file, after, size)
        trailing = 0 if joined else samples.trailing
        if tag in _MPEG_TAGS:
            data = read_or_map(file, size) if data is None else data
            found = mpeg_structure(data, samples.start, last, inside=True)
            streams += found.streams
            declared_s, actual_s, truncation, consistent = found.declared_s, found.actual_s, found.truncation, False
        elif per_s:
            actual = samples.actual
            if samples.declared is not None and samples.declared > actual:
                actual -= actual % block  # Decoders pad the last block.
            elif (lacking := -actual % block) and last + lacking <= size and not _is_known(file, last):
                actual, trailing = actual + lacking, max(0, trailing - lacking)
            declared_s = (
                None if declared_s is None or samples.declared is None else declared_s + samples.declared / per_s
            )
            actual_s = None if actual_s is None else actual_s + actual / per_s
            streams.append(Stream(file_format, (_wav_header(form, order, actual), (samples.start, actual))))
            # libsndfile does not read BW64, and decoders look for chunks at even offsets only.
            consistent &= samples.declared == actual and head[:4] != b"BW64" and not samples.start & 1
        else:
            break
        if not joined:
            break
        at, consistent = after, False
    if not streams or consistent:
        return FileStructure((Stream(file_format),), trailing_bytes=trailing)
    return FileStructure(tuple(streams), declared_s, actual_s, truncation, trailing)


def aiff_structure(file: BinaryIO, file_format: AudioFormat, size: int) -> FileStructure:
    """AIFF, and AIFF-C with uncompressed samples."""
    common, samples, at = 0, None, 0
    for name, begin, length, where in _riff_chunks(file, ">", 12, size):
        if name == b"COMM":
            common = where
        elif name == b"SSND":
            file.seek(where)
            offset, at = int.from_bytes(file.read(4), "big"), begin
            declared = length - 8 - offset
            samples = _locate_samples(
                file, where + 8 + offset, declared, size, declared if 0 < length < _STREAMING_SIZE else None
            )
            break
    if not common or samples is None:
        return whole_file(file_format)
    file.seek(common)
    channels, frames, bits = struct.unpack(">HIH", file.read(8))
    rate, packed = _float80(file.read(10)), file.read(4)
    file.seek(8)
    compressed = file.read(4) == b"AIFC" and packed.lower() not in (
        b"none",
        b"sowt",
        b"twos",
        b"fl32",
        b"fl64",
        b"ulaw",
        b"alaw",
    )
    width = channels * (1 if packed.lower() in (b"ulaw", b"alaw") else -(-bits // 8))
    if compressed or not width or not rate:
        return whole_file(file_format)
    actual = samples.actual // width
    if samples.consistent and frames == actual:
        return FileStructure((Stream(file_format),), trailing_bytes=samples.trailing)
    file.seek(0)
    head = bytearray(file.read(at))
    head[common + 2 : common + 6] = struct.pack(">I", actual)
    head[4:8] = struct.pack(">I", at + 16 + samples.actual - 8)
    head += b"SSND" + struct.pack(">III", samples.actual + 8, 0, 0)
    declared = frames if samples.declared is None or frames != actual else samples.declared // width
    return FileStructure(
        (Stream(file_format, (bytes(head), (samples.start, actual * width))),),
        declared / rate if declared else None,
        actual / rate,
    )


def au_structure(file: BinaryIO, file_format: AudioFormat, size: int) -> FileStructure:
    """Sun AU."""
    file.seek(0)
    head = file.read(24)
    if len(head) < 24:
        return whole_file(file_format)
    start, length, encoding, rate, channels = struct.unpack(">IIIII", head[4:])
    width = _AU_BYTES.get(encoding, 0) * channels
    actual = size - start
    if not width or not rate or actual <= 0 or length == actual:
        return whole_file(file_format)
    file.seek(0)
    head = file.read(start)
    pieces: tuple[Piece, ...] = (head[:8] + struct.pack(">I", min(actual, 0xFFFFFFFF)) + head[12:], (start, actual))
    declared_s = None if length >= _STREAMING_SIZE or not length else length / (rate * width)
    return FileStructure((Stream(file_format, pieces),), declared_s, actual / (rate * width))


def caf_structure(file: BinaryIO, file_format: AudioFormat, size: int) -> FileStructure:
    """Apple CAF with uncompressed samples."""
    per_s, at = 0.0, 8
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(44)
        if len(head) < 12:
            break
        name, length = struct.unpack(">4sq", head[:12])
        if name == b"desc" and len(head) >= 44:
            rate, _, _, packet_bytes, packet_frames = struct.unpack(">d4sIII", head[12:36])
            per_s = rate * packet_bytes / packet_frames if packet_frames else 0.0
        if name == b"data":
            samples = _locate_samples(file, at + 16, length - 4, size, None if length < 0 else length - 4)
            if samples.consistent or not per_s > 0 or length == -1:
                return FileStructure((Stream(file_format),), trailing_bytes=samples.trailing)
            file.seek(0)
            pieces = (
                file.read(at + 4) + struct.pack(">q", samples.actual + 4) + bytes(4),
                (samples.start, samples.actual),
            )
            declared_s = None if samples.declared is None else samples.declared / per_s
            return FileStructure((Stream(file_format, pieces),), declared_s, samples.actual / per_s)
        if length < 0:
            break
        at += 12 + length
    return whole_file(file_format)


def sphere_structure(file: BinaryIO, file_format: AudioFormat, size: int) -> FileStructure:
    """NIST SPHERE with uncompressed samples."""
    file.seek(0)
    head = file.read(1 << 14)
    declared = {name: int(value) for name, value in _SPHERE.findall(head)}
    start = int(head[8:16]) if head[8:16].strip().isdigit() else 0
    width = declared.get(b"sample_n_bytes", 0) * declared.get(b"channel_count", 1)
    count, rate = declared.get(b"sample_count", 0), declared.get(b"sample_rate", 0)
    actual = (size - start) // width if width else 0
    if not count or not rate or actual <= 0 or count == actual or not 0 < start <= len(head):
        return whole_file(file_format)
    right = re.sub(rb"(sample_count -i )\d+", rb"\g<1>%d" % actual, head[:start])
    right = right.ljust(start)[:start]  # The padding absorbs a longer or shorter number.
    return FileStructure((Stream(file_format, (right, (start, actual * width))),), count / rate, actual / rate)


def _wav_samples(
    file: BinaryIO, chunks: Iterator[tuple[bytes, int, int, int]], order: str, size: int, w64: bool
) -> tuple[bytes | None, _SampleData | None]:
    """The contents of the ``fmt`` chunk, and the samples; None for what is missing."""
    form, long = None, 0
    for name, _, length, where in chunks:
        if name == b"fmt ":
            file.seek(where)
            form = file.read(min(length, 4096))
        elif name == b"ds64":
            file.seek(where + 8)
            (long,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        elif name == b"data":
            declared = long if length == 0xFFFFFFFF and long else length
            beyond = declared > size - where
            endless = declared >= (_STREAMING_SIZE_64 if long or w64 else _STREAMING_SIZE)
            return form, _locate_samples(file, where, declared, size, None if beyond and endless else declared, w64)
    return form, None


def _locate_samples(
    file: BinaryIO, start: int, declared: int, size: int, promised: int | None, w64: bool = False
) -> _SampleData:
    """The samples from ``start``: to their declared end if another chunk follows there, else to the end of the file."""
    rest = max(0, size - start)
    declared = max(0, declared)
    if declared >= rest:
        return _SampleData(start, rest if declared - rest <= 1 else promised, rest)
    end = start + declared
    if w64:
        file.seek(end + (-end & 7))
        following = file.read(24)
        follows = len(following) < 24 or following[4:16] == _W64_TAIL or following[:4] == b"riff"
        return _sample_extent(start, declared, rest, follows or _is_padding(file, end, size))
    for at in dict.fromkeys((end + (end - start & 1), end)):
        if _chunk_follows(file, at, size):
            return _SampleData(start, declared, declared)
    return _sample_extent(start, declared, rest, False)


def _sample_extent(start: int, declared: int, rest: int, ends: bool) -> _SampleData:
    if not ends and (rest - declared > _STRAY_BYTES or not declared):
        return _SampleData(start, declared or None, rest)  # A size of 0 means unknown, not empty.
    return _SampleData(start, declared, declared, 0 if ends else rest - declared)


def _chunk_follows(file: BinaryIO, at: int, size: int) -> bool:
    """Whether a chunk, a tag, padding or the end of the file is at ``at``."""
    if size - at < 8:
        return True
    file.seek(at)
    head = file.read(8)
    name, little, big = head[:4], int.from_bytes(head[4:], "little"), int.from_bytes(head[4:], "big")
    if name in _KNOWN or name[:3] in (b"TAG", b"ID3") or name in (b"RIFF", b"RF64", b"FORM"):
        return True
    if all(32 <= byte < 127 for byte in name) and min(little, big) <= size - at - 8 + 1:
        return True
    return _is_padding(file, at, size)


def _is_padding(file: BinaryIO, at: int, size: int) -> bool:
    file.seek(at)
    return size - at <= _PADDING_BYTES and not any(file.read(_PADDING_BYTES))


def _wav_begins(file: BinaryIO, at: int, size: int) -> bool:
    """Whether another WAV begins at ``at``."""
    file.seek(at)
    head = file.read(12)
    return size - at >= 44 and head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE"


def _riff_chunks(file: BinaryIO, order: str, at: int, size: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Chunks as (name, start, length, start of contents), also where odd lengths lack their padding byte."""
    for _ in range(_MOST_CHUNKS):
        if at + 8 > size:
            return
        file.seek(at)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        yield name, at, length, at + 8
        after = at + 8 + length
        if length & 1:
            file.seek(after)
            odd = file.read(9)
            if _is_fourcc(odd[:4]) and odd[1:5] not in _KNOWN:
                after -= 1
        at = after + (length & 1)


def _w64_chunks(file: BinaryIO, at: int, size: int) -> Iterator[tuple[bytes, int, int, int]]:
    at += 40
    for _ in range(_MOST_CHUNKS):
        if at + 24 > size:
            return
        file.seek(at)
        name, length = struct.unpack("<4s12xQ", file.read(24))
        yield name, at, max(0, length - 24), at + 24
        at += max(24, length) + (-length & 7)


def _is_known(file: BinaryIO, at: int) -> bool:
    file.seek(at)
    return file.read(4) in _KNOWN


def _is_fourcc(name: bytes) -> bool:
    return len(name) == 4 and all(32 <= byte < 127 for byte in name)


def _wav_header(form: bytes, order: str, length: int) -> bytes:
    """A WAV header for samples of ``length`` bytes; RF64 where they do not fit into 32 bits."""
    chunk = b"fmt " + struct.pack(f"{order}I", len(form)) + form + bytes(len(form) & 1)
    if length < _MAX_RIFF_BYTES:
        body = b"WAVE" + chunk + b"data" + struct.pack(f"{order}I", length)
        return (b"RIFX" if order == ">" else b"RIFF") + struct.pack(f"{order}I", len(body) + length) + body
    body = (
        b"WAVEds64"
        + struct.pack("<IQQQI", 28, length + 36 + len(chunk) + 44, length, 0, 0)
        + chunk
        + b"data\xff\xff\xff\xff"
    )
    return b"RF64\xff\xff\xff\xff" + body


def _codec(form: bytes, order: str) -> tuple[int, float, int]:
    """Format tag (of an extensible header, the one in its GUID), bytes per second, and bytes per block."""
    tag, channels, rate, byte_rate, block, bits = struct.unpack(f"{order}HHIIHH", form[:16])
    if tag == 0xFFFE and len(form) >= 26:
        (tag,) = struct.unpack(f"{order}H", form[24:26])
    if tag in _PLAIN_TAGS:  # Computed, because the byte rate in the header may be wrong.
        width = channels * -(-bits // 8)
        return tag, rate * width, max(1, width)
    if tag in _BLOCK_TAGS and len(form) >= 20 and (samples := struct.unpack(f"{order}H", form[18:20])[0]):
        return tag, rate * block / samples, max(1, block)
    return tag, byte_rate, 1


def _float80(data: bytes) -> float:
    """An 80-bit extended float, as AIFF writes rates."""
    if len(data) < 10:
        return 0.0
    exponent, mantissa = int.from_bytes(data[:2], "big"), int.from_bytes(data[2:], "big")
    return 0.0 if exponent & 0x8000 or exponent > 16_383 + 40 else mantissa * 2.0 ** (exponent - 16_383 - 63)
