"""Greedy CTC decoding, whole or streaming: tokens and words with times and confidence.

A streaming model does not change past frames, so greedy decoding of a stream's beginning is the beginning of the whole
result. A word is final once a word boundary, a pause, or a unit of the writing system ends it.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np

from lalia.text.tokens import BOUNDARY, Tokens, symbol_byte
from lalia.text.unicode import is_jamo
from lalia.text.writing_system import WritingSystem
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
    """A word with its time in the clip, the mean probability of its letters, its channel and its speaker.

    ``channel`` counts from 1; 0 means that channels were mixed. ``joined``: no space stands between it and the word before.
    ``speaker`` is a name from diarization; "" without it.
    """

    text: str
    start_s: Seconds
    end_s: Seconds
    confidence: float
    channel: int = 0
    joined: bool = False
    speaker: str = ""

    @property
    def label(self) -> str:
        """Who speaks, in turns and subtitles: the speaker, else the channel, else ""."""
        return self.speaker or (str(self.channel) if self.channel else "")


def text_of_words(words: Iterable[Word]) -> str:
    """Words as running text."""
    text = ""
    for word in words:
        text += word.text if word.joined or not text else f" {word.text}"
    return text


def greedy(log_probs_TV: np.ndarray) -> list[TokenSpan]:
    """Greedy CTC decoding (Graves et al. 2006, 3.2): argmax, merge repeats, drop blanks (token 0)."""
    return collapse(*peaks(log_probs_TV))


def peaks(log_probs_TV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most likely token of each frame (T,) int32, and its probability (T,) float32.

    Greedy decoding needs only these two numbers per frame, so that hours of audio fit in memory.
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


class Spans(Protocol):
    """Greedy search of frames as they arrive; ``lalia.decoding.transducer_search.TransducerSpans`` is another one."""

    frames: Frames
    """fed and not forgotten"""

    def feed(self, frames_TX: np.ndarray) -> None:
        """Process the next frames."""
        ...

    def spans(self) -> list[TokenSpan]:
        """The tokens in the frames that are not forgotten."""
        ...

    def forget(self, frames: Frames, spans: int) -> None:
        """Drop the first ``frames`` frames, which hold the first ``spans`` tokens; what follows counts from there."""
        ...


class CtcSpans:
    """Greedy CTC decoding of frames as they arrive; memory holds two numbers of each."""

    def __init__(self) -> None:
        self._tokens: list[np.ndarray] = []
        self._probs: list[np.ndarray] = []
        self.frames: Frames = 0

    def feed(self, frames_TX: np.ndarray) -> None:
        tokens_T, probs_T = peaks(frames_TX)
        self._tokens.append(tokens_T)
        self._probs.append(probs_T)
        self.frames += len(tokens_T)

    def spans(self) -> list[TokenSpan]:
        return collapse(*self._joined()) if self.frames else []

    def forget(self, frames: Frames, spans: int) -> None:
        tokens_T, probs_T = self._joined()
        self._tokens, self._probs = [tokens_T[frames:]], [probs_T[frames:]]
        self.frames -= frames

    def _joined(self) -> tuple[np.ndarray, np.ndarray]:
        if not self._tokens:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        return np.concatenate(self._tokens), np.concatenate(self._probs)


def transcript(spans: Iterable[TokenSpan], tokens: Tokens) -> str:
    """The text of ``spans``, words separated by one space; Hangul as ``whole_syllables``."""
    return " ".join(tokens.decode(span.token for span in whole_syllables(spans, tokens)).split())


def whole_syllables(spans: Iterable[TokenSpan], tokens: Tokens) -> list[TokenSpan]:
    """``spans`` without stray parts of Hangul syllables.

    A vowel without a consonant before it gets the silent one (ieung), if the tokens have it. A consonant that no vowel follows,
    and a final one after no vowel, are left out.
    """
    parts, silent = _hangul(tokens)
    if not parts:
        return list(spans)
    found: list[TokenSpan] = []
    initial: TokenSpan | None = None
    open_syllable = False
    for span in spans:
        part = parts.get(span.token, "")
        if part == "initial":
            initial, open_syllable = span, False
        elif part == "vowel":
            if initial is None and silent is not None:
                initial = replace(span, token=silent)
            found += [initial, span] if initial else []
            initial, open_syllable = None, initial is not None
        else:
            if part != "final" or open_syllable:
                found.append(span)
            initial, open_syllable = None, part == "open"
    return found


@lru_cache(maxsize=16)
def _hangul(tokens: Tokens) -> tuple[dict[int, str], int | None]:
    """The tokens that are parts of Hangul syllables (beside them, open syllables too), and that of the silent consonant."""
    parts: dict[int, str] = {}
    for token, symbol in enumerate(tokens.symbols):
        if len(symbol) == 1 and is_jamo(symbol):
            parts[token] = "initial" if symbol < "\u1160" else "vowel" if symbol < "\u11a8" else "final"
    if parts:
        decomposed = ((token, unicodedata.normalize("NFD", symbol)) for token, symbol in enumerate(tokens.symbols))
        parts |= {token: "open" for token, letters in decomposed if len(letters) == 2 and all(map(is_jamo, letters))}
    silent = [token for token in parts if tokens.symbols[token] == "\u110b"]
    return parts, silent[0] if silent else None


def words(
    spans: Iterable[TokenSpan],
    tokens: Tokens,
    frame_s: Seconds,
    writing: WritingSystem | None = None,
    pause_s: Seconds = math.inf,
) -> list[Word]:
    """The words of ``spans`` with times, ``frame_s`` seconds per frame.

    A word lasts from its first letter's first frame to its last letter's last. If ``writing`` has no spaces between words, each
    of its units (syllables, clusters, ideographs) is a word. A pause of ``pause_s`` ends a word too.
    """
    writing = writing or WritingSystem()
    found: list[Word] = []
    for run, after_boundary in _runs(whole_syllables(spans, tokens), tokens, frame_s, pause_s):
        here = _cut(run, tokens, frame_s, writing)
        if found and here and not after_boundary:
            here[0] = after_pause(found[-1].text, here[0], writing)
        found += here
    return found


def after_pause(before: str, word: Word, writing: WritingSystem) -> Word:
    """``word`` behind a pause that follows ``before``: joined where the writing has no space between the two."""
    return replace(word, joined=bool(before and word.text) and not writing.space_between(before[-1], word.text[0]))


def _runs(
    spans: Iterable[TokenSpan], tokens: Tokens, frame_s: Seconds, pause_s: Seconds
) -> Iterator[tuple[list[TokenSpan], bool]]:
    """The spans between word boundaries and pauses, and whether a boundary is before them."""
    run: list[TokenSpan] = []
    after_boundary = False
    for span in spans:
        boundary = tokens.symbols[span.token] == BOUNDARY
        if run and (boundary or (span.start_frame - run[-1].end_frame) * frame_s >= pause_s):
            yield run, after_boundary
            run, after_boundary = [], False
        if boundary:
            after_boundary = True
        else:
            run.append(span)
    if run:
        yield run, after_boundary


def _cut(run: Sequence[TokenSpan], tokens: Tokens, frame_s: Seconds, writing: WritingSystem) -> list[Word]:
    """The words of spans that no boundary separates; all but the first are joined to the one before."""
    if not writing.splits(tokens.symbols[span.token] for span in run):
        return [_word(tokens.decode(span.token for span in run), run, frame_s)]
    letters = _letters(run, tokens)
    found, at = [], 0
    for piece in writing.cut("".join(letter for letter, _ in letters)):
        own = _rejoined(span for _, spans in letters[at : at + len(piece)] for span in spans)
        found.append(replace(_word(unicodedata.normalize("NFC", piece), own, frame_s), joined=at > 0))
        at += len(piece)
    return found


def _letters(run: Sequence[TokenSpan], tokens: Tokens) -> list[tuple[str, list[TokenSpan]]]:
    """Each letter of ``run`` with the spans that spell it: a part of one where a token has several letters, several bytes."""
    found: list[tuple[str, list[TokenSpan]]] = []
    pending: list[TokenSpan] = []
    for number, span in enumerate(run):
        if symbol_byte(tokens.symbols[span.token]) is None:
            letters = tokens.decode([span.token])
            found += [(letter, [part]) for letter, part in zip(letters, _parts(span, len(letters)), strict=True)]
            continue
        pending.append(span)
        last = number + 1 == len(run) or symbol_byte(tokens.symbols[run[number + 1].token]) is None
        letters = tokens.decode(p.token for p in pending)
        if letters:
            found.append((letters[0], pending))
            pending = []
        elif last:
            pending = []  # bytes that make no letter
    return found


def _parts(span: TokenSpan, count: int) -> list[TokenSpan]:
    """``span`` shared among ``count`` letters, evenly."""
    if count == 1:
        return [span]
    edges = [span.start_frame + (span.end_frame - span.start_frame) * i // count for i in range(count + 1)]
    return [TokenSpan(span.token, start, max(end, start + 1), span.confidence) for start, end in pairwise(edges)]


def _rejoined(parts: Iterable[TokenSpan]) -> list[TokenSpan]:
    """The parts of each token as one, so that a word's confidence is the mean of its tokens wherever it was cut."""
    found: list[TokenSpan] = []
    for part in parts:
        if found and part.token == found[-1].token and part.start_frame <= found[-1].end_frame:
            found[-1] = replace(found[-1], end_frame=part.end_frame)
        else:
            found.append(part)
    return found


def _word(text: str, letters: Sequence[TokenSpan], frame_s: Seconds) -> Word:
    return Word(
        text,
        round(letters[0].start_frame * frame_s, 3),
        round(letters[-1].end_frame * frame_s, 3),
        sum(span.confidence for span in letters) / len(letters),
    )


# --- Greedy decoding of a stream ---------------------------------------------------------------------------

PAUSE_S: Seconds = 0.3
"""Blanks of this duration end a word: the last word of a sentence has no boundary until speech continues."""


class StreamingGreedy:
    """Greedy decoding of a stream: ``feed`` frames as they arrive; memory holds the unfinished word.

    ``search`` finds the tokens (default: CTC). The sizes of the blocks do not change the result.
    """

    def __init__(
        self,
        tokens: Tokens,
        frame_s: Seconds,
        writing: WritingSystem | None = None,
        pause_s: Seconds = PAUSE_S,
        search: Spans | None = None,
    ) -> None:
        self._tokens = tokens
        self._writing = writing or WritingSystem()
        self._frame_s = frame_s
        self._pause: Frames = max(1, round(pause_s / frame_s))
        self._start: Frames = 0
        self._before = ""
        """the last final word"""
        self._gap = False
        """whether a word boundary follows it"""
        self._before_end: Frames = 0
        self._search = search or CtcSpans()

    def feed(self, frames_TX: np.ndarray) -> list[Word]:
        """Process the next frames, (T, V) natural log-probabilities for CTC; returns the words that are now final."""
        self._search.feed(frames_TX)
        spans = self._search.spans()
        closed = self._closed(spans)
        final = self._words(spans[:closed])
        if closed:
            self._before = final[-1].text if final else self._before
            self._gap = self._tokens.symbols[spans[closed - 1].token] == BOUNDARY or (self._gap and not final)
            self._before_end = self._start + spans[closed - 1].end_frame
        self._forget(spans[closed - 1].end_frame if closed else 0 if spans else self._search.frames, closed)
        return final

    def tentative(self) -> list[Word]:
        """The unfinished word, if any."""
        return self._words(self._search.spans())

    def finish(self) -> list[Word]:
        """The last words; the stream ends."""
        final = self.tentative()
        self._forget(self._search.frames, len(self._search.spans()))
        return final

    def _closed(self, spans: Sequence[TokenSpan]) -> int:
        """How many of ``spans`` belong to words that no later frame changes."""
        here, closed = self._search.frames, 0
        for number, span in enumerate(spans):
            after = spans[number + 1].start_frame if number + 1 < len(spans) else here
            if self._tokens.symbols[span.token] == BOUNDARY or after - span.end_frame >= self._pause:
                closed = number + 1
        going_on = spans[closed:]
        while going_on and going_on[-1].end_frame == here:
            going_on = going_on[:-1]  # the next frames may repeat it
        if not going_on or not self._writing.splits(self._tokens.symbols[span.token] for span in going_on):
            return closed
        letters = _letters(going_on, self._tokens)
        pieces = self._writing.cut("".join(letter for letter, _ in letters))
        ends = {span.end_frame: number for number, span in enumerate(going_on, start=1)}
        count, at = 0, 0
        for piece in pieces[: self._writing.certain(pieces)]:
            at += len(piece)
            end = letters[at - 1][1][-1].end_frame
            following = letters[at][1][0].start_frame if at < len(letters) else end
            if end in ends and following >= end:  # else a token has letters of two words: they wait for each other
                count = ends[end]
        return closed + count

    def _words(self, spans: Sequence[TokenSpan]) -> list[Word]:
        """The words of pending ``spans``, also split at pauses."""
        found: list[Word] = []
        begin = 0
        before, gap, end = self._before, self._gap, self._before_end
        for number, span in enumerate(spans):
            last = number + 1 == len(spans)
            if last or spans[number + 1].start_frame - span.end_frame >= self._pause:
                moved = [
                    TokenSpan(h.token, h.start_frame + self._start, h.end_frame + self._start, h.confidence)
                    for h in spans[begin : number + 1]
                ]
                here = words(moved, self._tokens, self._frame_s, self._writing)
                gap = gap or self._tokens.symbols[moved[0].token] == BOUNDARY
                if here and before and not gap:
                    paused = moved[0].start_frame - end >= self._pause
                    here[0] = after_pause(before, here[0], self._writing) if paused else replace(here[0], joined=True)
                found += here
                before = here[-1].text if here else before
                gap = self._tokens.symbols[span.token] == BOUNDARY or (gap and not here)
                end = moved[-1].end_frame
                begin = number + 1
        return found

    def _forget(self, frames: Frames, spans: int) -> None:
        self._start += frames
        self._search.forget(frames, spans)
