"""The demo: its commands are real ones, it continues where it stopped, and its page says what was reached and what was not."""

from __future__ import annotations

import copy
import json
import shlex
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks.demo import run as demo_module
from benchmarks.demo.figures import Figures, goals, parts_of
from benchmarks.demo.report import ChainFacts, chain_svg, print_table, write_report
from benchmarks.demo.run import BUDGETS, Demo, Record, StageFailed, chosen_clips, claim, main, student_is_current
from distill.config import DistillSettings, ExportSettings
from finetune.config import FinetuneSettings
from lalia import config
from lalia.cards import write_json
from lalia.data.corpus import Corpus
from pretrain.config import PretrainSettings
from tests.browser import BROWSER
from tests.report.test_in_browser import too_wide
from tests.report.test_pages import check_page

ROOT = Path(__file__).parents[2]
SUMMARY: dict[str, dict[str, float]] = {
    "pretrain": {"accuracy": 0.3, "chance": 1 / 51, "code_perplexity": 100.0, "codes": 128},
    "finetune": {
        "cer_pretrained": 0.16, "cer_random": 0.20, "wer_pretrained": 0.6, "wer_random": 0.7, "minutes_of_labels": 9.9,
    },
    "student": {
        "cer_teacher": 0.16, "cer_float": 0.17, "cer_int8": 0.18, "cer_lm": 0.13, "wer_int8": 0.66,
        "wer_lm": 0.4, "mb_teacher": 8.0, "mb_int8": 1.5, "rtf_teacher": 0.01,
        "rtf_int8": 0.004,
    },
}  # fmt: skip


@pytest.mark.parametrize("mode", BUDGETS)
def test_every_command_is_one_that_its_stage_takes(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    demo = Demo(BUDGETS[mode], Path("runs/demo"), Path("data/demo"))
    teacher = Path("runs/demo/teacher")
    made = [
        (demo.pretrain_command(), PretrainSettings),
        *(
            (demo.finetune_command(start, rate), FinetuneSettings)
            for start in demo_module.STARTS
            for rate in demo.budget.rates
        ),
        (demo.distill_command(teacher), DistillSettings),
        (demo.export_command(teacher), ExportSettings),
        (demo.open_export_command(teacher), ExportSettings),
    ]
    for command, schema in made:
        assert command[0] == "lalia"
        settings: Any = config.load(schema, command[3:], shlex.join(command[:3]), "")
        assert settings.out.startswith("runs/demo/")
        assert settings.data.corpus == ["data/demo"]


def test_both_starts_get_the_same_steps_and_rates() -> None:
    demo = Demo(BUDGETS["full"], Path("runs/demo"), Path("data/demo"))
    for rate in demo.budget.rates:
        pretrained = demo.finetune_command("pretrained", rate)
        random = [word for word in demo.finetune_command("random", rate) if word not in ("--start", "random")]
        assert [w.replace("random", "pretrained") for w in random] == pretrained


def test_the_minutes_of_the_quick_demo_fit_into_twenty() -> None:
    quick = BUDGETS["quick"]
    assert quick.pretrain_min + quick.distill_min < 13, "fine-tuning twice, preparing and exporting take the rest"


def test_time_adds_up_over_attempts_and_stops_when_done(tmp_path: Path) -> None:
    Record(tmp_path, "quick").add("pretrain", "lalia pretrain", 60.0, False)
    again = Record(tmp_path, "quick")
    again.add("pretrain", "lalia pretrain", 30.0, True)
    again.add("pretrain", "lalia pretrain", 5.0, True)
    (part,) = parts_of(tmp_path)
    assert (part.seconds, part.done) == (90.0, True)


def test_a_demo_of_the_other_mode_is_renamed_and_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "runs" / "demo"
    for mode in ("quick", "full", "quick"):
        claim(out, mode)
        assert (mode == "quick") == (out / "quick").exists() or not (out / "demo.json").exists()
        (out / mode).touch()
        Record(out, mode).add("prepare", "lalia prepare", 1.0, True)
    assert json.loads((out / "demo.json").read_text())["mode"] == "quick"
    assert (out / "quick").exists() and not (out / "full").exists()
    assert (tmp_path / "runs" / "demo-full" / "full").exists()


@pytest.mark.parametrize("status", [1, 2, 3])
def test_a_stage_that_fails_ends_the_demo_with_its_status(tmp_path: Path, status: int) -> None:
    record = Record(tmp_path, "quick")
    with pytest.raises(StageFailed) as caught:
        demo_module._call("pretrain", ["python", "-c", f"raise SystemExit({status})"], record)
    assert caught.value.status == status
    assert not parts_of(tmp_path)[0].done


def test_an_interrupted_stage_interrupts_the_demo(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        demo_module._call("pretrain", ["python", "-c", "raise SystemExit(130)"], Record(tmp_path, "quick"))


def test_a_student_that_fails_a_check_is_still_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo = Demo(BUDGETS["quick"], tmp_path, tmp_path / "corpus")
    called: list[tuple[str, list[str], str]] = []

    def call(name: str, command: list[str], record: Record, note: str = "") -> None:
        called.append((name, command, note))
        if name == "export":
            write_json(tmp_path / "student.refused.json", {"summary": "It errs too much."})
            raise StageFailed(name, 1)

    monkeypatch.setattr(demo_module, "_call", call)
    demo_module._export(demo, tmp_path / "teacher", Record(tmp_path, "quick"))
    (_, command, _), (_, opened, note) = called
    assert opened[: len(command)] == command and "--gate.teacher_ratio" in opened
    assert note == "Quality check failed: It errs too much."


def test_wrong_arguments_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "--quick" in capsys.readouterr().err


def test_goals_at_their_limits() -> None:
    assert all(goal.met for goal in goals(SUMMARY))
    for section, key, value in [
        ("pretrain", "accuracy", 4.9 / 51), ("pretrain", "code_perplexity", 42.0), ("finetune", "cer_pretrained", 0.161),
        ("student", "mb_int8", 2.01), ("student", "rtf_int8", 0.0051), ("student", "cer_int8", 0.185),
    ]:  # fmt: skip
        changed = copy.deepcopy(SUMMARY)
        changed[section][key] = value
        assert [goal.met for goal in goals(changed)].count(False) == 1, key


@pytest.mark.parametrize("tall", [False, True])
def test_the_chain_is_a_standalone_diagram(tall: bool) -> None:
    facts = ChainFacts(
        hours={"Italian": 0.4, "English <x>": 0.5}, target="Italian", encoder=["2 M parameters"], recogniser=["CER 16 %"],
        student=["1 MB"], word="grazie", arrows=[("mask and predict", "40 min"), ("train with CTC", ""), ("distil", "9 min")],
    )  # fmt: skip
    svg = chain_svg(facts, tall, standalone=True)
    tree = xml.etree.ElementTree.fromstring(svg)
    texts = ["".join(node.itertext()) for node in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Raw audio", "Encoder", "Recogniser", "Student", "English <x>", "24 min", "CER 16 %"} <= set(texts)
    assert [text for text in texts if len(text) == 1 and text.isalpha()] == list("grazie")
    assert int(tree.attrib["height"]) > 1000 if tall else int(tree.attrib["width"]) > 1000


@pytest.mark.xdist_group("chain")
def test_the_report_of_a_tiny_demo(tiny_demo: Demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Record(tiny_demo.out, "quick").add("pretrain", "lalia pretrain fit", 61.0, True)
    path = write_report(tiny_demo)
    html = path.read_text(encoding="utf-8")
    check_page(html)
    summary = json.loads((tiny_demo.out / "summary.json").read_text())
    assert {name: set(values) for name, values in summary.items()} == {n: set(v) for n, v in SUMMARY.items()}
    assert summary["pretrain"]["codes"] == 16 and summary["finetune"]["minutes_of_labels"] <= 0.3
    shown = chosen_clips(Corpus.load(tiny_demo.corpus))
    assert html.count('<article class="clip">') == len(shown) == 6
    assert html.count("<audio") == 2 * len(shown), "each player, and its stand-in where scripts are off"
    assert "1:01" in html and "<code>lalia pretrain fit</code>" in html
    assert html.index('class="chain"') < html.index("<h2>Listen</h2>") < html.index("<h2>Goals</h2>")
    assert "of 6 goals are met" in html and "WER, with the language model" in html
    if BROWSER:
        assert not too_wide([path], tmp_path)
    Record(tiny_demo.out, "quick").add(
        "export", "lalia distill export", 1.0, True, "Quality check failed: 2.1 times the CER"
    )
    refused = write_report(tiny_demo).read_text(encoding="utf-8")
    at = refused.index("The export was refused.")
    assert at < refused.index("Quality check failed: 2.1 times the CER") < refused.index('class="chain"')
    assert len(list(tiny_demo.clips.glob("*.flac"))) == len(shown)
    figures = Figures.load(tiny_demo)
    assert [c.name for c in figures.contenders] == ["teacher", "student, float", "student, int8"]
    assert figures.spoken.wer_alone == pytest.approx(figures.contenders[2].wer, abs=1e-6), (
        "the same file, the same clips"
    )
    assert html.count("with the language model · CER") == len(shown)
    assert figures.contenders[2].mb < figures.contenders[1].mb
    assert student_is_current(tiny_demo)
    print_table(tiny_demo)
    said = capsys.readouterr().out
    assert "student, int8" in said and "+ 6-grams of letters" in said and said.count("met") + said.count("missed") >= 6
