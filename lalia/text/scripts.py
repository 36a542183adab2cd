"""Scripts written without spaces, where every character is counted and timed on its own."""

from __future__ import annotations

from collections.abc import Iterable

_IDEOGRAPHS = (
    (0x3005, 0x3007),  # iteration mark, zero
    (0x3041, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)


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
