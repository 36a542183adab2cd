"""Presets: what the hours of labels decide, that the user's word wins, and contradictions told in one line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune import presets
from finetune.config import FinetuneSettings
from lalia import config
from lalia.errors import UserError

BASE = presets.InitialModel(94_371_712, 768, 0.02, wave=True, fresh=False)
NANO = presets.InitialModel(2_900_000, 192, 0.04, wave=False, fresh=False)


def values(name: str, model: presets.InitialModel, mode: str = "full", steps: int = 0) -> dict[str, Any]:
    return {choice.key: choice.value for choice in presets.preset_choices(name, model, mode, steps)}


@pytest.mark.parametrize(("hours", "name"), [(0.05, "10min"), (0.17, "10min"), (0.9, "1h"), (5, "10h"), (960, "100h")])
def test_the_nearest_row_is_taken(hours, name):
    assert presets.nearest_preset(hours) == name


@pytest.mark.parametrize(
    ("name", "steps", "lr", "frozen", "channels", "layerdrop"),
    [
        ("10min", 13_000, 5e-5, 10_000, 0.25, 0.1),
        ("1h", 13_000, 5e-5, 10_000, 0.25, 0.1),
        ("10h", 20_000, 5e-5, 10_000, 0.5, 0.05),
        ("100h", 80_000, 3e-5, 0, 0.5, 0.1),
    ],
)
def test_a_base_encoder_gets_fairseqs_published_settings(name, steps, lr, frozen, channels, layerdrop):
    found = values(name, BASE)
    assert (found["schedule.steps"], found["optim.lr"]) == (steps, lr)
    assert found["freeze.encoder_share"] * steps == pytest.approx(frozen, abs=0.01 * steps)
    assert (found["regular.channel_coverage"], found["regular.channel_span"]) == (channels, 64)
    assert (found["regular.time_coverage"], found["regular.time_span"]) == (0.65, 10)
    assert found["regular.layerdrop"] == layerdrop
    assert found["freeze.stem"] is True
    assert found["batch.hours"] * 3600 == pytest.approx(1600, rel=0.01)
    assert (found["schedule.warmup"], found["schedule.hold"], found["schedule.final"]) == (0.1, 0.4, 0.05)
    assert (found["optim.eps"], found["optim.weight_decay"], found["optim.clip"]) == (1e-8, 0.0, 0.0)
    assert (found["regular.dropout"], found["regular.feedforward_dropout"]) == (0.0, 0.1)


def test_a_nano_encoder_gets_what_was_measured_here():
    found = values("10min", NANO)
    assert found["optim.lr"] == 4e-3
    assert values("10min", replace(NANO, fresh=True))["optim.lr"] == 2e-3
    assert (found["regular.time_coverage"], found["regular.time_span"], found["regular.layerdrop"]) == (0.05, 4, 0.0)
    assert found["freeze.encoder_share"] == 0.15
    assert values("100h", NANO)["freeze.encoder_share"] == 0.0
    assert found["freeze.stem"] is False
    assert (found["optim.eps"], found["optim.weight_decay"], found["optim.clip"]) == (1e-6, 0.01, 5.0)
    assert (found["regular.dropout"], found["regular.feedforward_dropout"]) == (0.1, 0.1)


def test_between_the_two_everything_lies_between():
    between = presets.InitialModel(20_000_000, 384, 0.02, wave=True, fresh=False)
    small, large = values("10min", NANO), values("10min", BASE)
    for key in ("schedule.steps", "optim.lr", "regular.time_coverage", "regular.layerdrop", "freeze.encoder_share"):
        low, high = sorted((small[key], large[key]))
        assert low < values("10min", between)[key] < high


def test_modes_and_fresh_weights():
    assert values("1h", BASE, "adapter")["optim.lr"] == 1e-3  # MMS's
    assert values("1h", BASE, "adapter")["freeze.encoder_share"] == 0.0
    assert values("1h", BASE, "adapter")["adapter.share"] == 0.02
    small = values("10min", NANO, "adapter")
    assert (small["optim.lr"], small["adapter.share"]) == (8e-3, 0.06)
    assert "adapter.share" not in values("1h", BASE)
    assert values("1h", BASE, "head")["optim.lr"] == 2e-3
    fresh = values("1h", presets.InitialModel(23_000_000, 2000, 0.02, wave=False, fresh=True))
    assert (fresh["freeze.encoder_share"], fresh["regular.layerdrop"]) == (0.0, 0.0)
    assert 5e-4 < fresh["optim.lr"] < 1e-3


def test_what_is_stated_wins_and_the_rest_is_said_with_its_reason(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("# mine\nregular:\n  dropout: 0.2\n  layerdrop: 0.05\n")
    argv = ["--config", str(file), "--optim.lr", "5e-4", "--data.max_s=15", "--data.corpus", "a"]
    settings = config.load(FinetuneSettings, argv, "finetune", "")
    stated = config.stated(FinetuneSettings, argv)
    # 0.05 and 15 are the defaults: stated all the same.
    assert stated == {"regular.dropout", "regular.layerdrop", "optim.lr", "data.max_s", "data.corpus"}
    choices = [*presets.data_choices(settings, stated), *presets.preset_choices("10min", BASE, "full")]
    applied = presets.apply_choices(settings, choices, stated)
    assert (settings.optim.lr, settings.regular.layerdrop, settings.data.max_s) == (5e-4, 0.05, 15)
    assert (settings.schedule.steps, settings.augment.speed, settings.data.min_s) == (13_000, 1.0, 0.3)
    text = presets.describe_choices("10min", 0.165, BASE, applied, requested=False)
    assert "the nearest to 9.9 minutes of labels" in text
    assert "only the head learns for 10010 steps" in text
    assert "optim.lr" not in text
    assert len(text.splitlines()) == 1 + len(applied)


def test_a_micro_batch_holds_the_longest_clip_whichever_of_them_is_stated():
    settings = FinetuneSettings()
    settings.batch.micro_s = 15
    assert {c.key: c.value for c in presets.data_choices(settings, {"batch.micro_s"})}["data.max_s"] == 15
    assert {c.key: c.value for c in presets.preset_choices("10min", NANO, "full", longest_s=60)}["batch.micro_s"] == 60


def test_minutes_that_were_asked_for_are_not_overruled_by_steps():
    settings = FinetuneSettings()
    settings.schedule.minutes = 5
    presets.apply_choices(settings, presets.preset_choices("10min", NANO, "full"), {"schedule.minutes"})
    assert settings.schedule.steps == 0


def test_looks_and_frozen_steps_follow_the_steps_that_were_asked_for():
    found = values("10min", BASE, steps=100)
    assert found["schedule.steps"] == 100
    assert found["log.valid_every"] == 5


def test_rows_go_up():
    assert [preset.hours for preset in presets.PRESETS.values()] == sorted(
        preset.hours for preset in presets.PRESETS.values()
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "--encoder is missing: give nano-multilingual "),
        ({"encoder": "a", "recogniser": "b"}, "found --encoder and --recogniser"),
        ({"recogniser": "b", "start": "random"}, "--start random needs --encoder"),
        (
            {"encoder": "a", "model.kind": "conformer"},
            "--model.kind conformer starts from random weights, found --encoder",
        ),
        ({"mode": "adapter", "model.kind": "wav2letter"}, "found --mode adapter"),
        ({"encoder": "a", "select.lm": "lm"}, "--select.lm lm: needs --select.by wer_lm, found cer"),
        ({"encoder": "a", "select.clips": "-1"}, "--select.clips -1: expected a number of clips, or 0 for all"),
        ({"encoder": "a", "mode": "adapter", "adapter.share": "0.9"}, "adapter.share 0.9"),
        ({"encoder": "a", "mode": "adapter", "freeze.renew": "1"}, "freeze.renew: not possible with --mode adapter"),
        ({"encoder": "a", "mode": "adapter", "hardware.strategy": "zero3"}, "use ddp or zero1"),
    ],
)
def test_contradictions_are_told(changes, said):
    argv = [f"--{key}={value}" for key, value in changes.items()]
    with pytest.raises(UserError, match=said):
        presets.check_settings(config.load(FinetuneSettings, argv, "finetune", ""))
