"""Where the errors are: which letters and words are taken for which, and how groups of clips compare."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

from lalia.scoring.rates import ErrorCounts, alignment, character_errors, word_errors
from lalia.units import Seconds

Group = TypeVar("Group", bound=Hashable)

LENGTHS: tuple[Seconds, ...] = (2.0, 5.0, 10.0, 20.0)
NOISES: tuple[float, ...] = (10.0, 20.0, 30.0, 40.0)
"""Signal-to-noise ratios in dB."""
UNKNOWN = "unknown"
FEW = 3
"""Confusions that are shown even where none occurs twice."""


@dataclass(frozen=True)
class Confusion:
    """What was said, what was heard for it (``""``: nothing), and how often."""

    said: str
    heard: str
    count: int


@dataclass(frozen=True)
class Part:
    """Clips that have something in common, and their errors."""

    clips: int
    cer: ErrorCounts
    wer: ErrorCounts


def confusions(
    references: Sequence[str], hypotheses: Sequence[str], unit: Literal["word", "character"], most: int = 10
) -> list[Confusion]:
    """The ``most`` frequent substitutions, deletions and insertions, both sides normalised before."""
    found: Counter[tuple[str, str]] = Counter()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        found.update((e.reference, e.hypothesis) for e in alignment(reference, hypothesis, unit) if e.kind != "equal")
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [Confusion(said, heard, count) for (said, heard), count in ranked[:most]]


def telling(found: Sequence[Confusion]) -> list[Confusion]:
    """Of ranked confusions those that occur more than once; a few are shown whatever they are, many that occur once never."""
    return list(found) if len(found) <= FEW else [one for one in found if one.count > 1]


def by_group(references: Sequence[str], hypotheses: Sequence[str], groups: Sequence[Group]) -> dict[Group, Part]:
    """The errors of the clips of every group, groups in the order in which they first appear."""
    found: dict[Group, Part] = {}
    for reference, hypothesis, group in zip(references, hypotheses, groups, strict=True):
        before = found.get(group, Part(0, ErrorCounts(), ErrorCounts()))
        found[group] = Part(
            before.clips + 1,
            before.cer + character_errors(reference, hypothesis),
            before.wer + word_errors(reference, hypothesis),
        )
    return found


def length_band(duration_s: Seconds, edges: Sequence[Seconds] = LENGTHS) -> str:
    """The band of lengths that a clip falls in: ``under 2 s``, ``2 to 5 s``, …, ``over 20 s``."""
    return _band(duration_s, edges, "s")


def noise_band(snr_db: float, edges: Sequence[float] = NOISES) -> str:
    """The band of signal-to-noise ratios that a clip falls in, ``10 to 20 dB`` for one; ``unknown`` where it is NaN."""
    return UNKNOWN if math.isnan(snr_db) else _band(snr_db, edges, "dB")


def _band(value: float, edges: Sequence[float], unit: str) -> str:
    if value < edges[0]:
        return f"under {edges[0]:g} {unit}"
    for low, high in pairwise(edges):
        if value < high:
            return f"{low:g} to {high:g} {unit}"
    return f"over {edges[-1]:g} {unit}"
