"""Load the micro-batches of a batch plan as padded tensors, decoded ahead of time by threads or processes.

``make_loader`` serves training (endless, resumable at any micro-batch), ``make_eval_loader`` reads given rows once. Clips that
cannot be read are reported and left out.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from lalia.data.batch import Batch, pad
from lalia.data.plan import BatchPlan, MicroBatch, sequential
from lalia.errors import UserError
from lalia.signals import STOP_SIGNALS
from lalia.units import Seconds

# --- Worker processes that decode for a run --------------------------------------------------------------

_ORPHANED_S = 1.0


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes that are started inside begin with the stopping signals blocked; this one takes what came behind it."""
    resource_tracker.ensure_running()  # spawn starts it, and it unblocks two of the signals when it is started inside
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals(worker: int = 0) -> None:
    """Let this worker process end only by a SIGTERM of the run, or when the run is gone.

    The process must be started in ``stop_signals_blocked``.
    """
    run = multiprocessing.parent_process()
    if sys.platform == "linux":
        assert run is not None
        threading.Thread(target=_end_with, args=(run.pid, os.getppid()), daemon=True).start()
        return
    # No other system tells who sent a signal. Out of the run's process group, only what is meant for the worker arrives.
    os.setpgid(0, 0)
    if signal.SIGTERM in signal.sigpending():
        signal.sigwait({signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


if sys.platform == "linux":

    def _end_with(run: int | None, parent: int) -> None:
        while True:
            came = signal.sigtimedwait({signal.SIGTERM}, _ORPHANED_S)
            if (came is not None and came.si_pid == run) or os.getppid() != parent:
                os._exit(0)  # as torch's handler does


# --- Clips of a micro-batch ------------------------------------------------------------------------------

Labels = Callable[[str, str], list[int]]
Finish = Callable[[Batch], Batch]
"""Completes a padded batch, for example by joining and masking; every choice a function of the batch's number."""
Augmenter = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]
"""A wave (S,) to another, every choice drawn from the generator."""


class ClipReader(Protocol):
    """What the loader needs of a corpus (``lalia.data.corpus.Corpus`` has it)."""

    @property
    def durations_s(self) -> NDArray[np.float32]: ...
    @property
    def languages(self) -> NDArray[np.integer]: ...
    def id(self, row: int) -> str: ...
    def text(self, row: int) -> str: ...
    def language(self, row: int) -> str: ...
    def wave(self, row: int) -> NDArray[np.float32]: ...


class NoReadableClip(UserError):
    """Not one clip of a micro-batch, nor any of its spares, could be read."""

    bad: tuple[str, ...] = ()
    """a line for each of them, where they are known"""

    def __init__(self, message: str, bad: Sequence[str] = ()) -> None:
        self.bad = tuple(bad)
        # A DataLoader raises a worker's error again with the traceback for a message, whose last line is this one.
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


class MicroBatchDataset(Dataset[Batch]):
    """A map from a MicroBatch, which the sampler makes, to its Batch; workers need the corpus, not the plan."""

    def __init__(
        self,
        corpus: ClipReader,
        *,
        seed: int,
        labels: Labels | None,
        augment: Augmenter | None,
        normalise: bool,
        finish: Finish | None,
    ) -> None:
        self._corpus, self._seed, self._labels, self._augment = corpus, seed, labels, augment
        self._normalise, self._finish = normalise, finish

    def __getitem__(self, micro_batch: MicroBatch) -> Batch:
        """Read the clips. What cannot be read is left out; if nothing is left, the spares are tried in turn.

        Raises NoReadableClip where not one clip or spare can be read.
        """
        rows: list[int] = []
        waves: list[NDArray[np.float32]] = []
        labels: list[list[int]] = []
        bad: list[str] = []
        decoded: tuple[int, NDArray[np.float32]] = (
            -1,
            np.zeros(0, np.float32),
        )  # the last: pieces of a long clip follow it
        wanted = [*zip(micro_batch.rows, micro_batch.starts, micro_batch.lengths, strict=True)]
        longest = int(micro_batch.lengths.max())
        for place, (row, start, length) in enumerate(wanted + [(spare, 0, longest) for spare in micro_batch.spares]):
            if place >= len(wanted) and waves:
                break
            try:
                if decoded[0] != row:
                    decoded = (int(row), self._corpus.wave(int(row)))
                wave, label = self._part(*decoded, int(start), int(length), micro_batch.number, place)
            except UserError as error:
                bad.append(str(error))
                continue
            rows.append(int(row))
            waves.append(wave)
            labels.append(label)
        if not waves:
            raise NoReadableClip(
                f"micro-batch {micro_batch.number}: none of {len(bad)} clips can be read; the first: {bad[0]}", bad
            )
        batch = pad(micro_batch.number, rows, waves, self._corpus.languages, labels if self._labels else None, bad)
        return self._finish(batch) if self._finish else batch

    def _part(
        self, row: int, whole: NDArray[np.float32], start: int, length: int, number: int, place: int
    ) -> tuple[NDArray[np.float32], list[int]]:
        start = max(0, min(start, len(whole) - length))  # shorter than its index says: what is there
        wave = whole[start : start + length]
        if not len(wave):
            raise UserError(f"{self._corpus.id(row)}: has no samples; prepare the corpus again without it")
        label = self._labels(self._corpus.text(row), self._corpus.language(row)) if self._labels else []
        if self._augment:
            # The same place of the same micro-batch draws the same, in whatever worker.
            wave = self._augment(wave, np.random.default_rng((self._seed & (2**64 - 1), number, place)))
        if self._normalise:
            wave = (wave - wave.mean()) / np.sqrt(wave.var() + np.float32(1e-5))
        return wave, label


# --- The loader ------------------------------------------------------------------------------------------

__all__ = ["Batch", "NoReadableClip", "RunLoader", "ThreadedLoader", "make_eval_loader", "make_loader"]

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

    def __init__(self, clips: MicroBatchDataset, sampler: Sampler[MicroBatch], *, workers: int, prefetch: int) -> None:
        self._clips, self._sampler = clips, sampler
        self._workers, self._ahead = workers, workers * prefetch

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
        lost: NoReadableClip | None = None
        bad: list[str] = []
        for batch in batches:
            if isinstance(batch, NoReadableClip):
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

    def _batches(self) -> Iterator[Batch | NoReadableClip]:
        if not self._workers:
            yield from map(self._read, self._sampler)
            return
        ahead: deque[Future[Batch | NoReadableClip]] = deque()
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

    def _read(self, micro_batch: MicroBatch) -> Batch | NoReadableClip:
        try:
            batch = self._clips[micro_batch]
        except NoReadableClip as error:
            return error
        return batch.pin_memory() if torch.cuda.is_available() else batch


class RunLoader(DataLoader[Batch]):
    """A DataLoader whose worker processes leave the signals that stop a run to the run, and send batches without /dev/shm."""

    def __init__(self, clips: Dataset[Any], **settings: Any) -> None:
        super().__init__(clips, worker_init_fn=_begin_worker, **settings)

    def __iter__(self) -> Any:
        with stop_signals_blocked():
            return super().__iter__()


def _begin_worker(worker: int) -> None:
    ignore_stop_signals(worker)
    # Tensors travel in the pipe: torch would put them into /dev/shm, and a process dies of a bus error where that is full (64 MB
    # in a container of docker's). One copy more costs what fresh pages of shared memory cost.
    ForkingPickler.register(torch.Tensor, _by_value)


def _by_value(tensor: torch.Tensor) -> tuple[Callable[..., torch.Tensor], tuple[NDArray[Any]]]:
    return torch.from_numpy, (tensor.numpy(),)


def make_loader(
    corpus: ClipReader,
    plan: BatchPlan,
    *,
    start: int,
    ranks: int = 1,
    rank: int = 0,
    workers: int = 2,
    labels: Labels | None = None,
    augment: Augmenter | None = None,
    normalise: bool = False,
    finish: Finish | None = None,
    prefetch: int = 4,
    context: Context | None = None,
) -> Iterable[Batch]:
    """The micro-batches ``start`` … of ``rank``, endless and without a length.

    start: the global micro-batch to begin with: step × ranks × accumulation.
    workers: threads or processes that decode; 0 decodes where the batch is asked for.
    labels: text and language (ISO 639-3) to token numbers; None makes batches without labels.
    normalise: zero mean and unit variance for each clip, after ``augment``.
    finish: completes each batch where it was read; processes need one that can be pickled.
    prefetch: micro-batches ready ahead, for each worker.
    context: what the workers are: threads, or processes started in one of three ways. None takes threads, but processes
        (the system's way) where there is ``augment``, whose Python and torch code would keep the training waiting.

    Lightning's Trainer must leave the sampler of processes alone: ``use_distributed_sampler=False``.
    """
    clips = MicroBatchDataset(
        corpus, seed=plan.seed, labels=labels, augment=augment, normalise=normalise, finish=finish
    )
    sampler = PlanSampler(plan, start=start, ranks=ranks, rank=rank)
    if not workers or context == "threads" or (context is None and augment is None):
        return ThreadedLoader(clips, sampler, workers=workers, prefetch=prefetch)
    return RunLoader(
        clips,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=prefetch,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
        collate_fn=_as_is,
        multiprocessing_context=context,
        # Its own generator: a DataLoader draws a seed at its start, which would move the training's random numbers on.
        generator=torch.Generator().manual_seed(0),
    )


def make_eval_loader(
    corpus: ClipReader,
    rows: ArrayLike,
    micro_batch_s: Seconds,
    labels: Labels | None = None,
    *,
    ranks: int = 1,
    rank: int = 0,
    workers: int = 0,
    normalise: bool = False,
    finish: Finish | None = None,
    prefetch: int = 2,
    max_s: Seconds = math.inf,
) -> ThreadedLoader:
    """Each of ``rows`` once, longest first; of several ranks each has every ranks-th micro-batch.

    A clip longer than ``max_s`` comes as pieces of that length, all others whole. One rank may have one micro-batch more than
    another.
    ``workers`` are threads.
    """
    micro_batches = sequential(rows, corpus.durations_s, micro_batch_s, max_s)[rank::ranks]
    clips = MicroBatchDataset(corpus, seed=0, labels=labels, augment=None, normalise=normalise, finish=finish)
    sampler = ListSampler(micro_batches)
    return ThreadedLoader(clips, sampler, workers=workers, prefetch=prefetch)


def _readable(batch: Batch | NoReadableClip) -> Batch:
    if isinstance(batch, NoReadableClip):
        raise batch
    return batch


def _as_is(batch: Any) -> Any:
    return batch
