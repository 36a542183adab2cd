"""Text that was read in the wrong encoding: how to notice it, and how to read it again in the right one."""

from __future__ import annotations

import unicodedata

REPLACEMENT = "\ufffd"
"""What stands where a byte could not be read; the letter is lost."""

_PAGES = ("cp1252", "cp1250", "cp1251")


def mend_encoding(text: str) -> str:
    """``text`` as it was before UTF-8 was read as an 8-bit code page (``cittÃ `` is città); unchanged where it was not.

    Text that was read rightly hardly ever makes UTF-8 when it is written in a code page: each of its letters would have to be
    followed by certain others.
    """
    for _ in range(2):  # Twice over is not rare.
        if text.isascii():
            return text
        mended = next((read for page in _PAGES if (read := _again(text, page)) is not None), None)
        if mended is None or len(mended) >= len(text):
            return text
        text = mended
    return text


def is_unreadable(text: str) -> bool:
    """Whether ``text`` has characters in it that no encoding error can be mended from: lost bytes, control characters."""
    return any(
        c == REPLACEMENT or (unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") and c not in "\t\n\r") for c in text
    )


def _again(text: str, page: str) -> str | None:
    """The bytes of ``text`` in ``page``, read as UTF-8."""
    raw = bytearray()
    for character in text:
        try:
            raw += character.encode(page)
        except UnicodeEncodeError:
            if ord(character) > 0xFF:
                return None
            raw.append(ord(character))  # Five bytes of Windows-1252 stand for nothing and are kept as they are.
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
