"""The batch plan on an index as large as XLS-R's: start-up, memory and the time of one micro-batch.

    OMP_NUM_THREADS=1 python benchmarks/plan.py                    # 160 million clips, 436,000 hours; 1 GB of disk for a while

The index is made up: lengths from a gamma distribution (9.8 s on average), 128 languages whose hours fall like 1 / rank, in
runs of 1,000 clips as shards have them. It is memory-mapped, as a corpus of that size would be.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np

from lalia.data.plan import BatchPlan, padding

HOURS_EACH = 436_000 / 160e6
LANGUAGES = 128
RUN = 1_000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--clips", type=int, default=160_000_000)
    arguments.add_argument("--micro-batches", type=int, default=10_000)
    arguments.add_argument("--micro-batch-s", type=float, default=240.0)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        durations_s, groups = make_index(Path(folder), given.clips)
        print_table(measure(durations_s, groups, given.micro_batch_s, given.micro_batches), given)


def make_index(folder: Path, clips: int) -> tuple[np.ndarray, np.ndarray]:
    """Durations (N,) float32 and language codes (N,) uint8 of ``clips`` made-up clips, memory-mapped."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, LANGUAGES + 1)
    mean_s = HOURS_EACH * 3600
    for begin in range(0, clips, RUN * 4000):
        count = min(RUN * 4000, clips - begin)
        seconds = np.clip(rng.standard_gamma(4, count, np.float32) * np.float32(mean_s / 4), 0.5, 60)
        language = rng.choice(LANGUAGES, -(-count // RUN), p=share / share.sum()).astype(np.uint8)
        with (folder / "durations").open("ab") as file:
            seconds.tofile(file)
        with (folder / "languages").open("ab") as file:
            np.repeat(language, RUN)[:count].tofile(file)
    return (
        np.memmap(folder / "durations", np.float32, mode="r"),
        np.memmap(folder / "languages", np.uint8, mode="r"),
    )


def measure(durations_s: np.ndarray, groups: np.ndarray, micro_batch_s: float, count: int) -> dict[str, str]:
    """What the table tells, by row."""
    clips = len(durations_s)
    before = resident()
    started = time.perf_counter()
    plan = BatchPlan(durations_s=durations_s, groups=groups, seed=1, micro_batch_s=micro_batch_s, alpha=0.5)
    start_up_s = time.perf_counter() - started
    built = resident()
    far = [plan.micro_batch(number) for number in range(10**6, 10**6 + 100)]
    warm = resident()
    started = time.perf_counter()
    for number in range(count):
        plan.micro_batch(number)
    each_s = (time.perf_counter() - started) / count
    after = resident()
    mebibyte = 2**20
    return {
        "clips": f"{clips:,}",
        "hours": f"{plan.hours:,.0f} (clips cropped at 20 s)",
        "languages": f"{int(groups.max()) + 1}",
        "start-up": f"{start_up_s:.1f} s",
        "RAM of the plan, bytes per clip": f"{(built['RssAnon'] - before['RssAnon']) / clips:.2f}",
        "most RAM while it starts, bytes per clip": f"{peak_anonymous(before) / clips:.2f}",
        f"RAM after 100 and after {count:,} micro-batches": " and ".join(
            f"{rss['RssAnon'] / mebibyte:,.1f} MiB" for rss in (warm, after)
        ),
        "time of one micro-batch": f"{each_s * 1e3:.2f} ms for {far[0].audio_s:.0f} s of audio",
        "micro-batches of a pass": f"{plan.epoch_micro_batches:,}",
        "padding": f"{100 * padding(far).waste:.1f} %",
    }


def resident() -> dict[str, int]:
    """Bytes of this process in RAM: RssAnon its own, RssFile mapped files (droppable), VmHWM the most of both."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    pairs = (line.split(":") for line in lines if line.startswith(("RssAnon", "RssFile", "VmHWM")))
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def peak_anonymous(before: dict[str, int]) -> int:
    """The most bytes of RAM since ``before``, mapped files left out as far as the kernel tells (it does not tell the peak alone)."""
    now = resident()
    return max(now["RssAnon"], now["VmHWM"] - now["RssFile"]) - before["RssAnon"]


def print_table(rows: dict[str, str], given: argparse.Namespace) -> None:
    cpus = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    print(f"`python benchmarks/plan.py --clips {given.clips}`, {date.today()}, {cpus[0]}, {os.cpu_count()} cores,")
    print(f"one thread, Python {platform.python_version()}, NumPy {np.__version__}:\n")
    print("| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
