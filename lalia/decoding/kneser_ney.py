"""N-grams from text: interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998; Heafield et al. 2013).

P positions of the text, N n-grams of one length. Everything is counted by sorting numbers: an n-gram's number is its rank
among those of its length, so that a longer one is the pair (number of all but its last symbol, last symbol).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lalia.decoding.ngrams import BEGIN, END, SPECIALS, Level, Ngrams
from lalia.exits import UserError

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts of n-grams seen once, twice, more often, where the text is too short or too odd to estimate them."""


@dataclass(frozen=True)
class _Counts:
    """The n-grams of one length: numbers of their first n - 1 symbols and of their last ones, and how often seen."""

    prefixes: np.ndarray
    suffixes: np.ndarray
    symbols: np.ndarray
    counts: np.ndarray
    begins: np.ndarray  # whether it starts with <s>, where nothing can stand before


def estimate(sentences: Sequence[Sequence[str]], order: int) -> Ngrams:
    """The model of ``sentences``, sequences of symbols, with n-grams up to ``order`` symbols.

    Symbols written ``<unk>`` count as the unknown one. A ``UserError`` where there is no text.
    """
    sentences = [sentence for sentence in sentences if len(sentence)]
    if not sentences:
        raise UserError("language model: the text holds no words; expected sentences, one a line")
    if order < 1:
        raise ValueError(f"order {order}: expected 1 or more")
    words = sorted({symbol for sentence in sentences for symbol in sentence} - set(SPECIALS))
    symbols = [*SPECIALS, *words]
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    stream_P = np.fromiter(
        (i for sentence in sentences for i in (BEGIN, *(ids[s] for s in sentence), END)), dtype=np.int64
    )
    return Ngrams(symbols, _smooth(_count(stream_P, order, len(symbols))))


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """What is taken from n-grams seen once, twice, and more often (Chen and Goodman 1998, equation 26)."""
    seen = [int((counts == k).sum()) for k in range(1, 5)]
    if not all(seen):
        return FALLBACK
    y = seen[0] / (seen[0] + 2 * seen[1])
    found = tuple(k - (k + 1) * y * seen[k] / seen[k - 1] for k in (1, 2, 3))
    if any(not 0 < found[k] <= k + 1 for k in range(3)):
        return FALLBACK
    return found[0], found[1], found[2]


def _count(stream_P: np.ndarray, order: int, vocabulary: int) -> list[_Counts]:
    """The n-grams of every length up to ``order``; ``counts`` of all but the longest are those of what stands before."""
    P = len(stream_P)
    sentence_P = np.cumsum(stream_P == BEGIN)
    numbers_P = stream_P  # of the n-gram that starts at each position; -1 where it would cross a sentence's end
    levels = [
        _Counts(
            np.zeros(vocabulary, np.int64),
            np.zeros(vocabulary, np.int64),
            np.arange(vocabulary),
            np.bincount(stream_P, minlength=vocabulary),
            np.arange(vocabulary) == BEGIN,
        )
    ]
    for n in range(2, order + 1):
        starts = np.arange(P - n + 1)
        starts = starts[(sentence_P[starts] == sentence_P[starts + n - 1])]
        keys = numbers_P[starts] * vocabulary + stream_P[starts + n - 1]
        unique, first, number, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        prefixes = unique // vocabulary
        shorter = levels[-1]
        here = _Counts(prefixes, numbers_P[starts[first] + 1], unique % vocabulary, counts, shorter.begins[prefixes])
        # Of a shorter n-gram it counts in how many contexts it stands, unless it starts the sentence.
        contexts = np.bincount(here.suffixes, minlength=len(shorter.counts))
        levels[-1] = _Counts(
            shorter.prefixes,
            shorter.suffixes,
            shorter.symbols,
            np.where(shorter.begins, shorter.counts, contexts),
            shorter.begins,
        )
        levels.append(here)
        numbers_P = np.full(P, -1, np.int64)
        numbers_P[starts] = number
    return levels


def _smooth(levels: Sequence[_Counts]) -> list[Level]:
    """Probabilities and back-off weights: every length takes a discount and hands it to the next shorter one."""
    probs: list[np.ndarray] = []
    backoffs: list[np.ndarray] = []
    for n, level in enumerate(levels):
        counts = level.counts.astype(np.float64)
        if n == 0:
            counts[BEGIN] = 0  # never follows anything
        taken = np.array([0.0, *discounts(level.counts[~level.begins] if n == 0 else level.counts)])
        taken_N = np.minimum(taken[np.minimum(counts, 3).astype(np.int64)], counts)
        contexts = 1 if n == 0 else len(levels[n - 1].counts)
        total = np.bincount(level.prefixes, counts, contexts)
        left = np.bincount(level.prefixes, taken_N, contexts)
        handed = np.divide(left, total, out=np.ones(contexts), where=total > 0)
        prob = (counts - taken_N) / np.maximum(total, 1)[level.prefixes]
        if n == 0:
            everything = len(counts) - 1  # <unk> and </s> with the words, but not <s>
            probs.append(prob + handed[0] / everything)
        else:
            probs.append(prob + handed[level.prefixes] * probs[-1][level.suffixes])
            backoffs.append(handed)
    probs[0][BEGIN] = 10.0**-99  # as ARPA files say that it never follows anything
    return [
        Level(
            level.symbols.astype(np.int32),
            np.log(prob).astype(np.float32),
            np.log(backoffs[n]).astype(np.float32) if n < len(backoffs) else np.zeros(0, np.float32),
            children(levels[n + 1].prefixes, len(prob)) if n + 1 < len(levels) else np.zeros(0, np.int64),
        )
        for n, (level, prob) in enumerate(zip(levels, probs, strict=True))
    ]


def children(prefixes: np.ndarray, parents: int) -> np.ndarray:
    """Where the children of each of ``parents`` n-grams begin among the next longer ones, which are sorted by prefix."""
    return np.searchsorted(prefixes, np.arange(parents + 1)).astype(np.int64)
