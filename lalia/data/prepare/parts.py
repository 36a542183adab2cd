"""Parts: the units that preparation works in, each a pure function from listed clips to shards and a record.

A unit is done when its record is there; until then everything it wrote is written again. So a killed preparation loses
the unit each worker was at, and the bytes are the same whoever makes which unit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from lalia.cards import write_json
from lalia.data.corpus import SCHEMA
from lalia.data.prepare.clips import Clip, Dropped
from lalia.data.prepare.reading import Made, Reader
from lalia.exits import UserError

SHARD_ROWS = 500
SHARD_BYTES = 64_000_000
FLAC_BYTES_PER_S = 18_000  # Of speech, about; for planning only.


@dataclass(frozen=True)
class Unit:
    """Consecutive clips of a listing, small enough to be lost."""

    number: int
    clips: list[Clip]


@dataclass
class Record:
    """What became of a unit: its shards (name, rows, bytes), what each row sounds like, and what was left out."""

    shards: list[tuple[str, int, int]] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Record:
        value = json.loads(path.read_text(encoding="utf-8"))
        return cls([tuple(s) for s in value["shards"]], value["contents"], [Dropped(**d) for d in value["dropped"]])


def plan_units(clips: Iterable[Clip]) -> list[Unit]:
    """Cut a listing into units of about a shard each; depends on the listing alone."""
    units: list[Unit] = []
    current: list[Clip] = []
    weight = 0.0
    for clip in clips:
        cost = clip.duration_s * FLAC_BYTES_PER_S
        if current and (len(current) >= SHARD_ROWS or weight + cost > SHARD_BYTES):
            units.append(Unit(len(units), current))
            current, weight = [], 0.0
        current.append(clip)
        weight += cost
    if current:
        units.append(Unit(len(units), current))
    return units


def record_path(work: Path, number: int) -> Path:
    """Where the record of unit ``number`` is, once it is done."""
    return work / "parts" / f"{number:06d}.json"


def make_part(
    unit: Unit, work: Path, poison: frozenset[str] = frozenset(), tell: Callable[[int], None] = lambda clip: None
) -> Record:
    """Read the clips of ``unit``, write its shards and then its record below ``work``.

    ``poison`` names clips that brought a worker down before; ``tell`` hears the number of each clip before it is read.
    """
    reader = Reader()
    record = Record()
    rows: list[dict[str, Any]] = []
    size = 0

    def flush() -> None:
        nonlocal rows, size
        if rows:
            name = f"{unit.number:06d}-{len(record.shards):03d}.arrow"
            written = write_shard(work / "parts" / name, pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
            record.shards.append((name, len(rows), written))
            rows, size = [], 0

    for number, clip in enumerate(unit.clips):
        tell(number)
        if clip.id in poison:
            record.dropped.append(Dropped(clip.id, "unreadable", f"{clip.path}: the decoder crashed or hung"))
            continue
        made = reader.read(clip)
        if isinstance(made, Made):
            rows.append(made.row)
            record.contents.append(made.content)
            size += len(made.row["audio"]["bytes"])
            if len(rows) >= SHARD_ROWS or size >= SHARD_BYTES:
                flush()
        else:
            record.dropped.append(made)
    flush()
    record.write(record_path(work, unit.number))
    return record


def write_shard(path: Path, batch: pa.RecordBatch) -> int:
    """Write ``batch`` to ``path`` atomically as an Arrow stream; the number of bytes written."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            with pa.ipc.new_stream(file, batch.schema) as stream:
                stream.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); make room and run again") from error
    return path.stat().st_size
