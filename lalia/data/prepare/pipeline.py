"""Prepare a corpus from a source: list, process in units, remove duplicates, write shards and card.

``prepare`` starts, resumes or recognises a finished preparation; ``rewrite`` writes a corpus again with rows removed or texts
and splits changed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lalia.audio.channels import parse_channels
from lalia.audio.reading import TWO_VOICES
from lalia.cards import NAME, read_card, write_card, write_json, write_text
from lalia.data.corpus import Corpus, ExtraColumns, schema_with, write_clip_index, write_index
from lalia.data.prepare.duplicates import CONFLICT, find_duplicates
from lalia.data.prepare.listing import ClipNote, Dropped, Listing, SourceClip
from lalia.data.prepare.rows import RecordingTotals
from lalia.data.prepare.segments import Segmentation, split_recordings
from lalia.data.prepare.shards import (
    SHARD_BYTES,
    SHARD_ROWS,
    Record,
    Unit,
    plan_units,
    record_path,
    write_file,
    write_shard,
)
from lalia.data.prepare.sources.opening import ListSource
from lalia.data.prepare.splits import HOLD_OUT_METHODS, PERCENT, clips_per_split
from lalia.data.prepare.workers import Progress as Report
from lalia.errors import UserError
from lalia.text.language_codes import UNKNOWN

# --- Finalise --------------------------------------------------------------------------------------------

SKIPPED = "skipped.tsv"
NOTES = "notes.tsv"


def finalise(
    listing: Listing, work: Path, out: Path, units: int, duplicates: str, recipe: dict[str, Any]
) -> dict[str, Any]:
    """Make the corpus ``out`` from the parts below ``work``; its card is written last and returned.

    It can be interrupted at any point and repeated: the parts are kept until the card exists.
    """
    records = [Record.read(record_path(work, number)) for number in range(units)]
    gone = find_duplicates(records, work, duplicates)
    dropped = [*listing.dropped, *(d for record in records for d in record.dropped)]
    dropped += [gone[row] for row in sorted(gone)]
    placed: list[tuple[Path, np.ndarray, str]] = []
    start = 0
    for name, rows, _, digest in (shard for record in records for shard in record.shards):
        keep = np.array([row not in gone for row in range(start, start + rows)], bool)
        start += rows
        if keep.any():
            placed.append((work / "parts" / name, keep, digest))
    out.mkdir(parents=True, exist_ok=True)
    write_skipped(out, dropped)
    notes = _unique_notes(noted for record in records for noted in record.notes)
    if notes:
        _write_table(out / NOTES, ("clip", "kind", "text"), [(n.id, n.kind, n.text) for n in notes])
    if not placed:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(d.reason for d in dropped).most_common())
        raise UserError(f"{listing.name}: not one clip is fit ({reasons or 'there are none'}); see {out / SKIPPED}")
    kept = [row for number, row in enumerate(row for record in records for row in record.rows) if number not in gone]
    fingerprint = hashlib.sha256("\n".join(f"{id} {content}" for id, content, *_ in kept).encode()).hexdigest()[:16]
    hashes = _write_shards(placed, out, fingerprint, f"Speech prepared by lalia from {listing.name}", listing.extra)
    for name, text in listing.documents.items():
        write_text(out / name, text)
    return write_card(
        out, "corpus", listing.parents, known=hashes, **_card_facts(listing, out, dropped, notes, records, recipe)
    )


def write_skipped(out: Path, dropped: list[Dropped]) -> None:
    """``skipped.tsv``: every clip that is not in the corpus, with the reason."""
    _write_table(out / SKIPPED, ("clip", "reason", "detail"), [(d.id, d.reason, d.detail) for d in dropped])


def _unique_notes(notes: Iterable[ClipNote]) -> list[ClipNote]:
    """The notes without repetitions, from files that are read for several clips or again after an interruption."""
    found: dict[tuple[str, str, str], ClipNote] = {}
    for noted in notes:
        found.setdefault((noted.path, noted.kind, noted.text), noted)
    return list(found.values())


def _write_table(path: Path, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    table.writerow(columns)
    table.writerows([" ".join(value.split()) for value in row] for row in rows)
    write_text(path, text.getvalue())


def _write_shards(
    placed: list[tuple[Path, np.ndarray, str]], out: Path, fingerprint: str, about: str, extra: ExtraColumns
) -> dict[str, str]:
    """Place shards of (part, rows to keep, the part's SHA-256) and write their index: name -> SHA-256."""
    hashes: dict[str, str] = {}
    rows = size = 0
    for number, (path, keep, digest) in enumerate(placed):
        name = f"data-{number:05d}-of-{len(placed):05d}.arrow"
        shard_bytes, hashes[name] = _place_shard(path, keep, digest, out / name)
        size += shard_bytes
        rows += int(keep.sum())
    write_index(out, list(hashes), rows, size, fingerprint, about, extra)
    return hashes


def _card_facts(
    listing: Listing,
    out: Path,
    dropped: list[Dropped],
    notes: list[ClipNote],
    records: list[Record],
    recipe: dict[str, Any],
) -> dict[str, Any]:
    corpus = write_clip_index(out)
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
    totals = RecordingTotals()
    for record in records:
        totals.add(record.totals)
    if totals.recordings:
        hours = {
            f"{name[:-2]}_h": round(value / 3600, 4) for name, value in vars(totals).items() if name.endswith("_s")
        }
        facts["cut"] = {**hours, "recordings": totals.recordings}
    return facts


def _rounded(hours: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {language: {split: round(value, 4) for split, value in splits.items()} for language, splits in hours.items()}


def _place_shard(part: Path, keep: np.ndarray, digest: str, shard: Path) -> tuple[int, str]:
    """Write the kept rows of ``part``, whose SHA-256 is ``digest``, to ``shard`` (a hard link if all are kept); returns the
    shard's (bytes, SHA-256)."""
    if not keep.all():
        with pa.memory_map(os.fspath(part)) as file:
            batch = pa.ipc.open_stream(file).read_next_batch()
            return write_shard(shard, batch.filter(pa.array(keep)))
    shard.unlink(missing_ok=True)
    try:
        os.link(part, shard)
    except OSError:  # another disk, or a file system without hard links
        shutil.copyfile(part, shard)
    return shard.stat().st_size, digest


# --- One preparation, from the source to the finished corpus ---------------------------------------------

Engine = Callable[[list[Unit], Path, Segmentation | None, Report], None]
"""Makes the parts of units below a folder, with a segmentation, and reports its progress."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the content of the corpus: equal recipes are the same preparation."""

    source: str
    settings: dict[str, Any]
    segmentation: Segmentation | None
    duplicates: str

    def card(self) -> dict[str, Any]:
        """The recipe for the card, without default values."""
        found = {"source": self.source, **{name: value for name, value in self.settings.items() if value}}
        if self.segmentation is not None:
            found["cut"] = vars(self.segmentation)
        if self.duplicates != "near":
            found["duplicates"] = self.duplicates
        return found


def prepare(list_source: ListSource, recipe: Recipe, out: Path, engine: Engine, console: Console) -> dict[str, Any]:
    """Make the corpus ``out`` and return its card; a finished one is not changed, an interrupted one is continued."""
    wanted = recipe.card()
    if (out / NAME).exists():
        card = read_card(out, "corpus")
        if found := _differences(_without_default_shares(card.get("recipe"), wanted), wanted):
            raise UserError(f"{out}: holds another corpus ({found}); choose another --out")
        console.print(f"{out}: is finished ({_summary(card)})")
        return card
    work = out.parent / f".{out.name}.work"
    _open_work_folder(work, out, wanted)
    try:
        listing = _listing(list_source, work, recipe.segmentation)
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    _report_unknown_language(console, sum(clip.language == UNKNOWN for clip in listing.clips))
    units = plan_units(listing, parse_channels(recipe.settings.get("channels") or "mix"))
    todo = [unit for unit in units if not record_path(work, unit.number).exists()]
    if len(todo) < len(units):
        console.print(f"continuing: {len(units) - len(todo)} of {len(units)} parts exist")
    with _bar(console) as bar:
        done = dict.fromkeys((unit.number for unit in todo), 0)
        before = len(listing.clips) - sum(len(unit.clips) for unit in todo)
        total = None if listing.streams else len(listing.clips)
        task = bar.add_task(listing.name, total=total, completed=before)

        def report(unit: int, clips: int) -> None:
            bar.advance(task, clips - done[unit])
            done[unit] = clips

        engine(todo, work, recipe.segmentation, report)
    try:
        card = finalise(listing, work, out, len(units), recipe.duplicates, wanted)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); make room and run again") from error
    shutil.rmtree(work, ignore_errors=True)
    console.print(f"{out}: {_summary(card)}")
    console.print(f"{out}: {_splits(card)}")
    if conflicts := card["dropped"].get(CONFLICT):
        clips = "1 clip holds" if conflicts == 1 else f"{conflicts:,} clips hold"
        console.print(
            f"{clips} the same samples as another clip with a different label; the first one is kept: see {CONFLICT!r} in "
            f"{out / SKIPPED}, and correct the labels"
        )
    if line := _segmentation_line(card):
        console.print(f"{out}: {line}")
    if calls := card["notes"].get(TWO_VOICES):
        files = "1 file holds" if calls == 1 else f"{calls:,} files hold"
        console.print(
            f"{files} different voices on two channels, which were mixed; --channels each makes two speakers of them"
        )
    if listing.streams:
        _report_unknown_language(
            console, len(Corpus.load(out).select(language=UNKNOWN)) if UNKNOWN in card["hours"] else 0
        )
    return card


def _report_unknown_language(console: Console, clips: int) -> None:
    if clips:
        console.print(
            f"the language of {clips:,} clips is unknown and will be {UNKNOWN} (undetermined); set it with --language CODE, "
            "such as swh, sw or Swahili"
        )


def _open_work_folder(work: Path, out: Path, recipe: dict[str, Any]) -> None:
    """Create the work folder, or check that it belongs to this preparation."""
    begun = work / "recipe.json"
    if begun.exists():
        if found := _differences(json.loads(begun.read_text(encoding="utf-8")), recipe):
            raise UserError(
                f"{out}: was started with other settings ({found}); finish that preparation, or delete {work}"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not a corpus; choose another --out, or empty it")
    try:
        (work / "parts").mkdir(parents=True, exist_ok=True)
        if out.exists() and not os.access(out, os.W_OK):
            raise PermissionError(13, "Permission denied")
        write_json(begun, recipe)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from error


def _listing(list_source: ListSource, work: Path, segmentation: Segmentation | None) -> Listing:
    """The listing of the first start: later changes of the source must not shift the units."""
    kept = work / "listing.pickle"  # written and read only by lalia
    if kept.exists():
        return pickle.loads(kept.read_bytes())
    listing = list_source(work)
    if segmentation is not None:
        listing.clips = list(split_recordings(listing.clips))
    else:
        entries = [piece for clip in listing.clips for piece in clips_per_split(clip)]
        listing.clips = [entry for entry in entries if isinstance(entry, SourceClip)]
        listing.dropped += [entry for entry in entries if isinstance(entry, Dropped)]
    write_file(kept, lambda file: pickle.dump(listing, file))
    return listing


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("clips"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
        console=console,
    )


def _summary(card: dict[str, Any]) -> str:
    clips = sum(card["clips"].values())
    minutes = 60 * sum(sum(splits.values()) for splits in card["hours"].values())
    length = f"{minutes / 60:,.1f} hours" if minutes >= 600 else f"{minutes:.1f} minutes"
    skipped = _counts(card["dropped"])
    noted = _counts(card.get("notes", {}))  # older corpora have no notes
    return (
        f"{clips:,} clips{_labelled(card, clips)}, {length}, {', '.join(card['hours'])}"
        + (f"; left out, see {SKIPPED}: {skipped}" if skipped else "")
        + (f"; used with a note, see {NOTES}: {noted}" if noted else "")
    )


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in found.items())


def _splits(card: dict[str, Any]) -> str:
    """The held-out amounts and the method, in a line."""
    minutes = {split: 60 * sum(hours[split] for hours in card["hours"].values()) for split in card["clips"]}
    held_out = ", ".join(
        f"{split} {minutes[split]:.1f} min in {card['clips'][split]:,} clips"
        for split in ("dev", "test")
        if minutes[split]
    )
    how = card.get("splitting", "as the source says")
    if held_out:
        return f"held out: {held_out} ({how})"
    then = "; `lalia pretrain fit` will hold out some training clips for validation"
    if any(way in how for way in HOLD_OUT_METHODS):
        return f"held out: nothing, since no clip that was chosen for it is usable, see {SKIPPED}{then}"
    little = " too few " in how or " too little " in how
    return f"held out: nothing, since {how}{then}" if little else f"held out: nothing ({how})"


_SEGMENTATION_WORDS = {
    "silence_h": "silence",
    "music_h": "music",
    "noise_h": "noise",
    "left_out_speech_h": "speech too short or too uncertain",
    "gap_h": "gaps before held-out audio",
}


def _segmentation_line(card: dict[str, Any]) -> str:
    """The contents of the segmented recordings, in a line; "" if there are none."""
    cut = card.get("cut")
    if not cut:
        return ""
    minutes = {name: 60 * value for name, value in cut.items() if name.endswith("_h")}
    rest = [
        f"{minutes[name]:.1f} {word}" for name, word in _SEGMENTATION_WORDS.items() if minutes.get(name, 0.0) >= 0.05
    ]
    found = ", ".join([f"{minutes['kept_h']:.1f} min in utterances", *rest])
    return f"{sum(minutes.values()):.1f} min of recordings were cut: {found}"


def _labelled(card: dict[str, Any], clips: int) -> str:
    """How many of ``clips`` have a label, in brackets."""
    if "labelled_clips" not in card:  # older corpora have no count
        return ""
    labelled = sum(card["labelled_clips"].values())
    if labelled in (0, clips):
        return " (all labelled)" if labelled else " (none labelled)"
    return f" ({labelled:,} labelled, {clips - labelled:,} without a label)"


def _differences(found: Any, wanted: dict[str, Any]) -> str:
    """The differences of two recipes, in words; "" if they are equal, also with differently written paths."""
    if not isinstance(found, dict):
        return "made by another program"
    keys = [key for key in {**found, **wanted} if not _same_value(key, found.get(key), wanted.get(key))]
    return "; ".join(f"{key}: {found.get(key, 'as usual')}, now {wanted.get(key, 'as usual')}" for key in keys)


def _without_default_shares(found: Any, wanted: dict[str, Any]) -> Any:
    """The recipe of a finished corpus without default shares of dev and test, which older cards always state."""
    if not isinstance(found, dict):
        return found
    usual = {name for name in ("dev", "test") if found.get(name) == PERCENT and name not in wanted}
    return {name: value for name, value in found.items() if name not in usual}


def _same_value(key: str, one: Any, other: Any) -> bool:
    if key in ("source", "root") and one and other and Path(other).exists():
        return Path(one).resolve() == Path(other).resolve()
    return bool(one == other)


# --- Rewrite a corpus ------------------------------------------------------------------------------------

Changes = Mapping[int, Mapping[str, str | float]]
"""row → column → new value"""


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
        raise UserError(f"{corpus.folder}: no clip is left to write to {out}")
    # Written to a temporary folder, so that an interrupted call does not block the next one.
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
    hashes: dict[str, str] = {}
    size = written = 0
    extra = corpus.extra_columns
    schema = schema_with(extra)
    batches = list(_batches(corpus, rows))
    for number, batch_rows in enumerate(batches):
        name = f"data-{number:05d}-of-{len(batches):05d}.arrow"
        table = [_row(corpus, row, schema.names) | dict(changes.get(row, {})) for row in batch_rows]
        shard_bytes, hashes[name] = write_shard(out / name, pa.RecordBatch.from_pylist(table, schema=schema))
        size += shard_bytes
        written += len(table)
    write_index(
        out, list(hashes), written, size, fingerprint, f"Speech of {corpus.folder.name}, rewritten by lalia", extra
    )
    write_skipped(out, dropped)
    for name, text in documents.items():
        write_text(out / name, text)
    for document in ("ATTRIBUTION.md", "COPYRIGHT.txt"):
        if (corpus.folder / document).is_file():
            (out / document).write_bytes((corpus.folder / document).read_bytes())
    made = write_clip_index(out)
    kept = {key: value for key, value in corpus.card.items() if key in ("source", "licences", "sources", "attribution")}
    write_card(
        out, "corpus", [corpus.card], known=hashes,
        **kept,
        clips=made.tally(), labelled_clips=made.tally(labelled=True),
        hours=_rounded(made.hours()), labelled_hours=_rounded(made.hours(labelled=True)), speakers=made.count("speaker"),
        dropped=dict(Counter(d.reason for d in dropped).most_common()), **facts,
    )  # fmt: skip


def _row(corpus: Corpus, row: int, names: list[str]) -> dict[str, Any]:
    """The values of the columns ``names`` of ``row``."""
    return {name: corpus.column(name, np.array([row]))[0] for name in names}


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
