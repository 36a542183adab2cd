"""Pretraining benchmark: does contrastive pretraining improve fine-tuning with few labels, on two cores.

  python -m benchmarks.training.learning --speech FOLDER --prompts data/demo --out runs/learning

Encoders are pretrained on all audio except the test clips, including that of the target languages without its labels: "first"
in one round (targets: clusters of cepstra), "second" from there in another (clusters of the first round's block 4), "third" in
one more (of the second's), "fourth" in a short one at other speeds, "fifth" in one that also has the corpora of --more;
"unheard" is a first round without audio of the target languages, "wave" one of the same duration on the raw wave. Each, and the
same shape from random weights ("random"), is fine-tuned on 2, 10 and 30 minutes of six languages at the same steps ("patient":
random weights for three times the steps). For each initial model, language and amount of labels, the rate with the lowest dev CER
with the first seed is chosen; only that rate gets more seeds. The blank alarm is off, because it would help some runs only.

The same command again continues; --until stops before the next run; commands with different --language may run in parallel.
Finished runs are in the table and the plots: docs/results.md, docs/report/learning.svg, docs/report/hours.svg.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.training.learning_corpora import TARGETS, Target, call, prepare_all
from benchmarks.training.learning_report import ROUNDS, SHIPPED, Trial, best_cells, collect, write_results
from finetune.presets import ADAPTER_SHARES
from lalia.data.mixture import Mixture
from lalia.errors import UserError, run

STARTS = ("random", "patient", *ROUNDS)
BASELINES = ("conformer", "wav2letter", "deepspeech")
AT_OTHER_SPEEDS = ("--augment.speed", "1", "--augment.speed_factors", "[0.8,1.2]")


@dataclass(frozen=True)
class Round:
    """A round of pretraining."""

    share: float
    """share of --pretrain-minutes"""
    config: str = "nano-second"
    flags: tuple[str, ...] = ()
    """flags in addition to the config"""
    uses_more: bool = False
    """also use the corpora of --more"""
    uses_targets: bool = True


MADE = {
    "unheard": Round(1 / 3, "nano", uses_targets=False),
    "wave": Round(1 / 3, "nano-wave"),
    "first": Round(1 / 3, "nano"),
    "second": Round(2 / 3),
    "third": Round(1.0),
    "fourth": Round(1 / 3, flags=AT_OTHER_SPEEDS),
    "fifth": Round(2 / 3, flags=AT_OTHER_SPEEDS, uses_more=True),
}
CONFIGS = Path("configs")
LANGUAGES = {target.language for target in TARGETS}


@dataclass(frozen=True)
class Grid:
    """The grid of runs."""

    minutes: tuple[float, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    starts: tuple[str, ...]
    targets: tuple[Target, ...]
    steps: int

    def trials(self) -> Iterator[Trial]:
        """All trials: ten minutes first, all with one seed and rate before the next, so that a stopped grid is a smaller one."""
        for minutes in sorted(self.minutes, key=lambda m: abs(m - 10)):
            for seed in self.seeds:
                for rate in self.rates:
                    for target in self.targets:
                        for start in self.starts:
                            yield Trial(target, start, minutes, rate, seed)


def main() -> int:
    arguments = parse()
    out, until = Path(arguments.out), arguments.until
    if unknown := set(arguments.language) - LANGUAGES:
        raise UserError(f"--language {', '.join(sorted(unknown))}: expected some of {', '.join(sorted(LANGUAGES))}")
    grid = Grid(
        tuple(arguments.minutes), tuple(arguments.rates), tuple(arguments.seeds), tuple(arguments.starts),
        tuple(t for t in TARGETS if not arguments.language or t.language in arguments.language), arguments.steps,
    )  # fmt: skip
    corpora = prepare_all(Path(arguments.speech), out)
    corpora["prompts"] = Path(arguments.prompts)
    for name in dict.fromkeys(name for start in grid.starts for name in ROUNDS.get(start, ())):
        if not late(until):
            more = [Path(corpus) for corpus in arguments.more] if MADE[name].uses_more else []
            pretrain(name, [*corpora.values(), *more], out, arguments.pretrain_minutes)
    for trial in grid.trials():
        if late(until):
            break
        if trial.seed != grid.seeds[0] and not chosen(trial, grid, out):
            continue
        finetune(trial, corpora[trial.target.speech or "prompts"], out, grid.steps)
    command = shlex.join(["python", "-m", "benchmarks.training.learning", *without_until(sys.argv)])
    page = write_results(list(grid.trials()), out, command, grid.steps)
    print(f"the table and the plot: {page}")
    return 0


def chosen(trial: Trial, grid: Grid, out: Path) -> bool:
    """Whether this rate has the lowest dev CER of the grid with the first seed."""
    firsts = [replace(trial, rate=rate, seed=grid.seeds[0]) for rate in grid.rates]
    cell = best_cells(collect(firsts, out)).get((trial.target.language, trial.minutes, trial.start))
    return cell is not None and cell.rate == trial.rate


def pretrain(start: str, corpora: list[Path], out: Path, minutes: float) -> None:
    """Pretrain ``OUT/START/encoder``; a later round starts with the weights and clusters of the one before."""
    made = MADE[start]
    folders = [str(corpus) for corpus in corpora]
    names = Mixture.load(folders).language_names
    languages = [] if made.uses_targets else [name for name in names if name not in LANGUAGES]
    before = [str(out / name / "encoder") for name in ROUNDS[start][-2:-1]]
    call([
        "lalia", "pretrain", "fit", "--config", str(CONFIGS / f"pretrain/{made.config}.yaml"),
        "--schedule.minutes", f"{minutes * made.share:g}", "--out", str(out / start),
        *(word for encoder in before for word in ("--encoder", encoder, "--quantizer.teacher", encoder)),
        *(word for folder in folders for word in ("--data.corpus", folder)),
        *(word for name in languages for word in ("--data.language", name)),
        *made.flags,
    ])  # fmt: skip


def finetune(trial: Trial, corpus: Path, out: Path, steps: int) -> None:
    """Train one recogniser, unless it exists. Random weights have the shape and the feature statistics of the first round's
    encoder; the start "adapter" is an adapter on the shipped encoder, a start of BASELINES another model."""
    if trial.finished(out):
        return
    fresh = trial.start in ("random", "patient")
    encoder = out / ("first" if fresh else SHIPPED if trial.start == "adapter" else trial.start) / "encoder"
    begin = ["--encoder", str(encoder), "--start", "random" if fresh else "pretrained"]
    if trial.start == "patient":
        steps *= 3
    elif trial.start == "adapter":
        begin += ["--mode", "adapter", "--adapter.share", str(ADAPTER_SHARES[0])]
    elif trial.start in BASELINES:
        begin = ["--model.kind", trial.start]
    call([
        "lalia", "finetune", "fit", "--config", str(CONFIGS / "finetune/nano.yaml"), "--data.corpus", str(corpus),
        "--data.language", trial.target.language, "--labels.minutes", f"{trial.minutes:g}", *begin,
        "--optim.lr", f"{trial.rate:g}", "--alarm.enabled", "false",
        "--schedule.steps", str(steps), "--seed", str(trial.seed), "--out", str(trial.folder(out)),
    ])  # fmt: skip


def late(until: str) -> bool:
    return bool(until) and datetime.datetime.now().isoformat(timespec="minutes") >= until


def without_until(argv: list[str]) -> list[str]:
    """The arguments in ``argv`` without --until, for the page, which states the command that made it."""
    return [word for word, before in zip(argv[1:], argv, strict=False) if "--until" not in (word, before)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training.learning",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--speech", required=True, help="folder of sets, each with a manifest.tsv")
    parser.add_argument("--prompts", default="data/demo", help="the demo's corpus (data/demo)")
    parser.add_argument("--out", default="runs/learning", help="folder of corpora and runs (runs/learning)")
    parser.add_argument(
        "--more", nargs="+", default=[], metavar="CORPUS", help="prepared corpora that the fifth round also uses"
    )
    parser.add_argument(
        "--pretrain-minutes",
        type=float,
        default=120,
        help="minutes of the first two rounds together; the third takes as long, and so do the fourth and fifth together (120)",
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 10, 30], help="minutes of labels (2 10 30)")
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3, 4e-3, 8e-3], help="learning rates")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="seeds of fine-tuning (1 2)")
    parser.add_argument(
        "--starts", nargs="+", choices=STARTS, default=list(STARTS), help="initial models to compare (all)"
    )
    parser.add_argument("--language", nargs="+", default=[], help="target languages (all six)")
    parser.add_argument("--steps", type=int, default=400, help="steps of each fine-tuning (400)")
    parser.add_argument("--until", default="", metavar="YYYY-MM-DDTHH:MM", help="start no new run after this time")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, "benchmarks.training.learning"))
