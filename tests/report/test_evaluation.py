"""The page of an evaluation: its figures are those of the clips, and what is not known is left out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lalia.audio.encoding import flac_bytes
from lalia.cli import main
from lalia.errors import AudioError
from lalia.report.evaluation_page import write_evaluation
from lalia.scoring.evaluation import ClipInfo, Evaluation, ScoredClip
from tests.cli.test_main import make_corpus
from tests.tiny_student import make_student, sing

CARD = {"kind": "student", "id": "sha256:0123456789ab", "parents": []}


def clip(number: int, reference: str, hypothesis: str, seconds: float = 1.0, language: str = "ita") -> ScoredClip:
    words = tuple((0.9, word in reference.split()) for word in hypothesis.split())
    return ScoredClip(str(number), language, reference, hypothesis, seconds, words)


def write(path: Path, heard: list[ScoredClip], about: dict[str, ClipInfo], **asked: str) -> str:
    found = Evaluation(heard, ["7: <cut> short"], elapsed_s=0.5)

    def wave(id: str) -> np.ndarray:
        if id == "1":
            raise AudioError("clip 1: is cut short")
        return sing("bad cab")

    write_evaluation(path, "mine on <theirs>", {"split": "test", **asked}, found, about, bool(asked), wave, CARD)
    text = path.read_text(encoding="utf-8")
    assert "mine on &lt;theirs&gt;" in text and "7: &lt;cut&gt; short" in text and "https://" not in text
    return text


def rows(text: str) -> dict[str, list[str]]:
    """The cells of the table by the first of each row."""
    found: dict[str, list[str]] = {}
    for row in re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.DOTALL):
        cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        found |= {cells[0]: cells[1:]} if cells else {}
    return found


def test_page(tmp_path: Path) -> None:
    heard = [clip(0, "bad cab", "bad cab"), clip(1, "dad ebb", "dad abb", 3.0), clip(2, "ace", "", 3.0, "rus")]
    about = {"0": ClipInfo("anna", 5.0), "1": ClipInfo("ben", 25.0), "2": ClipInfo("", float("nan"))}
    text = write(tmp_path / "page.html", heard, about, language="ita", lm="lms/letters", hot="names.txt")
    found = rows(text)
    assert found["length: under 2 s"][:3] == ["1", "2", "0.0\u202f%"]
    assert found["length: 2 to 5 s"][:3] == ["2", "3", "40.0\u202f%"]
    assert found["signal to noise: 20 to 30 dB"][0] == "1" and found["signal to noise: unknown"][4] == "100.0\u202f%"
    assert {f"speaker: {name}" for name in ("anna", "ben", "unknown")} < set(found)
    assert found["language: rus"][0] == "1" and found["all"][:3] == ["3", "5", "23.5\u202f%"]
    assert "a language model (letters) and hot words (names.txt)" in text
    assert text.count("<audio preload") == 2  # the sound of clip 1 is cut short
    assert (
        "ebb → abb" in text
        and "Letters: every error occurs once." in text
        and "ace → nothing" in text
        and "1 of 1" in text
    )
    assert "Expected calibration error (ECE): 0.150" in text and "calibrated by lalia tune" in text


def test_greedy_decoding_beside_the_language_model(tmp_path: Path) -> None:
    heard = [
        replace(clip(0, "bad cab", "bad cab"), greedy="bad"), replace(clip(1, "dad cab", "dad cab"), greedy="dad cob"),
        replace(clip(2, "ace bad", "ace ebb"), greedy="ace bad"),
    ]  # fmt: skip
    text = write(tmp_path / "page.html", heard, {}, lm="lms/words")
    found = rows(text)
    assert found["greedy"][2] == "33.3\u202f%" and found["with a language model (words)"][2] == "16.7\u202f%"
    assert "2 of 3 clips have fewer wrong words and 1 have more" in text and "16.7 points lower" in text
    assert found["cab"] == ["2", "2", "0", ""] and found["bad"] == ["2", "0", "1", "ebb"]
    assert "greedy, CER" in text and "with a language model (words), CER" in text


def test_little_is_known(tmp_path: Path) -> None:
    transducer = write(tmp_path / "page.html", [ScoredClip("0", "ita", "bad", "bad", 1.0)], {}, decoder="transducer")
    assert "by greedy decoding of its transducer, without" in transducer
    text = write(tmp_path / "page.html", [ScoredClip("0", "ita", "bad", "bad", 1.0)], {})
    assert "None: every transcript equals its reference." in text and "by greedy decoding" in text
    assert "every word of the references is right" in text and "Greedy and language model" not in text
    assert "speaker" not in text and "calibration" not in text and set(rows(text)) == {"length: under 2 s", "all"}


def test_errors_that_occur_once_are_no_bars(tmp_path: Path) -> None:
    heard = [clip(n, f"bad {word}", "bad cab") for n, word in enumerate(("ace", "add", "fade", "feed"))]
    text = write(tmp_path / "page.html", heard, {})
    assert "Words: every error occurs once." in text and "Confusions of words" not in text
    assert "Confusions of letters" in text, "some of them occur more often"


def test_many_speakers(tmp_path: Path) -> None:
    heard = [clip(n, "bad cab", "bad cab" if n < 15 else "bad") for n in range(20)]
    found = write(tmp_path / "page.html", heard, {str(n): ClipInfo(f"s{n:02}", 30.0) for n in range(20)})
    assert [name for name in rows(found) if name.startswith("speaker")][:5] == [f"speaker: s{n}" for n in range(15, 20)]
    assert "The 8 of 20 speakers with the highest CER" in found and "In the middle" in found


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = make_student(tmp_path / "student")
    clips = [("ita", "test", text, flac_bytes(sing(text))) for text in ("bad cab", "ace")]
    corpus = make_corpus(tmp_path / "corpus", clips)
    page = tmp_path / "out" / "page.html"
    assert main.main([str(a) for a in ("evaluate", student, corpus, "--html", page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert f"page: {page}" in capsys.readouterr().out and "student on corpus" in text and "2 clips" in text
    (tmp_path / "file").write_text("")
    assert main.main([str(a) for a in ("evaluate", student, corpus, "--html", tmp_path / "file" / "page.html")]) == 2
    error = capsys.readouterr().err
    assert "cannot be written" in error and error.count("\n") == 1
