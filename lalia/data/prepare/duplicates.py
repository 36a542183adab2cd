"""Find duplicate clips: the same samples, or the same recording in another encoding."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from lalia.data.prepare.fingerprints import find_copies
from lalia.data.prepare.listing import Dropped
from lalia.data.prepare.rows import RecordingChannel
from lalia.data.prepare.shards import Record, fingerprints_path

CONFLICT = "conflicting label"
"""Reason of a dropped clip with the same samples as another but a different label: one of the two labels is wrong."""


def find_duplicates(records: list[Record], work: Path, mode: str) -> dict[int, Dropped]:
    """The rows to drop, as numbers over all parts, in order, and the rows that they repeat.

    Of two the labelled one stays, else the earlier. Similar recordings with different labels both stay; of clips with the
    same samples and different labels the first stays, and the other is a ``CONFLICT`` that quotes both labels. Two channels
    of one recording both stay: cross-talk, however soft, makes their fingerprints similar. ``mode`` "exact" compares samples
    only, "keep" finds none.
    """
    rows = [row for record in records for row in record.rows]
    gone: dict[int, Dropped] = {}
    if mode == "keep" or not rows:
        return gone
    keys, channels = [row[3] for row in rows], [row[4] for row in rows]
    first: dict[str, int] = {}
    for row, (_, content, _, key, _) in enumerate(rows):
        other = first.setdefault(content, row)
        if other == row:
            continue
        keep, go = (row, other) if key and not keys[other] else (other, row)
        first[content] = keep
        detail = f"the same samples as {rows[keep][0]}"
        if key and keys[other] and key != keys[other]:
            dropped_label, kept_label = (_text(records, work, number) for number in (go, keep))
            gone[go] = Dropped(
                rows[go][0], CONFLICT, f"{detail}, which has another label: {kept_label!r}, not {dropped_label!r}"
            )
        else:
            gone[go] = Dropped(rows[go][0], "duplicate", detail)
    if mode == "near":
        durations = np.array([row[2] for row in rows], np.float32)
        for earlier, later in find_copies(_fingerprints(records, work), durations, work):
            if earlier in gone or later in gone or (keys[earlier] and keys[later] and keys[earlier] != keys[later]):
                continue
            if _are_channels_of_one_recording(channels[earlier], channels[later]):
                continue
            keep, go = (later, earlier) if keys[later] and not keys[earlier] else (earlier, later)
            gone[go] = Dropped(rows[go][0], "near duplicate", f"the same recording as {rows[keep][0]}")
    return gone


def _text(records: list[Record], work: Path, row: int) -> str:
    """The label of a row, numbered over all parts."""
    for name, rows, *_ in (shard for record in records for shard in record.shards):
        if row < rows:
            with pa.memory_map(os.fspath(work / "parts" / name)) as file:
                return str(pa.ipc.open_stream(file).read_next_batch().column("text")[row])
        row -= rows
    raise IndexError(row)


def _are_channels_of_one_recording(one: RecordingChannel | None, other: RecordingChannel | None) -> bool:
    return one is not None and other is not None and one[0] == other[0] and one[1] != other[1]


def _fingerprints(records: list[Record], work: Path) -> Iterator[np.ndarray]:
    """The fingerprints of one shard after the other, their rows numbered over all parts."""
    start = 0
    for record in records:
        for name, rows, *_ in record.shards:
            prints_K = np.load(fingerprints_path(work, name), allow_pickle=False)
            prints_K["row"] += start
            start += rows
            yield prints_K
