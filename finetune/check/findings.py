"""Data types of the data checks: the labels that are checked, and findings with severity, reason and remedy."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from lalia.data.corpus import Corpus
from lalia.text.languages import LanguageProfile
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Vocabulary

TRAIN, DEV, TEST = range(3)
EXAMPLES = 5


@dataclass(frozen=True)
class Example:
    """A clip that illustrates a finding."""

    row: int
    note: str = ""
    heard: str = ""
    """what a recogniser transcribes, if one was given"""


@dataclass(frozen=True)
class Finding:
    """One result of a check. Weight ``stop``: fix it before training; ``look``: a warning; ``fine``: no problem."""

    topic: str
    weight: Literal["stop", "look", "fine"]
    what: str
    fix: str = ""
    examples: list[Example] = field(default_factory=list)
    fixable: bool = False
    """whether ``--fix`` fixes it"""
    characters: Collection[str] = ()
    """the offending characters, which the page marks in the examples"""


@dataclass(frozen=True)
class Labels:
    """The labelled clips of one language: corpus rows, original and normalised texts, speakers, in the same order.

    A *place* is an index into these lists, a *row* an index into the corpus.
    """

    corpus: Corpus
    profile: LanguageProfile
    normaliser: Normaliser
    rows: np.ndarray
    texts: list[str]
    normal: list[str]
    speakers: list[str]
    frame_s: float

    @property
    def language(self) -> str:
        return self.profile.code

    @cached_property
    def splits(self) -> np.ndarray:
        """Codes into ``SPLITS``, (N,)."""
        return self.corpus.splits[self.rows]

    @cached_property
    def durations_s(self) -> np.ndarray:
        return self.corpus.durations_s[self.rows].astype(np.float64)

    @cached_property
    def speech_ratio(self) -> np.ndarray:
        return self.corpus.numbers("speech_ratio")[self.rows]

    def where(self, split: int) -> np.ndarray:
        """Places of the clips in ``split``."""
        return np.flatnonzero(self.splits == split)

    def examples(self, places: np.ndarray | list[int], notes: list[str] | None = None) -> list[Example]:
        """The first ``EXAMPLES`` of ``places``."""
        few = [int(place) for place in places[:EXAMPLES]]
        return [Example(int(self.rows[p]), notes[i] if notes else "") for i, p in enumerate(few)]


@dataclass(frozen=True)
class Split:
    """Totals of the labelled clips in one split."""

    name: str
    clips: int
    hours: float
    speakers: int
    sentences: int
    words: int
    """or syllables, or clusters, as the language is written"""


@dataclass
class Checked:
    """All results for one language."""

    labels: Labels
    splits: list[Split]
    letters: list[tuple[str, int, int, str]]
    """character, occurrences, clips that have it, an example word"""
    vocabulary: Vocabulary | None
    findings: list[Finding]
    wrong_labels: list[Example] = field(default_factory=list)
    """clips whose label is likely wrong, the worst first"""

    @property
    def stops(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.weight == "stop"]


def read_labels(corpus: Corpus, profile: LanguageProfile, normaliser: Normaliser, frame_s: float) -> Labels:
    """The labelled clips of ``profile``'s language."""
    rows = corpus.select(language=profile.code, with_text=True)
    texts = corpus.column("text", rows)
    return Labels(
        corpus,
        profile,
        normaliser,
        rows,
        texts,
        [normaliser(text) for text in texts],
        corpus.column("speaker", rows),
        frame_s,
    )


def some(items: list[str], most: int = 6) -> str:
    """The first ``most`` of ``items``, comma-separated, with the number of the others."""
    return ", ".join(items[:most]) + (f" and {len(items) - most:,} more" if len(items) > most else "")
