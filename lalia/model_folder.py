"""Model folders: find a student, recogniser or encoder in a run, check its files, and match its languages to a corpus.

``find_exported`` and ``find_made`` accept a model's folder or the run that made it; ``check_files`` verifies a student by the
hashes in its card; ``languages_taken`` and ``labelled_rows`` choose the clips of a corpus that a model can be scored on;
``low_confidence`` detects speech that a student does not fit (another language, or unfamiliar speech).
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


# --- Models in a run's folder, and the hashes of a student's files ---------------------------------------

MODEL, TOKENS = "model.onnx", "tokens.txt"
NEEDED = (MODEL, TOKENS, NORMALISER)
TRANSDUCER = "transducer.npz"
"""Predictor and joiner of a student that has a transducer beside its CTC head."""
TAGGER = "tagger.json"
"""The labels of a classifier or tagger, and what they are."""
TAGGER_FILES = (MODEL, TAGGER)
SEPARATOR = "separator.json"
"""The Fourier transform of a separator."""
SEPARATOR_FILES = (MODEL, SEPARATOR)
STUDENT, RUN = "student", "config.yaml"
"""Names in a run's folder: its student, and its settings."""


def find_exported(folder: Path, kind: str = STUDENT) -> Path:
    """The folder of the student (or ``kind``): ``folder`` itself, or ``folder/student`` of a run; ``UserError`` says how to make
    one."""
    inside = folder / kind
    if not (folder / NAME).is_file() and (inside / NAME).is_file():
        return inside
    read_card(folder, kind)
    return folder


def find_made(folder: str, kind: str, flag: str) -> str:
    """The folder of a model of ``kind`` (encoder, recogniser): ``folder`` itself, or inside it if it is a run.

    ``UserError``, which begins with ``flag``, if there is none.
    """
    found = identify(folder).kind
    if found == kind or (found == "recogniser" and kind == "encoder"):  # a recogniser contains an encoder
        return folder
    if (Path(folder) / kind / NAME).is_file():
        return str(Path(folder) / kind)
    raise wrong_kind(folder, kind, flag)


def file_hashes(folder: Path, names: Collection[str] = NEEDED) -> dict[str, str]:
    """SHA-256 (hex) of a model's files (default: a student's), for ``files`` in its card."""
    return {name: _sha256(folder / name) for name in names}


def check_files(folder: Path, card: Mapping[str, Any], names: Collection[str] = NEEDED) -> None:
    """Raise ``UserError`` for the first file that is missing or does not match the hash in the card; ``names`` must be there."""
    expected = card.get("files")
    if not isinstance(expected, dict) or not set(names) <= set(expected):
        raise UserError(f"{folder}: its card does not list {', '.join(names)}; export the {card['kind']} again")
    for name, digest in expected.items():
        path = folder / name
        if path.resolve().parent != folder.resolve():
            raise UserError(
                f"{folder}: its card lists {name!r}, which is outside the folder; export the {card['kind']} again"
            )
        if not path.is_file():
            raise UserError(f"{path}: is missing; copy the whole {card['kind']} folder again")
        if _sha256(path) != str(digest).removeprefix("sha256:"):
            size = path.stat().st_size
            raise UserError(
                f"{path}: is not the file the card was written for ({size} bytes; damaged, cut short or of another"
                f" {card['kind']}); copy the whole {card['kind']} folder again"
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


# --- The languages of a model, and a corpus's clips in them ----------------------------------------------

FOREIGN = 0.5
"""The largest share of a text's words that may have letters without a token."""
UNKNOWN = "und"
"""The code of clips of unknown language (ISO 639-3: undetermined)."""


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
    """The languages in the ``card`` of a recogniser or student, else that of its normaliser; empty if neither names one."""
    for found in (card.get("languages"), card.get("language"), card.get("finetuning", {}).get("languages")):
        if found:
            return [found] if isinstance(found, str) else list(found)
    return [normalised_for] if normalised_for else []


def languages_in(folder: Path) -> list[str]:
    """``languages_of`` the recogniser or student in ``folder``."""
    path = folder / NORMALISER
    return languages_of(read_card(folder), Normaliser.from_json(path).settings.language if path.is_file() else "")


def languages_taken(
    requested: Sequence[str] | None,
    own: Sequence[str],
    available: Collection[str],
    model: Path | str,
    corpus: Path | str,
    *,
    flag: str = "--language",
    unknown: bool = False,
    quiet: bool = False,
) -> list[str]:
    """The languages of a corpus whose clips are used; empty = all clips.

    ``requested`` is the user's choice (codes, locales, names). If it is None, they are the ``model``'s ``own`` languages among
    those ``available``, and a note on stderr names the others unless ``quiet``. With ``unknown``, clips of unknown language are
    used too. ``UserError`` if the corpus has several languages and the model has none of them.
    """
    if requested is not None:
        return list(dict.fromkeys(match_languages(requested, available)))
    names, spoken = ", ".join(sorted(available)), " and ".join(map(_named, own))
    taken = [code for code in dict.fromkeys(match_languages(own, available)) if code in available]
    note = ""
    if len(available) < 2:
        if own and not taken and UNKNOWN not in available:
            note = f"the language of {model} is {spoken}, that of {corpus} is {names}; its clips are used anyway"
        taken = []
    elif not own:
        note = f"{model} does not name its language: clips in {names} are used ({flag} CODE: one of them)"
    elif not taken:
        raise UserError(f"{corpus}: has {names}, and the language of {model} is {spoken}; give {flag} CODE to use one")
    else:
        taken += [UNKNOWN] if unknown and UNKNOWN in available else []
        if left := ", ".join(sorted(set(available) - set(taken))):
            note = (
                f"the language of {model} is {spoken}: clips in {', '.join(taken)} are used, not in {left} "
                f"({flag} CODE: another)"
            )
    if note and not quiet:
        print(f"lalia: {note}", file=sys.stderr)
    return taken


def _named(code: str) -> str:
    return f"{code} ({language_name(code)})" if language_name(code) else code


def labelled_rows(
    corpus: LabelledCorpus, path: Path, split: str, languages: Sequence[str], limit: int | None
) -> list[int]:
    """The labelled clips of a split in ``languages`` (empty: all), at most ``limit`` of them, spread evenly.

    ``UserError`` if there are none.
    """
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
    words: list[str] = []
    for row in rows:
        normaliser = model.normaliser.for_language(corpus.language(row))
        words += normaliser.writing.count_units(normaliser(corpus.text(row)))
    if not words:
        raise UserError(
            f"{path}: none of {len(rows)} labels has a letter after normalisation; prepare it with its transcripts"
        )
    unknown = [word for word in words if not _has_tokens(word, model.tokens)]
    require_alphabet(str(path), len(unknown), len(words), " ".join(unknown[:5]))


def require_alphabet(source: str, unknown: int, words: int, example: str, model: str = "the student") -> None:
    """Raise ``UserError`` if more than half of the ``words`` of ``source`` are ``unknown``: with letters that have no token."""
    if unknown > FOREIGN * words:
        raise UserError(
            f"{source}: {model} has no letters for {unknown:,} of its {words:,} words, such as {example[:60]!r};"
            " is it in another language or a wrong encoding?"
        )


def _has_tokens(word: str, tokens: Tokens) -> bool:
    try:
        tokens.encode(word)
    except UserError:
        return False
    return True


# --- Low confidence: speech that a student does not fit --------------------------------------------------

LEAST_LETTERS = 60
"""The mean of fewer is unreliable. Letters are counted, because in another language word boundaries are wrong too."""
GREEDY, CALIBRATED = 0.80, 0.45
"""A warning is printed below this mean confidence: of greedy words, and of words from a calibrated beam search."""


def low_confidence(words: Sequence[Word], limit: float) -> bool:
    """Whether the mean confidence of ``words`` is below ``limit``, with enough letters to tell."""
    return sum(len(word.text) for word in words) >= LEAST_LETTERS and _mean(words) < limit


def low_confidence_warning(words: Sequence[Word], languages: Sequence[str]) -> str:
    """The warning about ``words`` of ``low_confidence`` from a student of ``languages``."""
    own = " or ".join(map(_named, languages))
    return (
        f"low confidence throughout (mean {_mean(words):.2f}): is the speech in {own or 'the language of this student'}, and "
        "like its training data? Most words may be wrong"
    )


def _mean(words: Sequence[Word]) -> float:
    return statistics.fmean(word.confidence for word in words)
