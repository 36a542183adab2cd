"""What the learning proof found: a table and two plots, from the folders of its runs."""

from __future__ import annotations

import datetime
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from matplotlib.figure import Figure

from benchmarks.demo_figures import dev_cer
from benchmarks.learning_corpora import Target
from lalia.cards import write_text
from lalia.machine import processor
from lalia.training.recording import read_metrics

PAGE, PLOT = Path("docs/results.md"), Path("docs/report/learning.svg")
COLOURS = {"random": "#9a9a9a", "unheard": "#d08a2e", "heard": "#2a6fbb"}


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


@dataclass(frozen=True)
class Result:
    """What one trial scored."""

    trial: Trial
    dev_cer: float
    test_cer: float


@dataclass(frozen=True)
class Cell:
    """A start at one amount of labels of one language, at its best rate."""

    rate: float
    cers: tuple[float, ...]
    """of the test clips, by seed"""

    @property
    def cer(self) -> float:
        return mean(self.cers)


Cells = dict[tuple[str, float, str], Cell]


def collect(trials: list[Trial], out: Path) -> list[Result]:
    """The results of those trials that are finished."""
    found = []
    for trial in trials:
        folder = trial.folder(out)
        if (folder / "finished.json").is_file():
            test = json.loads((folder / "finished.json").read_text(encoding="utf-8"))["test_cer"]
            found.append(Result(trial, dev_cer(folder), test))
    return found


def best_cells(results: list[Result]) -> Cells:
    """(language, minutes, start) -> its rate of least mean CER on dev; rates that not all seeds have tried don't count."""
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
    """Write the page and its plot from whatever of ``trials`` is finished."""
    results = collect(trials, out)
    cells = best_cells(results)
    targets = list(dict.fromkeys(trial.target for trial in trials))
    minutes = sorted({trial.minutes for trial in trials})
    draw(cells, targets, minutes)
    write_text(PAGE, _page(cells, targets, minutes, results, len(trials), out, command, steps))
    return PAGE


def _page(
    cells: Cells, targets: list[Target], minutes: list[float], results: list[Result], planned: int, out: Path,
    command: str, steps: int,
) -> str:  # fmt: skip
    lines = [
        "# What pretraining brings: six languages, few labels",
        "",
        f"`{command}` · {datetime.date.today().isoformat()} · {processor()} · {len(results)} of {planned} runs of the grid",
        "",
        "Character error rate (greedy) on test clips that no training heard; in brackets the ratio to random weights at the "
        f"same steps, {steps} of 30 s each. Every start has its own best learning rate of the grid, chosen on dev. *heard*: the "
        "unlabelled training audio of the language was in pretraining; *unheard*: no audio of the six languages was. Where "
        "there are several seeds: their mean, and lowest to highest.",
        "",
        f"![CER against minutes of labels]({PLOT.relative_to(PAGE.parent).as_posix()})",
        "",
        "| language | minutes | random | unheard | heard |",
        "|---|---|---|---|---|",
    ]
    for target in targets:
        for amount in minutes:
            base = cells.get((target.language, amount, "random"))
            shown = [
                _shown(cells.get((target.language, amount, start)), base) for start in ("random", "unheard", "heard")
            ]
            if any(cell != "–" for cell in shown):
                lines.append(f"| {target.name} | {amount:g} | {' | '.join(shown)} |")
    for start in ("heard", "unheard"):
        if (out / start / "finished.json").is_file():
            facts = json.loads((out / start / "finished.json").read_text(encoding="utf-8"))
            lines += [
                "",
                f"Encoder *{start}*: {facts['hours']:.1f} hours of audio, {facts['steps']} steps in {_hours(out / start):.2f} "
                f"hours; held-out contrastive accuracy {facts['accuracy']:.3f} (chance {facts['chance']:.4f}).",
            ]
    return "\n".join(lines) + "\n"


def _shown(cell: Cell | None, base: Cell | None) -> str:
    if cell is None:
        return "–"
    spread = f", {min(cell.cers):.3f} to {max(cell.cers):.3f}" if len(cell.cers) > 1 else ""
    ratio = f" ({cell.cer / base.cer:.2f})" if base is not None and cell is not base else ""
    return f"{cell.cer:.3f}{spread}{ratio}"


def draw(cells: Cells, targets: list[Target], minutes: list[float]) -> None:
    """CER against minutes of labels, a panel for each language; the band is the spread of the seeds."""
    shown = [t for t in targets if any(key[0] == t.language for key in cells)]
    figure = Figure(figsize=(9.0, 2.6 * max(1, -(-len(shown) // 3))), layout="constrained")
    for place, target in enumerate(shown):
        axes = figure.add_subplot(-(-len(shown) // 3), 3, place + 1)
        for start, colour in COLOURS.items():
            points = [(m, cells[target.language, m, start]) for m in minutes if (target.language, m, start) in cells]
            if points:
                xs = [m for m, _ in points]
                axes.plot(xs, [cell.cer for _, cell in points], marker="o", color=colour, label=start)
                axes.fill_between(
                    xs, [min(cell.cers) for _, cell in points], [max(cell.cers) for _, cell in points],
                    color=colour, alpha=0.2, lw=0,
                )  # fmt: skip
        axes.set_title(target.name, fontsize=10)
        axes.set_xscale("log")
        axes.set_xticks(minutes, [f"{m:g}" for m in minutes])
        axes.minorticks_off()
        axes.set_ylim(0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd")
        axes.set_xlabel("minutes of labels")
        if place % 3 == 0:
            axes.set_ylabel("CER")
    if shown:
        figure.axes[0].legend(frameon=False)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, format="svg", facecolor="white", metadata={"Date": None})


def _hours(run: Path) -> float:
    """What the run's training took by the clock, as its record says."""
    lines = read_metrics(run)
    return float(lines[-1]["time_s"]) / 3600 if lines else 0.0
