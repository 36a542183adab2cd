"""Utterances: where to cut a long recording, from how likely each of its frames holds speech.

Legend: T frames of 32 ms. Spans are (start, end) in frames, the end not included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lalia.runtime.voice import FRAME_S
from lalia.units import Frames, Seconds

Span = tuple[Frames, Frames]

BEGIN, GO_ON = 0.5, 0.35  # Speech begins above the first and lasts while above the second.
JOIN_S: Seconds = 0.5  # A shorter pause is inside of an utterance,
REACH_S: Seconds = 1.5  # and one up to this may be, when an utterance would be too short without.
PAD_S: Seconds = 0.16


@dataclass(frozen=True)
class Cutting:
    """How recordings are cut: utterances of ``shortest_s`` to ``longest_s``; clips up to ``longest_s`` stay whole.

    ``always`` cuts the pauses off those as well.
    """

    shortest_s: Seconds = 2.0
    longest_s: Seconds = 20.0
    always: bool = False


def cut(voice_T: np.ndarray, levels_T: np.ndarray, cutting: Cutting) -> list[Span]:
    """The utterances of a recording, in order, none overlapping another.

    ``voice_T`` are probabilities of speech, ``levels_T`` powers of the frames: what must be split where nobody pauses is
    split where it is quietest. Speech that stays shorter than ``shortest_s`` is left out.
    """
    pad = round(PAD_S / FRAME_S)
    longest = int(cutting.longest_s / FRAME_S)
    shortest = min(round(cutting.shortest_s / FRAME_S), longest // 2)
    spans = _join(_regions(voice_T), round(JOIN_S / FRAME_S), longest - 2 * pad)
    spans = _lengthen(spans, shortest - 2 * pad, round(REACH_S / FRAME_S), longest - 2 * pad)
    if not spans:
        return []
    smooth_T = np.convolve(levels_T, np.ones(5) / 5, mode="same")
    pieces = [piece for span in _pad(spans, pad, len(voice_T)) for piece in _split(span, smooth_T, shortest, longest)]
    return [(start, end) for start, end in pieces if end - start >= shortest]


def _regions(voice_T: np.ndarray) -> list[Span]:
    """Where speech is, with the two thresholds."""
    if not len(voice_T):
        return []
    weak_T = np.concatenate([[False], voice_T >= GO_ON, [False]])
    edges = np.flatnonzero(np.diff(weak_T.astype(np.int8)))
    spans = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [(start, end) for start, end in spans if float(voice_T[start:end].max()) >= BEGIN]


def _join(spans: list[Span], gap: Frames, longest: Frames) -> list[Span]:
    """Neighbours with a pause of at most ``gap`` become one, while that is no longer than ``longest``."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and start - joined[-1][1] <= gap and end - joined[-1][0] <= longest:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _lengthen(spans: list[Span], shortest: Frames, gap: Frames, longest: Frames) -> list[Span]:
    """What is too short is joined to the nearer neighbour within ``gap``, once more for as long as it helps."""
    spans = list(spans)
    at = 0
    while at < len(spans):
        start, end = spans[at]
        choices = []
        if end - start < shortest:
            if at and start - spans[at - 1][1] <= gap and end - spans[at - 1][0] <= longest:
                choices.append((start - spans[at - 1][1], at - 1))
            if at + 1 < len(spans) and spans[at + 1][0] - end <= gap and spans[at + 1][1] - start <= longest:
                choices.append((spans[at + 1][0] - end, at))
        if not choices:
            at += 1
            continue
        left = min(choices)[1]
        spans[left : left + 2] = [(spans[left][0], spans[left + 1][1])]
        at = left
    return spans


def _pad(spans: list[Span], pad: Frames, frames: Frames) -> list[Span]:
    """A little room on both sides, where the neighbours leave it."""
    padded = []
    for number, (start, end) in enumerate(spans):
        before = spans[number - 1][1] if number else 0
        after = spans[number + 1][0] if number + 1 < len(spans) else frames
        padded.append((start - min(pad, (start - before + 1) // 2), end + min(pad, (after - end) // 2)))
    return [(max(0, start), min(frames, end)) for start, end in padded]


def _split(span: Span, levels_T: np.ndarray, shortest: Frames, longest: Frames) -> list[Span]:
    """Pieces no longer than ``longest``, cut where it is quietest in the middle part."""
    start, end = span
    if end - start <= longest:
        return [span]
    margin = max(shortest, (end - start) // 4 if end - start < 2 * longest else longest // 2)
    middle_T = levels_T[start + margin : end - margin if end - start < 2 * longest else start + longest]
    at = start + margin + int(np.argmin(middle_T))
    return [*_split((start, at), levels_T, shortest, longest), *_split((at, end), levels_T, shortest, longest)]
