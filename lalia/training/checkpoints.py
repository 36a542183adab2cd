"""Checkpoints of a run: when they are saved, how they survive a kill, how the newest readable one is found; early stopping."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback
from torch import nn

from lalia.data.loader import STOP_SIGNALS
from lalia.errors import UserError
from lalia.training.settings import LogSettings, ScheduleSettings

CHECKPOINTS, BEST = "checkpoints", "best.ckpt"
KEPT = 2


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint files written atomically (temporary file, fsync, rename) and read without unpickling code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


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
    """Saves ``checkpoints/stepNNNNNNNN.ckpt`` every ``log.checkpoint_every`` steps, at the end and on a signal; keeps the newest
    two, and ``best.ckpt`` (weights only) by ``monitor``.

    At a step with a validation it saves after the validation, so that a resumed run neither repeats nor misses it. Early
    stopping saves and ends the run. SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 end it after the current step; a second SIGINT at once.
    """

    def __init__(
        self,
        folder: Path,
        schedule: ScheduleSettings,
        log: LogSettings,
        accumulation: int,
        monitor: tuple[str, str] | None,
        early_stopping: EarlyStopping | None = None,
    ) -> None:
        self.folder = folder / CHECKPOINTS
        self.schedule, self.logs, self.accumulation = schedule, log, accumulation
        self.monitor = monitor
        self.early_stopping = early_stopping or EarlyStopping()
        self.best: float | None = None
        self.waited = 0
        """validations in a row without a better result"""
        self.ended = False
        """whether the run has stopped early"""
        self.asked: int | None = None
        self.done = -1
        self.stopping = False
        self._previous: dict[int, Any] = {}

    @property
    def valid_every(self) -> int:
        """Steps between two validations; at least one happens."""
        return min(self.logs.valid_every, self.schedule.steps)

    # -- stopping --

    def catch_signals(self) -> None:
        """Handle the stop signals until ``release_signals``; does nothing outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            for signum in STOP_SIGNALS:
                before = signal.signal(signum, self._on_signal)
                self._previous.setdefault(signum, before)

    def release_signals(self) -> None:
        """Restore the previous signal handlers."""
        for signum, before in self._previous.items():
            signal.signal(signum, before)
        self._previous.clear()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and self.asked == signal.SIGINT:
            raise Stopped(signum, None)
        self.asked = signum
        if signum == signal.SIGINT and os.environ.get("LOCAL_RANK", "0") == "0":
            print("\nfinishing this step, then saving; Ctrl-C again stops at once", file=sys.stderr, flush=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.catch_signals()  # Lightning has installed its own handlers since
        self.done = trainer.global_step
        if trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False):
            raise Stopped(self.asked or signal.SIGTERM, None)  # no step was done since the start

    # -- saving --

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step != self.done and step % self.valid_every:
            self._after_step(trainer, step)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        if trainer.sanity_checking or step == self.done:
            return
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
        self._after_step(trainer, step)
        trainer.should_stop = trainer.should_stop or self.ended

    def _after_step(self, trainer: Trainer, step: int) -> None:
        """Save what is due after ``step``; note whether any rank received a stop signal."""
        self.done = step
        stop = trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False)
        if stop or self.ended or step % self.logs.checkpoint_every == 0 or step >= self.schedule.steps:
            trainer.save_checkpoint(self.folder / f"step{step:08d}.ckpt")
            if trainer.is_global_zero:
                prune(self.folder)
        self.stopping = stop and step < self.schedule.steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.stopping:  # only here: Lightning has logged the step and the validation
            raise Stopped(self.asked or signal.SIGTERM, self.done)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "ended": self.ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
        self.waited = state_dict.get("waited", 0)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Set Lightning's counters to the checkpoint's step: with other ranks a step has another number of micro-batches."""
        step = int(checkpoint["global_step"])
        validated = step % self.valid_every == 0
        loops = checkpoint["loops"]["fit_loop"]
        # It counts one more when it skips the validation that was done before saving.
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = step - validated
        for counts in ("total", "current"):
            for name in loops["epoch_loop.batch_progress"][counts]:
                loops["epoch_loop.batch_progress"][counts][name] = step * self.accumulation


def prune(folder: Path) -> None:
    """Remove all but the newest checkpoints, and partial files of a killed run."""
    for path in steps_in(folder)[KEPT:]:
        path.unlink(missing_ok=True)
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def steps_in(folder: Path) -> list[Path]:
    """The step checkpoints in ``folder``, newest first."""
    found = [path for path in folder.glob("step*.ckpt") if path.stem[4:].isdigit()]
    return sorted(found, key=lambda path: int(path.stem[4:]), reverse=True)


def newest_checkpoint(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """(path, content) of the newest checkpoint of ``run`` that can be read; warns of a broken one and skips it."""
    paths = steps_in(run / CHECKPOINTS)
    for path in paths:
        try:
            return path, torch.load(path, map_location="cpu", weights_only=True, mmap=True)
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
    return bool(checkpoint.get("callbacks", {}).get(Checkpoints.__qualname__, {}).get("ended"))


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
