"""What a probe found: a table for the terminal, and a page with a curve over the layers for each question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from lalia.report.charts import SERIES, Chart, Level, Line, line_chart, share
from lalia.report.page import Page, Section, figures, table
from pretrain.questions import Probe, ProbeRow

QUESTIONS: dict[str, tuple[str, Callable[..., float]]] = {
    "language": ("Language, accuracy", max), "speaker": ("Speaker, accuracy", max), "cer": ("Letters, CER", min),
}  # fmt: skip
"""field of a row: (title, which of two is better)"""


def rich_table(found: Probe) -> Table:
    """The table for a terminal; the best layer of each encoder is starred."""
    shown = Table(box=box.SIMPLE_HEAD)
    for name in ("encoder", "layer"):
        shown.add_column(name)
    for name in heads(found):
        shown.add_column(name, justify="right")
    for cells in body(found):
        shown.add_row(*cells)
    return shown


def heads(found: Probe) -> Iterator[str]:
    """What was asked, with how much chance would give."""
    yield f"language (of {found.languages}, chance {found.chance_language:.2f})"
    yield f"speaker (of {found.speakers}, chance {found.chance_speaker:.2f})"
    yield f"CER {found.letters_of}".strip()


def body(found: Probe) -> Iterator[list[str]]:
    for row in found.rows:
        own = [other for other in found.rows if other.encoder == row.encoder]
        yield [row.encoder or "-", row.layer, *(_cell(row, own, name) for name in QUESTIONS)]


def write_page(path: Path, found: Probe, folders: Sequence[str], corpus: str) -> None:
    """A self-contained HTML page: the curves, the table, and what it was made from."""
    charts = [chart for name in QUESTIONS if (chart := _chart(found, name)) is not None]
    page = Page(
        kicker="probe",
        title="What the layers know",
        lead=f"{', '.join(folders)} on {corpus}: frozen features, one matrix per layer and question, held-out clips.",
        sections=[
            Section("By layer", [figures(charts)], "The dashed line is plain log-mel, read by the same probe."),
            Section(
                "All figures",
                [table(["encoder", "layer", *heads(found)], list(body(found)))],
                " ".join(["The best layer of each encoder is starred.", *(f"{note}." for note in found.notes)]),
            ),
        ],
    )
    page.write(path)


def _chart(found: Probe, name: str) -> Chart | None:
    title, _ = QUESTIONS[name]
    baseline = next((getattr(row, name) for row in found.rows if not row.encoder), None)
    encoders = list(dict.fromkeys(row.encoder for row in found.rows if row.encoder))
    lines = []
    for colour, encoder in zip(SERIES * len(encoders), encoders, strict=False):
        values = [getattr(row, name) for row in found.rows if row.encoder == encoder]
        if None not in values:
            lines.append(Line(encoder, range(len(values)), values, colour, dots=True))
    if not lines:
        return None
    levels = [Level(baseline, "log-mel")] if baseline is not None else []
    return line_chart(title, lines, levels, "0 is what the first block is given.", share, "block", height_in=2.4)


def _cell(row: ProbeRow, own: list[ProbeRow], name: str) -> str:
    value = getattr(row, name)
    if value is None:
        return "-"
    best = QUESTIONS[name][1](getattr(other, name) for other in own)
    return f"{value:.3f}" + ("*" if len(own) > 1 and value == best else "")
