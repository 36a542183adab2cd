"""Greedy CTC decoding of clips and of streams: tokens and words with times and confidence.

A streaming model does not change past frames, so greedy decoding of a stream's beginning is the beginning of the whole
result. A word is final once a word boundary, a pause, or an ideograph (a word itself) ends it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lalia.text.tokens import BOUNDARY, Tokens
from lalia.text.unicode import is_ideograph
from lalia.units import Frames, Seconds

# --- Greedy CTC decoding ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenSpan:
    """A decoded token: frames ``start_frame`` up to, not including, ``end_frame``; probability 0 to 1."""

    token: int
    start_frame: Frames
    end_frame: Frames
    confidence: float


@dataclass(frozen=True)
class Word:
    """A word with its time in the clip, the mean probability of its letters, and its channel.

    ``channel`` counts from 1; 0 means that channels were mixed.
    """

    text: str
    start_s: Seconds
    end_s: Seconds
    confidence: float
    channel: int = 0


def greedy(log_probs_TV: np.ndarray) -> list[TokenSpan]:
    """Greedy CTC decoding (Graves et al. 2006, 3.2): argmax, merge repeats, drop blanks (token 0)."""
    return collapse(*peaks(log_probs_TV))


def peaks(log_probs_TV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest token of every frame (T,) int32, and its probability (T,) float32: all that greedy decoding needs.

    Two numbers a frame instead of V, so that hours of audio fit.
    """
    tokens_T = log_probs_TV.argmax(axis=1).astype(np.int32)
    return tokens_T, np.exp(np.take_along_axis(log_probs_TV, tokens_T[:, None], axis=1)[:, 0]).astype(np.float32)


def collapse(tokens_T: np.ndarray, probs_T: np.ndarray) -> list[TokenSpan]:
    """Runs of the same token become spans; a span's confidence is the highest probability of its frames."""
    if not len(tokens_T):
        return []
    starts = np.flatnonzero(np.diff(tokens_T, prepend=-1))
    ends = np.append(starts[1:], len(tokens_T))
    tops = np.maximum.reduceat(probs_T, starts)
    return [
        TokenSpan(int(tokens_T[start]), int(start), int(end), min(float(top), 1.0))
        for start, end, top in zip(starts, ends, tops, strict=True)
        if tokens_T[start] != 0
    ]


def transcript(spans: Iterable[TokenSpan], tokens: Tokens) -> str:
    """The text of ``spans``, words separated by one space."""
    return " ".join(tokens.decode(span.token for span in spans).split())


def words(spans: Iterable[TokenSpan], tokens: Tokens, frame_s: Seconds, pause_s: Seconds = math.inf) -> list[Word]:
    """The words of ``spans`` with times, ``frame_s`` seconds per frame.

    A word reaches from its first letter's first frame to its last letter's last. Han and kana characters are words each. A pause
    of ``pause_s`` ends a word too.
    """
    found: list[Word] = []
    letters: list[TokenSpan] = []
    for span in spans:
        symbol = tokens.symbols[span.token]
        if letters and (span.start_frame - letters[-1].end_frame) * frame_s >= pause_s:
            _close(letters, tokens, frame_s, found)
        if symbol == BOUNDARY:
            _close(letters, tokens, frame_s, found)
        elif all(map(is_ideograph, symbol)):
            _close(letters, tokens, frame_s, found)
            _close([span], tokens, frame_s, found)
        else:
            letters.append(span)
    _close(letters, tokens, frame_s, found)
    return found


def _close(letters: list[TokenSpan], tokens: Tokens, frame_s: Seconds, found: list[Word]) -> None:
    if letters:
        found.append(_word(letters, tokens, frame_s))
        letters.clear()


def _word(letters: Sequence[TokenSpan], tokens: Tokens, frame_s: Seconds) -> Word:
    return Word(
        tokens.decode(span.token for span in letters),
        round(letters[0].start_frame * frame_s, 3),
        round(letters[-1].end_frame * frame_s, 3),
        sum(span.confidence for span in letters) / len(letters),
    )


# --- Greedy decoding of a stream ---------------------------------------------------------------------------

PAUSE_S: Seconds = 0.3
"""Blank frames for this long end a word: the last word of a sentence has no boundary until speech continues."""


class StreamingGreedy:
    """Greedy decoding of a stream: ``feed`` log-probabilities as they arrive; memory holds the unfinished word.

    The sizes of the blocks do not change the result.
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
        spans = collapse(self._tokens_T, self._probs_T)
        closed = 0
        for number, span in enumerate(spans):
            if self._ends(span, spans[number + 1 :]):
                closed = number + 1
        final = self._words(spans[:closed])
        self._forget(spans[closed - 1].end_frame if closed else 0 if spans else len(self._tokens_T))
        return final

    def tentative(self) -> list[Word]:
        """The words that may still grow: at most one, and letters of it alone."""
        return self._words(collapse(self._tokens_T, self._probs_T))

    def finish(self) -> list[Word]:
        """The last words; the stream has ended."""
        final = self.tentative()
        self._forget(len(self._tokens_T))
        return final

    def _ends(self, span: TokenSpan, later: Sequence[TokenSpan]) -> bool:
        """Whether no word goes on behind ``span``."""
        symbol, here = self._tokens.symbols[span.token], len(self._tokens_T)
        if symbol == BOUNDARY:
            return True
        if all(map(is_ideograph, symbol)) and span.end_frame < here:
            return True
        return (later[0].start_frame if later else here) - span.end_frame >= self._pause

    def _words(self, spans: Sequence[TokenSpan]) -> list[Word]:
        """The words of pending ``spans``, parted at pauses too."""
        found: list[Word] = []
        begin = 0
        for number, span in enumerate(spans):
            last = number + 1 == len(spans)
            if last or spans[number + 1].start_frame - span.end_frame >= self._pause:
                moved = [
                    TokenSpan(h.token, h.start_frame + self._start, h.end_frame + self._start, h.confidence)
                    for h in spans[begin : number + 1]
                ]
                found += words(moved, self._tokens, self._frame_s)
                begin = number + 1
        return found

    def _forget(self, frames: Frames) -> None:
        self._start += frames
        self._tokens_T, self._probs_T = self._tokens_T[frames:], self._probs_T[frames:]
