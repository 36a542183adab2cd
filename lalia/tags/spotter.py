"""``Spotter``: commands and wake words in a stream, by a tagger on a sliding window.

The window is as long as the tagger's training clips and moves by a fifth of that. From the first window with a likely label on,
four windows decide together. Windows whose sound is not in their middle cut a word, and are left out: a tagger learns from clips
with the word in the middle. The next detection is possible after a window without a likely label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lalia.errors import UserError
from lalia.tags.tagger import Tagger
from lalia.units import Samples, Seconds, to_samples, to_seconds

STEPS = 5
"""Windows per length of a window."""
DECIDING = 4
"""Windows that decide together."""
OFF_CENTRE = 0.15
"""Windows whose sound is further from their middle, as a share of the window, are not classified: they cut a word."""
THRESHOLD = 0.9


@dataclass(frozen=True)
class Detection:
    """A label in a stream, and the end of the window in which it was found."""

    label: str
    at_s: Seconds
    probability: float


class Spotter:
    """Detections of a tagger's labels in a stream that is fed block by block; those that the tagger rejects are not reported."""

    def __init__(self, tagger: Tagger, threshold: float = THRESHOLD) -> None:
        if not tagger.clip_s or tagger.clip_s > 10:
            found = f"{tagger.clip_s:g} s" if tagger.clip_s else "an unknown time"
            raise UserError(f"a tagger whose clips last {found} cannot find commands; expected clips of up to 10 s")
        if not 0 < threshold < 1:
            raise UserError(f"--threshold {threshold:g}: expected a probability between 0 and 1")
        self.tagger, self.threshold = tagger, threshold
        self._window: Samples = to_samples(tagger.clip_s)
        self._step: Samples = self._window // STEPS
        self._held_S = np.zeros(self._window, np.float32)
        self._new: Samples = 0
        self._likely: dict[str, list[Detection]] = {}
        """the likely labels of the windows that decide now"""
        self._left = 0
        """how many of them are to come"""
        self._armed = True
        """whether a window without a likely label has come since the last detection"""
        self.samples: Samples = 0

    def feed(self, block_S: np.ndarray) -> list[Detection]:
        """The detections that ``block_S`` (float32, 16 kHz) completes."""
        found = []
        while len(block_S):
            taken_S = block_S[: self._step - self._new]
            block_S = block_S[len(taken_S) :]
            self._held_S = np.concatenate([self._held_S[len(taken_S) :], taken_S])
            self._new += len(taken_S)
            self.samples += len(taken_S)
            if self._new == self._step:
                self._new = 0
                found += self._classify()
        return found

    def _classify(self) -> list[Detection]:
        label, probability = "", 0.0
        if self.tagger.loud(self._held_S).any() and abs(_centre(self._held_S) - 0.5) < OFF_CENTRE:
            label, probability = self.tagger.ranked(self.tagger.logits(self._held_S).mean(0))[0]
        likely = probability >= self.threshold and label not in self.tagger.rejected
        if not self._left and likely and self._armed:
            self._left = DECIDING
        self._armed = self._armed or not likely
        if not self._left:
            return []
        if likely:
            self._likely.setdefault(label, []).append(Detection(label, round(to_seconds(self.samples), 3), probability))
        self._left -= 1
        if self._left:
            return []
        windows = max(self._likely.values(), key=lambda found: sum(one.probability for one in found))
        self._likely, self._armed = {}, not likely
        return [max(windows, key=lambda one: one.probability)]


def _centre(wave_S: np.ndarray) -> float:
    """Where the energy of a wave lies, from 0 (its beginning) to 1."""
    energy_S = np.square(wave_S, dtype=np.float64)
    return float((energy_S * np.linspace(0, 1, len(wave_S))).sum() / max(energy_S.sum(), 1e-12))
