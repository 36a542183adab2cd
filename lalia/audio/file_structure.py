"""What a file really holds, beside what its header promises, and the pieces of it that a decoder should be given."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from typing import BinaryIO

from lalia.units import Seconds

Piece = bytes | tuple[int, int]
"""Bytes that are made up, or (start, length) in the file."""
_MAX_READ_BYTES = 1 << 26


@dataclass(frozen=True)
class AudioFormat:
    """What a file is: for people, and what FFmpeg calls its container; ``libsndfile``: whether that reads it too."""

    name: str
    container: str
    libsndfile: bool


@dataclass(frozen=True)
class Stream:
    """What one decoder reads as one stream: the file as it is, or ``pieces`` of it as if they were a file."""

    format: AudioFormat
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class FileStructure:
    """The streams of a file, one after the other, and how long they are by its bytes.

    ``declared_s`` is the duration in the header, ``actual_s`` the duration of the bytes; None where only decoding can tell.
    ``truncation`` says why the end must be missing ("" where it is not known to be). ``trailing_bytes`` follow the sound
    and are too few to be more of it.
    """

    streams: tuple[Stream, ...]
    declared_s: Seconds | None = None
    actual_s: Seconds | None = None
    truncation: str = ""
    trailing_bytes: int = 0


class SplicedFile(io.RawIOBase):
    """Pieces of a file, and bytes between them, as one file that can be read and sought in."""

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
        """Fill ``into`` from one piece at most."""
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
    """What a decoder of ``stream`` reads."""
    return io.BufferedReader(SplicedFile(file, stream.pieces), 1 << 16) if stream.pieces else file


def whole_file(file_format: AudioFormat) -> FileStructure:
    """A file whose headers are honest, or of which no more is known."""
    return FileStructure((Stream(file_format),))


def read_or_map(file: BinaryIO, size: int) -> bytes | mmap:
    """The bytes of a file, of a large one mapped and not read."""
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    if size > _MAX_READ_BYTES:
        return mmap(file.fileno(), size, access=ACCESS_READ)
    file.seek(0)
    return file.read()
