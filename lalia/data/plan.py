"""The batch plan: which clips make up micro-batch number k, as a pure function of (seed, k).

Nothing has to be remembered for a resume: step k on R ranks with A accumulations takes the micro-batches k·R·A to
(k+1)·R·A - 1, and rank r those whose number leaves r when divided by R. Any number of ranks continues the same plan.

How a number becomes clips: clips are sorted once into buckets of nearly one length, and in each bucket by group
(language × corpus). Clocks with exact rates choose the bucket, then the group of each place; a keyed permutation for
each group and round chooses the clip.

Legend: N clips of the corpus, B clips of a micro-batch, G groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lalia.data.buckets import Bucket, Index
from lalia.data.permutation import keyed, permute, uniform
from lalia.exits import UserError
from lalia.units import SAMPLE_RATE, Seconds, to_samples

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
        self._index = Index(
            durations_s=durations_s,
            groups=None if alpha == 1 else groups,
            rows=rows,
            min_samples=max(1, to_samples(min_s)),
            max_samples=self._max_samples,
            budget_samples=to_samples(micro_batch_s),
            crop=crop,
            alpha=alpha,
            phase_of=lambda *place: uniform(keyed(seed, _PHASE, *place)),
        )
        if not self._index.kept:
            raise UserError(
                f"batch: none of {self._index.clips} clips can be used: {self.too_short} are shorter than {min_s:g} s "
                f"and {self.too_long} longer than {max_s:g} s; prepare other audio or change the limits"
            )
        self._shuffle = shuffle

    def micro_batch(self, number: int) -> MicroBatch:
        """The clips of micro-batch ``number`` (from 0), in O(B + G): no other micro-batch is looked at."""
        which, nth = self._index.clocks.draws(self._shuffled(number) if self._shuffle else number, 1)
        bucket = self._index.buckets[int(which[0])]
        rows = self._rows(bucket, int(nth[0]))
        lengths = np.maximum(np.rint(np.asarray(self._durations_s[rows], np.float64) * SAMPLE_RATE).astype(np.int64), 1)
        kept = np.minimum(lengths, self._max_samples)
        places = np.arange(len(rows))
        starts = (uniform(keyed(self.seed, _CROP, number, places)) * (lengths - kept + 1)).astype(np.int64)
        spares = keyed(self.seed, _SPARE, number, np.arange(SPARES)) % np.uint64(bucket.clips)
        return MicroBatch(number, rows, starts, kept, self._index.rows_at(bucket.first + spares.astype(np.int64)))

    def _shuffled(self, number: int) -> int:
        """Another number near by in the same pass: the clocks' regular order of long and short micro-batches is hidden."""
        pass_, place = divmod(number, self.epoch_micro_batches)
        begin = place - place % _WINDOW
        size = min(_WINDOW, self.epoch_micro_batches - begin)
        key = keyed(self.seed, _ORDER, pass_, begin)
        return number - place + begin + int(permute(np.array([place - begin]), np.array([size]), key)[0])

    def _rows(self, bucket: Bucket, nth: int) -> NDArray[np.int64]:
        """The rows of the bucket's micro-batch ``nth``."""
        draws = bucket.draws_of(nth)
        cell, tick = bucket.clocks.draws(draws.start, len(draws))
        counts = bucket.counts[cell]
        round_, place = np.divmod(tick, counts)
        if self._shuffle:
            place = permute(place, counts, keyed(self.seed, _ROWS, bucket.offsets[cell], round_))
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
