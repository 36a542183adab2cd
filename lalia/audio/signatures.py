"""Which kind of audio file this is, by its first bytes; and whether it was cut short, by what its headers promise."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

HEAD_BYTES = 1 << 16
_LISTED_BYTES = 1 << 14
_NOT_AUDIO = frozenset(
    f".{suffix}"
    for names in (
        "txt lab tsv csv json jsonl md rst html htm xml yaml yml toml ini log tex pdf doc docx odt xls xlsx ods ppt pptx",
        "eaf textgrid trs cha srt vtt stm ctm rttm scp ltr wrd phn pfsx",
        "jpg jpeg png gif bmp tif tiff webp svg heic ico zip gz bz2 xz zst 7z rar tar tgz deb rpm dmg iso exe dll so",
        "py pyc ipynb c h cpp rs go js css sh bat npy npz pt pth onnx safetensors arrow parquet h5 pkl db sqlite lnk",
    )
    for suffix in names.split()
)

RAW_G722 = "G.722"
G722_BYTES_PER_SECOND = 8_000


@dataclass(frozen=True)
class Kind:
    """What a file is: for people, and what FFmpeg calls its container (empty: libsndfile alone knows it)."""

    name: str
    container: str
    libsndfile: bool


_MAGIC = (
    (b"fLaC", 0, Kind("FLAC", "flac", True)),
    (b"OggS", 0, Kind("Ogg", "ogg", True)),
    (b"RIFF", 0, Kind("WAV", "wav", True)),
    (b"RIFX", 0, Kind("WAV", "wav", True)),
    (b"RF64", 0, Kind("RF64", "wav", True)),
    (b"riff\x2e\x91\xcf\x11", 0, Kind("W64", "w64", True)),
    (b"FORM", 0, Kind("AIFF", "aiff", True)),
    (b".snd", 0, Kind("AU", "au", True)),
    (b"caff", 0, Kind("CAF", "caf", True)),
    (b"NIST_1A", 0, Kind("NIST SPHERE", "nistsphere", True)),
    (b"Creative Voice File", 0, Kind("VOC", "voc", True)),
    (b"ftyp", 4, Kind("MP4", "mov", False)),
    (b"moov", 4, Kind("MP4", "mov", False)),
    (b"\x1aE\xdf\xa3", 0, Kind("WebM", "matroska", False)),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", 0, Kind("WMA", "asf", False)),
    (b"#!AMR", 0, Kind("AMR", "amr", False)),
)
_RIFF_FORMS = {b"WAVE": None, b"AVI ": Kind("AVI", "avi", False)}
_PICTURES = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis", b"crx ")


def is_audio(path: Path) -> bool:
    """Whether a file is audio by its first bytes, whatever it is called; for folders of millions: one short read.

    What cannot be opened, pipes and devices are not. Names that end as documents, pictures and programs do are not opened.
    """
    suffix = path.suffix.lower()
    if suffix in _NOT_AUDIO:
        return False
    try:
        if not path.is_file():  # a pipe would be waited for without end
            return False
        with path.open("rb", buffering=0) as file:
            head = file.read(_LISTED_BYTES)
            return recognise(head, suffix, os.fstat(file.fileno()).st_size) is not None
    except OSError:
        return False


def recognise(head: bytes, suffix: str, size: int) -> Kind | None:
    """The kind of a file that starts with ``head`` (up to ``HEAD_BYTES``); None when it is no audio we know.

    ``suffix`` (``.g722``) is believed only where the bytes cannot tell: raw G.722 has no header.
    """
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] not in _RIFF_FORMS:
        return None
    if head[:4] == b"RIFF" and (other := _RIFF_FORMS[head[8:12]]):
        return other
    if head[:4] == b"FORM" and head[8:12] not in (b"AIFF", b"AIFC"):
        return None
    if head[4:8] == b"ftyp" and head[8:12] in _PICTURES:
        return None
    for magic, offset, kind in _MAGIC:
        if head.startswith(magic, offset):
            return kind
    start = _after_id3(head)
    if start and start >= len(head):  # a tag with a cover picture larger than what we look at
        return Kind("MP3", "mp3", True) if start < size else None
    if head.startswith(b"fLaC", start):
        return Kind("FLAC", "flac", True)
    if _chained(head, start, size, _mpeg_frame_bytes):
        return Kind("MP3", "mp3", True)
    if _chained(head, start, size, _aac_frame_bytes):
        return Kind("AAC", "aac", False)
    if suffix == ".g722" and head and not _is_text(head):
        return Kind(RAW_G722, "g722", False)
    return None


def missing_bytes(file: BinaryIO, kind: Kind, size: int) -> int:
    """How many bytes the file's own headers promise beyond its end; 0 when it is whole, or does not say."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if kind.name == "WAV" and head[:4] == b"RIFF":
        return _missing_from_wav(file, size)
    if kind.name == "Ogg":
        return _missing_from_ogg(file, size)
    if kind.name == "MP3":
        return _missing_from_mp3(head, size)
    return 0


def _missing_from_wav(file: BinaryIO, size: int) -> int:
    at = 12
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"data":
            # Programs that write into a pipe cannot know the length and put 0 or the largest number there.
            streamed = length == 0 or length >= 0x7FFF0000
            return 0 if streamed else max(0, at + 8 + length - size)
        at += 8 + length + (length & 1)
    return max(0, at - size)


def _missing_from_ogg(file: BinaryIO, size: int) -> int:
    """Without its last page, marked as such, an Ogg stream has no known length."""
    file.seek(max(0, size - HEAD_BYTES * 2))
    tail = file.read()
    at = tail.rfind(b"OggS")
    if at < 0 or at + 27 > len(tail):
        return 1
    segments = tail[at + 26]
    table = tail[at + 27 : at + 27 + segments]
    end = at + 27 + segments + sum(table)
    last = tail[at + 5] & 0x04
    return max(0, end - len(tail)) or (0 if last else 1)


def _missing_from_mp3(head: bytes, size: int) -> int:
    start = _after_id3(head)
    at = max(head.find(b"Xing", start, start + 200), head.find(b"Info", start, start + 200))
    if at < 0 or len(head) < at + 16:
        return 0
    (flags,) = struct.unpack(">I", head[at + 4 : at + 8])
    if flags & 3 != 3:
        return 0
    (declared,) = struct.unpack(">I", head[at + 12 : at + 16])
    # Tags may stand before and after, and some encoders leave out the header frame: a frame or two is no loss.
    lost = start + declared - size
    return lost if lost > 4096 else 0


def _after_id3(head: bytes) -> int:
    if head[:3] != b"ID3" or len(head) < 10 or any(b & 0x80 for b in head[6:10]):
        return 0
    a, b, c, d = head[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


def _chained(head: bytes, start: int, size: int, frame_bytes: Callable[[bytes, int], int]) -> bool:
    """Whether three frames in a row stand within the first 8 kB; fewer only where the file ends before that."""
    at = head.find(b"\xff", start, start + 8192)
    while at >= 0:
        frames, position = 0, at
        while frames < 3 and (length := frame_bytes(head, position)):
            frames += 1
            position += length
        if frames == 3 or (frames and at == start and position >= min(size, len(head))):
            return True
        at = head.find(b"\xff", at + 1, start + 8192)
    return False


_MPEG1_KBPS = {
    1: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_MPEG2_KBPS = {
    1: (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    3: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _mpeg_frame_bytes(head: bytes, at: int) -> int:
    """Length of the MPEG audio frame at ``at``; 0 when none starts there (ISO/IEC 11172-3, 2.4.1.3)."""
    if at + 4 > len(head) or head[at] != 0xFF or head[at + 1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[at + 1] >> 3 & 3, 4 - (head[at + 1] >> 1 & 3)
    bits, rate_code, padding = head[at + 2] >> 4, head[at + 2] >> 2 & 3, head[at + 2] >> 1 & 1
    if version == 1 or layer == 4 or bits in (0, 15) or rate_code == 3:
        return 0
    rate = (44100, 48000, 32000)[rate_code] // {3: 1, 2: 2, 0: 4}[version]
    kbps = (_MPEG1_KBPS if version == 3 else _MPEG2_KBPS)[layer][bits]
    if layer == 1:
        return (12_000 * kbps // rate + padding) * 4
    return (72_000 if layer == 3 and version != 3 else 144_000) * kbps // rate + padding


def _aac_frame_bytes(head: bytes, at: int) -> int:
    """Length of the ADTS frame at ``at``; 0 when none starts there (ISO/IEC 13818-7, 6.2)."""
    if at + 7 > len(head) or head[at] != 0xFF or head[at + 1] & 0xF6 != 0xF0 or head[at + 2] >> 2 & 15 > 12:
        return 0
    length = (head[at + 3] & 3) << 11 | head[at + 4] << 3 | head[at + 5] >> 5
    return length if length > 7 else 0


def _is_text(head: bytes) -> bool:
    """Whether this is writing (an error page, a Git LFS pointer, a table) and not the bytes of a codec."""
    try:
        text = head[:1024].decode("utf-8", errors="strict" if len(head) <= 1024 else "ignore")
    except UnicodeDecodeError:
        return False
    encoded = len(text.encode("utf-8"))
    return encoded >= min(len(head), 1024) - 3 and all(c.isprintable() or c.isspace() for c in text)
