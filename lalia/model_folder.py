"""Model folders: find a student, recogniser or encoder in a run, check its files, and match its languages to a corpus.

``find_student`` and ``find_made`` accept a model's folder or the run that made it; ``check_files`` verifies a student by the
hashes in its card; ``languages_taken`` and ``labelled_rows`` choose the clips of a corpus that a model can be scored on;
``doubt`` warns if a student's confidence is low throughout (another language, or unfamiliar speech).
"""

from __future__ import annotations

import hashlib
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lalia.cards import NAME, read_card
from lalia.errors import UserError
from lalia.inputs import identify, wrong_kind
from lalia.text.language_codes import language_name, match_languages
from lalia.text.normaliser import FILE_NAME as NORMALISER
from lalia.text.normaliser import Normaliser

if TYPE_CHECKING:
    from lalia.decoding.decoder import AcousticModel
    from lalia.decoding.greedy import Word
    from lalia.text.tokens import Tokens


# --- Where in a run's folder a student, recogniser or encoder is, and whether a student is whole, by its card's hashes ---

MODEL, TOKENS = "model.onnx", "tokens.txt"
NEEDED = (MODEL, TOKENS, NORMALISER)
STUDENT, RUN = "student", "config.yaml"
"""What a run's folder holds: the student made of its recogniser, and its settings."""


def find_student(folder: Path) -> Path:
    """The student's folder that ``folder`` is, or that is in it where it is a run's; a ``UserError`` says how to make one."""
    inside = folder / STUDENT
    if not (folder / NAME).is_file() and (inside / NAME).is_file():
        return inside
    read_card(folder, STUDENT)
    return folder


def find_made(folder: str, kind: str, flag: str) -> str:
    """The folder of ``kind`` (encoder, recogniser) that ``folder`` is, or that is in it where it is a run's.

    ``UserError``, beginning with ``flag``, where there is no such folder, or the run made nothing of the kind.
    """
    found = identify(folder).kind
    if found == kind or (found == "recogniser" and kind == "encoder"):  # one has an encoder in it
        return folder
    if (Path(folder) / kind / NAME).is_file():
        return str(Path(folder) / kind)
    raise wrong_kind(folder, kind, flag)


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of the files a student is made of, for the fact ``files`` of its card."""
    return {name: _sha256(folder / name) for name in NEEDED}


def check_files(folder: Path, card: Mapping[str, Any]) -> None:
    """Raise a ``UserError`` naming the first file that is missing or is not what the card says."""
    expected = card.get("files")
    if not isinstance(expected, dict) or not set(NEEDED) <= set(expected):
        raise UserError(f"{folder}: its card does not list {', '.join(NEEDED)}; export the student again")
    for name, digest in expected.items():
        path = folder / name
        if path.resolve().parent != folder.resolve():
            raise UserError(f"{folder}: its card lists {name!r}, which lies elsewhere; export the student again")
        if not path.is_file():
            raise UserError(f"{path}: is missing; copy the whole student folder again")
        if _sha256(path) != str(digest).removeprefix("sha256:"):
            size = path.stat().st_size
            raise UserError(
                f"{path}: is not the file the card was written for ({size} bytes; damaged, cut short or of another"
                " student); copy the whole student folder again"
            )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy the whole student folder again") from error
    return digest.hexdigest()


# --- The languages of a model, and which of a corpus's languages are therefore meant where nobody says ---

FOREIGN = 0.5
"""The share of the words of a text that a student may have no letters for."""
UNKNOWN = "und"
"""The code of clips whose language nobody said."""


class LabelledClips(Protocol):
    """Labelled clips by row number, to score on."""

    def id(self, row: int) -> str: ...

    def language(self, row: int) -> str: ...

    def text(self, row: int) -> str: ...

    def wave(self, row: int) -> np.ndarray: ...


class LabelledCorpus(LabelledClips, Protocol):
    """A ``lalia.data.corpus.Corpus``, or several as one, as the light packages see it."""

    card: dict[str, Any]

    @property
    def language_names(self) -> list[str]: ...

    def speaker(self, row: int) -> str: ...

    def numbers(self, name: str) -> np.ndarray: ...

    def select(
        self, split: str | None = None, language: str | None = None, with_text: bool | None = None
    ) -> np.ndarray: ...


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
        return list(dict.fromkeys(match_languages(asked, there)))
    names, spoken = ", ".join(sorted(there)), " and ".join(map(_named, own))
    taken = [code for code in dict.fromkeys(match_languages(own, there)) if code in there]
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
    return f"{code} ({language_name(code)})" if language_name(code) else code


def labelled_rows(
    corpus: LabelledCorpus, path: Path, split: str, languages: Sequence[str], limit: int | None
) -> list[int]:
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


def check_labels(corpus: LabelledCorpus, path: Path, rows: Sequence[int], model: AcousticModel) -> None:
    """Raise a ``UserError`` if no label has a letter, or if ``model`` has no letters for most of their words."""
    texts = [text for row in rows if (text := model.normaliser(corpus.text(row)))]
    if not texts:
        raise UserError(
            f"{path}: none of {len(rows)} labels holds a letter once it is normalised; prepare it with its transcripts"
        )
    words = [word for text in texts for word in text.split()]
    strange = [word for word in words if not _written(word, model.tokens)]
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


# --- Whether a student hears what it was made for --------------------------------------------------------

LEAST_LETTERS = 60
"""On fewer a mean says little; in another language words are not told apart, so words are not counted."""
GREEDY, CALIBRATED = 0.80, 0.45
"""A warning is printed below this mean confidence: of greedy words, and of words from a calibrated beam search."""


def doubtful(words: Sequence[Word], limit: float) -> bool:
    """Whether there are letters enough, and the mean confidence of ``words`` is below ``limit``."""
    return sum(len(word.text) for word in words) >= LEAST_LETTERS and _mean(words) < limit


def doubt(words: Sequence[Word], languages: Sequence[str]) -> str:
    """What to tell a person of ``words`` that are ``doubtful``, heard by a student of ``languages``."""
    own = " or ".join(f"{code} ({language_name(code)})" if language_name(code) else code for code in languages)
    return (
        f"low confidence throughout (mean {_mean(words):.2f}): is it {own or 'the language of this student'}, and speech like "
        "what the student learned from? Most words may be wrong"
    )


def _mean(words: Sequence[Word]) -> float:
    return statistics.fmean(word.confidence for word in words)
