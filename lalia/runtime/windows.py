"""Long audio: overlapping windows, stitching of their log-probabilities, and threads with ordered results.

T frames, V tokens, N frames that two windows share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from lalia.units import Frames, Samples

# --- Long audio as overlapping windows, and their frames as one row again --------------------------------

SILENT_LOG_PROB = -100.0
_SMOOTHED: Frames = 3
_OFF_CENTRE = 1e-3
"""What a frame away from the middle costs a splice_frame: it decides between places that are as good as each other."""


@dataclass(frozen=True)
class Window:
    """A stretch of a wave; its first ``shared`` samples are the last ones of the window before."""

    wave: np.ndarray
    shared: Samples


class WindowOutput(NamedTuple):
    """A model's output for a window: frames due by its length, the first ``shared`` of them in the window before too."""

    log_probs_TV: np.ndarray
    frames: Frames
    shared: Frames


def cut_windows(blocks: Iterable[np.ndarray], length: Samples, overlap: Samples) -> Iterator[Window]:
    """Windows of ``length`` samples, ``overlap`` of them shared, over the wave whose consecutive pieces are ``blocks``.

    A wave up to ``length`` is one window. Memory holds one window and one block.
    """
    pending: list[np.ndarray] = []
    held = 0
    shared = 0
    for block in blocks:
        pending.append(block)
        held += len(block)
        if held <= length:
            continue
        wave = np.concatenate(pending)
        start = 0
        while held - start > length:
            yield Window(wave[start : start + length], shared)
            start += length - overlap
            shared = overlap
        pending = [wave[start:]]
        held -= start
    if held:
        yield Window(np.concatenate(pending), shared)


def stitch(heard: Iterable[WindowOutput]) -> Iterator[np.ndarray]:
    """Consecutive stretches of log-probabilities (T', V) without gap or overlap, from those of consecutive windows.

    A model may give a frame less than is due at the end of a window: in front of another one silence stands in for it.
    """
    held: np.ndarray | None = None
    due = 0
    for found in heard:
        if held is not None:
            if len(held) < due:
                held = np.concatenate([held, silence(due - len(held), held.shape[1])])
            start = due - found.shared
            at = splice_frame(held[start:due], found.log_probs_TV[: found.shared])
            yield held[: start + at]
            held, due = found.log_probs_TV[at:], found.frames - at
        else:
            held, due = found.log_probs_TV, found.frames
    if held is not None:
        yield held


def splice_frame(left_NV: np.ndarray, right_NV: np.ndarray) -> Frames:
    """How many of N shared frames to take from the left window; the others are the right one's.

    A letter is lost or doubled where the windows date it to different sides of the splice. So it lies in the middle half, where
    both have seen what is around, between those frames for which it is likeliest that both mean the same token: log of the
    sum over tokens of p_left · p_right, averaged over three frames on either side.
    """
    N = min(len(left_NV), len(right_NV))
    if not N:
        return 0
    joint_NV = left_NV[:N] + right_NV[:N]
    top_N1 = joint_NV.max(1, keepdims=True)
    agreement_N = (top_N1 + np.log(np.exp(joint_NV - top_N1).sum(1, keepdims=True)))[:, 0].astype(np.float64)
    total = np.concatenate([[0.0], agreement_N.cumsum()])
    places = np.arange(N // 4, N - N // 4 + 1)
    first, last = np.maximum(places - _SMOOTHED, 0), np.minimum(places + _SMOOTHED, N)
    score = (total[last] - total[first]) / np.maximum(last - first, 1) - _OFF_CENTRE * np.abs(places - N / 2)
    return int(places[score.argmax()])


def silence(frames: Frames, tokens: int) -> np.ndarray:
    """Log-probabilities (T, V) float32 of ``frames`` frames of blank."""
    log_probs_TV = np.full((frames, tokens), SILENT_LOG_PROB, np.float32)
    log_probs_TV[:, 0] = 0.0
    return log_probs_TV


# --- Work shared among threads whose results come in order -----------------------------------------------

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_order(work: Callable[[Given], Made], items: Iterable[Given], jobs: int) -> Iterator[Made]:
    """``work`` of each of ``items`` in their order, ``jobs`` at a time.

    At most one item more than there are jobs is taken ahead, so that memory stays bounded. An error comes in its place.
    """
    if jobs == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(jobs, "lalia") as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
