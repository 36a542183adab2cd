"""Recordings: which of them, or which last stretch of one, are held out where the source has no splits of its own.

Neighbouring pieces of one recording share a voice, a microphone and a topic, so a recording is held out whole. Where the
recordings are too few or too uneven for that, the end of the longest one is held out, and a gap before it is used for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lalia.data.prepare.clips import Span, ordering
from lalia.units import Seconds

GAP_S: Seconds = 30.0
GAP_SHARE = 0.02
"""A gap is this share of its recording, at most ``GAP_S``."""
_OVERSHOOT = 1.2
_FIRST = 2.0
"""The first recording of a split may be so many times the share that is wanted; the others fill it up to ``_OVERSHOOT``."""
_ENOUGH = 0.5
"""A split that has this part of its share is not filled up by other means."""


@dataclass(frozen=True)
class Choice:
    """What is held out whole: recording to split; and what each split still lacks, as a share of all audio."""

    whole: dict[str, str]
    lacking: dict[str, float]


def choose_recordings(seconds: Mapping[str, Seconds], shares: Mapping[str, float]) -> Choice:
    """Recordings for each split of ``shares``, which are parts of all ``seconds``; in the order of a hash of their names.

    A pure function: the same names and lengths give the same choice, in whatever order they come. One stays for training.
    """
    total = sum(seconds.values())
    left = {split: share for split, share in shares.items() if share > 0}
    whole: dict[str, str] = {}
    for name in sorted(seconds, key=ordering):
        if len(whole) + 1 >= len(seconds) or not total:
            break
        share = seconds[name] / total
        for split, wanted in left.items():
            first = wanted == shares[split]
            if share <= wanted * (_FIRST if first else _OVERSHOOT):
                whole[name] = split
                left[split] -= share
                break
    return Choice(whole, {split: wanted for split, wanted in left.items() if wanted > _ENOUGH * shares[split]})


def gap_of(duration_s: Seconds) -> Seconds:
    """How much is left out between what is trained on and what is held out of a recording."""
    return min(GAP_S, GAP_SHARE * duration_s)


def last_stretches(duration_s: Seconds, wanted_s: Mapping[str, Seconds]) -> tuple[Span, ...]:
    """The end of a recording for the splits of ``wanted_s``, in their order, each behind a gap."""
    spans: list[Span] = []
    end_s, gap_s = duration_s, gap_of(duration_s)
    for split, length_s in reversed(list(wanted_s.items())):
        start_s = end_s - length_s
        spans += [Span(split, start_s, end_s if spans else math.inf), Span("", start_s - gap_s, start_s)]
        end_s = start_s - gap_s
    return tuple(reversed(spans))


def split_at(spans: tuple[Span, ...], start_s: Seconds, end_s: Seconds) -> str:
    """The split of what a recording holds from ``start_s`` to ``end_s``; "" where it reaches into a gap."""
    touched = {span.split for span in spans if start_s < span.end_s and end_s > span.start_s}
    return "train" if not touched else touched.pop() if len(touched) == 1 else ""
