"""Place the words of a text in a recording: chains of letters first, then an exact path between safe points.

Legend: T frames, V tokens, W words of the text, K placed words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lalia.align.chains import Allowed, Chain, find_chains
from lalia.decoding.forced_alignment import WordPath, align_words
from lalia.units import Frames

ReadFrames = Callable[[Frames, Frames], np.ndarray]
"""Log-probabilities (T, V) float32 of the frames from the first to before the second."""

KNOT_LETTERS, KNOT_SIDE = 8, 3
"""A safe point is inside a run of this many equal letters, with that many on either side of it."""
KNOT_FRAMES: Frames = 250
"""Between two safe points; ten seconds at 25 frames a second."""
MOST_CELLS = 40_000_000
"""Frames times states of one exact path: 40 MB and more."""
MOST_BRIDGED = 3
"""Words between two placed ones that are assumed to be in the audio between them, if they fit into it: names and numbers that a
recogniser does not know."""
REACH_WORDS, REACH_FRAMES = 120, 1500
"""How far a text is followed beyond a chain where the gap is too large for one path."""


@dataclass(frozen=True)
class Heard:
    """The greedy transcript of a recording without word boundaries: token and first and last frame (exclusive) of each letter."""

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True)
class Placement:
    """Where the words of a text are in a recording.

    ``words_K`` are their numbers in the order of time, ``frames_K2`` first frame and the one after the last,
    ``breaks_K`` whether the word does not continue the one before it (audio or words are left out between them).
    ``deficit_T`` is, for each frame inside the text, the log-probability of the path minus that of the best token.
    """

    words_K: np.ndarray
    frames_K2: np.ndarray
    breaks_K: np.ndarray
    bridged_K: np.ndarray
    """whether the word was not recognised and is assumed to be between its neighbours"""
    deficit_T: np.ndarray
    chains: list[Chain]
    """positions in letters"""


@dataclass(frozen=True)
class _Stretch:
    """Frames and the words that may be in them."""

    start: Frames
    end: Frames
    words: list[int]


@dataclass(frozen=True)
class _Anchored:
    """A chain's safe points (frame, word): the word and those after it are behind the frame. Other chains do not claim the words
    from ``reach[0]`` to before ``reach[1]``."""

    knots: list[tuple[Frames, int]]
    reach: tuple[int, int]


def place(
    heard: Heard,
    words: Sequence[Sequence[int]],
    frames: Frames,
    read: ReadFrames,
    boundary: int | None,
    allowed: Allowed | None = None,
) -> Placement:
    """Place ``words`` (token ids without boundaries, none empty) in a recording of ``frames`` frames; ``allowed`` as in
    ``find_chains``."""
    letters = np.concatenate([np.asarray(word, np.int64) for word in words]) if words else np.zeros(0, np.int64)
    firsts_W = np.cumsum([0, *map(len, words)])
    chains = find_chains(heard.tokens, letters, allowed)
    deficit_T = np.zeros(frames, np.float32)
    placed: dict[int, tuple[Frames, Frames, bool]] = {}
    bridged: set[int] = set()
    broken = True
    for stretch in _stretches(_anchored(heard, chains, firsts_W), frames, firsts_W):
        path = align_words(read(stretch.start, stretch.end), [words[w] for w in stretch.words], boundary)
        bridged |= {stretch.words[row] for row in _bridge(path, stretch.words, words)} - placed.keys()
        deficit_T[stretch.start : stretch.end] = np.where(path.star_T, 0.0, path.deficit_T)
        last = -1
        for row, word in enumerate(stretch.words):
            start, end = path.frames_W2[row].tolist()
            if start < 0 or word in placed:
                continue
            since = 0 if last < 0 else last
            broken = broken or bool(path.star_T[since:start].any())
            placed[word] = (stretch.start + start, stretch.start + end, broken)
            broken, last = False, end
        broken = broken or bool(path.star_T[max(last, 0) :].any())
    order = sorted(placed, key=lambda word: placed[word])
    words_K = np.array(order, np.int64)
    frames_K2 = np.array([placed[word][:2] for word in order], np.int64).reshape(-1, 2)
    breaks_K = np.array([placed[word][2] for word in order], bool)
    breaks_K[1:] |= np.diff(words_K) != 1
    bridged_K = np.isin(words_K, sorted(bridged))
    return Placement(words_K, frames_K2, breaks_K, bridged_K, deficit_T, chains)


def _bridge(path: WordPath, numbers: Sequence[int], words: Sequence[Sequence[int]]) -> list[int]:
    """Place up to ``MOST_BRIDGED`` left-out words in the star's frames between their neighbours, if they take about as long as
    their letters; changes ``path`` and returns their rows."""
    there = np.flatnonzero(path.frames_W2[:, 0] >= 0)
    if len(there) < 2:
        return []
    letters_W = np.array([len(words[number]) for number in numbers])
    spans = path.frames_W2[there]
    rate = (spans[:, 1] - spans[:, 0]).sum() / letters_W[there].sum()  # frames a letter, without pauses
    bridged: list[int] = []
    for left, right in pairwise(there.tolist()):
        rows = list(range(left + 1, right))
        start, end = int(path.frames_W2[left, 1]), int(path.frames_W2[right, 0])
        if not 1 <= len(rows) <= MOST_BRIDGED or numbers[right] - numbers[left] != right - left:
            continue
        edges = np.cumsum([0, *letters_W[rows]]) / letters_W[rows].sum()
        if not 0.5 * rate <= (end - start) / letters_W[rows].sum() <= 3.0 * rate or end - start < 2 * len(rows):
            continue
        places = start + np.rint(edges * (end - start)).astype(np.int64)
        path.frames_W2[rows, 0], path.frames_W2[rows, 1] = places[:-1], places[1:]
        path.star_T[start:end] = False
        bridged += rows
    return bridged


def _anchored(heard: Heard, chains: list[Chain], firsts_W: np.ndarray) -> list[_Anchored]:
    """The chains, in the order of time, with their safe points."""

    def word_at(letter: int) -> int:
        return int(np.searchsorted(firsts_W, letter, "right")) - 1

    claims = [(word_at(chain.written[0]), word_at(chain.written[1] - 1) + 1) for chain in chains]
    found = []
    for chain, (begin, end) in zip(chains, claims, strict=True):
        knots: list[tuple[Frames, int]] = []
        for h, w, n in chain.seeds_M3.tolist():
            word = int(np.searchsorted(firsts_W, w + KNOT_SIDE))
            if n < KNOT_LETTERS or firsts_W[word] > w + n - KNOT_SIDE:
                continue
            letter = h + int(firsts_W[word]) - w
            frame = int(heard.ends[letter - 1] + heard.starts[letter]) // 2
            if not knots or frame - knots[-1][0] >= KNOT_FRAMES:
                knots.append((frame, word))
        if not knots:
            h, w, _ = chain.seeds_M3[len(chain.seeds_M3) // 2].tolist()
            knots = [(int(heard.starts[h]), word_at(w))]
        before = max((other for _, other in claims if other <= begin), default=0)
        after = min((other for other, _ in claims if other >= end), default=len(firsts_W) - 1)
        found.append(_Anchored(knots, (before, after)))
    return found


def _stretches(chains: list[_Anchored], frames: Frames, firsts_W: np.ndarray) -> Iterator[_Stretch]:
    """The recording in consecutive stretches, each with the words that may be in it."""
    at: Frames = 0
    ahead: list[int] = []  # words that may follow
    for chain in chains:
        (start, word), (end, last) = chain.knots[0], chain.knots[-1]
        lead = list(range(chain.reach[0], word))
        yield from _gap(at, start, ahead, lead, firsts_W)
        for (f0, w0), (f1, w1) in pairwise(chain.knots):
            yield _Stretch(f0, f1, list(range(w0, w1)))
        at, ahead = end, list(range(last, chain.reach[1]))
    yield from _gap(at, frames, ahead, [], firsts_W)


def _gap(start: Frames, end: Frames, ahead: list[int], lead: list[int], firsts_W: np.ndarray) -> Iterator[_Stretch]:
    """The frames between two chains: the words ``ahead`` may follow the first, the words ``lead`` precede the second."""
    if end <= start:
        return
    every = sorted({*ahead, *lead}) if set(ahead) & set(lead) else [*ahead, *lead]
    letters = sum(int(firsts_W[word + 1] - firsts_W[word]) for word in every)
    if (end - start) * 2 * letters <= MOST_CELLS:
        yield _Stretch(start, end, every)
        return
    ahead, lead = ahead[:REACH_WORDS], [word for word in lead[-REACH_WORDS:] if word not in ahead[:REACH_WORDS]]
    middle = (start + end) // 2
    if ahead:
        yield _Stretch(start, min(start + REACH_FRAMES, middle if lead else end), ahead)
    if lead:
        yield _Stretch(max(end - REACH_FRAMES, middle if ahead else start), end, lead)
