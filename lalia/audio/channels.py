"""Channels: how the channels of a recording become the one wave that a model hears. The policy is here and nowhere else.

Legend: S samples, C channels, P points (samples far enough apart to judge by), T frames of 25 ms.

- A channel that was asked for is taken as it is.
- Where each is wanted by itself, speech belongs to the channel that it is loudest on. What has ten times the power on another is
  that one's cross-talk, if the channel usually holds so little while the other speaks: who really speaks softly into a clean
  channel is heard. Channels that hold the same sound (a mono recording, saved as stereo) are one.
- Otherwise the channels are averaged. A dead channel halves the level and changes nothing else: a gain that depends on which
  channels sound would jump within a recording.
- A second in which the channels cancel each other is taken from its louder channel alone. Swapped wires in one plug of a
  stereo cable turn R into -L, and the average of that is silence.

What is promised: the wave does not depend on how the recording is parted into blocks, nor on which second reading starts
from. Each second of the recording decides for itself; where two neighbours decide differently, the first 10 ms of the later
one fade over. What is left behind the last whole second goes with the second before it. Memory holds a second.

What is not: channels that cancel only in part (one delayed by 5 ms, or much softer than the other) are averaged, with the
colour that this gives. An offset does not count as sound, and hum little.
"""

from __future__ import annotations

import math

import numpy as np

from lalia.units import Seconds

EACH = -1
"""A choice of channels: each by itself. Others are None, the mix, and a channel's number from 0."""
CANCELS = 0.25
"""Power of the sum over the sum of the powers, below which channels cancel: 2 for one voice on two channels, 1 for two voices
or one dead channel, 0 for R = -L."""
SOUND = 1e-7
"""Mean square (-70 dB) of the differences between points, below which a second is silent."""
FADE_S: Seconds = 0.01

_POINTS = 4000  # a second; judging by some of the samples costs a tenth of judging by all
_CLEARLY = (
    1.5  # A later channel is the louder one only where it has so many times the power: equal ones shall not take turns.
)
_FRAMES = 40  # a second
_LOUD = -5.0  # log10 of a frame's power from which somebody may be speaking
_APART = 1.0  # a tenth of the power: this channel is the one that speaks
_FEWEST_S: Seconds = 1.0
_OFTEN, _SOMETIMES = 0.2, 0.05  # shares of the loud frames in which a channel is the one that speaks
_LIVELY = 0.5  # standard deviation of log10 power: speech comes and goes, the noise of a line does not
_ALIKE = 0.5  # correlation of log10 powers, from which two channels come and go together
_MIX = -1
_CROSS_TALK = 0.1  # of another channel's power: at most that is picked up from it, not said here,
_USUAL = 8.0  # and at most so many times what this channel holds in the quieter fifth of the time in which the other is loud:
_LOUD_PART = 0.1  # from this part of the power that it passes in a twentieth of the time.
_SAME = 0.9  # squared correlation, from which a second of two channels is the same sound,
_NEARLY_ALL = 0.99  # in so many of the seconds that are no pause:
_PAUSE = 1e-3  # of the loudest second's power, the noise of a line or less,
_LEVELS = 4.0  # and neither channel has so many times the power of the other.


def parse_choice(word: str) -> int | None:
    """What ``mix``, ``each`` or a channel's number from 1 chooses; ``ValueError`` says what was expected."""
    if word == "mix":
        return None
    if word == "each":
        return EACH
    if not (word.isascii() and word.isdecimal() and 1 <= int(word) <= 64):
        raise ValueError(f"channels {word[:40]!r}: expected mix, each, or the number of one from 1 on")
    return int(word) - 1


class Mixer:
    """Turns the consecutive blocks of a recording, of shape (S, C), into the blocks of one wave (S,), float32.

    ``channel`` counts from 0; None follows the policy above. Mono passes through untouched.
    """

    def __init__(self, rate: int, channel: int | None = None) -> None:
        self._rate = rate
        self._channel = channel
        self._lag = max(1, rate // _POINTS)
        self._pending_SC: np.ndarray | None = None
        self._before: int | None = None  # what the second before was taken from: a channel, or _MIX
        self._taken: list[int] = []  # seconds that were taken from each channel alone
        self._sounding = 0
        self._voices = _Voices()

    def __call__(self, block_SC: np.ndarray, last: bool = False) -> np.ndarray:
        """The samples that are decided after ``block_SC``: those of whole seconds, or with ``last`` all that there are."""
        channels = block_SC.shape[1]
        if channels == 1:
            return block_SC[:, 0]
        if self._channel is not None:
            return block_SC[:, self._channel]
        if self._pending_SC is not None:
            block_SC = np.concatenate([self._pending_SC, block_SC])
        seconds, rest = divmod(len(block_SC), self._rate)
        self._pending_SC = None if last or not rest else block_SC[seconds * self._rate :].copy()
        if self._pending_SC is not None:
            block_SC = block_SC[: seconds * self._rate]
        wave_S = _average(block_SC)
        for start in range(0, len(block_SC), self._rate):
            self._second(block_SC[start : start + self._rate], wave_S[start : start + self._rate])
        return wave_S

    def finish(self) -> np.ndarray:
        """What is left behind the last whole second."""
        pending_SC = self._pending_SC
        return np.zeros(0, np.float32) if pending_SC is None else self(pending_SC[:0], last=True)

    @property
    def cancelled(self) -> str:
        """In a line that the channels cancel each other; ``""`` where they do so for less than a hundredth of the sound."""
        if sum(self._taken) < max(1, self._sounding / 100):
            return ""
        which = [number for number, seconds in enumerate(self._taken, 1) if seconds]
        one = f"channel {which[0]}" if len(which) == 1 else "the louder one"
        return f"its channels cancel each other, as when a cable is wired the wrong way round: read from {one} where they do"

    @property
    def two_voices(self) -> bool:
        """Whether the two channels hold two people (a telephone call) and not one scene."""
        return self._voices.differ()

    def _second(self, second_SC: np.ndarray, wave_S: np.ndarray) -> None:
        """Decide on a second, and correct its average ``wave_S`` in place where it is not to be had."""
        before, rest = self._before, len(second_SC) < self._rate
        taken = before if before is not None and rest else self._decide(second_SC)
        if taken != _MIX:
            wave_S[:] = second_SC[:, taken]
        if before is not None and taken != before:
            fade = min(len(wave_S), round(FADE_S * self._rate))
            old_S = _average(second_SC[:fade]) if before == _MIX else second_SC[:fade, before]
            rising_S = ((np.arange(fade) + 0.5) / fade).astype(np.float32)
            wave_S[:fade] = old_S + rising_S * (wave_S[:fade] - old_S)
        self._before = taken

    def _decide(self, second_SC: np.ndarray) -> int:
        steps_PC = np.diff(second_SC[:: self._lag], axis=0)
        if not len(steps_PC):
            return _MIX
        squares_PC = np.square(steps_PC)
        powers_C = squares_PC.mean(axis=0)
        total = float(powers_C.sum())
        if total < SOUND:
            return _MIX
        self._sounding += 1
        self._taken += [0] * (len(powers_C) - len(self._taken))
        if len(powers_C) == 2:
            self._voices.add(squares_PC)
        if float(np.square(_sum(steps_PC)).mean()) >= CANCELS * total:
            return _MIX
        louder = int(np.argmax(powers_C >= powers_C.max() / _CLEARLY))
        self._taken[louder] += 1
        return louder


def cross_talk(own_T: np.ndarray, other_T: np.ndarray) -> float:
    """The share of another channel's power, up to which a channel only picks it up; from the powers of all frames of both."""
    loud_T = other_T >= max(SOUND, _LOUD_PART * float(np.percentile(other_T, 95))) if len(other_T) else other_T > 0
    if not loud_T.any():
        return 0.0
    return min(_CROSS_TALK, _USUAL * float(np.percentile(own_T[loud_T] / other_T[loud_T], 20)))


def compare(one_S: np.ndarray, other_S: np.ndarray, rate: int) -> np.ndarray:
    """Of every second of two waves of the same length its power, and 1 where both hold the same sound there, else 0: (N, 2)."""
    found = []
    for start in range(0, len(one_S), rate):
        a_S, b_S = (wave_S[start : start + rate].astype(np.float64) for wave_S in (one_S, other_S))
        aa, bb, ab = float(a_S @ a_S), float(b_S @ b_S), float(a_S @ b_S)
        same = ab * ab >= _SAME * aa * bb and max(aa, bb) < _LEVELS * min(aa, bb)
        found.append((max(aa, bb) / len(a_S), float(same)))
    return np.array(found).reshape(-1, 2)


def is_same(compared: np.ndarray) -> bool:
    """Whether two channels hold the same sound, from what ``compare`` found of all their seconds: (N, 2)."""
    powers, same = compared.T
    loud = powers >= max(SOUND, _PAUSE * float(powers.max(initial=0.0)))
    return bool(loud.any()) and float(same[loud].mean()) >= _NEARLY_ALL


class _Voices:
    """Whether two channels hold two voices: they come and go at different times, now the one louder and now the other."""

    def __init__(self) -> None:
        self._loud = 0
        self._ahead = np.zeros(2)
        self._frames = 0
        self._sums = np.zeros(2)
        self._products = np.zeros((2, 2))

    def add(self, squares_PC: np.ndarray) -> None:
        """The squares of a second's points."""
        points = len(squares_PC) // _FRAMES
        if not points:
            return
        frames_TPC = squares_PC[: points * _FRAMES].reshape(_FRAMES, points, 2)
        levels_TC = np.log10(np.maximum(frames_TPC.mean(axis=1), SOUND)).astype(np.float64)
        apart_T = (levels_TC[:, 0] - levels_TC[:, 1])[levels_TC.max(axis=1) >= _LOUD]
        self._loud += len(apart_T)
        self._ahead += ((apart_T >= _APART).sum(), (apart_T <= -_APART).sum())
        self._frames += _FRAMES
        self._sums += levels_TC.sum(axis=0)
        self._products += levels_TC.T @ levels_TC

    def differ(self) -> bool:
        share = float(self._ahead.min()) / max(1, self._loud)
        if self._loud < _FEWEST_S * _FRAMES or share < _SOMETIMES:
            return False
        mean = self._sums / self._frames
        covariance = self._products / self._frames - np.outer(mean, mean)
        one, other = (math.sqrt(max(0.0, float(covariance[i, i]))) for i in (0, 1))
        return min(one, other) >= _LIVELY and (share >= _OFTEN or float(covariance[0, 1]) < _ALIKE * one * other)


def _sum(block_SC: np.ndarray) -> np.ndarray:
    """Of two channels by columns: a sum along rows of two costs ten times as much."""
    return block_SC[:, 0] + block_SC[:, 1] if block_SC.shape[1] == 2 else block_SC.sum(axis=1, dtype=np.float32)


def _average(block_SC: np.ndarray) -> np.ndarray:
    average_S: np.ndarray = _sum(block_SC) / np.float32(block_SC.shape[1])
    return average_S
