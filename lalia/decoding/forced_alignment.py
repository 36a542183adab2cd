"""CTC forced alignment: the most likely path that spells a known text, so when each letter is spoken.

T frames, V tokens, U tokens of the text, N = 2 U + 1 states: a blank, then each token followed by a blank.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lalia.text.tokens import Tokens


def frames_needed(ids: list[int]) -> int:
    """The fewest frames in which CTC can say ``ids``: one each, and a blank between two that are equal."""
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def require_frames(ids: list[int], frames: int) -> None:
    """A ValueError where there are fewer ``frames`` than CTC takes to say ``ids``."""
    if (needed := frames_needed(ids)) > frames:
        raise ValueError(f"a text that takes {needed} frames cannot be said in {frames}")


def align(log_probs_TV: np.ndarray, ids: list[int]) -> np.ndarray:
    """The token said in each frame on the likeliest path through ``ids``: (T,) int64, its place in ``ids`` or -1 for a blank.

    Viterbi over the states of Graves et al. 2006, section 4. ValueError where there are fewer frames than the text takes.
    Where torch is there, ``lalia.models.recogniser`` finds the same path sooner.
    """
    T, U = len(log_probs_TV), len(ids)
    require_frames(ids, T)
    states_N = np.zeros(2 * U + 1, np.int64)
    states_N[1::2] = ids
    # A blank may be jumped over, unless it parts two equal tokens.
    jumps_N = np.zeros(2 * U + 1, bool)
    jumps_N[3::2] = states_N[3::2] != states_N[1:-2:2]

    emissions_TN = log_probs_TV[:, states_N].astype(np.float64)
    score_N = np.full(2 * U + 1, -np.inf)
    score_N[:2] = emissions_TN[0, :2]
    came_TN = np.zeros((T, 2 * U + 1), np.int8)  # how many states back the path was one frame before
    for t in range(1, T):
        choices_3N = np.full((3, 2 * U + 1), -np.inf)
        choices_3N[0] = score_N
        choices_3N[1, 1:] = score_N[:-1]
        choices_3N[2, 2:] = np.where(jumps_N[2:], score_N[:-2], -np.inf)
        came_TN[t] = choices_3N.argmax(0)
        score_N = choices_3N.max(0) + emissions_TN[t]
    state = 2 * U - (U > 0 and score_N[2 * U - 1] > score_N[2 * U])
    path_T = np.empty(T, np.int64)
    for t in range(T - 1, -1, -1):
        path_T[t] = state
        state -= came_TN[t, state]
    return np.where(path_T % 2 == 1, path_T // 2, -1)


def letters_of_frames(log_probs_TV: np.ndarray, tokens: Tokens, text: str, reach: int = 3) -> list[str]:
    """The letter (or other symbol of ``tokens``) said in each frame when ``text`` (normalised) is said: T of them.

    CTC marks a letter in a frame or two and leaves the rest blank: a frame gets the letter whose mark is nearest, and ``""``
    where none is within ``reach`` frames or the nearest is the space between words. No letters at all (``[]``) where ``text``
    is empty, has a letter without a token, or does not fit the frames.
    """
    if not text or tokens.unknown(text):
        return []
    ids = tokens.encode(text)
    try:
        path_T = align(log_probs_TV, ids)
    except ValueError:
        return []
    marks = np.flatnonzero(path_T >= 0)
    distances_TM = np.abs(np.arange(len(path_T))[:, None] - marks[None, :])
    nearest_T = distances_TM.argmin(1)
    close_T = distances_TM.min(1) <= reach
    symbols = [tokens.decode([i]).strip() for i in ids]
    return [symbols[path_T[marks[m]]] if close else "" for m, close in zip(nearest_T, close_T, strict=True)]
