"""Export of a tiny student: it runs without torch, or only a report names the cause of the failed check."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.__main__ import check_data
from distill.config import ExportSettings
from distill.measure import footprint, real_time_factors, sample
from lalia.cards import ancestors, read_card
from lalia.data.mixture import Mixture
from lalia.models.recogniser import Recogniser
from lalia.runtime.student import Student
from tests.tiny_corpus import make_corpus
from tests.tiny_teacher import make_teacher

FEW = ("--measure.timing_s", "4", "--measure.repeats", "1", "--measure.sensitivity_s", "6", "--gate.speed", "0.1")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    make_corpus(folder / "corpus", 36, ("ita",))
    make_teacher(folder / "teacher", folder / "corpus")
    return folder


@pytest.fixture()
def export(made, command):
    """``export(recogniser, out, *flags)`` -> (exit status, standard output, standard error)."""
    given = "--teacher", str(made / "teacher"), "--data.corpus", str(made / "corpus"), "--data.language", "ita"
    return lambda recogniser, out, *flags: command(
        "export", "--recogniser", str(recogniser), *given, "--out", str(out), *FEW, *flags
    )


def spoil(source: Path, folder: Path) -> Path:
    """The recogniser of ``source`` with one feature a hundred thousand times larger, and its weights as much smaller: in float
    the very same function, in int8 that feature leaves no steps for the others."""
    recogniser = Recogniser.load(source)
    encoder = recogniser.encoder
    with torch.no_grad():
        encoder.feature_norm.weight[5] *= 1e5
        encoder.feature_norm.bias[5] *= 1e5
        encoder.projection.weight[:, 5] *= 1e-5
    recogniser.save(folder, read_card(source)["parents"])
    return folder


def test_a_good_recogniser_becomes_a_student(made, export):
    status, said, complained = export(made / "teacher", made / "student")
    assert status == 0, complained
    assert str(made / "student") in said
    assert {path.name for path in (made / "student").iterdir()} == {
        "model.onnx", "tokens.txt", "normaliser.json", "card.json",
    }  # fmt: skip
    card = read_card(made / "student", "student")
    assert card["frame_s"] == pytest.approx(0.04)
    assert card["sample_rate"] == 16_000
    assert card["bytes"] < 0.6 * card["bytes_float"]
    assert set(card["scores"]) == {"split", "teacher", "float", "int8"}
    low, high = card["scores"]["int8"]["cer_interval"]
    assert low <= card["scores"]["int8"]["cer"] <= high
    assert set(card["rtf"]["teacher"]) == set(card["rtf"]["int8"]) == {"1", "2"}
    assert card["cold_start_s"] > 0 and card["peak_memory_mb"] > 10
    assert card["machine"]["cores"] >= 1
    assert [parent["kind"] for parent in ancestors(card)] == ["recogniser", "corpus"]
    assert card["quantization"]["float"] == []
    kinds = [harm["group"] for harm in card["quantization"]["sensitivity"]]
    assert kinds == ["projection", "attention", "convolution", "feed-forward", "head"]

    mixture = Mixture.load([made / "corpus"])
    row = int(mixture.select("test", ["ita"])[0])
    heard = Student.load(made / "student").transcribe(mixture.wave(row))
    assert heard.words and heard.duration_s == pytest.approx(mixture.durations_s[row], abs=0.01)


def test_a_spoiled_recogniser_is_refused_and_nothing_is_written(made, export, tmp_path):
    spoiled = spoil(made / "teacher", tmp_path / "spoiled")
    status, _, complained = export(spoiled, tmp_path / "student", "--quantize.rescue", "0")
    assert status == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spoiled", "student.refused.json"]
    assert "Quantizing projection costs most" in complained
    report = json.loads((tmp_path / "student.refused.json").read_text())
    assert report["missed"][0]["budget"] == "float_ratio"
    assert report["sensitivity"][0]["group"] == "projection"
    assert report["summary"] in complained
    assert report["time_by_operator"]


def test_a_refusal_leaves_the_student_that_was_there(made, export, tmp_path):
    (tmp_path / "student").mkdir()
    (tmp_path / "student" / "card.json").write_text("the old one")
    status, _, complained = export(
        made / "teacher", tmp_path / "student", "--measure.clips", "2", "--gate.speed", "1e9"
    )
    assert status == 1
    assert "the limit is 1e+09" in complained
    assert (tmp_path / "student" / "card.json").read_text() == "the old one"


def test_the_harmful_group_returns_to_float_and_the_student_passes(made, export, tmp_path):
    spoiled = spoil(made / "teacher", tmp_path / "spoiled")
    status, said, complained = export(spoiled, tmp_path / "student")
    assert status == 0, complained
    assert read_card(tmp_path / "student")["quantization"]["float"] == ["projection"]
    assert "in float: projection" in said


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--gate.size_ratio", "0.01"], 1, "the limit is 0.01"),
        (
            ["--quantize.keep_float", "tail"],
            2,
            "keep_float tail: no such group; there are projection, blocks.0.attention",
        ),
        (["--data.language", "deu"], 2, "deu: not in the corpus"),
        (["--recogniser", "nowhere"], 2, "--recogniser nowhere: no such folder"),
    ],
)
def test_what_is_missed_or_mistaken_is_said_in_one_line(made, export, tmp_path, flags, status, said):
    found, _, complained = export(made / "teacher", tmp_path / "student", "--measure.clips", "2", *flags)
    assert found == status
    assert said in complained.strip().splitlines()[-1]
    assert not (tmp_path / "student").exists()


def test_the_language_is_the_recogniser_s_where_none_is_said(made, tmp_path, capsys):
    corpus = make_corpus(tmp_path / "corpus", 6, ("eng", "ita"))
    teacher = tmp_path / "teacher"
    Recogniser.load(made / "teacher").save(teacher, [], finetuning={"languages": ["ita"]})
    settings = ExportSettings()
    settings.data.corpus = [str(corpus)]
    check_data(settings, str(teacher))
    assert settings.data.language == ["ita"]
    assert (
        "is ita (Italian): clips in ita are used, not in eng (--data.language CODE: another)" in capsys.readouterr().err
    )
    settings.data.language = ["eng"]
    check_data(settings, str(teacher))
    assert settings.data.language == ["eng"]


def test_contenders_take_turns():
    turns = []
    found = real_time_factors(
        {"a": lambda clip: turns.append("a"), "b": lambda clip: turns.extend("bb")},
        [np.zeros(16_000)] * 2,
        3,
        lambda: len(turns),
    )
    assert "".join(turns) == "abb" + "abb" * 2 * 3
    assert found == {"a": 1.0, "b": 2.0}  # by a clock that ticks once a letter


def test_samples_are_spread_over_the_clips(made):
    mixture = Mixture.load([made / "corpus"])
    rows = mixture.select("train", ["ita"])
    few = sample(mixture, rows, 10.0)
    assert 1 < len(few) < len(rows)
    assert float(mixture.durations_s[few].sum()) == pytest.approx(10.0, rel=0.4)
    assert sample(mixture, rows, 1e9) == rows.tolist()
    assert len(sample(mixture, rows, 0.0)) == 1


def test_memory_and_cold_start_are_those_of_a_process_without_torch(tmp_path):
    from tests.tiny_student import make_student, sing

    found = footprint(make_student(tmp_path / "student"), sing("abc"), repeats=1)
    assert 0 < found["cold_start_s"] < 120
    assert 10 < found["peak_memory_mb"] < 400
