"""The table of pieces: statuses by score, reading what was written, corrections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lalia.align.pieces import (
    ENDS,
    LISTENER,
    NO_TEXT,
    SCORE,
    SHORT,
    Piece,
    corrected,
    decide,
    hours_by_status,
    read_corrections,
    read_pieces,
    write_pieces,
)
from lalia.errors import UserError

PIECE = Piece(
    "a#1.00-5.00", "accepted", "", 0.02, 0.03, 12.5, 1.0, 5.0, "Good morning.", "good mornin", "a", "One", "Anna", "train",
    "/x/a.mp3",
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({}, "accepted", ""),
        ({"score": 0.2}, "doubtful", SCORE),
        ({"score": 0.6}, "refused", SCORE),
        ({"ends": 0.6}, "doubtful", ENDS),
        ({"margin": -30.0}, "doubtful", ENDS),
        ({"end": 2.5}, "refused", SHORT),
        ({"text": "", "score": 1.0}, "refused", NO_TEXT),
        ({"score": 0.9, "reason": LISTENER}, "accepted", LISTENER),
    ],
)
def test_status_follows_from_score_ends_and_length(changes: dict[str, float], status: str, reason: str) -> None:
    found = decide(replace(PIECE, **changes), accept=0.1)  # type: ignore[arg-type]
    assert (found.status, found.reason) == (status, reason)


def test_a_higher_threshold_accepts_more() -> None:
    doubtful = decide(replace(PIECE, score=0.2), accept=0.1)
    assert decide(doubtful, accept=0.3).status == "accepted"


def test_the_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    pieces = [
        PIECE,
        replace(PIECE, piece="a#5.00-9.00", status="doubtful", reason=SCORE, text='He said: "no"', score=0.2),
    ]
    write_pieces(tmp_path / "pieces.tsv", pieces)
    assert read_pieces(tmp_path / "pieces.tsv") == pieces
    assert read_pieces(tmp_path) == pieces  # the corpus that holds it
    assert hours_by_status(pieces) == pytest.approx({"accepted": 4 / 3600, "doubtful": 4 / 3600, "refused": 0.0})


def test_corrections_decide(tmp_path: Path) -> None:
    pieces = [replace(PIECE, piece=name, status="doubtful", reason=SCORE, score=0.2) for name in "abcd"]
    table = tmp_path / "checked.tsv"
    table.write_text(
        "piece\tdecision\ttext\na\taccept\t\nb\tcorrect\tGood evening.\nc\trefuse\t\nb\tcorrect\tGood night.\n"
    )
    made = {piece.piece: piece for piece in corrected(pieces, read_corrections(table), table)}
    assert [(made[name].status, made[name].text) for name in "abcd"] == [
        ("accepted", "Good morning."),
        ("accepted", "Good night."),
        ("refused", "Good morning."),
        ("doubtful", "Good morning."),
    ]
    assert decide(made["c"], accept=1.0).status == "refused"  # a listener's decision outlasts the threshold


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("piece\tdecision\na\taccept\n", "no column text"),
        ("piece\tdecision\ttext\na\tmaybe\t\n", "line 2: decision 'maybe'"),
        ("piece\tdecision\ttext\na\tcorrect\t\n", "needs its text"),
        ("piece\tdecision\ttext\nz\taccept\t\n", "name no piece of the table, such as 'z'"),
    ],
)
def test_wrong_corrections_are_named(tmp_path: Path, table: str, message: str) -> None:
    path = tmp_path / "checked.tsv"
    path.write_text(table)
    with pytest.raises(UserError, match=message):
        corrected([replace(PIECE, piece="a")], read_corrections(path), path)
