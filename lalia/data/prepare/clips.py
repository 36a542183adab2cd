"""What a source lists: clips to be read, and what was left out before reading."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from lalia.units import Seconds


@dataclass(frozen=True)
class Clip:
    """One thing to read: a file, or the part of it between ``start_s`` and ``end_s`` (``None``: to its end).

    ``path`` is a file; ``duration_s`` is what the source says about its length (0: nothing), good for planning only.
    ``text`` is ``""`` where nobody wrote it down, ``speaker`` where nobody said.
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


@dataclass(frozen=True)
class Dropped:
    """A clip that is not in the corpus, and the reason, which is one of a few so that they can be counted."""

    id: str
    reason: str
    detail: str = ""


@dataclass
class Listing:
    """A source as a list of clips in an order that depends on nothing but the source.

    ``facts`` go into the corpus card (sources, licences, attribution), ``documents`` are files to write beside it.
    """

    name: str
    clips: list[Clip]
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
