"""A new language in an afternoon: what pretraining, an adapter and a language model bring to six languages with few labels.

    python -m benchmarks.new_language --speech FOLDER --prompts data/demo --out runs/learning

For each language and amount of labels: a recogniser from random weights, one from the encoder that comes with the project and an
adapter on it, at equal steps, each at the rate that did best with ten minutes; splits and finished runs are those of
``benchmarks.learning`` in --out. Then, for the first two, a language model of the letters of the training clips' texts, tuned on
dev and set beside best path on test (``lalia finetune lm``; held-out sentences are not in it). --baselines trains
torchaudio's Wav2Letter and DeepSpeech and a Conformer from nothing.

The same command again continues; --until stops before the next run begins. The tables are docs/new-language.md, their plot
docs/report/new-language.svg.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from dataclasses import dataclass
from math import inf
from pathlib import Path

from benchmarks.learning import BASELINES, finetune, late, without_until
from benchmarks.learning_corpora import TARGETS, Target, call, prepare_all
from benchmarks.learning_report import SHIPPED, Cell, Trial, best_cells, collect, panels
from finetune.presets import ADAPTER_SHARES
from finetune.trained import WAYS
from lalia.cards import write_text
from lalia.data.mixture import Mixture
from lalia.exits import run
from lalia.machine import processor

PAGE, PLOT = Path("docs/new-language.md"), Path("docs/report/new-language.svg")
SEED = 1
RATES = {"random": (5e-4, 1e-3, 2e-3), SHIPPED: (4e-3,), "adapter": (8e-3,)} | dict.fromkeys(BASELINES, (5e-4, 2e-3))
"""What is trained, and the rates that it tries on ten minutes of labels; of others only the one that was best there on dev."""
DECODED = ("random", SHIPPED)
"""What is decoded with a language model."""
COLOURS = {"random": "#9a9a9a", SHIPPED: "#1d4e89"}
MAIN_MINUTES = 10.0
GOALS = (0.7, 1.1)
"""CER from pretrained weights over that from random ones, of the adapter over that of all weights: at most."""


@dataclass(frozen=True)
class Decoded:
    """Word error rates of one student on the test clips, each with its 95 % interval: (rate, low, high)."""

    greedy: tuple[float, float, float]
    model: tuple[float, float, float]


@dataclass(frozen=True)
class Row:
    """What became of one language at one amount of labels."""

    target: Target
    minutes: float
    """asked for; 0 = all"""
    heard: float
    """minutes of labels that there were"""
    cells: dict[str, Cell]
    """by start: random, SHIPPED, adapter and the baselines"""
    decoded: dict[str, Decoded]
    """by start"""

    @property
    def amount(self) -> str:
        return f"{self.minutes:g}" if self.minutes else f"all {self.heard:.0f}"


def main() -> int:
    arguments = parse()
    out = Path(arguments.out)
    corpora = prepare_all(Path(arguments.speech), out)
    corpora[""] = Path(arguments.prompts)
    targets = [target for target in TARGETS if not arguments.language or target.language in arguments.language]
    for minutes in sorted({MAIN_MINUTES, *arguments.minutes}, key=lambda m: abs(m - MAIN_MINUTES)):
        for target in targets:
            corpus = corpora[target.speech]
            if minutes <= labelled(corpus, target):
                afternoon(target, minutes, corpus, out, arguments)
    found = [look(target, minutes, out, arguments) for target in TARGETS for minutes in arguments.minutes]
    rows = sorted((row for row in found if row), key=lambda row: (TARGETS.index(row.target), row.heard))
    draw(rows)
    write_text(
        PAGE, page(rows, shlex.join(["python", "-m", "benchmarks.new_language", *without_until(sys.argv)]), arguments)
    )
    print(f"the tables and the plot: {PAGE}")
    return 0


def labelled(corpus: Path, target: Target) -> float:
    """Minutes of labelled training audio."""
    mixture = Mixture.load([str(corpus)])
    rows = mixture.select("train", [target.language], labelled=True)
    return float(mixture.durations_s[rows].sum()) / 60


def afternoon(target: Target, minutes: float, corpus: Path, out: Path, arguments: argparse.Namespace) -> None:
    """Train and decode what is missing of one language at one amount of labels."""
    best = known(target, MAIN_MINUTES, out, arguments)
    for start, rates in RATES.items():
        if start in BASELINES and (minutes != MAIN_MINUTES or target.language not in arguments.baselines):
            continue
        if minutes != MAIN_MINUTES and start in best:
            rates = (best[start].rate,)
        for rate in rates:
            if not late(arguments.until):
                finetune(Trial(target, start, minutes, rate, SEED), corpus, out, arguments.steps)
    cells = known(target, minutes, out, arguments)
    for start in DECODED:
        if start in cells and not late(arguments.until):
            folder = Trial(target, start, minutes, cells[start].rate, SEED).folder(out)
            if not (folder / WAYS).is_file():
                call(["lalia", "finetune", "lm", str(folder)])


def look(target: Target, minutes: float, out: Path, arguments: argparse.Namespace) -> Row | None:
    """What there is of one language at one amount of labels; None without a recogniser from pretrained weights."""
    cells = known(target, minutes, out, arguments)
    if SHIPPED not in cells:
        return None
    folders = {
        start: Trial(target, start, minutes, cells[start].rate, SEED).folder(out) for start in DECODED if start in cells
    }
    finished = json.loads((folders[SHIPPED] / "finished.json").read_text(encoding="utf-8"))
    decoded = {start: found for start, folder in folders.items() if (found := read(folder))}
    return Row(target, minutes, finished["minutes_of_labels"], cells, decoded)


def known(target: Target, minutes: float, out: Path, arguments: argparse.Namespace) -> dict[str, Cell]:
    """The finished trials of a language and amount of labels by start, each at its best rate."""
    trials = [Trial(target, start, minutes, rate, seed) for start, rates in RATES.items() for rate in rates
              for seed in arguments.seeds]  # fmt: skip
    return {start: cell for (_, _, start), cell in best_cells(collect(trials, out)).items()}


def read(folder: Path) -> Decoded | None:
    """What ``lalia finetune lm`` found of the run in ``folder``."""
    if not (folder / WAYS).is_file():
        return None
    found = json.loads((folder / WAYS).read_text(encoding="utf-8"))["ways"]
    return Decoded(*((way["wer"], *way["wer_interval"]) for way in found))


def page(rows: list[Row], command: str, arguments: argparse.Namespace) -> str:
    lines = [
        "# A new language in an afternoon",
        "",
        f"`{command}` · {datetime.date.today().isoformat()} · {processor()}",
        "",
        f"Error rates in percent on test clips that no training heard. Every recogniser took {arguments.steps} steps of 30 s on "
        "minutes of labels as the row says. *random*: random weights; *pretrained*: the learning proof's "
        f"*{SHIPPED}* encoder, which comes with the project as nano-multilingual; *adapter*: that encoder with an adapter of "
        f"{100 * ADAPTER_SHARES[0]:g} % of its weights. At ten minutes the first two are means of {len(arguments.seeds)} seeds.",
        "",
        f"![WER against minutes of labels]({PLOT.relative_to(PAGE.parent).as_posix()})",
        "",
        "## Letters",
        "",
        "CER by best path; in brackets the ratio to random weights, and of the adapter to all weights.",
        "",
        "| language | minutes | random | pretrained | adapter |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        random, pretrained, adapter = (row.cells.get(start) for start in ("random", SHIPPED, "adapter"))
        shown = [_cell(random, None), _cell(pretrained, random), _cell(adapter, pretrained)]
        lines.append(f"| {row.target.name} | {row.amount} | {' | '.join(shown)} |")
    lines += [
        "",
        _reached(rows),
        "",
        "## Words, with a language model",
        "",
        "WER of the student (first seed) by best path, and with 6-grams of letters of all training clips' texts, however few "
        "were heard; with 95 % intervals over clips.",
        "",
        "| language | minutes | random | random, LM | pretrained | pretrained, LM |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        rates = [_rates(row.decoded.get(start)) for start in DECODED]
        lines.append(f"| {row.target.name} | {row.amount} | {' | '.join(rates)} |")
    lines += ["", _lowered(rows), *_baselines(rows)]
    return "\n".join(lines) + "\n"


def _reached(rows: list[Row]) -> str:
    """Where the goals are met, in words."""
    said = []
    for (start, base, what), goal in zip(
        ((SHIPPED, "random", "Pretrained over random"), ("adapter", SHIPPED, "The adapter over all weights")),
        GOALS,
        strict=True,
    ):
        pairs = [(row, row.cells[start].cer / row.cells[base].cer) for row in rows if {start, base} <= row.cells.keys()]
        met = [f"{row.target.name} {row.amount}" for row, ratio in pairs if ratio <= goal]
        said.append(f"{what} at most {goal:g}: {len(met)} of {len(pairs)}" + (f" ({', '.join(met)})." if met else "."))
    return " ".join(said)


def _lowered(rows: list[Row]) -> str:
    """How often the language model helps, in words."""
    found = [decoded for row in rows for decoded in row.decoded.values()]
    lower = [decoded for decoded in found if decoded.model[0] < decoded.greedy[0]]
    apart = [decoded for decoded in lower if decoded.model[2] < decoded.greedy[1]]
    return f"The model lowers WER in {len(lower)} of {len(found)} recognisers, in {len(apart)} of them with intervals apart."


def _baselines(rows: list[Row]) -> list[str]:
    """Models that start from nothing, where they were trained."""
    shown = [row for row in rows if any(kind in row.cells for kind in BASELINES)]
    if not shown:
        return []
    lines = [
        "",
        "## Other models from nothing",
        "",
        "CER by best path after as many steps on the same clips (`--model.kind`), each at the best of its rates on dev.",
        "",
        f"| language | minutes | {' | '.join(BASELINES)} | random | pretrained |",
        "|---" * (4 + len(BASELINES)) + "|",
    ]
    for row in shown:
        cells = [
            _cell(cell, None) + (f", rate {cell.rate:g}" if cell else "")
            for cell in (row.cells.get(start) for start in (*BASELINES, *DECODED))
        ]
        lines.append(f"| {row.target.name} | {row.amount} | {' | '.join(cells)} |")
    return lines


def _cell(cell: Cell | None, base: Cell | None) -> str:
    if cell is None:
        return "–"
    return f"{100 * cell.cer:.1f}" + (f" ({cell.cer / base.cer:.2f})" if base else "")


def _rates(decoded: Decoded | None) -> str:
    """Two cells: by best path, and with a language model."""
    if decoded is None:
        return "– | –"
    return " | ".join(
        f"{100 * rate:.1f} ({100 * low:.1f} to {100 * high:.1f})" for rate, low, high in (decoded.greedy, decoded.model)
    )


def draw(rows: list[Row]) -> None:
    """WER against minutes of labels, a panel for each language: from random and pretrained weights, without and with a model."""
    targets = list(dict.fromkeys(row.target for row in rows))
    figure = panels(targets, "minutes of labels", "WER")
    for axes, target in zip(figure.axes, targets, strict=True):
        for start, colour in COLOURS.items():
            for way, line in (("greedy", "-"), ("model", "--")):
                found = [(row.heard, *getattr(row.decoded[start], way)) for row in rows
                         if row.target == target and start in row.decoded]  # fmt: skip
                minutes, rates, lows, highs = zip(*found, strict=True) if found else ((), (), (), ())
                label = f"{'random' if start == 'random' else 'pretrained'}, {'best path' if way == 'greedy' else 'LM'}"
                axes.plot(minutes, rates, line, marker="o", ms=4, color=colour, label=label)
                axes.fill_between(minutes, lows, highs, color=colour, alpha=0.12, lw=0)
        axes.set_xscale("log")
        ticks = sorted({row.minutes or round(row.heard) for row in rows if row.target == target})
        ticks = [m for m, after in zip(ticks, [*ticks[1:], inf], strict=True) if after > 1.3 * m]  # or they touch
        axes.set_xticks(ticks, [f"{minutes:g}" for minutes in ticks])
        axes.minorticks_off()
        axes.set_ylim(0, 1.3)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8
    )
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, format="svg", facecolor="white", metadata={"Date": None})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.new_language",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--speech", required=True, help="folder of sets, each with a manifest.tsv")
    parser.add_argument("--prompts", default="data/demo", help="the demo's corpus (data/demo)")
    parser.add_argument("--out", default="runs/learning", help="what benchmarks.learning made (runs/learning)")
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[2, 5, 10, 30, 0], help="of labels; 0 = all (2 5 10 30 0)"
    )
    parser.add_argument("--language", nargs="+", default=[], help="train and decode these only (all six)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the learning proof's trials")
    parser.add_argument(
        "--baselines",
        nargs="*",
        default=[],
        metavar="LANGUAGE",
        help="languages to train other models for (none: DeepSpeech takes 13 s a step on one core)",
    )
    parser.add_argument("--steps", type=int, default=400, help="of each fine-tuning (400)")
    parser.add_argument("--until", default="", metavar="YYYY-MM-DDTHH:MM", help="begin nothing new from then on")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, "benchmarks.new_language"))
