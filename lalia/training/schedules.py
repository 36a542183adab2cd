"""Learning rates over a run, as a factor of the peak."""

from __future__ import annotations

import math

from lalia.training.settings import ScheduleSettings


def rate(step: int, schedule: ScheduleSettings) -> float:
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


def rise(step: int, begun: float, schedule: ScheduleSettings) -> float:
    """The factor, from 0 to 1, of what learns only since the step ``begun``: its rate rises over as large a share of the steps
    that are left as the schedule's own warmup is of all. With ``begun`` 0 the schedule's is enough."""
    if begun <= 0:
        return 1.0
    warmup = schedule.warmup * max(0.0, schedule.steps - begun)
    return min(1.0, max(0.0, step + 1 - begun) / (warmup + 1))
