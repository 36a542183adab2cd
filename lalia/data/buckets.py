"""Buckets: the clips of a corpus sorted by length and group, in four bytes each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lalia.data.clocks import Clocks
from lalia.exits import UserError
from lalia.units import SAMPLE_RATE, Samples

_BIN: Samples = SAMPLE_RATE // 100
"""Lengths are told apart to 10 ms."""
_RATIO = 1.05
"""Longest to shortest clip of a bucket: about 2 % padding."""
_FULL = 0.9
"""How full a bucket's micro-batches must be, however wide that makes it."""
_DRAW = 1 << 20
_CHUNK = 1 << 18  # what fits in a cache sorts fastest
_MOST_GROUPS = 1 << 16


@dataclass(frozen=True)
class Bucket:
    """Clips of nearly one length; they stand together in the index, group by group."""

    first: int  # place in the index
    clips: int
    offsets: NDArray[np.int64]  # (cells,) place in the index of each group's first clip
    counts: NDArray[np.int64]  # (cells,) clips of each group
    clocks: Clocks  # whose turn it is
    draws: int  # clips drawn in a pass, in units of 1 / _DRAW
    micro_batches: int  # of a pass

    def draws_of(self, nth: int) -> range:
        """The bucket's draws that its micro-batch ``nth`` takes: the draws of a pass, dealt evenly to its micro-batches."""
        whole = self.micro_batches * _DRAW
        return range((nth * self.draws + whole // 2) // whole, ((nth + 1) * self.draws + whole // 2) // whole)


class Index:
    """Row numbers sorted by (bucket, group), and how often each bucket and group is drawn."""

    def __init__(
        self,
        *,
        durations_s: NDArray[np.floating],
        groups: NDArray[np.integer] | None,
        rows: NDArray[np.integer] | None,
        min_samples: Samples,
        max_samples: Samples,
        budget_samples: Samples,
        crop: bool,
        alpha: float,
        phase_of: Callable[..., NDArray[np.float64]],
    ) -> None:
        self._durations_s, self._groups, self._rows = durations_s, groups, rows
        self._min_samples, self._max_samples, self._crop = min_samples, max_samples, crop
        self.clips = len(durations_s) if rows is None else len(rows)
        bins = max_samples // _BIN + 1
        count_GL, self.samples, self.too_short, self.too_long = self._histogram(bins)
        self.kept = int(count_GL.sum())
        if not self.kept:
            return
        present = np.flatnonzero(count_GL.sum(1))
        middle_L = np.minimum(np.arange(bins) * _BIN + _BIN // 2, max_samples)
        rate_G = _rates(count_GL[present] @ middle_L, alpha)
        edges, sizes = _edges(rate_G @ count_GL[present], max_samples, budget_samples)
        # count_CG: clips of each bucket and present group
        count_CG = np.stack([count_GL[present, low:high].sum(1) for low, high in edges])
        self._order = self._sort(edges, present, count_GL.shape[0], count_CG)
        self.buckets = self._buckets(count_CG, rate_G, sizes, phase_of)
        micro_batches = np.array([bucket.micro_batches for bucket in self.buckets])
        self.pass_micro_batches = int(micro_batches.sum())
        self.clocks = Clocks(micro_batches, phase_of(0, np.arange(len(sizes))))
        del self._groups, self._rows

    def rows_at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers of the corpus at ``places`` of the index."""
        return self._order[places].astype(np.int64)

    @property
    def bytes(self) -> int:
        return self._order.nbytes + sum(b.offsets.nbytes + b.counts.nbytes for b in self.buckets)

    def _chunks(self, size: int) -> Iterator[tuple[NDArray[np.integer], NDArray[np.int32], NDArray[np.integer] | int]]:
        """Rows, their lengths in samples (0: too short, -1: too long) and groups, ``size`` at a time to save memory."""
        for begin in range(0, self.clips, size):
            end = min(begin + size, self.clips)
            rows: NDArray[np.integer] | slice = slice(begin, end) if self._rows is None else self._rows[begin:end]
            seconds = np.asarray(self._durations_s[rows], np.float32)
            # NaN becomes 0, which is too short; the longest length is told apart from longer ones by one bin.
            samples = np.fmin(np.fmax(seconds * np.float32(SAMPLE_RATE), 0), self._max_samples + _BIN)
            lengths = np.rint(samples).astype(np.int32)
            lengths[lengths < self._min_samples] = 0
            longer = lengths > self._max_samples
            lengths[longer] = self._max_samples if self._crop else -1
            numbers = np.arange(begin, end, dtype=np.uint32) if self._rows is None else self._rows[begin:end]
            yield numbers, lengths, 0 if self._groups is None else np.asarray(self._groups[rows])

    def _histogram(self, bins: int) -> tuple[NDArray[np.int64], int, int, int]:
        """Clips of each group and length bin, (G, L); all samples; how many clips are too short and too long."""
        groups = 1
        if self._groups is not None and self.clips:
            low, high = int(self._groups.min()), int(self._groups.max())
            if low < 0 or high >= _MOST_GROUPS:
                raise UserError(f"batch: group codes run from {low} to {high}, expected 0 to {_MOST_GROUPS - 1}")
            groups = high + 1
        count = np.zeros(groups * bins, np.int64)
        samples = too_short = too_long = 0
        for _, lengths, group in self._chunks(max(_CHUNK, len(count))):
            fits = lengths > 0
            too_long += int(np.count_nonzero(lengths < 0))
            too_short += int(np.count_nonzero(lengths == 0))
            samples += int(lengths.sum(where=fits, dtype=np.int64))
            place = lengths // _BIN + np.asarray(group, np.int64) * bins
            count += np.bincount(place if fits.all() else place[fits], minlength=len(count))
        return count.reshape(groups, bins), samples, too_short, too_long

    def _sort(
        self, edges: list[tuple[int, int]], present: NDArray[np.int64], groups: int, count_CG: NDArray[np.int64]
    ) -> NDArray[np.integer]:
        """The row numbers sorted by cell (bucket, group), by counting: nothing is copied whole."""
        bucket_of_bin = np.zeros(edges[0][1], np.int64)
        for bucket, (low, high) in enumerate(edges):
            bucket_of_bin[low:high] = bucket
        group_of_code = np.zeros(groups, np.int64)
        group_of_code[present] = np.arange(len(present))
        cells = count_CG.size
        free = np.zeros(cells + 1, np.int64)  # one more cell for those left out
        np.cumsum(count_CG.ravel(), out=free[1:])
        widest = len(self._durations_s)
        order = np.empty(self.clips, np.uint32 if widest <= 1 << 32 else np.int64)
        for rows, lengths, group in self._chunks(_CHUNK):
            cell = bucket_of_bin[lengths // _BIN] * len(present) + group_of_code[group]
            cell[lengths <= 0] = cells
            sorted_ = _argsort(cell, cells)
            count = np.bincount(cell, minlength=cells + 1)
            shift = np.repeat(free - (np.cumsum(count) - count), count)
            order[shift + np.arange(len(rows))] = rows[sorted_]
            free += count
        return order[: self.kept]

    def _buckets(
        self,
        count_CG: NDArray[np.int64],
        rate_G: NDArray[np.float64],
        sizes: list[int],
        phase_of: Callable[..., NDArray[np.float64]],
    ) -> list[Bucket]:
        offsets_CG = np.cumsum(count_CG.ravel()).reshape(count_CG.shape) - count_CG
        buckets = []
        for number, (count_G, offset_G) in enumerate(zip(count_CG, offsets_CG, strict=True)):
            cells = np.flatnonzero(count_G)
            clocks = Clocks(count_G[cells] * rate_G[cells], phase_of(1 + number, cells))
            draws = max(1.0, float(count_G @ rate_G))
            if sizes[number] == 1:
                draws = round(draws)  # so that each of its micro-batches, which hold one clip at most, holds one
            buckets.append(
                Bucket(
                    first=int(offset_G[0]),
                    clips=int(count_G.sum()),
                    offsets=offset_G[cells],
                    counts=count_G[cells],
                    clocks=clocks,
                    draws=round(draws * _DRAW),
                    micro_batches=_fills(draws, sizes[number]),
                )
            )
        return buckets


def _edges(
    draws_L: NDArray[np.float64], max_samples: Samples, budget_samples: Samples
) -> tuple[list[tuple[int, int]], list[int]]:
    """Bins [low, high) of each bucket, longest clips first, and how many of its clips a micro-batch may hold.

    draws_L: (L,) clips of each bin drawn in a pass.
    """
    edges: list[tuple[int, int]] = []
    sizes: list[int] = []
    high = size = upper = 0
    draws = 0.0
    for low in range(len(draws_L) - 1, -1, -1):
        if not draws:
            high, upper = low + 1, min((low + 1) * _BIN - 1, max_samples)
            size = max(1, budget_samples // upper)
        draws += draws_L[low]
        if upper >= _RATIO * low * _BIN and draws >= _FULL * size * _fills(draws, size):
            edges.append((low, high))
            sizes.append(size)
            draws = 0.0
    if draws and not edges:
        edges.append((0, high))
        sizes.append(size)
    edges[-1] = (0, edges[-1][1])  # too few of the shortest to fill a micro-batch: they join the next longer ones
    return edges, sizes


def _fills(draws: float, size: int) -> int:
    """How many micro-batches of at most ``size`` clips ``draws`` make."""
    return max(1, math.ceil(round(draws, 6) / size))


def _rates(samples_G: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
    """How often each group's clips are drawn in a pass: groups come with p ∝ hours ** alpha, a pass keeps its hours."""
    share_G = samples_G / samples_G.sum()
    wanted_G = share_G**alpha
    return wanted_G / wanted_G.sum() / share_G


def _argsort(cell: NDArray[np.int64], cells: int) -> NDArray[np.int64]:
    """A stable argsort of numbers from 0 to ``cells``, by radix: NumPy does so with 16-bit numbers, much faster."""
    sorted_ = np.argsort(cell.astype(np.uint16), kind="stable")
    if cells >= 1 << 16:
        sorted_ = sorted_[np.argsort((cell >> 16).astype(np.uint16)[sorted_], kind="stable")]
    return sorted_
