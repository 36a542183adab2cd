"""The languages of a model, and which of a corpus's languages are therefore meant where nobody says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalia.cards import read_card
from lalia.exits import UserError
from lalia.text.codes import name_of
from lalia.text.language_names import meant
from lalia.text.normaliser import FILE_NAME as NORMALISER
from lalia.text.normaliser import Normaliser

if TYPE_CHECKING:
    from lalia.runtime.student import Student
    from lalia.text.tokens import Tokens

OpenCorpus = Callable[[Path], Any]
FOREIGN = 0.5
"""The share of the words of a text that a student may have no letters for."""
UNKNOWN = "und"
"""The code of clips whose language nobody said."""


def languages_of(card: Mapping[str, Any], normalised_for: str) -> list[str]:
    """The languages of a recogniser or a student by its ``card``, else the one its normaliser is for; none where neither says."""
    for said in (card.get("languages"), card.get("language"), card.get("finetuning", {}).get("languages")):
        if said:
            return [said] if isinstance(said, str) else list(said)
    return [normalised_for] if normalised_for else []


def languages_in(folder: Path) -> list[str]:
    """``languages_of`` the recogniser or student in ``folder``."""
    path = folder / NORMALISER
    return languages_of(read_card(folder), Normaliser.from_json(path).settings.language if path.is_file() else "")


def languages_taken(
    asked: Sequence[str] | None,
    own: Sequence[str],
    there: Collection[str],
    model: Path | str,
    corpus: Path | str,
    *,
    flag: str = "--language",
    unknown: bool = False,
    tell: bool = True,
) -> list[str]:
    """The languages of ``there`` whose clips are meant; none = all of them, as they come.

    ``asked`` is what the user says (codes, locales, names); where that is None, those that are ``own`` to the ``model``,
    and a line on stderr names those that are left out (``tell``). With ``unknown`` clips of no known language are taken as well.
    A ``UserError`` where the corpus has several languages and none is the model's.
    """
    if asked is not None:
        return list(dict.fromkeys(meant(asked, there)))
    names, spoken = ", ".join(sorted(there)), " and ".join(map(_named, own))
    taken = [code for code in dict.fromkeys(meant(own, there)) if code in there]
    if len(there) < 2:
        strange = bool(own) and not taken and UNKNOWN not in there
        taken, told = (
            [],
            f"{model} is of {spoken}, and {corpus} is of {names}: its clips are taken all the same" if strange else "",
        )
    elif not own:
        told = f"{model} does not say its language: clips of {names} are taken ({flag} CODE: one)"
    elif not taken:
        raise UserError(f"{corpus}: holds {names}, and {model} is of {spoken}; say {flag} CODE to take one")
    else:
        taken += [UNKNOWN] if unknown and UNKNOWN in there else []
        left = ", ".join(sorted(set(there) - set(taken)))
        told = f"{model} is of {spoken}: clips of {', '.join(taken)} are taken, not of {left} ({flag} CODE: another)"
        told = told if left else ""
    if told and tell:
        print(f"lalia: {told}", file=sys.stderr)
    return taken


def _named(code: str) -> str:
    return f"{code} ({name_of(code)})" if name_of(code) else code


def labelled_rows(corpus: Any, path: Path, split: str, languages: Sequence[str], limit: int | None) -> list[int]:
    """The labelled clips of a split in ``languages`` (none: all), at most ``limit`` of them, spread evenly; a ``UserError`` where
    there are none."""
    every: list[str | None] = [*languages] or [None]
    rows = sorted(int(row) for code in every for row in corpus.select(split=split, language=code, with_text=True))
    if not rows:
        where = f"split {split}" + (f", language {' and '.join(languages)}" if languages else "")
        raise UserError(f"{path}: has no labelled clips in {where}; see: lalia inspect {path}")
    if limit and limit < len(rows):
        return [rows[i * len(rows) // limit] for i in range(limit)]
    return rows


def check_labels(corpus: Any, path: Path, rows: Sequence[int], student: Student) -> None:
    """Raise a ``UserError`` where most labels hold nothing, or are of an alphabet that the student does not write."""
    texts = [text for row in rows if (text := student.normaliser(corpus.text(row)))]
    if not texts:
        raise UserError(
            f"{path}: none of {len(rows)} labels holds a letter once it is normalised; prepare it with its transcripts"
        )
    words = [word for text in texts for word in text.split()]
    strange = [word for word in words if not _written(word, student.tokens)]
    require_alphabet(str(path), len(strange), len(words), " ".join(strange[:5]))


def require_alphabet(source: str, strange: int, words: int, example: str) -> None:
    """Raise a ``UserError`` where the student has no letters for more than half of the ``words`` of ``source``."""
    if strange > FOREIGN * words:
        raise UserError(
            f"{source}: the student has no letters for {strange:,} of its {words:,} words, such as {example[:60]!r};"
            " is it of another language, or in a wrong encoding?"
        )


def _written(word: str, tokens: Tokens) -> bool:
    try:
        tokens.encode(word)
    except UserError:
        return False
    return True
