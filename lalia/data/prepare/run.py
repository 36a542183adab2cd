"""One preparation from its source to the sealed corpus: begun, continued or found done."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lalia.audio.channels import parse_choice
from lalia.audio.reading import TWO_VOICES
from lalia.cards import NAME, read_card, write_json
from lalia.data.corpus import Corpus
from lalia.data.prepare.clips import Clip, Dropped, Listing
from lalia.data.prepare.duplicates import CONFLICT
from lalia.data.prepare.parts import Unit, plan_units, record_path, write_file
from lalia.data.prepare.seal import NOTES, SKIPPED, seal
from lalia.data.prepare.sources.opening import ListSource
from lalia.data.prepare.splits import PERCENT, WAYS, pieces
from lalia.data.prepare.stretches import split_recordings
from lalia.data.prepare.utterances import Cutting
from lalia.data.prepare.workers import Progress as Report
from lalia.exits import UserError
from lalia.text.language_names import UNKNOWN

Engine = Callable[[list[Unit], Path, Cutting | None, Report], None]
"""Makes the parts of units below a folder, with a way of cutting, telling how far it is."""


@dataclass(frozen=True)
class Recipe:
    """All that decides what is in the corpus: two preparations with the same recipe are the same preparation."""

    source: str
    settings: dict[str, Any]
    cutting: Cutting | None
    duplicates: str

    def card(self) -> dict[str, Any]:
        """The recipe as the card keeps it: what is not as usual."""
        found = {"source": self.source, **{name: value for name, value in self.settings.items() if value}}
        if self.cutting is not None:
            found["cut"] = vars(self.cutting)
        if self.duplicates != "near":
            found["duplicates"] = self.duplicates
        return found


def prepare(list_source: ListSource, recipe: Recipe, out: Path, engine: Engine, console: Console) -> dict[str, Any]:
    """Make ``out`` a corpus and return its card; a finished one is left alone, an interrupted one continued."""
    wanted = recipe.card()
    if (out / NAME).exists():
        card = read_card(out, "corpus")
        if found := _differences(_unasked(card.get("recipe"), wanted), wanted):
            raise UserError(f"{out}: holds another corpus ({found}); choose another --out")
        console.print(f"{out}: is finished ({_summary(card)})")
        return card
    work = out.parent / f".{out.name}.work"
    _claim(work, out, wanted)
    try:
        listing = _listing(list_source, work, recipe.cutting)
    except UserError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    _tell_unsaid(console, sum(clip.language == UNKNOWN for clip in listing.clips))
    units = plan_units(listing, parse_choice(recipe.settings.get("channels") or "mix"))
    todo = [unit for unit in units if not record_path(work, unit.number).exists()]
    if len(todo) < len(units):
        console.print(f"continuing: {len(units) - len(todo)} of {len(units)} parts are there")
    with _bar(console) as bar:
        done = dict.fromkeys((unit.number for unit in todo), 0)
        before = len(listing.clips) - sum(len(unit.clips) for unit in todo)
        total = None if listing.streams else len(listing.clips)
        task = bar.add_task(listing.name, total=total, completed=before)

        def report(unit: int, clips: int) -> None:
            bar.advance(task, clips - done[unit])
            done[unit] = clips

        engine(todo, work, recipe.cutting, report)
    try:
        card = seal(listing, work, out, len(units), recipe.duplicates, wanted)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); make room and run again") from error
    shutil.rmtree(work, ignore_errors=True)
    console.print(f"{out}: {_summary(card)}")
    console.print(f"{out}: {_splits(card)}")
    if conflicts := card["dropped"].get(CONFLICT):
        clips = "1 clip holds" if conflicts == 1 else f"{conflicts:,} clips hold"
        console.print(
            f"{clips} the same samples as another that is labelled otherwise, and the first one stays: see {CONFLICT!r} in "
            f"{out / SKIPPED}, and correct the labels"
        )
    if line := _cut(card):
        console.print(f"{out}: {line}")
    if calls := card["notes"].get(TWO_VOICES):
        files = "1 file holds" if calls == 1 else f"{calls:,} files hold"
        console.print(
            f"{files} different voices on two channels, which were mixed; --channels each makes two speakers of them"
        )
    if listing.streams:
        _tell_unsaid(console, len(Corpus.load(out).select(language=UNKNOWN)) if UNKNOWN in card["hours"] else 0)
    return card


def _tell_unsaid(console: Console, clips: int) -> None:
    if clips:
        console.print(
            f"the language of {clips:,} clips is said nowhere and will be {UNKNOWN} (undetermined); --language CODE says it, "
            "such as swh, sw or Swahili"
        )


def _claim(work: Path, out: Path, recipe: dict[str, Any]) -> None:
    """Make the work folder ours, or find that it is."""
    begun = work / "recipe.json"
    if begun.exists():
        if found := _differences(json.loads(begun.read_text(encoding="utf-8")), recipe):
            raise UserError(f"{out}: was begun otherwise ({found}); finish that, or delete {work}")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not a corpus; choose another --out, or empty it")
    try:
        (work / "parts").mkdir(parents=True, exist_ok=True)
        if out.exists() and not os.access(out, os.W_OK):
            raise PermissionError(13, "Permission denied")
        write_json(begun, recipe)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from error


def _listing(list_source: ListSource, work: Path, cutting: Cutting | None) -> Listing:
    """The listing this preparation began with: a source that grows meanwhile must not shift the units."""
    kept = work / "listing.pickle"  # Our own file, read by us alone.
    if kept.exists():
        return pickle.loads(kept.read_bytes())
    listing = list_source(work)
    if cutting is not None:
        listing.clips = list(split_recordings(listing.clips))
    else:
        entries = [piece for clip in listing.clips for piece in pieces(clip)]
        listing.clips = [entry for entry in entries if isinstance(entry, Clip)]
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
    noted = _counts(card.get("notes", {}))  # Corpora of before notes have none.
    return (
        f"{clips:,} clips{_labelled(card, clips)}, {length}, {', '.join(card['hours'])}"
        + (f"; left out, see {SKIPPED}: {skipped}" if skipped else "")
        + (f"; used with a note, see {NOTES}: {noted}" if noted else "")
    )


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in found.items())


def _splits(card: dict[str, Any]) -> str:
    """How much is held out, and by which rule."""
    minutes = {split: 60 * sum(hours[split] for hours in card["hours"].values()) for split in card["clips"]}
    held = ", ".join(
        f"{split} {minutes[split]:.1f} min in {card['clips'][split]:,} clips"
        for split in ("dev", "test")
        if minutes[split]
    )
    how = card.get("splitting", "as the source says")
    if held:
        return f"held out: {held} ({how})"
    then = "; `lalia pretrain fit` will hold out some of the training clips to validate on"
    if any(way in how for way in WAYS):
        return f"held out: nothing, since no clip that was chosen for it is usable, see {SKIPPED}{then}"
    little = " too few " in how or " too little " in how
    return f"held out: nothing, since {how}{then}" if little else f"held out: nothing ({how})"


_CUT = {"silence_h": "silence", "music_h": "music", "noise_h": "noise", "left_out_speech_h": "speech too short or too uncertain",
        "gap_h": "gaps before held-out audio"}  # fmt: skip


def _cut(card: dict[str, Any]) -> str:
    """What became of the recordings that were cut into utterances; "" where none was."""
    cut = card.get("cut")
    if not cut:
        return ""
    minutes = {name: 60 * value for name, value in cut.items() if name.endswith("_h")}
    rest = [f"{minutes[name]:.1f} {word}" for name, word in _CUT.items() if minutes.get(name, 0.0) >= 0.05]
    found = ", ".join([f"{minutes['kept_h']:.1f} min in utterances", *rest])
    return f"{sum(minutes.values()):.1f} min of recordings were cut: {found}"


def _labelled(card: dict[str, Any], clips: int) -> str:
    """How many of ``clips`` have a label, in brackets."""
    if "labelled_clips" not in card:  # a corpus of before they were counted
        return ""
    labelled = sum(card["labelled_clips"].values())
    if labelled in (0, clips):
        return " (all labelled)" if labelled else " (none labelled)"
    return f" ({labelled:,} labelled, {clips - labelled:,} without a label)"


def _differences(found: Any, wanted: dict[str, Any]) -> str:
    """In what two recipes differ, in words; empty where they are the same, in whichever way paths were typed."""
    if not isinstance(found, dict):
        return "made by another program"
    keys = [key for key in {**found, **wanted} if not _same(key, found.get(key), wanted.get(key))]
    return "; ".join(f"{key}: {found.get(key, 'as usual')}, now {wanted.get(key, 'as usual')}" for key in keys)


def _unasked(found: Any, wanted: dict[str, Any]) -> Any:
    """The recipe of a finished corpus without the usual share of dev and test, which cards named also where nobody asked."""
    if not isinstance(found, dict):
        return found
    usual = {name for name in ("dev", "test") if found.get(name) == PERCENT and name not in wanted}
    return {name: value for name, value in found.items() if name not in usual}


def _same(key: str, one: Any, other: Any) -> bool:
    if key in ("source", "root") and one and other and Path(other).exists():
        return Path(one).resolve() == Path(other).resolve()
    return bool(one == other)
