"""Sealing: from finished parts to a corpus: duplicates out, shards in place, index, list of what was skipped, card."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lalia.cards import write_card, write_text
from lalia.data.corpus import Corpus, write_index
from lalia.data.prepare.clips import Dropped, Listing, Noted
from lalia.data.prepare.duplicates import find_duplicates
from lalia.data.prepare.parts import Record, record_path, write_shard
from lalia.data.prepare.reading import Heard
from lalia.exits import UserError

SKIPPED = "skipped.tsv"
NOTES = "notes.tsv"


def seal(
    listing: Listing, work: Path, out: Path, units: int, duplicates: str, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Make ``out`` a corpus of the parts below ``work``; its card is written last and returned.

    May be interrupted at any point and done again: parts stay until the card is there.
    """
    records = [Record.read(record_path(work, number)) for number in range(units)]
    gone = find_duplicates(records, work, duplicates)
    dropped = [*listing.dropped, *(d for record in records for d in record.dropped)]
    dropped += [gone[row] for row in sorted(gone)]
    placed: list[tuple[Path, np.ndarray]] = []
    start = 0
    for path, rows in [(work / "parts" / name, rows) for record in records for name, rows, _ in record.shards]:
        keep = np.array([row not in gone for row in range(start, start + rows)], bool)
        start += rows
        if keep.any():
            placed.append((path, keep))
    out.mkdir(parents=True, exist_ok=True)
    write_skipped(out, dropped)
    notes = _once(noted for record in records for noted in record.notes)
    if notes:
        _write_table(out / NOTES, ("clip", "kind", "text"), [(n.id, n.kind, n.text) for n in notes])
    if not placed:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(d.reason for d in dropped).most_common())
        raise UserError(f"{listing.name}: not one clip is fit ({reasons or 'there are none'}); see {out / SKIPPED}")
    kept = [row for number, row in enumerate(row for record in records for row in record.rows) if number not in gone]
    fingerprint = hashlib.sha256("\n".join(f"{id} {content}" for id, content, *_ in kept).encode()).hexdigest()[:16]
    _write_shards(placed, out, fingerprint, f"Speech prepared by lalia from {listing.name}")
    for name, text in listing.documents.items():
        write_text(out / name, text)
    return write_card(out, "corpus", [], **_facts(listing, out, dropped, notes, records, recipe))


def write_skipped(out: Path, dropped: list[Dropped]) -> None:
    """``skipped.tsv``: every clip that is not in the corpus, with the reason."""
    _write_table(out / SKIPPED, ("clip", "reason", "detail"), [(d.id, d.reason, d.detail) for d in dropped])


def _once(notes: Iterable[Noted]) -> list[Noted]:
    """The notes without repetitions: of a file that is read for several clips, or again by a continued preparation."""
    found: dict[tuple[str, str, str], Noted] = {}
    for noted in notes:
        found.setdefault((noted.path, noted.kind, noted.text), noted)
    return list(found.values())


def _write_table(path: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    table.writerow(columns)
    table.writerows([" ".join(value.split()) for value in row] for row in rows)
    write_text(path, text.getvalue())


def _write_shards(placed: list[tuple[Path, np.ndarray]], out: Path, fingerprint: str, about: str) -> None:
    names, rows, size = [], 0, 0
    for number, (path, keep) in enumerate(placed):
        names.append(f"data-{number:05d}-of-{len(placed):05d}.arrow")
        size += _place(path, keep, out / names[-1])
        rows += int(keep.sum())
    write_index(out, names, rows, size, fingerprint, about)


def _facts(
    listing: Listing,
    out: Path,
    dropped: list[Dropped],
    notes: list[Noted],
    records: list[Record],
    recipe: dict[str, Any],
) -> dict[str, Any]:
    corpus = Corpus.open(out, {})
    facts = {
        "source": listing.name,
        "clips": corpus.tally(),
        "labelled_clips": corpus.tally(labelled=True),
        "hours": _rounded(corpus.hours()),
        "labelled_hours": _rounded(corpus.hours(labelled=True)),
        "speakers": corpus.count("speaker"),
        "dropped": dict(Counter(d.reason for d in dropped).most_common()),
        "dropped_list": SKIPPED,
        "notes": dict(Counter(noted.kind for noted in notes).most_common()),
        "recipe": recipe,
        **listing.facts,
    }
    heard = Heard()
    for record in records:
        heard.add(record.heard)
    if heard.recordings:
        hours = {f"{name[:-2]}_h": round(value / 3600, 4) for name, value in vars(heard).items() if name.endswith("_s")}
        facts["cut"] = {**hours, "recordings": heard.recordings}
    return facts


def _rounded(hours: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {language: {split: round(value, 4) for split, value in splits.items()} for language, splits in hours.items()}


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
