"""Chains: find where parts of a text are spoken in a recording, by letters that the greedy transcript shares with it.

Seeds are runs of equal letters (k-mers that are rare in the text). Seeds in the same order and at similar distances form
chains, as in the alignment of genomes (Li 2018, minimap2, 2.1.1). A chain needs no word to be right, so a rough recogniser will
do; several chains tell text that is not spoken, audio that is not in the text, and parts in another order.

Positions are letters: of the transcript (``heard``) and of the text (``written``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SHORTEST_SEED, LONGEST_SEED = 5, 9
"""Letters of a seed: the fewest that occur by chance in one place of the text or none."""
MOST_PLACES = 3
"""Places of a seed in the text; more say little."""
REACH = 500
"""Letters between two seeds of a chain, on either side: half a minute."""
LOOK_BACK = 80
LEAST_SCORE = 24.0
_GAP, _LOG_GAP = 0.05, 0.5
"""Costs of a letter that one side has more than the other between two seeds, and of log2 of their number."""
_CHANCE, _DROP = 0.02, 20.0
"""Letters of seeds that a letter of unrelated text gives by chance, at most; a chain ends where it falls behind by the second."""
_OVERLAP = 0.5
"""A chain is dropped if more than this share of it lies in better ones."""


Allowed = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Letters heard (M,), letters written (M,) → (M,) bool."""


@dataclass(frozen=True)
class Chain:
    """Seeds (M, 3) int64, ascending: first letter heard, first letter written, number of letters; and the chain's score."""

    seeds_M3: np.ndarray
    score: float

    @property
    def heard(self) -> tuple[int, int]:
        """Its first letter of the transcript, and the one after its last."""
        return int(self.seeds_M3[0, 0]), int(self.seeds_M3[-1, 0] + self.seeds_M3[-1, 2])

    @property
    def written(self) -> tuple[int, int]:
        """The same of the text."""
        return int(self.seeds_M3[0, 1]), int(self.seeds_M3[-1, 1] + self.seeds_M3[-1, 2])


def find_chains(heard: np.ndarray, written: np.ndarray, allowed: Allowed | None = None) -> list[Chain]:
    """The chains of a transcript and a text (token ids without boundaries), in the order of the transcript.

    No letter of either side is in two chains. ``allowed`` tells which seeds may be used, by their first letters.
    """
    seeds_M3 = _seeds(heard, written)
    if allowed is not None:
        seeds_M3 = seeds_M3[allowed(seeds_M3[:, 0], seeds_M3[:, 1])]
    found = sorted(_chain(seeds_M3), key=lambda chain: -chain.score)
    kept: list[Chain] = []
    taken_heard, taken_written = np.zeros(len(heard), bool), np.zeros(len(written), bool)
    for chain in found:
        rest = _outside(chain, taken_heard, taken_written)
        if rest is None:
            continue
        taken_heard[slice(*rest.heard)] = True
        taken_written[slice(*rest.written)] = True
        kept.append(rest)
    return sorted(kept, key=lambda chain: chain.heard)


def seed_length(written: int, symbols: int) -> int:
    """Letters of a seed for a text of ``written`` letters out of ``symbols``."""
    bits = max(1.5, 0.5 * np.log2(max(symbols, 2)))  # per letter of running text, roughly
    return int(np.clip(np.ceil(np.log2(max(written, 2)) / bits), SHORTEST_SEED, LONGEST_SEED))


def _seeds(heard: np.ndarray, written: np.ndarray) -> np.ndarray:
    """Maximal runs of equal letters (M, 3) that hold a rare k-mer, by their place in the transcript."""
    symbols = int(max(heard.max(initial=0), written.max(initial=0))) + 1
    k = seed_length(len(written), symbols)
    if min(len(heard), len(written)) < k:
        return np.zeros((0, 3), np.int64)
    keys_H, keys_W = (_kmers(letters, k, symbols) for letters in (heard, written))
    order_W = np.argsort(keys_W, kind="stable")
    sorted_W = keys_W[order_W]
    first_H = np.searchsorted(sorted_W, keys_H, "left")
    count_H = np.searchsorted(sorted_W, keys_H, "right") - first_H
    usable_H = np.flatnonzero((count_H > 0) & (count_H <= MOST_PLACES))
    places = [
        np.stack([rows, order_W[first_H[rows] + n]], 1)
        for n in range(MOST_PLACES)
        if len(rows := usable_H[count_H[usable_H] > n])
    ]
    if not places:
        return np.zeros((0, 3), np.int64)
    matches_M2 = np.concatenate(places)
    diagonal_M = matches_M2[:, 1] - matches_M2[:, 0]
    order_M = np.lexsort((matches_M2[:, 0], diagonal_M))
    matches_M2, diagonal_M = matches_M2[order_M], diagonal_M[order_M]
    begins_M = np.ones(len(matches_M2), bool)
    begins_M[1:] = (np.diff(diagonal_M) != 0) | (np.diff(matches_M2[:, 0]) > k)
    starts = np.flatnonzero(begins_M)
    lasts = np.append(starts[1:], len(matches_M2)) - 1
    lengths = matches_M2[lasts, 0] - matches_M2[starts, 0] + k
    seeds_M3 = np.column_stack([matches_M2[starts], lengths])
    return seeds_M3[np.lexsort((seeds_M3[:, 1], seeds_M3[:, 0]))]


def _kmers(letters: np.ndarray, k: int, symbols: int) -> np.ndarray:
    keys = np.zeros(len(letters) - k + 1, np.uint64)
    for i in range(k):
        keys = keys * np.uint64(symbols) + letters[i : len(letters) - k + 1 + i].astype(np.uint64)
    return keys


def _chain(seeds_M3: np.ndarray) -> list[Chain]:
    """Chains by dynamic programming over the ``LOOK_BACK`` seeds before each."""
    M = len(seeds_M3)
    heard_M, written_M, length_M = seeds_M3.T.astype(np.float64) if M else np.zeros((3, 0))
    score_M = length_M.copy()
    before_M = np.full(M, -1)
    for m in range(1, M):
        past = slice(max(0, m - LOOK_BACK), m)
        step_h, step_w = heard_M[m] - heard_M[past], written_M[m] - written_M[past]
        fine = (step_h > 0) & (step_w > 0) & (step_h <= REACH + length_M[past]) & (step_w <= REACH + length_M[past])
        if not fine.any():
            continue
        # Seeds may overlap: only letters beyond the one before count.
        gain = np.minimum(length_M[m], np.minimum(step_h, step_w) - length_M[past] + length_M[m])
        drift = np.abs(step_h - step_w)
        total = np.where(fine, score_M[past] + gain - _GAP * drift - _LOG_GAP * np.log2(drift + 1), -np.inf)
        best = int(total.argmax())
        if total[best] > score_M[m]:
            score_M[m], before_M[m] = total[best], past.start + best
    used_M = np.zeros(M, bool)
    chains = []
    for end in np.argsort(-score_M, kind="stable").tolist():
        if score_M[end] < LEAST_SCORE:
            break
        rows = []
        at = end
        while at >= 0 and not used_M[at]:
            rows.append(at)
            used_M[at] = True
            at = int(before_M[at])
        chains += _dense_parts(seeds_M3[rows[::-1]], np.diff(score_M[rows[::-1]]))
    return chains


def _dense_parts(seeds_M3: np.ndarray, gains: np.ndarray) -> list[Chain]:
    """The parts of a chain between places where only chance seeds bridge two unrelated passages. ``gains``: of each seed after
    the first one."""
    if not len(seeds_M3):
        return []
    steps = np.minimum(*np.diff(seeds_M3[:, :2], axis=0).T) if len(seeds_M3) > 1 else np.zeros(0)
    worth = [float(seeds_M3[0, 2]), *(gains - _CHANCE * steps).tolist()]
    parts = []
    begin = top = 0
    total = highest = worth[0]
    for row in range(1, len(worth) + 1):
        if row < len(worth):
            total += worth[row]
            if total > highest:
                highest, top = total, row
        if row == len(worth) or total < highest - _DROP:
            if highest >= LEAST_SCORE:
                parts.append(Chain(seeds_M3[begin : top + 1], highest))
            if row == len(worth):
                break
            begin = top = row
            total = highest = float(seeds_M3[row, 2])
        elif total < 0:
            begin = top = row
            total = highest = float(seeds_M3[row, 2])
    return parts


def _outside(chain: Chain, taken_heard: np.ndarray, taken_written: np.ndarray) -> Chain | None:
    """The longest run of the chain's seeds whose span is free on both sides; None if little is left."""
    free = [
        not taken_heard[h : h + n].any() and not taken_written[w : w + n].any() for h, w, n in chain.seeds_M3.tolist()
    ]
    spans, begin = [], 0
    for row in range(1, len(free) + 1):
        if (
            row < len(free)
            and free[row] == free[begin]
            and not (free[row] and _covered(chain, row, taken_heard, taken_written))
        ):
            continue
        if free[begin]:
            spans.append((begin, row))
        begin = row
    letters = chain.seeds_M3[:, 2]
    if not spans:
        return None
    begin, end = max(spans, key=lambda span: letters[span[0] : span[1]].sum())
    share = letters[begin:end].sum() / letters.sum()
    if share * chain.score < LEAST_SCORE:
        return None
    return Chain(chain.seeds_M3[begin:end], float(share * chain.score))


def _covered(chain: Chain, row: int, taken_heard: np.ndarray, taken_written: np.ndarray) -> bool:
    """Whether a better chain lies between a seed and the one before it."""
    (h0, w0, n0), (h1, w1, _) = chain.seeds_M3[row - 1].tolist(), chain.seeds_M3[row].tolist()
    return bool(taken_heard[h0 + n0 : h1].any() or taken_written[w0 + n0 : w1].any())
