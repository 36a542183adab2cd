"""Evaluation: the figures are those of the clips, and a bad clip among many is named and left out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lalia import Student
from lalia.errors import AudioError
from lalia.scoring.evaluation import ClipInfo, details, evaluate
from tests.tiny_student import make_student, sing


class Songs:
    """Labelled clips in memory: id, language, label, wave (None: broken)."""

    rows = (
        ("0", "ita", "Bad, cab!", "bad cab"),
        ("1", "ita", "dad ebb", "dad abb"),
        ("2", "rus", "ace", "ace"),
        ("3", "rus", "bed", None),
        ("4", "rus", "…", "a"),
        ("5", "rus", "bed", "ten days of it"),
    )

    def id(self, row: int) -> str:
        return self.rows[row][0]

    def language(self, row: int) -> str:
        return self.rows[row][1]

    def text(self, row: int) -> str:
        return self.rows[row][2]

    def wave(self, row: int) -> np.ndarray:
        tune = self.rows[row][3]
        if tune is None:
            raise AudioError("songs: clip 3: is cut short")
        if tune == "ten days of it":
            raise MemoryError
        return sing(tune)


def test_evaluate(tmp_path: Path) -> None:
    student = Student.load(make_student(tmp_path / "s"), threads=1)
    seen = []
    found = evaluate(
        student.transcribe,
        student.normaliser,
        Songs(),
        range(6),
        progress=lambda so_far: seen.append(len(so_far.clips)),
    )
    assert seen == [1, 2, 3]
    assert [(c.reference, c.hypothesis) for c in found.clips] == [
        ("bad cab", "bad cab"),
        ("dad ebb", "dad abb"),
        ("ace", "ace"),
    ]
    assert found.skipped[:2] == ["songs: clip 3: is cut short", "4: its label has no letters"]
    assert found.skipped[2].startswith("5: is too long for the free memory") and len(found.skipped) == 3
    assert found.score().cer.rate == pytest.approx(1 / 17)
    assert found.score("ita").wer.rate == pytest.approx(1 / 4)
    assert found.score("rus").wer.rate == 0
    assert found.languages() == ["ita", "rus"]
    assert 0 < found.rtf < 1
    stored = json.loads(json.dumps(found.as_dict()))
    assert set(stored["scores"]) == {"all", "ita", "rus"}
    assert stored["scores"]["all"]["cer_interval"][1] >= stored["scores"]["all"]["cer"]
    assert len(stored["clips"]) == 3
    assert [right for _, right in stored["clips"][1]["words"]] == [True, False]
    assert all(0.5 < confidence <= 1 for clip in stored["clips"] for confidence, _ in clip["words"])


def test_details(tmp_path: Path) -> None:
    student = Student.load(make_student(tmp_path / "s"), threads=1)
    about = {"0": ClipInfo("anna", 12.0), "1": ClipInfo("anna", 35.0), "2": ClipInfo("", 8.0)}
    found = details(evaluate(student.transcribe, student.normaliser, Songs(), range(3)), about)
    lines = found.splitlines()
    assert lines[1].split() == ["under", "2", "s", "3", "5.9", "20.0"]
    assert lines[3:7] == [
        "signal to noise       clips   CER %   WER %",
        "under 10 dB               1     0.0     0.0",
        "10 to 20 dB               1     0.0     0.0",
        "30 to 40 dB               1    14.3    50.0",
    ]
    assert [line.split()[0] for line in lines if line.startswith(("speaker", "anna", "unknown"))] == [
        "speaker",
        "anna",
        "unknown",
    ]
    assert "confusions of letters: e → a 1" in lines and "confusions of words: ebb → abb 1" in lines
    assert lines[lines.index("1") + 1 : lines.index("1") + 3] == ["  reference   dad ebb", "  hypothesis  dad abb"]
