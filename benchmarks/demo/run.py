"""The demo: from real speech in five languages to an Italian recogniser that runs on a laptop.

It runs the public commands one after another and writes a report:

  python -m benchmarks.demo.run --quick      at most 20 minutes on two cores
  python -m benchmarks.demo.run --full       about two hours, the figures that README quotes

The same command again continues: every stage skips finished work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.data.corpora import resolved
from benchmarks.demo.figures import DEMO, Part, dev_cer, parts_of
from finetune.evaluate import DECODING, LM
from lalia.audio.encoding import flac_bytes
from lalia.cards import NAME as CARD
from lalia.cards import read_card, write_json
from lalia.data.corpus import Corpus
from lalia.errors import GateRefused, UserError, run
from lalia.units import clock

STARTS = ("pretrained", "random")
CLIPS = 10


@dataclass(frozen=True)
class Budget:
    """The length of each stage, and the learning rates of fine-tuning: the same for both initial weights, each uses its best."""

    pretrain_min: float
    """minutes on this machine"""
    finetune_steps: int
    """steps of each fine-tuning run"""
    rates: tuple[float, ...]
    """learning rates of fine-tuning; the best is chosen on the dev split"""
    distill_min: float
    """minutes on this machine"""
    labels_min: float = 10.0
    """minutes of labelled Italian"""


BUDGETS = {
    "quick": Budget(pretrain_min=6, finetune_steps=300, rates=(2e-3,), distill_min=2),
    "full": Budget(pretrain_min=50, finetune_steps=400, rates=(1e-3, 2e-3, 4e-3), distill_min=10),
}


@dataclass(frozen=True)
class Demo:
    """The folders of the demo, and the commands that make them."""

    budget: Budget
    out: Path
    corpus: Path

    @property
    def pretrain(self) -> Path:
        return self.out / "pretrain"

    def arm(self, start: str, rate: float) -> Path:
        """The fine-tuning run from ``start`` weights at ``rate``."""
        return self.out / f"finetune-{start}-{rate:g}"

    @property
    def distill(self) -> Path:
        return self.out / "distill"

    @property
    def student(self) -> Path:
        return self.out / "student"

    @property
    def decoding(self) -> Path:
        """The folder with the student's tuned language model and its scores."""
        return self.out / "decoding"

    @property
    def lm(self) -> Path:
        return self.decoding / LM

    @property
    def clips(self) -> Path:
        return self.out / "clips"

    def prepare_command(self) -> list[str]:
        return ["lalia", "prepare", "demo", "--out", str(self.corpus)]

    def pretrain_command(self) -> list[str]:
        return [
            "lalia", "pretrain", "fit", "--config", "configs/pretrain/nano.yaml", "--data.corpus", str(self.corpus),
            "--schedule.minutes", f"{self.budget.pretrain_min:g}", "--out", str(self.pretrain),
        ]  # fmt: skip

    def finetune_command(self, start: str, rate: float) -> list[str]:
        return [
            "lalia", "finetune", "fit", "--config", "configs/finetune/nano.yaml", "--data.corpus", str(self.corpus),
            "--data.language", "ita", "--labels.minutes", f"{self.budget.labels_min:g}",
            "--encoder", str(self.pretrain / "encoder"), *([] if start == "pretrained" else ["--start", start]),
            "--optim.lr", f"{rate:g}", "--schedule.steps", str(self.budget.finetune_steps), "--out", str(self.arm(start, rate)),
        ]  # fmt: skip

    def distill_command(self, teacher: Path) -> list[str]:
        return [
            "lalia", "distill", "fit", "--config", "configs/distill/nano.yaml", "--data.corpus", str(self.corpus),
            "--data.language", "ita", "--teacher", str(teacher), "--schedule.minutes", f"{self.budget.distill_min:g}",
            "--out", str(self.distill),
        ]  # fmt: skip

    def export_command(self, teacher: Path) -> list[str]:
        return [
            "lalia", "distill", "export", "--recogniser", str(self.distill / "recogniser"), "--teacher", str(teacher),
            "--data.corpus", str(self.corpus), "--data.language", "ita", "--out", str(self.student),
        ]  # fmt: skip

    def open_export_command(self, teacher: Path) -> list[str]:
        """The export command without a budget."""
        gate = ("float_ratio", "100"), ("teacher_ratio", "100"), ("speed", "0")
        return self.export_command(teacher) + [word for name, limit in gate for word in (f"--gate.{name}", limit)]

    def lm_command(self) -> list[str]:
        return [
            "lalia", "finetune", "lm", str(self.student), "--corpus", str(self.corpus), "--language", "ita",
            "--out", str(self.decoding),
        ]  # fmt: skip

    def transcribe_command(self) -> list[str]:
        return ["lalia", "transcribe", str(self.student), str(self.clips), "--lm", str(self.lm)]

    def best_arm(self, start: str) -> Path:
        """The fine-tuning run from ``start`` weights with the lowest CER on the dev split; test is not used."""
        return min((self.arm(start, rate) for rate in self.budget.rates), key=dev_cer)


class Record:
    """``OUT/demo.json``: the mode of this demo, and its commands with the total time of each over all attempts."""

    def __init__(self, out: Path, mode: str) -> None:
        self.path = out / DEMO
        self.mode = mode
        self.parts = {part.name: part for part in parts_of(out)}

    def add(self, name: str, command: str, seconds: float, done: bool, note: str = "") -> None:
        """Record a finished command; a command that was already done is not counted again."""
        known = self.parts.get(name)
        if known is None or not known.done:
            before = known.seconds if known else 0.0
            self.parts[name] = Part(name, command, round(before + seconds, 1), done, note)
        write_json(self.path, {"mode": self.mode, "parts": [vars(part) for part in self.parts.values()]})


def run_demo(demo: Demo, mode: str) -> None:
    """Run every stage, then write the report; ``StageFailed`` if one fails."""
    from benchmarks.demo.report import print_table, write_report

    record = Record(demo.out, mode)
    _call("prepare", demo.prepare_command(), record)
    _call("pretrain", demo.pretrain_command(), record)
    for start in STARTS:
        for rate in demo.budget.rates:
            _call(demo.arm(start, rate).name, demo.finetune_command(start, rate), record)
    teacher = demo.best_arm("pretrained") / "recogniser"
    _call("distill", demo.distill_command(teacher), record)
    _export(demo, teacher, record)
    if lm_is_current(demo):
        print(f"\n{demo.lm}: is finished and tuned")
    else:
        shutil.rmtree(demo.decoding, ignore_errors=True)
        _call("lm", demo.lm_command(), record)
    write_clips(Corpus.load(demo.corpus), demo.clips)
    _call("transcribe", demo.transcribe_command(), record)
    report = write_report(demo)
    print_table(demo)
    total = sum(part.seconds for part in record.parts.values())
    print(f"\n{clock(total)} in all. The report: {report}")


def _export(demo: Demo, teacher: Path, record: Record) -> None:
    """Export the student; if a quality check fails, export again without checks, so that the report can show the difference."""
    if student_is_current(demo):
        print(f"\n{demo.student}: is exported")
        return
    try:
        _call("export", demo.export_command(teacher), record)
    except StageFailed as failed:
        if failed.status != GateRefused.status:
            raise
        refused = demo.student.with_name(demo.student.name + ".refused.json")
        summary = json.loads(refused.read_text(encoding="utf-8"))["summary"]
        print(
            "a quality check failed; the demo exports this student without checks, and the report will show it",
            file=sys.stderr,
        )
        _call("export without checks", demo.open_export_command(teacher), record, f"Quality check failed: {summary}")


def student_is_current(demo: Demo) -> bool:
    """Whether the student exists and was made from the current distilled recogniser."""
    if not (demo.student / CARD).is_file():
        return False
    parents = read_card(demo.student, "student")["parents"]
    return read_card(demo.distill / "recogniser")["id"] in {parent["id"] for parent in parents}


def lm_is_current(demo: Demo) -> bool:
    """Whether the language model was made and tuned for the current student."""
    table, student = demo.decoding / DECODING, demo.student / CARD
    return table.is_file() and student.is_file() and table.stat().st_mtime > student.stat().st_mtime


def write_clips(corpus: Corpus, folder: Path, language: str = "ita") -> list[int]:
    """Write ten test clips of a few seconds as FLAC files to ``folder``; returns their rows.

    Chosen by a hash of their names, so that they are not hand-picked; no model was trained on them.
    """
    rows = chosen_clips(corpus, language)
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        path = folder / f"{corpus.id(row).rpartition('/')[2]}.flac"
        if not path.exists():
            path.write_bytes(flac_bytes(corpus.wave(row)))
    return rows


def chosen_clips(corpus: Corpus, language: str = "ita") -> list[int]:
    """The rows of the ten clips; the longer half of the test split if too few last 2 to 8 seconds."""
    rows = corpus.select("test", language, with_text=True)
    lengths = corpus.durations_s[rows]
    fit = rows[(lengths >= 2) & (lengths <= 8)]
    if len(fit) < CLIPS:
        fit = rows[np.argsort(-lengths)][: max(CLIPS, len(rows) // 2)]
    return sorted(fit.tolist(), key=lambda row: hashlib.sha256(corpus.id(row).encode()).digest())[:CLIPS]


def _call(name: str, command: Sequence[str], record: Record, note: str = "") -> None:
    print(f"\n$ {shlex.join(command)}", flush=True)
    begun = time.monotonic()
    with subprocess.Popen(resolved(command), env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it was interrupted too, and is saving its work
            record.add(name, shlex.join(command), time.monotonic() - begun, False)
            raise
    record.add(name, shlex.join(command), time.monotonic() - begun, status == 0, note)
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise StageFailed(name, status)


class StageFailed(UserError):
    """A command failed; it has printed the reason."""

    def __init__(self, name: str, status: int) -> None:
        super().__init__(f"{name} failed with status {status}; fix the error above and run the same command again")
        self.status = status if status > 0 else 1


def claim(out: Path, mode: str) -> None:
    """Make ``out`` the folder of this mode: a demo of the other mode is renamed, and an earlier one of this mode renamed back.

    So ``make demo`` and ``make demo-full`` both write to runs/demo, and neither loses finished work.
    """
    kept = out / DEMO
    found = json.loads(kept.read_text(encoding="utf-8"))["mode"] if kept.is_file() else mode
    if found != mode:
        other_out = out.with_name(f"{out.name}-{found}")
        if other_out.exists():
            raise UserError(f"{out} and {other_out} both contain the {found} demo; delete one of them")
        out.rename(other_out)
        print(f"the {found} demo in {out} was renamed to {other_out}", file=sys.stderr)
    before = out.with_name(f"{out.name}-{mode}")
    if before.exists() and not out.exists():
        before.rename(out)
        print(f"continuing the {mode} demo from {before}", file=sys.stderr)
    out.mkdir(parents=True, exist_ok=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo.run", description="Run the whole chain on real speech."
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "--quick", dest="mode", action="store_const", const="quick", help="at most 20 minutes on two cores"
    )
    size.add_argument("--full", dest="mode", action="store_const", const="full", help="about two hours")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of its runs and report")
    parser.add_argument("--corpus", type=Path, default=Path("data/demo"), help="folder of the corpus")
    args = parser.parse_args(argv)

    def start() -> None:
        claim(args.out, args.mode)
        run_demo(Demo(BUDGETS[args.mode], args.out, args.corpus), args.mode)

    return run(start, "demo")


if __name__ == "__main__":
    sys.exit(main())
