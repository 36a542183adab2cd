"""Long audio: cut it into overlapping windows, and join their log-probabilities.

T frames, V tokens, N frames that two windows share.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lalia.units import Frames, Samples

SILENT_LOG_PROB = -100.0
_SMOOTHED: Frames = 3
_OFF_CENTRE = 1e-3
"""Penalty of a splice per frame away from the middle of the overlap; it decides between equally good places."""


@dataclass(frozen=True)
class Window:
    """A part of a wave; its first ``shared`` samples are the last ones of the previous window."""

    wave: np.ndarray
    shared: Samples


class WindowOutput(NamedTuple):
    """A model's output for a window."""

    frames_TX: np.ndarray
    """log-probabilities, and for a transducer's joiner more columns behind them"""
    frames: Frames
    """expected by the window's length; the model may give one less"""
    shared: Frames
    """the first ones, which the previous window has too"""


def cut_windows(blocks: Iterable[np.ndarray], length: Samples, overlap: Samples) -> Iterator[Window]:
    """Windows of ``length`` samples that overlap by ``overlap``, over the wave given as consecutive ``blocks``.

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


def stitch(outputs: Iterable[WindowOutput], tokens: int | None = None) -> Iterator[np.ndarray]:
    """The frames of consecutive windows as consecutive parts (T', X) without gaps or overlap.

    ``tokens`` is the number of columns that are log-probabilities (None: all). A frame that a model leaves out at the end of a
    window is filled with silence, except in the last window.
    """
    held: np.ndarray | None = None
    due = 0
    for found in outputs:
        if held is not None:
            if len(held) < due:
                held = np.concatenate([held, silence(due - len(held), held.shape[1])])
            start = due - found.shared
            at = splice_frame(held[start:due, :tokens], found.frames_TX[: found.shared, :tokens])
            yield held[: start + at]
            held, due = found.frames_TX[at:], found.frames - at
        else:
            held, due = found.frames_TX, found.frames
    if held is not None:
        yield held


def splice_frame(left_NV: np.ndarray, right_NV: np.ndarray) -> Frames:
    """How many of N shared frames to take from the left window; the others come from the right one.

    A letter is lost or doubled if the windows place it on different sides of the splice. The splice is therefore in the middle
    half, where both windows have context, at the frame where they are most likely to agree: log of the sum over tokens of
    p_left · p_right, averaged over three frames on either side.
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


def silence(frames: Frames, columns: int) -> np.ndarray:
    """Log-probabilities (T, columns) float32 of ``frames`` frames of blank; what a joiner adds has no effect in them."""
    frames_TX = np.full((frames, columns), SILENT_LOG_PROB, np.float32)
    frames_TX[:, 0] = 0.0
    return frames_TX
