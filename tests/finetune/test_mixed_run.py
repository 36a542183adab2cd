"""A run in German and Turkish: labels, recogniser folder, student, distillation and evaluation, each by its language."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from distill.__main__ import main as distill
from finetune.evaluate import FinetunedModel, main
from lalia.models.recogniser import Recogniser
from lalia.runtime.student import Student
from lalia.text.normaliser import Normaliser
from tests.tiny_corpus import make_corpus
from tests.tiny_finetune import fit, make_folder
from tests.tiny_teacher import make_recogniser

STEPS = ("--schedule.steps", "2", "--log.valid_every", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_folder(tmp_path_factory.mktemp("mixed"))
    shutil.rmtree(made / "corpus")
    make_corpus(made / "corpus", 12, ("deu", "tur"))
    return made


def rules(folder: Path) -> dict[str, str]:
    """What each language of the recogniser or student in ``folder`` makes of one text."""
    normaliser = Normaliser.from_json(folder / "normaliser.json")
    return {code: normaliser.for_language(code)("ISPARTA ist groß") for code in normaliser.languages}


def test_from_labels_to_an_evaluation(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(folder, "run", *STEPS, language="[deu,tur]")
    told = capsys.readouterr()
    # i n d e s t g r o ß, then ı p a l k
    assert "languages: deu has 10 tokens, tur adds 5 (a k l p ı); 15 together" in told.err
    assert "labels of deu: " in told.err and "labels of tur: " in told.err
    assert "deu CER" in told.out and "mean over languages CER" in told.out
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    spoken = {word for clip in scores["clips"] for word in clip["reference"].split()}
    assert {"ısparta", "ist"} <= spoken <= {"indien", "ist", "groß", "ısparta", "ilk"}
    assert scores["mean"]["cer"] == pytest.approx(sum(scores["languages"][code]["cer"] for code in ("deu", "tur")) / 2)
    expected = {"deu": "isparta ist groß", "tur": "ısparta ist groß"}
    assert rules(run / "recogniser") == expected
    assert Recogniser.load(run / "recogniser", "tur").normaliser("ISPARTA") == "ısparta"
    model = FinetunedModel.find(run, asked=["tur"])
    assert rules(model.student()) == expected and Student.load(run).languages == ["deu", "tur"]

    capsys.readouterr()
    assert main([str(run)]) == 0
    told = capsys.readouterr()
    assert {"deu", "tur", "all", "mean"} <= {line.split()[0] for line in told.out.splitlines() if line}
    found = json.loads((run / "evaluation" / "scores.json").read_text(encoding="utf-8"))
    assert {word for clip in found["clips"] for word in clip["reference"].split()} == spoken

    flags = [
        "--data.corpus",
        str(folder / "corpus"),
        "--teacher",
        str(run / "recogniser"),
        "--data.workers",
        "0",
        *STEPS,
    ]
    flags += ["--batch.hours", "0.004", "--batch.micro_s", "15", "--out", str(tmp_path / "small")]
    assert distill(["fit", *flags, "--log.checkpoint_every", "2"]) == 0
    assert rules(tmp_path / "small" / "recogniser") == expected


def test_a_recogniser_of_one_language_gets_another(folder: Path) -> None:
    """Italian keeps its rules; German has its own beside them."""
    make_recogniser().save(folder / "italian_recogniser", [])
    run = fit(folder, "more", "--recogniser", str(folder / "italian_recogniser"), *STEPS, language="[deu,tur]")
    assert rules(run / "recogniser") == {
        "deu": "isparta ist groß", "ita": "isparta ist groß", "tur": "ısparta ist groß"
    }  # fmt: skip
