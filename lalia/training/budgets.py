"""Budgets: how many optimizer steps ``schedule.minutes`` hold, by a clock that other work on the same cores does not move.

A step is timed before the run begins, forward and backward, and once more over the run's first steps, with the optimizer and
whatever else they take; where those are slower or faster, the steps are planned once more. ``RUN/config.yaml`` holds what was
planned, so that a run that is continued keeps it.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from lalia import config
from lalia.training.ranks import from_leader
from lalia.training.settings import ScheduleSettings

FEWEST = 20
STRETCH = 10.0
"""A stage's least steps may take so many times the minutes; where they would take longer, the run is told to be too short."""
WARM, TIMED = 3, 10
"""First steps of a run that are not timed, and those behind them that are."""
APART = 1.2
"""Planned anew where a step takes so many times as long, or as short."""


@dataclass(frozen=True)
class Least:
    """The fewest steps of a stage that mean anything, and why."""

    steps: int
    why: str


def seconds_of(device: torch.device) -> float:
    """A clock of what training on ``device`` takes of it.

    On a CPU the processor time of the thread that leads the training: it has its share in all that others compute for it, and
    time in which another program has its core does not count. A GPU is nobody else's, and there the time that passes counts.
    """
    if device.type == "cpu":
        return time.thread_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(micro_step: Callable[[], None], warm: int = 2, times: int = 6, most_s: float = 60.0) -> float:
    """Seconds of ``micro_step`` on the CPU, run ``times`` times behind ``warm`` others; where it takes long, fewer times."""
    device, seconds = torch.device("cpu"), []
    begun = seconds_of(device)
    for _ in range(warm + times):
        before = seconds_of(device)
        micro_step()
        seconds.append(seconds_of(device) - before)
        if seconds_of(device) - begun > most_s:
            break
    counted = seconds[min(warm, len(seconds) - 1) :]
    return sum(counted) / len(counted)


@dataclass
class Budget:
    """The minutes of a run and what they are solved into: ``settings.schedule.steps``, kept in the file ``path``."""

    settings: Any
    path: Path
    least: Least
    step_s: float = math.nan
    """what a step was planned to take; not a number in a run that is continued"""

    @property
    def schedule(self) -> ScheduleSettings:
        schedule: ScheduleSettings = self.settings.schedule
        return schedule

    def plan(self, step_s: float, tell: bool) -> int:
        """The steps that the minutes hold at ``step_s`` seconds each, not fewer than the stage needs; ``tell`` says so."""
        minutes, least = self.schedule.minutes, self.least
        self.step_s = step_s
        held = max(1, int(minutes * 60 / step_s))
        if held >= least.steps:
            return held
        took = f"schedule.minutes {minutes:g} holds {held} steps of {step_s:.3g} s, and {least.why}"
        if least.steps > STRETCH * held:
            steps = max(FEWEST, held)
            advice = f"only {steps} steps are done: give it more minutes, a smaller batch or a smaller model"
        else:
            steps = least.steps
            advice = f"{steps} are done, about {steps * step_s / 60:.2g} minutes"
        if tell:
            print(f"note: {took}; {advice}", file=sys.stderr)
        return steps

    def keep(self, steps: int) -> None:
        """Take ``steps`` and keep them with the run's settings."""
        self.schedule.steps = steps
        config.dump(self.settings, self.path)


class PlanOnceMore(Callback):
    """Times the first steps of a run, also of one that was stopped in them; where they take another time than was planned, the
    budget is solved once more.

    Every rank takes what the leading one found. What depends on the number of steps reads it from the schedule.
    """

    def __init__(self, budget: Budget, title: str, first_step: int) -> None:
        self.budget, self.title, self.first_step = budget, title, first_step
        self.planned = budget.schedule.steps
        self._begun: float | None = None
        self._outside = 0.0
        self._left: float | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._left = seconds_of(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._left is not None:
            self._outside += seconds_of(pl_module.device) - self._left

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step == self.first_step + WARM and self._begun is None:
            self._begun, self._outside = seconds_of(pl_module.device), 0.0
        elif step == self.first_step + WARM + TIMED and self._begun is not None:
            step_s = (seconds_of(pl_module.device) - self._begun - self._outside) / TIMED
            self._begun = None
            self._replan(trainer, float(from_leader(torch.tensor([step_s], device=pl_module.device))))

    def _replan(self, trainer: Trainer, step_s: float) -> None:
        schedule, hoped_s = self.budget.schedule, self.budget.step_s
        steps = max(self.budget.plan(step_s, tell=False), trainer.global_step + 1)
        if 1 / APART <= steps / self.planned <= APART:
            return
        schedule.steps = trainer.fit_loop.epoch_loop.max_steps = steps
        looks = trainer.val_check_batch
        assert isinstance(looks, int)
        trainer.val_check_batch = min(looks, steps * trainer.accumulate_grad_batches)
        if trainer.is_global_zero:
            self.budget.keep(steps)
            was = f", not {hoped_s:.3g} s" if math.isfinite(hoped_s) else ""
            print(
                f"{self.title}: a step takes {step_s:.3g} s{was}: {steps} steps, not {self.planned}, in "
                f"schedule.minutes {schedule.minutes:g}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
