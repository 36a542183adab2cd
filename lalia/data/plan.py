"""Plan batches: which clips make up micro-batch k, as a pure function of (seed, k).

A resume needs no stored state: step k on R ranks with A accumulations takes the micro-batches k·R·A to (k+1)·R·A - 1, and
rank r those whose number mod R is r. Any number of ranks continues the same plan.

Clips are sorted once into buckets of similar length and, within a bucket, by group (language × corpus). Interleavers with
exact rates choose the bucket and the group of each clip; a keyed permutation per group and round chooses the clip.

Legend: N clips of the corpus, B clips of a micro-batch, G groups, L length bins, C buckets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lalia.errors import UserError
from lalia.units import SAMPLE_RATE, Samples, Seconds, to_samples

# --- Keyed hashes and permutations -----------------------------------------------------------------------

_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_ROUNDS = 3


def keyed_hash(seed: int, *parts: ArrayLike) -> NDArray[np.uint64]:
    """64 well-mixed bits for (seed, parts…), broadcast over the parts; the same on every machine and NumPy version.

    The mixer is SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    state = np.full(1, seed & _MASK, np.uint64)
    for part in parts:
        state = _mix(state ^ _mix(np.atleast_1d(np.asarray(part)).astype(np.uint64)))
    return state


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) out of the upper 53 of 64 random bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: NDArray[np.int64], size: NDArray[np.int64], key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where a pseudo-random permutation of ``range(size)``, chosen by ``key``, sends ``index``; all three elementwise.

    A Feistel network over a rectangle barely larger than ``size`` (Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002); the few values that fall outside are sent on until they are inside. O(1) memory and time a value.
    """
    wide = np.ceil(np.sqrt(size)).astype(np.int64)
    tall = -(-size // wide)
    value = _network(index, wide, tall, key)
    while (outside := np.flatnonzero(value >= size)).size:
        value[outside] = _network(value[outside], wide[outside], tall[outside], key[outside])
    return value


def _network(
    index: NDArray[np.int64], wide: NDArray[np.int64], tall: NDArray[np.int64], key: NDArray[np.uint64]
) -> NDArray[np.int64]:
    left, right = (index // tall).astype(np.uint64), (index % tall).astype(np.uint64)
    wide, rows = wide.astype(np.uint64), tall.astype(np.uint64)
    for _ in range(_ROUNDS):
        key = key + _GOLDEN
        left = (left + (_mix(key ^ right) >> np.uint64(1))) % wide
        key = key + _GOLDEN
        right = (right + (_mix(key ^ left) >> np.uint64(1))) % rows
    return (left * rows + right).astype(np.int64)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = bits + _GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX2
    return bits ^ (bits >> np.uint64(31))


# --- Clocks ----------------------------------------------------------------------------------------------


class Interleaver:
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
        interleaver = len(self._rates)
        if interleaver == 1:
            return np.zeros(count, np.int64), first + np.arange(count)
        # By time t there were between t + phases - C and t + phases ticks, so these two times enclose the draws by at
        # least one unit of time on either side, far more than the rounding of float64.
        begin = first - self._phase_sum
        end = first + count + interleaver - self._phase_sum
        from_tick = np.maximum(np.floor(self._rates * begin + self._phases), 0).astype(np.int64)
        to_tick = np.maximum(np.floor(self._rates * end + self._phases), 0).astype(np.int64)
        ticks = to_tick - from_tick
        clock = np.repeat(np.arange(interleaver), ticks)
        nth = np.arange(len(clock)) + np.repeat(from_tick - (np.cumsum(ticks) - ticks), ticks)
        times = (nth + 1 - self._phases[clock]) / self._rates[clock]
        chosen = np.argsort(times, kind="stable")[first - int(from_tick.sum()) :][:count]
        return clock[chosen], nth[chosen]


# --- Buckets ---------------------------------------------------------------------------------------------

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
    interleaver: Interleaver  # whose turn it is
    draws: int  # clips drawn in a pass, in units of 1 / _DRAW
    micro_batches: int  # of a pass

    def draws_of(self, nth: int) -> range:
        """The bucket's draws that its micro-batch ``nth`` takes: the draws of a pass, dealt evenly to its micro-batches."""
        whole = self.micro_batches * _DRAW
        return range((nth * self.draws + whole // 2) // whole, ((nth + 1) * self.draws + whole // 2) // whole)


class BucketIndex:
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
        phases: Callable[..., NDArray[np.float64]],
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
        self.buckets = self._buckets(count_CG, rate_G, sizes, phases)
        micro_batches = np.array([bucket.micro_batches for bucket in self.buckets])
        self.pass_micro_batches = int(micro_batches.sum())
        self.interleaver = Interleaver(micro_batches, phases(0, np.arange(len(sizes))))
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
        phases: Callable[..., NDArray[np.float64]],
    ) -> list[Bucket]:
        offsets_CG = np.cumsum(count_CG.ravel()).reshape(count_CG.shape) - count_CG
        buckets = []
        for number, (count_G, offset_G) in enumerate(zip(count_CG, offsets_CG, strict=True)):
            cells = np.flatnonzero(count_G)
            interleaver = Interleaver(count_G[cells] * rate_G[cells], phases(1 + number, cells))
            draws = max(1.0, float(count_G @ rate_G))
            if sizes[number] == 1:
                draws = round(draws)  # so that each of its micro-batches, which hold one clip at most, holds one
            buckets.append(
                Bucket(
                    first=int(offset_G[0]),
                    clips=int(count_G.sum()),
                    offsets=offset_G[cells],
                    counts=count_G[cells],
                    interleaver=interleaver,
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


# --- The batch plan --------------------------------------------------------------------------------------

SPARES = 8
_WINDOW = 256
_ORDER, _PHASE, _ROWS, _CROP, _SPARE = range(5)  # what a hash is for: no two purposes share one


class MicroBatch(NamedTuple):
    """The clips one rank reads at once, and what of each."""

    number: int
    rows: NDArray[np.int64]  # (B,) row numbers of the corpus
    starts: NDArray[np.int64]  # (B,) first sample of the crop
    lengths: NDArray[np.int64]  # (B,) samples of the crop
    spares: NDArray[np.int64] = np.zeros(0, np.int64)  # rows to try in turn if none of ``rows`` can be read

    @property
    def padded_s(self) -> Seconds:
        """Seconds with padding: every clip as long as the longest."""
        return len(self.rows) * int(self.lengths.max(initial=0)) / SAMPLE_RATE

    @property
    def audio_s(self) -> Seconds:
        """Seconds without padding."""
        return int(self.lengths.sum()) / SAMPLE_RATE


@dataclass(frozen=True)
class Padding:
    """How much of the padded audio of some micro-batches is padding."""

    audio_s: Seconds
    padded_s: Seconds

    @property
    def waste(self) -> float:
        return 1 - self.audio_s / self.padded_s if self.padded_s else 0.0


class BatchPlan:
    """Micro-batches without end over a corpus; any of them can be asked for at once."""

    def __init__(
        self,
        *,
        durations_s: NDArray[np.floating],
        groups: NDArray[np.integer] | None = None,
        seed: int,
        micro_batch_s: Seconds,
        min_s: Seconds = 0.1,
        max_s: Seconds = 20.0,
        crop: bool = True,
        alpha: float = 0.5,
        shuffle: bool = True,
        rows: NDArray[np.integer] | None = None,
    ) -> None:
        """Sort the clips into buckets; a few seconds for 160 million clips, 4 bytes for each of them.

        durations_s: (N,) of every clip of the corpus; kept, not copied: it may be memory-mapped.
        groups: (N,) codes from 0 to 65535, language × corpus; None takes all clips for one group.
        micro_batch_s: the most audio in a micro-batch, padding included.
        min_s, max_s: shorter clips are left out; longer ones are cropped at a random place, or left out without crop.
        alpha: groups are drawn with p ∝ (hours of the group / all hours) ** alpha (XLS-R, arXiv:2111.09296, section
            2.2); 1 draws every clip equally often, 0 every group.
        shuffle: False keeps the corpus's order in every bucket.
        rows: only these row numbers of the corpus, for instance those of one split; None takes all.

        Raises UserError where no clip is left or ``micro_batch_s`` cannot hold a clip of ``max_s``.
        """
        if not 0 < max_s <= micro_batch_s:
            raise UserError(
                f"batch: a micro-batch of {micro_batch_s:g} s cannot hold a clip of {max_s:g} s; "
                "raise the micro-batch or lower the longest clip"
            )
        if not 0 <= alpha <= 1:
            raise UserError(f"batch: alpha is {alpha:g}, expected 0 (every group alike) to 1 (by hours)")
        self.seed = seed
        self._durations_s = durations_s
        self._max_samples = to_samples(max_s)
        self._index = BucketIndex(
            durations_s=durations_s,
            groups=None if alpha == 1 else groups,
            rows=rows,
            min_samples=max(1, to_samples(min_s)),
            max_samples=self._max_samples,
            budget_samples=to_samples(micro_batch_s),
            crop=crop,
            alpha=alpha,
            phases=lambda *place: uniform(keyed_hash(seed, _PHASE, *place)),
        )
        if not self._index.kept:
            raise UserError(
                f"batch: none of {self._index.clips} clips can be used: {self.too_short} are shorter than {min_s:g} s "
                f"and {self.too_long} longer than {max_s:g} s; prepare other audio or change the limits"
            )
        self._shuffle = shuffle

    def micro_batch(self, number: int) -> MicroBatch:
        """The clips of micro-batch ``number`` (from 0), in O(B + G): no other micro-batch is looked at."""
        which, nth = self._index.interleaver.draws(self._shuffled(number) if self._shuffle else number, 1)
        bucket = self._index.buckets[int(which[0])]
        rows = self._rows(bucket, int(nth[0]))
        lengths = np.maximum(np.rint(np.asarray(self._durations_s[rows], np.float64) * SAMPLE_RATE).astype(np.int64), 1)
        kept = np.minimum(lengths, self._max_samples)
        places = np.arange(len(rows))
        starts = (uniform(keyed_hash(self.seed, _CROP, number, places)) * (lengths - kept + 1)).astype(np.int64)
        spares = keyed_hash(self.seed, _SPARE, number, np.arange(SPARES)) % np.uint64(bucket.clips)
        return MicroBatch(number, rows, starts, kept, self._index.rows_at(bucket.first + spares.astype(np.int64)))

    def _shuffled(self, number: int) -> int:
        """Another number near by in the same pass: the clocks' regular order of long and short micro-batches is hidden."""
        pass_, place = divmod(number, self.epoch_micro_batches)
        begin = place - place % _WINDOW
        size = min(_WINDOW, self.epoch_micro_batches - begin)
        key = keyed_hash(self.seed, _ORDER, pass_, begin)
        return number - place + begin + int(permute(np.array([place - begin]), np.array([size]), key)[0])

    def _rows(self, bucket: Bucket, nth: int) -> NDArray[np.int64]:
        """The rows of the bucket's micro-batch ``nth``."""
        draws = bucket.draws_of(nth)
        cell, tick = bucket.interleaver.draws(draws.start, len(draws))
        counts = bucket.counts[cell]
        round_, place = np.divmod(tick, counts)
        if self._shuffle:
            place = permute(place, counts, keyed_hash(self.seed, _ROWS, bucket.offsets[cell], round_))
        return self._index.rows_at(bucket.offsets[cell] + place)

    @property
    def epoch_micro_batches(self) -> int:
        """Micro-batches of one pass, which draws as many hours as the corpus has; with alpha 1, every clip exactly once."""
        return self._index.pass_micro_batches

    @property
    def clips(self) -> int:
        """Clips the plan draws from."""
        return self._index.kept

    @property
    def hours(self) -> float:
        """Hours of audio in one pass (of a clip longer than ``max_s`` only that much counts)."""
        return self._index.samples / SAMPLE_RATE / 3600

    @property
    def mean_s(self) -> Seconds:
        """Seconds of audio in a micro-batch, padding not counted, on average."""
        return self._index.samples / SAMPLE_RATE / self._index.pass_micro_batches

    @property
    def too_short(self) -> int:
        """Clips left out because they are shorter than ``min_s`` or their duration is not a number."""
        return self._index.too_short

    @property
    def too_long(self) -> int:
        """Clips left out because they are longer than ``max_s`` (only without ``crop``)."""
        return self._index.too_long

    @property
    def left_out(self) -> int:
        """Clips the plan never draws."""
        return self.too_short + self.too_long

    @property
    def bytes(self) -> int:
        """Memory the plan holds, without ``durations_s``, which is the caller's."""
        return self._index.bytes

    def padding(self, micro_batches: int = 200) -> Padding:
        """Padding in the first ``micro_batches``."""
        return padding([self.micro_batch(number) for number in range(micro_batches)])


def padding(micro_batches: list[MicroBatch]) -> Padding:
    """Padding over ``micro_batches``."""
    return Padding(sum(m.audio_s for m in micro_batches), sum(m.padded_s for m in micro_batches))


def sequential(
    rows: ArrayLike, durations_s: NDArray[np.floating], micro_batch_s: Seconds, max_s: Seconds = math.inf
) -> list[MicroBatch]:
    """Every one of ``rows`` once, for evaluation; longest first, so that too little memory fails at once.

    ``durations_s`` is the whole corpus's, (N,). A clip longer than ``micro_batch_s`` is a micro-batch of its own; one longer
    than ``max_s`` comes as pieces of just that length, as many as it holds, without what is left at its two ends.
    """
    rows = np.asarray(rows, np.int64)
    whole = np.maximum(np.rint(np.asarray(durations_s, np.float64)[rows] * SAMPLE_RATE), 1).astype(np.int64)
    lengths = whole if math.isinf(max_s) else np.minimum(whole, to_samples(max_s))
    pieces = whole // lengths
    nth = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat((whole - pieces * lengths) // 2, pieces) + nth * np.repeat(lengths, pieces)
    rows, lengths = np.repeat(rows, pieces), np.repeat(lengths, pieces)
    order = np.argsort(-lengths, kind="stable")
    rows, lengths, starts = rows[order], lengths[order], starts[order]
    batches: list[MicroBatch] = []
    begin = 0
    while begin < len(rows):
        end = begin + max(1, to_samples(micro_batch_s) // int(lengths[begin]))
        part = slice(begin, min(end, len(rows)))
        batches.append(MicroBatch(len(batches), rows[part], starts[part], lengths[part]))
        begin = end
    return batches
