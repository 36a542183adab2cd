"""The guard of pretraining: checks every step against healthy bands and intervenes, weakest intervention first.

``bands.py`` says what is healthy and which interventions there are; this file measures a step and carries them out. A run that
stays inside its bands is not changed: its weights are bit-equal to those of a run without a guard.

G codebooks, V entries, K dead entries, F features.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lalia.cards import read_json_lines
from lalia.training import Callback, Trainer, interventions
from lalia.training.checkpoints import Checkpoints
from lalia.training.distributed import broadcast, stop_all, to_host
from lalia.training.run_log import InterventionLog
from lalia.training.zero import DeepSpeedZero
from pretrain.bands import Band, Breach, GuardSettings, Vitals, Watch, healthy_bands
from pretrain.loss import perplexity
from pretrain.task import BatchStats, PretrainTask

# --- The guard -------------------------------------------------------------------------------------------

NAME = "guard"
MEMORY = 0.9
"""Decay per step of the running code usage: an average over about ten steps."""
RAISE, CUT, MOST_RAISE = 4.0, 0.5, 64.0
SCALARS = 7
"""Numbers of a step before the code usage, see ``Guard._pack``."""
DEAD = 0.05
"""A code with less than this share of its even share (1/V) is dead."""


class Guard(Callback):
    """Reads ``task.batch_stats`` of each micro-batch, checks each optimizer step, intervenes, and writes ``RUN/guard.jsonl``."""

    def __init__(self, settings: GuardSettings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.record = InterventionLog(folder, NAME)
        self.diversity_factor, self.rate_factor = 1.0, 1.0
        self.measures = self.skipped = self.rollbacks = 0
        self.usage_GV: Tensor | None = None
        self.share_within: float | None = None
        self.watch: Watch | None = None
        self.checkpoints: Checkpoints | None = None
        """of the run; it can be rolled back to those that were saved while it was healthy"""
        self._restored: dict[str, Any] | None = None
        self._stats: list[tuple[Tensor, BatchStats]] = []
        self._vitals: Vitals | None = None
        self._left_out = False
        self._steps = 0
        """steps of the schedule that the bands were made for; a time budget may change them"""
        self._live_KF: Tensor | None = None

    # -- Lightning's hooks -------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: PretrainTask) -> None:  # type: ignore[override]
        task = pl_module
        self.watch = Watch(self._bands(task))
        if self._restored is not None:
            self.watch.restore(self._restored)
        task.diversity_factor = self.diversity_factor
        if trainer.is_global_zero:
            self.record.forget_from(trainer.global_step)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        self.checkpoints = next((callback for callback in callbacks if isinstance(callback, Checkpoints)), None)

    def on_before_backward(self, trainer: Trainer, pl_module: PretrainTask, loss: Tensor) -> None:  # type: ignore[override]
        assert pl_module.batch_stats is not None
        self._stats.append((loss.detach(), pl_module.batch_stats))

    def on_before_optimizer_step(  # type: ignore[override]
        self, trainer: Trainer, pl_module: PretrainTask, optimizer: torch.optim.Optimizer
    ) -> None:
        if len(self._stats) < trainer.accumulate_grad_batches:
            return  # DeepSpeed calls this at every micro-batch
        assert self.watch is not None
        if self._steps != pl_module.settings.schedule.steps:
            self.watch.bands = self._bands(pl_module)
        usage_GV, share_within = self.usage_GV, self.share_within
        packed = self._pack(trainer, pl_module)
        self._vitals = self._vitals_of(to_host(packed), trainer, pl_module)
        self._stats.clear()
        breach = self.watch.batch(self._vitals, trainer.global_step)
        self._left_out = breach is not None
        if breach is None:
            return
        # A skipped batch does not count for the code usage.
        self.usage_GV, self.share_within = usage_GV, share_within
        interventions.skip_step(trainer, pl_module)
        self.skipped += 1
        action = breach.action
        if (
            action == "skip"
            and breach.band.vital == "loss"
            and not interventions.weights_are_finite(trainer, pl_module)
        ):
            action = "roll back"  # the weights themselves are not finite: skipping batches does not help
        self._act(trainer, pl_module, breach, action)

    def on_train_batch_end(self, trainer: Trainer, pl_module: PretrainTask, *args: Any) -> None:  # type: ignore[override]
        vitals, self._vitals = self._vitals, None
        if vitals is None:
            return  # a micro-batch within a step
        assert self.watch is not None
        step = trainer.global_step
        breach = None if self._left_out else self.watch.run(vitals, step)
        if breach is not None:
            self._act(trainer, pl_module, breach, breach.action)
        if self.checkpoints is not None:
            self.checkpoints.healthy = breach is None and self.watch.well
        pl_module.log_dict(
            # Tensors on the CPU: Lightning would copy each plain number to the device.
            {f"guard/{k}": torch.tensor(v) for k, v in asdict(vitals).items() if v is not None and k not in ("loss", "accuracy")}
            | {
                "guard/measures": torch.tensor(float(self.measures)), "guard/skipped": torch.tensor(float(self.skipped)),
                "guard/rate_factor": torch.tensor(self.rate_factor),
                "guard/diversity_factor": torch.tensor(self.diversity_factor),
            }
        )  # fmt: skip
        if step >= pl_module.settings.schedule.steps:
            # Before the last checkpoint is written, so that the same command does not take a broken run for a finished one.
            self._end(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {
            "diversity_factor": self.diversity_factor, "rate_factor": self.rate_factor, "measures": self.measures,
            "skipped": self.skipped, "rollbacks": self.rollbacks, "usage_GV": self.usage_GV, "share_within": self.share_within,
            "watch": self.watch.state() if self.watch else None,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in ("diversity_factor", "rate_factor", "measures", "skipped", "rollbacks", "usage_GV"):
            setattr(self, name, state_dict[name])
        self.share_within = state_dict["share_within"]
        self._restored = state_dict["watch"]

    def _bands(self, task: PretrainTask) -> tuple[Band, ...]:
        run = task.settings
        self._steps = run.schedule.steps
        chance = 1 / (run.objective.distractors + 1)
        diversity, stem = run.objective.diversity_weight > 0, run.model.input == "wave"
        return healthy_bands(self.settings, run.quantizer.kind, chance, self._steps, diversity, stem)

    # -- What a step looks like --------------------------------------------------------------------------------------------

    def _pack(self, trainer: Trainer, task: PretrainTask) -> Tensor:
        """What the vitals of the step are computed from: one tensor on the device, made without waiting for the device.

        Gradient norm; then, summed over micro-batches and ranks: loss, correct, masked frames, frames, feature_std,
        wave_variation, used_GV.
        """
        losses, stats = zip(*self._stats, strict=True)
        sums = torch.cat([
            torch.stack([
                torch.stack(losses).float().sum() * trainer.accumulate_grad_batches,  # Lightning divides the loss by it
                torch.stack([p.correct for p in stats]).sum().float(), torch.stack([p.hidden for p in stats]).sum().float(),
                torch.stack([p.frames for p in stats]).sum().float(), torch.stack([p.feature_std for p in stats]).sum(),
                torch.stack([p.wave_variation for p in stats]).sum(),
            ]),
            torch.stack([p.used_GV for p in stats]).sum(0).float().flatten(),
        ])  # fmt: skip
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        self._live_KF = torch.cat([p.live_LF for p in stats])
        norm = interventions.gradient_norm(trainer)
        if not isinstance(trainer.strategy, DeepSpeedZero):  # which clips with its own norm
            task.gradient_norm = norm
        return torch.cat([norm.reshape(1).to(sums), sums])  # DeepSpeed's is on the CPU where it offloads

    def _vitals_of(self, packed: Tensor, trainer: Trainer, task: PretrainTask) -> Vitals:
        """The vitals in ``packed``, which lies on the CPU; the same on every rank."""
        count = len(self._stats) * trainer.world_size
        norm: float | None
        norm, loss, correct, hidden, frames, std, variation = packed[:SCALARS].tolist()
        used_GV = packed[SCALARS:].view_as(self._stats[0][1].used_GV)
        self.usage_GV = used_GV if self.usage_GV is None else MEMORY * self.usage_GV + used_GV
        within = _code_share(used_GV)
        self.share_within = within if self.share_within is None else MEMORY * self.share_within + (1 - MEMORY) * within
        # Waits for the device, as the loss scaler of float16 does at every step anyway.
        scale = float(trainer.precision_plugin.scale) if task.settings.hardware.precision == "fp16" else None  # type: ignore[attr-defined]
        if scale is not None and norm is not None and not math.isfinite(norm):
            norm = None  # float16 overflow: the loss scaler skips the batch and lowers its scale
        # Averaged over ten steps, since one batch may be small; and within each step, since unstable weights may use one code per
        # step and many over ten.
        code_share = min(_code_share(self.usage_GV), self.share_within)
        return Vitals(
            loss / count, correct / max(1.0, hidden), code_share if task.head.shape.kind == "gumbel" else None, norm,
            scale, std / count, hidden / max(1.0, frames), variation / count,
        )  # fmt: skip

    # -- Measures ----------------------------------------------------------------------------------------------------------

    def _act(self, trainer: Trainer, task: PretrainTask, breach: Breach, action: str) -> None:
        can = (
            self.rollbacks < self.settings.rollbacks and self.checkpoints is not None and self.checkpoints.healthy_steps
        )
        if action == "roll back" and not can:
            action = "stop"
        step = trainer.global_step
        self.measures += 1
        did = {
            "tell": lambda: "nothing was changed; check --mask.coverage and the lengths of the clips",
            "skip": lambda: "this batch is skipped",
            "revive": lambda: self._revive(trainer, task),
            "raise diversity": lambda: self._raise_diversity(task),
            "cut the rate": lambda: self._cut_learning_rate(trainer),
            "roll back": lambda: self._roll_back(trainer, task),
            "stop": lambda: "the run is stopped",
        }[action]()
        self._write(trainer, step, breach, action, did)
        if action == "stop":
            stop_all(f"step {step}: {breach.says}, and no intervention helped; {breach.band.advice}")

    def _end(self, trainer: Trainer) -> None:
        """After the last step: stop with an error if a band is breached; report batches skipped up to the end."""
        assert self.watch is not None
        step = trainer.global_step
        if breach := self.watch.illness():
            self.measures += 1
            self._write(trainer, step, breach, "stop", "so the run ends, and its weights are not usable")
            stop_all(f"step {step}: {breach.says}, and the run ends here; {breach.band.advice}")
        if left_out := self.watch.left_out():
            count, breach = left_out
            last = "the last batch was" if count == 1 else f"the last {count} batches were"
            self._write(trainer, step, breach, "tell", f"{last} skipped and not trained on")

    def _revive(self, trainer: Trainer, task: PretrainTask) -> str:
        assert self.usage_GV is not None and self._live_KF is not None
        live_KF = broadcast(self._live_KF)
        V = task.head.shape.entries
        revived = 0
        aim = list(task.head.code_logits.parameters())  # weight and bias
        with interventions.editing(trainer, aim):
            places = [torch.zeros_like(parameter, dtype=torch.bool) for parameter in aim]
            for group, usage_V in enumerate(self.usage_GV):
                dead_K = torch.nonzero(usage_V < DEAD / V * usage_V.sum())[:, 0].to(live_KF.device)
                if not len(dead_K):
                    continue
                # Spread over the features, the same on every rank.
                chosen_K = torch.arange(len(dead_K)) * 7919 % len(live_KF)
                task.head.revive(group, dead_K, live_KF[chosen_K])
                for place in places:
                    place[group * V + dead_K] = True
                revived += len(dead_K)
        for parameter, place in zip(aim, places, strict=True):
            interventions.reset_moments(
                trainer, parameter, place
            )  # where the dead ones were heading is of no use to the new ones
        self.usage_GV = self.share_within = None
        return f"{revived} dead codes start again at live features"

    def _raise_diversity(self, task: PretrainTask) -> str:
        self.diversity_factor = min(MOST_RAISE, RAISE * self.diversity_factor)
        task.diversity_factor = self.diversity_factor
        weight = task.settings.objective.diversity_weight * self.diversity_factor
        return f"the diversity weight is now {weight:g}"

    def _cut_learning_rate(self, trainer: Trainer) -> str:
        self.rate_factor *= CUT
        interventions.scale_learning_rates(trainer, CUT)
        return f"the learning rate is cut to {self.rate_factor:g} of the schedule"

    def _roll_back(self, trainer: Trainer, task: PretrainTask) -> str:
        assert self.watch is not None and self.checkpoints is not None
        self.rollbacks += 1
        # The second time further back: the newest healthy checkpoint may have been broken already.
        step, checkpoint = self.checkpoints.read_healthy(trainer, older=self.rollbacks > 1)
        interventions.restore(trainer, task, checkpoint)
        self.usage_GV = self.share_within = None
        self.watch.rolled_back(trainer.global_step)
        return f"weights and optimizer are restored from step {step}, and {self._cut_learning_rate(trainer)}"

    # -- Records -----------------------------------------------------------------------------------------------------------

    def _write(self, trainer: Trainer, step: int, breach: Breach, action: str, did: str) -> None:
        figures = {"value": breach.value, "limit": breach.limit}
        self.record.add(trainer, {
            "step": step, "vital": breach.band.vital, "action": action, "says": f"{breach.says}; {did}",
            **{k: v if math.isfinite(v) else None for k, v in figures.items()},
            "rate_factor": self.rate_factor, "diversity_factor": self.diversity_factor,
        })  # fmt: skip


def _code_share(usage_GV: Tensor) -> float:
    """Perplexity of the worst codebook as a share of the maximum that its entries and frames allow."""
    counts_G1 = usage_GV.sum(1, keepdim=True).clamp(min=1.0)
    reachable = min(usage_GV.shape[1], float(counts_G1.min()))
    return float(perplexity(usage_GV / counts_G1).min()) / reachable


def read_record(run: Path) -> list[dict[str, Any]]:
    """The guard's interventions in ``run``, in order."""
    return read_json_lines(InterventionLog(run, NAME).path)
