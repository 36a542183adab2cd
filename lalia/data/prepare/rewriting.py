"""A corpus written anew: rows left out, texts and splits changed, everything else as it was."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lalia.cards import NAME, read_card, write_card, write_text
from lalia.data.corpus import SCHEMA, Corpus, write_index
from lalia.data.prepare.clips import Dropped
from lalia.data.prepare.parts import SHARD_BYTES, SHARD_ROWS, write_shard
from lalia.data.prepare.seal import write_skipped
from lalia.exits import UserError

Changes = Mapping[int, Mapping[str, str]]
"""row -> column -> its new value"""


def rewrite(
    corpus: Corpus, out: Path, rows: np.ndarray, changes: Changes, dropped: list[Dropped], documents: Mapping[str, str],
    **facts: Any,
) -> dict[str, Any]:  # fmt: skip
    """Write the ``rows`` of ``corpus`` to ``out`` with ``changes`` made, ``dropped`` listed and ``documents`` (name to
    text) beside them, and return the card.

    ``facts`` go into the card, whose parent is the corpus's. Where ``out`` holds the result of the very same call, its card is
    returned. ``UserError`` where ``out`` holds anything else or nothing is left.
    """
    changed = sorted((row, sorted(new.items())) for row, new in changes.items())
    wanted = repr((corpus.card.get("id"), rows.tolist(), changed, [(d.id, d.reason) for d in dropped]))
    fingerprint = hashlib.sha256(wanted.encode()).hexdigest()[:16]
    if (out / NAME).is_file() and (card := read_card(out, "corpus")).get("rewriting") == fingerprint:
        return card
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not empty; choose another --out")
    if not len(rows):
        raise UserError(f"{corpus.folder}: not one clip is left to write to {out}")
    # Written beside its place, so that an interrupted call leaves nothing that stands in the way of the same one.
    begun = out.parent / f".{out.name}.work"
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    _write(corpus, begun, rows, changes, dropped, documents, {**facts, "rewriting": fingerprint}, fingerprint)
    if out.exists():
        out.rmdir()
    begun.replace(out)
    return read_card(out, "corpus")


def _write(
    corpus: Corpus, out: Path, rows: np.ndarray, changes: Changes, dropped: list[Dropped], documents: Mapping[str, str],
    facts: Mapping[str, Any], fingerprint: str,
) -> None:  # fmt: skip
    names, size, written = [], 0, 0
    batches = list(_batches(corpus, rows))
    for number, batch_rows in enumerate(batches):
        names.append(f"data-{number:05d}-of-{len(batches):05d}.arrow")
        table = [_row(corpus, row) | dict(changes.get(row, {})) for row in batch_rows]
        size += write_shard(out / names[-1], pa.RecordBatch.from_pylist(table, schema=SCHEMA))
        written += len(table)
    write_index(out, names, written, size, fingerprint, f"Speech of {corpus.folder.name}, rewritten by lalia")
    write_skipped(out, dropped)
    for name, text in documents.items():
        write_text(out / name, text)
    for document in ("ATTRIBUTION.md", "COPYRIGHT.txt"):
        if (corpus.folder / document).is_file():
            (out / document).write_bytes((corpus.folder / document).read_bytes())
    made = Corpus.open(out, {})
    kept = {key: value for key, value in corpus.card.items() if key in ("source", "licences", "sources", "attribution")}
    write_card(
        out, "corpus", [corpus.card],
        **kept,
        clips=made.tally(), labelled_clips=made.tally(labelled=True),
        hours=_rounded(made.hours()), labelled_hours=_rounded(made.hours(labelled=True)), speakers=made.count("speaker"),
        dropped=dict(Counter(d.reason for d in dropped).most_common()), **facts,
    )  # fmt: skip


def _row(corpus: Corpus, row: int) -> dict[str, Any]:
    """All columns of ``row``."""
    return {name: corpus.column(name, np.array([row]))[0] for name in SCHEMA.names}


def _batches(corpus: Corpus, rows: np.ndarray) -> Iterator[list[int]]:
    """Rows of one shard each."""
    batch: list[int] = []
    size = 0
    for row in rows.tolist():
        cost = len(corpus.audio_bytes(row))
        if batch and (len(batch) >= SHARD_ROWS or size + cost > SHARD_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += cost
    if batch:
        yield batch


def _rounded(hours: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {language: {split: round(value, 4) for split, value in splits.items()} for language, splits in hours.items()}
