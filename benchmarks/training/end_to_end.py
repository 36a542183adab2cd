"""A step of ``lalia pretrain fit`` beside the bare step: what loader, guard, logging and checkpoints cost.

    OMP_NUM_THREADS=1 python -m benchmarks.training.end_to_end CORPUS [--size "192 x 5" "256 x 6"] [--precision fp32 bf16]

The run is the program's own, on CORPUS, with the guard, metrics every 10 steps, checkpoints in the background and a thread that
decodes; its steps are timed from the end of one to the end of the next. The bare step is forward pass, backward pass and AdamW
on the same batches, which are already in memory, without a Trainer. Both are wall-clock time in one process, one after the
other. The table has medians, and the mean of the run's steps, which counts the rare ones that save.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks.training.pretrain_contenders import SIZES
from lalia.data.loader import Batch
from lalia.training import Callback, LightningModule
from lalia.training.settings import (
    BatchSettings,
    DataSettings,
    HardwareSettings,
    LogSettings,
    OptimSettings,
    ScheduleSettings,
)
from lalia.training.trainer import Run, adamw, parameter_groups
from pretrain import fit as fit_module
from pretrain.config import ObjectiveSettings, PretrainSettings
from pretrain.task import PretrainTask

WARM_UP = 10
"""Steps before timing starts."""


class StepClock(Callback):
    """The time at the end of each step, and the batches of the run."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.batches: list[Batch] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.batches.append(batch)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Of each step after the first ``WARM_UP``."""
        return [after - before for before, after in zip(self.ends[WARM_UP:], self.ends[WARM_UP + 1 :], strict=False)]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("corpus")
    arguments.add_argument("--size", nargs="+", default=["192 x 5", "256 x 6"], choices=list(SIZES))
    arguments.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    arguments.add_argument("--steps", type=int, default=60)
    given = arguments.parse_args()
    print("| size | precision | bare step, ms | step of a run, ms | ratio | mean of the run's steps, ms |")
    print("|---|---|---:|---:|---:|---:|")
    for size in given.size:
        for precision in given.precision:
            with tempfile.TemporaryDirectory() as folder:
                settings = settings_of(given.corpus, size, precision, given.steps)
                clock = timed_run(settings, Path(folder))
            bare = statistics.median(bare_steps(settings, clock.batches))
            whole = statistics.median(clock.seconds)
            mean = statistics.mean(clock.seconds)
            print(
                f"| {size} | {precision} | {1000 * bare:.0f} | {1000 * whole:.0f} | {whole / bare:.3f} | {1000 * mean:.0f} |",
                flush=True,
            )


def settings_of(corpus: str, size: str, precision: str, steps: int) -> PretrainSettings:
    """A run of ``size`` on ``corpus``: one micro-batch per step, as long as the size's batch."""
    shape = SIZES[size]
    audio_s = shape.clips * shape.clip_s
    return PretrainSettings(
        data=DataSettings(corpus=[corpus], max_s=shape.clip_s),
        batch=BatchSettings(hours=audio_s / 3600, micro_s=audio_s),
        optim=OptimSettings(lr=1e-4),
        schedule=ScheduleSettings(steps=steps),
        hardware=HardwareSettings(precision=precision),  # type: ignore[arg-type]
        log=LogSettings(valid_every=steps, checkpoint_every=20),
        model=shape.encoder,
        quantizer=shape.quantizer,
        objective=ObjectiveSettings(distractors=shape.distractors),
    )


def timed_run(settings: PretrainSettings, folder: Path) -> StepClock:
    """Run ``settings`` in ``folder`` as the program does."""
    clock, fit = StepClock(), fit_module.fit

    def with_clock(
        task: LightningModule, run: Run, train: Iterable[Any], valid: Iterable[Any], extra: list[Callback]
    ) -> None:
        fit(task, run, train, valid, [*extra, clock])

    fit_module.fit = with_clock
    try:
        fit_module.pretrain(settings, folder / "run")
    finally:
        fit_module.fit = fit
    return clock


def bare_steps(settings: PretrainSettings, batches: list[Batch]) -> list[float]:
    """Seconds of each step on ``batches`` without a Trainer, after ``WARM_UP`` untimed ones."""
    task = PretrainTask(settings).train()
    optimizer = adamw(parameter_groups(task, settings.optim.lr), settings)["optimizer"]
    task.log_dict = lambda *_: None  # type: ignore[method-assign]
    task.optimizers = lambda *_: optimizer  # type: ignore[method-assign]
    seconds = []
    for number, batch in enumerate(batches):
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.hardware.precision == "bf16"):
            loss = task.training_step(batch, number)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begun)
    return seconds[WARM_UP:]


if __name__ == "__main__":
    main()
