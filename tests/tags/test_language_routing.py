"""Recordings in several languages: each part by the student of its language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lalia.audio.reading import Note
from lalia.cli.main import main
from lalia.decoding.greedy import Word
from lalia.errors import UserError
from lalia.runtime.streaming import StreamUpdate
from lalia.runtime.student import Student, TranscribeOptions
from lalia.runtime.transcript import Transcript
from lalia.tags.language_routing import RoutedStream, StudentsByLanguage, pieces
from lalia.tags.tagger import Tagger
from tests.tags.test_tagger import Crossings
from tests.tiny_clips import encoded, save
from tests.tiny_student import make_student, sing


class Pitch(Crossings):
    """Low tones are Swahili, high ones Icelandic."""

    centres = (0.05, 0.085, 0.5)


def tagger(labels: tuple[str, ...] = ("swh", "isl", "deu"), task: str = "language") -> Tagger:
    session: Any = Pitch()
    return Tagger(session, {"task": task, "labels": list(labels), "clip_s": 5.0}, {"frame_s": 0.04})


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("students")
    make_student(folder / "swahili", language="swh")
    make_student(folder / "icelandic", language="isl")
    return folder


def tune(text: str, seconds: float) -> np.ndarray:
    wave = sing(text)
    return np.tile(wave, int(np.ceil(seconds * 16_000 / len(wave))))[: int(seconds * 16_000)]


def test_each_part_is_transcribed_in_its_language(students: Path) -> None:
    wave = np.concatenate([tune("ab ", 30.0), tune("eee ", 30.0)])
    both = StudentsByLanguage(StudentsByLanguage.load(students, None, 1).students, tagger())
    notes: list[Note] = []
    found = both.transcribe(encoded(wave, form="WAV"), "talk", TranscribeOptions(on_note=notes.append))
    assert found.duration_s == pytest.approx(60.0) and found.words == sorted(found.words, key=lambda word: word.start_s)
    [note] = notes
    first, second = note.text.removeprefix("languages: ").split("; ")
    assert first.startswith("swh 0:00 to 0:") and second.startswith("isl 0:") and second.endswith("to 1:00")
    assert {word.text for word in found.words if word.end_s < 24} == {"ab"}
    assert set(found.text.split("\n")[1].split()[2:-1]) == {"eee"}


def test_without_a_tagger_the_most_confident_student_writes(students: Path) -> None:
    def student(confidence: float) -> Any:
        class Fixed:
            def transcribe(self, wave_S: np.ndarray, *_: object) -> Transcript:
                return Transcript("word", [Word("word", 0.0, 1.0, confidence)] * (confidence > 0))

        return Fixed()

    wave = tune("ab", 3.0)
    assert StudentsByLanguage({"swh": student(0.6), "isl": student(0.9)}).language_of(wave) == "isl"
    assert StudentsByLanguage({"swh": student(0.0), "isl": student(0.0)}).language_of(wave) == ""
    real = StudentsByLanguage.load(students, None, 1)
    assert real.transcribe(encoded(np.zeros(32_000, np.float32), form="WAV")).text == ""
    assert real.transcribe(encoded(wave, form="WAV")).text == Student.load(students / "swahili").transcribe(wave).text


def test_pieces_are_cut_in_silence_and_lose_nothing() -> None:
    wave = np.concatenate([tune("ab", 8.0), np.zeros(16_000, np.float32), tune("e", 30.0)])
    cut = list(pieces([wave[start : start + 5000] for start in range(0, len(wave), 5000)]))
    np.testing.assert_array_equal(np.concatenate(cut), wave)
    assert all(len(piece) <= 18 * 16_000 for piece in cut) and len(cut) > 3
    loud = np.concatenate([tune("ab", 8.0) + 0.1, np.zeros(16_000, np.float32), tune("e", 30.0) + 0.1])
    assert 8.0 <= len(next(iter(pieces([loud])))) / 16_000 <= 9.0


def test_models_that_do_not_belong_together_are_refused(
    students: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = StudentsByLanguage.load(students, None, 1).students
    with pytest.raises(UserError, match="is a tagger of emotion"):
        StudentsByLanguage(known, tagger(task="emotion"))
    with pytest.raises(UserError, match="two or more languages have to be the same"):
        StudentsByLanguage(known, tagger(("swh", "fra", "deu")))
    save(tmp_path / "talk.wav", tune("ab", 2.0))
    talk = str(tmp_path / "talk.wav")
    for arguments, message in (
        ([str(students / "swahili"), talk, "--language", "auto"], "writes swh only; --language auto needs a folder"),
        ([str(tmp_path), talk, "--language", "auto"], "--language auto needs a folder with students"),
        ([str(students), talk, "--language", "auto", "--only", talk], "--only: belongs to one language"),
        ([str(students / "swahili"), talk, "--tagger", talk], "--tagger: needs --language auto"),
        ([str(students), talk, "--language", "auto", "--channels", "each"], "--language auto mixes channels"),
    ):
        assert main(["transcribe", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["transcribe", str(students), talk, "--language", "auto"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() and "languages: " in printed.err
    make_student(tmp_path / "twice/one", language="swh")
    make_student(tmp_path / "twice/two", language="swh")
    assert main(["transcribe", str(tmp_path / "twice"), talk, "--language", "auto"]) == 2
    assert "writes swh, as another student" in capsys.readouterr().err


def test_prepare_lists_clips_that_sound_like_another_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["path\tlanguage"]
    for number, (text, language) in enumerate(
        (("ab ", "swh"), ("eee ", "swh"), ("eee ", "isl"), ("ab ", ""), ("ab ", "fra"))
    ):
        save(tmp_path / f"{number}.wav", tune(text, 3.0 + number))
        rows.append(f"{number}.wav\t{language}")
    (tmp_path / "t.tsv").write_text("\n".join(rows) + "\n")
    sharp = tagger()
    monkeypatch.setattr(Pitch, "gain", 400)
    monkeypatch.setattr(Tagger, "load", lambda folder, threads: sharp)
    assert (
        main(["prepare", str(tmp_path / "t.tsv"), "--out", str(tmp_path / "c"), "--workers", "1", "--tagger", "x"]) == 0
    )
    printed = capsys.readouterr().err
    assert "1 clip sounds like another language (1 swh like isl)" in printed and "1 clip of unknown language" in printed
    assert "the tagger does not know fra, whose clips were not checked" in printed
    listed = [line.split("\t")[:3] for line in (tmp_path / "c.languages.tsv").read_text().splitlines()]
    assert listed == [["clip", "language", "sounds like"], ["1.wav", "swh", "isl"], ["3.wav", "und", "swh"]]
    sharp.task = "emotion"
    assert main(["prepare", str(tmp_path / "t.tsv"), "--out", str(tmp_path / "d"), "--tagger", "x"]) == 2
    assert not (tmp_path / "d").exists()


def test_a_stream_waits_for_its_language() -> None:
    """Nothing is lost while it waits; silence waits on, and at last the first language is taken."""
    fed: dict[str, list[np.ndarray]] = {}

    def begin(code: str) -> Any:
        class Fixed:
            heard_s = 0.0

            def feed(self, samples: np.ndarray) -> StreamUpdate:
                fed.setdefault(code, []).append(samples)
                return StreamUpdate([Word(code, 0.0, 1.0, 1.0)])

            def finish(self) -> StreamUpdate:
                return StreamUpdate([Word("end", 1.0, 2.0, 1.0)], heard_s=4.0)

        return Fixed()

    unused: Any = None
    routing = StudentsByLanguage({"swh": unused, "isl": unused}, tagger())
    wave = tune("eee", 4.0)
    stream = RoutedStream(routing, begin, 16_000)
    assert stream.feed(wave[:32_000]) == StreamUpdate(heard_s=2.0) and stream.heard_s == 2.0 and not fed
    assert [word.text for word in stream.feed(wave[32_000:50_000]).stable] == ["isl"] == [stream.language]
    stream.feed(wave[50_000:])
    np.testing.assert_array_equal(np.concatenate(fed["isl"]), wave)
    assert [word.text for word in stream.finish().stable] == ["end"]
    quiet = RoutedStream(routing, begin, 16_000)
    for _ in range(11):
        assert quiet.feed(np.zeros(80_000, np.float32)).stable == [] and not quiet.language
    assert [word.text for word in quiet.feed(np.zeros(80_000, np.float32)).stable] == ["swh"]
    assert [word.text for word in RoutedStream(routing, begin, 16_000).finish().stable] == ["end"]
