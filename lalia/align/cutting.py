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
from lalia.align.placement import Heard, Placement
from lalia.decoding.forced_alignment import text_score
from lalia.text.edit_distance import distance
from lalia.units import Frames, Seconds

PAD_S: Seconds = 0.3
"""Silence kept before the first word and after the last one."""
_PAUSE_S, _LONG_PAUSE_S = 0.12, 0.4
_COSTS = {
    (True, 2): 0.0, (True, 1): 0.3, (True, 0): 3.0,
    (False, 2): 1.0, (False, 1): 2.0, (False, 0): 12.0,
}  # fmt: skip
"""Cost of a cut: (end of a sentence, no pause, a pause, a long one)."""
_PIECE, _SHORT, _LONG, _UNCLEAR = 0.5, 8.0, 0.1, 0.6
"""Costs of each piece, of each second that it is too short, of each second above two thirds of the longest, and of each second
of a piece with an end that is not in a pause."""
_REACH_S, _LEAST_QUIET_S = 0.3, 0.12
"""Beside a break, silence of the second length must begin within the first of the word: else another word may touch it."""


@dataclass(frozen=True)
class Cut:
    """Placed words from ``first`` to before ``last``, the frames of their piece with silence around them, and whether both of
    its ends are in pauses."""

    first: int
    last: int
    start: Frames
    end: Frames
    clear: bool


def cut(placement: Placement, heard: Heard, ends_K: np.ndarray, levels_T: np.ndarray, frame_s: Seconds) -> list[Cut]:
    """The pieces of a recording. ``ends_K``: whether a sentence ends with the placed word; ``levels_T``: dB of each frame."""
    letters_T = np.zeros(len(levels_T), bool)
    letters_T[heard.starts] = True
    quiet_T = _quiet(levels_T)
    begins = [*np.flatnonzero(placement.breaks_K).tolist(), len(placement.words_K)]
    cuts: list[Cut] = []
    for first, last in pairwise(begins):
        cuts += _pieces_of_run(placement, first, last, ends_K, quiet_T, levels_T, letters_T, frame_s)
    return cuts


def _quiet(levels_T: np.ndarray) -> np.ndarray:
    """The frames of pauses: nearer to the quietest level of the recording than to speech."""
    if not len(levels_T):
        return np.zeros(0, bool)
    low, high = np.percentile(levels_T, [5, 80])
    return levels_T < low + 0.35 * (high - low)


def _runs_of(quiet_T: np.ndarray) -> np.ndarray:
    """The first frame and the one after the last of each run of True, (R, 2)."""
    return np.flatnonzero(np.diff(np.concatenate([[False], quiet_T, [False]]).astype(np.int8))).reshape(-1, 2)


def _gap(placement: Placement, k: int, quiet_T: np.ndarray, levels_T: np.ndarray) -> tuple[Frames, Frames]:
    """Between placed words k and k + 1: the length of the longest pause, and its middle (else the quietest frame)."""
    start, end = int(placement.frames_K2[k, 1]), int(placement.frames_K2[k + 1, 0])
    if end <= start:
        return 0, start
    runs = _runs_of(quiet_T[start:end])
    if not len(runs):
        return 0, start + int(levels_T[start:end].argmin()) + (end - start > 1)
    longest = int((runs[:, 1] - runs[:, 0]).argmax())
    return int(runs[longest, 1] - runs[longest, 0]), start + int(runs[longest].sum() + 1) // 2


def _edge(
    at: Frames, step: int, limit: Frames, quiet_T: np.ndarray, letters_T: np.ndarray, frame_s: Seconds
) -> tuple[Frames, bool]:
    """The end of a run of words beside a break: how far silence goes from frame ``at`` in the direction ``step`` (1 or -1), at
    most ``PAD_S`` and not beyond frame ``limit``; and whether there is silence, with no other letter before it."""
    reach, least, pad = (round(seconds / frame_s) for seconds in (_REACH_S, _LEAST_QUIET_S, PAD_S))
    stop = min(limit, at + reach + pad) if step > 0 else max(limit, at - reach - pad)
    ahead = slice(at, stop) if step > 0 else slice(stop, at)
    quiet_T, letters_T = quiet_T[ahead][::step], letters_T[ahead][::step]
    for begin, end in _runs_of(quiet_T).tolist():
        if begin > reach:
            break
        if end - begin >= least or end == len(quiet_T):
            last = min(end, max(pad, begin + least))
            return at + step * last, not letters_T[:last].any()
    return at, len(quiet_T) == 0


def _pieces_of_run(
    placement: Placement,
    first: int,
    last: int,
    ends_K: np.ndarray,
    quiet_T: np.ndarray,
    levels_T: np.ndarray,
    letters_T: np.ndarray,
    frame_s: Seconds,
) -> list[Cut]:
    """The cheapest pieces of the words from ``first`` to before ``last``, by dynamic programming over their gaps."""
    K, T = len(placement.words_K), len(quiet_T)
    low = int(placement.frames_K2[first - 1, 1]) if first else 0
    high = int(placement.frames_K2[last, 0]) if last < K else T
    start, clear_start = _edge(int(placement.frames_K2[first, 0]), -1, low, quiet_T, letters_T, frame_s)
    end, clear_end = _edge(int(placement.frames_K2[last - 1, 1]), 1, high, quiet_T, letters_T, frame_s)
    gaps = [_gap(placement, k, quiet_T, levels_T) for k in range(first, last - 1)]
    n = last - first
    edges = [start, *(at for _, at in gaps), end]
    costs, clear = [0.0], [clear_start]
    for k, (pause, _) in enumerate(gaps):
        kind = 2 if pause * frame_s >= _LONG_PAUSE_S else 1 if pause * frame_s >= _PAUSE_S else 0
        costs.append(_COSTS[bool(ends_K[first + k]), kind])
        clear.append(kind > 0)
    costs.append(0.0)
    clear.append(clear_end)
    total, back = [0.0] + [math.inf] * n, [0] * (n + 1)
    for stop in range(1, n + 1):
        for begin in range(stop - 1, -1, -1):
            length_s = (edges[stop] - edges[begin]) * frame_s
            if length_s > LONGEST_S and begin < stop - 1:
                break
            cost = costs[stop] + _PIECE
            if clear[begin] and clear[stop]:
                cost += _SHORT * max(0.0, SHORTEST_S - length_s) + _LONG * max(0.0, length_s - LONGEST_S / 1.5)
            else:
                cost += _UNCLEAR * length_s
            if total[begin] + cost < total[stop]:
                total[stop], back[stop] = total[begin] + cost, begin
    pieces: list[Cut] = []
    stop = n
    while stop:
        begin = back[stop]
        pad = round(PAD_S / frame_s)
        words = placement.frames_K2[first + begin, 0], placement.frames_K2[first + stop - 1, 1]
        frames = max(edges[begin], int(words[0]) - pad), min(edges[stop], int(words[1]) + pad)
        pieces.append(Cut(first + begin, first + stop, *frames, clear[begin] and clear[stop]))
        stop = begin
    return pieces[::-1]


# --- Scores ----------------------------------------------------------------------------------------------

FEATURES = ("deficit", "neighbours' deficit", "errors", "neighbours' errors", "letters", "at a break")
WEIGHTS = (-7.831, 1.946, 0.362, 1.608, -0.241, -0.169, 0.33)
"""Logistic regression of P(word is wrong): constant, then the features; fitted by benchmarks/align/calibrate.py."""
BRIDGED = 0.5
"""P(word is wrong) of words that are only assumed to be where they are."""
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
