"""Teacher frames for student frames of another length: which of the teacher's frames each student frame learns from.

A CTC teacher emits a letter in one or two frames of 20 ms. Averaging them over 40 ms can leave the blank as the best token, and
two letters in neighbouring frames, or the blank between two equal letters, can fall into one student frame. So frames are
chosen instead of averaged. The teacher's greedy path is read as a list of emissions: its letters, and a blank between two equal
letters, each at the frame where it is surest. Every emission gets a student frame of its own, as near to its time as their order
allows. Each remaining student frame takes the teacher's frame nearest in time between the two emissions around it. The chosen
frames are in order, so the greedy transcript of the targets is exactly the teacher's, at any ratio of frame lengths.

A clip with more emissions than student frames cannot be matched; CTC could not learn its text either.

Teachers of an ensemble emit the same letter at different times. Their letters are aligned by edit distance with those of the
first teacher, and matched letters go to the same student frame (``align_frames``).

U emissions, T student frames, N teacher frames, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lalia.text.edit_distance import matched

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Emissions:
    """What a greedy path emits, in order."""

    tokens_U: Indices
    """letters, and 0 for each blank that separates two equal letters"""
    frames_U: Indices
    """the teacher frame in which each is surest"""


def emissions(best_N: NDArray[np.integer], scores_N: NDArray[np.floating]) -> Emissions:
    """The emissions of a path of best tokens ``best_N`` with their ``scores_N``."""
    if not len(best_N):
        return Emissions(np.zeros(0, np.int64), np.zeros(0, np.int64))
    run_N = np.append(0, (best_N[1:] != best_N[:-1]).cumsum())
    order_N = np.lexsort((-scores_N, run_N))
    peaks = order_N[np.append(True, run_N[order_N][1:] != run_N[order_N][:-1])]
    tokens = best_N[peaks].astype(np.int64)
    separates = np.zeros(len(tokens), bool)
    separates[1:-1] = (tokens[1:-1] == 0) & (tokens[:-2] == tokens[2:])
    kept = (tokens != 0) | separates
    return Emissions(tokens[kept], peaks[kept].astype(np.int64))


def place(frames_U: Indices, frames: int, ratio: float) -> Indices | None:
    """A student frame of ``frames`` for each emission, (U,) strictly ascending; None if there are too few.

    ``ratio`` is the length of a student frame in teacher frames.
    """
    U = len(frames_U)
    if frames < U:
        return None
    number_U = np.arange(U)
    wanted_U = ((frames_U + 0.5) / ratio).astype(np.int64) - number_U
    # Strictly ascending places are a non-descending sequence plus 0, 1, 2, …: the middle of the smallest one above the wanted
    # places and the largest one below.
    above_U = np.maximum.accumulate(wanted_U)
    below_U = np.minimum.accumulate(wanted_U[::-1])[::-1]
    return np.clip((above_U + below_U) // 2, 0, frames - U) + number_U


def choose_frames(frames_U: Indices, places_U: Indices, frames: int, count: int, ratio: float) -> Indices:
    """The teacher frame of ``count`` for each of ``frames`` student frames, (T,) non-descending.

    The emissions at ``frames_U`` go to ``places_U``; between two of them the nearest frame in time that lies between them.
    """
    near_T = np.clip(((np.arange(frames) + 0.5) * ratio).astype(np.int64), 0, count - 1)
    after_T = np.searchsorted(places_U, np.arange(frames), side="right")
    low_T = np.append(0, frames_U)[after_T]
    high_T = np.append(frames_U, count - 1)[after_T]
    chosen_T = np.clip(near_T, low_T, high_T)
    chosen_T[places_U] = frames_U
    return chosen_T


def align_frames(
    first: Emissions, places_U: Indices, other: Emissions, frames: int, count: int, ratio: float
) -> Indices:
    """As ``choose_frames``, for a teacher whose ``other`` emissions are aligned with the ``first`` teacher's at ``places_U``."""
    mine, theirs = np.flatnonzero(first.tokens_U), np.flatnonzero(other.tokens_U)
    pairs = matched(first.tokens_U[mine].tolist(), other.tokens_U[theirs].tolist())
    at = np.array([mine[a] for a, _ in pairs], np.int64)
    frames_U = np.array([other.frames_U[theirs[b]] for _, b in pairs], np.int64)
    return choose_frames(frames_U, places_U[at], frames, count, ratio)


def pool_hidden(hidden_BND: Tensor, frames_B: Tensor, wanted_B: Tensor, ratio_B: Tensor) -> Tensor:
    """Hidden frames of the teacher as student frames (B, T, D): the mean of those in each student frame, else the nearest.

    ``frames_B`` (the teacher's), ``wanted_B`` (the student's) and ``ratio_B``, the length of a student frame in teacher frames,
    are on the CPU.
    """
    B, N, D = hidden_BND.shape
    T = int(wanted_B.max())
    place_BN = ((torch.arange(N) + 0.5) / ratio_B[:, None]).long()
    inside_BN = (torch.arange(N) < frames_B[:, None]) & (place_BN < wanted_B[:, None])
    place_BN = place_BN.masked_fill(~inside_BN, T)  # one place behind the last, which is dropped
    nearest_BT = ((torch.arange(T) + 0.5) * ratio_B[:, None]).long()
    nearest_BT = torch.minimum(nearest_BT, (frames_B[:, None] - 1).clamp(min=0))
    count_BT = torch.zeros(B, T + 1).scatter_add_(1, place_BN, torch.ones(B, N))[:, :T]
    device = hidden_BND.device
    place_BN, nearest_BT, count_BT = (x.to(device, non_blocking=True) for x in (place_BN, nearest_BT, count_BT))
    hidden = hidden_BND.float()
    sums_BTD = hidden.new_zeros(B, T + 1, D).scatter_add_(1, place_BN[:, :, None].expand(-1, -1, D), hidden)[:, :T]
    nearest_BTD = hidden.gather(1, nearest_BT[:, :, None].expand(-1, -1, D))
    return torch.where(count_BT[:, :, None] > 0, sums_BTD / count_BT[:, :, None].clamp(min=1), nearest_BTD)
