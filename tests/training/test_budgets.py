"""Budgets: minutes become steps by a clock that neighbours do not move, not too few, once more where the first steps differ."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lalia import config
from lalia.training import trainer
from lalia.training.checkpoints import newest_checkpoint
from lalia.training.settings import LogSettings, ScheduleSettings
from lalia.training.trainer import Budget, MinimumSteps, time_micro_step, training_clock
from pretrain.config import PretrainSettings
from pretrain.fit import pretrain
from tests.tiny_corpus import make_corpus
from tests.training.test_recording import tiny

CPU = torch.device("cpu")
MINIMUM_STEPS = MinimumSteps(200, "fewer mean nothing")


def budget(minutes: float, folder: Path = Path()) -> Budget:
    return Budget(PretrainSettings(schedule=ScheduleSettings(minutes=minutes)), folder / "config.yaml", MINIMUM_STEPS)


def work(ms: float = 60) -> None:
    until = time.thread_time() + ms / 1000
    while time.thread_time() < until:
        pass


def test_minutes_hold_so_many_steps(capsys: pytest.CaptureFixture[str]) -> None:
    assert budget(10).plan(0.5, tell=True) == 1200
    assert capsys.readouterr().err == ""


def test_a_stage_gets_the_steps_it_needs_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert budget(1).plan(0.5, tell=True) == 200
    said = capsys.readouterr().err
    assert said == (
        "note: schedule.minutes 1 holds 120 steps of 0.5 s, and fewer mean nothing; 200 are done, about 1.7 minutes\n"
    )


def test_but_not_a_day_for_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    assert budget(1).plan(120, tell=True) == 20
    said = capsys.readouterr().err
    assert "only 20 steps are done: give more minutes" in said and said.count("\n") == 1


def test_the_clock_of_a_cpu_is_not_moved_by_neighbours() -> None:
    alone = time_micro_step(work, CPU, warm=0, times=3)
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    try:
        busy = time_micro_step(work, CPU, warm=0, times=3)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    assert alone == pytest.approx(0.06, rel=0.1) and busy == pytest.approx(0.06, rel=0.1)
    begun = training_clock(torch.device("cpu"))
    time.sleep(0.2)
    assert training_clock(torch.device("cpu")) - begun < 0.1


def test_what_takes_long_is_timed_less_often() -> None:
    calls = itertools.count()

    def step() -> None:
        next(calls)
        work(30)

    time_micro_step(step, CPU, most_s=0.05)
    assert next(calls) < 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("budgets") / "corpus")


def planned(corpus: Path, minutes: float) -> PretrainSettings:
    log = LogSettings(every=1, valid_every=100, checkpoint_every=10)
    return replace(tiny(corpus, "kmeans"), schedule=ScheduleSettings(minutes=minutes), log=log)


@pytest.mark.parametrize("times_too_long", [0.25, 2.0])
def test_a_plan_is_made_once_more_from_the_first_steps(
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    times_too_long: float,
) -> None:
    """The timing says another time than the steps take; the run ends at the steps that its own first steps allow."""
    clock = itertools.count()
    # Each look at the clock is a second later; a step of the run is one of ten between two looks.
    monkeypatch.setattr(trainer, "training_clock", lambda device: float(next(clock)))
    real = trainer.TIMED_STEPS
    monkeypatch.setattr("lalia.training.trainer.time_micro_step", lambda micro_step, device: times_too_long / real / 2)
    monkeypatch.setattr("pretrain.fit.MINIMUM_STEPS", MinimumSteps(1, ""))
    settings = planned(corpus, minutes=4 / 60 + 1e-6)
    pretrain(settings, tmp_path)
    steps = 40  # four seconds, of which ten steps took one
    first = int((4 + 6e-5) * real / times_too_long)
    assert f"{steps} steps, not {first}, in schedule.minutes" in capsys.readouterr().err
    assert config.load(PretrainSettings, ["--config", str(tmp_path / "config.yaml")], "", "").schedule.steps == steps
    found = newest_checkpoint(tmp_path)
    assert found is not None and found[1]["global_step"] == steps
    assert found[1]["lr_schedulers"][0]["_last_lr"][0] < 0.1 * settings.optim.lr  # it fell to its end there
    assert (tmp_path / "finished.json").is_file()
