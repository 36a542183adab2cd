"""File names: escape what cannot be printed or stored, find a file whose name is composed differently (NFC, NFD)."""

from __future__ import annotations

import contextlib
import os
import re
import unicodedata
from functools import lru_cache
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
"""The folder that holds the package ``lalia``: the git checkout if the install is editable."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029]")


def readable(name: str) -> str:
    """``name`` as text that can be stored and printed.

    Python keeps a byte of a file name that is not UTF-8 as a lone surrogate; it is escaped here: ``mod\\x85.wav``.
    """
    if _SURROGATE.search(name):
        # In a locale other than UTF-8, Python keeps whole letters byte by byte.
        with contextlib.suppress(UnicodeEncodeError):
            name = name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return _SURROGATE.sub(_written_out, name)


def one_line(name: str) -> str:
    """``readable``, with tabs, newlines and other control characters escaped: ``a\\tb.wav``. It fits a table cell."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], readable(name))


def is_utf8(text: str) -> bool:
    """Whether ``text`` can be stored as UTF-8: it holds no lone surrogate."""
    return _SURROGATE.search(text) is None


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def find_path(path: Path) -> Path:
    """``path`` as it is spelled on disk, where an accent may be one character (NFC) or two (NFD); ``path`` itself if not found.

    macOS returns names in NFD; most programs that write tables use NFC.
    """
    if os.path.lexists(path) or str(path).isascii() or path.parent == path:
        return path
    parent = find_path(path.parent)
    try:
        name = _composed(parent, parent.stat().st_mtime_ns).get(unicodedata.normalize("NFC", path.name))
    except (OSError, ValueError):  # not a folder, or not a valid name
        return path
    return path if name is None else parent / name


def is_file(path: Path | str) -> bool:
    """Whether ``path`` is a file; False also for invalid names, such as one that is too long."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib's raises an OSError


@lru_cache(maxsize=64)
def _composed(folder: Path, changed_ns: int) -> dict[str, str]:
    """The names in ``folder`` by their NFC form; ``changed_ns`` (its modification time) is part of the cache's key."""
    return {unicodedata.normalize("NFC", name): name for name in sorted(os.listdir(folder))}  # noqa: PTH208 - names only


def shipped_file(path: str) -> str:
    """``path``, or the file of that relative path in the checkout if the current folder has none."""
    there = CHECKOUT / path
    return str(there) if not Path(path).exists() and there.is_file() else path
