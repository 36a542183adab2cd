"""Checkpoints of a run: when they are saved, which were healthy, how the newest readable one is found; early stopping."""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

from lalia.errors import UserError
from lalia.signals import Phase, stops
from lalia.training.checkpoint_files import CheckpointFiles, read_checkpoint, step_path, steps_in
from lalia.training.distributed import all_reduce_min, broadcast
from lalia.training.settings import LogSettings, ScheduleSettings

CHECKPOINTS, BEST = "checkpoints", "best.ckpt"
HEALTHY = 2
"""Newest healthy checkpoints that stay for rollbacks."""
TIMED_STEPS = 3
PROMPT_S = 5.0
"""Micro-batches of a step that take longer than this together have a check for stop signals between them."""


@dataclass(frozen=True)
class EarlyStopping:
    """When a run ends before its last step."""

    validations: int = 0
    """validations in a row without a better result; 0 = never stop early"""
    first_step: Callable[[], int] = int
    """validations up to this step do not count; a function, since the number of steps may change"""


class Stopped(BaseException):
    """The run received the signal ``signum`` and is saved at ``step`` (None = nothing new is saved).

    Not an Exception, so that no ``except Exception`` catches it; not a KeyboardInterrupt, for which Lightning exits itself.
    """

    def __init__(self, signum: int, step: int | None) -> None:
        super().__init__(f"{signal.Signals(signum).name} at step {step}")
        self.signum, self.step = signum, step


class Checkpoints(Callback):
    """Saves ``checkpoints/stepNNNNNNNN.ckpt`` every ``log.checkpoint_minutes`` by rank 0's clock or every
    ``log.checkpoint_every`` steps, at the end and on a signal; keeps the newest two, and ``best.ckpt`` (weights only) by
    ``monitor``. With ``rollback`` it saves step 0 as well and keeps the newest two that were saved while the run was ``healthy``.

    At a step with a validation it saves after the validation, so that a resumed run neither repeats nor misses it. Early
    stopping saves and ends the run.

    A stop signal (``lalia.signals``) on any rank ends the run after the current step, within a step of many micro-batches after
    the current micro-batch (the step is repeated), within a validation after the current batch (the validation is repeated).
    """

    def __init__(
        self,
        folder: Path,
        schedule: ScheduleSettings,
        log: LogSettings,
        accumulation: int,
        monitor: tuple[str, str] | None,
        early_stopping: EarlyStopping | None = None,
        files: CheckpointFiles | None = None,
        rollback: bool = False,
        score_start: bool = False,
    ) -> None:
        self.folder = folder / CHECKPOINTS
        self.schedule, self.logs, self.accumulation = schedule, log, accumulation
        self.monitor = monitor
        self.early_stopping = early_stopping or EarlyStopping()
        self.files = files or CheckpointFiles()
        self.rollback = rollback
        self.healthy = False
        """whether the run is healthy at this step; a guard says so"""
        self.healthy_steps: list[int] = []
        """of the checkpoints that the run can be rolled back to, oldest first"""
        self.best: float | None = None
        self.waited = 0
        """validations in a row without a better result"""
        self.ended = False
        """whether the run has stopped early"""
        self.score_start = score_start
        """validate before the first step, as the first best result"""
        self.due = False
        """whether the validation of the checkpoint's step was interrupted, so that it must be repeated"""
        self.done = self.saved = -1
        self.wrote = False
        self.stopping = False
        self._check_every = 1
        self._micro_batches = self._timed_steps = self._common = 0
        self._begun = 0.0
        self._saved_at = 0.0
        self._first = True

    @property
    def valid_every(self) -> int:
        """Steps between two validations; at least one happens."""
        return min(self.logs.valid_every, self.schedule.steps)

    # -- stopping --

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stops.install()  # Lightning has installed its own handlers since
        self._check_ranks(trainer, pl_module)
        self.done = self.saved = trainer.global_step
        if self._stop_requested(trainer):
            raise Stopped(stops.asked or signal.SIGTERM, None)  # no step was done since the start
        stops.enter(Phase.TRAINING)
        self._begun = self._saved_at = time.monotonic()
        if self.rollback and trainer.global_step == 0:
            self._save(trainer, 0, healthy=True)
        if self.score_start and trainer.global_step == 0:
            self.due = True
            validate_now(trainer)

    def _check_ranks(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise ``UserError`` if the ranks have continued from different checkpoints."""
        step = trainer.global_step
        first, last = all_reduce_min(torch.tensor([step, -step], device=pl_module.device)).tolist()
        if first != -last:
            if not trainer.is_global_zero:
                raise SystemExit(UserError.status)  # rank 0 prints the reason
            raise UserError(
                f"{self.folder}: the ranks see different checkpoints, of steps {first} and {-last}; do all nodes share --out?"
            )

    def _stop_requested(self, trainer: Trainer) -> bool:
        """Whether any rank received a stop signal; every rank must call this at the same point."""
        return self._any(trainer, stops.asked is not None)[0]

    def _stop(self, trainer: Trainer, step: int) -> None:
        """End the run, saved at ``step``."""
        if step > self.saved:
            self._save(trainer, step, self.healthy)
        self.written(trainer)
        raise Stopped(stops.asked or signal.SIGTERM, step if self.wrote else None)

    # -- saving --

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        self._micro_batches += 1
        if step == self.done:  # within a step
            if self._micro_batches % self._check_every == 0 and self._stop_requested(trainer):
                self._stop(trainer, step)
            return
        self._micro_batches = 0
        self._time_step(trainer, pl_module)
        if step % self.valid_every:
            self._after_step(trainer, step)

    def _time_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set how many micro-batches apart the checks within a step are, from the first steps; the same on every rank."""
        now = time.monotonic()
        if self._timed_steps < TIMED_STEPS:
            self._timed_steps += 1
            micro_s = (now - self._begun) / self.accumulation
            if trainer.world_size > 1:
                micro_s = float(broadcast(torch.tensor([micro_s], device=pl_module.device)))
                self._check_every = max(1, round(PROMPT_S / max(micro_s, 1e-6)))
        self._begun = now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # One rank may have one batch more than another: they check together as long as all of them have one.
        batches = sum(trainer.num_val_batches)
        self._common = int(all_reduce_min(torch.tensor([batches], device=pl_module.device)))

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if batch_idx < self._common and self._stop_requested(trainer):
            self.due = True
            self._stop(trainer, trainer.global_step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if trainer.sanity_checking or (step == self.done and not self.due):
            return
        repeated, self.due = self.due, False
        if self.monitor is not None:
            metric, mode = self.monitor
            value = float(trainer.callback_metrics[metric])
            if (
                self.best is None
                or math.isnan(self.best)
                or (value < self.best if mode == "min" else value > self.best)
            ):
                self.best = value
                self.waited = 0
                trainer.save_checkpoint(self.folder / BEST, weights_only=True)
            elif step > self.early_stopping.first_step():
                self.waited += 1
                self.ended = 0 < self.early_stopping.validations <= self.waited
        self._after_step(trainer, step, repeated)
        self._begun = time.monotonic()
        trainer.should_stop = trainer.should_stop or self.ended or step >= self.schedule.steps

    def _after_step(self, trainer: Trainer, step: int, repeated: bool = False) -> None:
        """Save what is due after ``step``, or after a ``repeated`` validation; note whether any rank received a stop signal."""
        self.done = step
        if self._first and step:  # now the step's memory has been at its peak
            self._first = False
            if trainer.is_global_zero:
                self.files.reserve(trainer.lightning_module)
        stop, due, failed = self._any(trainer, stops.asked is not None, self._due(trainer, step), self._failed)
        if failed:
            self._fail()
        ends = stop or self.ended or step >= self.schedule.steps
        if step and (due or ends or repeated):
            self._save(trainer, step, self.healthy, last=step >= self.schedule.steps)
        if ends:
            self.written(trainer)
        self.stopping = stop and step < self.schedule.steps

    def _due(self, trainer: Trainer, step: int) -> bool:
        if self.logs.checkpoint_every:
            return step % self.logs.checkpoint_every == 0
        return trainer.is_global_zero and time.monotonic() - self._saved_at >= 60 * self.logs.checkpoint_minutes

    def _save(self, trainer: Trainer, step: int, healthy: bool, last: bool = False) -> None:
        if self.rollback and healthy:
            self.healthy_steps = [*(s for s in self.healthy_steps if s < step), step][-HEALTHY:]
        self.files.keep = () if last else tuple(self.healthy_steps)
        trainer.save_checkpoint(step_path(self.folder, step))
        self.saved, self.wrote, self._saved_at = step, step > 0, time.monotonic()

    @property
    def _failed(self) -> bool:
        return self.files.failure is not None

    def _any(self, trainer: Trainer, *here: bool) -> list[bool]:
        """Which of the values ``here`` are true on any rank."""
        if trainer.world_size == 1:
            return list(here)
        values = torch.tensor([float(value) for value in here], device=trainer.strategy.root_device)
        return [bool(value) for value in trainer.strategy.reduce(values, reduce_op="max").tolist()]

    def _fail(self) -> None:
        if self.files.failure is None:
            raise SystemExit(UserError.status)  # rank 0 prints the reason
        raise self.files.failure

    def written(self, trainer: Trainer) -> None:
        """Return when the checkpoints saved so far are on disk; every rank calls it. Ends the run if they cannot be written."""
        self.files.wait()
        if self._any(trainer, self._failed)[0]:
            self._fail()

    def read_healthy(self, trainer: Trainer, older: bool) -> tuple[int, dict[str, Any]]:
        """(step, content mapped from the file) of the newest healthy checkpoint, or with ``older`` of the one before; every rank
        reads it."""
        self.written(trainer)
        kept = self._on_disk(self.healthy_steps)  # a full disk may have cost the older one
        step = (kept or self.healthy_steps)[0 if older else -1]
        path = step_path(self.folder, step)
        try:
            return step, read_checkpoint(path)
        except Exception as error:  # whatever torch says of a file cut short
            reason = str(error).splitlines()[0][:100]
            raise UserError(f"{path}: the run cannot be rolled back to it, it cannot be read ({reason})") from error

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.stopping:  # only here: Lightning has logged the step and the validation
            self._stop(trainer, self.done)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best, "waited": self.waited, "ended": self.ended, "healthy": list(self.healthy_steps), "due": self.due
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        self.waited = state_dict.get("waited", 0)
        self.due = state_dict.get("due", False)
        self.healthy_steps = self._on_disk(state_dict.get("healthy", ()))

    def _on_disk(self, steps: Iterable[int]) -> list[int]:
        """Those of ``steps`` whose checkpoints are there."""
        return [step for step in steps if step_path(self.folder, step).is_file()]

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Set Lightning's counters to the checkpoint's step: with other ranks a step has another number of micro-batches."""
        step = int(checkpoint["global_step"])
        validated = step > 0 and step % self.valid_every == 0
        loops = checkpoint["loops"]["fit_loop"]
        # What Lightning takes for a validation that was interrupted at its first batch, or for none.
        progress, due = loops["epoch_loop.val_loop.batch_progress"], validation_is_due(checkpoint)
        for name in ("ready", "started", "processed", "completed"):
            progress["total"][name] = int(due and name in ("ready", "started"))
            progress["current"][name] = 0
        # It counts one more when it skips the validation that was done before saving.
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step - validated
        for counts in ("total", "current"):
            for name in loops["epoch_loop.batch_progress"][counts]:
                loops["epoch_loop.batch_progress"][counts][name] = step * self.accumulation


def validate_now(trainer: Trainer) -> None:
    """Run a validation now, as Lightning's training loop does (``_TrainingEpochLoop.on_advance_end``)."""
    first = trainer._logger_connector._first_loop_iter
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    trainer._logger_connector._first_loop_iter = first


def newest_checkpoint(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """(path, content) of the newest checkpoint of ``run`` that can be read; warns of a broken one and skips it."""
    paths = steps_in(run / CHECKPOINTS)
    for path in paths:
        try:
            return path, read_checkpoint(path)
        except Exception as error:  # whatever torch says of a file cut short
            reason = str(error).splitlines()[0][:100]
            then = "continuing from the previous one" if path != paths[-1] else "no other is left, the run starts anew"
            warnings.warn(f"{path}: cannot be read ({reason}); {then}", stacklevel=1)  # shown once per process
    return None


def first_step(run: Path) -> int:
    """The number of steps done in ``run``'s newest readable checkpoint; 0 for a new run."""
    found = newest_checkpoint(run)
    return 0 if found is None else int(found[1]["global_step"])


def ended_early(checkpoint: dict[str, Any]) -> bool:
    """Whether the run stopped early at ``checkpoint``."""
    return _state(checkpoint, "ended")


def validation_is_due(checkpoint: dict[str, Any]) -> bool:
    """Whether the validation at ``checkpoint``'s step was interrupted."""
    return _state(checkpoint, "due")


def _state(checkpoint: dict[str, Any], name: str) -> bool:
    return bool(checkpoint.get("callbacks", {}).get(Checkpoints.__qualname__, {}).get(name))


def best_weights(run: Path) -> tuple[dict[str, torch.Tensor], int]:
    """(state dict, step) of the best checkpoint by validation; the newest if none was compared."""
    path = run / CHECKPOINTS / BEST
    if path.exists():
        found = torch.load(path, map_location="cpu", weights_only=True)
    else:
        newest = newest_checkpoint(run)
        if newest is None:
            raise UserError(f"{run / CHECKPOINTS}: no checkpoint that can be read")
        found = newest[1]
    return found["state_dict"], int(found["global_step"])


def check_fits(path: Path, weights: dict[str, torch.Tensor], module: nn.Module) -> None:
    """Raise ``UserError`` that names the tensors in which the checkpoint ``path`` and ``module`` differ."""
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    shared = [name for name in expected if name in found]
    differ = [f"{name} {found[name]} for {expected[name]}" for name in shared if found[name] != expected[name]]
    differ += [f"no {name}" for name in expected if name not in found]
    differ += [f"unknown {name}" for name in found if name not in expected]
    if differ:
        more = f" and {len(differ) - 4} more" if len(differ) > 4 else ""
        raise UserError(
            f"{path}: holds another architecture ({'; '.join(differ[:4])}{more}); give the settings of the run, or "
            "another --out for a new run"
        )
