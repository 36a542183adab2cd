"""Scaling from one to two ranks: audio per second of pretraining at the same batch.

    python -m benchmarks.training.ranks --corpus data/demo [--precision fp32 bf16] [--strategy ddp zero2] [--steps 40]

Every run is `lalia pretrain fit` with configs/pretrain/nano.yaml and a batch of two micro-batches: one rank accumulates them,
two ranks take one each. A rank has one thread. Runs with one and two ranks alternate, ``--rounds`` times; efficiency is the
audio per second of two ranks over twice that of one rank in the same round (median, lowest to highest). It measures the cost of
communication and sharding when each rank has a core and both share the memory bus; run it on an idle machine.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.data.corpora import resolved
from lalia.errors import UserError, run
from lalia.training.run_log import read_metrics

MICRO_S = 40.0
WARM_UP = 10
"""Steps before timing starts."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", default="data/demo")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--strategy", nargs="+", default=["ddp", "zero2"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    ask = parser.parse_args()
    print("| precision | strategy | one rank, s of audio per s | two ranks | efficiency |")
    print("|---|---|---:|---:|---:|")
    for precision in ask.precision:
        rates: dict[str, list[float]] = {name: [] for name in ("one", *ask.strategy)}
        for turn in range(ask.rounds):
            for name in rates if turn % 2 == 0 else reversed(rates):
                rates[name].append(audio_per_second(ask.corpus, precision, name, ask.steps))
        for strategy in ask.strategy:
            shares = [both / (2 * alone) for both, alone in zip(rates[strategy], rates["one"], strict=True)]
            one, two = statistics.median(rates["one"]), statistics.median(rates[strategy])
            spread = f"{statistics.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
            print(f"| {precision} | {strategy} | {one:.0f} | {two:.0f} | {spread} |", flush=True)
    return 0


def audio_per_second(corpus: str, precision: str, strategy: str, steps: int) -> float:
    """Median over the lines of metrics.jsonl after the first steps; ``strategy`` "one" is one rank."""
    ranks = ["--hardware.devices", "2", "--hardware.strategy", strategy] if strategy != "one" else []
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            "lalia", "pretrain", "fit", "--config", "configs/pretrain/nano.yaml", "--data.corpus", corpus,
            "--batch.micro_s", f"{MICRO_S:g}", "--batch.hours", f"{2 * MICRO_S / 3600:.6f}", "--schedule.steps", str(steps),
            "--schedule.minutes", "0", "--hardware.precision", precision, "--hardware.threads", "1", "--log.every", "5",
            "--log.valid_every", str(10 * steps), *ranks, "--out", f"{scratch}/run",
        ]  # fmt: skip
        done = subprocess.run(resolved(command), capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        lines = [line for line in read_metrics(Path(scratch) / "run") if line["step"] >= WARM_UP]
        return statistics.median(line["speed/audio_s_per_s"] for line in lines if "speed/audio_s_per_s" in line)


if __name__ == "__main__":
    sys.exit(run(main, "benchmarks.training.ranks"))
