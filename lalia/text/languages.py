"""Language profiles (``languages.json``): scripts, number spelling, frequent words and normaliser settings of each language.

``spell_numbers`` writes digits as words by num2words where it knows the language.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lalia.errors import UserError
from lalia.text.language_codes import language_name
from lalia.text.writing_system import attaches_numbers

# --- What is known about writing languages ---------------------------------------------------------------

DATA = Path(__file__).with_name("languages.json")


@dataclass(frozen=True)
class LanguageProfile:
    """How one language is written. Of a language that the data file lacks, only the code is known."""

    code: str
    name: str = ""
    scripts: tuple[str, ...] = ()
    """names as ``lalia.text.unicode.script_of`` gives them: LATIN, CYRILLIC, CJK, ..."""
    numbers: str = ""
    """the language's name in num2words, which spells its numbers; empty: it does not"""
    point: str = ""
    """the word for the decimal mark"""
    decimal: str = "."
    """the decimal mark; the other of ``.,`` stands between thousands"""
    ordinals: tuple[str, ...] = ()
    """what is written behind the digits of an ordinal: 1st, 1º"""
    normaliser: dict[str, Any] = field(default_factory=dict)
    """settings of the normaliser that differ from its defaults"""
    common: tuple[str, ...] = ()
    """its most frequent words, to notice labels of another language"""

    @property
    def known(self) -> bool:
        return bool(self.name)

    @property
    def title(self) -> str:
        """Its name where there is one, with the code."""
        name = self.name or language_name(self.code)
        return f"{name} ({self.code})" if name else self.code or "no language"


@cache
def profiles() -> dict[str, LanguageProfile]:
    """Every language of the data file by its ISO 639-3 code."""
    stored: dict[str, dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))
    return {code: _profile(code, stored[entry.get("same_as", code)]) for code, entry in stored.items()}


def profile(language: str) -> LanguageProfile:
    """The profile of ``language`` (ISO 639-3); an empty one where it is not known."""
    return profiles().get(language) or LanguageProfile(language)


def _profile(code: str, entry: dict[str, Any]) -> LanguageProfile:
    lists = {name: tuple(value) for name, value in entry.items() if isinstance(value, list)}
    return LanguageProfile(code, **{**entry, **lists})


# --- Digits as words, by num2words where it knows the language -------------------------------------------

_MAX_DIGITS = 12  # Digits of a number that is read as one; a telephone number is read digit by digit.


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
        return f"{' ' if _needs_space(before, words[0]) else ''}{words}{' ' if _needs_space(behind, words[-1]) else ''}"

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

    if len(digits) <= _MAX_DIGITS and (digits[0] != "0" or len(digits) == 1):
        for kind in ("ordinal", "cardinal") if ordinal else ("cardinal",):
            # Each language of num2words fails in its own way; single digits it can always say.
            with suppress(Exception):
                return spell(digits, kind)
    return " ".join(spell(digit, "cardinal") for digit in digits)


def _needs_space(neighbour: str, letter: str) -> bool:
    """Whether a space must part a number's words from the letter beside it."""
    return neighbour.isalnum() and not attaches_numbers(neighbour) and not attaches_numbers(letter)
