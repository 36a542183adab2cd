"""The check on the terminal: the verdict, what each split holds, the letters, and every finding with its remedy."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune.check.findings import Checked, Finding, plural
from finetune.check.fixes import CHANGED, Fixes
from finetune.check.writing import describe_writing
from lalia.data.corpus import Corpus

MARKS = {"stop": ("✗", "bold red"), "look": ("!", "yellow"), "fine": ("·", "dim")}
LETTERS = 60


def show(corpus: Corpus, checked: list[Checked], elapsed_s: float, console: Console | None = None) -> None:
    """Print everything that was found; ``console`` for those who want it elsewhere."""
    console = console or Console(highlight=False, markup=False)
    for found in checked:
        title = found.labels.profile.title
        console.print()
        console.print(Text(f"{corpus.folder.name} · {title}", style="bold"))
        console.print(_splits(found))
        console.print(_facts(found))
        if found.findings:
            console.print(_findings(found))
        console.print(_verdict(found))
    console.print(Text(f"checked {plural(len(corpus), 'clip')} in {elapsed_s:.1f} s", style="dim"))


def show_fixes(out: Path, fixes: Fixes, card: dict[str, Any], console: Console | None = None) -> None:
    """Print what was changed and where the mended corpus is."""
    console = console or Console(highlight=False, markup=False, soft_wrap=True)
    if not fixes.reasons:
        console.print(f"{out}: nothing was to be mended; the corpus is as it was")
        return
    for reason, count in fixes.reasons.most_common():
        console.print(f"  {count:6,}  {reason}")
    minutes = 60 * sum(sum(splits.values()) for splits in card["labelled_hours"].values())
    clips, labelled = (sum(card[fact].values()) for fact in ("clips", "labelled_clips"))
    bare = f", {clips - labelled:,} clips without a label" if labelled < clips else ""
    console.print(f"{out}: {clips:,} clips, {minutes:.1f} minutes labelled{bare}; each change is in {CHANGED}")


def show_next(corpus: Path, checked: list[Checked], mended: Path | None, encoder: Path | str | None) -> None:
    """Print the command that comes next: mending what can be mended, or training on what is ready (or is mended now)."""
    amiss = [finding for found in checked for finding in found.findings if finding.mended]
    if amiss and mended is None:
        print(f"mend {len(amiss)} of these: lalia finetune check {corpus} --fix --out {corpus}-mended")
    ready = [
        found.labels.language for found in checked
        if not found.stops or (mended and all(finding.mended for finding in found.stops))
    ]  # fmt: skip
    for language in ready[:1]:
        print(
            f"train: lalia finetune fit --encoder {encoder or 'nano-multilingual'} --data.corpus {mended or corpus} "
            f"--data.language {language} --out runs/{language}"
        )


def _splits(found: Checked) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("split", "labelled", "clips", "speakers", "different labels", "words"):
        table.add_column(name, justify="left" if name == "split" else "right", no_wrap=True)
    for split in found.splits:
        speakers = f"{split.speakers:,}" if split.speakers else "–"
        table.add_row(
            split.name,
            f"{60 * split.hours:,.1f} min",
            f"{split.clips:,}",
            speakers,
            f"{split.sentences:,}",
            f"{split.words:,}",
        )
    return table


def _facts(found: Checked) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("normaliser", found.labels.normaliser.settings.describe())
    if found.vocabulary:
        vocabulary = found.vocabulary
        table.add_row("vocabulary", f"{vocabulary.unit}, {len(vocabulary.tokens)} tokens: {vocabulary.reason}")
    letters = Text()
    for number, (letter, often, _, _) in enumerate(found.letters[:LETTERS]):
        shown = f"◌{letter}" if unicodedata.category(letter)[0] == "M" else letter
        letters.append(" " if number else "").append(shown).append(f" {_short(often)}", style="dim")
    if len(found.letters) > LETTERS:
        letters.append(f" and {len(found.letters) - LETTERS:,} more", style="dim")
    table.add_row("characters", letters)
    if written := describe_writing(found.labels):
        table.add_row("written", written)
    if found.labels.texts:
        before = found.labels.texts[0]
        table.add_row("a label", Text.assemble(before, (" → ", "dim"), found.labels.normal[0] or "(nothing)"))
    return table


def _findings(found: Checked) -> Table:
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in found.findings:
        mark, style = MARKS[finding.weight]
        table.add_row(Text(mark, style=style), finding.topic, _told(found, finding))
    return table


def _told(found: Checked, finding: Finding) -> Text:
    told = Text(finding.what)
    if finding.fix:
        told.append(f"\n→ {finding.fix}", style="cyan")
    corpus = found.labels.corpus
    for example in finding.examples[:2]:
        said = example.note or corpus.text(example.row)
        told.append(f"\n  {corpus.id(example.row)}: {said[:90]}", style="dim")
    return told


def _verdict(found: Checked) -> Text:
    looks = sum(finding.weight == "look" for finding in found.findings)
    if found.stops:
        mended = all(finding.mended for finding in found.stops)
        how = "; --fix --out CORPUS2 does it" if mended else ""
        return Text(f"✗ not yet: {plural(len(found.stops), 'thing')} to mend first{how}", style="bold red")
    rest = f", {plural(looks, 'thing')} to know" if looks else ""
    return Text(f"✓ ready to train{rest}", style="bold green")


def _short(count: int) -> str:
    return f"{count}" if count < 1000 else f"{count / 1000:.1f}k" if count < 10_000 else f"{count / 1000:.0f}k"
