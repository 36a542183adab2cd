"""``Spotter``: commands and wake words in a stream, by a tagger on a sliding window.

The window is as long as the tagger's training clips and moves by a fifth of that. A label is detected when it is likely in two
windows in a row, in sound, and once until it has been unlikely again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lalia.errors import UserError
from lalia.tags.tagger import Tagger
from lalia.units import Samples, Seconds, to_samples, to_seconds

STEPS = 5
"""Windows per length of a window."""
IN_A_ROW = 2
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
        self._run: tuple[str, int] = ("", 0)
        """the likely label and in how many windows in a row"""
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
        if self.tagger.loud(self._held_S).any():
            label, probability = self.tagger.ranked(self.tagger.logits(self._held_S).mean(0))[0]
        likely = probability >= self.threshold and label not in self.tagger.rejected
        before, count = self._run
        self._run = (label, count + 1 if label == before else 1) if likely else ("", 0)
        if likely and self._run[1] == IN_A_ROW:
            return [Detection(label, round(to_seconds(self.samples), 3), probability)]
        return []
