"""``lalia pretrain plan``: memory, batch split, steps and time of a pretraining run on given hardware, before it starts."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from lalia.data.loader import make_loader
from lalia.data.mixture import Mixture
from lalia.data.plan import BatchPlan
from lalia.errors import UserError
from lalia.training.distributed import device_is_here, device_type, set_arithmetic, training_device
from lalia.training.trainer import Budget, MinimumSteps, training_clock
from lalia.units import Seconds
from pretrain.config import PretrainSettings
from pretrain.memory import GB, Footprint, Memory, forward, machine_bytes, predict, trace
from pretrain.task import PretrainTask, contrast_sampler

HEADROOM = 0.9
"""Share of a device's memory to plan with; the rest is for temporary allocations of backward passes and libraries."""
TIMED, MOST_S = 5, 60.0
"""Micro-batches that are timed, and the seconds after which timing ends."""
MINIMUM_STEPS = MinimumSteps(400, "its accuracy may be at chance for the first 400")
STAGES = ("none", "zero1", "zero2", "zero3", "zero3-offload")


@dataclass
class PlanSettings:
    """The hardware to plan for."""

    memory_gb: float = 0.0
    """memory of one device, GB; 0 = what is free on this machine's device now"""
    devices: int = 0
    """total devices; 0 = hardware.devices x hardware.nodes"""
    measure: bool = True
    """time micro-batches of this corpus on this machine's device; False plans without times"""


@dataclass
class PlanRequest(PretrainSettings):
    """A run's settings and the hardware to plan it for."""

    plan: PlanSettings = field(default_factory=PlanSettings)


@dataclass(frozen=True)
class HardwarePlan:
    """How a batch is split on the hardware: micro-batch, accumulation, ZeRO stage, checkpointing."""

    micro_s: Seconds
    accumulation: int
    stage: int
    offload: bool
    checkpointing: bool
    """activation checkpointing"""
    largest_s: Seconds
    """largest micro-batch that one device can hold"""
    memory: Memory

    @property
    def strategy(self) -> str:
        """As ``--hardware.strategy`` names it; "none" = every device holds everything."""
        return STAGES[self.stage + self.offload]


def solve(
    footprint: Footprint,
    batch_s: Seconds,
    wanted_s: Seconds,
    ranks: int,
    device_bytes: float,
    checkpointing: bool = False,
) -> HardwarePlan:
    """The plan with the least overhead that fits: lower ZeRO stages first, then offload, then activation checkpointing (always
    with ``checkpointing``); the wanted micro-batch if it fits, else the largest that does.

    Raises ``UserError`` if not one clip fits, with a remedy.
    """
    usable = HEADROOM * device_bytes
    choices = [(0, False)] + ([(1, False), (2, False), (3, False), (3, True)] if ranks > 1 else [])
    for recompute in (True,) if checkpointing else (False, True):
        for stage, offload in choices:
            state = predict(footprint, 0.0, stage, ranks, offload, recompute).state
            largest_s = footprint.fitting_s(usable - state, recompute)
            if largest_s < footprint.clip_s:
                continue
            share_s = batch_s / ranks
            most_s = max(footprint.clip_s, min(largest_s, wanted_s, share_s))
            accumulation = max(1, round(share_s / most_s))
            if share_s / accumulation > largest_s:  # rounding down made it too large
                accumulation += 1
            micro_s = max(footprint.clip_s, share_s / accumulation)
            memory = predict(footprint, micro_s, stage, ranks, offload, recompute)
            return HardwarePlan(micro_s, accumulation, stage, offload, recompute, largest_s, memory)
    last = choices[-1]
    needed = predict(footprint, footprint.clip_s, last[0], ranks, last[1], True).total / HEADROOM
    free_s = footprint.fitting_s(usable - predict(footprint, 0.0, last[0], ranks, last[1], True).state, True)
    shorter = (
        f"; about {free_s:.1f} s at a time would fit: --data.max_s {free_s:.1f} (and --join_s at most that)"
        if free_s >= 1.0
        else "; take a smaller model or more devices"
    )
    raise UserError(
        f"one clip of {footprint.clip_s:g} s needs {needed / GB:.1f} GB on each of {ranks} devices, which have "
        f"{device_bytes / GB:.1f} GB{shorter}"
    )


def check_memory(settings: PretrainSettings) -> None:
    """Raise ``UserError`` if a run's micro-batch needs more memory than is free, with what would fit."""
    footprint = trace(settings)
    free, ranks = machine_bytes(settings.hardware), settings.hardware.ranks
    stage = int(next((letter for letter in settings.hardware.strategy if letter.isdigit()), "0"))
    offload = settings.hardware.strategy.endswith("offload")
    checkpointing = settings.hardware.checkpointing
    state = predict(footprint, 0.0, stage, ranks, offload, checkpointing).state
    needed = state + footprint.activation_bytes(settings.batch.micro_s, checkpointing)
    if needed <= free:
        return
    fits_s = footprint.fitting_s(HEADROOM * free - state, checkpointing)
    if fits_s >= footprint.clip_s:
        remedy = f"--batch.micro_s {int(fits_s)} fits, and the batch stays as large"
    elif not checkpointing and footprint.fitting_s(HEADROOM * free - state, True) >= footprint.clip_s:
        remedy = "with --hardware.checkpointing true a smaller --batch.micro_s would fit; ask `lalia pretrain plan`"
    else:
        remedy = "ask `lalia pretrain plan` what would fit"
    raise UserError(
        f"batch.micro_s {settings.batch.micro_s:g} needs about {needed / GB:.1f} GB on a device, {free / GB:.1f} GB are "
        f"free; {remedy}"
    )


def plan(settings: PlanRequest, console: Console | None = None) -> HardwarePlan:
    """Compute, print and return the plan."""
    console = console or Console()
    ask = settings.plan
    ranks = ask.devices or settings.hardware.ranks
    device = device_type(settings.hardware)
    here = device_is_here(device)
    if not here and not ask.memory_gb:
        raise UserError(f"--plan.memory_gb is missing: this machine has no {device} whose memory could be read")
    device_bytes = ask.memory_gb * GB or machine_bytes(settings.hardware)
    mixture = Mixture.load(settings.data.corpus)
    if held_out := mixture.hold_out_recordings(settings.data.language, settings.data.min_s):
        print(held_out, file=sys.stderr)
    rows = mixture.select("train", settings.data.language, min_s=settings.data.min_s)
    footprint = trace(settings)
    checkpointing = settings.hardware.checkpointing
    cut = solve(footprint, settings.batch.hours * 3600, settings.batch.micro_s, ranks, device_bytes, checkpointing)
    batches = settings.batch_plan(mixture, rows, micro_s=cut.micro_s)
    micro_step_s = _timed(settings, mixture, batches, cut, footprint) if ask.measure and here else None
    console.print(_batch_table(settings, cut, ranks, device_bytes, ask.memory_gb > 0, footprint))
    console.print(_memory_table(cut, footprint, device_bytes))
    console.print(
        _run_table(settings, cut, ranks, batches, float(mixture.durations_s[rows].sum()) / 3600, micro_step_s)
    )
    flags = [f"--batch.micro_s {cut.micro_s:.4g}", f"--hardware.devices {ranks}"]
    if cut.stage:
        flags.append(f"--hardware.strategy {cut.strategy}")
    if cut.checkpointing:
        flags.append("--hardware.checkpointing true")
    console.print("as flags: " + " ".join(flags), highlight=False)
    return cut


def _batch_table(
    settings: PlanRequest, cut: HardwarePlan, ranks: int, device_bytes: float, given: bool, footprint: Footprint
) -> Table:
    wanted = settings.batch.micro_s
    table = _table("The batch", "", "")
    audio_s = cut.micro_s * cut.accumulation * ranks
    table.add_row("batch", f"{audio_s:.4g} s ({audio_s / 3600:.4g} h), requested {settings.batch.hours:g} h")
    table.add_row("devices", f"{ranks}, {device_bytes / GB:.1f} GB each ({'as given' if given else 'free here now'})")
    why = "as configured" if cut.micro_s >= 0.99 * wanted else f"{wanted:g} s requested"
    table.add_row("micro-batch", f"{cut.micro_s:.4g} s on a device at a time ({why}; up to {cut.largest_s:.0f} s fit)")
    table.add_row("accumulation", f"{cut.accumulation} micro-batches per step")
    table.add_row(
        "learning rate",
        f"{settings.optim.lr:g} at its peak, as configured: it belongs to the batch in hours, which is the same on any "
        "hardware (wav2vec 2.0 BASE: 5e-4 at 1.6 h)",
    )
    table.add_row("ZeRO", "not needed" if cut.stage == 0 else f"--hardware.strategy {cut.strategy}")
    with_it = footprint.activation_bytes(cut.micro_s, True) / GB
    if settings.hardware.checkpointing:
        advice = f"as configured (activations {footprint.activation_bytes(cut.micro_s) / GB:.2f} GB without it)"
    elif cut.checkpointing:
        advice = "--hardware.checkpointing true: without it not one clip fits"
    else:
        advice = f"not needed (activations {with_it:.2f} GB with it)"
    table.add_row("activation checkpointing", advice)
    return table


def _memory_table(cut: HardwarePlan, footprint: Footprint, device_bytes: float) -> Table:
    table = _table(f"Memory of a device ({footprint.parameters / 1e6:.1f} M weights)", "part", "GB")
    for part in ("weights", "gradients", "optimizer", "activations"):
        table.add_row(part, f"{getattr(cut.memory, part) / GB:.3f}")
    table.add_row(
        "together", f"{cut.memory.total / GB:.3f}  ({100 * cut.memory.total / device_bytes:.0f} % of the memory)"
    )
    return table


def _run_table(
    settings: PlanRequest, cut: HardwarePlan, ranks: int, batches: BatchPlan, hours: float, micro_step_s: Seconds | None
) -> Table:
    schedule, step_s = settings.schedule, None
    if micro_step_s is not None:
        step_s = micro_step_s * cut.accumulation
    steps = schedule.steps
    if not steps and schedule.minutes and step_s is not None:
        steps = Budget(settings, Path(), MINIMUM_STEPS).plan(step_s, tell=True)
    table = _table("The run", "", "")
    kept = (
        ""
        if hours < 1.01 * batches.hours
        else f"; {batches.hours:.2f} h a pass, cut to data.max_s {settings.data.max_s:g} s"
    )
    table.add_row("corpus", f"{hours:.2f} h in {batches.clips} clips{kept}")
    audio_h = steps * cut.accumulation * ranks * batches.mean_s / 3600
    if steps:
        table.add_row("steps", f"{steps:,}" + ("" if schedule.steps else f" (in {schedule.minutes:g} minutes)"))
        table.add_row("audio seen", f"{audio_h:.2f} h, {audio_h / batches.hours:.1f} passes over the corpus")
    else:
        table.add_row("steps", "not known: give --schedule.steps, or --schedule.minutes and time it here")
    if micro_step_s is None or step_s is None:
        table.add_row("time", "not measured")
    else:
        speed = batches.mean_s / micro_step_s
        table.add_row("micro-step", f"{micro_step_s:.3f} s measured here: {speed:.0f} s of audio per second")
        table.add_row("time", f"{steps * step_s / 3600:.2f} h, if every device is as fast as this one")
    return table


def _timed(
    settings: PlanRequest, mixture: Mixture, batches: BatchPlan, cut: HardwarePlan, footprint: Footprint
) -> Seconds | None:
    """Seconds of one forward and backward pass on this machine's device; None if the model does not fit."""
    alone = replace(settings.hardware, devices=1)
    if predict(footprint, cut.micro_s, 0, 1, checkpointing=cut.checkpointing).total > HEADROOM * machine_bytes(alone):
        return None
    device = training_device(alone)
    set_arithmetic(alone)
    hardware = replace(settings.hardware, checkpointing=cut.checkpointing, compile=False)  # compiling is not timed
    task = PretrainTask(replace(settings, hardware=hardware)).train()
    if task.settings.quantizer.kind == "kmeans":
        task.head.centres_VC.normal_()
    task.to(device)
    loader = iter(make_loader(mixture, batches, start=0, workers=0, finish=contrast_sampler(task.settings)))
    seconds: list[Seconds] = []
    while len(seconds) < TIMED and sum(seconds) < MOST_S:
        batch = next(loader).to(device)
        begun = training_clock(device)
        forward(task, batch).backward()
        seconds.append(training_clock(device) - begun)
    counted = sorted(seconds[1:] or seconds)  # the first is warm-up
    return counted[(len(counted) - 1) // 2]  # the median ignores steps slowed by other programs


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
