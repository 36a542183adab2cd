"""Sealing: from finished parts to a corpus: duplicates out, shards in place, index, list of what was skipped, card."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lalia.cards import write_card, write_text
from lalia.data.corpus import SPLITS, Corpus, write_index
from lalia.data.prepare.clips import Dropped, Listing
from lalia.data.prepare.parts import Record, record_path, write_shard
from lalia.exits import UserError

SKIPPED = "skipped.tsv"


def seal(listing: Listing, work: Path, out: Path, units: int, recipe: dict[str, Any]) -> dict[str, Any]:
    """Make ``out`` a corpus of the parts below ``work``; its card is written last and returned.

    May be interrupted at any point and done again: parts stay until the card is there.
    """
    records = [Record.read(record_path(work, number)) for number in range(units)]
    dropped = [*listing.dropped, *(d for record in records for d in record.dropped)]
    out.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    shards: list[tuple[Path, np.ndarray]] = []
    for (path, rows), keep in zip(_shards(records, work), _first_of_each(records), strict=True):
        duplicates = np.flatnonzero(~keep)
        if len(duplicates):
            ids = _ids(path)
            dropped += [Dropped(ids[row], "duplicate", "the same samples as an earlier clip") for row in duplicates]
        if keep.any():
            shards.append((path, keep))
        digest.update(f"{path.name} {rows} {len(duplicates)}\n".encode())
    if not shards:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(d.reason for d in dropped).most_common())
        write_skipped(out, dropped)
        raise UserError(f"{listing.name}: not one clip is fit ({reasons or 'there are none'}); see {out / SKIPPED}")
    names, rows, size = [], 0, 0
    for number, (path, keep) in enumerate(shards):
        names.append(f"data-{number:05d}-of-{len(shards):05d}.arrow")
        size += _place(path, keep, out / names[-1])
        rows += int(keep.sum())
    write_skipped(out, dropped)
    for name, text in listing.documents.items():
        write_text(out / name, text)
    write_index(out, names, rows, size, digest.hexdigest()[:16], f"Speech prepared by lalia from {listing.name}")
    return write_card(out, "corpus", [], **_facts(listing, out, dropped, recipe))


def write_skipped(out: Path, dropped: list[Dropped]) -> None:
    """``skipped.tsv``: every clip that is not in the corpus, with the reason."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(["clip", "reason", "detail"])
    table.writerows([d.id, d.reason, d.detail] for d in dropped)
    write_text(out / SKIPPED, text.getvalue())


def _facts(listing: Listing, out: Path, dropped: list[Dropped], recipe: dict[str, Any]) -> dict[str, Any]:
    rows = _Rows(out)
    return {
        "source": listing.name,
        "clips": rows.clips,
        "hours": rows.hours,
        "labelled_hours": rows.labelled_hours,
        "speakers": rows.speakers,
        "dropped": dict(Counter(d.reason for d in dropped).most_common()),
        "dropped_list": SKIPPED,
        "recipe": recipe,
        **listing.facts,
    }


class _Rows:
    """What the finished shards hold, counted before there is a card to open them with."""

    def __init__(self, out: Path) -> None:
        corpus = Corpus.open(out, {})
        self.clips = {split: int(np.sum(corpus.splits == code)) for code, split in enumerate(SPLITS)}
        self.hours = _rounded(corpus.hours())
        self.labelled_hours = _rounded(corpus.hours(labelled=True))
        self.speakers = corpus.count("speaker")


def _rounded(hours: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {language: {split: round(value, 4) for split, value in splits.items()} for language, splits in hours.items()}


def _shards(records: list[Record], work: Path) -> Iterator[tuple[Path, int]]:
    for record in records:
        for name, rows, _ in record.shards:
            yield work / "parts" / name, rows


def _first_of_each(records: list[Record]) -> Iterator[np.ndarray]:
    """For every shard, which rows are the first in the corpus to sound as they do."""
    contents = np.array([int(c[:16], 16) for record in records for c in record.contents], np.uint64)
    first = np.zeros(len(contents), bool)
    first[np.unique(contents, return_index=True)[1]] = True
    start = 0
    for record in records:
        for _, rows, _ in record.shards:
            yield first[start : start + rows]
            start += rows


def _ids(shard: Path) -> list[str]:
    with pa.memory_map(os.fspath(shard)) as file:
        return list(pa.ipc.open_stream(file).read_all().column("id").to_pylist())


def _place(part: Path, keep: np.ndarray, shard: Path) -> int:
    """Put the kept rows of ``part`` at ``shard``: the file itself where that is all of them. Bytes of the shard."""
    if not keep.all():
        with pa.memory_map(os.fspath(part)) as file:
            batch = pa.ipc.open_stream(file).read_next_batch()
            return write_shard(shard, batch.filter(pa.array(keep)))
    shard.unlink(missing_ok=True)
    try:
        os.link(part, shard)
    except OSError:  # Another disk, or one without links.
        shutil.copyfile(part, shard)
    return shard.stat().st_size
