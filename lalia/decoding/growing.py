"""CTC best path of a stream: which words are final, and which are still growing.

What a streaming model said of a frame stays said. So the best path of the frames up to now is the beginning of that of the whole
stream, and a word is final once something ended it: a word boundary, a Han or kana character (a word of its own), or a pause.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lalia.decoding.greedy import Hit, Word, collapse, peaks, words
from lalia.text.scripts import is_ideograph
from lalia.text.tokens import BOUNDARY, Tokens
from lalia.units import Frames, Seconds

PAUSE_S: Seconds = 0.3
"""Blank frames for so long end a word: behind the last word of a sentence no boundary comes until somebody goes on."""


class Growing:
    """Feed it log-probabilities as they come; memory holds the word that is being said.

    How frames are parted into calls changes nothing.
    """

    def __init__(self, tokens: Tokens, frame_s: Seconds, pause_s: Seconds = PAUSE_S) -> None:
        self._tokens = tokens
        self._frame_s = frame_s
        self._pause: Frames = max(1, round(pause_s / frame_s))
        self._start: Frames = 0
        self._tokens_T = np.zeros(0, np.int32)
        self._probs_T = np.zeros(0, np.float32)

    def feed(self, log_probs_TV: np.ndarray) -> list[Word]:
        """The words that ``log_probs_TV`` (T, V), natural logarithms of the frames behind those fed before, make final."""
        tokens_T, probs_T = peaks(log_probs_TV)
        self._tokens_T = np.concatenate([self._tokens_T, tokens_T])
        self._probs_T = np.concatenate([self._probs_T, probs_T])
        hits = collapse(self._tokens_T, self._probs_T)
        closed = 0
        for number, hit in enumerate(hits):
            if self._ends(hit, hits[number + 1 :]):
                closed = number + 1
        final = self._words(hits[:closed])
        self._forget(hits[closed - 1].end_frame if closed else 0 if hits else len(self._tokens_T))
        return final

    def tentative(self) -> list[Word]:
        """The words that may still grow: at most one, and letters of it alone."""
        return self._words(collapse(self._tokens_T, self._probs_T))

    def finish(self) -> list[Word]:
        """The last words: nothing comes behind what was fed."""
        final = self.tentative()
        self._forget(len(self._tokens_T))
        return final

    def _ends(self, hit: Hit, later: Sequence[Hit]) -> bool:
        """Whether no word goes on behind ``hit``."""
        symbol, here = self._tokens.symbols[hit.token], len(self._tokens_T)
        if symbol == BOUNDARY:
            return True
        if all(map(is_ideograph, symbol)) and hit.end_frame < here:
            return True
        return (later[0].start_frame if later else here) - hit.end_frame >= self._pause

    def _words(self, hits: Sequence[Hit]) -> list[Word]:
        """The words of pending ``hits``, parted at pauses too."""
        found: list[Word] = []
        begin = 0
        for number, hit in enumerate(hits):
            last = number + 1 == len(hits)
            if last or hits[number + 1].start_frame - hit.end_frame >= self._pause:
                moved = [
                    Hit(h.token, h.start_frame + self._start, h.end_frame + self._start, h.confidence)
                    for h in hits[begin : number + 1]
                ]
                found += words(moved, self._tokens, self._frame_s)
                begin = number + 1
        return found

    def _forget(self, frames: Frames) -> None:
        self._start += frames
        self._tokens_T, self._probs_T = self._tokens_T[frames:], self._probs_T[frames:]
