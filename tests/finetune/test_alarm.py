"""The blank alarm restarts a collapsed run and stops a hopeless one; a loss that is not finite stops a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from finetune.blank_alarm import BlankAlarm
from finetune.config import AlarmSettings, FinetuneSettings
from finetune.task import FinetuneTask, Scored, check_finite, count_tokens, near_random
from lalia.errors import GuardStopped
from lalia.models.recogniser import Recogniser
from lalia.scoring.rates import ErrorCounts
from tests.tiny_finetune import fit, make_folder, metrics

RUINOUS = ("--optim.lr", "0.3", "--schedule.warmup", "0.02")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("alarm"))


def test_a_collapsed_run_is_restarted_with_a_reason(folder, capsys):
    run = fit(
        folder, "collapsed", *RUINOUS, "--schedule.steps", "320", "--log.valid_every", "40", "--alarm.grace", "0.15",
        "--alarm.cut", "0.013", "--alarm.warm", "0.05",
    )  # fmt: skip
    lines = [json.loads(line) for line in (run / "alarm.jsonl").read_text().splitlines()]
    assert [line["action"] for line in lines] == ["restart"]
    assert 48 <= lines[0]["step"] <= 200  # after the grace; when exactly depends on how a processor rounds
    assert "the rest is blank" in lines[0]["says"]
    assert "the initial weights are restored" in lines[0]["says"]
    assert "the learning rate is now 0.013" in lines[0]["says"]
    assert lines[0]["says"] in capsys.readouterr().err
    rates = metrics(run, "train/lr")
    assert max(rates[lines[0]["step"] + 1 :]) < 0.005
    errors = metrics(run, "valid/cer")
    assert errors[0] > 0.9
    assert errors[-1] < 0.7, "after the restart the run has learned"


def test_random_weights_are_not_frozen(folder):
    run = fit(
        folder, "random", *RUINOUS, "--start", "random", "--schedule.steps", "160", "--log.valid_every", "40",
        "--alarm.grace", "0.15", "--alarm.cut", "0.013",
    )  # fmt: skip
    restart = json.loads((run / "alarm.jsonl").read_text().splitlines()[0])
    assert "the initial weights are restored, and the learning rate is now 0.013" in restart["says"]


def test_a_healthy_run_is_not_changed(folder):
    flags = ("--optim.lr", "4e-3", "--schedule.steps", "40", "--log.valid_every", "40", "--alarm.grace", "0.9")
    watched = fit(folder, "watched", *flags)
    alone = fit(folder, "alone", *flags, "--alarm.enabled", "false")
    assert not (watched / "alarm.jsonl").exists()
    first, second = (Recogniser.load(run / "recogniser").state_dict() for run in (watched, alone))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_labels_of_other_clips_are_noticed(folder, capsys, monkeypatch):
    flags = ("--schedule.steps", "10", "--log.valid_every", "5", "--alarm.enabled", "false")
    monkeypatch.setattr("finetune.task.FEWEST_CLIPS", 2)
    run = fit(folder, "unlearned", *flags)  # ten steps teach nothing, and labels of other clips teach nothing ever
    assert len(metrics(run, "valid/cer_mismatched")) == 2
    said = capsys.readouterr().err
    assert said.count("warning: step 5: CER") == 1 and "step 10: CER" not in said
    assert f"lalia finetune check {folder / 'corpus'}" in said


def test_a_cer_near_that_of_mismatched_pairs_is_a_warning_after_two_fifths_of_the_steps():
    def errors(count: int) -> ErrorCounts:
        return ErrorCounts(substitutions=count, reference=100)

    assert "CER 0.79 on the held-out clips is about that" in near_random(errors(79), errors(80), 40, 100, ["data/mine"])
    assert near_random(errors(79), errors(80), 39, 100, ["data/mine"]) == ""
    assert near_random(errors(70), errors(80), 40, 100, ["data/mine"]) == ""  # poor, and yet of the speech
    assert near_random(errors(79), ErrorCounts(), 40, 100, ["data/mine"]) == ""  # one label in all clips


def test_a_hopeless_run_is_stopped_with_advice(folder):
    with pytest.raises(GuardStopped, match=r"the rest is blank.*Do the labels belong to the audio"):
        fit(
            folder, "hopeless", *RUINOUS, "--schedule.steps", "320", "--log.valid_every", "40", "--alarm.grace", "0.15",
            "--alarm.tries", "0",
        )  # fmt: skip


def test_a_late_collapse_is_detected_at_once(tmp_path):
    settings = FinetuneSettings(encoder="e")
    settings.schedule.steps = 1000
    task = FinetuneTask(settings, torch.nn.Module(), {})  # type: ignore[arg-type]
    alarm = BlankAlarm(AlarmSettings(), tmp_path, Recogniser)  # type: ignore[arg-type]
    alarm.figures = [0.5, 100.0, 300.0]
    assert alarm._check(20, task) == ""  # every run starts with blanks
    alarm.figures = [80.0, 100.0, 100.0]
    assert alarm._check(40, task) == ""
    alarm.spoke = True  # a validation has found text
    alarm.figures = [0.5, 100.0, 300.0]
    assert "after better output before" in alarm._check(60, task)
    # The grace period starts when the frozen steps end.
    settings.freeze.encoder_share = 0.7
    alarm = BlankAlarm(AlarmSettings(), tmp_path, Recogniser)  # type: ignore[arg-type]
    alarm.figures = [0.5, 100.0, 300.0]
    assert alarm._check(600, task) == ""
    assert "has not improved" in alarm._check(800, task)


def test_random_weights_have_no_frozen_steps():
    settings = FinetuneSettings(encoder="e")
    settings.schedule.steps, settings.freeze.encoder_share = 100, 0.3
    assert FinetuneTask(settings, torch.nn.Module(), {}).frozen_steps == 30  # type: ignore[arg-type]
    settings.start = "random"
    assert FinetuneTask(settings, torch.nn.Module(), {}).frozen_steps == 0  # type: ignore[arg-type]


def test_tokens_of_the_greedy_output_are_counted():
    best_BT = torch.tensor([[0, 3, 3, 0, 3, 2], [1, 1, 0, 0, 5, 5]])
    assert int(count_tokens(best_BT, torch.tensor([6, 3]))) == 3 + 1


def test_a_clip_with_a_loss_that_is_not_finite_is_named():
    logits_BTV, model = torch.zeros(2, 4, 3), torch.nn.Linear(2, 2)
    say = ("bulletin-17", "weather-3")

    def look(loss: float, precision: str = "fp32") -> None:
        scored = [Scored([0], torch.zeros(1, 4, 3), torch.tensor(1.0)), Scored([0, 1], logits_BTV, torch.tensor(loss))]
        check_finite(scored, [1], model, say.__getitem__, 12, precision)

    look(1.0)
    logits_BTV[1, 2, 0] = torch.nan
    with pytest.raises(GuardStopped, match=r"step 12: the loss is nan, from weather-3\. .*lower --optim\.lr"):
        look(torch.nan)
    with pytest.raises(GuardStopped, match=r"weather-3.*bf16 or fp32"):
        look(1.0, "fp16")
    torch.nn.init.constant_(model.weight, torch.inf)
    with pytest.raises(GuardStopped, match=r"not finite.* so the weights are too; .* are weather-3"):
        look(torch.nan)


def _second_rank_s_score(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    logits_BTV = torch.full((1, 4, 3), torch.nan if rank else 0.0)
    scored = [Scored([7], torch.zeros(1, 4, 3), torch.tensor(1.0)), Scored([rank], logits_BTV, torch.tensor(1.0))]
    try:
        check_finite(scored, [], torch.nn.Linear(2, 2), ("bulletin-17", "weather-3").__getitem__, 12, "fp32")
    except GuardStopped as stopped:
        (Path(folder) / str(rank)).write_text(str(stopped))
    except SystemExit as ended:
        (Path(folder) / str(rank)).write_text(str(ended.code))
    dist.destroy_process_group()


def test_a_score_that_is_not_finite_on_one_rank_ends_all_with_one_line(tmp_path: Path) -> None:
    multiprocessing.spawn(_second_rank_s_score, (str(tmp_path),), nprocs=2)
    assert "from weather-3. Listen to these clips" in (tmp_path / "0").read_text()
    assert (tmp_path / "1").read_text() == "3"


def test_a_run_whose_weights_overflow_stops_and_names_its_clips(folder):
    with pytest.raises(GuardStopped, match=r"so the weights are too; .* are ita/\d+"):
        fit(
            folder,
            "overflow",
            "--optim.lr",
            "1e37",
            "--optim.clip",
            "0",
            "--schedule.steps",
            "20",
            "--schedule.warmup",
            "0",
        )
