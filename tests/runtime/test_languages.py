"""The language comes from the model unless somebody says otherwise: evaluate, tune and lm on corpora of several languages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lalia.audio.encoding import flac_bytes
from lalia.cli import main
from lalia.errors import UserError
from lalia.model_folder import languages_of, languages_taken
from tests.cli.test_main import make_corpus
from tests.tiny_student import make_student, sing


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return make_student(tmp_path / "student", language="swh")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    clips = [
        (language, split, text, flac_bytes(sing(text if text.isascii() else "ebb")))
        for language, texts in {"swa": ("bad cab", "ace"), "rus": ("привет", "да"), "und": ("", "bed")}.items()
        for split in ("train", "dev", "test")
        for text in texts
    ]
    return make_corpus(tmp_path / "corpus", clips)


def test_evaluate_takes_the_student_s_language(
    student: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["evaluate", str(student), str(corpus), "--json", str(tmp_path / "scores.json")]) == 0
    printed = capsys.readouterr()
    assert printed.err == (
        f"lalia: the language of {student} is swh (Swahili): clips in swa are used, not in rus, und (--language CODE: another)\n"
    )
    assert {clip["language"] for clip in json.loads((tmp_path / "scores.json").read_text())["clips"]} == {"swa"}
    assert main.main(["evaluate", str(student), str(corpus), "--language", "und", "--language", "swh"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "" and {"swa", "und"} <= {line.split()[0] for line in printed.out.splitlines()}
    other = make_student(tmp_path / "other", language=["ita"])
    assert main.main(["evaluate", str(other), str(corpus)]) == 2
    said = capsys.readouterr().err
    assert "has rus, swa, und, and" in said and "is ita (Italian); give --language CODE" in said


def test_lm_and_tune_take_it_too_and_tune_keeps_what_was_before(
    student: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = tmp_path / "lm"
    assert main.main(["lm", str(corpus), "--like", str(student), "--out", str(lm)]) == 0
    assert "2 sentences" in capsys.readouterr().out
    tuned = []
    for _ in range(3):
        assert main.main(["tune", str(student), str(corpus), "--lm", str(lm)]) == 0
        (found,) = json.loads((lm / "card.json").read_text())["tuned"].values()
        tuned.append(found)
        printed = capsys.readouterr()
        assert (
            "clips in swa are used" in printed.err
            and "2 clips are too few for reliable tuning; 40 are enough" in printed.err
        )
        now = f"weight {found['weight']:g}, bonus {found['bonus']:g}"
        assert f"{lm}: {now} are stored for" in printed.out
        assert (f"previously: {now} (on 2 clips of dev, in swa, {found['date']})" in printed.out) == (len(tuned) > 1)
    assert "previous" not in tuned[0] and tuned[0]["languages"] == ["swa"] and tuned[0]["clips"] == 2
    assert tuned[1]["previous"] == tuned[0] and "previous" not in tuned[2]["previous"]


def test_the_same_text_again_keeps_what_tuning_found(student: Path, corpus: Path, tmp_path: Path) -> None:
    lm = tmp_path / "lm"
    make = ["lm", str(corpus), "--like", str(student), "--out", str(lm)]
    assert main.main(make) == main.main(["tune", str(student), str(corpus), "--lm", str(lm)]) == 0
    before = json.loads((lm / "card.json").read_text())["tuned"]
    assert main.main(make) == 0
    assert json.loads((lm / "card.json").read_text())["tuned"] == before
    assert main.main([*make, "--order", "2"]) == 0
    assert "tuned" not in json.loads((lm / "card.json").read_text())


def test_languages_of_a_model() -> None:
    assert languages_of({"language": "ita"}, "spa") == ["ita"]
    assert languages_of({"language": [], "finetuning": {"languages": ["eng", "ita"]}}, "eng") == ["eng", "ita"]
    assert languages_of({"languages": ["ita"], "language": "swa"}, "") == ["ita"]
    assert languages_of({}, "spa") == ["spa"] and languages_of({}, "") == []


def test_languages_taken(capsys: pytest.CaptureFixture[str]) -> None:
    assert languages_taken(None, ["ita"], ["rus"], "m", "c") == []  # one language needs no choice
    assert (
        capsys.readouterr().err
        == "lalia: the language of m is ita (Italian), that of c is rus; its clips are used anyway\n"
    )
    assert languages_taken(None, ["ita"], ["und"], "m", "c") == languages_taken(None, [], ["rus"], "m", "c") == []
    assert languages_taken(None, ["swh"], ["swa"], "m", "c") == []
    assert languages_taken(None, ["ita"], ["ita", "und"], "m", "c", unknown=True) == ["ita", "und"]
    assert languages_taken(["it", "Italian", "it-IT", "tlh"], ["rus"], ["ita", "rus"], "m", "c") == ["ita", "tlh"]
    assert languages_taken([], ["ita"], ["ita", "rus"], "m", "c") == []
    assert capsys.readouterr().err == ""
    assert languages_taken(None, [], ["ita", "rus"], "m", "c") == []
    assert capsys.readouterr().err.startswith("lalia: m does not name its language: clips in ita, rus are used")
    assert languages_taken(None, ["ita"], ["ita", "rus"], "m", "c", quiet=True) == ["ita"]
    assert capsys.readouterr().err == ""
    with pytest.raises(
        UserError, match=r"c: has ita, rus, and the language of m is eng \(English\); give --data.language CODE"
    ):
        languages_taken(None, ["eng"], ["ita", "rus"], "m", "c", flag="--data.language")
