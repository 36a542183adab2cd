"""What a student heard: the text, its words with times, and how long it listened."""

from __future__ import annotations

from dataclasses import dataclass, field

from lalia.decoding.greedy import Word
from lalia.units import Seconds


@dataclass(frozen=True)
class Transcript:
    """The text of a clip, the same as ``words`` with times and confidence, and the clip's length."""

    text: str
    words: list[Word] = field(default_factory=list)
    duration_s: Seconds = 0.0
