"""``lalia inspect``: the kind of a folder, its contents, its scores and its lineage."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lalia.cards import NAME, ancestors, read_card
from lalia.cli.options import needs, open_corpus
from lalia.cli.parser import Parser
from lalia.errors import UserError
from lalia.units import clock, plural

if TYPE_CHECKING:
    from rich.console import Console

    from lalia.data.corpus import Corpus

ABOUT = """\
Print the kind of a folder (corpus, encoder, recogniser, student, language model, run), its contents and its lineage.

  lalia inspect my-student                        its card and its lineage
  lalia inspect runs/italian                      a run: its latest metrics and its models; --all: every metric and card
  lalia inspect corpora/demo                      hours by language and split, lengths and quality
  lalia inspect corpora/demo --html corpus.html   a page with histograms and clips to play
"""
_RUN_FILES = ("metrics.jsonl", "config.yaml", "checkpoints")
_PRODUCTS = ("encoder", "recogniser", "student")
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LONGEST_VALUE = 240
_METRICS = {
    "held out": ("valid/cer", "valid/wer", "valid/wer_lm", "valid/accuracy", "valid/loss", "valid/info_nce", "valid/divergence",
                 "valid/code_perplexity"),
    "training": ("train/loss", "train/accuracy", "train/blank", "train/code_perplexity", "train/lr"),
    "guard": ("guard/skipped", "guard/rate_factor"),
    "speed": ("speed/audio_s_per_s", "speed/data_wait"),
}  # fmt: skip
"""The metrics of a run that are printed without --all, by group."""
_MOST_CORPORA = 3
"""Corpora of one parent that are listed without --all; more are summed up in one line."""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a corpus, encoder, recogniser, student or run")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="of a corpus: write a page with histograms and clips to play"
    )
    parser.add_argument(
        "--all", action="store_true", help="of a run: every metric and card; of a model: its whole lineage"
    )


def main(args: argparse.Namespace) -> int:
    """``lalia inspect``."""
    with needs("lalia inspect"):
        from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    folder: Path = args.folder
    if (folder / NAME).is_file():
        card = read_card(folder)
    elif folder.is_dir() and any((folder / name).exists() for name in _RUN_FILES):
        card = None
    else:
        card = read_card(folder)  # raises the error with the remedy
    if card is not None and card["kind"] == "corpus":
        _inspect_corpus(folder, card, args.html, console, args.all)
        return 0
    if args.html is not None:
        what = "run (its page is report.html)" if card is None else card["kind"]
        raise UserError(f"{folder}: is a {what}; expected a corpus, the only kind that --html makes a page of")
    if card is None:
        _print_run(folder, console, args.all)
    else:
        _print_card(folder, card, console, args.all)
    return 0


def _inspect_corpus(folder: Path, card: dict[str, Any], html: Path | None, console: Console, every: bool) -> None:
    corpus = open_corpus(folder)
    console.print(
        f"{folder}: corpus, {plural(len(corpus), 'clip')}, {_length(float(corpus.durations_s.sum(dtype='float64')))}"
    )
    _print_hours(corpus, console)
    _print_quantiles(corpus, console)
    _print_facts(card, console, skip=("clips", "hours", "labelled_hours"))
    _print_lineage(card, console, every)
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


def _print_card(folder: Path, card: dict[str, Any], console: Console, every: bool) -> None:
    console.print(f"{folder}: {card['kind']}, {_megabytes(folder)}")
    _print_facts(card, console)
    _print_lineage(card, console, every)


def _print_run(folder: Path, console: Console, every: bool) -> None:
    """Print whether the run is finished, its latest metrics and its models."""
    finished = (folder / "finished.json").is_file()
    console.print(f"{folder}: run, {'finished' if finished else 'not finished: the same command continues it'}")
    last = _last_metrics(folder / "metrics.jsonl")
    if every:
        for name, value in last.items():
            console.print(f"  {name}: {_spell(value)}")
    else:
        if "step" in last:
            took = f", {clock(last['time_s'])}" if "time_s" in last else ""
            console.print(f"  {'step':12}{last['step']:,}{took}")
        for group, names in _METRICS.items():
            shown = [f"{name.partition('/')[2]} {_spell(last[name])}" for name in names if name in last]
            if shown:
                console.print(f"  {group:12}{', '.join(shown)}")
        for name in sorted(set(last) - {"step", "time_s"}):
            if "/" not in name:
                console.print(f"  {name:12}{_spell(last[name])}")
    for name in _PRODUCTS:
        made = folder / name
        if (made / NAME).is_file():
            card = read_card(made)
            if every:
                console.print()
                _print_card(made, card, console, every)
            else:
                console.print(f"  {name:12}{', '.join([_megabytes(made), *_summary(card)])}")
    if not every:
        report = f"; charts: {folder / 'report.html'}" if (folder / "report.html").is_file() else ""
        console.print(f"every metric and card: lalia inspect {folder} --all{report}")


def _summary(card: dict[str, Any]) -> list[str]:
    """The main facts of a model: its size and languages."""
    words = [f"{card['parameters'] / 1e6:.1f} M parameters"] if "parameters" in card else []
    languages = card.get("languages") or card.get("language")
    return words + ([languages if isinstance(languages, str) else ", ".join(languages)] if languages else [])


def _megabytes(folder: Path) -> str:
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:,.1f} MB"


def _last_metrics(path: Path) -> dict[str, Any]:
    """The latest value of every metric; incomplete lines (after a crash) are skipped."""
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


def _print_lineage(card: dict[str, Any], console: Console, every: bool) -> None:
    """The tree of the cards that ``card`` was made from; many corpora of one parent are one line unless ``every``."""
    if not card.get("parents"):
        return
    from rich.tree import Tree

    def grow(branch: Tree, parents: list[dict[str, Any]]) -> None:
        corpora = [parent for parent in parents if parent["kind"] == "corpus"]
        together = not every and len(corpora) > _MOST_CORPORA
        if together:
            languages = {language for parent in corpora for language in parent.get("hours", {})}
            length = _length(sum(map(_seconds, corpora)))
            branch.add(f"{len(corpora)} corpora · {length} · {plural(len(languages), 'language')}")
        for parent in parents:
            if not (together and parent["kind"] == "corpus"):
                grow(branch.add(_branch(parent)), parent.get("parents", []))

    tree = Tree("made from")
    grow(tree, card["parents"])
    console.print(tree)
    raw = [parent for parent in ancestors(card) if parent["kind"] == "corpus"]
    seconds = sum(map(_seconds, raw))
    if seconds:
        console.print(f"  {_length(seconds)} of audio in {len(raw)} {'corpora' if len(raw) > 1 else 'corpus'} in all")


def _seconds(card: dict[str, Any]) -> float:
    """The length of a corpus by its card."""
    return sum(sum(splits.values()) for splits in card.get("hours", {}).values()) * 3600


def _branch(card: dict[str, Any]) -> str:
    words = [card["kind"], str(card.get("id", ""))[:17]]
    if card["kind"] == "corpus" and card.get("hours"):
        words += [str(card.get("source", "")), _length(_seconds(card)), "+".join(card["hours"])]
    elif "parameters" in card:
        words.append(f"{card['parameters'] / 1e6:.1f} M parameters")
    return " · ".join(word for word in words if word)


def _spell(value: Any) -> str:
    """A fact in one line; longer ones end in dots."""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _length(seconds: float) -> str:
    """Hours from ten hours on, else minutes."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 36_000 else f"{seconds / 60:.1f} min"
