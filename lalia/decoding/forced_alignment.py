"""CTC forced alignment: the most likely path that spells a known text, and so the time of each letter.

T frames, V tokens, U tokens of the text, N = 2 U + 1 states: a blank, then each token followed by a blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lalia.text.tokens import Tokens


def frames_needed(ids: Sequence[int]) -> int:
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


# --- Words of a text that may be missing from the audio, and audio that may be missing from the text ------

STAR, OPEN, SKIP, SKIPPED_WORD = 1.5, 30.0, 10.0, 0.1
"""Costs in nats: a frame of the star token below the best token of the frame, entering it, leaving out words, each word."""


@dataclass(frozen=True)
class WordPath:
    """Where words are: ``frames_W2`` (W, 2) int64 are the first frame and the one after the last, -1 for a word that is not
    there; ``deficit_T`` (T,) is the log-probability of the path's token minus that of the best one, 0 in frames outside of
    the text (``star_T``)."""

    frames_W2: np.ndarray
    deficit_T: np.ndarray
    star_T: np.ndarray


def align_words(log_probs_TV: np.ndarray, words: Sequence[Sequence[int]], boundary: int | None) -> WordPath:
    """The most likely path through ``words`` (token ids without boundaries) in which words and audio may be left out.

    Viterbi over CTC's states, with a star token before each word and after the last, as in Pratap et al. 2023 (MMS, 3.1): a
    star takes any number of frames at ``STAR`` nats each, and from it the path may continue at any later word. Between words
    blanks and ``boundary`` are one state. Memory is T times the letters of the words.
    """
    T, W = len(log_probs_TV), len(words)
    lengths_W = np.array([len(word) for word in words], np.int64)
    if W == 0 or T == 0 or not lengths_W.all():
        if not lengths_W.all():
            raise ValueError("a word has no tokens")
        return WordPath(np.full((W, 2), -1, np.int64), np.zeros(T, np.float32), np.ones(T, bool))
    ids_U = np.concatenate([np.asarray(word, np.int64) for word in words])
    firsts_W = np.cumsum(lengths_W) - lengths_W  # letters
    U = len(ids_U)
    N = 2 * U + 1
    gaps_G = np.append(2 * firsts_W, 2 * U)  # states between words; star g stands beside gap g
    jumps_N = np.zeros(N, bool)
    jumps_N[3::2] = ids_U[1:] != ids_U[:-1]
    best_T = log_probs_TV.max(1)
    between_T = log_probs_TV[:, 0] if boundary is None else np.maximum(log_probs_TV[:, 0], log_probs_TV[:, boundary])

    fall_G = SKIPPED_WORD * np.arange(W + 1)
    score_N = np.full(N, -np.inf)
    star_G = -(SKIP * (np.arange(W + 1) > 0) + fall_G) - STAR
    emission_N = _emissions(log_probs_TV[0], best_T[0], between_T[0], ids_U, gaps_G)
    score_N[:2] = emission_N[:2]
    came_TN = np.zeros((T, N), np.int8)  # by how many states the path advanced; 3 = from the star beside the gap
    came_TG = np.full(
        (T, W + 1), -1, np.int32
    )  # the star that it came from; -1 = the gap before, -2 = the letter before
    came_TG[0] = np.arange(W + 1)
    letters_W = gaps_G[:-1] + 1
    choice_N = np.empty(N)
    for t in range(1, T):
        came_N = came_TN[t]
        found_N = score_N.copy()
        # One state on.
        better_N = score_N[:-1] > found_N[1:]
        found_N[1:][better_N] = score_N[:-1][better_N]
        came_N[1:][better_N] = 1
        # Two, past a blank that nothing needs.
        choice_N[2:] = np.where(jumps_N[2:], score_N[:-2], -np.inf)
        better_N = choice_N[2:] > found_N[2:]
        found_N[2:][better_N] = choice_N[2:][better_N]
        came_N[2:][better_N] = 2
        # Out of a star: into the first letter of its word, or the gap before it.
        for states, step in ((letters_W, 3), (gaps_G, 4)):
            stars = star_G[:-1] if step == 3 else star_G
            better = stars > found_N[states]
            found_N[states[better]] = stars[better]
            came_N[states[better]] = step
        # Into a star, along it, or over words.
        into_G = score_N[gaps_G] - OPEN
        last_G = np.full(W + 1, -np.inf)
        last_G[1:] = score_N[gaps_G[1:] - 1] - OPEN
        source_G = came_TG[t]
        source_G[:] = np.arange(W + 1)
        stay_G = star_G.copy()
        over_G = star_G + fall_G
        top_G = np.maximum.accumulate(over_G)
        skip_G = np.full(W + 1, -np.inf)
        skip_G[1:] = top_G[:-1] - fall_G[1:] - SKIP
        better = skip_G > stay_G
        if better.any():
            at_G = np.maximum.accumulate(np.where(over_G >= top_G, np.arange(W + 1), 0))
            source_G[1:][better[1:]] = at_G[:-1][better[1:]]
            stay_G = np.maximum(stay_G, skip_G)
        for choice_G, code in ((into_G, -1), (last_G, -2)):
            better = choice_G > stay_G
            source_G[better] = code
            stay_G[better] = choice_G[better]
        star_G = stay_G - STAR
        score_N = found_N + _emissions(log_probs_TV[t], best_T[t], between_T[t], ids_U, gaps_G)
    return _trace(score_N, star_G, came_TN, came_TG, gaps_G, fall_G, lengths_W, log_probs_TV, best_T, between_T, ids_U)


def _emissions(
    log_probs_V: np.ndarray, best: float, between: float, ids_U: np.ndarray, gaps_G: np.ndarray
) -> np.ndarray:
    emission_N = np.empty(2 * len(ids_U) + 1)
    emission_N[0::2] = log_probs_V[0]
    emission_N[gaps_G] = between
    emission_N[1::2] = log_probs_V[ids_U]
    return emission_N - best


def _trace(
    score_N: np.ndarray, star_G: np.ndarray, came_TN: np.ndarray, came_TG: np.ndarray, gaps_G: np.ndarray,
    fall_G: np.ndarray, lengths_W: np.ndarray, log_probs_TV: np.ndarray, best_T: np.ndarray, between_T: np.ndarray,
    ids_U: np.ndarray,
) -> WordPath:  # fmt: skip
    """The path back from the best end: the last word's, or a star that leaves out the words after it."""
    T, W, N = len(came_TN), len(lengths_W), len(score_N)
    ends = star_G - np.where(np.arange(W + 1) < W, SKIP + fall_G[-1] - fall_G, 0.0)
    star = int(ends.argmax())
    state = N - 1 if score_N[N - 1] >= score_N[N - 2] else N - 2
    in_star = ends[star] > score_N[state]
    word_of_letter = np.repeat(np.arange(W), lengths_W)
    gap_of_state = {int(s): g for g, s in enumerate(gaps_G)}
    frames_W2 = np.full((W, 2), -1, np.int64)
    deficit_T, star_T = np.zeros(T, np.float32), np.zeros(T, bool)
    for t in range(T - 1, -1, -1):
        if in_star:
            star_T[t] = True
            source = int(came_TG[t, star])
            if t and source < 0:
                in_star, state = False, int(gaps_G[star]) + source + 1
            else:
                star = source
            continue
        if state % 2:
            deficit_T[t] = log_probs_TV[t, ids_U[state // 2]] - best_T[t]
            word = word_of_letter[state // 2]
            frames_W2[word, 0] = t
            if frames_W2[word, 1] < 0:
                frames_W2[word, 1] = t + 1
        else:
            deficit_T[t] = (between_T[t] if state in gap_of_state else log_probs_TV[t, 0]) - best_T[t]
        step = int(came_TN[t, state])
        if step >= 3:
            in_star, star = True, gap_of_state[state - 1 if step == 3 else state]
        else:
            state -= step
    return WordPath(frames_W2, deficit_T, star_T)


def text_score(log_probs_TV: np.ndarray, words: Sequence[Sequence[int]], boundary: int | None) -> float:
    """The log-probability of the most likely path through all of ``words``, -inf if they do not fit.

    Between words, before the first and after the last one, blanks and ``boundary`` are one state.
    """
    gap_T = log_probs_TV[:, 0] if boundary is None else np.maximum(log_probs_TV[:, 0], log_probs_TV[:, boundary])
    ids_U = np.concatenate([np.asarray(word, np.int64) for word in words]) if words else np.zeros(0, np.int64)
    U = len(ids_U)
    if not U:
        return float(gap_T.sum())
    emissions_TN = np.empty((len(log_probs_TV), 2 * U + 1))
    emissions_TN[:, 0::2] = log_probs_TV[:, :1]
    emissions_TN[:, np.append(0, 2 * np.cumsum([len(word) for word in words]))] = gap_T[:, None]
    emissions_TN[:, 1::2] = log_probs_TV[:, ids_U]
    jumps_N = np.full(2 * U + 1, -np.inf)
    jumps_N[3::2] = np.where(ids_U[1:] != ids_U[:-1], 0.0, -np.inf)
    score_N = np.full(2 * U + 1, -np.inf)
    score_N[:2] = emissions_TN[0, :2]
    for emission_N in emissions_TN[1:]:
        found_N = score_N.copy()
        np.maximum(found_N[1:], score_N[:-1], out=found_N[1:])
        np.maximum(found_N[2:], score_N[:-2] + jumps_N[2:], out=found_N[2:])
        score_N = found_N + emission_N
    return float(max(score_N[-1], score_N[-2]))
