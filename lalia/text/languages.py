"""What is known about writing languages: scripts, numbers, common words, and how labels are normalised (languages.json)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from lalia.text.codes import name_of

DATA = Path(__file__).with_name("languages.json")


@dataclass(frozen=True)
class Profile:
    """How one language is written. Of a language that the data file lacks, only the code is known."""

    code: str
    name: str = ""
    scripts: tuple[str, ...] = ()
    """names as ``lalia.text.scripts.script_of`` gives them: LATIN, CYRILLIC, CJK, ..."""
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
        name = self.name or name_of(self.code)
        return f"{name} ({self.code})" if name else self.code or "no language"


@cache
def profiles() -> dict[str, Profile]:
    """Every language of the data file by its ISO 639-3 code."""
    stored: dict[str, dict[str, Any]] = json.loads(DATA.read_text(encoding="utf-8"))
    return {code: _profile(code, stored[entry.get("same_as", code)]) for code, entry in stored.items()}


def profile(language: str) -> Profile:
    """The profile of ``language`` (ISO 639-3); an empty one where it is not known."""
    return profiles().get(language) or Profile(language)


def _profile(code: str, entry: dict[str, Any]) -> Profile:
    lists = {name: tuple(value) for name, value in entry.items() if isinstance(value, list)}
    return Profile(code, **{**entry, **lists})
