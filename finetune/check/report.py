"""Reports of the data checks, on the terminal and as an HTML page: verdict, splits, letters, findings with remedies, clips."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from markupsafe import Markup, escape
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from finetune.check.clips import letters_per_s
from finetune.check.findings import Checked, Example, Finding
from finetune.check.fixes import CHANGED, Fixes
from finetune.check.text import describe_writing
from lalia.data.corpus import Corpus
from lalia.errors import AudioError, UserError
from lalia.report import numbers, page
from lalia.report.charts import Line, line_chart
from lalia.report.correction_page import DoubtfulClip, write_pages
from lalia.report.page import ShownClip, lineage_of, make_player
from lalia.text.unicode import script_of, script_title
from lalia.units import SAMPLE_RATE, Seconds, plural

# --- The check on the terminal ---------------------------------------------------------------------------

MARKS = {"stop": ("✗", "bold red"), "look": ("!", "yellow"), "fine": ("·", "dim")}
LETTERS_SHOWN = 60


def show(corpus: Corpus, checked: list[Checked], elapsed_s: float, console: Console | None = None) -> None:
    """Print the results to ``console`` (default: the terminal)."""
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
    """Print what was changed and where the fixed corpus is."""
    console = console or Console(highlight=False, markup=False, soft_wrap=True)
    if not fixes.reasons:
        console.print(f"{out}: nothing to fix; the corpus is unchanged")
        return
    for reason, count in fixes.reasons.most_common():
        console.print(f"  {count:6,}  {reason}")
    minutes = 60 * sum(sum(splits.values()) for splits in card["labelled_hours"].values())
    clips, labelled = (sum(card[fact].values()) for fact in ("clips", "labelled_clips"))
    bare = f", {clips - labelled:,} clips unlabelled" if labelled < clips else ""
    console.print(f"{out}: {clips:,} clips, {minutes:.1f} minutes labelled{bare}; each change is in {CHANGED}")


def show_next(corpus: Path, checked: list[Checked], fixed: Path | None, encoder: Path | str | None) -> None:
    """Print the next command: fixing what can be fixed, or training on what is ready."""
    for command, why in next_commands(corpus, checked, fixed, encoder):
        print(f"{why}: {command}")


def next_commands(
    corpus: Path, checked: list[Checked], fixed: Path | None = None, encoder: Path | str | None = None
) -> list[tuple[str, str]]:
    """(command, what it does): fixing what can be fixed, and training on what is ready."""
    found = []
    fixable = [finding for found in checked for finding in found.findings if finding.fixable]
    if fixable and fixed is None:
        command = f"lalia finetune check {corpus} --fix --out {corpus}-fixed"
        found.append((command, f"fix {plural(len(fixable), 'finding')}"))
    ready = [
        found.labels.language for found in checked
        if not found.stops or (fixed and all(finding.fixable for finding in found.stops))
    ]  # fmt: skip
    if ready:
        chosen = " ".join(f"--data.language {language}" for language in ready)
        command = (
            f"lalia finetune fit --encoder {encoder or 'nano-multilingual'} --data.corpus {fixed or corpus} "
            f"{chosen} --out runs/{'-'.join(ready[:3])}"
        )
        found.append((command, "train"))
    return found


def _splits(found: Checked) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("split", "labelled", "clips", "speakers", "different labels", _units(found)):
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


def _units(found: Checked) -> str:
    """What is counted: words, or syllables or clusters where nothing separates words."""
    return found.labels.normaliser.writing.units


def _facts(found: Checked) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("normaliser", found.labels.normaliser.settings.describe())
    if found.vocabulary:
        vocabulary = found.vocabulary
        table.add_row("vocabulary", f"{vocabulary.unit}, {len(vocabulary.tokens)} tokens: {vocabulary.reason}")
    letters = Text()
    for number, (letter, often, _, _) in enumerate(found.letters[:LETTERS_SHOWN]):
        shown = f"◌{letter}" if unicodedata.category(letter)[0] == "M" else letter
        letters.append(" " if number else "").append(shown).append(f" {_short(often)}", style="dim")
    if len(found.letters) > LETTERS_SHOWN:
        letters.append(f" and {len(found.letters) - LETTERS_SHOWN:,} more", style="dim")
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
        table.add_row(Text(mark, style=style), finding.topic, _describe(found, finding))
    return table


def _describe(found: Checked, finding: Finding) -> Text:
    text = Text(finding.what)
    if finding.fix:
        text.append(f"\n→ {finding.fix}", style="cyan")
    corpus = found.labels.corpus
    for example in finding.examples[:2]:
        note = example.note or corpus.text(example.row)
        text.append(f"\n  {corpus.id(example.row)}: {note[:90]}", style="dim")
    return text


def _verdict(found: Checked) -> Text:
    looks = sum(finding.weight == "look" for finding in found.findings)
    if found.stops:
        fixable = all(finding.fixable for finding in found.stops)
        how = "; --fix --out CORPUS2 fixes it" if fixable else ""
        return Text(f"✗ not ready: {plural(len(found.stops), 'problem')} to fix first{how}", style="bold red")
    rest = f", {plural(looks, 'warning')}" if looks else ""
    return Text(f"✓ ready to train{rest}", style="bold green")


def _short(count: int) -> str:
    return f"{count}" if count < 1000 else f"{count / 1000:.1f}k" if count < 10_000 else f"{count / 1000:.0f}k"


# --- The check as a page ---------------------------------------------------------------------------------

LETTERS_ON_PAGE = 400
LABELS_PER_FINDING = 2
CLIPS_PER_FINDING = 3
"""Clips with audio for each finding."""
WRONG_LABELS_SHOWN = 20
CLIP_S: Seconds = 20.0
_BINS = 40


def write_page(corpus: Corpus, checked: list[Checked], path: Path) -> Path:
    """Write the page of ``checked`` to ``path``: one file, nothing fetched."""
    sections = [section for found in checked for section in _sections(corpus, found, len(checked) > 1)]
    sections.append(page.Section("Lineage", [page.lineage(lineage_of(corpus.card))], folded=True))
    stops = sum(len(found.stops) for found in checked)
    looks = sum(f.weight == "look" for c in checked for f in c.findings)
    tiles = [
        page.Tile(numbers.hours(sum(s.hours for f in checked for s in f.splits)), "labelled"),
        page.Tile(numbers.count(sum(s.clips for f in checked for s in f.splits)), "labelled clips"),
        page.Tile(str(stops), "to fix first", verdict="bad" if stops else ""),
        page.Tile(str(looks), "warnings"),
    ]
    rest = f", and {plural(looks, 'warning')}" if looks else ""
    verdict = (
        page.Verdict("Not ready to train.", f"{plural(stops, 'problem')} to fix first{rest}.", "bad")
        if stops
        else page.Verdict("Ready to train.", f"No problem to fix first{rest}.", "good")
    )
    title = str(corpus.card.get("source") or corpus.folder.name)
    return page.Page(
        "check", title, verdict=verdict, next=next_commands(corpus.folder, checked), summary=page.tiles(tiles),
        sections=sections,
    ).write(path)  # fmt: skip


def write_suspects(corpus: Corpus, checked: list[Checked], path: Path, fix_command: str) -> None:
    """Write pages to listen to the clips with likely wrong labels and correct them, the worst first; print their names."""
    why = "the transcript is very different from the label"
    clips = [
        DoubtfulClip(corpus.id(one.row), corpus.text(one.row), one.heard, why, partial(corpus.wave, one.row))
        for found in checked
        for one in found.wrong_labels
    ]
    command = f"{fix_command} --corrections corrections.tsv"
    try:
        paths = write_pages(path, corpus.folder.name, clips, checked[0].labels.normaliser, command)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    print("\n".join(f"{one}: listen and correct" for one in paths) or f"{path}: not written, no clip is suspect")


def _sections(corpus: Corpus, found: Checked, several: bool) -> list[page.Section]:
    name = f"{found.labels.profile.title}: " if several else ""
    sections = [
        page.Section(
            f"{name}Findings: fix before training" if found.stops else f"{name}Findings", [_findings_on_page(found)]
        )
    ]
    clips = _example_clips(corpus, found)
    if clips:
        sections.append(page.Section(f"{name}Clips", clips, "Examples of the findings; long clips are cut."))
    sections.append(page.Section(f"{name}Splits", [_splits_page(found)], "Labelled clips only."))
    settings = found.labels.normaliser.settings.describe()
    vocabulary = found.vocabulary.describe(40) if found.vocabulary else "none: the labels have no letters"
    pairs = [[text, found.labels.normal[p] or "(nothing)"] for p, text in _sample_labels(found)]
    sections.append(
        page.Section(
            f"{name}From label to tokens",
            [page.table(["label", "normalised"], pairs)],
            Markup("<b>Normaliser</b>: {}. <b>Vocabulary</b>: {}.").format(settings, vocabulary),
        )
    )
    sections.append(
        page.Section(
            f"{name}Characters", [_letters(found)], "Of the normalised labels, most frequent first.", folded=True
        )
    )
    if len(found.labels.rows) > 1:
        sections.append(
            page.Section(f"{name}Speaking rate", [page.figures([_rates(found)])], "Letters per second of speech.")
        )
    return sections


_SEVERITIES: dict[str, tuple[Literal["bad", "warning", ""], str]] = {
    "stop": ("bad", "✗ fix first"), "look": ("warning", "! warning"), "fine": ("", "· note"),
}  # fmt: skip


def _findings_on_page(found: Checked) -> Markup:
    """The findings, the most severe first, with the offending characters of a few labels marked."""
    if not found.findings:
        return Markup("<p>No findings.</p>")
    corpus = found.labels.corpus
    return page.findings(
        [
            page.ShownFinding(
                *_SEVERITIES[f.weight], f.topic, f.what, f.fix,
                [(corpus.id(e.row), mark_characters(corpus.text(e.row), f.characters)) for e in f.examples[:LABELS_PER_FINDING]],
            )
            for f in sorted(found.findings, key=lambda f: list(_SEVERITIES).index(f.weight))
        ]
    )  # fmt: skip


def mark_characters(text: str, characters: Collection[str]) -> Markup:
    """``text`` as HTML with every one of ``characters`` marked, in either case; invisible ones are shown as their code."""
    if not characters:
        return escape(text)
    longest_first = sorted(characters, key=len, reverse=True)
    # A combining mark is marked together with its letter: apart from it, it would be drawn elsewhere.
    pattern = "|".join(
        f".?{re.escape(c)}" if unicodedata.category(c[0])[0] == "M" else re.escape(c) for c in longest_first
    )
    out, end = Markup(), 0
    for found in re.finditer(pattern, text, re.IGNORECASE):
        odd = found[0]
        codes = " ".join(f"U+{ord(c):04X} {unicodedata.name(c, '').lower()}".strip() for c in odd)
        shown = odd if odd.isprintable() else f"U+{ord(odd):04X}"
        out += escape(text[end : found.start()])
        out += Markup('<mark class="other" title="{}">{}</mark>').format(codes, shown)
        end = found.end()
    return out + escape(text[end:])


def _splits_page(found: Checked) -> Markup:
    rows = []
    for s in found.splits:
        speakers = f"{s.speakers:,}" if s.speakers else "–"
        rows.append([s.name, numbers.hours(s.hours), f"{s.clips:,}", speakers, f"{s.sentences:,}", f"{s.words:,}"])
    return page.table(["split", "labelled", "clips", "speakers", "different labels", _units(found)], rows)


def _sample_labels(found: Checked) -> list[tuple[int, str]]:
    """A few labels with their places, those first that the normaliser changes in more than case and punctuation."""
    texts, normal = found.labels.texts, found.labels.normal

    def changes(place: int) -> int:
        return len(set(normal[place]) - set(texts[place].lower())) + any(map(str.isdecimal, texts[place]))

    places = sorted(range(len(texts)), key=lambda p: (-changes(p), p))[:6]
    return [(p, texts[p]) for p in places]


def _letters(found: Checked) -> Markup:
    rows: list[list[str | Markup]] = []
    for letter, often, clips, word in found.letters[:LETTERS_ON_PAGE]:
        shown = f"◌{letter}" if unicodedata.category(letter)[0] == "M" else letter
        script = script_of(letter)
        rows.append(
            [shown, f"{often:,}", f"{clips:,}", f"U+{ord(letter):04X}", unicodedata.name(letter, "").lower(),
             script_title(script) if script else "", word]
        )  # fmt: skip
    rest = len(found.letters) - LETTERS_ON_PAGE
    head = ["character", "times", "clips", "code", "name", "script", "as in"]
    return page.table(head, rows, aside=f"and {rest:,} more" if rest > 0 else "")


def _rates(found: Checked) -> object:
    rates = letters_per_s(found.labels)
    high = max(float(np.quantile(rates, 0.995)) * 1.2, 1.0)
    counts, edges = np.histogram(np.clip(rates, 0, high), bins=_BINS, range=(0, high))
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    usual = float(np.median(rates))
    return line_chart(
        "letters per second of speech", [Line("clips", middles, counts.tolist())], caption=f"median {usual:.1f}",
        x_name="letters per second", from_zero=True,
    )  # fmt: skip


def _example_clips(corpus: Corpus, found: Checked) -> list[Markup]:
    blocks = []
    seen: set[int] = set()
    groups: list[tuple[str, list[Example], Collection[str]]] = [
        (_title(f), f.examples[:CLIPS_PER_FINDING], f.characters) for f in found.findings if f.topic != "pairs"
    ]
    wrong = found.wrong_labels[:WRONG_LABELS_SHOWN]
    groups.append(("likely wrong label: the recogniser's transcript differs", wrong, ()))
    for title, examples, characters in groups:
        shown = [_shown(corpus, example, characters) for example in examples if example.row not in seen]
        seen.update(example.row for example in examples)
        if shown:
            blocks.append(page.clips(shown, Markup("<b>{}</b>").format(title)))
    return blocks


def _title(finding: Finding) -> str:
    return f"{finding.topic}: {finding.what}"[:160]


def _shown(corpus: Corpus, example: Example, characters: Collection[str]) -> ShownClip:
    texts = [("label", mark_characters(corpus.text(example.row), characters))]
    if example.note:
        texts.append(("", escape(example.note)))
    id = corpus.id(example.row)
    try:
        wave_S = corpus.wave(example.row)[: int(CLIP_S * SAMPLE_RATE)]
    except AudioError as error:
        return ShownClip(id, [*texts, ("unreadable", escape(str(error)))])
    return ShownClip(id, texts, make_player(id, wave_S))
