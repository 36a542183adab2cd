"""Results of the pretraining benchmark (learning.py): a table and two plots, from the folders of its runs.

CERs are of test clips. The *hours* of an initial model are the wall-clock time of its pretraining, including earlier rounds.
"""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from dataclasses import dataclass
from math import inf, log2
from pathlib import Path
from statistics import linear_regression, mean

from matplotlib.figure import Figure

from benchmarks.demo.figures import dev_cer
from benchmarks.training.learning_corpora import Target
from lalia.cards import processor, write_text
from lalia.training.run_log import read_metrics

PAGE = Path("docs/results.md")
BY_LABELS, BY_HOURS = Path("docs/report/learning.svg"), Path("docs/report/hours.svg")
COLOURS = {
    "random": "#9a9a9a", "patient": "#4d4d4d", "unheard": "#d08a2e", "wave": "#5f9e4a", "first": "#bcd9f2", "second": "#8fbfe8",
    "third": "#5b9bd8", "fourth": "#3673b0", "fifth": "#1d4e89",
}  # fmt: skip
LADDER = ("first", "second", "third", "fourth", "fifth")
SHIPPED = "fifth"
"""The encoder that ships with the project."""
ROUNDS = {"unheard": ("unheard",), "wave": ("wave",)} | {name: LADDER[: i + 1] for i, name in enumerate(LADDER)}
"""The pretraining runs of each start."""
TEXT = {
    "random": "random weights",
    "patient": "random weights, three times the steps",
    "unheard": "one round, without audio of the six languages",
    "wave": "one round on the raw wave, with the audio of *first* and as much time",
    "first": "one round, with unlabelled training audio of the six languages",
    "second": "two rounds, the same audio",
    "third": "three rounds, the same audio",
    "fourth": "four rounds, the same audio; speed 0.8 to 1.2 in the fourth",
    "fifth": "five rounds; other speeds in the last two, more audio in the last",
}
GOAL = 0.7
"""CER over that of random weights."""
FEWEST_ROUNDS = 3
"""Minimum number of rounds for an extrapolation."""
MOST_DOUBLINGS = 20
"""Larger extrapolations (beyond a million hours) are not shown."""
MAIN_MINUTES = 10.0
"""The amount of labels in the plot of hours."""


@dataclass(frozen=True)
class Trial:
    """One fine-tuning run."""

    target: Target
    start: str
    minutes: float
    rate: float
    seed: int

    def folder(self, out: Path) -> Path:
        return (
            out / "finetune" / f"{self.target.language}-{self.minutes:g}min-{self.start}-{self.rate:g}-seed{self.seed}"
        )

    def finished(self, out: Path) -> bool:
        return (self.folder(out) / "finished.json").is_file()


@dataclass(frozen=True)
class Result:
    """The scores of one trial."""

    trial: Trial
    dev_cer: float
    test_cer: float


@dataclass(frozen=True)
class Cell:
    """The scores of a start with one amount of labels of one language, at its best rate."""

    rate: float
    cers: tuple[float, ...]
    """CER of the test clips, by seed"""

    @property
    def cer(self) -> float:
        return mean(self.cers)


Cells = dict[tuple[str, float, str], Cell]


def collect(trials: list[Trial], out: Path) -> list[Result]:
    """The results of the finished trials."""
    found = []
    for trial in trials:
        folder = trial.folder(out)
        if trial.finished(out):
            test = json.loads((folder / "finished.json").read_text(encoding="utf-8"))["test_cer"]
            found.append(Result(trial, dev_cer(folder), test))
    return found


def best_cells(results: list[Result]) -> Cells:
    """(language, minutes, start) → the rate with the lowest mean CER on dev, among rates that all seeds have tried."""
    groups: dict[tuple[str, float, str], dict[float, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        trial = result.trial
        groups[trial.target.language, trial.minutes, trial.start][trial.rate].append(result)
    cells = {}
    for key, rates in groups.items():
        most = max(len(tried) for tried in rates.values())
        rate, tried = min(
            ((rate, tried) for rate, tried in rates.items() if len(tried) == most),
            key=lambda item: mean(result.dev_cer for result in item[1]),
        )
        cells[key] = Cell(rate, tuple(result.test_cer for result in sorted(tried, key=lambda r: r.trial.seed)))
    return cells


def write_results(trials: list[Trial], out: Path, command: str, steps: int) -> Path:
    """Write the page and its plots from the finished ``trials``."""
    results = collect(trials, out)
    cells = best_cells(results)
    targets = [t for t in dict.fromkeys(trial.target for trial in trials) if any(key[0] == t.language for key in cells)]
    minutes = sorted({trial.minutes for trial in trials})
    draw(cells, targets, minutes)
    draw_hours(cells, targets, out)
    write_text(PAGE, _page(cells, targets, minutes, results, out, command, steps))
    return PAGE


def _page(
    cells: Cells,
    targets: list[Target],
    minutes: list[float],
    results: list[Result],
    out: Path,
    command: str,
    steps: int,
) -> str:
    starts = [start for start in TEXT if any(key[2] == start for key in cells)]
    lines = [
        "# Gain from pretraining: six languages, few labels",
        "",
        f"CER with greedy decoding after fine-tuning on {MAIN_MINUTES:g} minutes of labels, from random weights and from the "
        f"pretrained encoder that ships with the project (`nano-multilingual`, the encoder *{SHIPPED}* below), at the same "
        "number of steps:",
        "",
        "| language | random weights | pretrained | ratio |",
        "|---|---|---|---|",
        *(row for target in targets if (row := _main_row(cells, target))),
        "",
        f"![CER against minutes of labels]({BY_LABELS.relative_to(PAGE.parent).as_posix()})",
        "",
        "WER with and without a language model: [new languages](new-language.md). How to pretrain: "
        "[pretraining](pretraining.md). What was tried: [diary](diary.md).",
        "",
        "## How it was measured",
        "",
        f"`{command}` · {datetime.date.today().isoformat()} · {processor()} · {len(results)} fine-tuning runs",
        "",
        f"Every fine-tuning run takes {steps} steps of 30 s. The test clips do not occur in any training. Each encoder uses "
        "its best learning rate of the grid, chosen on dev with the first seed. With several seeds the table shows their "
        "mean, and lowest to highest. In brackets: the ratio to random weights.",
        "",
        "Speech: " + ", ".join(f"{target.name} {target.source}" for target in targets) + ".",
        "",
        "## All encoders and amounts of labels",
        "",
        *(f"- *{start}*: {TEXT[start]}; {_tried(start, results)}" for start in starts),
        "",
        f"| language | minutes | {' | '.join(starts)} |",
        "|---" * (2 + len(starts)) + "|",
    ]
    for target in targets:
        for amount in minutes:
            base = cells.get((target.language, amount, "random"))
            shown = [_shown(cells.get((target.language, amount, start)), base) for start in starts]
            if any(cell != "–" for cell in shown):
                lines.append(f"| {target.name} | {amount:g} | {' | '.join(shown)} |")
    lines += [
        "",
        "## CER against hours of pretraining",
        "",
        f"At {MAIN_MINUTES:g} minutes of labels:",
        "",
        f"![CER against hours of pretraining]({BY_HOURS.relative_to(PAGE.parent).as_posix()})",
        "",
        "| encoder | audio, hours | steps | hours of one core | held-out contrastive accuracy | chance |",
        "|---|---|---|---|---|---|",
    ]
    for start in starts:
        files = [out / run / "finished.json" for run in ROUNDS.get(start, ())]
        if files and all(file.is_file() for file in files):
            rounds = [json.loads(file.read_text(encoding="utf-8")) for file in files]
            last, steps = rounds[-1], sum(facts["steps"] for facts in rounds)
            lines.append(
                f"| {start} | {last['hours']:.1f} | {steps} | {_hours(start, out):.2f} | {last['accuracy']:.3f} | "
                f"{last['chance']:.4f} |"
            )
    lines += _extrapolated(cells, targets, out)
    return "\n".join(lines) + "\n"


def _extrapolated(cells: Cells, targets: list[Target], out: Path) -> list[str]:
    """Lines of the page: the hours at which a straight line through the rounds' CERs over log hours reaches the goal."""
    rows = []
    for target in targets:
        known = {
            name: cells[key] for name in ("random", *LADDER) if (key := (target.language, MAIN_MINUTES, name)) in cells
        }
        rounds = [name for name in LADDER if name in known]
        if "random" not in known or len(rounds) < FEWEST_ROUNDS:
            continue
        hours = [log2(_hours(name, out)) for name in rounds]
        slope, start = linear_regression(hours, [known[name].cer for name in rounds])
        goal, reached = GOAL * known["random"].cer, known[rounds[-1]].cer
        needed = (goal - start) / slope if slope < 0 else inf
        far = "reached" if reached <= goal else f"{2**needed:.3g}" if needed < MOST_DOUBLINGS else "beyond a million"
        rows.append(f"| {target.name} | {slope:+.3f} | {goal:.3f} | {reached:.3f} | {far} |")
    if not rows:
        return []
    return [
        "",
        "## Extrapolation to the goal",
        "",
        f"The goal is {GOAL:g} times the CER of random weights. The table extrapolates a straight line through the rounds, "
        "over the logarithm of their hours. It is a guess: the rounds differ not only in hours but also in targets, and the "
        "last one in audio.",
        "",
        "| language | CER for each doubling of the hours | goal | last round | hours of one core to the goal |",
        "|---|---|---|---|---|",
        *rows,
    ]


def _main_row(cells: Cells, target: Target) -> str:
    """Random compared with shipped weights in one language; "" if one of them was not trained."""
    random, shipped = (cells.get((target.language, MAIN_MINUTES, start)) for start in ("random", SHIPPED))
    if random is None or shipped is None:
        return ""
    return f"| {target.name} | {random.cer:.3f} | {shipped.cer:.3f} | {shipped.cer / random.cer:.2f} |"


def _tried(start: str, results: list[Result]) -> str:
    trials = [result.trial for result in results if result.trial.start == start]
    rates = ", ".join(f"{rate:g}" for rate in sorted({trial.rate for trial in trials}))
    return f"learning rates tried {rates}, seeds {', '.join(str(seed) for seed in sorted({trial.seed for trial in trials}))}"


def _shown(cell: Cell | None, base: Cell | None) -> str:
    if cell is None:
        return "–"
    spread = f", {min(cell.cers):.3f} to {max(cell.cers):.3f}" if len(cell.cers) > 1 else ""
    ratio = f" ({cell.cer / base.cer:.2f})" if base is not None and cell is not base else ""
    return f"{cell.cer:.3f}{spread}{ratio}"


def draw(cells: Cells, targets: list[Target], minutes: list[float]) -> None:
    """Plot CER against minutes of labels, a panel for each language; the band is the range of the seeds."""
    figure = panels(targets, "minutes of labels", "CER")
    for axes, target in zip(figure.axes, targets, strict=True):
        for start, colour in COLOURS.items():
            known = [m for m in minutes if (target.language, m, start) in cells]
            if known:
                found = [cells[target.language, m, start] for m in known]
                axes.plot(known, [cell.cer for cell in found], marker="o", color=colour, label=start)
                axes.fill_between(
                    known, [min(cell.cers) for cell in found], [max(cell.cers) for cell in found],
                    color=colour, alpha=0.2, lw=0,
                )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(minutes, [f"{m:g}" for m in minutes])
        axes.minorticks_off()
    _save(figure, BY_LABELS)


def draw_hours(cells: Cells, targets: list[Target], out: Path) -> None:
    """Plot CER at ten minutes of labels against hours of pretraining; the bars are the range of the seeds."""
    figure = panels(targets, "hours of pretraining, one core", "CER")
    for axes, target in zip(figure.axes, targets, strict=True):
        known = {
            s: cells[target.language, MAIN_MINUTES, s] for s in COLOURS if (target.language, MAIN_MINUTES, s) in cells
        }
        rounds = [(_hours(start, out), known[start]) for start in ("random", *LADDER) if start in known]
        axes.plot([x for x, _ in rounds], [cell.cer for _, cell in rounds], color=COLOURS[LADDER[-1]], lw=1)
        for start, cell in known.items():
            low, high = min(cell.cers), max(cell.cers)
            axes.errorbar(
                [_hours(start, out)], [cell.cer], [[cell.cer - low], [high - cell.cer]],
                marker="o", color=COLOURS[start], label=start, ls="none",
            )  # fmt: skip
    _save(figure, BY_HOURS)


def panels(targets: list[Target], across: str, up: str) -> Figure:
    """A figure with a panel for each language."""
    rows = max(1, -(-len(targets) // 3))
    figure = Figure(figsize=(9.0, 2.6 * rows), layout="constrained")
    for place, target in enumerate(targets):
        axes = figure.add_subplot(rows, 3, place + 1)
        axes.set_title(target.name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd")
        axes.set_xlabel(across)
        if place % 3 == 0:
            axes.set_ylabel(up)
    return figure


def _save(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    labelled = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    shown = {name: handle for name in COLOURS for handle, label in labelled if label == name}  # no panel has all lines
    if shown:
        figure.legend(
            shown.values(), shown, loc="outside lower center", ncols=len(shown), frameon=False, fontsize=8
        )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", facecolor="white", metadata={"Date": None})


def _hours(start: str, out: Path) -> float:
    """Wall-clock hours of the pretraining of ``start``, over all its rounds."""
    records = [read_metrics(out / run) for run in ROUNDS.get(start, ())]
    return sum(float(lines[-1]["time_s"]) for lines in records if lines) / 3600
