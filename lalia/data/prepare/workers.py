"""Local workers: processes that make parts, and outlive neither their parent nor a decoder that crashes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from lalia.data.prepare.parts import Record, Unit, make_part
from lalia.exits import UserError
from lalia.units import Seconds

PATIENCE_S: Seconds = 1800.0  # One file may be hours long; a decoder that loops is given up after this.

Progress = Callable[[int, int], None]
"""Hears the numbers of clips read and of those left out since it was last called."""


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    unit: Unit | None = None
    at: int = 0
    heard: float = field(default_factory=time.monotonic)


def make_parts(units: Iterable[Unit], work: Path, workers: int, progress: Progress) -> None:
    """Make every unit's part with ``workers`` processes; a clip that brings one down is left out."""
    context = multiprocessing.get_context("spawn")
    waiting = list(units)[::-1]
    poison: dict[int, set[str]] = {}
    pool: list[_Worker] = []

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        process.start()
        theirs.close()
        pool.append(_Worker(process, ours))

    def hand_out(worker: _Worker) -> None:
        worker.unit = waiting.pop() if waiting else None
        worker.at = 0
        worker.heard = time.monotonic()
        if worker.unit is not None:
            worker.connection.send((worker.unit, frozenset(poison.get(worker.unit.number, ()))))

    try:
        for _ in range(max(1, min(workers, len(waiting)))):
            start()
            hand_out(pool[-1])
        while busy := [worker for worker in pool if worker.unit is not None]:
            ready = wait([worker.connection for worker in busy], timeout=5.0)
            for worker in busy:
                assert worker.unit is not None
                try:
                    if worker.connection not in ready:
                        if time.monotonic() - worker.heard > PATIENCE_S:
                            worker.process.kill()
                        continue
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    # Its decoder took it down. Make the unit again without the clip it was at.
                    worker.process.join()
                    poison.setdefault(worker.unit.number, set()).add(worker.unit.clips[worker.at].id)
                    progress(-worker.at, 0)
                    waiting.append(worker.unit)
                    pool.remove(worker)
                    start()
                    hand_out(pool[-1])
                    continue
                worker.heard = time.monotonic()
                if isinstance(message, int):
                    progress(message - worker.at, 0)
                    worker.at = message
                elif isinstance(message, Record):
                    progress(len(worker.unit.clips) - worker.at, len(message.dropped))
                    hand_out(worker)
                else:
                    raise UserError(message)
    finally:
        for worker in pool:
            worker.connection.close()
            worker.process.kill() if worker.unit is not None else None
        for worker in pool:
            worker.process.join(5)


def _serve(connection: Connection, work: Path) -> None:
    """Make parts until the parent has no more, or is gone."""
    try:
        while True:
            unit, poison = connection.recv()
            try:
                connection.send(make_part(unit, work, poison, connection.send))
            except UserError as error:
                connection.send(str(error))
    except (EOFError, OSError, KeyboardInterrupt):
        return
