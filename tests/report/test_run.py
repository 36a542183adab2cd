"""The report of a run: what it shows of runs that are under way, finished, strange or broken."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.demo.run import Demo
from finetune.config import FinetuneSettings
from lalia import config
from lalia.cards import write_json
from lalia.data.mixture import Mixture
from lalia.errors import UserError
from lalia.report.run_curves import curves, series, speed
from lalia.report.run_page import RunFolder, verdict_of, write_run_report
from pretrain.config import PretrainSettings
from tests.report.test_pages import check_page


def write_metrics(run: Path, lines: list[dict[str, Any]]) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


@pytest.fixture
def pretraining(tmp_path: Path) -> Path:
    """A pretraining run that is half-way."""
    run = tmp_path / "pretrain"
    settings = PretrainSettings(out="runs/demo/<pretrain>")
    settings.schedule.steps = 200
    settings.optim.lr = 0.003
    settings.batch.hours, settings.batch.micro_s = 0.0111, 40
    run.mkdir()
    config.dump(settings, run / "config.yaml")
    lines = []
    for step in range(0, 100, 10):
        lines.append(
            {"step": step, "time_s": 1 + step / 2, "train/loss": 4 - step / 100, "train/accuracy": 0.01 + step / 400,
             "train/code_perplexity": 100 + step, "train/lr": 1e-3, "train/bad_clips": 1.0 if step == 50 else 0.0,
             "train/novelty": step}
        )  # fmt: skip
    lines.append(
        {"step": 99, "time_s": 51.0, "valid/accuracy": 0.21, "valid/code_perplexity": 320.5, "valid/info_nce": 3}
    )
    write_metrics(run, lines)
    return run


def finetuning(run: Path, clips: int = 12) -> Path:
    settings = FinetuneSettings(out=str(run))
    settings.schedule.steps = 10
    run.mkdir()
    config.dump(settings, run / "config.yaml")
    write_metrics(run, [{"step": 9, "time_s": 5.0, "train/loss": 1.0, "valid/cer": 0.4, "valid/wer": None}])
    facts = {"cer": 0.25, "wer": 0.5, "cer_interval": [0.2, 0.3], "wer_interval": [0.4, 0.6]}
    heard = [
        {"id": f"ita/{i}", "reference": "prego attendere", "hypothesis": "prego atendere"[i:]} for i in range(clips)
    ]
    write_json(run / "scores.json", facts | {"clips": heard})
    write_json(run / "finished.json", facts)
    return run


def test_a_run_under_way(pretraining: Path) -> None:
    html = write_run_report(pretraining).read_text(encoding="utf-8")
    check_page(html)
    assert "at step 100 of 200" in html and "0:51 of training" in html
    assert "<h1>&lt;pretrain&gt;</h1>" in html, "its name, not its path"
    assert (
        "Not finished: step 100 of 200." in html
        and "lalia pretrain fit --config &#39;runs/demo/&lt;pretrain&gt;" in html
    )
    assert html.index("<h3>Codebook use</h3>") < html.index('class="fold"') < html.index("<h3>Speed</h3>"), (
        "three are shown"
    )
    assert "21.0" in html and "chance 0.0099" in html, "held-out accuracy beside chance"
    assert "all 640 codes" in html
    assert "1 clips could not be read" in html
    for title in ("Loss", "Contrastive accuracy", "Codebook use", "Speed", "Learning rate", "Novelty"):
        assert f"<h3>{title}</h3>" in html


def test_settings_are_shown_as_they_differ(pretraining: Path) -> None:
    html = write_run_report(pretraining, defaults=PretrainSettings()).read_text(encoding="utf-8")
    shown = html[html.index("<h2>Settings</h2>") :]
    assert '0.003 <span class="default">(0.0005)</span>' in shown
    assert "temperature" not in shown, "a setting that is as by default"
    without = write_run_report(pretraining).read_text(encoding="utf-8")
    assert "temperature" in without[without.index("<h2>Settings</h2>") :], "nobody said what this stage has by default"
    assert "weight_decay" not in without[without.index("<h2>Settings</h2>") :], "which is known of shared sections"


def test_speed_is_audio_per_second_of_training(pretraining: Path) -> None:
    run = RunFolder.load(pretraining)
    chart = speed(run.metrics, run.config)
    assert chart is not None  # ten steps of 40 s in 5 s
    assert ">80 ×<" in chart.drawing


def test_what_the_guard_did_is_told(pretraining: Path) -> None:
    assert "<h2>Guard</h2>" not in write_run_report(pretraining).read_text(encoding="utf-8")
    measures = [
        {"step": step, "vital": "loss", "action": "skip", "says": f"the loss is 9e9 at {step}; left out"}
        for step in range(60)
    ]
    text = "".join(json.dumps(measure) + "\n" for measure in measures)
    (pretraining / "guard.jsonl").write_text(text + '{"step": 60, "vit')
    html = write_run_report(pretraining).read_text(encoding="utf-8")
    check_page(html)
    assert "9e9 at 59" in html and "9e9 at 9;" not in html
    assert "10 earlier actions are in guard.jsonl" in html


def test_what_never_changes_is_not_drawn(pretraining: Path) -> None:
    lines = [{"step": i, "time_s": i, "guard/skipped": 0.0, "guard/gradient_norm": 1.0 + i} for i in range(5)]
    write_metrics(pretraining, lines)
    html = write_run_report(pretraining).read_text(encoding="utf-8")
    assert "Gradient norm" in html and "Skipped" not in html


def test_a_recogniser_shows_its_worst_and_middle_clips(tmp_path: Path) -> None:
    run = finetuning(tmp_path / "finetune")
    html = write_run_report(run).read_text(encoding="utf-8")
    check_page(html)
    assert "finished after 10 steps" in html
    assert html.index("Worst") < html.index("ita/11") < html.index("In the middle")
    assert 'class="gone"' in html and "<audio" not in html
    few = write_run_report(finetuning(tmp_path / "few", clips=3)).read_text(encoding="utf-8")
    assert "In the middle" not in few


def test_verdicts_of_runs(pretraining: Path, tmp_path: Path) -> None:
    def verdict(run: Path, finished: dict[str, Any]) -> str:
        found = verdict_of(replace(RunFolder.load(run), finished=finished))
        assert found is not None
        return f"{found.title} {found.text}"

    assert "Healthy." in verdict(pretraining, {"steps": 200}) and "21.2 times chance" in verdict(
        pretraining, {"steps": 200}
    )
    write_metrics(pretraining, [{"step": 9, "time_s": 1.0, "valid/accuracy": 0.5, "valid/code_perplexity": 20.0}])
    assert "The codebook has collapsed." in verdict(pretraining, {"steps": 200})
    write_metrics(pretraining, [{"step": 9, "time_s": 1.0, "valid/accuracy": 0.02, "valid/code_perplexity": 600.0}])
    assert "Little learned." in verdict(pretraining, {"steps": 200})
    run = finetuning(tmp_path / "finetune")
    falling = [{"step": n, "time_s": n, "valid/cer": 0.9 - 0.1 * n, "valid/loss": 1.0} for n in range(8)]
    write_metrics(run, falling)
    assert "still falling at the end" in verdict(run, {}) and "overfits" not in verdict(run, {})
    write_metrics(run, [{"step": n, "time_s": n, "valid/cer": 0.2, "valid/loss": abs(n - 2) + 1.0} for n in range(8)])
    assert "since step 2: the run overfits" in verdict(run, {}) and "still falling" not in verdict(run, {})
    assert "Nothing learned." in verdict(run, {"only_blanks": True})


def test_a_distillation_shows_its_teacher_beside_the_student(tmp_path: Path) -> None:
    run = finetuning(tmp_path / "student")
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(settings | {"teacher": ["runs/the teacher", "runs/another"]}))
    scores = json.loads((run / "scores.json").read_text())
    for clip in scores["clips"]:
        clip["teacher"] = "prego atendere"
    others = [{"folder": folder, "cer": 0.2, "wer": 0.4} for folder in ("runs/the teacher", "runs/another")]
    teacher = {"parameters": 2_000_000, "cer": 0.2, "wer": 0.4, "cer_interval": [0.1, 0.3], "wer_interval": [0.3, 0.5]}
    write_json(run / "scores.json", scores | {"teacher": teacher, "teachers": others})
    html = write_run_report(run).read_text(encoding="utf-8")
    check_page(html)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", html[html.index("<h2>Teacher and student</h2>") :])
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    assert cells[1] == ["teacher", "20.0\u202f%", "10.0 to 30.0", "40.0\u202f%", "30.0 to 50.0", "2.00\u202fM"]
    assert cells[2] == ["teacher another", "20.0\u202f%", "", "40.0\u202f%", "", "–"]
    assert cells[3][1] == "25.0\u202f%" and "1.25 times its teacher" in html
    assert "teacher, CER 7\u202f%" in html and "student, CER" in html
    assert "lalia distill export" in html and "--teacher &#39;runs/the teacher&#39;" in html


def test_a_recogniser_s_curves_say_what_they_are(tmp_path: Path) -> None:
    run = finetuning(tmp_path / "finetune")
    lines = [
        {"step": i, "time_s": i, "train/loss": 3.0 - i, "train/blank": 0.1 * i, "train/lr": 1e-3} for i in range(3)
    ]
    write_metrics(run, lines)
    html = write_run_report(run).read_text(encoding="utf-8")
    for words in ("trained with CTC on audio with transcripts", "the CTC blank", "nats per token",
                  "mostly starts low and rises first", "learning rate schedule"):  # fmt: skip
        assert words in html


def test_numbers_that_are_none_are_passed_over() -> None:
    metrics: list[dict[str, Any]] = [{"step": 1, "a": 2.0}, {"step": 2, "a": None}, {"step": 3}, {"step": 4, "a": 5}]
    assert series(metrics, "a") == ([1, 4], [2.0, 5])


def test_a_run_that_has_said_nothing_yet(tmp_path: Path) -> None:
    config.dump(FinetuneSettings(), tmp_path / "config.yaml")
    check_page(write_run_report(tmp_path).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("content", "complaint"), [(None, "has no config.yaml"), ("a: [", "cannot be read as a run"), ("", "no settings")]
)
def test_what_is_no_run_is_one_line(tmp_path: Path, content: str | None, complaint: str) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=complaint) as caught:
        write_run_report(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.xdist_group("chain")
def test_every_stage_of_the_chain_has_a_report(tiny_demo: Demo) -> None:
    mixture = Mixture.load([tiny_demo.corpus])
    for run in (tiny_demo.pretrain, tiny_demo.best_arm("pretrained"), tiny_demo.distill):
        html = write_run_report(run, mixture).read_text(encoding="utf-8")
        check_page(html)
        assert "finished after 12 steps" in html and "<h2>Lineage</h2>" in html
        assert ("<audio" in html) == (run != tiny_demo.pretrain), "test clips can be heard"
        found = RunFolder.load(run)
        assert len(curves(found.metrics, found.config)) >= 4
    assert np.isfinite(RunFolder.load(tiny_demo.distill).scores["cer"])  # type: ignore[index]
