"""Units of writing other than code points: graphemes, and the parts that Hangul syllables are made of."""

from __future__ import annotations

_SYLLABLES = (0xAC00, 0xD7A3)
_JAMO = (0x1100, 0x11FF)
_FIRST, _VOWEL, _LAST = 0x1100, 0x1161, 0x11A7
_VOWELS, _LASTS = 21, 28


def graphemes(text: str) -> list[str]:
    """``text`` cut into Unicode's grapheme clusters (UAX 29): ``ọ̀`` is one. Needs the package ``regex``.

    A mark always stays with its letter; UAX 29 itself cuts before 31 vowel signs and tones of Burmese, Tai Tham and Ahom.
    """
    import regex

    return regex.findall(r"\X\p{M}*", text)


def is_hangul_syllable(character: str) -> bool:
    """Whether ``character`` is a Hangul syllable of the composed block (가 to 힣)."""
    return _SYLLABLES[0] <= ord(character) <= _SYLLABLES[1]


def is_jamo(character: str) -> bool:
    """Whether ``character`` is a conjoining part of a Hangul syllable."""
    return _JAMO[0] <= ord(character) <= _JAMO[1]


def to_jamo(text: str) -> str:
    """Hangul syllables as two or three conjoining parts each; NFC puts them together again. Other letters stay."""
    return "".join(_parts(c) if is_hangul_syllable(c) else c for c in text)


def _parts(syllable: str) -> str:
    number = ord(syllable) - _SYLLABLES[0]
    last = number % _LASTS
    parts = chr(_FIRST + number // (_VOWELS * _LASTS)) + chr(_VOWEL + number // _LASTS % _VOWELS)
    return parts + (chr(_LAST + last) if last else "")
