"""Units: seconds, samples and frames, and every conversion between them."""

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
    """The duration of ``samples`` samples."""
    return samples / SAMPLE_RATE


def clock(seconds: Seconds) -> str:
    """``seconds`` as a clock shows them: ``0:07``, ``12:30``, ``3:05:09``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
