"""Trade-off of students of one teacher: size, speed and CER (a Pareto front).

    python -m benchmarks.runtime.student --teacher RECOGNISER --corpus CORPUS --language ita --out RUNS [--also NAME=RECOGNISER …]

Students with fewer blocks, with and without distillation, and pruned ones are exported in float and int8 by the public commands,
without quality checks, because this shows which limits are reasonable. ``RUNS`` has a folder for each run; the same command again
continues. The table is ``RUNS/front.md``, the picture ``RUNS/front.svg``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data.corpora import call_checked
from lalia.cards import read_card, write_text
from lalia.errors import UserError, run

CONFIGS = Path(__file__).parents[2] / "configs" / "distill"
PASS_ALL = ("--gate.float_ratio", "100", "--gate.teacher_ratio", "100", "--gate.speed", "0", "--quantize.rescue", "0")
GOAL_SIZE, GOAL_SPEED, GOAL_ERRORS = 4.0, 4.0, 1.10
INT8_BYTES, INT8_SPEED, INT8_ERRORS = 1 / 3, 1.5, 1.02


@dataclass(frozen=True)
class Point:
    """The measurements of a student or its teacher."""

    name: str
    kind: str
    """teacher, float or int8"""
    parameters: int
    bytes: int
    cer: float
    interval: tuple[float, float]
    speed: float
    """seconds of audio per second on one thread"""


def recipes(steps: int, layers: Sequence[int], targets: Sequence[float]) -> dict[str, list[str]]:
    """Name of each student → verb and flags that make it."""
    schedule = ["--schedule.minutes", "0", "--schedule.steps", str(steps)]
    fit = ["fit", "--config", str(CONFIGS / "nano.yaml"), *schedule]
    prune = ["prune", "--config", str(CONFIGS / "prune-nano.yaml"), *schedule]
    made = {f"{many} blocks, {steps} steps": [*fit, "--student.layers", str(many)] for many in layers}
    return made | {f"pruned to {share:g}, {steps} steps": [*prune, "--prune.target", str(share)] for share in targets}


def slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def drop_blocks(teacher: Path, layers: int, folder: Path) -> None:
    """The teacher with only ``layers`` of its blocks, without further training."""
    from distill.config import RegularSettings, StudentSettings
    from distill.student import make_student
    from lalia.models.recogniser import Recogniser

    if not (folder / "card.json").exists():
        small = make_student(Recogniser.load(teacher), StudentSettings(layers=layers), RegularSettings())
        small.save(folder, [read_card(teacher)])


def make_all(args: argparse.Namespace) -> dict[str, Path]:
    """Make every recogniser of the front; existing ones are kept."""
    data = ["--data.corpus", str(args.corpus), "--data.language", args.language, "--teacher", str(args.teacher)]
    made = {}
    for layers in args.dropped:
        made[f"{layers} blocks, not trained"] = args.out / f"{layers}-blocks-dropped" / "recogniser"
        drop_blocks(args.teacher, layers, args.out / f"{layers}-blocks-dropped" / "recogniser")
    for name, recipe in recipes(args.steps, args.layers, args.prune).items():
        folder = args.out / slug(name)
        threads = ["--hardware.threads", str(args.threads)]
        call_checked(["lalia", "distill", *recipe, *data, *threads, "--out", str(folder)])
        made[name] = folder / "recogniser"
    for also in args.also:
        name, _, folder = also.partition("=")
        if not folder:
            raise UserError(f"--also {also}: expected NAME=RECOGNISER")
        made[name] = Path(folder)
    return made


def measure(name: str, recogniser: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The card of the student that ``recogniser`` becomes."""
    student = args.out / "students" / slug(name)
    if not (student / "card.json").exists():
        call_checked([
            "lalia", "distill", "export", "--recogniser", str(recogniser), "--teacher", str(args.teacher),
            "--data.corpus", str(args.corpus), "--data.language", args.language, "--measure.sensitivity_s", "5",
            "--measure.timing_s", "30", "--measure.repeats", str(args.repeats), "--data.min_s", "0.3",
            *PASS_ALL, "--out", str(student),
        ])  # fmt: skip
    return read_card(student, "student")


def points_of(name: str, card: dict[str, Any]) -> list[Point]:
    sizes = {"float": card["bytes_float"], "int8": card["bytes"], "teacher": card["bytes_teacher"]}
    return [
        Point("teacher" if kind == "teacher" else name, kind, 0 if kind == "teacher" else card["parameters"], size,
              card["scores"][kind]["cer"], tuple(card["scores"][kind]["cer_interval"]), 1 / card["rtf"][kind]["1"])
        for kind, size in sizes.items()
    ]  # fmt: skip


def table(points: Sequence[Point]) -> str:
    """A table of every student compared with its teacher; reached goals are marked."""
    teacher = next(point for point in points if point.kind == "teacher")
    floats = {point.name: point for point in points if point.kind == "float"}
    lines = [
        "| | | parameters | MB | to the teacher's | CER (95 %) | to the teacher's | × real time | to the teacher's | "
        "to float's |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for point in points:
        low, high = point.interval
        parameters = f"{point.parameters / 1e6:.2f} M" if point.parameters else ""
        shares = (point.bytes / teacher.bytes, point.cer / teacher.cer, point.speed / teacher.speed)
        size, errors, speed = (
            ("", "", "")
            if point is teacher
            else (
                _marked(shares[0], shares[0] <= 1 / GOAL_SIZE),
                _marked(shares[1], shares[1] <= GOAL_ERRORS),
                _marked(shares[2], shares[2] >= GOAL_SPEED),
            )
        )
        row = [
            point.name, point.kind, parameters, f"{point.bytes / 1e6:.2f}", size,
            f"{point.cer:.3f} ({low:.3f} to {high:.3f})", errors, f"{point.speed:.0f}", speed,
        ]  # fmt: skip
        if point.kind == "int8":
            whole = floats[point.name]
            met = (
                point.bytes <= INT8_BYTES * whole.bytes,
                point.speed >= INT8_SPEED * whole.speed,
                point.cer <= INT8_ERRORS * whole.cer,
            )
            shares = (point.bytes / whole.bytes, point.speed / whole.speed, point.cer / whole.cer)
            names = ("bytes", "speed", "CER")
            row.append(", ".join(f"{n} {_marked(s, m)}" for n, s, m in zip(names, shares, met, strict=True)))
        else:
            row.append("")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _marked(ratio: float, met: bool) -> str:
    """``ratio``, bold if it reaches its goal."""
    return f"**{ratio:.2f}**" if met else f"{ratio:.2f}"


def draw(points: Sequence[Point], path: Path) -> None:
    """Speed against errors; the area of a dot is the size of the file, a line goes from float to int8."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    teacher = next(point for point in points if point.kind == "teacher")
    colours = {"teacher": "#6a665f", "float": "#2166b0", "int8": "#c4591b"}
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "front", "font.size": 9, "axes.spines.top": False,
             "axes.spines.right": False, "axes.edgecolor": "#d9d4c9", "text.color": "#1d1c1a", "axes.labelcolor": "#6a665f",
             "xtick.color": "#6a665f", "ytick.color": "#6a665f"}  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(8.2, 4.8), layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        axes.set(xscale="log", xlabel="× real time on one thread", ylabel="character error rate, %")
        fastest = max(point.speed for point in points)
        good = [100 * point.cer for point in points if point.cer <= 2 * teacher.cer]
        top = max(good) * 1.14
        left, right = teacher.speed / 1.5, fastest * 3.2
        bottom = min(good) * 0.86
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.fill_between(
            [GOAL_SPEED * teacher.speed, right], 0, 100 * GOAL_ERRORS * teacher.cer, color="#16826b", alpha=0.10, lw=0
        )
        goal = "at least 4 × the teacher's speed, \nat most 1.10 × its errors "
        axes.text(right, bottom, goal, ha="right", va="bottom", color="#16826b")
        floats = {point.name: point for point in points if point.kind == "float"}
        free, line = top, (top - bottom) * 0.038  # labels are stacked downwards
        for point in sorted(points, key=lambda point: -point.cer):
            x, y = point.speed, min(100 * point.cer, top * 0.985)
            axes.scatter(x, y, s=14 * point.bytes / 1e6 + 6, color=colours[point.kind], alpha=0.75, lw=0, zorder=3)
            if point.kind == "float":
                continue
            label = f"{point.name}, {point.bytes / 1e6:.1f} MB"
            if 100 * point.cer > top:
                label += f" ({100 * point.cer:.0f} %) ↑"
            if point.kind == "teacher":
                axes.text(x * 1.07, y, label, va="center", fontsize=8)
                continue
            free = min(y, free)
            rightmost = max(other.speed for other in points if abs(100 * other.cer - y) < line or other is point)
            axes.text(max(x, rightmost) * 1.05, free, label, va="center", fontsize=8)
            free -= line
            whole = floats[point.name]
            axes.plot([whole.speed, x], [min(100 * whole.cer, top * 0.985), y], color="#a39e94", lw=0.8, zorder=2)
        for kind, colour in colours.items():
            axes.scatter([], [], color=colour, label=kind, lw=0)
        ticks = [n * 10**e for e in range(1, 5) for n in (1, 2, 3, 5, 7) if left < n * 10**e < right]
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.legend(loc="upper left", frameon=False, title="area: bytes of the file")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None)


def bench(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="a recogniser folder")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--language", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000, help="steps of each training")
    parser.add_argument("--dropped", type=int, nargs="*", default=[4, 3, 2], help="blocks of untrained students")
    parser.add_argument("--layers", type=int, nargs="*", default=[4, 3, 2], help="blocks of distilled students")
    parser.add_argument(
        "--prune", type=float, nargs="*", default=[0.4], help="sizes of pruned students, as shares of the teacher"
    )
    parser.add_argument("--threads", type=int, default=0, help="threads of each training; 0 = torch's default")
    parser.add_argument("--repeats", type=int, default=5, help="number of runs per speed, which is their median")
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME=RECOGNISER", help="an additional existing recogniser"
    )
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    for name, recogniser in make_all(args).items():
        for point in points_of(name, measure(name, recogniser, args)):
            if point.kind != "teacher" or all(other.kind != "teacher" for other in points):
                points.append(point)
    points.sort(key=lambda point: point.kind != "teacher")
    found = table(points)
    write_text(args.out / "front.md", found)
    draw(points, args.out / "front.svg")
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(run(bench, "benchmarks.runtime.student"))
