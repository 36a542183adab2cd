"""The batch plan for an index as large as XLS-R's: start-up time, memory, and time per micro-batch.

    OMP_NUM_THREADS=1 python -m benchmarks.data.plan    # 160 million clips, 436,000 hours; needs 1 GB of disk while it runs

The index is synthetic: lengths from a gamma distribution (mean 9.8 s), 128 languages with hours proportional to 1 / rank, in runs
of 1,000 clips as in shards. It is memory-mapped, as the index of such a corpus would be.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np

from lalia.cards import processor
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
    """Durations (N,) float32 and language codes (N,) uint8 of ``clips`` synthetic clips, memory-mapped."""
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
    """The rows of the table: name → value."""
    clips = len(durations_s)
    before, memory = Memory.now(), Memory()
    started, cpu = time.perf_counter(), time.process_time()
    plan = BatchPlan(durations_s=durations_s, groups=groups, seed=1, micro_batch_s=micro_batch_s, alpha=0.5)
    start_up_s, start_up_cpu_s = time.perf_counter() - started, time.process_time() - cpu
    built = memory.now()
    memory.stop()
    far = [plan.micro_batch(number) for number in range(10**6, 10**6 + 100)]
    warm = memory.now()
    cpu = time.process_time()
    for number in range(count):
        plan.micro_batch(number)
    each_s = (time.process_time() - cpu) / count
    after = memory.now()
    mebibyte = 2**20
    return {
        "clips": f"{clips:,}",
        "hours": f"{plan.hours:,.0f} (clips cropped at 20 s)",
        "languages": f"{int(groups.max()) + 1}",
        "start-up": f"{start_up_s:.1f} s wall time, {start_up_cpu_s:.1f} s processor time",
        "RAM of the plan, bytes per clip": f"{(built - before) / clips:.2f}",
        "peak RAM at start-up, bytes per clip": f"{(memory.most - before) / clips:.2f}",
        f"RAM after 100 and after {count:,} micro-batches": " and ".join(
            f"{ram / mebibyte:,.1f} MiB" for ram in (warm, after)
        ),
        "processor time of one micro-batch": f"{each_s * 1e3:.2f} ms for {far[0].audio_s:.0f} s of audio",
        "micro-batches per epoch": f"{plan.epoch_micro_batches:,}",
        "padding": f"{100 * padding(far).waste:.1f} %",
    }


class Memory:
    """Private RAM of this process in bytes (RssAnon, without mapped files), sampled every 20 ms for the peak."""

    def __init__(self) -> None:
        self.most = self.now()
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    @staticmethod
    def now() -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.most = max(self.most, self.now())


def print_table(rows: dict[str, str], given: argparse.Namespace) -> None:
    print(
        f"`python -m benchmarks.data.plan --clips {given.clips}`, {date.today()}, {processor()}, {os.cpu_count()} cores,"
    )
    print(f"one thread, Python {platform.python_version()}, NumPy {np.__version__}:\n")
    print("| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()
