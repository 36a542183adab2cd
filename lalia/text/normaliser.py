"""Text normaliser: one for labels, language-model text and scoring, stored with the model."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from lalia.cards import write_text
from lalia.errors import UserError
from lalia.text.languages import profile, spell_numbers

FILE_NAME = "normaliser.json"

Form = Literal["NFC", "NFKC"]
Case = Literal["lower", "upper", "keep"]
Punctuation = Literal["drop", "keep"]
Apostrophes = Literal["inside", "edges", "drop"]
Hyphens = Literal["inside", "drop"]
Spaces = Literal["keep", "drop"]
Digits = Literal["keep", "spell"]

_CHOICES = {
    "form": Form,
    "case": Case,
    "punctuation": Punctuation,
    "apostrophes": Apostrophes,
    "hyphens": Hyphens,
    "spaces": Spaces,
    "digits": Digits,
}
_APOSTROPHES = "'’‘`´′＇"
_HYPHENS = "-‐‑"
_DOTTED_I = {"tur", "azj", "aze", "crh", "gag", "tat"}
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
    """keep: digits are letters like others | spell: written out as words, where num2words knows the language"""
    keep: str = ""
    """Characters that count as letters whatever their category (Catalan ·, Hebrew ״)."""
    drop: str = ""
    """Characters that vanish whatever their category (vowel marks that only some of the labels write)."""
    replace: dict[str, str] = field(default_factory=dict)
    """What is written in place of what, after casing: {"ё": "е"}."""

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

    def describe(self) -> str:
        """The settings that matter, in words, in one line."""
        quotes = {"inside": "' within words", "edges": "' within words and at their ends", "drop": "no '"}
        words = [{"lower": "lower case", "upper": "upper case", "keep": "case as written"}[self.case]]
        words += ["no punctuation" if self.punctuation == "drop" else "punctuation kept", quotes[self.apostrophes]]
        words += ["- within words"] * (self.hyphens == "inside") + ["no spaces"] * (self.spaces == "drop")
        words += ["digits spelled out"] * (self.digits == "spell") + [self.form]
        words += [f"without {len(self.drop)} marks"] * bool(self.drop) + [f"{self.keep} kept"] * bool(self.keep)
        return ", ".join([*words, *(f"{key} becomes {value}" for key, value in self.replace.items())])

    def to_json(self, path: Path | str | None = None) -> str:
        """The settings as JSON text; written to ``path`` as well when one is given."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=2) + "\n"
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
        known = {f.name: f.type for f in fields(cls)}
        if not isinstance(stored, dict) or not set(stored) <= set(known):
            strange = ", ".join(sorted(set(stored) - set(known))) if isinstance(stored, dict) else type(stored).__name__
            raise UserError(f"{path}: holds {strange}; expected normaliser settings ({', '.join(known)})")
        for name, value in stored.items():
            expected = dict if name == "replace" else str
            if not isinstance(value, expected):
                raise UserError(f"{path}: {name} is {value!r}; expected {'an object' if expected is dict else 'text'}")
        return cls(**stored)


def settings_for(language: str, **changes: Any) -> NormaliserSettings:
    """The normaliser's settings for ``language``: the data file's, under ``changes``.

    Digits are spelled out where num2words knows the language.
    """
    known = profile(language)
    digits = {"digits": "spell"} if known.numbers else {}
    return NormaliserSettings(**{"language": language, **digits, **known.normaliser, **changes})


class Normaliser:
    """Callable ``str -> str``. Doing it twice changes nothing more than doing it once.

    Letters, marks and digits of every script stay. Invisible characters (joiners, direction marks, soft hyphens,
    variation selectors, controls) vanish. Punctuation and symbols become spaces, apostrophes and hyphens by setting.
    White space of any kind becomes one space between words.
    """

    def __init__(self, settings: NormaliserSettings | None = None) -> None:
        self.settings = settings = settings or NormaliserSettings()
        self._unseen = _Unseen(settings)
        self._kinds = _Kinds(settings)
        # Patterns over kinds: w letter or digit, m mark, a apostrophe, h hyphen, p other punctuation, space.
        self._kept = []
        if settings.apostrophes != "drop":
            self._kept.append(
                re.compile(r"(?<=[wm])a(?=w)" if settings.apostrophes == "inside" else r"(?<=[wm])a|a(?=w)")
            )
        if settings.hyphens == "inside":
            self._kept.append(re.compile(r"(?<=[wm])h(?=w)"))
        self._replace = [(self._cased(key), self._cased(value)) for key, value in settings.replace.items()]

    def __call__(self, text: str) -> str:
        settings = self.settings
        text = unicodedata.normalize(settings.form, text)
        if settings.digits == "spell":
            text = spell_numbers(text, settings.language)
        text = text.translate(self._unseen)
        text = unicodedata.normalize(settings.form, self._cased(text))
        for key, value in self._replace:
            text = text.replace(key, value)
        if settings.punctuation == "drop":
            text = self._drop_punctuation(text)
        text = ("" if settings.spaces == "drop" else " ").join(text.split())
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
        dotted = self.settings.language in _DOTTED_I
        if self.settings.case == "lower":
            return (text.translate(_DOTTED_LOWER) if dotted else text).lower()
        if self.settings.case == "upper":
            return (text.translate(_DOTTED_UPPER) if dotted else text).upper()
        return text

    def _drop_punctuation(self, text: str) -> str:
        kinds = text.translate(self._kinds)
        # A mark whose letter is gone would sit on a space: it goes as well.
        stray = {i for m in re.finditer(r"(?<![wm])m+", kinds) for i in range(m.start(), m.end())}
        if stray:
            text = "".join(c for i, c in enumerate(text) if i not in stray)
            kinds = "".join(k for i, k in enumerate(kinds) if i not in stray)
        kept = {m.start() for pattern in self._kept for m in pattern.finditer(kinds)}
        out = []
        for i, (character, kind) in enumerate(zip(text, kinds, strict=True)):
            if kind in "wm":
                out.append(character)
            elif i in kept:
                out.append("'" if kind == "a" else "-")
            elif kind != "a" or self.settings.apostrophes != "drop":
                out.append(" ")
        return "".join(out)


class _Unseen(dict[int, "int | str | None"]):
    """Translation table, filled as characters are met: what is invisible or to be dropped vanishes."""

    def __init__(self, settings: NormaliserSettings) -> None:
        self._drop = set(unicodedata.normalize(settings.form, settings.drop))
        self._keep = set(unicodedata.normalize(settings.form, settings.keep))

    def __missing__(self, code: int) -> int | str | None:
        character = chr(code)
        made: int | str | None = code
        if character in self._drop:
            made = None
        elif character.isspace():
            made = " "
        elif character not in self._keep and (
            code in _UNSEEN or unicodedata.category(character) in ("Cc", "Cf", "Cn", "Co", "Cs", "Me")
        ):
            made = None
        self[code] = made
        return made


class _Kinds(dict[int, str]):
    """Translation table, filled as characters are met: one letter for what a character is to the normaliser."""

    def __init__(self, settings: NormaliserSettings) -> None:
        self._keep = set(unicodedata.normalize(settings.form, settings.keep))

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)[0]
        if character in self._keep or category in "LN":
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
