"""Detect the format of an audio file by its first bytes (magic numbers and frame headers)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lalia.audio.file_structure import AudioFormat
from lalia.audio.mpeg import frame_bytes, id3_end

HEAD_BYTES = 1 << 16
_SNIFFED_BYTES = 1 << 14
_OTHER_SUFFIXES = frozenset(
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
FRAGMENT = "later piece"
"""A later fragment of a recording made in pieces (MSE, fragmented MP4): the header needed to decode it is in the first."""
_MAX_BLOCK_BYTES = 1 << 16
G722_BYTES_PER_SECOND = 8_000


_MAGIC = (
    (b"fLaC", 0, AudioFormat("FLAC", "flac", True)),
    (b"OggS", 0, AudioFormat("Ogg", "ogg", True)),
    (b"RIFF", 0, AudioFormat("WAV", "wav", True)),
    (b"RIFX", 0, AudioFormat("WAV", "wav", True)),
    (b"RF64", 0, AudioFormat("RF64", "wav", True)),
    (b"BW64", 0, AudioFormat("RF64", "wav", True)),
    (b"riff\x2e\x91\xcf\x11", 0, AudioFormat("W64", "w64", True)),
    (b"FORM", 0, AudioFormat("AIFF", "aiff", True)),
    (b".snd", 0, AudioFormat("AU", "au", True)),
    (b"caff", 0, AudioFormat("CAF", "caf", True)),
    (b"NIST_1A", 0, AudioFormat("NIST SPHERE", "nistsphere", True)),
    (b"Creative Voice File", 0, AudioFormat("VOC", "voc", True)),
    (b"ftyp", 4, AudioFormat("MP4", "mov", False)),
    (b"moov", 4, AudioFormat("MP4", "mov", False)),
    (b"mdat", 4, AudioFormat("MP4", "mov", False)),
    (b"wide", 4, AudioFormat("MP4", "mov", False)),
    (b"moof", 4, AudioFormat(FRAGMENT, "", False)),
    (b"styp", 4, AudioFormat(FRAGMENT, "", False)),
    (b"\x1f\x43\xb6\x75", 0, AudioFormat(FRAGMENT, "", False)),
    (b"\x1aE\xdf\xa3", 0, AudioFormat("WebM", "matroska", False)),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", 0, AudioFormat("WMA", "asf", False)),
    (b"#!AMR", 0, AudioFormat("AMR", "amr", False)),
    (b"\0\0\1\xba", 0, AudioFormat("MPEG-PS", "mpeg", False)),
    (b"FLV\1", 0, AudioFormat("FLV", "flv", False)),
    (b"wvpk", 0, AudioFormat("WavPack", "wv", False)),
    (b"MAC ", 0, AudioFormat("Monkey's Audio", "ape", False)),
    (b"TTA1", 0, AudioFormat("True Audio", "tta", False)),
    (b"ajkg", 0, AudioFormat("Shorten", "shn", False)),
)
_RIFF_FORMS = {b"WAVE": None, b"AVI ": AudioFormat("AVI", "avi", False)}
_PICTURES = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis", b"crx ")


def is_audio(path: Path) -> bool:
    """Whether a file is audio by its first bytes; one short read, so that folders of millions can be searched.

    False for pipes, devices and files that cannot be opened. Documents, pictures and programs are not opened, by their suffix.
    """
    suffix = path.suffix.lower()
    if suffix in _OTHER_SUFFIXES:
        return False
    try:
        if not path.is_file():  # Opening a pipe would block.
            return False
        with path.open("rb", buffering=0) as file:
            head = file.read(_SNIFFED_BYTES)
            return detect_format(head, suffix, os.fstat(file.fileno()).st_size) is not None
    except OSError:
        return False


def detect_format(head: bytes, suffix: str, size: int) -> AudioFormat | None:
    """The format of a file of ``size`` bytes that starts with ``head`` (up to ``HEAD_BYTES``); None where it is not known.

    ``suffix`` (``.g722``) is used only if the bytes match no format: raw G.722 has no header.
    """
    if head[:4] in (b"RIFF", b"RIFX") and head[8:12] not in _RIFF_FORMS:
        return None
    if head[:4] == b"RIFF" and (other := _RIFF_FORMS[head[8:12]]):
        return other
    if head[:4] == b"FORM" and head[8:12] not in (b"AIFF", b"AIFC"):
        return None
    if head[4:8] == b"ftyp" and head[8:12] in _PICTURES:
        return None
    if head[:4] == b"OggS" and len(head) > 5 and not head[5] & 2:
        return AudioFormat(FRAGMENT, "", False)
    for magic, offset, file_format in _MAGIC:
        if head.startswith(magic, offset):
            return file_format
    if _is_webm_blocks(head):
        return AudioFormat(FRAGMENT, "", False)
    for at, packet in ((0, 188), (4, 192)):  # as broadcast, and with the timestamps of camcorders (M2TS)
        if len(head) > at + 4 * packet and set(head[at : at + 5 * packet : packet]) == {0x47}:
            return AudioFormat("MPEG-TS", "mpegts", False)
    start = id3_end(head)
    if start and start >= len(head):  # An ID3 tag with a cover picture is larger than ``head``.
        return AudioFormat("MP3", "mp3", True) if start < size else None
    if head.startswith(b"fLaC", start):
        return AudioFormat("FLAC", "flac", True)
    if _has_frames(head, start, size, frame_bytes):
        return AudioFormat("MP3", "mp3", True)
    if _has_frames(head, start, size, _aac_frame_bytes):
        return AudioFormat("AAC", "aac", False)
    if suffix == ".g722" and head and not _is_text(head):
        return AudioFormat(RAW_G722, "g722", False)
    return None


def _is_webm_blocks(head: bytes) -> bool:
    """Whether ``head`` is a sequence of WebM SimpleBlocks of one track: a fragment that begins within a cluster."""
    at = 0
    for _ in range(3):
        if len(head) < at + 16 or head[at] != 0xA3 or not head[at + 1]:
            return False
        width = 9 - head[at + 1].bit_length()
        length = int.from_bytes(head[at + 1 : at + 1 + width], "big") & (1 << 7 * width) - 1
        if not 4 < length < _MAX_BLOCK_BYTES or head[at + 1 + width] & 0xF0 != 0x80:
            return False
        at += 1 + width + length
    return True


def _has_frames(head: bytes, start: int, size: int, frame_bytes: Callable[[bytes, int], int]) -> bool:
    """Whether three consecutive frames begin within the first 8 kB; fewer only where the file ends before."""
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


def _aac_frame_bytes(head: bytes, at: int) -> int:
    """Length of the ADTS frame at ``at``; 0 when none starts there (ISO/IEC 13818-7, 6.2)."""
    if at + 7 > len(head) or head[at] != 0xFF or head[at + 1] & 0xF6 != 0xF0 or head[at + 2] >> 2 & 15 > 12:
        return 0
    length = (head[at + 3] & 3) << 11 | head[at + 4] << 3 | head[at + 5] >> 5
    return length if length > 7 else 0


def _is_text(head: bytes) -> bool:
    """Whether ``head`` is text (an error page, a Git LFS pointer, a table) and not the bytes of a codec."""
    try:
        text = head[:1024].decode("utf-8", errors="strict" if len(head) <= 1024 else "ignore")
    except UnicodeDecodeError:
        return False
    encoded = len(text.encode("utf-8"))
    return encoded >= min(len(head), 1024) - 3 and all(c.isprintable() or c.isspace() for c in text)
