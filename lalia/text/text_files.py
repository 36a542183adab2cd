"""Text files in UTF-8 or UTF-16, plain or gzipped; for other encodings the error names the command that converts them."""

from __future__ import annotations

import gzip
import re
import zlib
from functools import lru_cache
from pathlib import Path

from lalia.errors import UserError

_GZIP = b"\x1f\x8b"
_SNIFFED_BYTES = 1 << 16


def read_lines(path: Path, limit: int | None = None) -> list[bytes]:
    """The lines of a text file as UTF-8, where it is UTF-8 or UTF-16; ``UserError`` where it cannot be read.

    With a ``limit`` those of about its first bytes.
    """
    lines = _read(path, limit).splitlines()
    return lines[:-1] if limit is not None and len(lines) > 1 and path.stat().st_size > limit else lines


def read_unicode(path: Path) -> str:
    """The text of a file in UTF-8 or UTF-16, without its byte-order mark; ``UserError`` where it is neither."""
    data = _read(path)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 ({error.reason}); convert it: {iconv_command(path)}") from error


def first_line(path: Path) -> str:
    """The first line of a text file, for those that are known by it; "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.readline(1 << 16)
            wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
            text = (data + file.read(1)).decode("utf-16", "replace") if wide else data.decode("utf-8-sig", "replace")
    except OSError:
        return ""
    return text.rstrip("\r\n")


@lru_cache(maxsize=64)
def iconv_command(path: Path) -> str:
    """The command that converts a text file which is not UTF-8, with the encoding that its bytes look like."""
    return f"iconv -f {guess_encoding(_read(path))} -t utf-8"


def guess_encoding(data: bytes) -> str:
    """What iconv calls the encoding of ``data``, which is not UTF-8, as far as its bytes tell.

    Between ASCII letters single high bytes are accents of a Latin alphabet; runs of them are letters of another one.
    """
    runs = re.findall(rb"[\x80-\xff]+", data)
    high = b"".join(runs)
    if not high:
        return "latin1"

    def share(first: int, last: int) -> float:
        return sum(first <= byte <= last for byte in high) / len(high)

    if len(high) < 2 * len(runs):
        return "cp1252" if share(0x80, 0x9F) else "latin1"
    if share(0xE0, 0xFF) > 0.6:
        return "cp1251"
    if share(0xC0, 0xDF) > 0.6:
        return "koi8-r"
    if share(0x81, 0x83) > 0.25:
        return "shift_jis"
    return "gb18030" if share(0xA1, 0xF7) > 0.7 else "latin1"


def _read(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a text file, decompressed, and as UTF-8 where they are UTF-16."""
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == _GZIP
        with gzip.open(path) if compressed else path.open("rb") as file:
            data: bytes = file.read(-1 if limit is None else limit)
    except (OSError, EOFError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({why}); expected a text file") from error
    if form := utf_16_variant(data):
        data = data.decode(form, "replace").encode()
    return data.removeprefix(b"\xef\xbb\xbf")


def utf_16_variant(data: bytes) -> str:
    """Which UTF-16 ``data`` is, also without a byte-order mark where every second byte is null; "" where it is none."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    even, odd = data[0:_SNIFFED_BYTES:2], data[1:_SNIFFED_BYTES:2]
    if odd and odd.count(0) > 0.4 * len(odd) and even.count(0) < 0.1 * len(even):
        return "utf-16-le"
    if odd and even.count(0) > 0.4 * len(even) and odd.count(0) < 0.1 * len(odd):
        return "utf-16-be"
    return ""
