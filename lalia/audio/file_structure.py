"""The real structure of an audio file: its streams and durations, and the byte ranges that a decoder should read.

Parsers (`riff`, `mpeg`, `flac_frames`, `ogg`) return a `FileStructure`; `reading` decodes its streams. A stream whose header
is wrong becomes a `SplicedFile`: a corrected header followed by ranges of the file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from typing import BinaryIO

from lalia.units import Seconds

Piece = bytes | tuple[int, int]
"""New bytes, or a (start, length) range of the file."""
_MAX_READ_BYTES = 1 << 26


@dataclass(frozen=True)
class AudioFormat:
    """A format by its name, FFmpeg's name of its container, and whether libsndfile reads it."""

    name: str
    container: str
    libsndfile: bool


@dataclass(frozen=True)
class Stream:
    """What one decoder reads: the whole file, or ``pieces`` of it as if they were a file."""

    format: AudioFormat
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class FileStructure:
    """The streams of a file, one after the other, and their durations.

    ``declared_s`` is the duration in the header, ``actual_s`` the duration of the bytes; None where only decoding can tell.
    ``truncation`` is the reason why the end is missing, "" if it is not. ``trailing_bytes`` counts the bytes after the audio,
    too few to be audio.
    """

    streams: tuple[Stream, ...]
    declared_s: Seconds | None = None
    actual_s: Seconds | None = None
    truncation: str = ""
    trailing_bytes: int = 0


class SplicedFile(io.RawIOBase):
    """Ranges of a file and new bytes, joined into one seekable read-only file."""

    def __init__(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        self._file = file
        self._pieces = pieces
        self._starts = [0]
        for piece in pieces:
            self._starts.append(self._starts[-1] + (len(piece) if isinstance(piece, bytes) else piece[1]))
        self._at = 0
        self._number = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._starts[-1]}[whence])
        if not self._starts[self._number] <= self._at:
            self._number = 0
        return self._at

    def readinto(self, into: object) -> int:
        """Read into ``into``, from one piece at most; the number of bytes."""
        buffer = memoryview(into)  # type: ignore[arg-type]
        while self._number < len(self._pieces) and self._at >= self._starts[self._number + 1]:
            self._number += 1
        if self._number == len(self._pieces):
            return 0
        piece, skipped = self._pieces[self._number], self._at - self._starts[self._number]
        count = min(len(buffer), self._starts[self._number + 1] - self._at)
        if isinstance(piece, bytes):
            found = piece[skipped : skipped + count]
        else:
            self._file.seek(piece[0] + skipped)
            found = self._file.read(count)
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


def open_stream(file: BinaryIO, stream: Stream) -> BinaryIO:
    """The file object that a decoder of ``stream`` reads."""
    return io.BufferedReader(SplicedFile(file, stream.pieces), 1 << 16) if stream.pieces else file


def whole_file(file_format: AudioFormat) -> FileStructure:
    """One stream that is the whole file: its headers are right, or nothing else is known."""
    return FileStructure((Stream(file_format),))


def read_or_map(file: BinaryIO, size: int) -> bytes | mmap:
    """The bytes of a file; a large file is memory-mapped."""
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    if size > _MAX_READ_BYTES:
        return mmap(file.fileno(), size, access=ACCESS_READ)
    file.seek(0)
    return file.read()
