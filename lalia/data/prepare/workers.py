"""Local workers: processes that make parts, and outlive neither their parent nor a decoder that crashes."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from lalia.data.prepare.parts import Record, Unit, make_part
from lalia.data.prepare.utterances import Cutting
from lalia.exits import UserError
from lalia.units import Seconds

PATIENCE_S: Seconds = 1800.0  # One file may be hours long; a decoder that loops is given up after this.
_LOOK_S: Seconds = 1.0

Progress = Callable[[int, int], None]
"""Hears a unit's number and how many of its clips are read."""


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    unit: Unit | None = None
    at: int = 0
    heard: float = field(default_factory=time.monotonic)


class _Pool:
    """Workers and the units that wait for one."""

    def __init__(self, units: list[Unit], work: Path, cutting: Cutting | None, strict: bool) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._waiting = list(reversed(units))
        self._poison: dict[int, set[int]] = {}
        self._work, self._cutting, self._strict = work, cutting, strict
        self.workers: list[_Worker] = []

    def start(self) -> None:
        ours, theirs = self._context.Pipe()
        told = (theirs, self._work, self._cutting, self._strict)
        process = self._context.Process(target=_serve, args=told, daemon=True)
        process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours))
        self.hand_out(self.workers[-1])

    def hand_out(self, worker: _Worker) -> None:
        worker.unit = self._waiting.pop() if self._waiting else None
        worker.at, worker.heard = 0, time.monotonic()
        if worker.unit is not None:
            worker.connection.send((worker.unit, frozenset(self._poison.get(worker.unit.number, ()))))

    def replace(self, worker: _Worker) -> None:
        """Its decoder took it down: another goes on, without the clip it was at."""
        assert worker.unit is not None
        worker.process.join()
        worker.connection.close()
        self._poison.setdefault(worker.unit.number, set()).add(worker.at)
        self._waiting.append(worker.unit)
        self.workers.remove(worker)
        self.start()

    def end(self) -> None:
        for worker in self.workers:
            worker.connection.close()
            if worker.unit is not None:
                worker.process.kill()
        for worker in self.workers:
            worker.process.join(10)


def make_parts(
    units: list[Unit], work: Path, cutting: Cutting | None, workers: int, progress: Progress, strict: bool = False
) -> None:
    """Make every unit's part with ``workers`` processes; a clip that brings one down is left out.

    Raises ``UserError`` where a worker could not write, or could not start at all.
    """
    pool = _Pool(units, work, cutting, strict)
    try:
        for _ in range(max(1, min(workers, len(units))) if units else 0):
            pool.start()
        while busy := [worker for worker in pool.workers if worker.unit is not None]:
            ready = wait([worker.connection for worker in busy], timeout=_LOOK_S)
            for worker in busy:
                if worker.connection in ready:
                    _listen(pool, worker, progress)
                elif time.monotonic() - worker.heard > PATIENCE_S:
                    worker.process.kill()
    finally:
        pool.end()


def _listen(pool: _Pool, worker: _Worker, progress: Progress) -> None:
    """Take one message of a worker, or its death."""
    assert worker.unit is not None
    try:
        message = worker.connection.recv()
    except (EOFError, OSError):
        if worker.heard and worker.at == 0 and worker.process.exitcode == 1:
            raise UserError("a worker process could not start; the lines above say why") from None
        pool.replace(worker)
        return
    worker.heard = time.monotonic()
    if isinstance(message, int):
        worker.at = message
        progress(worker.unit.number, message)
    elif isinstance(message, Record):
        progress(worker.unit.number, message.clips)
        pool.hand_out(worker)
    else:
        raise UserError(message)


def _quiet_libraries() -> None:
    """Decoders write of every odd frame to the terminal, past Python; what Python itself has to say still gets there."""
    ours = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = os.fdopen(ours, "w", buffering=1)


class _ParentGone(Exception):
    pass


def _serve(connection: Connection, work: Path, cutting: Cutting | None, strict: bool) -> None:
    """Make parts until the parent has no more, or is gone."""
    _quiet_libraries()

    def tell(clip: int) -> None:
        try:
            connection.send(clip)
        except OSError as error:
            raise _ParentGone from error

    try:
        while True:
            unit, poison = connection.recv()
            try:
                connection.send(make_part(unit, work, cutting, poison, tell, strict))
            except UserError as error:
                connection.send(str(error))
            except OSError as error:
                connection.send(f"{work}: cannot be written ({error.strerror or error}); make room and run again")
    except (EOFError, OSError, KeyboardInterrupt, _ParentGone):
        return
