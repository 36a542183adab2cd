"""``lalia finetune tag``: from a corpus with a column of labels to an int8 tagger and honest figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from finetune import tag
from finetune.tag import main
from lalia.cards import read_card
from lalia.data.mixture import Mixture
from lalia.errors import GateRefused, UserError
from lalia.models.classifier import Classifier
from lalia.models.encoder import Encoder
from lalia.tags.tagger import Tagger
from tests.models.test_classifier import SMALL
from tests.training.test_linear_probe import corpus, grid


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder") / "encoder"
    Encoder(SMALL).save(folder, [])
    return str(folder)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(corpus(tmp_path_factory.mktemp("tones") / "c", *grid("low mid high", "a b c d e f g h")))


def test_in_closed_form(tmp_path: Path, encoder: str, tones: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main([tones, "--label", "pitch", "--apart", "speaker", "--encoder", encoder, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "on 48 clips of 8 speakers that training never saw, 3 of 3 labels" in printed.err
    assert f"next: lalia tag {out}" in printed.out
    scores = json.loads((out / "scores.json").read_text())
    assert scores["accuracy"] > 0.9 and scores["chance"] == pytest.approx(1 / 3)
    card = read_card(out / "tagger", "tagger")
    assert card["licence"] == "CC0" and card["task"] == "pitch" and card["evaluation"]["accuracy"] == scores["accuracy"]
    assert card["parents"][0]["kind"] == "classifier"
    assert main([tones, "--label", "pitch", "--apart", "speaker", "--encoder", encoder, "--out", str(out)]) == 0
    assert "this run is finished" in capsys.readouterr().err
    with pytest.raises(UserError, match="made with other settings or inputs"):
        main([tones, "--label", "pitch", "--apart", "source", "--encoder", encoder, "--out", str(out)])
    facts = Classifier.load(out / "classifier").facts
    assert (
        facts.labels == ["high", "low", "mid"]
        and facts.moments == 2
        and facts.joined
        and facts.clip_s == pytest.approx(0.8)
    )


def test_no_figure_is_printed_where_labels_and_sources_coincide(
    tmp_path: Path, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = corpus(tmp_path / "c", *grid("low", "a b", "x"), *grid("high", "c d", "y"))
    for apart in ("source", "speaker"):
        out = tmp_path / apart
        main([str(folder), "--label", "pitch", "--apart", apart, "--encoder", encoder, "--out", str(out)])
        printed = capsys.readouterr().err
        assert (
            "cannot be known and is not printed" in printed and "accuracy 0" not in printed and "layer (" not in printed
        )
        scores = json.loads((out / "scores.json").read_text())
        assert "accuracy" not in scores and "by_layer" not in scores and "cannot be known" in scores["unknown"]
        assert (out / "tagger" / "model.onnx").is_file()


def test_all_weights_and_the_same_command_continues(
    tmp_path: Path, encoder: str, tones: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("finetune.tag.KEPT_EVERY", 5)
    common = [tones, "--label", "pitch", "--apart", "speaker", "--encoder", encoder, "--all-weights", "--steps", "20",
              "--batch_s", "8", "--lr", "0.01"]  # fmt: skip
    main([*common, "--out", str(tmp_path / "whole")])
    assert "of 2 speakers that training never saw" in capsys.readouterr().err
    keep = tag._keep

    def interrupt(path: Path, state: dict[str, object]) -> None:
        keep(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune.tag._keep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        main([*common, "--out", str(tmp_path / "broken")])
    monkeypatch.setattr("finetune.tag._keep", keep)
    with pytest.raises(UserError, match="begun with other settings"):
        main([*common, "--seed", "2", "--out", str(tmp_path / "broken")])
    main([*common, "--out", str(tmp_path / "broken")])
    assert "continuing from step 5" in capsys.readouterr().err
    whole, broken = (Classifier.load(tmp_path / name / "classifier").state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(weight, broken[name]) for name, weight in whole.items())
    assert not (tmp_path / "broken/checkpoint.pt").exists()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, encoder: str, tones: str) -> str:
    out = tmp_path_factory.mktemp("teacher") / "run"
    main([tones, "--label", "pitch", "--apart", "speaker", "--encoder", encoder, "--reject", "low", "--out", str(out)])
    return str(out)


@pytest.mark.parametrize(
    "way", [["--blocks", "1"], ["--blocks", "1", "--all-weights", "--steps", "30", "--batch_s", "8", "--lr", "0.01"]]
)
def test_a_teacher_s_labels_are_learned_without_its_corpus(
    tmp_path: Path, encoder: str, teacher: str, way: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    unlabelled = corpus(tmp_path / "c", *grid("low high", "p q r s t u v w"))
    out = tmp_path / "student"
    command = [str(unlabelled), "--teacher", teacher, "--encoder", encoder, *way, "--out", str(out)]
    assert main(command) == 0
    printed = capsys.readouterr().err
    assert "the teacher names 2 of its 3 labels here" in printed and "agreement with the teacher" in printed
    scores = json.loads((out / "scores.json").read_text())
    assert scores["agreement"] > 0.9 and scores["apart"] == "speaker" and "accuracy" not in scores
    card = read_card(out / "tagger", "tagger")
    assert card["task"] == "pitch" and card["evaluation"]["agreement"] == scores["agreement"]
    classifier = Classifier.load(out / "classifier")
    assert (
        classifier.facts.top(2) <= 1
        and classifier.facts.labels == ["high", "low"]
        and classifier.facts.rejected == ["low"]
    )
    assert read_card(Path(teacher) / "tagger")["id"] in {p["id"] for p in read_card(out / "classifier")["parents"]}
    wave = Mixture.load([unlabelled]).wave(0)
    found = classifier(torch.from_numpy(wave)[None], torch.tensor([len(wave)])).softmax(-1)[0]
    expected = Tagger.load(teacher).tag(wave).whole.labels[0]
    assert found.max().item() > 0.7 and classifier.facts.labels[int(found.argmax())] == expected[0]


def test_a_student_that_agrees_too_seldom_is_not_exported(
    tmp_path: Path, encoder: str, teacher: str, tones: str
) -> None:
    out = tmp_path / "student"
    command = [tones, "--teacher", teacher, "--encoder", encoder, "--out", str(out), "--agreement"]
    with pytest.raises(GateRefused, match=r"is 1\.000; the limit \(--agreement\) is 1\.1.*lalia convert"):
        main([*command, "1.1"])
    assert (out / "classifier").is_dir() and not (out / "tagger").exists() and not (out / "scores.json").exists()
    assert main([*command, "0.5"]) == 0 and (out / "tagger").is_dir()
    alone = corpus(tmp_path / "c", *grid("low", "a b", "x"), *grid("high", "c d", "y"))
    command = [str(alone), "--teacher", teacher, "--encoder", encoder, "--out", str(tmp_path / "alone")]
    with pytest.raises(GateRefused, match="agreement with the teacher cannot be known"):
        main([*command, "--apart", "source"])
    deaf = corpus(tmp_path / "deaf", *grid("low", "a b c"))
    with pytest.raises(UserError, match="the teacher names low alone"):
        main([str(deaf), *command[1:]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teacher", "t", "--label", "pitch"], "either --label COLUMN or --teacher"),
        ([], "either --label COLUMN or --teacher"),
        (["--teacher", "t", "--only", "low"], "--only belongs to --label"),
        (["--label", "pitch", "--apart", "recording"], "--apart recording: expected source or speaker"),
        (["--teacher", "no-such-folder"], "no-such-folder"),
        (["--label", "pitch", "--blocks", "3"], "--blocks 3: the encoder has 2"),
        (["--label", "mood"], "has no column 'mood'"),
        (["--label", "pitch", "--reject", "noise"], "--reject noise: is not a label"),
        (["--label", "pitch", "--only", "low"], "the only pitch is 'low'"),
        (["--label", "language"], "no clip has a language"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, encoder: str, tones: str, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main([tones, "--apart", "speaker", *arguments, "--encoder", encoder, "--out", str(tmp_path / "run")])
