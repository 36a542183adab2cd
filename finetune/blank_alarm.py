"""The alarm: a recogniser that says nothing but blank is noticed, mended where it can be, and explained.

CTC begins by answering blank everywhere, since that is the cheapest thing to say without listening; a healthy run leaves this
behind in a few dozen steps. One that does not, or that falls back into it, has had its encoder shaken by too high a rate or
has labels that do not belong to its audio. The first can be mended: the encoder goes back to weights that were good and stands
still while the head learns to speak, at a lower rate. Random weights have nothing to keep still: they begin again at a lower rate
alone. A run that speaks is not touched.
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
from lalia.errors import GuardStopped
from lalia.models.recogniser import Recogniser
from lalia.training import Callback, Trainer, interventions
from lalia.training.checkpoints import BEST, CHECKPOINTS, Checkpoints
from lalia.training.run_log import Measures
from lalia.training.zero import DeepSpeedZero

EVERY = 10
"""Steps between two judgements."""
MEMORY = 0.4
"""How much of the last judgement's figures is left at the next: about twenty steps count."""
SPEAKING = 0.7
"""The held-out character error rate below which a run has spoken; chatter stays above."""
PROGRESS = 0.01
"""The loss still moves where it has fallen by this share within half the grace."""


class BlankAlarm(Callback):
    """Reads ``task.pulse`` of each micro-batch, judges every ten steps, acts, and writes ``RUN/alarm.jsonl``.

    ``begin`` makes the recogniser as it was before the first step.
    """

    def __init__(self, settings: AlarmSettings, folder: Path, begin: Callable[[], Recogniser]) -> None:
        self.settings, self.folder, self.begin = settings, folder, begin
        self.record = Measures(folder, "alarm")
        self.acted, self.frozen_until, self.rate_factor = 0, 0, 1.0
        self.spoke = False
        self.figures: list[float] | None = None
        """smoothed letters said, letters to say, loss"""
        self.lowest, self.lowest_at = float("inf"), 0
        self.since = 0
        """the step that grace is counted from, once it has acted"""
        self._sums: Tensor | None = None
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: FinetuneTask) -> None:  # type: ignore[override]
        pl_module.frozen_until = self.frozen_until
        if self.acted:
            self._be_patient(trainer, pl_module)
        self._step = trainer.global_step
        if trainer.is_global_zero:
            self.record.forget_from(trainer.global_step + 1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: FinetuneTask, *args: Any) -> None:  # type: ignore[override]
        assert pl_module.pulse is not None
        self._sums = pl_module.pulse if self._sums is None else self._sums + pl_module.pulse
        step = trainer.global_step
        if step == self._step or step % EVERY:
            return  # in the middle of a batch, or not yet due
        self._step = step
        sums = trainer.strategy.reduce(self._sums, reduce_op="sum") if trainer.world_size > 1 else self._sums
        self._sums = None
        found = sums.tolist()
        self.figures = found if self.figures is None else [
            MEMORY * old + (1 - MEMORY) * new for old, new in zip(self.figures, found, strict=True)
        ]  # fmt: skip
        silence = self._judge(step, pl_module)
        if silence:
            self._act(trainer, pl_module, step, silence)

    def on_validation_end(self, trainer: Trainer, pl_module: FinetuneTask) -> None:  # type: ignore[override]
        self.spoke = self.spoke or float(trainer.callback_metrics["valid/cer"]) < SPEAKING

    def _judge(self, step: int, task: FinetuneTask) -> str:
        """Why this is a collapse, in words; empty where it is none."""
        assert self.figures is not None
        said, letters, loss = self.figures
        share, loss = said / max(1.0, letters), loss / max(1.0, letters)
        if loss < self.lowest * (1 - PROGRESS):
            self.lowest, self.lowest_at = loss, step
        if share >= self.settings.silent or step < self.frozen_until:
            return ""
        begun = max(self.since, task.frozen_steps)
        grace = task.speaks_by(begun) - begun
        silence = f"it says {share:.1%} of the letters it should, everything else is blank"
        if self.spoke:
            return f"{silence}, after it had spoken well"
        if step - begun > grace and step - self.lowest_at > grace / 2:
            return (
                f"{silence}, and for {step - self.lowest_at} steps the loss has not moved ({loss:.2f} nats per letter)"
            )
        return ""

    def _act(self, trainer: Trainer, task: FinetuneTask, step: int, silence: str) -> None:
        self.acted += 1
        if self.acted > self.settings.tries:
            self._write(
                trainer, step, "stop", f"{silence}; {self.settings.tries} restarts did not help, the run is stopped"
            )
            raise GuardStopped(
                f"step {step}: {silence}. {self.settings.tries} restarts at lower rates did not help. Do labels and audio "
                "belong together (lalia finetune check)? Is each label shorter than its clip has frames? Else begin "
                f"again with a third of --optim.lr ({task.settings.optim.lr:g}) or a longer --freeze.encoder_share"
            )
        back = self._roll_back(trainer, task)
        self.rate_factor *= self.settings.cut
        interventions.cut_rate(trainer, self.settings.cut)
        kept = 0 if task.settings.fresh else max(1, round(self.settings.warm * task.settings.schedule.steps))
        self.frozen_until = task.frozen_until = step + kept
        self.since, self.spoke = self.frozen_until, False
        self.figures, self.lowest, self.lowest_at = None, float("inf"), self.frozen_until
        self._be_patient(trainer, task)
        still = f"the encoder stands still until step {self.frozen_until} while the head learns, " if kept else ""
        did = f"{back}, {still}and the rate is cut to {self.rate_factor:g} of what was asked for"
        self._write(trainer, step, "restart", f"{silence}; {did}")

    def _roll_back(self, trainer: Trainer, task: FinetuneTask) -> str:
        if isinstance(trainer.strategy, DeepSpeedZero):
            return "the weights stay, DeepSpeed holds them in parts"
        best = self.folder / CHECKPOINTS / BEST
        if self.spoke and best.exists():
            known = torch.load(best, map_location="cpu", weights_only=True)
            task.load_state_dict(known["state_dict"])
            said = f"its weights are those of step {known['global_step']} again"
        else:
            task.recogniser.load_state_dict(self.begin().state_dict())
            said = "its weights are those it began with"
        for optimizer in trainer.optimizers:
            optimizer.state.clear()  # what the ruined weights were heading for
        return said

    def _be_patient(self, trainer: Trainer, task: FinetuneTask) -> None:
        """Looks do not count against a run that has to learn to speak again."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpoints):
                callback.patience = replace(callback.patience, first_step=lambda: task.speaks_by(self.since))
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
