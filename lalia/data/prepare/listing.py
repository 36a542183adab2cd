"""The interface between sources and preparation: what a source lists, and the user's options for it."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lalia.errors import UserError
from lalia.files import readable
from lalia.units import Seconds

# --- What a user may say about a source ------------------------------------------------------------------

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


# --- What a source lists ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SplitSpan:
    """The part of a recording that is in ``split``; "" = in none: a gap between two splits."""

    split: str
    start_s: Seconds
    end_s: Seconds


@dataclass(frozen=True, slots=True)
class SourceClip:
    """One thing to read: a file, or the part of it between ``start_s`` and ``end_s`` (``None``: to its end).

    ``path`` is a file, or only its name where ``data`` holds the bytes. ``text`` is ``""`` where nobody wrote it down,
    ``speaker`` where nobody said. ``duration_s`` is what the source says about the length (0: nothing); for planning.
    A ``is_segment`` is a part of a long recording, whose times say about where it begins and ends. ``held_out`` are the times of
    the recording whose utterances are in another split than ``split``. ``path`` alone may be a name that is not UTF-8.
    ``channel`` counts from 0 (``None``: the source says nothing).
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

    def __post_init__(self) -> None:
        for name in ("id", "text", "speaker", "source"):
            object.__setattr__(self, name, readable(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Dropped:
    """A clip that is not in the corpus, and the reason, which is one of a few so that they can be counted."""

    id: str
    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", readable(self.id))
        object.__setattr__(self, "detail", readable(self.detail))


@dataclass(frozen=True, slots=True)
class ClipNote:
    """Something about the file of a clip that is used all the same: a ``lalia.audio.reading.Note``, and of which file."""

    id: str
    kind: str
    text: str
    path: str


class Stream(Protocol):
    """Clips that are not known before they are read, such as a file of a hub dataset; sent to a worker as it is."""

    def clips(self, start: int) -> Iterator[SourceClip | Dropped]:
        """The clips from number ``start`` on, always the same ones."""
        ...


@dataclass
class Listing:
    """A source: clips in an order that depends on nothing but the source, or streams of them.

    ``facts`` go into the corpus card (sources, licences, splitting), ``documents`` are files to write beside it.
    """

    name: str
    clips: list[SourceClip] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    documents: dict[str, str] = field(default_factory=dict)


def sentence_key(text: str) -> str:
    """``text`` without case, punctuation and spacing: two clips with the same key say the same sentence."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w]|_", " ", folded).split())


def ordering(key: str, seed: int = 0) -> str:
    """A number (as hex) that orders keys as if shuffled, the same on every machine."""
    return hashlib.sha256(f"{seed}\0{key}".encode()).hexdigest()
