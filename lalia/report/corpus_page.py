"""The report page of a corpus: hours per language, histograms of quality, and clips to play."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from markupsafe import Markup

from lalia.data.corpus import QUALITY, SPLITS, Corpus
from lalia.errors import AudioError
from lalia.report import numbers, page
from lalia.report.charts import Chart, histogram
from lalia.report.page import ShownClip, lineage_of, make_player
from lalia.units import SAMPLE_RATE, Seconds

_CLIPS = 4  # of each kind
_PLAYED_S: Seconds = 20.0


def write_page(corpus: Corpus, path: Path) -> Path:
    """Write the page of ``corpus`` to ``path``, a self-contained file."""
    seconds = float(corpus.durations_s.sum(dtype=np.float64))
    card = corpus.card
    sections = [
        page.Section(
            "Hours", [_hours_table(corpus)], "By language and split; the last column counts clips with a transcript."
        ),
        page.Section("Distributions", [page.figures(_histograms(corpus))]),
        page.Section(
            "Clips with audio", _clips(corpus), "The lowest and highest signal-to-noise ratios, and random clips."
        ),
    ]
    if dropped := card.get("dropped"):
        rows = [[reason, numbers.count(count)] for reason, count in dropped.items()]
        sections.append(
            page.Section("Skipped", [page.table(["reason", "clips"], rows)], "Details of each clip are in skipped.tsv.")
        )
    sections.append(page.Section("Lineage", [page.lineage(lineage_of(card))]))
    tiles = [
        page.Tile(numbers.hours(seconds / 3600), "of audio"),
        page.Tile(numbers.count(len(corpus)), "clips"),
        page.Tile(numbers.percent(float(corpus.durations_s[corpus.labelled].sum()) / max(seconds, 1e-9)), "labelled"),
        page.Tile(numbers.count(len(corpus.language_names)), "languages"),
        page.Tile(numbers.count(corpus.count("speaker")), "known speakers"),
    ]
    made = page.Page(
        "corpus", str(card.get("source") or corpus.folder.name), summary=page.tiles(tiles), sections=sections
    )
    return made.write(path)


def _hours_table(corpus: Corpus) -> Markup:
    hours, labelled = corpus.hours(), corpus.hours(labelled=True)
    rows = []
    for code, language in enumerate(corpus.language_names):
        cells = [numbers.hours(hours[language][split]) for split in SPLITS]
        clips = int((corpus.languages == code).sum())
        rows.append(
            [
                language,
                numbers.count(clips),
                *cells,
                numbers.hours(sum(hours[language].values())),
                numbers.hours(sum(labelled[language].values())),
            ]
        )
    return page.table(["language", "clips", *SPLITS, "all", "labelled"], rows)


def _histograms(corpus: Corpus) -> list[Chart]:
    charts = [histogram("length, s", corpus.durations_s)]
    charts += [histogram(unit, corpus.numbers(column)) for column, unit in QUALITY.items()]
    return charts


def _clips(corpus: Corpus) -> list[Markup]:
    snr = corpus.numbers("snr_db")
    order = np.argsort(snr, kind="stable")
    drawn = np.random.Generator(np.random.Philox(key=len(corpus))).permutation(len(corpus))
    kinds: list[tuple[str, np.ndarray, Callable[[int], str]]] = [
        ("lowest SNR", order, lambda row: f"SNR {snr[row]:.0f} dB"),
        ("highest SNR", order[::-1], lambda row: f"SNR {snr[row]:.0f} dB"),
        ("random", drawn, lambda row: f"SNR {snr[row]:.0f} dB, {corpus.durations_s[row]:.1f} s"),
    ]
    seen: set[int] = set()
    blocks = []
    for name, rows, note in kinds:
        shown: list[ShownClip] = []
        for row in map(int, rows):
            if row in seen:
                continue
            seen.add(row)
            shown.append(_shown(corpus, row, note(row)))
            if len(shown) == _CLIPS:
                break
        if shown:
            blocks.append(page.clips(shown, Markup(f"<b>{name}</b>")))
    return blocks


def _shown(corpus: Corpus, row: int, note: str) -> ShownClip:
    """A clip with a player for its first seconds; a damaged clip has none."""
    text = Markup.escape(corpus.text(row) or "(no transcript)")
    texts = [(corpus.language(row), text), ("measured", Markup.escape(note))]
    try:
        wave_S = corpus.wave(row)[: int(_PLAYED_S * SAMPLE_RATE)]
    except AudioError as error:
        return ShownClip(corpus.id(row), [*texts, ("damaged", Markup.escape(str(error)))])
    return ShownClip(corpus.id(row), texts, make_player(corpus.id(row), wave_S))
