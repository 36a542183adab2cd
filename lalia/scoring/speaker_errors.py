"""Errors of speakers: the diarization error rate (DER) and the word error rate of concatenated speakers (cpWER).

DER as NIST's md-eval and pyannote.metrics count it; cpWER as in CHiME-6 (Watanabe et al. 2020) and meeteval. ``collar_s`` is the
time on each side of a reference boundary that is not scored: md-eval's 0.25 is pyannote's 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lalia.scoring.rates import ErrorCounts, word_errors
from lalia.speakers.rttm import SpeakerTurn
from lalia.units import Seconds


@dataclass(frozen=True)
class SpeakerErrors:
    """Seconds of speech that are missed, false, or given to another speaker; ``reference_s`` counts overlap once per speaker."""

    missed_s: Seconds = 0.0
    false_s: Seconds = 0.0
    confused_s: Seconds = 0.0
    reference_s: Seconds = 0.0

    def __add__(self, other: SpeakerErrors) -> SpeakerErrors:
        return SpeakerErrors(
            self.missed_s + other.missed_s,
            self.false_s + other.false_s,
            self.confused_s + other.confused_s,
            self.reference_s + other.reference_s,
        )

    @property
    def rate(self) -> float:
        """DER: 0.25 is 25 %; may exceed 1. NaN if the reference has no speech."""
        errors = self.missed_s + self.false_s + self.confused_s
        return errors / self.reference_s if self.reference_s else float("nan")


def diarization_errors(
    reference: Sequence[SpeakerTurn],
    hypothesis: Sequence[SpeakerTurn],
    collar_s: Seconds = 0.0,
    overlap: bool = True,
) -> SpeakerErrors:
    """The errors of one recording with the names of its hypothesis matched to give the fewest.

    Without ``overlap``, time in which the reference has several speakers is not scored. Overlapping turns of one speaker count
    once.
    """
    edges = {edge for turn in [*reference, *hypothesis] for edge in (turn.start_s, turn.end_s)}
    boundaries = sorted({edge for turn in reference for edge in (turn.start_s, turn.end_s)})
    edges |= {edge + sign * collar_s for edge in boundaries for sign in (-1, 1) if collar_s}
    places = np.array(sorted(edges))
    if len(places) < 2:
        return SpeakerErrors()
    lengths_I, middles_I = np.diff(places), (places[1:] + places[:-1]) / 2
    if collar_s:
        near = np.searchsorted(boundaries, middles_I)
        padded = np.array([-np.inf, *boundaries, np.inf])
        lengths_I = lengths_I * (np.minimum(middles_I - padded[near], padded[near + 1] - middles_I) > collar_s)
    reference_RI, hypothesis_HI = _active(reference, middles_I), _active(hypothesis, middles_I)
    if not overlap:
        lengths_I = lengths_I * (reference_RI.sum(0) <= 1)
    talking_I, found_I = reference_RI.sum(0), hypothesis_HI.sum(0)
    shared_RH = (reference_RI * lengths_I) @ hypothesis_HI.T
    correct_I = np.zeros(len(lengths_I))
    for row, column in assign(-shared_RH):
        correct_I += reference_RI[row] * hypothesis_HI[column]
    both_I = np.minimum(talking_I, found_I)
    return SpeakerErrors(
        float(((talking_I - both_I) * lengths_I).sum()),
        float(((found_I - both_I) * lengths_I).sum()),
        float(((both_I - correct_I) * lengths_I).sum()),
        float((talking_I * lengths_I).sum()),
    )


def _active(turns: Sequence[SpeakerTurn], middles_I: np.ndarray) -> np.ndarray:
    """Which speaker talks in which interval, (speakers, I) of 0 and 1."""
    speakers = {speaker: row for row, speaker in enumerate(sorted({turn.speaker for turn in turns}))}
    active_KI = np.zeros((len(speakers), len(middles_I)))
    for turn in turns:
        first, last = np.searchsorted(middles_I, (turn.start_s, turn.end_s))
        active_KI[speakers[turn.speaker], first:last] = 1
    return active_KI


def concatenated_word_errors(reference: Mapping[str, str], hypothesis: Mapping[str, str]) -> ErrorCounts:
    """cpWER of normalised texts by speaker, each in order of time: the matching of speakers with the fewest word errors.

    A speaker too many or too few counts with all words inserted or deleted.
    """
    size = max(len(reference), len(hypothesis))
    rows = [*reference.values()] + [""] * (size - len(reference))
    columns = [*hypothesis.values()] + [""] * (size - len(hypothesis))
    counts = [[word_errors(row, column) for column in columns] for row in rows]
    costs = np.array([[count.errors for count in row] for row in counts], float).reshape(size, size)
    return sum((counts[row][column] for row, column in assign(costs)), ErrorCounts())


def assign(costs_RH: np.ndarray) -> list[tuple[int, int]]:
    """Rows and columns matched one to one with the smallest sum of costs (Kuhn 1955), the smaller side completely.

    By shortest augmenting paths with potentials, rows · rows · columns steps.
    """
    if costs_RH.shape[0] > costs_RH.shape[1]:
        return sorted((row, column) for column, row in assign(costs_RH.T))
    rows, columns = costs_RH.shape
    row_potential, column_potential = np.zeros(rows + 1), np.zeros(columns + 1)
    matched = np.zeros(columns + 1, int)  # row + 1 of each column + 1; 0: free
    for row in range(1, rows + 1):
        matched[0], column = row, 0
        slack, before = np.full(columns + 1, np.inf), np.zeros(columns + 1, int)
        done = np.zeros(columns + 1, bool)
        while matched[column]:
            done[column] = True
            reduced = costs_RH[matched[column] - 1] - row_potential[matched[column]] - column_potential[1:]
            better = ~done[1:] & (reduced < slack[1:])
            slack[1:][better], before[1:][better] = reduced[better], column
            free = np.where(done, np.inf, slack)
            free[0] = np.inf
            following = int(free.argmin())
            step = free[following]
            row_potential[matched[done]] += step
            column_potential[done] -= step
            slack[~done] -= step
            column = following
        while column:
            matched[column] = matched[before[column]]
            column = int(before[column])
    return sorted((int(row) - 1, place) for place, row in enumerate(matched[1:]) if row)
