"""Clips to hear inside a page: a few kilobytes of MP3 per second, with the outline of the wave to see and click."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from lalia.audio.writing import mp3_bytes
from lalia.units import clock, to_seconds

COLUMNS = 110


@dataclass(frozen=True)
class Player:
    """One clip as a page needs it."""

    id: str
    length: str
    audio: str
    """the sound as a ``data:`` address"""
    outline: str
    """the wave's loudness as an SVG path, ``outline_width`` wide and 2 high"""
    outline_width: int = COLUMNS


@dataclass(frozen=True)
class ShownClip:
    """A clip with (who, text) pairs beside it; without a player where its sound is not at hand."""

    id: str
    texts: list[tuple[str, Markup]]
    clip: Player | None = None


def make_player(id: str, wave: np.ndarray) -> Player:
    """The player of ``wave`` (samples,), 16 kHz."""
    data = base64.b64encode(mp3_bytes(wave)).decode()
    seconds = to_seconds(len(wave))
    length = f"{seconds:.1f} s" if seconds < 60 else clock(seconds)
    return Player(id, length, f"data:audio/mpeg;base64,{data}", _outline(wave))


def _outline(wave: np.ndarray) -> str:
    """Bars around the middle line, as high as the loudest sample of each of ``COLUMNS`` pieces."""
    edges = np.linspace(0, len(wave), COLUMNS + 1).astype(int)
    peaks = np.array([np.abs(wave[a:b]).max(initial=0.0) for a, b in pairwise(edges)])
    # The square root lets quiet consonants be seen beside loud vowels.
    heights = np.maximum(np.sqrt(peaks / max(float(peaks.max()), 1e-6)), 0.03)
    return "".join(f"M{i + 0.2:g} {1 - h:.2f}h.6v{2 * h:.2f}h-.6z" for i, h in enumerate(heights.tolist()))
