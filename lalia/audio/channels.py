"""Downmix: how the channels of a recording become one mono wave, or one wave each without cross-talk.

Legend: S samples, C channels, P points (subsampled samples), T frames of 25 ms, N seconds.

- A requested channel is taken as it is.
- With ``EACH``, speech belongs to the channel on which it is loudest. A channel with a tenth of another's power holds that
  one's cross-talk, if it usually holds so little while the other speaks; soft speech on a clean channel is kept. Channels
  with the same sound (mono saved as stereo) count once.
- Otherwise the channels are averaged. A dead channel only halves the level: a gain that depends on the active channels
  would jump within a recording.
- A second in which the channels cancel each other is taken from its louder channel alone. Swapped wires in a stereo plug
  turn R into -L, whose average is silence.

The wave does not depend on block sizes or on the second at which reading starts. Each second is decided independently; where two
neighbours differ, the first 10 ms of the later one cross-fade. The rest after the last whole second follows the second before
it. Memory holds one second.

Limits: channels that cancel in part (one delayed by 5 ms, or much softer) are averaged, as by a comb filter. A DC offset does not
count as sound, and hum counts little.
"""

from __future__ import annotations

import math

import numpy as np

from lalia.units import Seconds

EACH = -1
"""A choice of channels: each separately. Other choices: None (the mix) and a channel number from 0."""
CANCELLING_RATIO = 0.25
"""Channels cancel below this power of their sum over the sum of their powers: 2 for one voice on two channels, 1 for two
voices or one dead channel, 0 for R = -L."""
SILENCE_POWER = 1e-7
"""A second is silent below this mean square (-70 dB) of the differences between points."""
FADE_S: Seconds = 0.01

_POINTS_PER_S = 4000  # Comparing a part of the samples costs a tenth of comparing all.
_LOUDER_RATIO = 1.5  # A later channel must have this many times the power, so that equal channels do not alternate.

# Two speakers on two channels (`_VoiceStatistics`)
_FRAMES_PER_S = 40
_LOUD_LOG_POWER = -5.0  # log10 of a frame's power from which somebody may be speaking
_DOMINANT_LOG_RATIO = 1.0  # ten times the power of the other channel: this one holds the speaker
_MIN_LOUD_S: Seconds = 1.0
_OFTEN_SHARE, _SOMETIMES_SHARE = 0.2, 0.05  # shares of the loud frames that a channel dominates
_MIN_SPEECH_STD = 0.5  # standard deviation of log10 power: speech varies, line noise does not
_MAX_CORRELATION = 0.5  # correlation of log10 powers from which two channels vary together
_MIX = -1

# Cross-talk (`cross_talk_ratio`)
_MAX_CROSS_TALK = 0.1  # of the other channel's power
_CROSS_TALK_HEADROOM = 8.0  # times the 20th percentile of the power ratio while the other channel is loud
_LOUD_SHARE = 0.1  # of the other channel's 95th percentile of power: it is loud from there on

# The same sound on two channels (`compare_seconds`, `is_same_sound`)
_SAME_CORRELATION = 0.9  # squared correlation of a second
_SAME_SECONDS_SHARE = 0.99  # of the seconds with sound
_PAUSE_POWER_SHARE = 1e-3  # of the loudest second's power
_MAX_LEVEL_RATIO = 4.0  # between the powers of the two channels


def parse_channels(word: str) -> int | None:
    """``mix`` as None, ``each`` as ``EACH``, a channel's number from 1 as its number from 0; ``ValueError`` for others."""
    if word == "mix":
        return None
    if word == "each":
        return EACH
    if not (word.isascii() and word.isdecimal() and 1 <= int(word) <= 64):
        raise ValueError(f"channels {word[:40]!r}: expected mix, each, or a channel number from 1")
    return int(word) - 1


class Mixer:
    """Mixes the consecutive blocks (S, C) of a recording to blocks of one wave (S,), float32.

    ``channel`` counts from 0; None follows the rules above. Mono passes unchanged.
    """

    def __init__(self, rate: int, channel: int | None = None) -> None:
        self._rate = rate
        self._channel = channel
        self._lag = max(1, rate // _POINTS_PER_S)
        self._pending_SC: np.ndarray | None = None
        self._before: int | None = None  # source of the second before: a channel, or _MIX
        self._taken: list[int] = []  # seconds taken from each channel alone
        self._sounding = 0
        self._voices = _VoiceStatistics()

    def __call__(self, block_SC: np.ndarray, last: bool = False) -> np.ndarray:
        """The wave (S,) of the whole seconds up to the end of ``block_SC``; with ``last``, of all samples."""
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
        """The wave (S,) after the last whole second."""
        pending_SC = self._pending_SC
        return np.zeros(0, np.float32) if pending_SC is None else self(pending_SC[:0], last=True)

    @property
    def cancelled(self) -> str:
        """One line that says that the channels cancel; "" if they do so in less than a hundredth of the sound."""
        if sum(self._taken) < max(1, self._sounding / 100):
            return ""
        which = [number for number, seconds in enumerate(self._taken, 1) if seconds]
        one = f"channel {which[0]}" if len(which) == 1 else "the louder one"
        return f"its channels cancel each other, as with swapped wires in a cable: read from {one} where they do"

    @property
    def two_voices(self) -> bool:
        """Whether the two channels hold two speakers (a telephone call) and not one scene."""
        return self._voices.differ()

    def _second(self, second_SC: np.ndarray, wave_S: np.ndarray) -> None:
        """Choose the source of a second, and replace its average ``wave_S`` in place where that is a channel."""
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
        if total < SILENCE_POWER:
            return _MIX
        self._sounding += 1
        self._taken += [0] * (len(powers_C) - len(self._taken))
        if len(powers_C) == 2:
            self._voices.add(squares_PC)
        if float(np.square(_sum(steps_PC)).mean()) >= CANCELLING_RATIO * total:
            return _MIX
        louder = int(np.argmax(powers_C >= powers_C.max() / _LOUDER_RATIO))
        self._taken[louder] += 1
        return louder


def cross_talk_ratio(own_T: np.ndarray, other_T: np.ndarray) -> float:
    """The share of another channel's power up to which a channel holds its cross-talk; from the powers (T,) of both."""
    loud_T = (
        other_T >= max(SILENCE_POWER, _LOUD_SHARE * float(np.percentile(other_T, 95))) if len(other_T) else other_T > 0
    )
    if not loud_T.any():
        return 0.0
    return min(_MAX_CROSS_TALK, _CROSS_TALK_HEADROOM * float(np.percentile(own_T[loud_T] / other_T[loud_T], 20)))


def compare_seconds(one_S: np.ndarray, other_S: np.ndarray, rate: int) -> np.ndarray:
    """Power, and 1 for the same sound or else 0, of every second of two waves (S,) of one length: (N, 2)."""
    found = []
    for start in range(0, len(one_S), rate):
        a_S, b_S = (wave_S[start : start + rate].astype(np.float64) for wave_S in (one_S, other_S))
        aa, bb, ab = float(a_S @ a_S), float(b_S @ b_S), float(a_S @ b_S)
        same = ab * ab >= _SAME_CORRELATION * aa * bb and max(aa, bb) < _MAX_LEVEL_RATIO * min(aa, bb)
        found.append((max(aa, bb) / len(a_S), float(same)))
    return np.array(found).reshape(-1, 2)


def is_same_sound(compared: np.ndarray) -> bool:
    """Whether two channels hold the same sound, from ``compare_seconds`` (N, 2)."""
    powers, same = compared.T
    loud = powers >= max(SILENCE_POWER, _PAUSE_POWER_SHARE * float(powers.max(initial=0.0)))
    return bool(loud.any()) and float(same[loud].mean()) >= _SAME_SECONDS_SHARE


class _VoiceStatistics:
    """Statistics that detect two speakers on two channels: their levels vary at different times, and each is louder at times."""

    def __init__(self) -> None:
        self._loud = 0
        self._ahead = np.zeros(2)
        self._frames = 0
        self._sums = np.zeros(2)
        self._products = np.zeros((2, 2))

    def add(self, squares_PC: np.ndarray) -> None:
        """Add the squared points (P, C) of a second."""
        points = len(squares_PC) // _FRAMES_PER_S
        if not points:
            return
        frames_TPC = squares_PC[: points * _FRAMES_PER_S].reshape(_FRAMES_PER_S, points, 2)
        levels_TC = np.log10(np.maximum(frames_TPC.mean(axis=1), SILENCE_POWER)).astype(np.float64)
        difference_T = (levels_TC[:, 0] - levels_TC[:, 1])[levels_TC.max(axis=1) >= _LOUD_LOG_POWER]
        self._loud += len(difference_T)
        self._ahead += ((difference_T >= _DOMINANT_LOG_RATIO).sum(), (difference_T <= -_DOMINANT_LOG_RATIO).sum())
        self._frames += _FRAMES_PER_S
        self._sums += levels_TC.sum(axis=0)
        self._products += levels_TC.T @ levels_TC

    def differ(self) -> bool:
        share = float(self._ahead.min()) / max(1, self._loud)
        if self._loud < _MIN_LOUD_S * _FRAMES_PER_S or share < _SOMETIMES_SHARE:
            return False
        mean = self._sums / self._frames
        covariance = self._products / self._frames - np.outer(mean, mean)
        one, other = (math.sqrt(max(0.0, float(covariance[i, i]))) for i in (0, 1))
        return min(one, other) >= _MIN_SPEECH_STD and (
            share >= _OFTEN_SHARE or float(covariance[0, 1]) < _MAX_CORRELATION * one * other
        )


def _sum(block_SC: np.ndarray) -> np.ndarray:
    """The sum over channels (S,). Two channels are added by columns, which is ten times as fast as a sum along rows."""
    return block_SC[:, 0] + block_SC[:, 1] if block_SC.shape[1] == 2 else block_SC.sum(axis=1, dtype=np.float32)


def _average(block_SC: np.ndarray) -> np.ndarray:
    average_S: np.ndarray = _sum(block_SC) / np.float32(block_SC.shape[1])
    return average_S
