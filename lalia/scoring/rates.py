"""Error rates: words and characters wrong, as counts that can be added, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rapidfuzz.distance import Levenshtein

Interval = tuple[float, float]

RESAMPLES = 1000
SEED = 20_240_229


@dataclass(frozen=True)
class ErrorCounts:
    """How many units of ``reference`` were substituted, deleted, and how many were inserted; adds up over clips."""

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
    """Error counts of many clips; the intervals hold the rate of 95 % of bootstrap resamples of the clips."""

    cer: ErrorCounts
    wer: ErrorCounts
    cer_interval: Interval
    wer_interval: Interval
    clips: int


@dataclass(frozen=True)
class Edit:
    """One step from reference to hypothesis; the side that has no unit there is empty."""

    kind: Literal["equal", "substitution", "deletion", "insertion"]
    reference: str
    hypothesis: str


def character_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Characters wrong, spaces between words counted as characters."""
    return _count(" ".join(reference.split()), " ".join(hypothesis.split()))


def word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Words wrong; words are what white space separates."""
    return _count(reference.split(), hypothesis.split())


def score(references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """CER and WER over clips (errors of all by length of all), with bootstrap intervals; both sides normalised before.

    Resampled are clips, not words, since errors of one clip come together (Bisani and Ney 2004). The seed is fixed.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references for {len(hypotheses)} hypotheses; expected as many")
    cers = [character_errors(r, h) for r, h in zip(references, hypotheses, strict=True)]
    wers = [word_errors(r, h) for r, h in zip(references, hypotheses, strict=True)]
    return Score(
        sum(cers, ErrorCounts()),
        sum(wers, ErrorCounts()),
        bootstrap_interval(cers),
        bootstrap_interval(wers),
        len(cers),
    )


def bootstrap_interval(counts: Sequence[ErrorCounts], resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """The 2.5 % and 97.5 % points of the rate when the clips are drawn again with replacement ``resamples`` times."""
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


def alignment(reference: str, hypothesis: str, unit: Literal["word", "character"] = "word") -> list[Edit]:
    """The steps from ``reference`` to ``hypothesis``, one per word or character, in reading order."""
    was: Sequence[str] = reference.split() if unit == "word" else " ".join(reference.split())
    now: Sequence[str] = hypothesis.split() if unit == "word" else " ".join(hypothesis.split())
    edits: list[Edit] = []
    for step in Levenshtein.opcodes(was, now):
        old, new = was[step.src_start : step.src_end], now[step.dest_start : step.dest_end]
        if step.tag == "equal":
            edits += [Edit("equal", same, same) for same in old]
        elif step.tag == "replace":
            edits += [Edit("substitution", r, h) for r, h in zip(old, new, strict=True)]
        elif step.tag == "delete":
            edits += [Edit("deletion", r, "") for r in old]
        else:
            edits += [Edit("insertion", "", h) for h in new]
    return edits


def _count(reference: Sequence[str], hypothesis: Sequence[str]) -> ErrorCounts:
    kinds = {"replace": 0, "delete": 0, "insert": 0}
    for operation in Levenshtein.editops(reference, hypothesis):
        kinds[operation.tag] += 1
    return ErrorCounts(kinds["replace"], kinds["delete"], kinds["insert"], len(reference))
