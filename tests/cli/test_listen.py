"""``lalia listen``: a file as a fake microphone, a fake sound system, and what is said where there is none."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lalia.audio.encoding import flac_bytes
from lalia.cli import main
from lalia.cli.listen import Lines, Terminal
from lalia.decoding.greedy import Word
from lalia.runtime.streaming import StreamUpdate
from lalia.runtime.student import Student
from tests.models.test_chunks import noise
from tests.runtime.test_stream import make_student
from tests.tiny_student import make_student as make_tones


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a streaming student, a clip, and what is said in it."""
    folder = tmp_path_factory.mktemp("listen")
    make_student(folder / "student")
    (folder / "clip.flac").write_bytes(flac_bytes(noise(24_000)[0].numpy()))
    return folder


def expected(made: Path) -> str:
    return Student.load(made / "student", threads=1).transcribe(made / "clip.flac").text


def test_a_file_as_a_microphone(made: Path, tmp_path: Path, capsys) -> None:
    saved = tmp_path / "talk.srt"
    argv = ["listen", str(made / "student"), "--from", str(made / "clip.flac"), "--fast", "--save", str(saved)]
    assert main.main(argv) == 0
    said = capsys.readouterr()
    assert " ".join(said.out.split()) == expected(made) != ""
    assert said.err.startswith("lalia: 1.5 s transcribed, ") and "RTF" in said.err and "after the end" not in said.err
    assert saved.read_text().startswith("1\n00:00:0")


def test_changes_for_programs(made: Path, capsys) -> None:
    argv = ["listen", str(made / "student"), "--from", str(made / "clip.flac"), "--fast", "--format", "json"]
    assert main.main(argv) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert " ".join(word["text"] for change in found for word in change["stable"]) == expected(made)
    assert [change["last"] for change in found] == [False] * (len(found) - 1) + [True]
    assert any(change["tentative"] for change in found) and found[-1]["tentative"] == []
    assert set(found[0]) == {"stable", "tentative", "heard_s", "last"}


def test_at_the_speed_of_speech_it_says_how_late_it_was(made: Path, capsys) -> None:
    began = time.monotonic()
    assert main.main(["listen", str(made / "student"), "--from", str(made / "clip.flac"), "--format", "vtt"]) == 0
    assert time.monotonic() - began >= 1.5
    said = capsys.readouterr()
    assert said.out.startswith("WEBVTT") and "after the end of a word" in said.err


def test_ctrl_c_ends_it_with_the_transcript(made: Path, tmp_path: Path) -> None:
    (tmp_path / "long.flac").write_bytes(flac_bytes(np.tile(noise(24_000)[0].numpy(), 40)))
    process = subprocess.Popen(
        [sys.executable, "-m", "lalia.cli.main", "listen", str(made / "student"), "--from", "long.flac", "--save", "kept.txt",
         "--format", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=os.environ,
    )  # fmt: skip
    assert process.stdout is not None
    changes: list[dict[str, Any]] = []
    while not (changes and changes[-1]["stable"]):
        changes.append(json.loads(process.stdout.readline()))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "transcribed" in err and "Traceback" not in err
    changes += map(json.loads, out.splitlines())
    said = [word["text"] for change in changes for word in change["stable"]]
    assert (tmp_path / "kept.txt").read_text().split() == said and changes[-1]["last"]


class FakeSound(types.ModuleType):
    """A sound system with one microphone that plays ``wave`` at ``rate``, in blocks of 10 ms."""

    class PortAudioError(Exception):
        pass

    def __init__(self, wave: np.ndarray | None, rate: int = 16_000) -> None:
        super().__init__("sounddevice")
        self.wave, self.rate = wave, rate
        self.default = types.SimpleNamespace(device=(0, 1))
        self.InputStream = lambda **settings: FakeStream(self, **settings)

    def query_devices(self, device=None, kind=None):
        found = {"name": "Toy", "max_input_channels": 1, "default_samplerate": float(self.rate)}
        if kind is None:
            return [found, {"name": "Speaker", "max_input_channels": 0, "default_samplerate": 48_000.0}]
        if self.wave is None or device not in (None, 0, "Toy"):
            raise ValueError(f"No input device matching {device!r}")
        return found

    def check_input_settings(self, samplerate: int, **_) -> None:
        if samplerate != self.rate:
            raise self.PortAudioError("Invalid sample rate")


class FakeStream:
    active = True

    def __init__(self, sound: FakeSound, samplerate: int, callback, **_) -> None:
        assert samplerate == sound.rate
        self._thread = threading.Thread(target=self._play, args=(sound, callback))

    def _play(self, sound: FakeSound, callback) -> None:
        assert sound.wave is not None
        for block in np.array_split(sound.wave, len(sound.wave) // (sound.rate // 100)):
            callback(block[:, None], len(block), None, None)
        time.sleep(0.3)
        self.active = False

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._thread.join()


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_microphone(made: Path, capsys, monkeypatch, rate: int) -> None:
    """At its own rate where it has not 16 kHz; one that is pulled out is an error, after what was said before."""
    from lalia.audio.reading import resample

    wave_S = resample(noise(24_000)[0].numpy(), 16_000 * 16_000 // rate)
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSound(wave_S, rate))
    assert main.main(["listen", str(made / "student"), "--format", "json"]) == 2
    said = capsys.readouterr()
    assert "listening to Toy" in said.err and "was disconnected" in said.err
    assert len(said.out.splitlines()) > 1


def test_which_microphones_there_are(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSound(np.zeros(1)))
    assert main.main(["listen", "--devices"]) == 0
    assert capsys.readouterr().out == "  0 * Toy, 1 channels, 16000 Hz\n"


def test_user_errors_are_one_line(made: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    student, clip = str(made / "student"), str(made / "clip.flac")
    tones = str(make_tones(tmp_path / "tones"))
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSound(None))
    for argv, says in (
        ([], "expected the folder"),
        ([student], "microphone: cannot be used"),
        ([student, "--device", "Nose"], "microphone 'Nose': cannot be used"),
        ([student, "--fast"], "needs --from FILE"),
        ([student, "--from", "absent.wav"], "absent.wav"),
        ([student, "--from", clip, "--save", "talk.doc"], "ends in .txt"),
        ([student, "--from", clip, "--threads", "0"], "from 1"),
        ([student, "--from", clip, "--pause", "0"], "expected seconds"),
        ([tones, "--from", clip], "streaming-nano.yaml"),
    ):
        assert main.main(["listen", *argv]) == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1


def test_without_the_package_or_its_library(made: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert main.main(["listen", str(made / "student")]) == 2
    err = capsys.readouterr().err
    assert "pip install 'lalia[listen]'" in err and err.count("\n") == 1

    class Broken:
        def find_spec(self, name: str, path=None, target=None):
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice")
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert main.main(["listen", str(made / "student")]) == 2
    err = capsys.readouterr().err
    assert "PortAudio" in err and "--from FILE" in err and err.count("\n") == 1


def word(text: str, start_s: float) -> Word:
    return Word(text, start_s, start_s + 0.2, 0.9)


def test_the_terminal_keeps_what_is_stable_and_rewrites_the_rest(monkeypatch) -> None:
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((12, 24)))
    out = io.StringIO()
    show = Terminal(out)
    show(StreamUpdate([], [word("he", 0)], 0.5), False)
    show(StreamUpdate([word("hello", 0)], [word("wo", 0.5)], 0.7), False)
    show(StreamUpdate([word("wonders", 0.5)], [], 1.2), False)
    show(StreamUpdate([word("late", 3.0)], [], 4.0), True)
    faint = [part.replace("\033[2m", "<").replace("\033[0m", ">") for part in out.getvalue().split("\r\033[K")]
    assert faint == ["", "<he>", "hello< wo>", "hello\n", "wonders<>", "wonders\n", "late<>\n"]


def test_lines_are_sentences() -> None:
    out = io.StringIO()
    show = Lines(out)
    show(StreamUpdate([word("one", 0), word("two", 0.5)], [word("th", 2.0)], 2.2), False)
    assert out.getvalue() == ""
    show(StreamUpdate([word("three", 2.0)], [], 2.6), False)
    assert out.getvalue() == "one two\n"
    show(StreamUpdate([], [], 4.4), False)
    assert out.getvalue() == "one two\nthree\n"
    show(StreamUpdate([word("four", 5.0)], [], 5.5), True)
    assert out.getvalue() == "one two\nthree\nfour\n"
