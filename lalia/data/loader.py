"""The loader: micro-batches of the plan as padded tensors, decoded ahead of their use by threads or processes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import torch
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader, Dataset, Sampler

from lalia.data.batch import Batch
from lalia.data.clips import Augmenter, Clips, Labels, NothingReadable, PlannedClips
from lalia.data.plan import BatchPlan, MicroBatch, sequential
from lalia.data.worker_processes import blocked, leave_signals_to_the_run
from lalia.units import Seconds

__all__ = ["Batch", "NothingReadable", "RunLoader", "ThreadedLoader", "make_eval_loader", "make_loader"]

Context = Literal["threads", "fork", "spawn", "forkserver"]


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


class ThreadedLoader(Iterable[Batch]):
    """Batches in the sampler's order, read ahead by threads of this process.

    Decoding is C code that lets other threads run, and what a thread has read is already where the training wants it: a process
    would hand each batch over through shared memory, whose fresh pages cost as much as half the decoding.
    """

    def __init__(
        self, clips: PlannedClips, sampler: Sampler[MicroBatch], *, workers: int, prefetch: int, pin_memory: bool
    ) -> None:
        self._clips, self._sampler = clips, sampler
        self._workers, self._ahead = workers, workers * prefetch
        self._pin_memory = pin_memory and torch.cuda.is_available()

    def __len__(self) -> int:
        """Batches of one pass; a TypeError where the sampler is endless."""
        return len(self._sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        """As they are; of a pass that ends, one without a readable clip is left out and its clips are named by a neighbour."""
        batches = self._batches()
        if not isinstance(self._sampler, ListSampler):
            yield from (_readable(batch) for batch in batches)
            return
        last: Batch | None = None
        lost: NothingReadable | None = None
        bad: list[str] = []
        for batch in batches:
            if isinstance(batch, NothingReadable):
                lost = batch
                bad += batch.bad
                continue
            if last is not None:
                yield last
            last, bad = replace(batch, bad=(*bad, *batch.bad)), []
        if last is not None:
            yield replace(last, bad=(*last.bad, *bad))
        elif lost is not None:
            raise lost

    def _batches(self) -> Iterator[Batch | NothingReadable]:
        if not self._workers:
            yield from map(self._read, self._sampler)
            return
        ahead: deque[Future[Batch | NothingReadable]] = deque()
        with ThreadPoolExecutor(self._workers, thread_name_prefix="lalia-loader") as threads:
            try:
                for micro_batch in self._sampler:
                    ahead.append(threads.submit(self._read, micro_batch))
                    if len(ahead) > self._ahead:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _read(self, micro_batch: MicroBatch) -> Batch | NothingReadable:
        try:
            batch = self._clips[micro_batch]
        except NothingReadable as error:
            return error
        return batch.pin_memory() if self._pin_memory else batch


class RunLoader(DataLoader[Batch]):
    """A DataLoader whose worker processes leave the signals that stop a run to the run."""

    def __init__(self, clips: Dataset[Any], **settings: Any) -> None:
        super().__init__(clips, worker_init_fn=leave_signals_to_the_run, **settings)

    def __iter__(self) -> Any:
        with blocked():
            return super().__iter__()


def make_loader(
    corpus: Clips,
    plan: BatchPlan,
    *,
    start: int,
    ranks: int = 1,
    rank: int = 0,
    workers: int = 2,
    labels: Labels | None = None,
    augment: Augmenter | None = None,
    normalise: bool = False,
    prefetch: int = 4,
    pin_memory: bool = False,
    context: Context | None = None,
) -> Iterable[Batch]:
    """The micro-batches ``start`` … of ``rank``, endless and without a length.

    start: the global micro-batch to begin with: step × ranks × accumulation.
    workers: threads or processes that decode; 0 decodes where the batch is asked for.
    labels: text to token numbers; None makes batches without labels.
    normalise: zero mean and unit variance for each clip, after ``augment``.
    prefetch: micro-batches ready ahead, for each worker.
    context: what the workers are: threads, or processes started in one of three ways. None takes threads, but processes
        (the system's way) where there is ``augment``, whose Python and torch code would keep the training waiting.

    Lightning's Trainer must leave the sampler of processes alone: ``use_distributed_sampler=False``.
    """
    clips = PlannedClips(corpus, seed=plan.seed, labels=labels, augment=augment, normalise=normalise)
    sampler = PlanSampler(plan, start=start, ranks=ranks, rank=rank)
    if not workers or context == "threads" or (context is None and augment is None):
        return ThreadedLoader(clips, sampler, workers=workers, prefetch=prefetch, pin_memory=pin_memory)
    return RunLoader(
        clips,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=prefetch,
        persistent_workers=True,
        pin_memory=pin_memory,
        collate_fn=_as_is,
        multiprocessing_context=context,
        # Its own generator: a DataLoader draws a seed at its start, which would move the training's random numbers on.
        generator=torch.Generator().manual_seed(0),
    )


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
    prefetch: int = 2,
    pin_memory: bool = False,
    max_s: Seconds = math.inf,
) -> ThreadedLoader:
    """Each of ``rows`` once, longest first; of several ranks each has every ranks-th micro-batch.

    A clip longer than ``max_s`` comes as pieces of that length, all others whole. One rank may have one micro-batch more than
    another.
    ``workers`` are threads.
    """
    micro_batches = sequential(rows, corpus.durations_s, micro_batch_s, max_s)[rank::ranks]
    clips = PlannedClips(corpus, seed=0, labels=labels, augment=None, normalise=normalise)
    sampler = ListSampler(micro_batches)
    return ThreadedLoader(clips, sampler, workers=workers, prefetch=prefetch, pin_memory=pin_memory)


def _readable(batch: Batch | NothingReadable) -> Batch:
    if isinstance(batch, NothingReadable):
        raise batch
    return batch


def _as_is(batch: Any) -> Any:
    return batch
