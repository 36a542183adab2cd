"""New-language benchmark: the gain from pretraining, an adapter and a language model for six languages with few labels.

    python -m benchmarks.training.new_language --speech FOLDER --prompts data/demo --out runs/learning

For each language and amount of labels: a recogniser from random weights, one from the shipped encoder and an
adapter on it, at equal steps, each with the rate that is best with ten minutes; splits and finished runs are those of
``benchmarks.training.learning`` in --out. Then, for the first two, a language model of the letters of the labels, tuned on
dev and compared with greedy decoding on test (``lalia finetune lm``; held-out sentences are not in it). --baselines trains
torchaudio's Wav2Letter and DeepSpeech and a Conformer from random weights.

The same command again continues; --until stops before the next run. The tables are docs/new-language.md, their plot
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

from benchmarks.training.learning import BASELINES, finetune, late, without_until
from benchmarks.training.learning_corpora import TARGETS, Target, call, prepare_all
from benchmarks.training.learning_report import SHIPPED, Cell, Trial, best_cells, collect, panels
from finetune.evaluate import DECODING
from finetune.presets import ADAPTER_SHARES
from lalia.cards import processor, write_text
from lalia.data.mixture import Mixture
from lalia.errors import run

PAGE, PLOT = Path("docs/new-language.md"), Path("docs/report/new-language.svg")
SEED = 1
RATES = {"random": (5e-4, 1e-3, 2e-3), SHIPPED: (4e-3,), "adapter": (8e-3,)} | dict.fromkeys(BASELINES, (5e-4, 2e-3))
"""The initial models, and the rates to try on ten minutes of labels; other amounts use the rate that was best there on dev."""
DECODED = ("random", SHIPPED)
"""The initial models that are also decoded with a language model."""
COLOURS = {"random": "#9a9a9a", SHIPPED: "#1d4e89"}
MAIN_MINUTES = 10.0
GOALS = (0.7, 1.1)
"""Maximum CER ratios: pretrained over random weights, and adapter over all weights."""
RECIPE = """\
## From ten minutes of labels and a read book

You have a few labelled clips (`clips.tsv`), and a book that somebody reads aloud, with its text: `book/1.mp3` and `book/1.txt`.

```sh
lalia prepare clips.tsv --root clips --language swh --out data/ten                # 1
lalia finetune grow --encoder nano-multilingual --data.corpus data/ten --data.language swh --grow.source book --out runs/grown # 2
lalia finetune lm runs/grown news.txt                                             # 3
lalia transcribe runs/grown talk.mp3 --lm runs/grown/lm
```

1. Ten minutes are enough for a recogniser that finds the words of the book, though not for one to read. Dev and test come from
   these clips; the book is only trained on.
2. Rounds of training and aligning; the terminal shows how many hours each round accepts, and the error rates. [How it
   works](alignment.md#the-loop-fit-align-fit-again).
3. The text of the book is a language model too: `lalia finetune lm runs/grown book/*.txt`.

To gain more, listen: open the last round's `aligned/doubtful.html` (its path is printed), decide, and download
`corrections.tsv`. Then `lalia align runs/grown/round-N/aligned --corrections corrections.tsv --out data/book`, and train on both
with `lalia finetune fit --data.corpus data/ten --data.corpus data/book`.
"""
"""Stands in the page behind the first table."""
_SEE_ALSO = "See also: [fine-tuning](finetuning.md), [results of pretraining](results.md), [decoding](decoding.md)."


@dataclass(frozen=True)
class Decoded:
    """Word error rates of one student on the test clips, each with its 95 % interval: (rate, low, high)."""

    greedy: tuple[float, float, float]
    model: tuple[float, float, float]


@dataclass(frozen=True)
class Row:
    """The results of one language with one amount of labels."""

    target: Target
    minutes: float
    """minutes of labels requested; 0 = all"""
    used_minutes: float
    """minutes of labels used"""
    cells: dict[str, Cell]
    """by initial model: random, SHIPPED, adapter and the baselines"""
    decoded: dict[str, Decoded]
    """by initial model"""

    @property
    def amount(self) -> str:
        return f"{self.minutes:g}" if self.minutes else f"all {self.used_minutes:.0f}"


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
                train_and_decode(target, minutes, corpus, out, arguments)
    found = [collect_row(target, minutes, out, arguments) for target in TARGETS for minutes in arguments.minutes]
    rows = sorted((row for row in found if row), key=lambda row: (TARGETS.index(row.target), row.used_minutes))
    draw(rows)
    write_text(
        PAGE,
        page(
            rows, shlex.join(["python", "-m", "benchmarks.training.new_language", *without_until(sys.argv)]), arguments
        ),
    )
    print(f"the tables and the plot: {PAGE}")
    return 0


def labelled(corpus: Path, target: Target) -> float:
    """Minutes of labelled training audio."""
    mixture = Mixture.load([str(corpus)])
    rows = mixture.select("train", [target.language], labelled=True)
    return float(mixture.durations_s[rows].sum()) / 60


def train_and_decode(target: Target, minutes: float, corpus: Path, out: Path, arguments: argparse.Namespace) -> None:
    """Train and decode what is missing for one language with one amount of labels."""
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
            if not (folder / DECODING).is_file():
                call(["lalia", "finetune", "lm", str(folder)])


def collect_row(target: Target, minutes: float, out: Path, arguments: argparse.Namespace) -> Row | None:
    """The results of one language with one amount of labels; None without a recogniser from pretrained weights."""
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
    """The finished trials of a language and amount of labels by initial model, each at its best rate."""
    trials = [Trial(target, start, minutes, rate, seed) for start, rates in RATES.items() for rate in rates
              for seed in arguments.seeds]  # fmt: skip
    return {start: cell for (_, _, start), cell in best_cells(collect(trials, out)).items()}


def read(folder: Path) -> Decoded | None:
    """The results of ``lalia finetune lm`` for the run in ``folder``."""
    if not (folder / DECODING).is_file():
        return None
    found = json.loads((folder / DECODING).read_text(encoding="utf-8"))["ways"]
    return Decoded(*((way["wer"], *way["wer_interval"]) for way in found))


def page(rows: list[Row], command: str, arguments: argparse.Namespace) -> str:
    lines = [
        "# New languages: what to expect from few labels",
        "",
        f"Error rates of recognisers for {len({row.target for row in rows})} languages, by minutes of labels. The commands are "
        "on the page about [fine-tuning](finetuning.md); these recognisers start from the pretrained encoder that ships with "
        "the project (`nano-multilingual`). WER is that of a beam search with letter 6-grams, with 95 % intervals.",
        "",
        *_summary(rows),
        "",
        f"![WER against minutes of labels]({PLOT.relative_to(PAGE.parent).as_posix()})",
        "",
        RECIPE,
        "## How it was measured",
        "",
        f"`{command}` · {datetime.date.today().isoformat()} · {processor()}",
        "",
        f"Every recogniser was trained for {arguments.steps} steps of 30 s. The test clips do not occur in any training. All "
        "rates are in percent.",
        "",
        "- *random*: random initial weights",
        f"- *pretrained*: all weights of `nano-multilingual`, which is the encoder *{SHIPPED}* of [the results of "
        "pretraining](results.md)",
        f"- *adapter*: the same encoder with an adapter of {100 * ADAPTER_SHARES[0]:g} % of its weights",
        "",
        f"At {MAIN_MINUTES:g} minutes the first two are means of {len(arguments.seeds)} seeds.",
        "",
        "## CER",
        "",
        "CER with greedy decoding. In brackets: the ratio of pretrained to random weights, and of the adapter to all weights.",
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
        *_reached(rows),
        "",
        "## WER with a language model",
        "",
        "WER of the student (first seed), with greedy decoding and with letter 6-grams (LM), with 95 % intervals over clips. The "
        "6-grams are counted from the texts of all training clips, also where fewer were used as labels.",
        "",
        "| language | minutes | random | random, LM | pretrained | pretrained, LM |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        rates = [_rates(row.decoded.get(start)) for start in DECODED]
        lines.append(f"| {row.target.name} | {row.amount} | {' | '.join(rates)} |")
    lines += ["", _lowered(rows), *_baselines(rows), "", _SEE_ALSO]
    return "\n".join(lines) + "\n"


def _summary(rows: list[Row]) -> list[str]:
    """A line for each language: pretrained weights with ten minutes of labels, and with all labels."""
    lines = [
        f"| language | CER, {MAIN_MINUTES:g} minutes | WER with LM, {MAIN_MINUTES:g} minutes | all labels | WER with LM, all "
        "labels |",
        "|---|---|---|---|---|",
    ]
    for target in dict.fromkeys(row.target for row in rows):
        found = {row.minutes: row for row in rows if row.target == target}
        few, most = found.get(MAIN_MINUTES), found.get(0.0)
        cer = _cell(few.cells.get(SHIPPED), None) if few else "–"
        rates = [_rates(row.decoded.get(SHIPPED) if row else None).rpartition(" | ")[2] for row in (few, most)]
        amount = f"{most.used_minutes:.0f} min" if most else "–"
        lines.append(f"| {target.name}: {target.source} | {cer} | {rates[0]} | {amount} | {rates[1]} |")
    return lines


def _reached(rows: list[Row]) -> list[str]:
    """The goals and where they are reached, in words."""
    lines = []
    for (start, base, what), goal in zip(
        ((SHIPPED, "random", "Pretrained weights make at most {} times the errors of random weights"),
         ("adapter", SHIPPED, "The adapter makes at most {} times the errors of all weights")),
        GOALS,
        strict=True,
    ):  # fmt: skip
        pairs = [(row, row.cells[start].cer / row.cells[base].cer) for row in rows if {start, base} <= row.cells.keys()]
        met = [f"{row.target.name} {row.amount}" for row, ratio in pairs if ratio <= goal]
        lines.append(
            f"- {what.format(f'{goal:g}')} in {len(met)} of {len(pairs)}" + (f" ({', '.join(met)})." if met else ".")
        )
    return lines


def _lowered(rows: list[Row]) -> str:
    """How often the language model helps, in words."""
    found = [decoded for row in rows for decoded in row.decoded.values()]
    lower = [decoded for decoded in found if decoded.model[0] < decoded.greedy[0]]
    apart = [decoded for decoded in lower if decoded.model[2] < decoded.greedy[1]]
    return (
        f"The language model lowers WER in {len(lower)} of {len(found)} recognisers. In {len(apart)} of them the intervals "
        "do not overlap."
    )


def _baselines(rows: list[Row]) -> list[str]:
    """Other models from scratch, if they were trained."""
    shown = [row for row in rows if any(kind in row.cells for kind in BASELINES)]
    if not shown:
        return []
    lines = [
        "",
        "## Other models from scratch",
        "",
        "CER with greedy decoding after as many steps on the same clips (`--model.kind`), each at its best learning rate on dev.",
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
    """Two cells: with greedy decoding, and with a language model."""
    if decoded is None:
        return "– | –"
    return " | ".join(
        f"{100 * rate:.1f} ({100 * low:.1f} to {100 * high:.1f})" for rate, low, high in (decoded.greedy, decoded.model)
    )


def draw(rows: list[Row]) -> None:
    """Plot WER against minutes of labels, a panel for each language: random and pretrained weights, without and with an LM."""
    targets = list(dict.fromkeys(row.target for row in rows))
    figure = panels(targets, "minutes of labels", "WER")
    for axes, target in zip(figure.axes, targets, strict=True):
        for start, colour in COLOURS.items():
            for way, line in (("greedy", "-"), ("model", "--")):
                found = [(row.used_minutes, *getattr(row.decoded[start], way)) for row in rows
                         if row.target == target and start in row.decoded]  # fmt: skip
                minutes, rates, lows, highs = zip(*found, strict=True) if found else ((), (), (), ())
                label = f"{'random' if start == 'random' else 'pretrained'}, {'greedy' if way == 'greedy' else 'LM'}"
                axes.plot(minutes, rates, line, marker="o", ms=4, color=colour, label=label)
                axes.fill_between(minutes, lows, highs, color=colour, alpha=0.12, lw=0)
        axes.set_xscale("log")
        ticks = sorted({row.minutes or round(row.used_minutes) for row in rows if row.target == target})
        ticks = [m for m, after in zip(ticks, [*ticks[1:], inf], strict=True) if after > 1.3 * m]  # without overlaps
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
        prog="python -m benchmarks.training.new_language",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--speech", required=True, help="folder of sets, each with a manifest.tsv")
    parser.add_argument("--prompts", default="data/demo", help="the demo's corpus (data/demo)")
    parser.add_argument("--out", default="runs/learning", help="folder of benchmarks.training.learning (runs/learning)")
    parser.add_argument(
        "--minutes", type=float, nargs="+", default=[2, 5, 10, 30, 0], help="minutes of labels; 0 = all (2 5 10 30 0)"
    )
    parser.add_argument("--language", nargs="+", default=[], help="train and decode only these (all six)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="seeds of benchmarks.training.learning")
    parser.add_argument(
        "--baselines",
        nargs="*",
        default=[],
        metavar="LANGUAGE",
        help="languages to train other models for (none: DeepSpeech takes 13 s a step on one core)",
    )
    parser.add_argument("--steps", type=int, default=400, help="steps of each fine-tuning (400)")
    parser.add_argument("--until", default="", metavar="YYYY-MM-DDTHH:MM", help="start no new run after this time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, "benchmarks.training.new_language"))
