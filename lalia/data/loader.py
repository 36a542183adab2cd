"""The loader: micro-batches of the plan as padded tensors, decoded in worker processes ahead of their use.

Legend: B clips, S samples, U tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lalia.data.plan import BatchPlan, MicroBatch, sequential
from lalia.exits import UserError
from lalia.units import Seconds

Labels = Callable[[str], list[int]]
Augment = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]
"""A wave (S,) to another, every choice drawn from the generator."""


class NothingReadable(UserError):
    """Not one clip of a micro-batch, nor any of its spares, could be read."""

    def __init__(self, message: str) -> None:
        # A DataLoader raises a worker's error again with the traceback for a message, whose last line is this one.
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


class Clips(Protocol):
    """What the loader needs of a corpus (``lalia.data.corpus.Corpus`` has it)."""

    @property
    def durations_s(self) -> NDArray[np.float32]: ...
    @property
    def languages(self) -> NDArray[np.integer]: ...
    def id(self, row: int) -> str: ...
    def text(self, row: int) -> str: ...
    def wave(self, row: int) -> NDArray[np.float32]: ...


@dataclass(frozen=True)
class Batch:
    """One micro-batch, padded with zeros at the end of each clip."""

    number: int  # of the plan's micro-batch
    wave_BS: Tensor  # float32, 16 kHz
    lengths_B: Tensor  # int64, samples
    rows_B: Tensor  # int64, row numbers of the corpus
    languages_B: Tensor  # int64, the corpus's language codes
    labels_BU: Tensor | None  # int64, 0 after the end of each text; None without labels
    label_lengths_B: Tensor | None  # int64
    bad: tuple[str, ...]  # one line for each clip that could not be read and was left out

    @property
    def labels(self) -> list[Tensor]:
        """Each clip's labels without padding: B tensors (U,)."""
        if self.labels_BU is None or self.label_lengths_B is None:
            raise ValueError("this batch has no labels; make the loader with labels=")
        return [label_U[:length] for label_U, length in zip(self.labels_BU, self.label_lengths_B.tolist(), strict=True)]

    @property
    def samples(self) -> int:
        """Samples of audio, padding not counted."""
        return int(self.lengths_B.sum())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on ``device``."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (DataLoader calls this)."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            values[field.name] = change(value) if isinstance(value, Tensor) else value
        return Batch(**values)


class PlannedClips(Dataset[Batch]):
    """A map from a MicroBatch, which the sampler makes, to its Batch; workers need the corpus, not the plan."""

    def __init__(
        self, corpus: Clips, *, seed: int, labels: Labels | None, augment: Augment | None, normalise: bool
    ) -> None:
        self._corpus, self._seed, self._labels, self._augment = corpus, seed, labels, augment
        self._normalise = normalise

    def __getitem__(self, micro_batch: MicroBatch) -> Batch:
        """Read the clips. What cannot be read is left out; if nothing is left, the spares are tried in turn.

        Raises NothingReadable where not one clip or spare can be read.
        """
        rows: list[int] = []
        waves: list[NDArray[np.float32]] = []
        labels: list[list[int]] = []
        bad: list[str] = []
        wanted = [*zip(micro_batch.rows, micro_batch.starts, micro_batch.lengths, strict=True)]
        longest = int(micro_batch.lengths.max())
        for place, (row, start, length) in enumerate(wanted + [(spare, 0, longest) for spare in micro_batch.spares]):
            if place >= len(wanted) and waves:
                break
            try:
                wave, label = self._read(int(row), int(start), int(length), micro_batch.number, place)
            except UserError as error:
                bad.append(str(error))
                continue
            rows.append(int(row))
            waves.append(wave)
            labels.append(label)
        if not waves:
            raise NothingReadable(
                f"micro-batch {micro_batch.number}: none of {len(bad)} clips can be read; the first: {bad[0]}"
            )
        return _padded(micro_batch.number, rows, waves, self._corpus.languages, labels if self._labels else None, bad)

    def _read(
        self, row: int, start: int, length: int, number: int, place: int
    ) -> tuple[NDArray[np.float32], list[int]]:
        whole = self._corpus.wave(row)
        start = max(0, min(start, len(whole) - length))  # shorter than its index says: what is there
        wave = whole[start : start + length]
        if not len(wave):
            raise UserError(f"{self._corpus.id(row)}: has no samples; prepare the corpus again without it")
        label = self._labels(self._corpus.text(row)) if self._labels else []
        if self._augment:
            # The same place of the same micro-batch draws the same, in whatever worker.
            wave = self._augment(wave, np.random.default_rng((self._seed & (2**64 - 1), number, place)))
        if self._normalise:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + np.float32(1e-5))
        return wave, label


class PlanSampler(Sampler[MicroBatch]):
    """The plan's micro-batches of one rank, from ``start`` on, without end: it has no length on purpose."""

    def __init__(self, plan: BatchPlan, *, start: int, ranks: int, rank: int) -> None:
        if not 0 <= rank < ranks or start < 0:
            raise ValueError(
                f"rank {rank} of {ranks} from micro-batch {start}: expected 0 <= rank < ranks and start >= 0"
            )
        self._plan, self._ranks = plan, ranks
        self._first = start + (rank - start) % ranks

    def __iter__(self) -> Iterator[MicroBatch]:
        number = self._first
        while True:
            yield self._plan.micro_batch(number)
            number += self._ranks


class ListSampler(Sampler[MicroBatch]):
    """The micro-batches of a list, once."""

    def __init__(self, micro_batches: list[MicroBatch]) -> None:
        self._micro_batches = micro_batches

    def __iter__(self) -> Iterator[MicroBatch]:
        return iter(self._micro_batches)

    def __len__(self) -> int:
        return len(self._micro_batches)


def make_loader(
    corpus: Clips,
    plan: BatchPlan,
    *,
    start: int,
    ranks: int = 1,
    rank: int = 0,
    workers: int = 2,
    labels: Labels | None = None,
    augment: Augment | None = None,
    normalise: bool = False,
    prefetch: int = 4,
    pin_memory: bool = False,
    context: str | None = None,
) -> DataLoader[Batch]:
    """The micro-batches ``start`` … of ``rank``, endless and without a length.

    start: the global micro-batch to begin with: step × ranks × accumulation.
    workers: processes that decode; 0 decodes in the training process.
    labels: text to token numbers; None makes batches without labels.
    normalise: zero mean and unit variance for each clip, after ``augment``.
    prefetch: micro-batches ready ahead, for each worker.
    context: how workers start: fork, spawn, forkserver; None is the system's way.

    Lightning's Trainer must leave the sampler alone: ``use_distributed_sampler=False``.
    """
    clips = PlannedClips(corpus, seed=plan.seed, labels=labels, augment=augment, normalise=normalise)
    sampler = PlanSampler(plan, start=start, ranks=ranks, rank=rank)
    return _loader(clips, sampler, workers, prefetch, pin_memory, context)


def make_eval_loader(
    corpus: Clips,
    rows: ArrayLike,
    micro_batch_s: Seconds,
    labels: Labels | None = None,
    *,
    ranks: int = 1,
    rank: int = 0,
    workers: int = 0,
    normalise: bool = False,
    pin_memory: bool = False,
    context: str | None = None,
) -> DataLoader[Batch]:
    """Each of ``rows`` once and whole, longest first; of several ranks each has every ranks-th micro-batch.

    One rank may have one micro-batch more than another.
    """
    micro_batches = sequential(rows, corpus.durations_s, micro_batch_s)[rank::ranks]
    clips = PlannedClips(corpus, seed=0, labels=labels, augment=None, normalise=normalise)
    return _loader(clips, ListSampler(micro_batches), workers, 2, pin_memory, context)


def _loader(
    clips: PlannedClips,
    sampler: Sampler[MicroBatch],
    workers: int,
    prefetch: int,
    pin_memory: bool,
    context: str | None,
) -> DataLoader[Batch]:
    many: dict[str, Any] = {}
    if workers:
        many = {"prefetch_factor": prefetch, "persistent_workers": True, "multiprocessing_context": context}
    return DataLoader(
        clips,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        collate_fn=_as_is,
        # Its own generator: a DataLoader draws a seed at its start, which would move the training's random numbers on.
        generator=torch.Generator().manual_seed(0),
        **many,
    )


def _as_is(batch: Any) -> Any:
    return batch


def _padded(
    number: int,
    rows: list[int],
    waves: list[NDArray[np.float32]],
    languages: NDArray[np.integer],
    labels: list[list[int]] | None,
    bad: list[str],
) -> Batch:
    lengths_B = torch.tensor([len(wave) for wave in waves])
    wave_BS = torch.zeros(len(waves), int(lengths_B.max()))
    filled = wave_BS.numpy()
    for place, wave in enumerate(waves):
        filled[place, : len(wave)] = wave
    rows_B = torch.tensor(rows)
    languages_B = torch.from_numpy(np.asarray(languages[np.asarray(rows)], np.int64))
    labels_BU = label_lengths_B = None
    if labels is not None:
        label_lengths_B = torch.tensor([len(label) for label in labels])
        labels_BU = torch.zeros(len(labels), int(label_lengths_B.max()), dtype=torch.int64)
        for place, label in enumerate(labels):
            labels_BU[place, : len(label)] = torch.tensor(label, dtype=torch.int64)
    return Batch(number, wave_BS, lengths_B, rows_B, languages_B, labels_BU, label_lengths_B, tuple(bad))
