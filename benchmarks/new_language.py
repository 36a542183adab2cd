"""A new language in an afternoon: what pretraining, an adapter and a language model bring to six languages with few labels.

    python -m benchmarks.new_language --speech FOLDER --prompts data/demo --out runs/learning

Begins with what ``benchmarks.learning`` has finished in --out (same splits, steps and rates). To the best pretrained
recogniser of each language and amount of labels it adds, through the public commands: an adapter on the same encoder, the
int8 student (``distill export``), a language model of the letters of the training clips' texts (``lalia lm``; held-out
sentences are not in it), tuned on dev (``lalia tune``) and judged on test (``lalia evaluate``). What is there already is not
made again; languages without a finished pretrained recogniser are left out. The table is docs/new-language.md, its plot
docs/report/new-language.svg.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.learning import finetune, late, without_until
from benchmarks.learning_corpora import TARGETS, Target, call, prepare_all
from benchmarks.learning_report import SHIPPED, Cell, Cells, Trial, best_cells, collect
from lalia.cards import write_text
from lalia.exits import run
from lalia.machine import processor

PAGE, PLOT = Path("docs/new-language.md"), Path("docs/report/new-language.svg")
SEED = 1


@dataclass(frozen=True)
class Decoded:
    """Error rates of one student on the test clips, each with its 95 % interval: (rate, low, high)."""

    cer: tuple[float, float, float]
    wer: tuple[float, float, float]


@dataclass(frozen=True)
class Row:
    """What became of one language at one amount of labels."""

    target: Target
    minutes: float
    random: Cell | None
    pretrained: Cell
    adapter: Cell | None
    greedy: Decoded
    model: Decoded


def main() -> int:
    arguments = parse()
    out = Path(arguments.out)
    corpora = prepare_all(Path(arguments.speech), out)
    corpora[""] = Path(arguments.prompts)
    rows = []
    for minutes in arguments.minutes:
        for target in TARGETS:
            if late(arguments.until):
                break
            row = afternoon(target, minutes, corpora[target.speech], out, arguments)
            rows += [row] if row else []
    command = shlex.join(["python", "-m", "benchmarks.new_language", *without_until(sys.argv)])
    draw(rows)
    write_text(PAGE, page(rows, command, arguments.steps))
    print(f"the table and the plot: {PAGE}")
    return 0


def afternoon(target: Target, minutes: float, corpus: Path, out: Path, arguments: argparse.Namespace) -> Row | None:
    """One language from its pretrained recogniser to its language model; None where there is no such recogniser."""
    cells = known(target, minutes, out, arguments)
    pretrained = cells.get((target.language, minutes, SHIPPED))
    if pretrained is None:
        return None
    for rate in arguments.adapter_rates:
        finetune(Trial(target, "adapter", minutes, rate, SEED), corpus, out, arguments.steps)
    adapter = known(target, minutes, out, arguments).get((target.language, minutes, "adapter"))
    best = Trial(target, SHIPPED, minutes, pretrained.rate, SEED).folder(out)
    greedy, model = decode(best, target, corpus)
    return Row(target, minutes, cells.get((target.language, minutes, "random")), pretrained, adapter, greedy, model)


def known(target: Target, minutes: float, out: Path, arguments: argparse.Namespace) -> Cells:
    """The finished trials of a language and amount of labels, at each start's best rate."""
    trials = [Trial(target, start, minutes, rate, seed) for start in ("random", SHIPPED) for rate in arguments.rates
              for seed in arguments.seeds]  # fmt: skip
    adapters = [Trial(target, "adapter", minutes, rate, SEED) for rate in arguments.adapter_rates]
    return best_cells(collect(trials + adapters, out))


def decode(folder: Path, target: Target, corpus: Path) -> tuple[Decoded, Decoded]:
    """The student of the recogniser in ``folder``: by best path, and with a language model of its training texts."""
    student, model = folder / "student", folder / "lm"
    speaks = ["--language", target.language]
    if not (student / "card.json").is_file():
        call([
            "python", "-m", "distill", "export", "--recogniser", str(folder / "recogniser"), "--data.corpus", str(corpus),
            "--data.language", target.language, "--measure.sensitivity_s", "20", "--measure.timing_s", "20",
            "--out", str(student),
        ])  # fmt: skip
    if not (folder / "with-lm.json").is_file():
        call(["lalia", "lm", str(corpus), *speaks, "--like", str(student), "--out", str(model)])
        call(["lalia", "tune", str(student), str(corpus), *speaks, "--lm", str(model)])
        test = ["lalia", "evaluate", str(student), str(corpus), *speaks, "--threads", "1", "--json"]
        call([*test, str(folder / "greedy.json")])
        call([*test, str(folder / "with-lm.json"), "--lm", str(model)])
    return read(folder / "greedy.json"), read(folder / "with-lm.json")


def read(path: Path) -> Decoded:
    scores = json.loads(path.read_text(encoding="utf-8"))["scores"]["all"]
    return Decoded((scores["cer"], *scores["cer_interval"]), (scores["wer"], *scores["wer_interval"]))


def page(rows: list[Row], command: str, steps: int) -> str:
    lines = [
        "# A new language in an afternoon",
        "",
        f"`{command}` · {datetime.date.today().isoformat()} · {processor()}",
        "",
        "Error rates on test clips that no training heard, in percent. *random*, *pretrained*, *adapter*: CER by best path of "
        f"the recogniser after {steps} steps of 30 s, mean of the seeds, the last two from the learning proof's *{SHIPPED}* "
        "encoder; in brackets the ratio to random weights, of the adapter to all weights. *greedy*, *with LM*: WER of the int8 "
        "student by best path, and with 6-grams of letters of the training clips' texts (all of them, however few were heard), "
        "with 95 % intervals over clips.",
        "",
        f"![WER by best path and with a language model]({PLOT.relative_to(PAGE.parent).as_posix()})",
        "",
        "| language | minutes | random | pretrained | adapter | WER greedy | WER with LM | CER greedy | CER with LM |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [_cell(row.random, None), _cell(row.pretrained, row.random), _cell(row.adapter, row.pretrained)]
        rates = [
            _rate(row.greedy.wer),
            _rate(row.model.wer),
            f"{100 * row.greedy.cer[0]:.1f}",
            f"{100 * row.model.cer[0]:.1f}",
        ]
        lines.append(f"| {row.target.name} | {row.minutes:g} | {' | '.join(cells + rates)} |")
    return "\n".join(lines) + "\n"


def _cell(cell: Cell | None, base: Cell | None) -> str:
    if cell is None:
        return "–"
    return f"{100 * cell.cer:.1f}" + (f" ({cell.cer / base.cer:.2f})" if base else "")


def _rate(rate: tuple[float, float, float]) -> str:
    return f"{100 * rate[0]:.1f} ({100 * rate[1]:.1f} to {100 * rate[2]:.1f})"


def draw(rows: list[Row]) -> None:
    """Two bars for each language: WER by best path and with a language model."""
    figure = Figure(figsize=(9.0, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for shift, name, colour in ((-0.2, "greedy", "#9a9a9a"), (0.2, "with LM", "#2a6fbb")):
        found = [row.greedy.wer if name == "greedy" else row.model.wer for row in rows]
        errors = [[wer - low for wer, low, _ in found], [high - wer for wer, _, high in found]]
        places = [place + shift for place in range(len(rows))]
        axes.bar(places, [wer for wer, _, _ in found], 0.36, yerr=errors, color=colour, ecolor="#555555", label=name)
    axes.set_xticks(range(len(rows)), [f"{row.target.name}\n{row.minutes:g} min" for row in rows], fontsize=8)
    axes.set_ylabel("WER on test")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
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
    parser.add_argument("--minutes", type=float, nargs="+", default=[10], help="of labels (10)")
    parser.add_argument("--rates", type=float, nargs="+", default=[2e-3, 4e-3], help="of the learning proof's trials")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the learning proof's trials")
    parser.add_argument("--adapter-rates", type=float, nargs="+", default=[2e-3, 4e-3], help="of adapters")
    parser.add_argument("--steps", type=int, default=400, help="of each fine-tuning (400)")
    parser.add_argument("--until", default="", metavar="YYYY-MM-DDTHH:MM", help="begin nothing new from then on")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, "benchmarks.new_language"))
