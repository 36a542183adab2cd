"""Clocks: several sources interleaved at fixed rates, so that the n-th draw is known without making those before it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Clocks:
    """Clocks that tick at fixed rates; draw number s is the s-th tick of them all together.

    Clock c ticks for the n-th time (n from 0) at time (n + 1 - phase_c) / rate_c. So after any number of draws each
    source has had its right share to within about one draw, however small the share: nothing is luck, nothing rounded.
    """

    def __init__(self, rates: NDArray[np.float64], phases: NDArray[np.float64]) -> None:
        """``rates``: (C,) positive, of any sum; ``phases``: (C,) in [0, 1)."""
        self._rates = np.asarray(rates, np.float64) / np.sum(rates)
        self._phases = np.asarray(phases, np.float64)
        self._phase_sum = float(self._phases.sum())

    def draws(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draws ``first`` … ``first + count - 1``: whose tick each is and which of its ticks, both (count,)."""
        clocks = len(self._rates)
        if clocks == 1:
            return np.zeros(count, np.int64), first + np.arange(count)
        # By time t there were between t + phases - C and t + phases ticks, so these two times enclose the draws by at
        # least one unit of time on either side, far more than the rounding of float64.
        begin = first - self._phase_sum
        end = first + count + clocks - self._phase_sum
        from_tick = np.maximum(np.floor(self._rates * begin + self._phases), 0).astype(np.int64)
        to_tick = np.maximum(np.floor(self._rates * end + self._phases), 0).astype(np.int64)
        ticks = to_tick - from_tick
        clock = np.repeat(np.arange(clocks), ticks)
        nth = np.arange(len(clock)) + np.repeat(from_tick - (np.cumsum(ticks) - ticks), ticks)
        times = (nth + 1 - self._phases[clock]) / self._rates[clock]
        chosen = np.argsort(times, kind="stable")[first - int(from_tick.sum()) :][:count]
        return clock[chosen], nth[chosen]
