"""Long audio: memory stays flat over an hour, the words are those of its pieces, and only speech is heard where that is asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalia import Student, TranscribeOptions
from lalia.audio import vad
from lalia.threads import in_order
from tests.tiny_student import FRAME, FRAME_S, make_student, sing

WORDS = "bad bed ace dab ebb cab deed add"
MEASURE = """
import pathlib, sys
from lalia import Student, TranscribeOptions
heard = Student.load(sys.argv[1], threads=1).transcribe(sys.argv[2], options=TranscribeOptions(jobs=int(sys.argv[3])))
print(len(heard.words), heard.text == " ".join([sys.argv[4]] * (len(heard.words) // 8)), round(heard.duration_s))
status = pathlib.Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("students") / "tones")


def write_long(path: Path, minutes: int) -> Path:
    """A FLAC file of ``minutes`` minutes that says WORDS again and again."""
    wave = sing(WORDS + " ")
    with soundfile.SoundFile(path, "w", 16_000, 1) as file:
        for _ in range(-(-minutes * 60 * 16_000 // len(wave)) - 1):
            file.write(wave)
        file.write(wave[: -4 * FRAME])  # without the last space
    return path


@pytest.fixture(scope="module")
def long_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Path]]:
    """FLAC files by their minutes."""
    place = tmp_path_factory.mktemp("long")
    files = {minutes: write_long(place / f"{minutes}.flac", minutes) for minutes in (10, 60)}
    yield files
    for path in files.values():
        path.unlink()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("jobs", [1, 2])
def test_an_hour_takes_no_more_memory_than_ten_minutes(folder: Path, long_files: dict[int, Path], jobs: int) -> None:
    peak_mb = {}
    for minutes, path in long_files.items():
        command = [sys.executable, "-c", MEASURE, str(folder), str(path), str(jobs), WORDS]
        said, rss = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        count, right, seconds = said.split()
        assert right == "True" and int(count) % 8 == 0
        assert minutes * 60 - 8 < int(seconds) < minutes * 60 + 8
        peak_mb[minutes] = int(rss) / 1024
    # The words themselves, some 8,000, and two numbers a frame; the hour's samples would be 220 MB.
    assert peak_mb[60] < peak_mb[10] + 24


def test_a_long_file_has_the_words_of_its_pieces(folder: Path) -> None:
    student = Student.load(folder, threads=1)
    random = np.random.default_rng(0)
    pieces, start_s, expected = [], 0.0, []
    for _ in range(40):
        text = " ".join(random.permutation(WORDS.split())[: random.integers(1, 8)]) + " "
        # Anywhere between frames: seams must hold where the grid does not.
        pieces.append(np.concatenate([sing(text), np.zeros(random.integers(0, 4) * FRAME, np.float32)]))
        for word in student.transcribe(pieces[-1]).words:
            expected.append((word.text, round(start_s + word.start_s, 2), round(start_s + word.end_s, 2)))
        start_s += len(pieces[-1]) / 16_000
    whole = np.concatenate(pieces)
    assert len(whole) / 16_000 > 100
    for jobs in (1, 3):
        found = student.transcribe(whole, options=TranscribeOptions(jobs=jobs)).words
        assert [(w.text, round(w.start_s, 2), round(w.end_s, 2)) for w in found] == expected


class Loud:
    """A detector that takes what is loud for speech, a frame of it at a time."""

    def feed(self, block_S: np.ndarray, last: bool = False) -> np.ndarray:
        self.left = np.concatenate([getattr(self, "left", np.zeros(0, np.float32)), block_S])
        if last and len(self.left) % vad.FRAME_SAMPLES:
            self.left = np.pad(self.left, (0, -len(self.left) % vad.FRAME_SAMPLES))
        frames = len(self.left) // vad.FRAME_SAMPLES
        frames_TS = self.left[: frames * vad.FRAME_SAMPLES].reshape(frames, -1)
        self.left = self.left[frames * vad.FRAME_SAMPLES :]
        return (np.abs(frames_TS).max(1, initial=0) > 0.2).astype(np.float32)


@pytest.mark.parametrize("block", [997, 16_000, 1 << 18, 10**9])
def test_speech_and_what_is_near_it_stays_all_else_is_silence(monkeypatch, block: int) -> None:
    monkeypatch.setattr(vad, "VoiceActivity", Loud)
    random = np.random.default_rng(1)
    wave = (0.01 * random.standard_normal(16_000 * 40 + 77)).astype(np.float32)
    for second in (3, 4, 17, 39):
        wave[second * 16_000 : second * 16_000 + 8000] = 0.5
    marked = list(vad.mute_non_speech((wave[i : i + block] for i in range(0, len(wave), block)), FRAME))
    found = np.concatenate([piece for _, piece in marked])
    assert len(found) == len(wave)
    assert all(len(piece) % FRAME == 0 for _, piece in marked[:-1])
    kept = found != 0
    for start, end in ((2.5, 5.0), (16.5, 18.0), (38.5, 40.0)):
        assert np.array_equal(
            found[int(start * 16_000) : int(end * 16_000)], wave[int(start * 16_000) : int(end * 16_000)]
        )
    for start, end in ((0.0, 2.0), (5.5, 16.0), (18.5, 38.0)):
        assert not kept[int(start * 16_000) : int(end * 16_000)].any()
    assert [speech for speech, _ in marked if speech] and all(speech == bool(piece.any()) for speech, piece in marked)


def test_only_speech_is_heard_and_the_clock_is_kept(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(vad, "VoiceActivity", Loud)
    student = Student.load(folder, threads=1)
    hum = 0.19 * np.sin(2 * np.pi * 500 / 16_000 * np.arange(16_000 * 80)).astype(np.float32)
    hum = 1.04 * hum  # below what counts as loud, and yet a tone that the student knows
    wave = np.concatenate([sing("bad bed"), hum, sing("cab ace")])
    monkeypatch.setattr(student, "_run", counted := Counted(student._run))
    heard = student.transcribe(wave, options=TranscribeOptions(voice=True))
    letters = [word.text.strip("a") for word in heard.words]
    assert letters[0] == "bad" and letters[-1].endswith("ce")
    assert heard.words[-1].start_s == pytest.approx(len(wave) / 16_000 - 18 * FRAME_S, abs=0.3)
    assert heard.duration_s == pytest.approx(len(wave) / 16_000, abs=1e-3)
    assert sum(counted.loud_s) < 12


class Counted:
    def __init__(self, run: Callable[[np.ndarray], np.ndarray]) -> None:
        self.run = run
        self.loud_s: list[float] = []

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        self.loud_s.append(np.count_nonzero(wave) / 16_000)
        return self.run(wave)


def test_the_real_detector_hears_no_speech_in_noise() -> None:
    wave = (0.05 * np.random.default_rng(0).standard_normal(16_000 * 10)).astype(np.float32)
    marked = list(vad.mute_non_speech([wave], FRAME))
    assert sum(len(piece) for speech, piece in marked if speech) < 16_000


def test_work_in_order() -> None:
    taken = []

    def items():
        for number in range(20):
            taken.append(number)
            yield number

    for jobs in (1, 2, 5):
        taken.clear()
        for done, result in enumerate(in_order(lambda n: n * n, items(), jobs)):
            assert result == done * done
            assert len(taken) <= done + jobs + 2
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda n: 1 // n, [1, 0, 2], 2))
