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
_READ_WHOLE_BYTES = 1 << 26


@dataclass(frozen=True)
class Kind:
    """What a file is: for people, and what FFmpeg calls its container; ``libsndfile``: whether that reads it too."""

    name: str
    container: str
    libsndfile: bool


@dataclass(frozen=True)
class Part:
    """What one decoder reads as one stream: the file as it is, or ``pieces`` of it as if they were a file."""

    kind: Kind
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class Contents:
    """The parts of a file, one after the other, and how long they are by its bytes.

    ``declared_s`` is what the header promises, ``held_s`` what the bytes hold; None: it does not say, or decoding will tell.
    ``cut`` says in words why the end must be missing, ``""`` where it is not known to be. ``stray`` bytes stand behind the
    sound that are too few to be more of it.
    """

    parts: tuple[Part, ...]
    declared_s: Seconds | None = None
    held_s: Seconds | None = None
    cut: str = ""
    stray: int = 0


class View(io.RawIOBase):
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


def as_file(file: BinaryIO, part: Part) -> BinaryIO:
    """What a decoder of ``part`` reads."""
    return io.BufferedReader(View(file, part.pieces), 1 << 16) if part.pieces else file


def untouched(kind: Kind) -> Contents:
    """A file whose headers are honest, or of which no more is known."""
    return Contents((Part(kind),))


def all_bytes(file: BinaryIO, size: int) -> bytes | mmap:
    """The bytes of a file, of a large one mapped and not read."""
    if isinstance(file, io.BytesIO):
        return file.getvalue()
    if size > _READ_WHOLE_BYTES:
        return mmap(file.fileno(), size, access=ACCESS_READ)
    file.seek(0)
    return file.read()
