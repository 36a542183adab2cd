"""Run preparation in parallel: local worker processes that survive decoder crashes, or a Ray cluster.

On a cluster every machine must see the folders under the same names, as on shared storage.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from lalia.data.prepare.segments import Segmentation
from lalia.data.prepare.shards import Record, Unit, make_part
from lalia.errors import UserError
from lalia.units import Seconds

# --- Local workers ---------------------------------------------------------------------------------------

PATIENCE_S: Seconds = 1800.0  # One file may be hours long; a decoder without progress is stopped after this.
_POLL_S: Seconds = 1.0

Progress = Callable[[int, int], None]
"""Called with a unit's number and the number of its clips that are read."""


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    unit: Unit | None = None
    at: int = -1  # the clip of the unit that is being read; -1: none yet
    last_message_s: float = field(default_factory=time.monotonic)


class _Pool:
    """The workers, and the units that wait for one."""

    def __init__(self, units: list[Unit], work: Path, segmentation: Segmentation | None, strict: bool) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._waiting = list(reversed(units))
        self._poison: dict[int, set[int]] = {}
        self._work, self._segmentation, self._strict = work, segmentation, strict
        self.workers: list[_Worker] = []

    def start(self) -> None:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._work, self._segmentation, self._strict)
        process = self._context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours))
        self.hand_out(self.workers[-1])

    def hand_out(self, worker: _Worker) -> None:
        worker.unit = self._waiting.pop() if self._waiting else None
        worker.at, worker.last_message_s = -1, time.monotonic()
        if worker.unit is not None:
            with contextlib.suppress(OSError):  # The worker has died: the next message is its end.
                worker.connection.send((worker.unit, frozenset(self._poison.get(worker.unit.number, ()))))

    def replace(self, worker: _Worker) -> None:
        """Replace a crashed worker; the new one continues without the current clip.

        Raises ``UserError`` if that clip was already left out: then the clip is not the cause.
        """
        assert worker.unit is not None
        worker.connection.close()
        poison = self._poison.setdefault(worker.unit.number, set())
        if worker.at in poison:
            code = worker.process.exitcode or 0
            how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
            raise UserError(
                f"two worker processes crashed at the same place (the last one {how}); is there enough "
                "memory? Run the same command again with fewer --workers"
            )
        poison.add(worker.at)
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
    units: list[Unit],
    work: Path,
    segmentation: Segmentation | None,
    workers: int,
    progress: Progress,
    strict: bool = False,
) -> None:
    """Make every unit's part with ``workers`` processes; a clip that crashes one is left out.

    Raises ``UserError`` if a worker cannot write or cannot start.
    """
    pool = _Pool(units, work, segmentation, strict)
    try:
        for _ in range(max(1, min(workers, len(units))) if units else 0):
            pool.start()
        while busy := [worker for worker in pool.workers if worker.unit is not None]:
            ready = wait([worker.connection for worker in busy], timeout=_POLL_S)
            for worker in busy:
                if worker.connection in ready:
                    _listen(pool, worker, progress)
                elif time.monotonic() - worker.last_message_s > PATIENCE_S:
                    worker.process.kill()
    finally:
        pool.end()


def _listen(pool: _Pool, worker: _Worker, progress: Progress) -> None:
    """Handle one message of a worker, or its end."""
    assert worker.unit is not None
    try:
        message = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        if worker.at < 0 and worker.process.exitcode == 1:
            raise UserError("a worker process could not start; the reason is above") from None
        pool.replace(worker)
        return
    worker.last_message_s = time.monotonic()
    if isinstance(message, int):
        worker.at = message
        progress(worker.unit.number, message)
    elif isinstance(message, Record):
        progress(worker.unit.number, message.clips)
        pool.hand_out(worker)
    else:
        raise UserError(message)


def _quiet_libraries() -> None:
    """Silence decoders, whose C code writes warnings to the terminal; Python's own stderr still works."""
    ours = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = os.fdopen(ours, "w", buffering=1)


class _ParentGone(Exception):
    pass


def _serve(connection: Connection, work: Path, segmentation: Segmentation | None, strict: bool) -> None:
    """Make parts until the parent has no more units or has ended."""
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
                connection.send(make_part(unit, work, segmentation, poison, tell, strict))
            except UserError as error:
                connection.send(str(error))
            except OSError as error:
                connection.send(f"{work}: cannot be written ({error.strerror or error}); make room and run again")
            except _ParentGone:
                raise
            except Exception as error:  # A bug in lalia: another worker would fail too.
                traceback.print_exc()
                connection.send(f"a worker failed ({type(error).__name__}: {error}); the traceback is above")
    except (EOFError, OSError, KeyboardInterrupt, _ParentGone):
        return


# --- The same parts on a Ray cluster ---------------------------------------------------------------------

_AHEAD = 2  # Units waiting per core: enough to keep it busy, few enough to hold their listings in memory.


def make_parts_on_cluster(
    units: list[Unit],
    work: Path,
    segmentation: Segmentation | None,
    address: str,
    progress: Progress,
    strict: bool = False,
) -> None:
    """Make every unit's part on the cluster at ``address`` (``""``: RAY_ADDRESS, else this machine).

    Units are pure, so the bytes are those of local workers. Raises ``UserError`` if the cluster cannot be reached, or a
    machine cannot write below ``work``.
    """
    ray = _connected(address)
    part = ray.remote(num_cpus=1, max_retries=3)(_make)
    waiting = list(reversed(units))
    running: dict[Any, Unit] = {}
    room = max(1, int(ray.cluster_resources().get("CPU", 1))) * _AHEAD
    try:
        while waiting or running:
            while waiting and len(running) < room:
                unit = waiting.pop()
                running[part.remote(unit, str(work.resolve()), segmentation, strict)] = unit
            for done in ray.wait(list(running), num_returns=1)[0]:
                unit = running.pop(done)
                found = _result(ray, done)
                progress(unit.number, found.clips)
    finally:
        ray.shutdown()


def _make(unit: Unit, work: str, segmentation: Segmentation | None, strict: bool) -> Record | str:
    """Make a part; returns its result, or a line with the reason why it cannot be written."""
    try:
        return make_part(unit, Path(work), segmentation, strict=strict)
    except UserError as error:
        return str(error)
    except OSError as error:
        return (
            f"{work}: {error.strerror or error}; every machine of the cluster must see this folder and may write to it"
        )


def _result(ray: Any, done: Any) -> Record:
    try:
        found = ray.get(done)
    except ray.exceptions.RayError as error:
        raise UserError(
            f"a machine of the cluster failed ({str(error).splitlines()[0]}); run the same command again"
        ) from error
    if isinstance(found, str):
        raise UserError(found)
    record: Record = found
    return record


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs ray; pip install 'lalia[train,cluster]'") from error
    try:
        ray.init(address=address or None, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises many types, plain Exception among them.
        where = (
            f"--address {address}: no Ray cluster answers there" if address else "--engine ray: Ray does not start here"
        )
        raise UserError(f"{where} ({str(error).splitlines()[0]})") from error
    return ray
