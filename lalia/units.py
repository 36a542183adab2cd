"""Seconds, samples and frames, and the only conversions between them."""

from __future__ import annotations

Seconds = float
Samples = int
Frames = int

SAMPLE_RATE = 16_000
"""Samples per second of every wave inside the project (mono, float32, -1 to 1)."""


def to_samples(seconds: Seconds) -> Samples:
    """The number of samples nearest to ``seconds``."""
    return round(seconds * SAMPLE_RATE)


def to_seconds(samples: Samples) -> Seconds:
    """How long ``samples`` samples last."""
    return samples / SAMPLE_RATE


def clock(seconds: Seconds) -> str:
    """``seconds`` for people: ``0:07``, ``12:30``, ``3:05:09``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
