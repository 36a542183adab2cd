"""Learning rates of a recogniser's parts: what is held still at first begins gently."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.config import FinetuneSettings
from finetune.task import FinetuneTask
from lalia.training.trainer import lr_factor, warmup_since
from tests.tiny_teacher import make_recogniser


def rates(settings: FinetuneSettings, steps: int, frozen_until: int = 0) -> tuple[list[float], list[float]]:
    """The rates of the head and of the encoder at each step."""
    task = FinetuneTask(settings, make_recogniser(), {})
    task.frozen_until = frozen_until
    made: dict[str, Any] = task.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    head = id(task.recogniser.head.weight)
    (place,) = [i for i, group in enumerate(optimizer.param_groups) if id(group["params"][0]) == head]
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(steps):
        found[0].append(optimizer.param_groups[place]["lr"])
        found[1].append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def settings_of(share: float) -> FinetuneSettings:
    settings = FinetuneSettings(encoder="e")
    settings.optim.lr = 1.0
    settings.schedule.steps, settings.schedule.warmup, settings.schedule.hold = 100, 0.1, 0.6
    settings.freeze.encoder_share = share
    return settings


def test_an_encoder_that_was_held_still_begins_at_a_small_rate() -> None:
    head, encoder = rates(settings_of(0.3), 60)
    assert encoder[:30] == [0.0] * 30
    assert head[30] == 1.0
    # A tenth of the 70 steps that are left.
    assert encoder[30:37] == pytest.approx([(i + 1) / 8 for i in range(7)])
    assert encoder[38:] == head[38:]


def test_an_encoder_that_learns_from_the_first_step_has_the_heads_rate() -> None:
    head, encoder = rates(settings_of(0.0), 40)
    assert encoder == head


def test_an_encoder_that_the_alarm_holds_still_rises_again() -> None:
    _, encoder = rates(settings_of(0.0), 60, frozen_until=40)
    assert 0 < encoder[40] < encoder[41] < 0.4
    assert encoder[50] == 1.0


def test_the_rise_ends_where_the_schedule_goes_on() -> None:
    schedule = settings_of(0.3).schedule
    assert [warmup_since(step, 0, schedule) for step in (0, 50)] == [1.0, 1.0]
    assert warmup_since(29, 30, schedule) == 0.0
    assert all(
        warmup_since(step, 30, schedule) * lr_factor(step, schedule) <= lr_factor(step, schedule) for step in range(100)
    )
    assert warmup_since(99, 99.9, schedule) == pytest.approx(0.1 / 1.01, abs=0.01)
