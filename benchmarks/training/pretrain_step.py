"""One pretraining step (forward, backward, AdamW) in lalia, fairseq2 and transformers: time and peak memory.

    OMP_NUM_THREADS=1 python -m benchmarks.training.pretrain_step [--size "192 x 5" "256 x 6" base] [--precision fp32 bf16]

Time: all three in one process, alternating step by step, ``--rounds`` times. The others' times are divided by lalia's of the same
round, so that other load affects all equally; the table has medians and, in brackets, quartiles. Memory: a process for each, the
increase of resident memory over the state before the model was made, during the second step; glibc returns freed blocks
(benchmarks/training/memory.py).

The contenders are in pretrain_contenders.py; pretrain_profile.py shows where the time of lalia's step goes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.training.memory import GIVE_BACK, resident
from benchmarks.training.pretrain_contenders import CONTENDERS, SIZES, Contender

WARM_UP = 2
"""Steps before timing starts: the first compiles, and allocates AdamW's moments."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--size", nargs="+", default=["192 x 5", "256 x 6", "base"], choices=list(SIZES))
    arguments.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    arguments.add_argument("--rounds", type=int, default=9)
    arguments.add_argument("--only", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    arguments.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.child:
        print(json.dumps(peak(*given.child)))
        return
    print("| size | weights | precision | | ms per step | relative to lalia | peak, MB | lalia / other |")
    print("|---|---:|---|---|---:|---:|---:|---:|")
    for size in given.size:
        for precision in given.precision:
            seconds, weights = race(size, precision, given.only, given.rounds)
            memory = {name: measured(name, size, precision) for name in given.only}
            for name in given.only:
                ratios = [theirs / ours for theirs, ours in zip(seconds[name], seconds["ours"], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                spread = "" if name == "ours" else f"{middle:.2f} ({low:.2f}–{high:.2f})"
                share = "" if name == "ours" else f"{memory['ours'] / memory[name]:.2f}"
                print(
                    f"| {size} | {weights / 1e6:.1f} M | {precision} | {name} | "
                    f"{1000 * statistics.median(seconds[name]):.0f} | {spread} | {memory[name] / 1e6:.0f} | {share} |",
                    flush=True,
                )


def stepping(contender: Contender, precision: str) -> Callable[[], None]:
    """A function that takes one optimizer step of ``contender``."""
    optimizer = torch.optim.AdamW(contender.model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = contender.loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def race(size: str, precision: str, names: list[str], rounds: int) -> tuple[dict[str, list[float]], int]:
    """Seconds of each step of each contender, and their common number of weights."""
    contenders = {}
    for name in names:
        torch.manual_seed(0)
        contenders[name] = CONTENDERS[name](SIZES[size])
    weights = {sum(p.numel() for p in contender.model.parameters()) for contender in contenders.values()}
    if len(weights) != 1:
        raise SystemExit(f"{size}: the contenders differ in size: {sorted(weights)}")
    steps = {name: stepping(contender, precision) for name, contender in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(WARM_UP + rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            begun = time.perf_counter()
            steps[name]()
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - begun)
    return seconds, weights.pop()


def measured(name: str, size: str, precision: str) -> float:
    """Peak bytes of a step, measured in a separate process."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.training.pretrain_step",
        "--child",
        name,
        size,
        precision,
    ]
    done = subprocess.run(command, env=os.environ | GIVE_BACK, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def peak(name: str, size: str, precision: str) -> float:
    """The increase of this process's memory during a step; memory of libraries and compilers is excluded."""
    stepping(CONTENDERS[name](SIZES["warm-up"]), precision)()
    before = resident("VmRSS")
    step = stepping(CONTENDERS[name](SIZES[size]), precision)
    step()
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    step()
    return resident("VmHWM") - before


if __name__ == "__main__":
    main()
