"""Language profiles (``languages.json``): scripts, number spelling, frequent words and normaliser settings of each language."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lalia.text.language_codes import language_name

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
    by_thousands: bool = False
    """num2words has no words for thousands with a rest; both are said one after the other"""
    cldr_numbers: str = ""
    """the language's name in CLDR, whose rules spell its numbers where num2words does not; with ``<100000`` those below"""
    number_repairs: dict[str, str] = field(default_factory=dict)
    """what the library spells wrong, and the right spelling"""
    digit_by_digit: str = ""
    """characters behind a number of four digits that is read digit by digit: 1984年"""
    point: str = ""
    """the word for the decimal mark"""
    decimals: bool = False
    """num2words has its decimals as they are said: три целых пять десятых"""
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
    def spells(self) -> bool:
        """Whether its numbers can be written out."""
        return bool(self.numbers or self.cldr_numbers)

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
