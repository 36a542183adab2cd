"""Digits as words, by num2words where it knows the language."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache, lru_cache

from lalia.exits import UserError
from lalia.text.languages import profile
from lalia.text.scripts import script_of

_LONGEST = 12  # Digits of a number that is read as one; a telephone number is read digit by digit.
_CLOSED_UP = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI"}


def spell_numbers(text: str, language: str) -> str:
    """``text`` with its numbers written out as ``language`` (ISO 639-3) says them; as it is where nobody knows how.

    Decimal digits of every script are read. A number with a leading zero or more than 12 digits is spelled digit by digit.
    ``UserError`` where num2words is needed and not installed.
    """
    if not any(map(str.isdecimal, text)):
        return text
    known = profile(language)
    if not known.numbers:
        return text

    def spelled(found: re.Match[str]) -> str:
        whole, fraction, ordinal = found.group("whole"), found.group("fraction"), found.group("ordinal")
        digits = "".join(str(int(c)) for c in whole if c.isdecimal())
        words = _words(digits, known.numbers, ordinal is not None)
        if fraction:
            after = " ".join(_words(str(int(c)), known.numbers, False) for c in fraction)
            words = f"{words} {known.point} {after}" if known.point else f"{words} {after}"
        before, behind = text[: found.start()][-1:], text[found.end() :][:1]
        return f"{' ' if _parts(before, words[0]) else ''}{words}{' ' if _parts(behind, words[-1]) else ''}"

    return _pattern(known.decimal, known.ordinals).sub(spelled, text)


@cache
def _pattern(decimal: str, ordinals: tuple[str, ...]) -> re.Pattern[str]:
    point = re.escape(decimal)
    group = re.escape("." if decimal == "," else ",")
    endings = "|".join(map(re.escape, sorted(ordinals, key=len, reverse=True)))
    ordinal = rf"(?P<ordinal>(?:{endings})(?!\w))?" if ordinals else "(?P<ordinal>(?!))?"
    return re.compile(rf"(?P<whole>\d{{1,3}}(?:{group}\d{{3}})+(?!\d)|\d+)(?:{point}(?P<fraction>\d+))?{ordinal}")


@lru_cache(maxsize=65536)
def _words(digits: str, numbers: str, ordinal: bool) -> str:
    try:
        from num2words import num2words
    except ImportError as error:
        raise UserError(
            "digits are to be spelled out, which num2words does and which is missing; pip install 'lalia[train]', "
            "or write the numbers out in the labels"
        ) from error

    def spell(number: str, kind: str) -> str:
        words = str(num2words(int(number), lang=numbers, to=kind))
        if not words.strip() or any(map(str.isdecimal, words)):
            raise ValueError(words)
        return " ".join(words.split())

    if len(digits) <= _LONGEST and (digits[0] != "0" or len(digits) == 1):
        for kind in ("ordinal", "cardinal") if ordinal else ("cardinal",):
            # Each language of num2words fails in its own way; single digits it can always say.
            with suppress(Exception):
                return spell(digits, kind)
    return " ".join(spell(digit, "cardinal") for digit in digits)


def _parts(neighbour: str, letter: str) -> bool:
    """Whether a space must part a number's words from the letter beside it."""
    return neighbour.isalnum() and not {script_of(neighbour), script_of(letter)} & _CLOSED_UP
