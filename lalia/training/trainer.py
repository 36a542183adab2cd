"""A training run from settings to final weights: learning-rate schedule, time budget, Lightning's Trainer, checkpoints, resume.

``resolve_schedule`` fixes the number of steps, ``fit`` runs them. A run may be given minutes instead of steps: a micro-batch is
timed before the run, and whole steps once more during its first steps. ``RUN/config.yaml`` holds the resolved number.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import distributed as dist
from torch import nn

from lalia import config
from lalia.cards import read_card, write_json
from lalia.errors import GateRefused, GuardStopped, Interrupted, UserError
from lalia.signals import Phase, stops
from lalia.training.checkpoint_files import NEWEST, CheckpointFiles, check_disk, quiet_if_full
from lalia.training.checkpoints import (
    CHECKPOINTS,
    HEALTHY,
    Checkpoints,
    EarlyStopping,
    Stopped,
    best_weights,
    check_fits,
    ended_early,
    first_step,
    newest_checkpoint,
    validation_is_due,
)
from lalia.training.distributed import (
    LossScale,
    broadcast,
    check_hardware,
    device_type,
    environment,
    is_rank_zero,
    make_strategy,
    precision_of,
    set_arithmetic,
    set_threads,
    training_device,
)
from lalia.training.run_log import BadClips, MetricsFile, ProgressBar, bad_clips_summary
from lalia.training.settings import HardwareSettings, LogSettings, RunSettings, ScheduleSettings

__all__ = [
    "CHECKPOINTS",
    "CONFIG",
    "FINISHED",
    "Budget",
    "EarlyStopping",
    "MinimumSteps",
    "Run",
    "adamw",
    "best_weights",
    "finished",
    "first_step",
    "fit",
    "newest_checkpoint",
    "parameter_groups",
    "resolve_schedule",
    "write_finished",
]

CONFIG, FINISHED, INPUTS = "config.yaml", "finished.json", "inputs.json"

# --- Run -------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A run's folder and what the trainer needs to know of it."""

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
    """(metric, "min" or "max") by which the best checkpoint is kept; None = the last checkpoint is the best"""
    clip: float = 0.0
    unused_parameters: bool = True
    """whether some parameters get no gradient in some steps (as while an encoder is frozen)"""
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    """when the run ends before its last step, judged by ``monitor``"""
    budget: Budget | None = None
    """the time budget that the steps were computed from; None = the steps were given"""
    rollback: bool = False
    """whether healthy checkpoints are kept, since a guard may roll the run back to them"""
    score_start: bool = False
    """validate before the first step; the result is then never worse than the initial model, by ``monitor``"""


def resolve_schedule(
    settings: Any,
    folder: Path,
    task: nn.Module,
    micro_step: Callable[[], None],
    accumulation: int,
    least: MinimumSteps,
    patience_s: float = 1800,
) -> Budget | None:
    """Resolve ``settings.schedule.steps``, write ``RUN/config.yaml``, and return the time budget if there is one.

    A new run's ``minutes`` become steps by timing ``micro_step`` (one forward and backward pass of ``task`` on the device that
    will train; the caller undoes what it changes), at least ``least``. An existing run must have the same settings and inputs,
    and keeps its steps and its precision. Rank 0 writes the file; the others wait for it up to ``patience_s`` seconds.
    """
    schedule: ScheduleSettings = settings.schedule
    path = folder / CONFIG
    budget = Budget(settings, path, least) if schedule.steps == 0 else None
    check_hardware(settings.hardware)
    set_threads(settings.hardware)
    if not path.exists() and not is_rank_zero(settings.hardware):
        _wait(path, patience_s)
    if path.exists():
        known = config.load(type(settings), ["--config", str(path)], "run", "")
        if schedule.steps == 0:
            schedule.steps = known.schedule.steps
        if settings.hardware.precision == "auto":
            settings.hardware.precision = known.hardware.precision
            check_hardware(settings.hardware)
        same_settings(config.to_dict(known), config.to_dict(settings), path)
        same_inputs(settings, folder)
        return budget
    settings.hardware.precision = precision_of(settings.hardware)
    write_json(folder / INPUTS, content_ids(settings))
    if budget is None:
        config.dump(settings, path)
    elif schedule.minutes <= 0:
        raise UserError("schedule.steps and schedule.minutes are both 0; give one of them")
    else:
        device = training_device(settings.hardware)
        task.to(device)
        budget.keep(budget.plan(time_micro_step(micro_step, device) * accumulation, tell=True))
        task.to("cpu")
    return budget


def _wait(path: Path, patience_s: float) -> None:
    begun = time.monotonic()
    while not path.exists():
        if time.monotonic() - begun > patience_s:
            raise UserError(f"{path}: not written by rank 0 within {patience_s:.0f} s; do all nodes share --out?")
        time.sleep(0.2)


def same_settings(known: dict[str, Any], asked: dict[str, Any], path: Path) -> None:
    """Raise ``UserError`` that names every setting in which ``asked`` differs from ``known``, the run's settings at ``path``.

    Hardware, logging and output folder may differ, also the number of ranks: accumulation is computed from it.
    """
    where = ("strategy", "device", "checkpointing", "devices", "nodes", "threads")
    free = {"log", "data.workers", "out", *(f"hardware.{name}" for name in where)}

    def differences(known: dict[str, Any], asked: dict[str, Any], prefix: str) -> Iterator[str]:
        for key, value in known.items():
            name = prefix + key
            if name in free:
                continue
            if isinstance(value, dict):
                yield from differences(value, asked[key], name + ".")
            elif asked[key] != value:
                yield f"{name} {value}, now {asked[key]}"

    if found := list(differences(known, asked, "")):
        longer = any(difference.startswith("schedule.steps ") for difference in found)
        advice = (
            ". The learning rate follows the number of steps, which stays as it was: to train on, give another --out, and "
            f"what this run made in {path.parent} as the initial model (--encoder, --recogniser or --student.start)"
        )
        raise UserError(
            f"{path}: this run was begun with {'; '.join(found)}; give the same settings to continue it, or another --out "
            f"for a new run{advice * longer}"
        )


def content_ids(settings: Any) -> dict[str, str]:
    """The content hash of each corpus, and of each teacher, by folder: what a run reads until its end."""
    folders = [*settings.data.corpus, *getattr(settings, "teacher", [])]
    return {folder: read_card(folder)["id"] for folder in folders}


def same_inputs(settings: Any, folder: Path) -> None:
    """Raise ``UserError`` if a corpus or the teacher of the run in ``folder`` is not what it was when the run was begun."""
    path = folder / INPUTS
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, now in content_ids(settings).items():
        if (was := known.get(name, now)) != now:
            raise UserError(
                f"{name}: has changed since {folder} was begun (it was {was[:19]}…, now {now[:19]}…); restore it to continue "
                "the run, or give another --out for a new run"
            )


def fit(task: LightningModule, run: Run, train: Iterable[Any], valid: Iterable[Any], extra: list[Callback]) -> None:
    """Train ``task`` to ``run.schedule.steps`` or until it stops early, from its newest checkpoint where there is one.

    Returns on every rank when the run is finished, with the final weights in ``task``. A stop signal (``lalia.signals``) saves a
    checkpoint and raises ``Interrupted`` on rank 0; the other ranks exit silently.
    """
    _silence_lightning()
    with stops.caught(run.folder, run.title):
        _train(task, run, train, valid, extra)
    leader = is_rank_zero(run.hardware)
    if leader and (bad := bad_clips_summary(run.folder)):
        print(f"{run.title}: {bad}", file=sys.stderr)
    final = newest_checkpoint(run.folder)
    if final is None:
        raise UserError(f"{run.folder}: the last checkpoint cannot be read; run the same command again")
    task.to("cpu").load_state_dict(final[1]["state_dict"])


def _train(task: LightningModule, run: Run, train: Iterable[Any], valid: Iterable[Any], extra: list[Callback]) -> None:
    hardware, steps = run.hardware, run.schedule.steps
    set_threads(hardware)
    set_arithmetic(hardware)
    leader = is_rank_zero(hardware)
    start = newest_checkpoint(run.folder)
    if start is not None:
        check_fits(start[0], start[1]["state_dict"], task)
    done = int(start[1]["global_step"]) if start else 0
    due = start is not None and validation_is_due(start[1])
    if due or start is None or (done < steps and not ended_early(start[1])):
        strategy, precision = make_strategy(hardware, sum(p.numel() for p in task.parameters()), run.unused_parameters)
        files = CheckpointFiles(hardware.devices)
        checkpoints = Checkpoints(
            run.folder, run.schedule, run.log, run.accumulation, run.monitor, run.early_stopping, files, run.rollback,
            run.score_start,
        )  # fmt: skip
        _check_disk(run, task, leader)
        progress = ProgressBar(run.schedule, run.audio_s_per_step, run.show, run.title)
        callbacks = [progress, BadClips(run.folder), *extra, checkpoints]
        if run.budget is not None and done < UNTIMED_STEPS + TIMED_STEPS:
            callbacks.insert(0, ReplanSteps(run.budget, run.title, done))
        if hardware.precision == "fp16":
            callbacks.insert(0, LossScale(precision))
        loggers = [MetricsFile(run.folder, done),
                   TensorBoardLogger(run.folder, name="tensorboard", version="")] if leader else False  # fmt: skip
        trainer = Trainer(
            accelerator=device_type(hardware),
            devices=hardware.devices,
            num_nodes=hardware.nodes,
            strategy=strategy,
            plugins=[precision, files, *([environment()] if hardware.ranks > 1 else [])],
            max_steps=max(steps, done + due),  # a trainer at its last step would not repeat the validation that is due
            accumulate_grad_batches=run.accumulation,
            gradient_clip_val=run.clip,
            val_check_interval=checkpoints.valid_every * run.accumulation,
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=run.log.every,
            logger=loggers,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            benchmark=False,
        )  # fmt: skip
        try:
            with quiet_if_full():
                trainer.fit(task, train, valid, ckpt_path=str(start[0]) if start else None)
        except Stopped as stop:
            _interrupt(stop.signum, stop.step, run, leader)
        except (UserError, GateRefused, GuardStopped):
            raise
        except Exception as error:
            if stops.asked is None:
                raise
            # A signal to the process group may have ended another process first, such as a compiler or a rank.
            _interrupt(stops.asked, None, run, leader, f" ({' '.join(str(error).split())[:200]})")
        finally:
            files.wait()
        if checkpoints.ended and leader:
            reason = f"no better result in {checkpoints.waited} validations"
            print(f"{run.title} ends at step {trainer.global_step} of {run.schedule.steps}: {reason}", file=sys.stderr)
        elif trainer.global_step < run.schedule.steps and not checkpoints.ended:
            raise RuntimeError(f"training ended at step {trainer.global_step} of {run.schedule.steps}")
        stops.enter(Phase.RESULTS)
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
    stops.enter(Phase.RESULTS if leader else Phase.FINISHED)


def _check_disk(run: Run, task: LightningModule, leader: bool) -> None:
    """Print what the run's checkpoints need on disk; raise ``UserError`` where not even one fits."""
    kept = NEWEST + 1 + HEALTHY * run.rollback
    try:
        room = check_disk(run.folder / CHECKPOINTS, task, kept)
    except UserError as error:
        if not leader:
            raise SystemExit(error.status) from error  # rank 0 prints the reason
        raise
    if leader:
        print(room, file=sys.stderr)


def _interrupt(signum: int, step: int | None, run: Run, leader: bool, cause: str = "") -> NoReturn:
    """End this rank: the leader by ``Interrupted``, which says what is saved and what the same command will do."""
    if not leader:
        raise SystemExit(0)
    raise Interrupted(stops.outcome(signum, step, run.schedule.steps) + cause)


def write_finished(folder: Path, facts: dict[str, Any]) -> None:
    """Write ``RUN/finished.json``, after everything else: from now on the run is finished, and no signal interrupts it."""
    with stops.finishing():
        write_json(folder / FINISHED, facts)


def adamw(groups: list[dict[str, Any]], settings: RunSettings) -> dict[str, Any]:
    """AdamW over ``groups`` (each with its own ``lr``) and the schedule's factor on all of them, as Lightning takes it.

    Fused where all parameters are on CUDA: one pass over weights, gradients and moments. Not in float16, whose gradients
    Lightning could not clip: a fused optimizer divides the loss scale out by itself.

    A group with ``begins`` (a function that returns a step) is frozen until then and gets its own warm-up from there: AdamW's
    first steps are as long as the learning rate, and at its peak they would destroy pretrained weights.
    """
    optim, schedule = settings.optim, settings.schedule
    begins = [group.pop("begins", None) for group in groups]
    on_cuda = all(parameter.device.type == "cuda" for group in groups for parameter in group["params"])

    def factor(begin: Callable[[], float] | None) -> Callable[[int], float]:
        return lambda step: (
            lr_factor(step, schedule) * (1.0 if begin is None else warmup_since(step, begin(), schedule))
        )

    optimizer = torch.optim.AdamW(
        groups, lr=optim.lr, betas=(optim.beta1, optim.beta2), eps=optim.eps, weight_decay=optim.weight_decay,
        fused=True if on_cuda and precision_of(settings.hardware) != "fp16" else None,
    )  # fmt: skip
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [factor(begin) for begin in begins])
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def parameter_groups(module: nn.Module, lr: float) -> list[dict[str, Any]]:
    """The trainable parameters of ``module`` at ``lr``; vectors (norms, biases, embeddings) without weight decay."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "lr": lr},
        {"params": [p for p in trainable if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _silence_lightning() -> None:
    """Silence notes and warnings of Lightning and fairseq2 that a user cannot act on."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (".*does not have many workers.*", ".*treespec.*", ".*weight_norm.*", ".*callbacks used to create.*",
                 ".*not resumable.*", ".*lr_scheduler.step.*", ".*self.trainer.*log.*",
                 ".*DeepSpeed handles gradient clipping.*"):  # fmt: skip
        warnings.filterwarnings("ignore", message=text)


def finished(folder: Path, settings: Any = None, stated: Collection[str] = ()) -> bool:
    """Whether the run in ``folder`` has reached its end and written its result.

    Raises ``UserError`` if the settings that the user gave (``stated``, from ``config.stated``) differ from the run's.
    """
    path = folder / CONFIG
    if not (folder / FINISHED).is_file():
        return False
    if stated and path.is_file():
        same_settings(config.select(path, stated), config.to_dict(settings), path)
        same_inputs(settings, folder)
    return True


# --- Learning-rate schedule ------------------------------------------------------------------------------


def lr_factor(step: int, schedule: ScheduleSettings) -> float:
    """The factor of the peak learning rate at ``step`` of ``schedule.steps``.

    With warmup 0.1, hold 0.4, exponential decay and final 0.05 it is wav2vec 2.0's tri-stage schedule (fine-tuning); with hold 0
    and linear decay its polynomial one (pretraining).
    """
    total = max(1, schedule.steps)
    warmup, hold = schedule.warmup * total, schedule.hold * total
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if step < warmup + hold:
        return 1.0
    done = min(1.0, (step - warmup - hold) / max(1.0, total - warmup - hold))
    if schedule.decay == "exponential":
        return float(max(schedule.final, 1e-3) ** done)
    if schedule.decay == "cosine":
        return schedule.final + (1.0 - schedule.final) * 0.5 * (1.0 + math.cos(math.pi * done))
    return 1.0 - (1.0 - schedule.final) * done


def warmup_since(step: int, begun: float, schedule: ScheduleSettings) -> float:
    """Warm-up factor, 0 to 1, of weights that are trained only from step ``begun``: over the share ``schedule.warmup`` of the
    remaining steps. 1 where ``begun`` is 0: the schedule's own warm-up applies."""
    if begun <= 0:
        return 1.0
    warmup = schedule.warmup * max(0.0, schedule.steps - begun)
    return min(1.0, max(0.0, step + 1 - begun) / (warmup + 1))


# --- Time budget -----------------------------------------------------------------------------------------

SHORTEST_RUN = 20
MAX_OVERRUN = 10.0
"""A stage's minimum of steps may take up to this many times the given minutes; beyond, the run is reported as too short."""
UNTIMED_STEPS, TIMED_STEPS = 3, 10
"""First steps of a run that are not timed, and the timed steps after them."""
REPLAN_RATIO = 1.2
"""The steps are planned again if their number changes by more than this factor."""


@dataclass(frozen=True)
class MinimumSteps:
    """The fewest steps with which a stage gives a useful result, and why."""

    steps: int
    why: str


def training_clock(device: torch.device) -> float:
    """Seconds on the clock that training on ``device`` is measured by.

    CPU: processor time of the main training thread, so that time in which other programs hold its core does not count.
    GPU: wall-clock time after synchronisation.
    """
    if device.type == "cpu":
        return time.thread_time()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def time_micro_step(
    micro_step: Callable[[], None], device: torch.device, warm: int = 2, times: int = 6, most_s: float = 60.0
) -> float:
    """Mean seconds of ``micro_step`` on ``device`` over ``times`` calls after ``warm`` untimed ones, ended after ``most_s``."""
    seconds = []
    begun = training_clock(device)
    for _ in range(warm + times):
        before = training_clock(device)
        micro_step()
        seconds.append(training_clock(device) - before)
        if training_clock(device) - begun > most_s:
            break
    counted = seconds[min(warm, len(seconds) - 1) :]
    return sum(counted) / len(counted)


@dataclass
class Budget:
    """The minutes of a run and the steps they hold: ``settings.schedule.steps``, saved in the file ``path``."""

    settings: Any
    path: Path
    least: MinimumSteps
    step_s: float = math.nan
    """planned seconds per step; NaN in a continued run"""

    @property
    def schedule(self) -> ScheduleSettings:
        schedule: ScheduleSettings = self.settings.schedule
        return schedule

    def plan(self, step_s: float, tell: bool) -> int:
        """Steps that fit the minutes at ``step_s`` seconds each, at least the stage's minimum; ``tell``: note it on stderr."""
        minutes, least = self.schedule.minutes, self.least
        self.step_s = step_s
        held = max(1, int(minutes * 60 / step_s))
        if held >= least.steps:
            return held
        took = f"schedule.minutes {minutes:g} holds {held} steps of {step_s:.3g} s, and {least.why}"
        if least.steps > MAX_OVERRUN * held:
            steps = max(SHORTEST_RUN, held)
            advice = f"only {steps} steps are done: give more minutes, a smaller batch or a smaller model"
        else:
            steps = least.steps
            advice = f"{steps} are done, about {steps * step_s / 60:.2g} minutes"
        if tell:
            print(f"note: {took}; {advice}", file=sys.stderr)
        return steps

    def keep(self, steps: int) -> None:
        """Set ``steps`` and save the run's settings."""
        self.schedule.steps = steps
        config.dump(self.settings, self.path)


class ReplanSteps(Callback):
    """Times the first steps of a run and plans the number of steps again if they are slower or faster than planned.

    All ranks use rank 0's time. Whatever depends on the number of steps reads it from the schedule.
    """

    def __init__(self, budget: Budget, title: str, first_step: int) -> None:
        self.budget, self.title, self.first_step = budget, title, first_step
        self.planned = budget.schedule.steps
        self._begun: float | None = None
        self._outside = 0.0
        self._left: float | None = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._left = training_clock(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._left is not None:
            self._outside += training_clock(pl_module.device) - self._left

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if step == self.first_step + UNTIMED_STEPS and self._begun is None:
            self._begun, self._outside = training_clock(pl_module.device), 0.0
        elif step == self.first_step + UNTIMED_STEPS + TIMED_STEPS and self._begun is not None:
            step_s = (training_clock(pl_module.device) - self._begun - self._outside) / TIMED_STEPS
            self._begun = None
            self._replan(trainer, float(broadcast(torch.tensor([step_s], device=pl_module.device))))

    def _replan(self, trainer: Trainer, step_s: float) -> None:
        schedule, planned_s = self.budget.schedule, self.budget.step_s
        steps = max(self.budget.plan(step_s, tell=False), trainer.global_step + 1)
        if 1 / REPLAN_RATIO <= steps / self.planned <= REPLAN_RATIO:
            return
        schedule.steps = trainer.fit_loop.epoch_loop.max_steps = steps
        interval = trainer.val_check_batch
        assert isinstance(interval, int)
        trainer.val_check_batch = min(interval, steps * trainer.accumulate_grad_batches)
        if trainer.is_global_zero:
            self.budget.keep(steps)
            was = f", not {planned_s:.3g} s" if math.isfinite(planned_s) else ""
            print(
                f"{self.title}: a step takes {step_s:.3g} s{was}: {steps} steps, not {self.planned}, in "
                f"schedule.minutes {schedule.minutes:g}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
