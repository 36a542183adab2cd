"""The interface between sources and preparation: the clips that a source lists, and the user's options."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from lalia.data.corpus import COLUMNS
from lalia.errors import UserError
from lalia.files import readable
from lalia.units import Seconds

# --- Options for a source --------------------------------------------------------------------------------

Say = Callable[[str], None]
"""Prints a line for the user."""
FIELDS = ("audio", "text", "language", "speaker", "split", "duration", "start", "end", "id", "channel", "licence")


@dataclass(frozen=True)
class Options:
    """``language``: "" = the source's; ``columns`` maps lalia's field names to the source's.

    ``keep`` maps extra columns of the corpus to those of the source. ``tiers`` are the annotation tiers to read; () = the
    transcriptions. Percentages: ``None`` = by the amount of labels
    (``splits.held_out_percent``).
    """

    language: str = ""
    licence: str = ""
    root: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    keep: Mapping[str, str] = field(default_factory=dict)
    dev_percent: float | None = None
    test_percent: float | None = None
    limit: int = 0
    tiers: tuple[str, ...] = ()


def parse_columns(words: Sequence[str]) -> dict[str, str]:
    """``["text=sentence,audio=path", "speaker=voice"]`` as a mapping; ``UserError`` for other forms and repeated fields."""
    columns: dict[str, str] = {}
    for word in ",".join(words).split(",") if words else []:
        ours, equals_sign, theirs = (part.strip() for part in word.partition("="))
        if not equals_sign or ours not in FIELDS or not theirs:
            raise UserError(f"--columns {word!r}: expected OURS=THEIRS with OURS one of {', '.join(FIELDS)}")
        if columns.setdefault(ours, theirs) != theirs:
            raise UserError(f"--columns: {ours} is given twice, as {columns[ours]} and as {theirs}; give it once")
    return columns


def parse_kept(words: Sequence[str]) -> dict[str, str]:
    """``["emotion,command=word"]`` as a mapping from extra columns of the corpus to those of the source; ``UserError`` for names
    that the corpus has anyway."""
    kept: dict[str, str] = {}
    for word in ",".join(words).split(",") if words else []:
        ours, _, theirs = (part.strip() for part in word.partition("="))
        if not re.fullmatch(r"[^\W\d]\w*", ours):
            raise UserError(f"--keep {word!r}: expected the name of a column, or NAME=COLUMN")
        if ours in COLUMNS or ours in FIELDS:
            raise UserError(
                f"--keep {ours}: every corpus has it; map a column to it with --columns {ours}={theirs or ours}"
            )
        kept[ours] = theirs or ours
    return kept


# --- The clips of a source -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SplitSpan:
    """The part of a recording in ``split``; "" = a gap between two splits."""

    split: str
    start_s: Seconds
    end_s: Seconds


@dataclass(frozen=True, slots=True)
class SourceClip:
    """One clip to read: a file, or its part between ``start_s`` and ``end_s`` (``None``: to the end).

    ``path`` is a file, or only its name if ``data`` holds the bytes. It may be a name that is not UTF-8; no other field may.
    ``text`` and ``speaker`` are ``""`` if unknown. ``duration_s`` is the length by the source (0: unknown), for planning.
    ``is_segment``: a part of a long recording, with approximate times. ``held_out`` are the spans of the recording whose
    utterances are in another split than ``split``. ``channel`` counts from 0 (``None``: unknown). ``extra`` holds the values of
    the listing's extra columns.
    """

    id: str
    path: str
    language: str
    text: str = ""
    speaker: str = ""
    split: str = "train"
    source: str = ""
    start_s: Seconds = 0.0
    end_s: Seconds | None = None
    duration_s: Seconds = 0.0
    data: bytes | None = None
    is_segment: bool = False
    channel: int | None = None
    held_out: tuple[SplitSpan, ...] = ()
    extra: Mapping[str, str | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("id", "text", "speaker", "source"):
            object.__setattr__(self, name, readable(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Dropped:
    """A clip that is not in the corpus. ``reason`` is one of a few strings, so that they can be counted."""

    id: str
    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", readable(self.id))
        object.__setattr__(self, "detail", readable(self.detail))


@dataclass(frozen=True, slots=True)
class ClipNote:
    """A warning about the file of a clip that is still used: a ``lalia.audio.reading.Note`` with the clip."""

    id: str
    kind: str
    text: str
    path: str


class Stream(Protocol):
    """Clips that are unknown until they are read, such as a file of a hub dataset; pickled and sent to a worker."""

    def clips(self, start: int) -> Iterator[SourceClip | Dropped]:
        """The clips from number ``start`` on, the same ones at every call."""
        ...


@dataclass
class Listing:
    """A source: clips, or streams of clips, in an order that depends on the source only.

    ``facts`` go into the corpus card (sources, licences, splitting), ``documents`` are files to write next to it,
    ``parents`` are the cards of the models that made the labels, ``extra`` the columns that the corpus has in addition.
    """

    name: str
    clips: list[SourceClip] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)
    parents: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Literal["string", "float"]] = field(default_factory=dict)


def sentence_key(text: str) -> str:
    """``text`` without case, punctuation and spacing: two clips with the same key have the same sentence."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w]|_", " ", folded).split())


def ordering(key: str, seed: int = 0) -> str:
    """A hash (hex) that orders keys as if shuffled, the same on every machine."""
    return hashlib.sha256(f"{seed}\0{key}".encode()).hexdigest()
