"""The same parts on a Ray cluster: every machine sees the folders under the same names, as on shared storage."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from lalia.data.prepare.parts import Record, Unit, make_part
from lalia.data.prepare.utterances import Cutting
from lalia.data.prepare.workers import Progress
from lalia.exits import UserError

_AHEAD = 2  # Units waiting per core: enough to keep it busy, few enough to hold their listings in memory.


def make_parts_on_cluster(
    units: list[Unit], work: Path, cutting: Cutting | None, address: str, progress: Progress, strict: bool = False
) -> None:
    """Make every unit's part on the cluster at ``address`` (``""``: the one that RAY_ADDRESS names, else this machine).

    Units are pure, so the bytes are those of local workers. Raises ``UserError`` where the cluster cannot be reached, or a
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
                running[part.remote(unit, str(work.resolve()), cutting, strict)] = unit
            for done in ray.wait(list(running), num_returns=1)[0]:
                unit = running.pop(done)
                found = _result(ray, done)
                progress(unit.number, found.clips)
    finally:
        ray.shutdown()


def _make(unit: Unit, work: str, cutting: Cutting | None, strict: bool) -> Record | str:
    """A part, or in a line why it cannot be written."""
    try:
        return make_part(unit, Path(work), cutting, strict=strict)
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
    except Exception as error:  # Ray raises whatever its parts do, plain Exception among it.
        where = (
            f"--address {address}: no Ray cluster answers there" if address else "--engine ray: Ray does not start here"
        )
        raise UserError(f"{where} ({str(error).splitlines()[0]})") from error
    return ray
