"""Conversations: the channels of a recording as people, each word with who said it, turns in the order of time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from lalia.audio.channels import compare, cross_talk, is_same
from lalia.decoding.greedy import Word
from lalia.units import SAMPLE_RATE, Samples, Seconds

PHRASE_S: Seconds = 0.8
"""A longer pause ends a phrase, behind which somebody else may be heard."""
TURN_S: Seconds = 2.0
"""A longer pause ends a turn, also where nobody else speaks."""

_FRAME: Samples = SAMPLE_RATE // 50
_POINT: Samples = 163  # Prime: in step with no tone.
_AROUND_S: Seconds = 0.04


class Track:
    """A channel that passes by: of each second 50 powers and 98 samples are kept, to compare it with the others."""

    def __init__(self) -> None:
        self._powers: list[np.ndarray] = []
        self._points: list[np.ndarray] = []
        self._shares: dict[Track, float] = {}

    def listen(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Pass ``blocks`` of a wave (float32, 16 kHz) on."""
        waiting_S = np.zeros(0, np.float32)
        first: Samples = 0
        for block_S in blocks:
            waiting_S = np.concatenate([waiting_S, block_S])
            whole = len(waiting_S) // _FRAME * _FRAME
            self._powers.append(np.square(waiting_S[:whole]).reshape(-1, _FRAME).mean(axis=1))
            self._points.append(waiting_S[first:whole:_POINT].copy())
            first = (first - whole) % _POINT
            waiting_S = waiting_S[whole:]
            yield block_S

    def picks_up(self, word: Word, others: Iterable[Track]) -> bool:
        """Whether a word was said on one of the other channels, and is only cross-talk here."""
        here = self._power(word)
        return any(here < self._cross_talk(other) * other._power(word) for other in others)

    def _cross_talk(self, other: Track) -> float:
        if other not in self._shares:
            self._shares[other] = cross_talk(self._joined(self._powers), self._joined(other._powers))
        return self._shares[other]

    def _power(self, word: Word) -> float:
        powers_T = self._joined(self._powers)
        first = max(0, int((word.start_s - _AROUND_S) * SAMPLE_RATE / _FRAME))
        last = max(first + 1, round((word.end_s + _AROUND_S) * SAMPLE_RATE / _FRAME))
        return float(powers_T[first:last].mean()) if first < len(powers_T) else 0.0

    def holds(self, other: Track) -> bool:
        """Whether the two hold the same sound: a mono recording, saved as stereo."""
        rate = SAMPLE_RATE // _POINT
        return is_same(compare(self._joined(self._points), other._joined(other._points), rate))

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        parts[:] = [np.concatenate([np.zeros(0, np.float32), *parts])]
        return parts[0]


def repeated(tracks: Sequence[Track]) -> list[int]:
    """Which of the channels, from 0, hold the same sound as an earlier one."""
    return [
        channel for channel, track in enumerate(tracks) if any(track.holds(earlier) for earlier in tracks[:channel])
    ]


def converse(words_C: Sequence[Sequence[Word]], tracks: Sequence[Track]) -> list[Word]:
    """The words of all channels, each with its channel from 1, phrase by phrase in the order in which they begin.

    A word that a channel only picks up from another is left out (``lalia.audio.channels``), and so are those of a channel that
    repeats another.
    """
    phrases: list[list[Word]] = []
    left_out = repeated(tracks)
    for channel, (words, track) in enumerate(zip(words_C, tracks, strict=True)):
        if channel in left_out:
            continue
        others = [other for other in tracks if other is not track]
        own = [replace(word, channel=channel + 1) for word in words if not track.picks_up(word, others)]
        phrases += _parted(own, PHRASE_S)
    return [word for phrase in sorted(phrases, key=lambda phrase: phrase[0].start_s) for word in phrase]


def turns(words: Sequence[Word]) -> list[list[Word]]:
    """The words of a conversation, parted where somebody else goes on, and at long pauses."""
    return _parted(words, TURN_S)


def _parted(words: Sequence[Word], pause_s: Seconds) -> list[list[Word]]:
    parts: list[list[Word]] = []
    for word in words:
        if parts and word.channel == parts[-1][-1].channel and word.start_s - parts[-1][-1].end_s <= pause_s:
            parts[-1].append(word)
        else:
            parts.append([word])
    return parts
