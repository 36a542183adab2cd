"""Scripts: which one a character belongs to, and those written without spaces, whose characters are words of their own."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_IDEOGRAPHS = (
    (0x3005, 0x3007),  # iteration mark, zero
    (0x3041, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)

_WIDTHS = ("FULLWIDTH ", "HALFWIDTH ")
_SHARED = {
    "COMBINING", "MODIFIER", "DOUBLE", "VULGAR", "SUPERSCRIPT", "SUBSCRIPT", "MATHEMATICAL", "DIGIT", "MASCULINE",
    "FEMININE", "MICRO", "KATAKANA-HIRAGANA",
}  # fmt: skip
_TITLES = {"CJK": "Han", "ETHIOPIC": "Ge'ez", "NKO": "N'Ko"}


@lru_cache(maxsize=65536)
def script_of(character: str) -> str:
    """The script of a letter or mark as Unicode names it: LATIN, CYRILLIC, ARABIC, DEVANAGARI, CJK, HANGUL, ETHIOPIC, ...

    ``""`` for what all scripts share: digits, punctuation, combining accents, modifier letters.
    """
    if unicodedata.category(character)[0] not in "LM":
        return ""
    name = unicodedata.name(character, "")
    for width in _WIDTHS:
        name = name.removeprefix(width)
    first = name.split(" ")[0]
    return "" if first in _SHARED else "CJK" if first == "IDEOGRAPHIC" else first


def script_title(script: str) -> str:
    """A script's name as people write it: ``CJK`` is Han, ``ETHIOPIC`` Ge'ez."""
    return _TITLES.get(script, script.capitalize())


def is_ideograph(character: str) -> bool:
    """Whether ``character`` is Han or kana."""
    code = ord(character)
    return any(low <= code <= high for low, high in _IDEOGRAPHS)


def join_words(words: Iterable[str]) -> str:
    """Words as running text: spaces between them, but none between two ideographs."""
    text = ""
    for word in words:
        if text and word and not (is_ideograph(text[-1]) and is_ideograph(word[0])):
            text += " "
        text += word
    return text
