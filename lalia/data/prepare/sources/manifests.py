"""Manifests: one table that names the audio files and says what is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lalia.data.prepare.clips import Clip, Dropped, Listing
from lalia.data.prepare.listing import finish_listing
from lalia.data.prepare.options import Options, Say
from lalia.data.prepare.sources.columns import describe_columns, find_columns
from lalia.data.prepare.sources.tables import clip_of, read_table

SUFFIXES = (".tsv", ".csv", ".jsonl", ".ndjson")


def list_manifest(path: Path, options: Options, say: Say) -> Listing:
    """The clips of a ``.tsv``, ``.csv`` or ``.jsonl``; paths start from ``--root``, else from the manifest's folder.

    ``say`` is told which column is read as what, and which rows have no text where the others do.
    """
    columns, rows = read_table(path)
    fields = find_columns(columns, options, str(path))
    for line in describe_columns(columns, fields, str(path)):
        say(line)
    root = options.root or path.parent
    name = path.resolve().parent.name if path.stem in ("manifest", "metadata") else path.stem
    found_splits = set()

    def entries() -> Iterator[Clip | Dropped]:
        for number, row in rows:
            where = f"{path.name} line {number}"
            if isinstance(row, str):
                yield Dropped(where, "bad row", row)
                continue
            if "split" in fields:
                found_splits.add(str(row.get(fields["split"]) or "").strip())
            yield clip_of(row, fields, root, name, where, options)

    listed = list(entries())
    clips = [entry for entry in listed if isinstance(entry, Clip)]
    wordless = [clip.id for clip in clips if not clip.text]
    if wordless and "text" in fields:
        one = len(wordless) == 1
        say(
            f"{path}: {fields['text']} is empty in {len(wordless):,} of {len(clips):,} rows, such as {wordless[0]}; "
            f"{'that clip' if one else 'those clips'} will have no label"
        )
    # A split column that is empty throughout says nothing.
    return finish_listing(name, listed, options, form="manifest", has_splits=bool(found_splits - {""}), where=path)
