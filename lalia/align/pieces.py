"""The table of pieces (``pieces.tsv``): what an alignment found, how sure it is, and a listener's corrections.

A piece is a part of a recording with its text. Its score is the expected share of wrong words; by it a piece is accepted,
doubtful or refused. The table holds all pieces, the corpus beside it the accepted ones.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from lalia.cards import write_text
from lalia.errors import UserError
from lalia.text.text_files import read_unicode
from lalia.units import Seconds

Status = Literal["accepted", "doubtful", "refused"]
STATUSES: tuple[Status, ...] = ("accepted", "doubtful", "refused")
NAME = "pieces.tsv"
ACCEPT = 0.1
"""Default of the highest score that is accepted."""
REFUSE = 0.5
"""Pieces with a higher score are refused: most of their words are expected to be wrong."""
SHORTEST_S: Seconds = 2.0
LONGEST_S: Seconds = 20.0
NO_TEXT, SHORT, ENDS, SCORE = "no text", "short", "ends", "score"
"""Reasons why a piece is not accepted; LISTENER is a person's decision."""
LISTENER = "listener"
MOST_ENDS = 0.5
"""The highest ``ends`` of an accepted piece."""
LEAST_MARGIN = -20.0
"""In nats. Rough recognisers prefer a text with a word less by a few nats where the word is said."""


@dataclass(frozen=True)
class Piece:
    """A row of the table."""

    piece: str
    """``NAME#START-END``, unique; the id of its clip in the corpus"""
    status: Status
    reason: str
    """why it is not accepted: "no text" (audio not in the text), "short", "ends", "score"; "listener": a person decided"""
    score: float
    """expected share of wrong words, 0 to 1; 1 without text"""
    ends: float
    """probability that the first or the last word is wrong"""
    margin: float
    """log-likelihood of the text minus that of the second-best one (a word more or less at an end), in nats"""
    start: Seconds
    end: Seconds
    text: str
    """what is written"""
    heard: str
    """what the recogniser transcribes without the text"""
    recording: str
    """name of the recording, unique in the table"""
    chapter: str
    """nearest heading above it, or its number; "" without chapters"""
    speaker: str
    split: str
    """train, dev or test"""
    audio: str
    """path of the audio file"""

    @property
    def duration_s(self) -> Seconds:
        return self.end - self.start


COLUMNS = tuple(field.name for field in fields(Piece))
_NUMBERS = {"score": 4, "ends": 4, "margin": 2, "start": 3, "end": 3}


def decide(piece: Piece, accept: float = ACCEPT) -> Piece:
    """``piece`` with its status by score; a listener's decision stays."""
    if piece.reason == LISTENER:
        return piece
    refused = {
        NO_TEXT: not piece.text,
        SHORT: piece.duration_s < SHORTEST_S,
        SCORE: piece.score > REFUSE,
    }
    doubtful = {SCORE: piece.score > accept, ENDS: piece.ends > MOST_ENDS or piece.margin < LEAST_MARGIN}
    decisions: tuple[tuple[Status, dict[str, bool]], ...] = (("refused", refused), ("doubtful", doubtful))
    for status, reasons in decisions:
        for reason, holds in reasons.items():
            if holds:
                return replace(piece, status=status, reason=reason)
    return replace(piece, status="accepted", reason="")


def hours_by_status(pieces: Iterable[Piece]) -> dict[Status, float]:
    """Hours of the pieces of each status."""
    hours: dict[Status, float] = dict.fromkeys(STATUSES, 0.0)
    for piece in pieces:
        hours[piece.status] += piece.duration_s / 3600
    return hours


# --- The table on disk -----------------------------------------------------------------------------------


def table_of(pieces: Sequence[Piece]) -> str:
    """The table as text: tab-separated, a header, no quoting."""
    text = io.StringIO()
    text.write("\t".join(COLUMNS) + "\n")
    for piece in pieces:
        cells = ((name, getattr(piece, name)) for name in COLUMNS)
        row = (f"{value:.{_NUMBERS[name]}f}" if name in _NUMBERS else " ".join(value.split()) for name, value in cells)
        text.write("\t".join(row) + "\n")
    return text.getvalue()


def write_pieces(path: Path, pieces: Sequence[Piece]) -> None:
    """Write ``table_of`` the pieces to ``path``, atomically."""
    write_text(path, table_of(pieces))


def read_pieces(path: Path) -> list[Piece]:
    """The pieces of a table, or of the corpus folder that holds it; ``UserError`` names the line that is wrong."""
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the table of pieces that lalia align writes")
    pieces = []
    for number, row in _rows(path, COLUMNS):
        try:
            numbers = {name: float(row[name]) for name in _NUMBERS}
        except ValueError as error:
            raise UserError(f"{path}: line {number}: {error}; expected numbers in {', '.join(_NUMBERS)}") from error
        if row["status"] not in STATUSES:
            raise UserError(f"{path}: line {number}: status {row['status']!r}; expected one of {', '.join(STATUSES)}")
        pieces.append(Piece(**{**row, **numbers}))  # type: ignore[arg-type]
    return pieces


def _rows(path: Path, columns: Sequence[str]) -> Iterable[tuple[int, dict[str, str]]]:
    """The rows of a tab-separated table with at least ``columns``, with their line numbers."""
    lines = read_unicode(path).split("\n")
    table = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    header = [name.strip() for name in next(table, [])]
    if missing := [name for name in columns if name not in header]:
        raise UserError(
            f"{path}: has no column {', '.join(missing)}; it has {', '.join(filter(None, header)) or 'none'}"
        )
    for number, values in enumerate(table, 2):
        if not any(values):
            continue
        if len(values) != len(header):
            raise UserError(f"{path}: line {number} has {len(values)} fields, expected {len(header)}")
        row = dict(zip(header, (value.strip() for value in values), strict=True))
        yield number, {name: row[name] for name in columns}


# --- Corrections -----------------------------------------------------------------------------------------

DECISIONS = ("accept", "correct", "refuse")


@dataclass(frozen=True)
class Correction:
    """A listener's decision about a piece; ``text`` counts for ``correct``."""

    piece: str
    decision: Literal["accept", "correct", "refuse"]
    text: str


def read_corrections(path: Path) -> list[Correction]:
    """The table of corrections (columns ``piece``, ``decision``, ``text``); of several for a piece the last one counts."""
    found: dict[str, Correction] = {}
    for number, row in _rows(path, ("piece", "decision", "text")):
        if row["decision"] not in DECISIONS:
            raise UserError(
                f"{path}: line {number}: decision {row['decision']!r}; expected one of {', '.join(DECISIONS)}"
            )
        if row["decision"] == "correct" and not row["text"]:
            raise UserError(f"{path}: line {number}: a corrected piece needs its text; to leave it out: refuse")
        found[row["piece"]] = Correction(**row)  # type: ignore[arg-type]
    return list(found.values())


def corrected(pieces: Sequence[Piece], corrections: Sequence[Correction], where: Path | str) -> list[Piece]:
    """``pieces`` with the ``corrections`` from the table ``where`` made; ``UserError`` if one names a piece that is not there."""
    by_name: Mapping[str, Correction] = {correction.piece: correction for correction in corrections}
    unknown = sorted(by_name.keys() - {piece.piece for piece in pieces})
    if unknown:
        raise UserError(
            f"{where}: {len(unknown)} of {len(by_name)} corrections name no piece of the table, such as {unknown[0]!r}; "
            "are they of another alignment?"
        )
    made = []
    for piece in pieces:
        correction = by_name.get(piece.piece)
        if correction is None:
            made.append(piece)
        elif correction.decision == "refuse":
            made.append(replace(piece, status="refused", reason=LISTENER))
        else:
            text = correction.text if correction.decision == "correct" else piece.text
            if not text:
                raise UserError(f"{where}: {piece.piece}: has no text to accept; give it: correct")
            made.append(replace(piece, status="accepted", reason=LISTENER, score=0.0, ends=0.0, text=text))
    return made
