"""``lalia inspect``: what a folder is, what it holds, how good that is, and where it comes from."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalia.cards import NAME, ancestors, read_card
from lalia.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from lalia.data.corpus import Corpus

_RUN_FILES = ("metrics.jsonl", "config.yaml", "checkpoints")
_PRODUCTS = ("encoder", "recogniser", "student")
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LONGEST_VALUE = 240


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``lalia inspect`` takes."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a corpus, encoder, recogniser, student or run")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="of a corpus: a page with histograms and clips to hear"
    )


def main(args: argparse.Namespace) -> int:
    """Print what ``args.folder`` is; 0 when it is something of ours."""
    try:
        from rich.console import Console
    except ImportError as error:
        raise UserError(f"lalia inspect needs {error.name}; pip install 'lalia[train]'") from error

    console = Console(highlight=False, markup=False, soft_wrap=True)
    folder: Path = args.folder
    if (folder / NAME).is_file():
        card = read_card(folder)
    elif folder.is_dir() and any((folder / name).exists() for name in _RUN_FILES):
        card = None
    else:
        card = read_card(folder)  # says what is missing
    if card is not None and card["kind"] == "corpus":
        _inspect_corpus(folder, card, args.html, console)
        return 0
    if args.html is not None:
        what = "run (its page is report.html)" if card is None else card["kind"]
        raise UserError(f"{folder}: is a {what}; --html makes the page of a corpus")
    if card is None:
        _print_run(folder, console)
    else:
        _print_card(folder, card, console)
    return 0


def _inspect_corpus(folder: Path, card: dict[str, Any], html: Path | None, console: Console) -> None:
    try:
        from lalia.data.corpus import Corpus
    except ImportError as error:
        raise UserError(f"corpora are read by {error.name}, which is missing; pip install 'lalia[train]'") from error
    corpus = Corpus.load(folder)
    console.print(f"{folder}: corpus, {len(corpus):,} clips, {_length(float(corpus.durations_s.sum(dtype='float64')))}")
    _print_hours(corpus, console)
    _print_quantiles(corpus, console)
    _print_facts(card, console, skip=("clips", "hours", "labelled_hours"))
    _print_lineage(card, console)
    if html is not None:
        from lalia.report.corpus_page import write_page

        try:
            write_page(corpus, html)
        except OSError as error:
            raise UserError(f"{html}: cannot be written ({error.strerror or error})") from error
        console.print(f"page: {html}")


def _print_hours(corpus: Corpus, console: Console) -> None:
    from rich import box
    from rich.table import Table

    from lalia.data.corpus import SPLITS

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("language", "clips", *SPLITS, "all", "labelled"):
        table.add_column(name, justify="left" if name == "language" else "right", no_wrap=True)
    hours, labelled = corpus.hours(), corpus.hours(labelled=True)
    for code, language in enumerate(corpus.language_names):
        seconds = [hours[language][split] * 3600 for split in SPLITS]
        with_text = sum(labelled[language].values()) * 3600
        clips = int((corpus.languages == code).sum())
        table.add_row(language, f"{clips:,}", *map(_length, [*seconds, sum(seconds), with_text]))
    if len(corpus.language_names) > 1:
        sums = [sum(hours[language][split] for language in hours) * 3600 for split in SPLITS]
        with_text = sum(sum(splits.values()) for splits in labelled.values()) * 3600
        table.add_section()
        table.add_row("all", f"{len(corpus):,}", *map(_length, [*sums, sum(sums), with_text]))
    console.print(table)


def _print_quantiles(corpus: Corpus, console: Console) -> None:
    import numpy as np
    from rich import box
    from rich.table import Table

    from lalia.data.corpus import QUALITY

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("", "5 %", "25 %", "median", "75 %", "95 %"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)
    for column, unit in {"duration_s": "length, s", **QUALITY}.items():
        values = corpus.durations_s if column == "duration_s" else corpus.numbers(column)
        table.add_row(unit, *(_number(value) for value in np.quantile(values, _QUANTILES)))
    console.print(table)


def _print_card(folder: Path, card: dict[str, Any], console: Console) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    console.print(f"{folder}: {card['kind']}, {size / 1e6:,.1f} MB")
    _print_facts(card, console)
    _print_lineage(card, console)


def _print_run(folder: Path, console: Console) -> None:
    """A run says of itself: finished or not, its last figures, and what it made."""
    finished = (folder / "finished.json").is_file()
    console.print(f"{folder}: run, {'finished' if finished else 'not finished: the same command continues it'}")
    last = _last_metrics(folder / "metrics.jsonl")
    for name, value in last.items():
        console.print(f"  {name}: {_spell(value)}")
    for name in _PRODUCTS:
        if (folder / name / NAME).is_file():
            console.print()
            _print_card(folder / name, read_card(folder / name), console)


def _last_metrics(path: Path) -> dict[str, Any]:
    """The newest value of every metric; lines cut short by a crash are passed over."""
    found: dict[str, Any] = {}
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    found.update(json.loads(line))
                except ValueError:
                    continue
    return found


def _print_facts(card: dict[str, Any], console: Console, skip: tuple[str, ...] = ()) -> None:
    for name, value in card.items():
        if name not in ("kind", "parents", *skip):
            console.print(f"  {name}: {_spell(value)}")


def _print_lineage(card: dict[str, Any], console: Console) -> None:
    """The tree of cards behind this one."""
    if not card.get("parents"):
        return
    from rich.tree import Tree

    def grow(branch: Tree, parents: list[dict[str, Any]]) -> None:
        for parent in parents:
            grow(branch.add(_branch(parent)), parent.get("parents", []))

    tree = Tree("made of")
    grow(tree, card["parents"])
    console.print(tree)
    raw = [parent for parent in ancestors(card) if parent["kind"] == "corpus"]
    seconds = sum(sum(splits.values()) for parent in raw for splits in parent.get("hours", {}).values()) * 3600
    if seconds:
        console.print(
            f"  {_length(seconds)} of audio in {len(raw)} {'corpora' if len(raw) > 1 else 'corpus'} behind it"
        )


def _branch(card: dict[str, Any]) -> str:
    words = [card["kind"], str(card.get("id", ""))[:17]]
    if card["kind"] == "corpus" and card.get("hours"):
        seconds = sum(sum(splits.values()) for splits in card["hours"].values()) * 3600
        words += [str(card.get("source", "")), _length(seconds), "+".join(card["hours"])]
    elif "parameters" in card:
        words.append(f"{card['parameters'] / 1e6:.1f} M parameters")
    return " · ".join(word for word in words if word)


def _spell(value: Any) -> str:
    """A fact in one line; what is longer ends in dots."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _length(seconds: float) -> str:
    """Hours where there are some, else minutes."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 36_000 else f"{seconds / 60:.1f} min"
