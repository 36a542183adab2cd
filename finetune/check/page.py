"""The check as a page: verdict, findings, letters, rates, and the odd clips to hear."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape

from finetune.check.findings import Checked, Example, Finding
from finetune.check.lengths import letters_per_s
from lalia.data.corpus import Corpus
from lalia.exits import AudioError
from lalia.report import formats, page
from lalia.report.charts import Line, line_chart
from lalia.report.lineage import lineage_of
from lalia.report.players import ShownClip, make_player
from lalia.text.scripts import script_of, script_title
from lalia.units import SAMPLE_RATE, Seconds

LETTERS = 400
HEARD = 3
"""Clips to hear of each finding."""
SUSPECTS = 20
HEARD_S: Seconds = 20.0
_BINS = 40


def write_page(corpus: Corpus, checked: list[Checked], path: Path) -> Path:
    """Write the page of ``checked`` to ``path``: one file, nothing fetched."""
    sections = [section for found in checked for section in _sections(corpus, found, len(checked) > 1)]
    sections.append(page.Section("Where it comes from", [page.lineage(lineage_of(corpus.card))]))
    stops = sum(len(found.stops) for found in checked)
    tiles = [
        page.Tile("not yet" if stops else "ready", "to train", verdict="bad" if stops else "good"),
        page.Tile(formats.hours(sum(s.hours for f in checked for s in f.splits)), "labelled"),
        page.Tile(formats.count(sum(s.clips for f in checked for s in f.splits)), "labelled clips"),
        page.Tile(str(stops), "to mend first", verdict="bad" if stops else ""),
        page.Tile(str(sum(f.weight == "look" for c in checked for f in c.findings)), "to know"),
    ]
    title = str(corpus.card.get("source") or corpus.folder.name)
    return page.Page("check", title, summary=page.tiles(tiles), sections=sections).write(path)


def _sections(corpus: Corpus, found: Checked, several: bool) -> list[page.Section]:
    name = f"{found.labels.profile.title}: " if several else ""
    sections = [page.Section(f"{name}What stands in the way" if found.stops else f"{name}Findings", [_goals(found)])]
    heard = _heard(corpus, found)
    if heard:
        sections.append(page.Section(f"{name}To hear", heard, "Clips of the findings; the first seconds of long ones."))
    sections.append(page.Section(f"{name}Splits", [_splits(found)], "Labelled clips alone."))
    settings = found.labels.normaliser.settings.describe()
    vocabulary = found.vocabulary.describe(40) if found.vocabulary else "none: the labels hold no letters"
    pairs = [[text, found.labels.normal[p] or "(nothing)"] for p, text in _drawn(found)]
    sections.append(
        page.Section(
            f"{name}From label to tokens",
            [page.table(["as written", "as it is learned and scored"], pairs, words=True)],
            Markup("<b>Normaliser</b>: {}. <b>Vocabulary</b>: {}.").format(settings, vocabulary),
        )
    )
    sections.append(
        page.Section(f"{name}Characters", [_letters(found)], "Of the normalised labels, the commonest first.")
    )
    if len(found.labels.rows) > 1:
        sections.append(page.Section(f"{name}Rate", [page.figures([_rates(found)])], "How fast the labels are said."))
    return sections


def _goals(found: Checked) -> Markup:
    if not found.findings:
        return page.goals([page.Goal(True, "Nothing was found to mend or to know.", "")])
    weight = {"stop": "Mend first. ", "look": "", "fine": ""}
    rows = [
        [Markup("<b>{}</b>").format(f.topic), weight[f.weight] + f.what, f.fix] for f in found.findings
    ]  # fmt: skip
    return page.table(["topic", "what was found", "what to do"], rows, words=True)


def _splits(found: Checked) -> Markup:
    rows = []
    for s in found.splits:
        speakers = f"{s.speakers:,}" if s.speakers else "–"
        rows.append([s.name, formats.hours(s.hours), f"{s.clips:,}", speakers, f"{s.sentences:,}", f"{s.words:,}"])
    return page.table(["split", "labelled", "clips", "speakers", "different labels", "words"], rows)


def _drawn(found: Checked) -> list[tuple[int, str]]:
    """A few labels, those first that the normaliser changes in more than case and punctuation."""
    texts, normal = found.labels.texts, found.labels.normal

    def told(place: int) -> int:
        return len(set(normal[place]) - set(texts[place].lower())) + any(map(str.isdecimal, texts[place]))

    places = sorted(range(len(texts)), key=lambda p: (-told(p), p))[:6]
    return [(p, texts[p]) for p in places]


def _letters(found: Checked) -> Markup:
    rows: list[list[str | Markup]] = []
    for letter, often, clips, word in found.letters[:LETTERS]:
        shown = f"◌{letter}" if unicodedata.category(letter)[0] == "M" else letter
        script = script_of(letter)
        rows.append(
            [shown, f"{often:,}", f"{clips:,}", f"U+{ord(letter):04X}", unicodedata.name(letter, "").lower(),
             script_title(script) if script else "", word]
        )  # fmt: skip
    rest = len(found.letters) - LETTERS
    head = ["character", "times", "clips", "code", "name", "script", "as in"]
    return page.table(head, rows, words=True, aside=f"and {rest:,} more" if rest > 0 else "")


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


def _heard(corpus: Corpus, found: Checked) -> list[Markup]:
    blocks = []
    seen: set[int] = set()
    groups: list[tuple[str, list[Example]]] = [
        (_title(f), f.examples[:HEARD]) for f in found.findings if f.topic != "pairs"
    ]
    groups.append(("something else is heard than the label says", found.suspects[:SUSPECTS]))
    for title, examples in groups:
        shown = [_shown(corpus, example) for example in examples if example.row not in seen]
        seen.update(example.row for example in examples)
        if shown:
            blocks.append(page.clips(shown, Markup("<b>{}</b>").format(title)))
    return blocks


def _title(finding: Finding) -> str:
    return f"{finding.topic}: {finding.what}"[:160]


def _shown(corpus: Corpus, example: Example) -> ShownClip:
    texts = [("label", escape(corpus.text(example.row)))]
    if example.note:
        texts.append(("", escape(example.note)))
    id = corpus.id(example.row)
    try:
        wave_S = corpus.wave(example.row)[: int(HEARD_S * SAMPLE_RATE)]
    except AudioError as error:
        return ShownClip(id, [*texts, ("damaged", escape(str(error)))])
    return ShownClip(id, texts, make_player(id, wave_S))
