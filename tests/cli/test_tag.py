"""``lalia tag``: labels of files in three formats, a time line, a stream, and bad input in a line."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.tag import main as train
from lalia.cli.main import main
from lalia.models.encoder import Encoder
from tests.models.test_classifier import SMALL
from tests.tiny_clips import save
from tests.training.test_linear_probe import corpus, grid, tone


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a tagger of tones, and files to tag: low.wav, high.wav, silent.wav, none.wav, long.wav."""
    folder = tmp_path_factory.mktemp("tag")
    torch.manual_seed(0)
    Encoder(SMALL).save(folder / "encoder", [])
    clips = corpus(folder / "c", *grid("low mid high", "a b c d e f"))
    train(
        [
            str(clips),
            "--label",
            "pitch",
            "--apart",
            "speaker",
            "--encoder",
            str(folder / "encoder"),
            "--out",
            str(folder / "run"),
        ]
    )
    (folder / "files").mkdir()
    for name in ("low", "high"):
        save(folder / f"files/{name}.wav", tone(name, 99, 1.0))
    save(folder / "files/silent.wav", np.zeros(16_000, np.float32))
    save(folder / "short.wav", tone("low", 99, 0.3))
    (folder / "none.wav").write_bytes(b"")
    save(folder / "long.wav", np.concatenate([tone("low", 5, 30.0), tone("high", 6, 30.0)]))
    return folder


def test_files_in_three_formats(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tag", str(run / "run"), str(run / "files")]) == 0
    printed = capsys.readouterr()
    lines = [line.split("\t") for line in printed.out.splitlines()]
    assert [(Path(name).name, label) for name, label, _ in lines] == [
        ("high.wav", "high"),
        ("low.wav", "low"),
        ("silent.wav", "-"),
    ]
    assert "silent.wav: holds only silence, so it has no label" in printed.err and "× real time" in printed.err
    assert main(["tag", str(run / "run/tagger"), str(run / "files/low.wav"), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["task"] == "pitch" and found["label"] == "low" and set(found["labels"]) == {"low", "mid", "high"}
    assert sum(found["labels"].values()) == pytest.approx(1, abs=1e-3)
    assert main(["tag", str(run / "run"), str(run / "long.wav"), "--format", "csv", "--every", "5"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "file,start_s,end_s,label,probability"
    spans = [row.split(",") for row in rows]
    assert spans[0][1] == "0.0" and spans[-1][2] == "60.0"
    assert all(one[2] == two[1] and one[3] != two[3] for one, two in pairwise(spans))


def test_bad_input(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tag", str(run / "run"), str(run / "none.wav"), str(run / "short.wav")]) == 1
    printed = capsys.readouterr()
    assert "none.wav" in printed.err and "short.wav: 0.3 s of sound is short" in printed.err
    assert printed.out.split("\t")[1] == "low"
    assert main(["tag", str(run / "run"), str(run / "none.wav")]) == 2
    for arguments, message in (
        (
            ["tag", str(run / "run/classifier"), "x.wav"],
            "is a classifier, expected a tagger; export it first: lalia convert",
        ),
        (["tag", str(run / "c"), "x.wav"], "is a corpus, expected a tagger"),
        (["tag", str(run / "run")], "expected audio files, or --live"),
        (["tag", str(run / "run"), "x.wav", "--live"], "--live: takes no files"),
        (["tag", str(run / "run"), "x.wav", "--every", "0.1"], "--every 0.1: expected seconds"),
        (["transcribe", str(run / "run/tagger"), "x.wav"], "is a tagger, expected a student"),
    ):
        capsys.readouterr()
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_a_damaged_tagger_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(run / "run/tagger", tmp_path / "t")
    (tmp_path / "t/tagger.json").write_text('{"task": "mood", "labels": ["a", "b"]}')
    assert main(["tag", str(tmp_path / "t"), "x.wav"]) == 2
    assert "tagger.json: is not the file the card was written for" in capsys.readouterr().err


def test_commands_in_a_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tag", str(run / "run"), "--live", "--from", str(run / "long.wav"), "--threshold", "0.3"]) == 0
    printed = capsys.readouterr()
    assert {line.split("\t")[1] for line in printed.out.splitlines()} <= {"low", "mid", "high"}
    assert printed.out
    assert "in 1:00, RTF" in printed.err
