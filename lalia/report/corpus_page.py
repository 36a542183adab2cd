"""The report page of a corpus: hours per language, histograms of quality, and clips to play."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from lalia.data.corpus import QUALITY, SPLITS, Corpus
from lalia.errors import AudioError
from lalia.report import numbers, page
from lalia.report.charts import Chart, describe_outliers, histogram, usual_range
from lalia.report.page import ShownClip, lineage_of, make_player
from lalia.text.language_codes import language_name
from lalia.units import SAMPLE_RATE, Seconds, plural

_CLIPS = 4  # of each kind
_PLAYED_S: Seconds = 20.0


def write_page(corpus: Corpus, path: Path) -> Path:
    """Write the page of ``corpus`` to ``path``, a self-contained file."""
    seconds = float(corpus.durations_s.sum(dtype=np.float64))
    card = corpus.card
    labelled = float(corpus.durations_s[corpus.labelled].sum()) / max(seconds, 1e-9)
    charts, constant = _distributions(corpus)
    sections = [
        page.Section(
            "Hours", _hours_tables(corpus), "By language and split; the last column counts clips with a transcript."
        ),
        page.Section("Distributions", [*([page.figures(charts)] if charts else []), *constant], _DISTRIBUTIONS),
        page.Section(
            "Clips with audio",
            _clips(corpus),
            "Outliers, the lowest and highest signal-to-noise ratios, and random clips.",
        ),
    ]
    if dropped := card.get("dropped"):
        rows = [[reason, numbers.count(count)] for reason, count in dropped.items()]
        sections.append(
            page.Section("Skipped", [page.table(["reason", "clips"], rows)], "Details of each clip are in skipped.tsv.")
        )
    sections.append(page.Section("Lineage", [page.lineage(lineage_of(card))], folded=True))
    tiles = [
        page.Tile(numbers.hours(seconds / 3600), "of audio"),
        page.Tile(numbers.count(len(corpus)), "clips"),
        page.Tile(numbers.percent(labelled), "labelled"),
        page.Tile(numbers.count(len(corpus.language_names)), "languages"),
        page.Tile(numbers.count(corpus.count("speaker")), "known speakers"),
    ]
    folder = shlex.quote(str(corpus.folder))
    fit = f"--data.corpus {folder} --out RUN"
    next_commands = [(f"lalia pretrain fit {fit}", "pretrain an encoder on its audio")]
    if labelled:
        check = (f"lalia finetune check {folder}", "check the labels before fine-tuning")
        next_commands = [check, (f"lalia finetune fit --encoder ENCODER {fit}", "train a recogniser on its labels")]
    made = page.Page(
        "corpus", str(card.get("source") or corpus.folder.name), next=next_commands, summary=page.tiles(tiles),
        sections=sections,
    )  # fmt: skip
    return made.write(path)


_DISTRIBUTIONS = (
    "Of all clips. Outliers are more than three times the interquartile range away from the middle half; listen to the worst of "
    "them before you train."
)


LANGUAGES_SHOWN = 12


def _hours_tables(corpus: Corpus) -> list[Markup]:
    """Hours by language and split, the largest languages first; those beyond ``LANGUAGES_SHOWN`` are folded."""
    hours, labelled = corpus.hours(), corpus.hours(labelled=True)
    clips = np.bincount(corpus.languages, minlength=len(corpus.language_names))
    ranked = sorted(range(len(clips)), key=lambda code: -sum(hours[corpus.language_names[code]].values()))

    def row(name: str, count: int, codes: Sequence[int]) -> list[str]:
        names = [corpus.language_names[code] for code in codes]
        splits = [sum(hours[language][split] for language in names) for split in SPLITS]
        with_text = sum(sum(labelled[language].values()) for language in names)
        return [name, numbers.count(count), *map(numbers.hours, [*splits, sum(splits), with_text])]

    head = ["language", "clips", *SPLITS, "all", "labelled"]
    rows = [row(_language(corpus.language_names[code]), int(clips[code]), [code]) for code in ranked]
    shown, rest = rows[:LANGUAGES_SHOWN], rows[LANGUAGES_SHOWN:]
    if len(rows) > 1:
        shown.append(row("all", len(corpus), ranked))
    tables = [page.table(head, shown, chosen=len(shown) - 1 if len(rows) > 1 else -1)]
    return tables + ([page.fold(plural(len(rest), "more language"), [page.table(head, rest)])] if rest else [])


def _language(code: str) -> str:
    """``Italian (ita)``; the code alone where it has no English name."""
    name = language_name(code)
    return f"{name} ({code})" if name and name != code else code


def _distributions(corpus: Corpus) -> tuple[list[Chart], list[Markup]]:
    """A histogram of each measure that varies, and a line about those that are equal for most clips."""
    charts: list[Chart] = []
    constant: list[Markup] = []
    for unit, values in _measures(corpus).items():
        low, high = usual_range(values)
        if high > low:
            charts.append(histogram(unit, values))
            continue
        outside = describe_outliers(values)
        most = f"{numbers.percent(float((values == low).mean()), 0)} of the" if outside else "all"
        equal = f"{numbers.number(low)} for {most} clips"
        constant.append(Markup("<p><b>{}</b>: {}</p>").format(unit, "; ".join([equal, *outside])))
    return charts, constant


def _clips(corpus: Corpus) -> list[Markup]:
    snr = corpus.numbers("snr_db")
    order = np.argsort(snr, kind="stable")
    drawn = np.random.Generator(np.random.Philox(key=len(corpus))).permutation(len(corpus))
    strange = _furthest(corpus)
    kinds: list[tuple[str, Iterable[int], Callable[[int], str]]] = [
        ("outliers", strange, lambda row: strange[row]),
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


def _furthest(corpus: Corpus) -> dict[int, str]:
    """The clip that is furthest outside the usual range of each measure, and its value."""
    found: dict[int, str] = {}
    for unit, values in _measures(corpus).items():
        low, high = usual_range(values)
        outside = np.maximum(low - values, values - high)
        row = int(outside.argmax())
        if outside[row] > 0:
            usual = " to ".join(dict.fromkeys(map(numbers.number, (low, high))))
            words = f"{unit}: {numbers.number(float(values[row]))} (usually {usual})"
            found[row] = f"{found[row]}; {words}" if row in found else words
    return found


def _measures(corpus: Corpus) -> dict[str, np.ndarray]:
    """Length and quality of every clip, by their names on the page."""
    quality = {unit: corpus.numbers(column).astype(np.float64) for column, unit in QUALITY.items()}
    return {"length, s": corpus.durations_s.astype(np.float64)} | quality


def _shown(corpus: Corpus, row: int, note: str) -> ShownClip:
    """A clip with a player for its first seconds; a damaged clip has none."""
    text = Markup.escape(corpus.text(row) or "(no transcript)")
    texts = [(_language(corpus.language(row)), text), ("measured", Markup.escape(note))]
    try:
        wave_S = corpus.wave(row)[: int(_PLAYED_S * SAMPLE_RATE)]
    except AudioError as error:
        return ShownClip(corpus.id(row), [*texts, ("damaged", Markup.escape(str(error)))])
    return ShownClip(corpus.id(row), texts, make_player(corpus.id(row), wave_S))
