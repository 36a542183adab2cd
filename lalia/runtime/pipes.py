"""What comes through a pipe, kept in a temporary file while it is needed: audio is read forwards and back."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lalia.exits import UserError

STDIN = "-"
"""What people write for it."""
MOST_BYTES = 4 << 30
"""A pipe may have no end; what is longer is a file first."""
_PIECE_BYTES = 1 << 20


def text_path(argument: str) -> Path:
    """The path of a text that is read once from front to back, for ``type=``; ``-`` is stdin."""
    return Path("/dev/stdin" if argument == STDIN else argument)


def is_pipe(path: Path) -> bool:
    """Whether ``path`` can be read but once: ``-``, or a named pipe, or a socket."""
    if str(path) == STDIN:
        return True
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def called(path: Path) -> str:
    """What messages call ``path``."""
    return "stdin" if str(path) == STDIN else str(path)


@contextmanager
def kept(path: Path) -> Iterator[Path]:
    """``path``, or where it is a pipe a temporary file with all that came through it.

    A ``UserError`` where more than ``MOST_BYTES`` come, or there is no room for them.
    """
    if not is_pipe(path):
        yield path
        return
    if str(path) == STDIN and sys.stdin.isatty():
        raise UserError(
            "stdin: is the terminal; expected audio through a pipe: cat talk.mp3 | lalia transcribe STUDENT -"
        )
    with tempfile.NamedTemporaryFile(prefix="lalia-") as file:
        try:
            if str(path) == STDIN:
                _copy(sys.stdin.buffer, file, path)
            else:
                with path.open("rb") as pipe:
                    _copy(pipe, file, path)
            file.flush()
        except OSError as error:
            where = os.fspath(Path(file.name).parent)
            raise UserError(f"{called(path)}: cannot be kept in {where} ({error.strerror}); set TMPDIR") from error
        yield Path(file.name)


def _copy(pipe: IO[bytes], file: IO[bytes], path: Path) -> None:
    size = 0
    while piece := pipe.read(_PIECE_BYTES):
        size += len(piece)
        if size > MOST_BYTES:
            raise UserError(
                f"{called(path)}: more than {MOST_BYTES >> 30} GB came through the pipe; save it as a file first"
            )
        file.write(piece)
