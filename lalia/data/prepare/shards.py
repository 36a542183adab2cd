"""Write the shards of a corpus in units of work, each a pure function from listed clips to shards and a record.

A unit is done when its record exists. A draft of the record is written after each shard, so a killed preparation loses at
most the current shard of each worker. The bytes do not depend on which worker made which unit.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from lalia.cards import write_json
from lalia.data.corpus import ExtraColumns, schema_with
from lalia.data.prepare.fingerprints import fingerprint
from lalia.data.prepare.listing import ClipNote, Dropped, Listing, SourceClip, Stream, ordering, sentence_key
from lalia.data.prepare.rows import CorpusRow, Reader, RecordingChannel, RecordingTotals
from lalia.data.prepare.segments import Segmentation
from lalia.errors import UserError

SHARD_ROWS = 500
SHARD_BYTES = 64_000_000
_NO_WAVE = np.zeros(0, np.float32)
FLAC_BYTES_PER_S = 18_000  # approximate, for speech; for planning only

Tell = Callable[[int], None]
"""Called with the number of the clip that will be read next."""


@dataclass(frozen=True)
class Unit:
    """Consecutive clips of a listing, or a stream of them, the choice of channels (``lalia.audio.channels``), and the
    listing's extra columns."""

    number: int
    clips: list[SourceClip] = field(default_factory=list)
    stream: Stream | None = None
    choice: int | None = None
    extra: ExtraColumns = field(default_factory=dict)

    def entries(self, start: int) -> Iterator[SourceClip | Dropped]:
        """What is listed, from number ``start`` on."""
        return iter(self.clips[start:]) if self.stream is None else self.stream.clips(start)


@dataclass
class Record:
    """The result of a unit.

    ``shards`` are (name, rows, bytes, SHA-256); ``rows`` are (id, content, seconds, hash of the sentence or "", side), one per
    row; ``clips`` of the unit are read, and of the clip after them ``rows_within`` rows are in the shards and
    ``dropped_within`` are dropped.
    """

    shards: list[tuple[str, int, int, str]] = field(default_factory=list)
    rows: list[tuple[str, str, float, str, RecordingChannel | None]] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    notes: list[ClipNote] = field(default_factory=list)
    totals: RecordingTotals = field(default_factory=RecordingTotals)
    clips: int = 0
    rows_within: int = 0
    dropped_within: int = 0

    @classmethod
    def read(cls, path: Path) -> Record:
        value = json.loads(path.read_text(encoding="utf-8"))
        # A preparation begun by an earlier version has no SHA-256: these shards are read for the corpus's hash.
        value["shards"] = [(*shard, "")[:4] for shard in value["shards"]]
        value["rows"] = [(*row, tuple(channel) if channel else None) for *row, channel in value["rows"]]
        value["dropped"] = [Dropped(**dropped) for dropped in value["dropped"]]
        value["notes"] = [ClipNote(**noted) for noted in value["notes"]]
        value["totals"] = RecordingTotals(**value["totals"])
        return cls(**value)


def plan_units(listing: Listing, choice: int | None = None) -> list[Unit]:
    """Cut a listing into units of about a shard each; depends on the listing alone, and the choice of channels."""
    units: list[Unit] = [
        Unit(number, [], stream, choice, listing.extra) for number, stream in enumerate(listing.streams)
    ]
    current: list[SourceClip] = []
    weight = 0.0
    for clip in listing.clips:
        cost = clip.duration_s * FLAC_BYTES_PER_S
        if current and (len(current) >= SHARD_ROWS or weight + cost > SHARD_BYTES):
            units.append(Unit(len(units), current, None, choice, listing.extra))
            current, weight = [], 0.0
        current.append(clip)
        weight += cost
    if current:
        units.append(Unit(len(units), current, None, choice, listing.extra))
    return units


def record_path(work: Path, number: int) -> Path:
    """Where the record of unit ``number`` is, once it is done."""
    return work / "parts" / f"{number:06d}.json"


def fingerprints_path(work: Path, shard: str) -> Path:
    """Where the fingerprints of a shard are."""
    return work / "parts" / f"{shard}.fingerprints.npy"


class _Writer:
    """Collects rows into shards and updates the draft of the record."""

    def __init__(self, unit: Unit, work: Path) -> None:
        self._draft = record_path(work, unit.number).with_suffix(".draft")
        self._work, self._number = work, unit.number
        self._schema = schema_with(unit.extra)
        self.record = Record.read(self._draft) if self._draft.exists() else Record()
        self._rows: list[CorpusRow] = []
        self._fingerprints: list[np.ndarray] = []
        self._size = 0

    def add(self, made: CorpusRow) -> bool:
        """Add a row; returns whether the shard is full."""
        self._fingerprints.append(fingerprint(made.wave_S, len(self._rows)))
        self._rows.append(replace(made, wave_S=_NO_WAVE))  # A shard's waves are a quarter of a gigabyte.
        self._size += len(made.row["audio"]["bytes"])
        return len(self._rows) >= SHARD_ROWS or self._size >= SHARD_BYTES

    def flush(self, clips: int, rows_within: int, dropped_within: int) -> None:
        """Write the shard and the draft that counts it: ``clips`` are read, and so much of the next."""
        if not self._rows:
            return
        name = f"{self._number:06d}-{len(self.record.shards):03d}.arrow"
        found = np.concatenate(self._fingerprints)
        write_file(fingerprints_path(self._work, name), lambda file: np.save(file, found))
        size, digest = write_shard(
            self._work / "parts" / name, pa.RecordBatch.from_pylist([m.row for m in self._rows], schema=self._schema)
        )
        self.record.shards.append((name, len(self._rows), size, digest))
        for made in self._rows:
            key = sentence_key(made.row["text"])
            hashed = ordering(key)[:16] if key else ""
            self.record.rows.append((made.row["id"], made.content, made.row["duration_s"], hashed, made.channel))
        self._rows, self._fingerprints, self._size = [], [], 0
        self._at(clips, rows_within, dropped_within)
        write_json(self._draft, asdict(self.record))

    def finish(self, clips: int) -> Record:
        self.flush(clips, 0, 0)
        self._at(clips, 0, 0)
        write_json(record_path(self._work, self._number), asdict(self.record))
        self._draft.unlink(missing_ok=True)
        return self.record

    def _at(self, clips: int, rows_within: int, dropped_within: int) -> None:
        self.record.clips, self.record.rows_within, self.record.dropped_within = clips, rows_within, dropped_within


def make_part(
    unit: Unit,
    work: Path,
    segmentation: Segmentation | None,
    poison: frozenset[int] = frozenset(),
    tell: Tell = lambda clip: None,
    strict: bool = False,
) -> Record:
    """Read the clips of ``unit``, write its shards and then its record below ``work``.

    ``poison`` are numbers of clips that crashed a worker before; ``strict`` rejects truncated files.
    Raises ``UserError`` if a file cannot be written.
    """
    writer = _Writer(unit, work)
    record = writer.record
    reader = Reader(segmentation, work, record.totals, strict, unit.choice)
    begun = (record.clips, record.rows_within, record.dropped_within)
    number = begun[0] - 1
    for number, clip in enumerate(unit.entries(begun[0]), start=begun[0]):
        tell(number)
        rows_seen, dropped_seen = begun[1:] if number == begun[0] else (0, 0)
        rows = dropped = 0
        for made in _read(reader, clip, number in poison):
            if isinstance(made, ClipNote):
                record.notes.append(made)
                continue
            if isinstance(made, Dropped):
                dropped += 1
                if dropped > dropped_seen:
                    record.dropped.append(made)
                continue
            rows += 1
            if rows > rows_seen and writer.add(made):
                writer.flush(number, rows, dropped)
    return writer.finish(number + 1)


def _read(reader: Reader, clip: SourceClip | Dropped, poisonous: bool) -> Iterator[CorpusRow | Dropped | ClipNote]:
    if isinstance(clip, Dropped):
        yield clip
    elif poisonous:
        yield Dropped(clip.id, "unreadable", "the decoder crashed or hung on it")
    else:
        try:
            yield from reader.read(clip)
        except (UserError, OSError):
            raise
        except Exception as error:  # One clip that triggers a decoder bug must not stop the whole preparation.
            yield Dropped(clip.id, "unreadable", f"{type(error).__name__}: {error}")


def write_shard(path: Path, batch: pa.RecordBatch) -> tuple[int, str]:
    """Write ``batch`` to ``path`` atomically as an Arrow stream: (bytes, SHA-256), so that the corpus's hash need not read it."""
    digest = hashlib.sha256()

    def write(file: BinaryIO) -> None:
        with pa.ipc.new_stream(_Hashed(file, digest), batch.schema) as stream:
            stream.write_batch(batch)

    write_file(path, write)
    return path.stat().st_size, digest.hexdigest()


class _Hashed(io.RawIOBase):
    """A file whose content is hashed while it is written."""

    def __init__(self, file: BinaryIO, digest: Any) -> None:
        self._file, self._digest = file, digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return self._file.write(data)


def write_file(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write ``path`` atomically; ``UserError`` if the disk is full or not writable."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); make room and run again") from error
