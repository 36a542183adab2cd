"""The blank alarm: detects a fine-tuning run that outputs only blanks, and restarts it at a lower learning rate.

CTC outputs only blanks at first; a healthy run leaves this state within a few dozen steps. A run that stays in it, or falls
back, either has too high a learning rate or labels that do not belong to the audio. The alarm restores good weights, lowers
the learning rate, and freezes the encoder while the head learns (a run from random weights is not frozen). After
``alarm.tries`` restarts it stops the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.config import AlarmSettings
from finetune.task import FinetuneTask
from lalia.models.recogniser import Recogniser
from lalia.training import Callback, Trainer, interventions
from lalia.training.checkpoints import BEST, CHECKPOINTS, Checkpoints
from lalia.training.distributed import stop_all
from lalia.training.run_log import InterventionLog
from lalia.training.zero import DeepSpeedZero

EVERY = 10
"""Steps between two checks."""
MEMORY = 0.4
"""Weight of the old average at each check: about twenty steps count."""
TEXT_CER = 0.7
"""A run has learned to output text once its held-out CER was below this; random text stays above."""
PROGRESS = 0.01
"""The loss still improves if it has fallen by this share within half the grace period."""


class BlankAlarm(Callback):
    """Checks ``task.output_counts`` every ten steps, restarts or stops the run, and writes ``RUN/alarm.jsonl``.

    ``make_initial`` makes the recogniser as it was before the first step.
    """

    def __init__(self, settings: AlarmSettings, folder: Path, make_initial: Callable[[], Recogniser]) -> None:
        self.settings, self.folder, self.make_initial = settings, folder, make_initial
        self.record = InterventionLog(folder, "alarm")
        self.acted, self.frozen_until, self.rate_factor = 0, 0, 1.0
        self.spoke = False
        self.figures: list[float] | None = None
        """smoothed numbers of output tokens and reference tokens, and loss"""
        self.lowest, self.lowest_at = float("inf"), 0
        self.since = 0
        """the step from which the grace period is counted after a restart"""
        self._sums: Tensor | None = None
        self._within: Tensor | None = None
        """of the micro-batches of a step that is not complete"""
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: FinetuneTask) -> None:  # type: ignore[override]
        pl_module.frozen_until = self.frozen_until
        if self.acted:
            self._pause_early_stopping(trainer, pl_module)
        self._step = trainer.global_step
        if trainer.is_global_zero:
            self.record.forget_from(trainer.global_step + 1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: FinetuneTask, *args: Any) -> None:  # type: ignore[override]
        assert pl_module.output_counts is not None
        counts = pl_module.output_counts
        self._within = counts if self._within is None else self._within + counts
        step = trainer.global_step
        if step == self._step:
            return  # in the middle of a batch: if the run is stopped here, the step is repeated
        self._sums = self._within if self._sums is None else self._sums + self._within
        self._within, self._step = None, step
        if step % EVERY:
            return  # not yet due
        sums = trainer.strategy.reduce(self._sums, reduce_op="sum") if trainer.world_size > 1 else self._sums
        self._sums = None
        found = sums.tolist()
        self.figures = found if self.figures is None else [
            MEMORY * old + (1 - MEMORY) * new for old, new in zip(self.figures, found, strict=True)
        ]  # fmt: skip
        reason = self._check(step, pl_module)
        if reason:
            self._act(trainer, pl_module, step, reason)

    def on_validation_end(self, trainer: Trainer, pl_module: FinetuneTask) -> None:  # type: ignore[override]
        if not trainer.global_step:
            return  # the recogniser that training begins with
        self.spoke = self.spoke or float(trainer.callback_metrics["valid/cer"]) < TEXT_CER

    def _check(self, step: int, task: FinetuneTask) -> str:
        """Why the output counts as blank, for messages; empty if it does not."""
        assert self.figures is not None
        output, letters, loss = self.figures
        share, loss = output / max(1.0, letters), loss / max(1.0, letters)
        if loss < self.lowest * (1 - PROGRESS):
            self.lowest, self.lowest_at = loss, step
        if share >= self.settings.silent or step < self.frozen_until:
            return ""
        begun = max(self.since, task.frozen_steps)
        grace = task.grace_end(begun) - begun
        reason = f"the output has {share:.1%} of the reference's number of tokens, the rest is blank"
        if self.spoke:
            return f"{reason}, after better output before"
        if step - begun > grace and step - self.lowest_at > grace / 2:
            return (
                f"{reason}, and the loss has not improved for {step - self.lowest_at} steps ({loss:.2f} nats per token)"
            )
        return ""

    def _act(self, trainer: Trainer, task: FinetuneTask, step: int, reason: str) -> None:
        self.acted += 1
        if self.acted > self.settings.tries:
            self._write(
                trainer, step, "stop", f"{reason}; {self.settings.tries} restarts did not help, so the run is stopped"
            )
            stop_all(
                f"step {step}: {reason}. {self.settings.tries} restarts at lower rates did not help. Do the labels "
                "belong to the audio, and has each clip more frames than letters (lalia finetune check)? If so, start "
                f"again with a third of --optim.lr ({task.settings.optim.lr:g}) or a longer --freeze.encoder_share"
            )
        restored = self._roll_back(trainer, task)
        self.rate_factor *= self.settings.cut
        interventions.scale_learning_rates(trainer, self.settings.cut)
        kept = 0 if task.settings.fresh else max(1, round(self.settings.warm * task.settings.schedule.steps))
        self.frozen_until = task.frozen_until = step + kept
        self.since, self.spoke = self.frozen_until, False
        self.figures, self.lowest, self.lowest_at = None, float("inf"), self.frozen_until
        self._pause_early_stopping(trainer, task)
        frozen = f"the encoder is frozen until step {self.frozen_until}, " if kept else ""
        action = f"{restored}, {frozen}and the learning rate is now {self.rate_factor:g} of the configured one"
        self._write(trainer, step, "restart", f"{reason}; {action}")

    def _roll_back(self, trainer: Trainer, task: FinetuneTask) -> str:
        if isinstance(trainer.strategy, DeepSpeedZero):
            return "the weights stay as they are, because DeepSpeed shards them"
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpoints):
                callback.written(trainer)
        best = self.folder / CHECKPOINTS / BEST
        if self.spoke and best.exists():
            state = torch.load(best, map_location="cpu", weights_only=True)
            task.load_state_dict(state["state_dict"])
            restored = f"the weights of step {state['global_step']} are restored"
        else:
            task.recogniser.load_state_dict(self.make_initial().state_dict())
            restored = "the initial weights are restored"
        for optimizer in trainer.optimizers:
            optimizer.state.clear()  # its moments belong to the discarded weights
        return restored

    def _pause_early_stopping(self, trainer: Trainer, task: FinetuneTask) -> None:
        """Validations do not count for early stopping until the grace period after the restart ends."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpoints):
                callback.early_stopping = replace(
                    callback.early_stopping, first_step=lambda: task.grace_end(self.since)
                )
                if trainer.global_step <= self.since:
                    callback.waited = 0

    def _write(self, trainer: Trainer, step: int, action: str, says: str) -> None:
        self.record.add(trainer, {"step": step, "action": action, "says": says, "rate_factor": self.rate_factor})

    def state_dict(self) -> dict[str, Any]:
        names = ("acted", "frozen_until", "rate_factor", "spoke", "figures", "lowest", "lowest_at", "since")
        return {name: getattr(self, name) for name in names} | {"sums": self._sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, "_sums" if name == "sums" else name, value)
