"""Units: seconds, samples and frames, every conversion between them, and numbers with their unit for messages."""

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


def plural(count: int, noun: str, one: str = "", many: str = "") -> str:
    """``1 clip``, ``1,234 clips``; with a verb ``1 clip is``, ``2 clips are``."""
    verb = one if count == 1 else many
    return f"{count:,} {noun}{'' if count == 1 else 's'}{f' {verb}' if verb else ''}"
