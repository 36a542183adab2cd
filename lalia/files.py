"""File names: those that are not UTF-8, or hold a line end, in a readable form; those that a table composes otherwise."""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
"""The folder that the package ``lalia`` is in: the checkout, where the install is an editable one."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")


def readable(name: str) -> str:
    """``name`` as text that can be stored and printed.

    Python keeps a byte of a file name that is not UTF-8 as a lone surrogate; here it is written out, ``mod\\x85.wav``.
    """
    if _SURROGATE.search(name):
        # Where the locale is not UTF-8, whole letters were kept byte by byte.
        with contextlib.suppress(UnicodeEncodeError):
            name = name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return _SURROGATE.sub(_written_out, name)


def one_line(name: str) -> str:
    """``readable``, with tabs, line ends and other control characters written out: ``a\\tb.wav``. It fits a cell of a table."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], readable(name))


def is_utf8(text: str) -> bool:
    """Whether ``text`` can be stored: it holds no byte that was not UTF-8 where it was read, and no half of a character."""
    return _SURROGATE.search(text) is None


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def find_path(path: Path) -> Path:
    """``path`` as it lies on the disk, where an accent may be one character (NFC) or two (NFD); ``path`` where nothing does.

    macOS hands out names in NFD, most programs that write tables use NFC.
    """
    if os.path.lexists(path) or str(path).isascii() or path.parent == path:
        return path
    parent = find_path(path.parent)
    try:
        name = _composed(parent, parent.stat().st_mtime_ns).get(unicodedata.normalize("NFC", path.name))
    except (OSError, ValueError):  # It is no folder, or no name that a folder can have.
        return path
    return path if name is None else parent / name


def is_file(path: Path | str) -> bool:
    """Whether ``path`` is a file; False also for what no file can be called, such as a name that is too long."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib's raises an OSError


@lru_cache(maxsize=64)
def _composed(folder: Path, changed_ns: int) -> dict[str, str]:
    """The names in ``folder``, which was changed at ``changed_ns``, by their NFC form."""
    return {unicodedata.normalize("NFC", name): name for name in sorted(os.listdir(folder))}  # noqa: PTH208 - names only


def shipped_file(path: str) -> str:
    """``path``; the same one in the checkout where it is relative, not in the current folder, and there."""
    there = CHECKOUT / path
    return str(there) if not Path(path).exists() and there.is_file() else path
