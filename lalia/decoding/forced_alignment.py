"""CTC forced alignment: the most likely path that spells a known text, and so the time of each letter.

T frames, V tokens, U tokens of the text, N = 2 U + 1 states: a blank, then each token followed by a blank.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lalia.text.tokens import Tokens


def frames_needed(ids: list[int]) -> int:
    """The fewest frames in which CTC can emit ``ids``: one each, and a blank between two equal ones."""
    return len(ids) + sum(a == b for a, b in pairwise(ids))


def require_frames(ids: list[int], frames: int) -> None:
    """Raise ``ValueError`` if ``frames`` are too few for CTC to emit ``ids``."""
    if (needed := frames_needed(ids)) > frames:
        raise ValueError(f"a text that needs {needed} frames does not fit into {frames}")


def align(log_probs_TV: np.ndarray, ids: list[int]) -> np.ndarray:
    """The most likely path through ``ids``: for each frame the index in ``ids`` of its token, or -1 for a blank, (T,) int64.

    Viterbi over the states of Graves et al. 2006, section 4. ``ValueError`` if the text needs more frames.
    ``lalia.models.recogniser.align`` finds the same path faster, with torch.
    """
    T, U = len(log_probs_TV), len(ids)
    require_frames(ids, T)
    states_N = np.zeros(2 * U + 1, np.int64)
    states_N[1::2] = ids
    # A blank may be skipped, unless it separates two equal tokens.
    jumps_N = np.zeros(2 * U + 1, bool)
    jumps_N[3::2] = states_N[3::2] != states_N[1:-2:2]

    emissions_TN = log_probs_TV[:, states_N].astype(np.float64)
    score_N = np.full(2 * U + 1, -np.inf)
    score_N[:2] = emissions_TN[0, :2]
    came_TN = np.zeros((T, 2 * U + 1), np.int8)  # by how many states the path advanced
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
    """For each frame the letter (or other symbol of ``tokens``) of the normalised ``text``: T of them.

    CTC emits a letter in a frame or two and blanks otherwise: a frame gets the nearest letter, and ``""`` if none is within
    ``reach`` frames or the nearest is a space. ``[]`` if ``text`` is empty, has a letter without a token, or does not fit.
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
