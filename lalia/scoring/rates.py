"""Error rates: CER and WER with bootstrap intervals, confusions, and errors by group of clips."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar
from zlib import crc32

import numpy as np
from rapidfuzz.distance import Levenshtein

from lalia.text.edit_distance import alignment
from lalia.text.writing_system import WritingSystem
from lalia.units import Seconds

# --- Error rates -----------------------------------------------------------------------------------------

Interval = tuple[float, float]

RESAMPLES = 1000
SEED = 20_240_229


@dataclass(frozen=True)
class ErrorCounts:
    """Substituted, deleted and inserted units, and the number of ``reference`` units; counts of clips can be added."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.reference + other.reference,
        )

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per unit of the reference: 0.25 is 25 %; may exceed 1. An empty reference counts as one unit."""
        return self.errors / max(self.reference, 1)


@dataclass(frozen=True)
class Score:
    """Error counts of many clips; the intervals contain the rates of 95 % of bootstrap resamples of the clips."""

    cer: ErrorCounts
    wer: ErrorCounts
    cer_interval: Interval
    wer_interval: Interval
    clips: int


def character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Character errors; spaces between words count as characters."""
    return _count(" ".join(reference.split()), " ".join(hypothesis.split()))


def word_errors(reference: str, hypothesis: str, writing: WritingSystem | None = None) -> ErrorCounts:
    """Word errors; white space separates words, or they are the units of a ``writing`` without spaces."""
    units = str.split if writing is None else writing.count_units
    return _count(units(reference), units(hypothesis))


NEAR_RANDOM = 0.95
"""A CER of this share of that of mismatched pairs, or more, shows nothing of the speech in the transcripts."""


def mismatched_errors(references: Sequence[str], hypotheses: Sequence[str]) -> ErrorCounts:
    """Character errors of each hypothesis against another clip's reference: what labels of other clips would score.

    The other reference is the next longer different one, so that a hypothesis of the right length and no right letter gains
    nothing. No clips count where all references are the same.
    """
    ordered = sorted(set(references), key=lambda text: (len(text), crc32(text.encode())))
    following = dict(zip(ordered, [*ordered[1:], *ordered[-2:-1]], strict=False))
    pairs = zip(references, hypotheses, strict=True)
    return sum((character_errors(following[r], h) for r, h in pairs if r in following), ErrorCounts())


Writings = WritingSystem | Sequence[WritingSystem] | None
"""The writing system of all texts, or of each; None: white space separates words."""


def score(references: Sequence[str], hypotheses: Sequence[str], writing: Writings = None) -> Score:
    """Corpus-level CER and WER (all errors / all reference units) with bootstrap intervals, of normalised texts.

    Clips are resampled, not words, because errors within a clip are correlated (Bisani and Ney 2004). The seed is fixed.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references for {len(hypotheses)} hypotheses; expected the same number")
    cers = [character_errors(r, h) for r, h in zip(references, hypotheses, strict=True)]
    each = _each(writing, len(references))
    wers = [word_errors(r, h, w) for r, h, w in zip(references, hypotheses, each, strict=True)]
    return Score(
        sum(cers, ErrorCounts()),
        sum(wers, ErrorCounts()),
        bootstrap_interval(cers),
        bootstrap_interval(wers),
        len(cers),
    )


def _each(writing: Writings, count: int) -> Sequence[WritingSystem | None]:
    return [writing] * count if writing is None or isinstance(writing, WritingSystem) else writing


def bootstrap_interval(counts: Sequence[ErrorCounts], resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """The 2.5 % and 97.5 % quantiles of the rate over ``resamples`` draws of the clips with replacement."""
    if not counts:
        return (0.0, 0.0)
    errors = np.array([c.errors for c in counts], dtype=np.float64)
    lengths = np.array([c.reference for c in counts], dtype=np.float64)
    generator = np.random.default_rng(seed)
    rates = np.empty(resamples)
    for i in range(resamples):
        drawn = generator.integers(0, len(counts), len(counts))
        rates[i] = errors[drawn].sum() / max(lengths[drawn].sum(), 1.0)
    low, high = np.quantile(rates, [0.025, 0.975])
    return (float(low), float(high))


def _count(reference: Sequence[str], hypothesis: Sequence[str]) -> ErrorCounts:
    kinds = {"replace": 0, "delete": 0, "insert": 0}
    for operation in Levenshtein.editops(reference, hypothesis):
        kinds[operation.tag] += 1
    return ErrorCounts(kinds["replace"], kinds["delete"], kinds["insert"], len(reference))


# --- Where the errors are --------------------------------------------------------------------------------

Group = TypeVar("Group", bound=Hashable)

LENGTHS: tuple[Seconds, ...] = (2.0, 5.0, 10.0, 20.0)
NOISES: tuple[float, ...] = (10.0, 20.0, 30.0, 40.0)
"""Signal-to-noise ratios in dB."""
UNKNOWN = "unknown"
FEW = 3
"""Up to this many confusions are shown even if each occurs once."""


@dataclass(frozen=True)
class Confusion:
    """A reference unit, the hypothesis instead of it (``""``: none), and their count."""

    reference: str
    hypothesis: str
    count: int


@dataclass(frozen=True)
class GroupErrors:
    """The errors of a group of clips."""

    clips: int
    cer: ErrorCounts
    wer: ErrorCounts


def confusions(
    references: Sequence[str],
    hypotheses: Sequence[str],
    unit: Literal["word", "character"],
    most: int = 10,
    writing: Writings = None,
) -> list[Confusion]:
    """The ``most`` frequent substitutions, deletions and insertions in normalised texts."""
    found: Counter[tuple[str, str]] = Counter()
    each = _each(writing, len(references))
    for reference, hypothesis, own in zip(references, hypotheses, each, strict=True):
        pair = (reference, hypothesis)
        if unit == "word" and own is not None:
            pair = (" ".join(own.count_units(reference)), " ".join(own.count_units(hypothesis)))
        found.update((e.reference, e.hypothesis) for e in alignment(*pair, unit) if e.kind != "equal")
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [Confusion(*pair, count) for pair, count in ranked[:most]]


def repeated_confusions(found: Sequence[Confusion]) -> list[Confusion]:
    """Those of ranked confusions that occur more than once; all of them if there are only ``FEW``."""
    return list(found) if len(found) <= FEW else [one for one in found if one.count > 1]


def by_group(
    references: Sequence[str],
    hypotheses: Sequence[str],
    groups: Sequence[Group],
    writing: Writings = None,
) -> dict[Group, GroupErrors]:
    """The errors of the clips of every group, groups in the order in which they first appear."""
    found: dict[Group, GroupErrors] = {}
    each = _each(writing, len(references))
    for reference, hypothesis, group, own in zip(references, hypotheses, groups, each, strict=True):
        before = found.get(group, GroupErrors(0, ErrorCounts(), ErrorCounts()))
        found[group] = GroupErrors(
            before.clips + 1,
            before.cer + character_errors(reference, hypothesis),
            before.wer + word_errors(reference, hypothesis, own),
        )
    return found


def mean_rates(parts: Sequence[GroupErrors | Score]) -> tuple[float, float]:
    """The means of CER and of WER over ``parts``, each counted once whatever its size."""
    return (
        sum(part.cer.rate for part in parts) / max(len(parts), 1),
        sum(part.wer.rate for part in parts) / max(len(parts), 1),
    )


def length_band(duration_s: Seconds, edges: Sequence[Seconds] = LENGTHS) -> str:
    """The range of lengths of a clip: ``under 2 s``, ``2 to 5 s``, …, ``over 20 s``."""
    return _band(duration_s, edges, "s")


def noise_band(snr_db: float, edges: Sequence[float] = NOISES) -> str:
    """The range of signal-to-noise ratios of a clip, such as ``10 to 20 dB``; ``unknown`` for NaN."""
    return UNKNOWN if math.isnan(snr_db) else _band(snr_db, edges, "dB")


def _band(value: float, edges: Sequence[float], unit: str) -> str:
    if value < edges[0]:
        return f"under {edges[0]:g} {unit}"
    for low, high in pairwise(edges):
        if value < high:
            return f"{low:g} to {high:g} {unit}"
    return f"over {edges[-1]:g} {unit}"
