"""A student: hears the same in every format and length, is silent in silence, and refuses a damaged folder."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalia import Student
from lalia.audio.encoding import flac_bytes
from lalia.errors import AudioError, UserError
from lalia.text.tokens import Tokens
from tests.tiny_student import FRAME_S, SYMBOLS, make_student, seal, sing, tone_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("students") / "tones")


@pytest.fixture(scope="module")
def student(folder: Path) -> Student:
    return Student.load(folder, threads=1)


def test_hears_a_tune(student: Student) -> None:
    wave = sing("bad cab")
    heard = student.transcribe(wave)
    assert heard.text == "bad cab"
    assert heard.duration_s == pytest.approx(len(wave) / 16_000, abs=1e-3)
    assert [w.text for w in heard.words] == ["bad", "cab"]
    # Two silent frames, then four frames a letter: three sung, one silent.
    assert heard.words[0].start_s == pytest.approx(2 * FRAME_S, abs=FRAME_S)
    assert heard.words[1].start_s == pytest.approx((2 + 4 * 4) * FRAME_S, abs=FRAME_S)
    assert heard.words[1].end_s == pytest.approx((2 + 4 * 7 - 1) * FRAME_S, abs=FRAME_S)
    assert all(0.9 < w.confidence <= 1 for w in heard.words)


def test_path_bytes_and_wave_agree(student: Student, tmp_path: Path) -> None:
    wave = sing("add a bed")
    path = tmp_path / "clip.flac"
    path.write_bytes(flac_bytes(wave))
    heard = [student.transcribe(s).text for s in (path, str(path), path.read_bytes(), wave, wave.astype(np.float64))]
    assert heard == ["add a bed"] * 5


def test_other_rates_and_channels(student: Student) -> None:
    t = np.arange(3 * 44_100) / 44_100
    tone = 0.3 * np.sin(2 * np.pi * 500 * t)
    out = io.BytesIO()
    soundfile.write(out, np.stack([tone, tone], axis=1), 44_100, format="WAV")
    assert student.transcribe(out.getvalue()).text == "a"


@pytest.mark.parametrize(
    "wave",
    [np.zeros(0), np.zeros(1), np.zeros(16_000), np.zeros(16_000 * 65), np.full(48_000, 1e-4), np.full(50, 0.5)],
)
def test_silence_and_next_to_nothing_give_no_text(student: Student, wave: np.ndarray) -> None:
    heard = student.transcribe(wave.astype(np.float32))
    assert (heard.text, heard.words) == ("", [])
    assert heard.duration_s == pytest.approx(len(wave) / 16_000, abs=1e-3)


def test_a_file_without_samples_gives_no_text(student: Student) -> None:
    out = io.BytesIO()
    soundfile.write(out, np.zeros(0, np.float32), 16_000, format="WAV")
    assert student.transcribe(out.getvalue()).text == ""


@pytest.mark.parametrize("seconds", [1.9, 2.0, 2.01, 3.3, 17.0])
def test_windows_leave_no_seams(folder: Path, tmp_path: Path, student: Student, seconds: float) -> None:
    text = "a bad bed ace dab ebb cab deed add " * 5
    wave = sing(text.strip())[: int(seconds * 16_000)]
    windowed = Student.load(make_student(tmp_path / "windowed", window_s=2.0), threads=1)
    assert len(wave) / 16_000 > 2.0 or seconds <= 2.0
    np.testing.assert_allclose(windowed.log_probs(wave), student.log_probs(wave), atol=1e-2)
    in_pieces, whole = windowed.transcribe(wave), student.transcribe(wave)
    assert (in_pieces.text, in_pieces.duration_s) == (whole.text, whole.duration_s)
    assert [(w.text, w.start_s, w.end_s) for w in in_pieces.words] == [
        (w.text, w.start_s, w.end_s) for w in whole.words
    ]


def test_no_length_cliff(student: Student) -> None:
    words = ("bad bed ace dab ebb cab deed add " * 12).split()
    for count in range(50, 70, 3):  # about 26 to 40 seconds
        text = " ".join(words[:count])
        assert student.transcribe(sing(text)).text == text


def test_silent_stretches_keep_the_clock(student: Student) -> None:
    wave = np.concatenate([sing("bad"), np.zeros(16_000 * 100, np.float32), sing("cab")])
    heard = student.transcribe(wave)
    assert heard.text == "bad cab"  # a pause ends a word
    assert heard.words[0].end_s < 1 and heard.words[1].start_s > 100


def test_memory_does_not_grow_with_the_file(student: Student, tmp_path: Path) -> None:
    wave = np.tile(sing("bad cab "), 300)
    soundfile.write(tmp_path / "long.wav", wave, 16_000)
    assert len(wave) / 16_000 > 400
    student.transcribe(sing("bad"))
    tracemalloc.start()
    heard = student.transcribe(tmp_path / "long.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert heard.text == " ".join(["bad cab"] * 300)
    assert peak < len(wave) * 4 / 2


def test_waves_of_another_kind_are_refused(student: Student) -> None:
    for wave in (np.zeros((2, 16_000), np.float32), np.zeros(16_000, np.int16), np.full(16_000, np.nan, np.float32)):
        with pytest.raises(AudioError, match="clip 7"):
            student.transcribe(wave, "clip 7")


def test_log_probs_are_log_probs(student: Student) -> None:
    wave = sing("bad cab")
    log_probs_TV = student.log_probs(wave)
    assert log_probs_TV.shape == (len(wave) // 640, len(SYMBOLS))
    np.testing.assert_allclose(np.exp(log_probs_TV).sum(1), 1, atol=1e-4)
    assert student.log_probs(np.zeros(0, np.float32)).shape == (0, len(SYMBOLS))


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        Student.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["model.onnx", "tokens.txt", "normaliser.json"])
def test_missing_and_truncated_files(tmp_path: Path, name: str) -> None:
    folder = make_student(tmp_path / "s")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    assert name in refused(folder) and "cut short" in refused(folder)
    (folder / name).unlink()
    assert f"{name}: is missing" in refused(folder)


def test_swapped_model(tmp_path: Path) -> None:
    ours = make_student(tmp_path / "ours")
    theirs = make_student(tmp_path / "theirs", [*SYMBOLS, "f"])
    (ours / "model.onnx").write_bytes((theirs / "model.onnx").read_bytes())
    assert "of another student" in refused(ours)
    seal(ours)  # even with a card that agrees, the tokens do not
    assert "8 tokens, tokens.txt lists 7" in refused(ours)


def test_no_card_or_another_kind(tmp_path: Path) -> None:
    folder = make_student(tmp_path / "s")
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "kind": "recogniser"}))
    said = refused(folder)
    assert "is a recogniser, expected a student; it needs torch" in said and "lalia finetune eval" in said
    (folder / "card.json").unlink()
    assert "card.json" in refused(folder)
    assert "no such folder" in refused(tmp_path / "absent")


def test_cards_that_lack_facts(tmp_path: Path) -> None:
    folder = make_student(tmp_path / "s")
    seal(folder, files={})
    assert "does not list" in refused(folder)
    seal(folder, frame_s=None)
    assert "frame_s" in refused(folder)
    seal(folder, sample_rate=8000)
    assert "8000 samples per second" in refused(folder)
    (tmp_path / "secret").write_text("x")
    seal(folder)
    card = json.loads((folder / "card.json").read_text())
    card["files"]["../secret"] = "0"
    (folder / "card.json").write_text(json.dumps(card))
    assert "is outside the folder" in refused(folder)


def test_models_that_are_none(tmp_path: Path) -> None:
    folder = make_student(tmp_path / "s")
    (folder / "model.onnx").write_bytes(b"no model at all")
    seal(folder)
    assert "cannot load" in refused(folder)
    (folder / "model.onnx").write_bytes(tone_model().replace(b"log_probs", b"logits_xx"))
    seal(folder)
    assert "expected wave (B, S) -> log_probs (B, T, V)" in refused(folder)


def test_student_speaks_every_script(tmp_path: Path) -> None:
    symbols = ["<blank>", "|", "न", "म", "你", "ሰ"]
    student = Student.load(make_student(tmp_path / "s", symbols))
    assert student.tokens == Tokens(symbols)
    assert student.transcribe(sing("नम ሰ 你你", symbols)).text == "नम ሰ 你你"
