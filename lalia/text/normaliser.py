"""Text normaliser: one per language for labels, language-model text and scoring, stored with the model."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from lalia.cards import write_text
from lalia.errors import UserError
from lalia.text.language_codes import match_languages
from lalia.text.languages import profile
from lalia.text.number_words import spell_numbers
from lalia.text.spoken_signs import spell_signs
from lalia.text.writing_system import (
    APOSTROPHES,
    WritingSystem,
    from_stored,
    mixed_writing,
    without_letters,
    writing_system,
)

FILE_NAME = "normaliser.json"

Form = Literal["NFC", "NFKC"]
Case = Literal["lower", "upper", "keep"]
Punctuation = Literal["drop", "keep"]
Apostrophes = Literal["inside", "edges", "drop"]
Hyphens = Literal["inside", "drop"]
Spaces = Literal["keep", "drop"]
Digits = Literal["keep", "spell"]
Signs = Literal["drop", "spell"]

_CHOICES = {
    "form": Form,
    "case": Case,
    "punctuation": Punctuation,
    "apostrophes": Apostrophes,
    "hyphens": Hyphens,
    "spaces": Spaces,
    "digits": Digits,
    "signs": Signs,
}
_APOSTROPHES = "'’‘`´′＇"
_HYPHENS = "-‐‑"
_IRISH = re.compile(r"(?<!\w)([tn])(?=[AEIOUÁÉÍÓÚ])")
_DOTTED_LOWER = str.maketrans({"I": "ı", "İ": "i"})
_DOTTED_UPPER = str.maketrans({"i": "İ", "ı": "I"})
# Letters and marks by category, yet invisible: fillers, joiners, variation selectors; and the stretching tatweel.
_UNSEEN = {0x034F, 0x0640, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0}
_UNSEEN.update(range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))


@dataclass(frozen=True)
class NormaliserSettings:
    """What becomes of written text before it is learned or scored. Stored with every model as ``normaliser.json``."""

    language: str = ""
    """ISO 639-3; decides casing where it differs (Turkish dotless i). Empty: none of it."""
    form: Form = "NFC"
    """Unicode form: NFC, or NFKC (which also unfolds ligatures, full-width and presentation forms)."""
    case: Case = "lower"
    """lower | upper | keep"""
    punctuation: Punctuation = "drop"
    """drop: punctuation and symbols become spaces | keep: they stay as written"""
    apostrophes: Apostrophes = "inside"
    """inside: kept between letters (don't, l'ora) | edges: also at a word's ends (po', 'ndrangheta) | drop (dont)"""
    hyphens: Hyphens = "drop"
    """inside: kept between letters (well-known) | drop: a space (well known)"""
    spaces: Spaces = "keep"
    """keep: one between words | drop: none, for languages written without"""
    digits: Digits = "keep"
    """keep: digits are letters like others | spell: written out as words, where ``number_words`` knows the language"""
    signs: Signs = "drop"
    """spell: %, €, & and the like are written out as words where digits are | drop: as other punctuation. Folders made before
    signs were spelled have drop"""
    keep: str = ""
    """Characters that count as letters whatever their category (Catalan ·, Hebrew ״)."""
    drop: str = ""
    """Characters that vanish whatever their category (vowel marks that only some of the labels write)."""
    replace: dict[str, str] = field(default_factory=dict)
    """What is written in place of what, after casing: {"ё": "е"}."""
    numbers: dict[str, str] = field(default_factory=dict)
    """Words by number and sign, where no library knows the language's: {"7": "tosto", "%": "prosento"}."""
    writing: WritingSystem | None = None
    """How the language is written. None, as in folders made before it was stored: words are cut as the language does, and
    none of its marks is a letter."""
    languages: dict[str, NormaliserSettings] = field(default_factory=dict)
    """The other languages of the model by ISO 639-3, each with its own settings and none within them."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                expected = " or ".join(get_args(choices))
                raise UserError(f"normaliser {name} is {getattr(self, name)!r}; expected {expected}")
        for written in self.replace.values():
            for key in self.replace:
                if key in written:
                    raise UserError(f"normaliser replace: {key!r} returns inside {written!r}; that would never end")
        if "" in self.replace:
            raise UserError("normaliser replace: the empty text cannot be replaced; remove that key")
        for code, own in self.languages.items():
            if code != own.language or code in ("", self.language) or own.languages:
                raise UserError(
                    f"normaliser languages: {code!r} holds the settings of {own.language!r}; expected each other language "
                    "once, by its own code"
                )

    def for_language(self, language: str) -> NormaliserSettings:
        """The settings whose first language is ``language``; these where it is no language of theirs."""
        if language not in self.languages:
            return self
        every = {self.language: replace(self, languages={}), **self.languages}
        return replace(every.pop(language), languages=every)

    def system(self) -> WritingSystem:
        """How the normalised text is written."""
        found = self.writing or without_letters(writing_system(self.language))
        return found.without_spaces() if self.spaces == "drop" else found.with_phrases()

    def describe(self) -> str:
        """The settings that matter, in words, in one line."""
        quotes = {"inside": "' within words", "edges": "' within words and at their ends", "drop": "no '"}
        words = [{"lower": "lower case", "upper": "upper case", "keep": "case as written"}[self.case]]
        words += ["no punctuation" if self.punctuation == "drop" else "punctuation kept", quotes[self.apostrophes]]
        words += ["- within words"] * (self.hyphens == "inside") + ["no spaces"] * (self.spaces == "drop")
        words += ["digits and signs spelled out" if self.signs == "spell" else "digits spelled out"] * (
            self.digits == "spell"
        )
        words += [self.form]
        letters = "".join(c for key in self.system().letters for c in key if c.isprintable() and not c.isalnum())
        words += [f"{letters} {'is a letter' if len(letters) == 1 else 'are letters'}"] * bool(letters)
        words += [f"without {len(self.drop)} marks"] * bool(self.drop) + [f"{self.keep} kept"] * bool(self.keep)
        return ", ".join([*words, *(f"{key} becomes {value}" for key, value in self.replace.items())])

    def to_json(self, path: Path | str | None = None) -> str:
        """The settings as JSON text; written to ``path`` as well when one is given."""
        stored = _without_defaults(asdict(self))
        if self.languages:
            stored["languages"] = {code: _without_defaults(own) for code, own in stored["languages"].items()}
        text = json.dumps(stored, ensure_ascii=False, indent=2) + "\n"
        if path is not None:
            write_text(Path(path), text)
        return text

    @classmethod
    def from_json(cls, path: Path | str) -> NormaliserSettings:
        """The settings stored at ``path``; a ``UserError`` where the file is missing, broken or of another kind."""
        path = Path(path)
        try:
            stored: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; expected the normaliser's settings beside the model") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as JSON ({error}); copy or make the folder again") from error
        return cls._from_stored(path, stored)

    @classmethod
    def _from_stored(cls, path: Path, stored: Any) -> NormaliserSettings:
        known = {f.name: f.type for f in fields(cls)}
        if not isinstance(stored, dict) or not set(stored) <= set(known):
            strange = ", ".join(sorted(set(stored) - set(known))) if isinstance(stored, dict) else type(stored).__name__
            raise UserError(f"{path}: holds {strange}; expected normaliser settings ({', '.join(known)})")
        try:
            writing = from_stored(stored.pop("writing")) if "writing" in stored else None
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        for name, value in stored.items():
            expected = dict if name in ("replace", "numbers", "languages") else str
            if not isinstance(value, expected):
                raise UserError(f"{path}: {name} is {value!r}; expected {'an object' if expected is dict else 'text'}")
        others = {code: cls._from_stored(path, own) for code, own in stored.pop("languages", {}).items()}
        return cls(**stored, writing=writing, languages=others)


def _without_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """``stored`` without what older versions cannot read and a model of one language does not need."""
    return {
        name: value for name, value in stored.items()
        if value is not None and (name != "languages" or value) and (name, value) != ("signs", "drop")
    }  # fmt: skip


def settings_for(language: str, script: str = "", **changes: Any) -> NormaliserSettings:
    """The normaliser's settings for ``language`` in ``script`` ("": its usual one): the data files', under ``changes``.

    Digits and signs are spelled out where a library knows the language's numbers.
    """
    known = profile(language)
    digits = {"digits": "spell"} if known.spells else {}
    writing = writing_system(language, script)
    spaces = {"spaces": "drop"} if writing.units == "clusters" else {}
    own = {"language": language, **digits, **spaces, **known.normaliser, "writing": writing, **changes}
    signs = {"signs": "spell"} if own.get("digits") == "spell" else {}
    return NormaliserSettings(**{**signs, **own})


class Normaliser:
    """Callable ``str -> str``. Doing it twice changes nothing more than doing it once.

    Letters, marks and digits of every script stay, and so do the marks and joiners that the writing system calls letters.
    Other invisible characters (direction marks, soft hyphens, variation selectors, controls) vanish. Punctuation and symbols
    become spaces, apostrophes and hyphens by setting. White space of any kind becomes one space between words, or the mark
    that the writing system puts there.
    """

    def __init__(self, settings: NormaliserSettings | None = None) -> None:
        self.settings = settings = settings or NormaliserSettings()
        self.writing = writing = settings.system()
        self._unseen = _Unseen(settings, writing)
        self._kinds = _Kinds(settings, writing)
        # Patterns over kinds: w letter or digit, m mark, l sign that may be a letter, a apostrophe, h hyphen, p other
        # punctuation, space.
        self._kept = []
        if settings.apostrophes != "drop":
            self._kept.append(
                re.compile(r"(?<=[wml])a(?=[wl])" if settings.apostrophes == "inside" else r"(?<=[wml])a|a(?=[wl])")
            )
        if settings.hyphens == "inside":
            self._kept.append(re.compile(r"(?<=[wml])h(?=[wl])"))
        self._apostrophes = dict.fromkeys(map(ord, APOSTROPHES), writing.apostrophe) if writing.apostrophe else {}
        spellings = sorted(writing.same.items(), key=lambda pair: -len(pair[0]))
        self._replace = [
            (self._cased(key), self._cased(value)) for key, value in (*spellings, *settings.replace.items())
        ]
        whole = [re.escape(key) for key in sorted(writing.letters, key=len, reverse=True) if len(key) > 1]
        self._sequences = re.compile("|".join(whole)) if whole else None
        self._separator = "" if settings.spaces == "drop" else writing.separator or " "
        self._for_language: dict[str, Normaliser] = {}

    @property
    def languages(self) -> list[str]:
        """The languages it has rules for, by ISO 639-3; the first is the one it normalises. Empty: no language is named."""
        return [code for code in (self.settings.language, *self.settings.languages) if code]

    @cached_property
    def output_writing(self) -> WritingSystem:
        """How the text of a model is written that has all of ``languages``: each stretch as the first language of its script."""
        return mixed_writing([self.writing, *(own.system() for own in self.settings.languages.values())])

    def for_language(self, language: str) -> Normaliser:
        """The normaliser of ``language``, by the code or name of one of ``languages`` or of its kin; itself for any other."""
        if not self.settings.languages:
            return self
        if language not in self._for_language:
            [code] = match_languages([language], self.languages)
            other = code in self.settings.languages
            self._for_language[language] = Normaliser(self.settings.for_language(code)) if other else self
        return self._for_language[language]

    def for_text(self, text: str) -> Normaliser:
        """The normaliser of the first of ``languages`` whose script ``text`` begins in; itself where there is none."""
        writes = (own for code in self.languages if (own := self.for_language(code)).writing.writes(text))
        return self if self.writing.writes(text) else next(writes, self)

    def __call__(self, text: str) -> str:
        settings = self.settings
        text = unicodedata.normalize(settings.form, text)
        if settings.digits == "spell":
            if settings.signs == "spell":
                text = spell_signs(text, settings.language, self.writing, settings.numbers, settings.keep)
            text = spell_numbers(text, settings.language, self.writing, settings.numbers)
        text = text.translate(self._unseen)
        text = unicodedata.normalize(settings.form, self._cased(text))
        text = text.translate(self._apostrophes)
        for key, value in self._replace:
            text = text.replace(key, value)
        text = self._without_signs(text)
        text = self._separator.join(text.split())
        # Last: what was dropped may have stood between two parts of one letter.
        return unicodedata.normalize(settings.form, text)

    def to_json(self, path: Path | str) -> None:
        """Store the settings at ``path``."""
        self.settings.to_json(path)

    @classmethod
    def from_json(cls, path: Path | str) -> Normaliser:
        """The normaliser whose settings are stored at ``path``; errors as of ``NormaliserSettings.from_json``."""
        return cls(NormaliserSettings.from_json(path))

    def _cased(self, text: str) -> str:
        casing, case = self.writing.casing, self.settings.case
        if case == "lower":
            if casing == "irish":
                text = _IRISH.sub(r"\1-", text)
            return (text.translate(_DOTTED_LOWER) if casing == "turkic" else text).lower()
        if case == "upper":
            return (text.translate(_DOTTED_UPPER) if casing == "turkic" else text).upper()
        return text

    def _without_signs(self, text: str) -> str:
        """``text`` without punctuation, and without the signs that are letters elsewhere in a word than where they stand."""
        drop = self.settings.punctuation == "drop"
        if not drop and not self.writing.letters:
            return text
        kinds = text.translate(self._kinds)
        # A mark whose letter is gone would sit on a space: it goes as well.
        stray = {i for m in re.finditer(r"(?<![wml])m+", kinds) for i in range(m.start(), m.end())} if drop else set()
        if stray:
            text = "".join(c for i, c in enumerate(text) if i not in stray)
            kinds = "".join(k for i, k in enumerate(kinds) if i not in stray)
        kept = {m.start() for pattern in self._kept for m in pattern.finditer(kinds)}
        letters = self._letters(text, kinds)
        out = []
        for i, (character, kind) in enumerate(zip(text, kinds, strict=True)):
            if kind in "wm" or i in letters:
                out.append(character)
            elif kind == "l" and unicodedata.category(character) == "Cf":
                continue
            elif not drop:
                out.append(character)
            elif i in kept:
                out.append("'" if kind == "a" else "-")
            elif kind != "a" or self.settings.apostrophes != "drop":
                out.append(" ")
        return "".join(out)

    def _letters(self, text: str, kinds: str) -> set[int]:
        """The places of the signs that are letters where they stand."""
        places = self.writing.letters
        found = {i for m in self._sequences.finditer(text) for i in range(*m.span())} if self._sequences else set()
        for match in re.finditer("l", kinds):
            at = match.start()
            before = at > 0 and (kinds[at - 1] in "wm" or at - 1 in found)
            behind = kinds[at + 1 : at + 2] in ("w", "m")
            place = ("m" if behind else "f") if before else "s" if behind else ""
            if place and place in places.get(text[at], ""):
                found.add(at)
        return found


class _Unseen(dict[int, "int | str | None"]):
    """Translation table, filled as characters are met: what is invisible or to be dropped vanishes."""

    def __init__(self, settings: NormaliserSettings, writing: WritingSystem) -> None:
        self._drop = set(unicodedata.normalize(settings.form, settings.drop))
        self._keep = set(unicodedata.normalize(settings.form, settings.keep)).union(*writing.letters, *writing.same)
        self._separator = writing.separator

    def __missing__(self, code: int) -> int | str | None:
        character = chr(code)
        made: int | str | None = code
        if character in self._drop:
            made = None
        elif character.isspace() or character == self._separator:
            made = " "
        elif character not in self._keep and (
            code in _UNSEEN or unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Me")
        ):
            made = None
        self[code] = made
        return made


class _Kinds(dict[int, str]):
    """Translation table, filled as characters are met: one letter for what a character is to the normaliser."""

    def __init__(self, settings: NormaliserSettings, writing: WritingSystem) -> None:
        self._keep = set(unicodedata.normalize(settings.form, settings.keep))
        self._letters = {
            c for key in writing.letters for c in key if not c.isalnum() or writing.letters.get(c, "smf") != "smf"
        }
        self._letters = {c for c in self._letters if unicodedata.category(c)[0] != "M"}
        # What an other spelling needs may be invisible, and vanishes where it was none.
        self._letters.update(c for key in writing.same for c in key if unicodedata.category(c) == "Cf")

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)[0]
        if character in self._letters:
            kind = "l"
        elif character in self._keep or category in "LN":
            kind = "w"
        elif category == "M":
            kind = "m"
        elif character in _APOSTROPHES:
            kind = "a"
        elif character in _HYPHENS:
            kind = "h"
        else:
            kind = " " if character == " " else "p"
        self[code] = kind
        return kind
