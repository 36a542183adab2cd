"""A training run from settings to finished weights: the Trainer, its checkpoints, its resume."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from lalia import config
from lalia.exits import UserError
from lalia.training.recording import MetricsFile, ProgressBar
from lalia.training.schedules import rate
from lalia.training.settings import HardwareSettings, LogSettings, OptimSettings, ScheduleSettings

CHECKPOINTS, CONFIG, FINISHED = "checkpoints", "config.yaml", "finished.json"


@dataclass
class Run:
    """Where a run stands on disk and what of it the trainer needs to know."""

    folder: Path
    hardware: HardwareSettings
    log: LogSettings
    schedule: ScheduleSettings
    accumulation: int
    audio_s_per_step: float
    title: str
    show: tuple[str, ...]
    """metrics for the progress bar"""
    monitor: tuple[str, str] | None = None
    """(metric, "min" or "max") by which the best checkpoint is kept; None = the last is the best"""
    clip: float = 5.0


def first_step(folder: Path) -> int:
    """The step that the next one of this run is: 0 for a new run, else that of the newest readable checkpoint."""
    found = newest_checkpoint(folder)
    return 0 if found is None else int(found[1]["global_step"])


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """(path, content) of the newest checkpoint that can be read; a broken one is named and passed over."""
    paths = sorted((folder / CHECKPOINTS).glob("step*.ckpt"), key=lambda p: int(p.stem[4:]), reverse=True)
    for path in paths:
        try:
            return path, torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # whatever torch says of a file cut short
            reason = str(error).splitlines()[0][:100]
            warnings.warn(f"{path}: cannot be read ({reason}); going on from the one before", stacklevel=2)
    return None


def settle(settings: Any, folder: Path, micro_step: Callable[[], None], accumulation: int) -> None:
    """Fix ``settings.schedule.steps`` and keep the resolved settings in the run's folder.

    A new run's ``minutes`` become steps by timing ``micro_step`` (one forward and backward; the caller restores what it
    changes). A run that is there already must have been begun with the same settings; its steps hold.
    """
    schedule: ScheduleSettings = settings.schedule
    path = folder / CONFIG
    if path.exists():
        known = config.load(type(settings), ["--config", str(path)], "run", "")
        if schedule.steps == 0:
            schedule.steps = known.schedule.steps
        _same_settings(config.to_dict(known), config.to_dict(settings), path)
        return
    if schedule.steps == 0:
        if schedule.minutes <= 0:
            raise UserError("schedule.steps and schedule.minutes are both 0: say how long to train")
        schedule.steps = max(20, int(schedule.minutes * 60 / (_timed(micro_step) * accumulation)))
    config.dump(settings, path)


def _timed(micro_step: Callable[[], None], warm: int = 2, timed: int = 6) -> float:
    for _ in range(warm):
        micro_step()
    begun = time.monotonic()
    for _ in range(timed):
        micro_step()
    return (time.monotonic() - begun) / timed


def _same_settings(known: dict[str, Any], asked: dict[str, Any], path: Path, prefix: str = "") -> None:
    free = {"log", "hardware.devices", "hardware.nodes", "hardware.threads", "data.workers", "out"}
    for key, value in known.items():
        name = prefix + key
        if name in free:
            continue
        if isinstance(value, dict):
            _same_settings(value, asked[key], path, name + ".")
        elif asked[key] != value:
            raise UserError(
                f"{path}: this run was begun with {name} {value}, now asked for {asked[key]}; "
                "give the same settings to continue it, or another --out for a new run"
            )


def fit(task: LightningModule, run: Run, train: Iterable[Any], valid: Iterable[Any], extra: list[Callback]) -> None:
    """Train ``task`` to ``run.schedule.steps``, from its newest checkpoint where there is one.

    Returns when the run is finished; raises KeyboardInterrupt when it was interrupted (a checkpoint is kept).
    """
    _quiet()
    start = newest_checkpoint(run.folder)
    if run.hardware.threads:
        torch.set_num_threads(run.hardware.threads)
    keep = [
        ModelCheckpoint(
            run.folder / CHECKPOINTS, filename="step{step:08d}", auto_insert_metric_name=False,
            every_n_train_steps=run.log.checkpoint_every, save_top_k=2, monitor="step", mode="max",
        )
    ]  # fmt: skip
    if run.monitor is not None:
        metric, mode = run.monitor
        keep.append(
            ModelCheckpoint(run.folder / CHECKPOINTS, filename="best", monitor=metric, mode=mode, save_top_k=1,
                            enable_version_counter=False, save_weights_only=True)
        )  # fmt: skip
    trainer = Trainer(
        accelerator="auto",
        devices=run.hardware.devices,
        num_nodes=run.hardware.nodes,
        strategy="auto" if run.hardware.ranks == 1 else "ddp",
        precision={"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}[run.hardware.precision],  # type: ignore[arg-type]
        max_steps=run.schedule.steps,
        accumulate_grad_batches=run.accumulation,
        gradient_clip_val=run.clip,
        val_check_interval=run.log.valid_every * run.accumulation,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=run.log.every,
        logger=[MetricsFile(run.folder, start[1]["global_step"] if start else 0),
                TensorBoardLogger(run.folder, name="tensorboard", version="")],
        callbacks=[*keep, ProgressBar(run.schedule.steps, run.audio_s_per_step, run.show, run.title), *extra],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        benchmark=False,
    )  # fmt: skip
    trainer.fit(task, train, valid, ckpt_path=str(start[0]) if start else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if trainer.global_step < run.schedule.steps:
        raise RuntimeError(f"training ended at step {trainer.global_step} of {run.schedule.steps}")


def adamw(groups: list[dict[str, Any]], optim: OptimSettings, schedule: ScheduleSettings) -> dict[str, Any]:
    """AdamW over ``groups`` (each with its own ``lr``) and the schedule's factor on all of them, as Lightning takes it."""
    optimizer = torch.optim.AdamW(
        groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, weight_decay=optim.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, schedule))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def parameter_groups(module: nn.Module, lr: float) -> list[dict[str, Any]]:
    """The trainable parameters of ``module`` at ``lr``; vectors (norms, biases, embeddings) without weight decay."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "lr": lr},
        {"params": [p for p in trainable if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _quiet() -> None:
    """Lightning's and fairseq2's chatter, none of which a user can act on."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (".*does not have many workers.*", ".*treespec.*", ".*weight_norm.*", ".*Checkpoint directory.*",
                 ".*not resumable.*", ".*lr_scheduler.step.*", ".*self.trainer.*log.*"):  # fmt: skip
        warnings.filterwarnings("ignore", message=text)


def finished(folder: Path) -> bool:
    """Whether the run in ``folder`` has reached its end and written its result."""
    return (folder / FINISHED).is_file()


def best_weights(folder: Path) -> tuple[dict[str, torch.Tensor], int]:
    """(state dict, step) of the checkpoint that held-out audio liked best; the newest where none was measured."""
    path = folder / CHECKPOINTS / "best.ckpt"
    found = torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None
    if found is None:
        newest = newest_checkpoint(folder)
        if newest is None:
            raise UserError(f"{folder / CHECKPOINTS}: no checkpoint that can be read")
        found = newest[1]
    return found["state_dict"], int(found["global_step"])
