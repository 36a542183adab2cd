"""What a user may say about a source: language, columns, root, how much to hold out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lalia.exits import UserError

Say = Callable[[str], None]
"""Tells the user a line."""
FIELDS = ("audio", "text", "language", "speaker", "split", "duration", "start", "end", "id", "channel", "licence")


@dataclass(frozen=True)
class Options:
    """``language`` "" = as the source says; ``columns`` maps our field names to the source's.

    ``tiers`` are those of annotations that are read; () = the transcriptions. Percentages of ``None`` = as the amount of labels
    asks for (``splits.held_out_percent``).
    """

    language: str = ""
    licence: str = ""
    root: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    dev_percent: float | None = None
    test_percent: float | None = None
    limit: int = 0
    tiers: tuple[str, ...] = ()


def parse_columns(words: Sequence[str]) -> dict[str, str]:
    """``["text=sentence,audio=path", "speaker=voice"]`` as a mapping; ``UserError`` names what is wrong."""
    columns: dict[str, str] = {}
    for word in ",".join(words).split(",") if words else []:
        ours, equals, theirs = (part.strip() for part in word.partition("="))
        if not equals or ours not in FIELDS or not theirs:
            raise UserError(f"--columns {word!r}: expected OURS=THEIRS with OURS one of {', '.join(FIELDS)}")
        if columns.setdefault(ours, theirs) != theirs:
            raise UserError(f"--columns: {ours} is given twice, as {columns[ours]} and as {theirs}; give it once")
    return columns
