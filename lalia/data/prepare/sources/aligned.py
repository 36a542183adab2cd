"""The corpus of an alignment: the accepted pieces of ``lalia align``, cut out of their recordings, in splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lalia.align.pieces import NAME, Piece, hours_by_status, table_of
from lalia.audio.encoding import flac_bytes
from lalia.audio.reading import probe_rate_channels, read_blocks
from lalia.data.prepare.listing import Dropped, Listing, SourceClip
from lalia.data.prepare.splits import choose_recordings
from lalia.errors import AudioError
from lalia.units import SAMPLE_RATE, Samples, Seconds, to_samples

COLUMNS = {"offset": "float", "score": "float", "heard": "string"}
"""Columns of the corpus in addition: second of the recording, expected share of wrong words, the recogniser's transcript."""
SHARES = {"test": 0.05, "dev": 0.05}
_PARTS = 20
"""Parts that a recording without chapters is divided into for the splits."""


def with_splits(pieces: Sequence[Piece]) -> tuple[list[Piece], str]:
    """``pieces`` with a split each, and the method: whole recordings are held out; if these are too few, chapters; if these
    are, twentieths of the recordings. Pieces that have a split keep it."""
    if all(piece.split for piece in pieces):
        return list(pieces), "as the source says"
    lasts: dict[str, Seconds] = {}
    for piece in pieces:
        lasts[piece.recording] = max(lasts.get(piece.recording, 0.0), piece.end)

    def twentieth(piece: Piece) -> str:
        return f"{piece.recording}\0{int(_PARTS * piece.start / (lasts[piece.recording] + 1)):02d}"

    groupings = (
        ("by recording", [piece.recording for piece in pieces]),
        ("by chapter", [f"{piece.recording}\0{piece.chapter}" for piece in pieces]),
        ("by twentieths of the recordings", [twentieth(piece) for piece in pieces]),
    )
    method, groups = groupings[0]
    for method, groups in groupings:  # noqa: B007 - the last one tried is used
        seconds: dict[str, Seconds] = {}
        for piece, group in zip(pieces, groups, strict=True):
            seconds[group] = seconds.get(group, 0.0) + (piece.duration_s if piece.status == "accepted" else 0.0)
        chosen = choose_recordings(seconds, SHARES)
        if not chosen.lacking:
            break
    made = [
        piece if piece.split else replace(piece, split=chosen.whole.get(group, "train"))
        for piece, group in zip(pieces, groups, strict=True)
    ]
    return made, f"{method}, in hash order"


@dataclass(frozen=True)
class PieceStream:
    """The accepted pieces of one recording, read in one pass."""

    pieces: tuple[Piece, ...]
    language: str

    def clips(self, start: int) -> Iterator[SourceClip | Dropped]:
        """The clips of the pieces from number ``start`` on."""
        pieces = self.pieces[start:]
        try:
            rate, _ = probe_rate_channels(pieces[0].audio)
            for piece, wave_S in zip(pieces, _cut(pieces), strict=True):
                extra: dict[str, str | float] = {
                    "offset": piece.start,
                    "score": piece.score,
                    "heard": piece.heard,
                    "original_rate": float(rate),
                }
                yield SourceClip(
                    piece.piece, f"{piece.piece}.flac", self.language, piece.text, piece.speaker, piece.split,
                    piece.recording, data=flac_bytes(wave_S), duration_s=piece.duration_s, extra=extra,
                )  # fmt: skip
        except AudioError as error:
            yield from (Dropped(piece.piece, "unreadable", str(error)) for piece in pieces)


def _cut(pieces: Sequence[Piece]) -> Iterator[np.ndarray]:
    """The waves of ``pieces`` of one recording, which are in order of time."""
    at: Samples = int(pieces[0].start) * SAMPLE_RATE
    blocks = read_blocks(pieces[0].audio, start_s=int(pieces[0].start))
    held_S = np.zeros(0, np.float32)
    for piece in pieces:
        start, end = to_samples(piece.start), to_samples(piece.end)
        while at + len(held_S) < end and (block_S := next(blocks, None)) is not None:
            held_S = np.concatenate([held_S, block_S])
        held_S, at = held_S[max(0, start - at) :], max(at, start)
        yield held_S[: end - at]


def list_pieces(
    name: str, pieces: Sequence[Piece], language: str, parents: list[dict[str, Any]], **facts: Any
) -> Listing:
    """The listing of the accepted ``pieces``; the table of all of them becomes a document of the corpus."""
    pieces, splitting = with_splits(pieces)
    by_recording: dict[str, list[Piece]] = {}
    for piece in sorted(pieces, key=lambda piece: (piece.start, piece.end)):
        if piece.status == "accepted":
            by_recording.setdefault(piece.recording, []).append(piece)
    hours = {status: round(value, 4) for status, value in hours_by_status(pieces).items()}
    return Listing(
        name,
        streams=[PieceStream(tuple(own), language) for own in by_recording.values()],
        facts={"splitting": splitting, "alignment": {"hours": hours, **facts}, "licences": []},
        documents={NAME: table_of(pieces)},
        parents=parents,
        extra=dict(COLUMNS),  # type: ignore[arg-type]
    )
