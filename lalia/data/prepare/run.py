"""One preparation from its source to the sealed corpus: begun, continued or found done."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lalia.cards import NAME, read_card, write_json
from lalia.data.prepare.clips import Listing
from lalia.data.prepare.parts import plan_units, record_path
from lalia.data.prepare.seal import seal
from lalia.data.prepare.workers import make_parts
from lalia.exits import UserError

List = Callable[[Path], Listing]
"""Lists a source; may keep files in the work folder that it is given."""


def prepare(list_source: List, recipe: dict[str, Any], out: Path, workers: int, console: Console) -> dict[str, Any]:
    """Make ``out`` a corpus and return its card; a finished one is left alone, an interrupted one continued.

    ``recipe`` is what the user asked for, in JSON: two preparations with the same recipe are the same preparation.
    """
    if (out / NAME).exists():
        card = read_card(out, "corpus")
        if card.get("recipe") != recipe:
            raise UserError(f"{out}: holds another corpus ({_spell(card.get('recipe'))}); choose another --out")
        console.print(f"{out}: is finished ({_summary(card)})")
        return card
    work = out.parent / f".{out.name}.work"
    _claim(work, out, recipe, console)
    listing = _listing(list_source, work)
    units = plan_units(listing.clips)
    todo = [unit for unit in units if not record_path(work, unit.number).exists()]
    if len(todo) < len(units):
        console.print(f"continuing: {len(units) - len(todo)} of {len(units)} parts are there")
    with _bar(console) as bar:
        done = len(listing.clips) - sum(len(unit.clips) for unit in todo)
        task = bar.add_task(listing.name, total=len(listing.clips), completed=done)
        make_parts(todo, work, workers, lambda clips, _: bar.advance(task, clips))
    card = seal(listing, work, out, len(units), recipe)
    shutil.rmtree(work, ignore_errors=True)
    console.print(f"{out}: {_summary(card)}")
    return card


def _claim(work: Path, out: Path, recipe: dict[str, Any], console: Console) -> None:
    """Make the work folder ours, or find that it is."""
    begun = work / "recipe.json"
    if begun.exists():
        found = json.loads(begun.read_text(encoding="utf-8"))
        if found != recipe:
            raise UserError(f"{out}: was begun otherwise ({_spell(found)}); finish that, or delete {work}")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not a corpus; choose another --out, or empty it")
    try:
        (work / "parts").mkdir(parents=True, exist_ok=True)
        if not os.access(out if out.exists() else work, os.W_OK):
            raise PermissionError(13, "no permission to write")
        write_json(begun, recipe)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from error


def _listing(list_source: List, work: Path) -> Listing:
    """The listing this preparation began with: a source that grows meanwhile must not shift the units."""
    kept = work / "listing.pickle"  # Our own file, read by us alone.
    if kept.exists():
        return pickle.loads(kept.read_bytes())
    listing = list_source(work)
    if not listing.clips and not listing.dropped:
        raise UserError(f"{listing.name}: holds no audio")
    partial = kept.with_suffix(".partial")
    partial.write_bytes(pickle.dumps(listing))
    partial.replace(kept)
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
    length = f"{minutes / 60:.1f} hours" if minutes >= 600 else f"{minutes:.1f} minutes"
    skipped = sum(card["dropped"].values())
    return f"{clips} clips, {length}, {', '.join(card['hours'])}" + (f"; {skipped} skipped" if skipped else "")


def _spell(recipe: Any) -> str:
    return (
        ", ".join(f"{key} {value}" for key, value in recipe.items())
        if isinstance(recipe, dict)
        else "by another program"
    )
