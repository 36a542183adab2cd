"""ISO 639-3: every code with its English name, and the code of several languages that it is a part of (swh of swa).

``iso_639_3.tsv`` is IANA's Language Subtag Registry of 2025-08-25 (CC0), its two letters written as three.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_name("iso_639_3.tsv")


class Code(NamedTuple):
    """What is known of one code."""

    name: str
    part_of: str
    """the macrolanguage, "" where there is none"""


@cache
def codes() -> dict[str, Code]:
    """Every code of the standard; those for private use (qaa to qtz) have no entry."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()[1:]
    return {code: Code(name, part_of) for code, name, part_of in (line.split("\t") for line in lines)}


def is_code(word: str) -> bool:
    """Whether ``word`` is a code of ISO 639-3, those for private use among them."""
    return word in codes() or re.fullmatch(r"q[a-t][a-z]", word) is not None


def name_of(code: str) -> str:
    """The English name, "" where there is none."""
    known = codes().get(code)
    return known.name if known else ""


def codes_named(name: str) -> list[str]:
    """The codes whose name is ``name``, else those whose name has it as a word, in the order of their names."""
    word = name.strip().casefold()
    names = {code: known.name.casefold() for code, known in codes().items()}
    same = [code for code, known in names.items() if known == word]
    if same:  # A macrolanguage and the part of it that has its name are told apart by nobody: the whole.
        return [code for code in same if codes()[code].part_of not in same]
    return sorted(
        (code for code, known in names.items() if word and word in re.findall(r"[^\W\d_]+", known)),
        key=names.__getitem__,
    )


def kin(code: str, among: Collection[str]) -> str | None:
    """Of ``among`` the one code that means ``code`` as well: its macrolanguage, or the only part of it that is there."""
    whole = codes()[code].part_of if code in codes() else ""
    if whole in among:
        return whole or None
    parts = [other for other in among if other in codes() and codes()[other].part_of == code]
    return parts[0] if len(parts) == 1 and code else None
