"""Writing systems: what separates words, which marks are letters, casing, number marks and direction of each language.

The only module that knows how a language is written. ``writing_system`` looks a language up; the result is stored with the
normaliser, and everything that splits, joins, counts or times words asks it. ``cldr_languages.tsv`` is generated from CLDR by
``benchmarks/data/cldr_table.py``; ``orthographies.tsv`` is written by hand and names its source on each line.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from lalia.errors import UserError
from lalia.text.unicode import script_of

CLDR = Path(__file__).with_name("cldr_languages.tsv")
ORTHOGRAPHIES = Path(__file__).with_name("orthographies.tsv")

Units = Literal["words", "syllables", "clusters"]
Casing = Literal["", "turkic", "irish"]
Direction = Literal["ltr", "rtl"]

APOSTROPHES = "'’‘ʼʻʽ`´ˈꞌ′＇"
"""What is typed for an apostrophe or a glottal stop."""

# --- Scripts that put no spaces between words --------------------------------------------------------------

_IDEOGRAPHS = (
    (0x3005, 0x3007),  # iteration mark, zero
    (0x3041, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)
_UNSPACED_SCRIPTS = frozenset(
    [
        "CJK",
        "HIRAGANA",
        "KATAKANA",
        "BOPOMOFO",
        "YI",
        "THAI",
        "LAO",
        "KHMER",
        "MYANMAR",
        "TAI",
        "NEW",
        "JAVANESE",
        "BALINESE",
    ]
)  # as ``script_of`` names them; TAI and NEW are Tai Tham, Tai Le, Tai Viet and New Tai Lue
_UNSPACED_CODES = frozenset(
    ["Hans", "Hant", "Hani", "Jpan", "Hira", "Kana", "Bopo", "Yiii", "Thai", "Laoo", "Khmr", "Mymr", "Lana", "Tale", "Tavt",
     "Talu", "Java", "Bali"]
)  # fmt: skip
_RTL_CODES = frozenset(["Arab", "Aran", "Hebr", "Syrc", "Thaa", "Nkoo", "Adlm", "Rohg", "Mand", "Samr", "Yezi"])
_CODES_OF_SCRIPTS = {
    "LATIN": "Latn", "CYRILLIC": "Cyrl", "ARABIC": "Arab", "HEBREW": "Hebr", "DEVANAGARI": "Deva", "GURMUKHI": "Guru",
    "MONGOLIAN": "Mong", "TIBETAN": "Tibt", "TIFINAGH": "Tfng", "CANADIAN": "Cans", "ADLAM": "Adlm", "NKO": "Nkoo",
    "GREEK": "Grek", "THAI": "Thai", "MYANMAR": "Mymr", "JAVANESE": "Java",
}  # fmt: skip
_WRITINGS_OF_SCRIPTS = {
    **_CODES_OF_SCRIPTS, "LAO": "Laoo", "KHMER": "Khmr", "BALINESE": "Bali", "YI": "Yiii", "CJK": "Hans Hant Hani Jpan Kore",
    "HIRAGANA": "Jpan Hira", "KATAKANA": "Jpan Kana", "BOPOMOFO": "Bopo", "HANGUL": "Kore Hang", "TAI": "Lana Tale Tavt",
    "NEW": "Talu", "BENGALI": "Beng", "GUJARATI": "Gujr", "TAMIL": "Taml", "TELUGU": "Telu", "KANNADA": "Knda",
    "MALAYALAM": "Mlym", "SINHALA": "Sinh", "ORIYA": "Orya", "ETHIOPIC": "Ethi", "ARMENIAN": "Armn", "GEORGIAN": "Geor",
    "CHEROKEE": "Cher",
    "THAANA": "Thaa", "SYRIAC": "Syrc", "VAI": "Vaii", "OL": "Olck", "COPTIC": "Copt", "BUGINESE": "Bugi",
}  # fmt: skip
"""The codes of the writings that use a script, as ``script_of`` names it."""
_TSHEG = "\u0f0b"
_FOLLOWING_VOWELS = frozenset("ะาำๅฯๆະາຳຽໆ")
"""Letters by category that complete a Thai or Lao cluster (Unicode, Thai: 'leading' and 'following' vowels)."""
_LEADING_VOWELS = frozenset("เแโใไເແໂໃໄ")
_STACKERS = frozenset("\u1039\u17d2\u1a60\ua9c0\u1b44")
"""Marks that put the next consonant below: Myanmar virama, Khmer coeng, Tai Tham sakot, Javanese pangkon, Balinese adeg."""
_ASAT = "\u103a"
_LOOKAHEAD = 2
"""A piece is certain when this many pieces follow: a Myanmar consonant joins the syllable before it when asat follows."""


def first_script(text: str) -> str:
    """The script of the first letter of ``text``, as ``script_of`` names it; "" where there is none."""
    return next(filter(None, map(script_of, text)), "")


@lru_cache(maxsize=65536)
def is_ideograph(letter: str) -> bool:
    """Whether ``letter`` is Han or kana, each of which counts as a word."""
    code = ord(letter)
    return any(low <= code <= high for low, high in _IDEOGRAPHS)


@lru_cache(maxsize=65536)
def _stands_alone(letter: str) -> bool:
    """Whether ``letter`` belongs to a script without spaces between words."""
    return is_ideograph(letter) or script_of(letter) in _UNSPACED_SCRIPTS


def attaches_numbers(letter: str) -> bool:
    """Whether a number's words are written without a space beside ``letter``: 3월 is 삼월."""
    return _stands_alone(letter) or script_of(letter) == "HANGUL"


# --- One language's writing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class WritingSystem:
    """How one language is written. The default is that of a language nobody knows: words between spaces."""

    script: str = ""
    """ISO 15924: Latn, Cyrl, Hans, ...; "" where it is unknown"""
    units: Units = "words"
    """words: between spaces | syllables: each ends with ``separator`` | clusters: nothing is written between words, so
    grapheme clusters count and are timed"""
    separator: str = " "
    """what stands between two units: a space, the Tibetan tsheg, or nothing"""
    letters: dict[str, str] = field(default_factory=dict)
    """marks, joiners, signs and digits that are letters here, each with the places where it is one: ``s`` at a word's start,
    ``m`` between letters, ``f`` at its end"""
    apostrophe: str = ""
    """the letter that every kind of apostrophe means: ʼ, ʻ, ׳ or '; "": an apostrophe is no letter"""
    same: dict[str, str] = field(default_factory=dict)
    """other spellings of a letter, and the one that is kept; after casing"""
    casing: Casing = ""
    """turkic: I and ı, İ and i are pairs | irish: the t or n in front of a capital vowel gets a hyphen"""
    decimal: str = "."
    """the decimal mark"""
    group: str = ","
    """what stands between thousands"""
    digits: str = "0"
    """the zero of the language's own digits"""
    direction: Direction = "ltr"

    def __post_init__(self) -> None:
        for name, choices in (("units", Units), ("casing", Casing), ("direction", Direction)):
            if getattr(self, name) not in get_args(choices):
                expected = " or ".join(repr(choice) for choice in get_args(choices))
                raise UserError(f"writing system: {name} is {getattr(self, name)!r}; expected {expected}")
        for letter, places in self.letters.items():
            if not letter or not places or set(places) - set("smf"):
                raise UserError(
                    f"writing system: letter {letter!r} is in places {places!r}; expected some of s, m and f"
                )
        if "" in self.same:
            raise UserError("writing system: same has an empty spelling; remove it")

    @property
    def spaced(self) -> bool:
        """Whether spaces separate words."""
        return self.units == "words"

    @property
    def cutting(self) -> tuple[str, str, bool]:
        """What is the same for writings whose text is cut alike: iPhone은 is one word though its letters are of two."""
        return self.units, self.separator, self.spaced and self.script in _UNSPACED_CODES

    def without_spaces(self) -> WritingSystem:
        """The same writing where a normaliser drops the spaces between words."""
        return replace(self, units="clusters", separator="") if self.spaced else self

    def with_phrases(self) -> WritingSystem:
        """The same writing where a normaliser keeps the spaces between phrases, and words have none."""
        return replace(self, separator=" ") if self.units == "clusters" else self

    def splits(self, symbols: Iterable[str]) -> bool:
        """Whether ``cut`` may find more in a text of ``symbols`` than spaces do."""
        return not self.spaced or any(_stands_alone(letter) for symbol in symbols for letter in symbol)

    def cut(self, text: str) -> list[str]:
        """The words, syllables or clusters of ``text``; a tsheg stays with its syllable. Joined, they are the text again.

        Han and kana characters are words each. Letters and digits of scripts with spaces stay together.
        """
        return [piece for run in text.split() for piece in self._cut_run(run)]

    def count_units(self, text: str) -> list[str]:
        """The pieces of ``cut`` without their separator: what is right or wrong, and counted by error rates."""
        return [self.bare(piece) for piece in self.cut(text) if self.bare(piece)]

    def bare(self, piece: str) -> str:
        """A piece of ``cut`` without the separator at its end."""
        separator = self.part(piece).separator
        return piece.rstrip(separator) if separator.strip() else piece

    def certain(self, pieces: Sequence[str]) -> int:
        """How many of ``pieces``, cut from the beginning of a text that goes on, no later letter changes."""
        certain = max(0, len(pieces) - _LOOKAHEAD)
        for number, piece in enumerate(pieces, start=1):
            if all(map(is_ideograph, piece)) or (self.part(piece).units == "syllables" and number < len(pieces)):
                certain = max(certain, number)
        return certain

    def part(self, text: str) -> WritingSystem:
        """The writing of the letters of ``text``, which are of one script."""
        return self

    def writes(self, text: str) -> bool:
        """Whether the first letter of ``text`` is of this writing's script; True if it has no letter."""
        script = first_script(text)
        return not script or self.script in _WRITINGS_OF_SCRIPTS.get(script, "").split()

    def edge(self, letter: str) -> str:
        """What stands beside a word that begins or ends in ``letter``; "" where words have no edges."""
        own = self.part(letter)
        return "" if own.units == "clusters" or _stands_alone(letter) else own.separator

    def space_between(self, left: str, right: str) -> bool:
        """Whether two words, one that ends in ``left`` and one that begins with ``right``, have a space between them."""
        if (own := self.part(left)) is self.part(right) and own.spaced and own.script in _UNSPACED_CODES:
            return True
        return left != _TSHEG and not (_stands_alone(left) and _stands_alone(right))

    def pause_between(self, left: str, right: str) -> bool:
        """Whether a long pause between two letters is written as a space: also between phrases where a model writes those."""
        return " " in (self.part(left).separator, self.part(right).separator) or self.space_between(left, right)

    def join(self, words: Iterable[str]) -> str:
        """Words as running text: a space between them where one is written."""
        text = ""
        for word in words:
            if text and word and self.space_between(text[-1], word[0]):
                text += " "
            text += word
        return text

    def words_in(self, pieces: Iterable[str]) -> float:
        """About how many words ``pieces`` are: two ideographs count as one, or four letters where nothing separates words."""

        def words(piece: str) -> float:
            if is_ideograph(piece[0]):
                return 0.5
            return 1.0 if self.part(piece).spaced and not _stands_alone(piece[0]) else len(piece) / 4

        return sum(map(words, pieces))

    def _cut_run(self, run: str) -> list[str]:
        if self.units == "syllables":
            return re.findall(f"[^{self.separator}]+{self.separator}*|{self.separator}+", run)
        # A language may put spaces where others of its script do not (Karen).
        alone = is_ideograph if self.spaced and self.script in _UNSPACED_CODES else _stands_alone
        if run.isascii() or not any(map(alone, run)):
            return [run]
        pieces: list[str] = []
        for at, letter in enumerate(run):
            if pieces and _continues(run, at, letter, alone):
                pieces[-1] += letter
            else:
                pieces.append(letter)
        return pieces


def _continues(run: str, at: int, letter: str, alone: Any) -> bool:
    """Whether the letter at ``at`` belongs to the piece of the one before it."""
    before = run[at - 1]
    if unicodedata.category(letter)[0] == "M" or letter in "\u200c\u200d" or letter in _FOLLOWING_VOWELS:
        return True
    if before in _STACKERS or (before in _LEADING_VOWELS and alone(letter)):
        return True
    if run[at + 1 : at + 2] == _ASAT or (
        run[at + 1 : at + 2] in ("\u1037", "\u1038") and run[at + 2 : at + 3] == _ASAT
    ):
        return True
    return not alone(letter) and not alone(_base(run, at))


def _base(run: str, at: int) -> str:
    """The last letter before ``at`` that is no mark."""
    for letter in reversed(run[:at]):
        if unicodedata.category(letter)[0] != "M":
            return letter
    return run[at - 1]


# --- Several languages in one model ------------------------------------------------------------------------


@dataclass(frozen=True)
class MixedWriting(WritingSystem):
    """The writing of a model of several languages: each stretch of a text is that of the first language of its script; in other
    scripts, that of a language nobody knows."""

    others: tuple[WritingSystem, ...] = ()

    @property
    def spaced(self) -> bool:
        """Whether spaces separate words in every language."""
        return all(writing.spaced for writing in self._writings)

    @cached_property
    def _writings(self) -> tuple[WritingSystem, ...]:
        return (_unmixed(self), *self.others)

    @cached_property
    def _by_script(self) -> dict[str, WritingSystem]:
        return {}

    def splits(self, symbols: Iterable[str]) -> bool:
        """Whether ``cut`` may find more in a text of ``symbols`` than spaces do."""
        return any(self.part(letter).splits(letter) for symbol in symbols for letter in symbol)

    def part(self, text: str) -> WritingSystem:
        """The writing of the first letter of ``text`` whose script is known."""
        script = first_script(text)
        if script not in self._by_script:
            found = (writing for writing in self._writings if writing.writes(text))
            self._by_script[script] = next(found, WritingSystem())
        return self._by_script[script]

    def _cut_run(self, run: str) -> list[str]:
        stretches: list[tuple[WritingSystem, str]] = []
        for letter in run:
            own = self.part(letter) if script_of(letter) else None
            if stretches and (own is None or own.cutting == stretches[-1][0].cutting):
                stretches[-1] = (stretches[-1][0], stretches[-1][1] + letter)
            else:
                stretches.append((own or self._writings[0], letter))
        return [piece for writing, stretch in stretches for piece in writing._cut_run(stretch)]


def mixed_writing(writings: Sequence[WritingSystem]) -> WritingSystem:
    """The writing of a model whose languages have ``writings``, the main one first; that one where all are cut alike."""
    if len({writing.cutting for writing in writings}) == 1:
        return writings[0]
    return MixedWriting(**vars(writings[0]), others=tuple(writings[1:]))


def _unmixed(writing: WritingSystem) -> WritingSystem:
    return WritingSystem(**{f.name: getattr(writing, f.name) for f in fields(WritingSystem)})


# --- Every language's writing ------------------------------------------------------------------------------


def writing_system(language: str, script: str = "") -> WritingSystem:
    """The writing of ``language`` (ISO 639-3), in ``script`` (ISO 15924) where it has several; a plain one where unknown."""
    table = _table()
    found = table.get((language, script)) if script else None
    if found is None:
        found = table.get((language, ""), WritingSystem())
        if script and script != found.script:  # facts of the language's other script do not hold in this one
            found = replace(
                _of_script(script), decimal=found.decimal, group=found.group,
                casing=found.casing if script == "Latn" else "",
            )  # fmt: skip
    return found


LABELS_SEEN = 200
"""So many labels tell which of its scripts a language is written in."""


def script_of_texts(texts: Iterable[str]) -> str:
    """The script of most letters of ``texts`` among those that languages are written in beside another one; "" for any other."""
    counts = Counter(script_of(letter) for text in texts for letter in text)
    del counts[""]
    return _CODES_OF_SCRIPTS.get(counts.most_common(1)[0][0], "") if counts else ""


def languages() -> frozenset[str]:
    """The codes whose writing is known."""
    return frozenset(code for code, _ in _table())


def from_stored(stored: Any) -> WritingSystem:
    """The writing system that a JSON object describes; ``UserError`` where it describes none."""
    known = {f.name for f in fields(WritingSystem)}
    if not isinstance(stored, dict) or not set(stored) <= known:
        raise UserError(
            f"writing system: is {stored!r:.80}; expected an object with some of {', '.join(sorted(known))}"
        )
    for name, value in stored.items():
        kind = dict if name in ("letters", "same") else str
        if not isinstance(value, kind):
            raise UserError(f"writing system: {name} is {value!r}; expected {'an object' if kind is dict else 'text'}")
    return WritingSystem(**stored)


def without_letters(writing: WritingSystem) -> WritingSystem:
    """``writing`` for a model made before normalisers stored one: words are cut so, but no letter is written otherwise."""
    separator = "" if writing.units == "syllables" else writing.separator
    units: Units = "clusters" if writing.units == "syllables" else writing.units
    casing: Casing = writing.casing if writing.casing == "turkic" else ""
    return replace(writing, units=units, separator=separator, letters={}, apostrophe="", same={}, casing=casing)


def _of_script(script: str) -> WritingSystem:
    direction: Direction = "rtl" if script in _RTL_CODES else "ltr"
    if script == "Tibt":
        return WritingSystem(script, "syllables", _TSHEG, {_TSHEG: "m"}, same={"\u0f0c": _TSHEG}, direction=direction)
    if script in _UNSPACED_CODES:
        return WritingSystem(script, "clusters", "", direction=direction)
    return WritingSystem(script, direction=direction)


@cache
def _table() -> dict[tuple[str, str], WritingSystem]:
    """Every known writing by language and script; "" is the script that the language is mostly written in."""
    table: dict[tuple[str, str], WritingSystem] = {}
    for row in _rows(CLDR):
        table[row["code"], ""] = replace(
            _of_script(row["script"]), decimal=row["decimal"], group=_unescaped(row["group"]), digits=row["digits"]
        )
    for row in _rows(ORTHOGRAPHIES):
        for code in row["codes"].split():
            language, _, script = code.partition("-")
            known = table.get((language, ""), WritingSystem())
            if script and script != known.script:
                known = replace(_of_script(script), decimal=known.decimal, group=known.group, casing=known.casing)
            table[language, script if (language, "") in table else ""] = _with_orthography(known, row)
    return table


def _with_orthography(known: WritingSystem, row: dict[str, str]) -> WritingSystem:
    changed: dict[str, Any] = {}
    for name in ("units", "casing", "apostrophe"):
        if row[name]:
            changed[name] = row[name]
    for name, mark in (("letters", ":"), ("same", ">")):
        pairs = (_unescaped(pair).rpartition(mark) for pair in row[name].split())
        changed[name] = {**getattr(known, name), **{key: value for key, _, value in pairs}}
    if row["units"] == "words":
        changed["separator"] = " "
    return replace(known, **changed)


def _rows(path: Path) -> list[dict[str, str]]:
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line and not line.startswith("#")]
    names = lines[0].split("\t")
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines[1:]]


def _unescaped(text: str) -> str:
    return re.sub(r"\\u([0-9a-f]{4})", lambda found: chr(int(found[1], 16)), text)
