"""Cut placed words into pieces at pauses and ends of sentences, and score each piece: how likely its words are wrong.

Legend: T frames, V tokens, K placed words, F features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lalia.align.pieces import LONGEST_S, SHORTEST_S
from lalia.align.placement import Placement
from lalia.decoding.forced_alignment import text_score
from lalia.text.edit_distance import distance
from lalia.units import Frames, Seconds

PAD_S: Seconds = 0.3
"""Silence kept before the first word and after the last one."""
_PAUSE_S, _LONG_PAUSE_S = 0.2, 0.5
_COSTS = {
    (True, 2): 0.0, (True, 1): 0.3, (True, 0): 3.0,
    (False, 2): 1.0, (False, 1): 2.0, (False, 0): 12.0,
}  # fmt: skip
"""Cost of a cut: (end of a sentence, no pause, a pause, a long one)."""
_PIECE, _SHORT, _LONG = 0.5, 8.0, 0.1
"""Costs of each piece, of each second that it is too short, and of each second above two thirds of the longest."""


@dataclass(frozen=True)
class Cut:
    """Placed words from ``first`` to before ``last``, and the frames of their piece, with silence around them."""

    first: int
    last: int
    start: Frames
    end: Frames


def cut(placement: Placement, ends_K: np.ndarray, levels_T: np.ndarray, frame_s: Seconds) -> list[Cut]:
    """The pieces of a recording. ``ends_K``: whether a sentence ends with the placed word; ``levels_T``: dB of each frame."""
    quiet_T = _quiet(levels_T)
    K = len(placement.words_K)
    begins = [*np.flatnonzero(placement.breaks_K).tolist(), K]
    cuts: list[Cut] = []
    for first, last in pairwise(begins):
        gaps = [_gap(placement, k, quiet_T, levels_T) for k in range(first, last - 1)]
        cuts += _best(placement, first, last, gaps, ends_K, frame_s)
    return [_padded(one, placement, cuts, n, len(levels_T), round(PAD_S / frame_s)) for n, one in enumerate(cuts)]


def _quiet(levels_T: np.ndarray) -> np.ndarray:
    """The frames of pauses: nearer to the quietest level of the recording than to speech."""
    if not len(levels_T):
        return np.zeros(0, bool)
    low, high = np.percentile(levels_T, [5, 80])
    return levels_T < low + 0.35 * (high - low)


def _gap(placement: Placement, k: int, quiet_T: np.ndarray, levels_T: np.ndarray) -> tuple[Frames, Frames]:
    """Between placed words k and k + 1: the length of the longest pause, and its middle (else the quietest frame)."""
    start, end = int(placement.frames_K2[k, 1]), int(placement.frames_K2[k + 1, 0])
    if end <= start:
        return 0, start
    inside = np.concatenate([[False], quiet_T[start:end], [False]])
    edges = np.flatnonzero(np.diff(inside.astype(np.int8)))
    if not len(edges):
        return 0, start + int(levels_T[start:end].argmin()) + (end - start > 1)
    lengths = edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(lengths[longest]), start + int(edges[2 * longest] + edges[2 * longest + 1] + 1) // 2


def _best(
    placement: Placement,
    first: int,
    last: int,
    gaps: Sequence[tuple[Frames, Frames]],
    ends_K: np.ndarray,
    frame_s: Seconds,
) -> list[Cut]:
    """The cheapest pieces of the words from ``first`` to before ``last``, by dynamic programming over their gaps."""
    n = last - first
    edge = [int(placement.frames_K2[first, 0]), *(at for _, at in gaps), int(placement.frames_K2[last - 1, 1])]
    cost = [0.0]
    for k, (pause, _) in enumerate(gaps):
        length_s = pause * frame_s
        kind = 2 if length_s >= _LONG_PAUSE_S else 1 if length_s >= _PAUSE_S else 0
        cost.append(_COSTS[bool(ends_K[first + k]), kind])
    cost.append(0.0)
    total, back = [0.0] + [math.inf] * n, [0] * (n + 1)
    for end in range(1, n + 1):
        for begin in range(end - 1, -1, -1):
            length_s = (edge[end] - edge[begin]) * frame_s
            if length_s > LONGEST_S - 2 * PAD_S and begin < end - 1:
                break
            length_cost = (
                _PIECE + _SHORT * max(0.0, SHORTEST_S - length_s) + _LONG * max(0.0, length_s - LONGEST_S / 1.5)
            )
            if total[begin] + length_cost + cost[end] < total[end]:
                total[end], back[end] = total[begin] + length_cost + cost[end], begin
    pieces: list[Cut] = []
    end = n
    while end:
        begin = back[end]
        pieces.append(Cut(first + begin, first + end, edge[begin], edge[end]))
        end = begin
    return pieces[::-1]


def _padded(one: Cut, placement: Placement, cuts: Sequence[Cut], number: int, frames: Frames, pad: Frames) -> Cut:
    """``one`` with at most ``pad`` frames of silence on both sides, which end in the middle of the way to its neighbours."""
    first, last = int(placement.frames_K2[one.first, 0]), int(placement.frames_K2[one.last - 1, 1])
    before = cuts[number - 1] if number else None
    after = cuts[number + 1] if number + 1 < len(cuts) else None
    low = 0 if before is None else one.start if before.end == one.start else (before.end + first) // 2
    high = frames if after is None else one.end if after.start == one.end else (after.start + last + 1) // 2
    return Cut(one.first, one.last, max(low, first - pad), min(high, last + pad))


# --- Scores ----------------------------------------------------------------------------------------------

FEATURES = ("deficit", "neighbours' deficit", "errors", "neighbours' errors", "letters", "at a break")
WEIGHTS = (-6.0, 0.6, 0.6, 1.0, 2.0, -0.2, 0.5)
"""Logistic regression of P(word is wrong): constant, then the features; fitted by benchmarks/align/calibrate.py."""
_NEAR = 2
"""Words on either side that count as neighbours."""


def evidence(
    placement: Placement, words: Sequence[Sequence[int]], heard: Sequence[np.ndarray], frames: Frames
) -> np.ndarray:
    """The features of each placed word, (K, F).

    ``words`` are the tokens of each placed word, ``heard`` those of the greedy transcript in its frames. The deficit per letter
    is relative to the median of the recording, so that it means the same for rough and for good recognisers.
    """
    K = len(words)
    if not K:
        return np.zeros((0, len(FEATURES)))
    total_T = np.concatenate([[0.0], np.cumsum(-placement.deficit_T, dtype=np.float64)])
    edges = territory(placement, frames)
    letters_K = np.array([len(word) for word in words], np.float64)
    deficit_K = (total_T[edges[:, 1]] - total_T[edges[:, 0]]) / letters_K
    deficit_K = np.log1p(deficit_K / max(float(np.median(deficit_K)), 0.1))
    errors_K = np.array(
        [min(1.0, distance(list(said), list(word)) / len(word)) for word, said in zip(words, heard, strict=True)]
    )
    at_break_K = placement.breaks_K.astype(np.float64)
    at_break_K[:-1] = np.maximum(at_break_K[:-1], placement.breaks_K[1:])
    at_break_K[-1] = 1.0
    return np.column_stack([deficit_K, _around(deficit_K), errors_K, _around(errors_K), np.log(letters_K), at_break_K])


def territory(placement: Placement, frames: Frames) -> np.ndarray:
    """The frames that belong to each placed word (K, 2): half of the way to its neighbours, no more than half a second."""
    starts, ends = placement.frames_K2[:, 0], placement.frames_K2[:, 1]
    edges = placement.frames_K2.copy()
    middle = (ends[:-1] + starts[1:] + 1) // 2
    edges[1:, 0], edges[:-1, 1] = np.maximum(middle, starts[1:] - 12), np.minimum(middle, ends[:-1] + 12)
    edges[0, 0], edges[-1, 1] = max(0, starts[0] - 3), min(frames, ends[-1] + 3)
    return edges


def _around(values_K: np.ndarray) -> np.ndarray:
    """The mean over each word and its neighbours."""
    width = 2 * _NEAR + 1
    padded = np.pad(values_K, _NEAR, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def wrong_probability(features_KF: np.ndarray, weights: Sequence[float] = WEIGHTS) -> np.ndarray:
    """The probability that each placed word is wrong, (K,)."""
    odds_K = weights[0] + features_KF @ np.asarray(weights[1:])
    return 1 / (1 + np.exp(-np.clip(odds_K, -30, 30)))


def margin(
    log_probs_TV: np.ndarray,
    words: Sequence[Sequence[int]],
    before: Sequence[int],
    after: Sequence[int],
    boundary: int | None,
) -> float:
    """Log-likelihood of ``words`` in the frames of their piece minus that of the second-best text, in nats.

    The others have a word less or more at an end: ``before`` and ``after`` are the words next to it in the text ([]: none).
    """
    own = text_score(log_probs_TV, words, boundary)
    others = [words[1:], words[:-1]] if len(words) > 1 else [[]]
    others += [[before, *words]] if before else []
    others += [[*words, after]] if after else []
    return own - max(text_score(log_probs_TV, other, boundary) for other in others)
