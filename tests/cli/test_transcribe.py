"""The manners of ``lalia transcribe``: pipes, file names, formats and files, what is done already, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from lalia.audio.encoding import flac_bytes
from lalia.cli import main, options
from lalia.decoding.greedy import Word
from lalia.errors import UserError
from lalia.runtime.student import Student
from lalia.runtime.transcript import Transcript
from tests.tiny_student import make_student, sing


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("transcribing") / "student")


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    folder = tmp_path / "talks"
    folder.mkdir()
    for name, text in (("a.flac", "bad cab"), ("b.flac", "ace")):
        (folder / name).write_bytes(flac_bytes(sing(text)))
    return folder


_ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale that even names of files are not UTF-8 in."""


def typed(
    *argv: str | os.PathLike[str], given: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """``lalia transcribe`` as another process, with bytes in and out."""
    return subprocess.run(
        [sys.executable, "-m", "lalia", "transcribe", *argv],
        input=given, capture_output=True, env={**os.environ, **(environment or {})},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_audio_from_a_pipe(name: str, student: Path, talks: Path, tmp_path: Path) -> None:
    ended = typed(student, name, given=(talks / "a.flac").read_bytes())
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"bad cab\n", b"")
    out = tmp_path / "subs"
    ended = typed(student, name, "--format", "srt", "--out", out, given=(talks / "a.flac").read_bytes())
    assert ended.returncode == 0 and "bad cab" in (out / "stdin.srt").read_text()


def test_a_pipe_that_holds_nothing_or_no_audio(student: Path) -> None:
    for given, told in (
        (b"", b"lalia: stdin: is empty"),
        (b"no sound at all", b"lalia: stdin: is not a supported audio"),
    ):
        ended = typed(student, "-", given=given)
        assert ended.returncode == 2 and ended.stderr.startswith(told) and ended.stderr.count(b"\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_and_its_limit(
    student: Path, talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), pipe.open("wb") as file:
            file.write((talks / "a.flac").read_bytes())

    for limit, status in ((options.MOST_BYTES, 0), (100, 2)):
        monkeypatch.setattr(options, "MOST_BYTES", limit)
        feeder = threading.Thread(target=feed)
        feeder.start()
        assert main.main(["transcribe", str(student), str(pipe)]) == status
        feeder.join()
    printed = capsys.readouterr()
    assert printed.out == "bad cab\n" and "is a pipe with more than" in printed.err


def test_names_with_line_ends_and_bytes_that_are_no_utf_8(student: Path, talks: Path) -> None:
    audio = (talks / "a.flac").read_bytes()
    for name in (b"two\nlines\t.flac", b"mod\xe8le.flac", "è.flac".encode()):
        Path(os.fsdecode(os.fsencode(talks) + b"/" + name)).write_bytes(audio)
    for locale in (
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii"},
        _ASCII,
    ):
        ended = typed(student, talks, environment=locale)
        assert ended.returncode == 0, ended.stderr
        lines = ended.stdout.decode("utf-8").splitlines()
        names = {line.split("\t")[0].removeprefix(f"{talks}/") for line in lines}
        assert names == {"a.flac", "b.flac", r"two\nlines\t.flac", r"mod\xe8le.flac", "è.flac"}
        assert all(len(line.split("\t")) == 2 for line in lines)
    ended = typed(student, talks, "--format", "json", environment={"LC_ALL": "C"})
    assert {json.loads(line)["audio"].removeprefix(f"{talks}/") for line in ended.stdout.decode().splitlines()} == {
        "a.flac", "b.flac", "two\nlines\t.flac", r"mod\xe8le.flac", "è.flac",
    }  # fmt: skip
    ended = typed(student, talks, "--out", talks.parent / "texts")
    assert ended.returncode == 0 and (os.fsencode(talks.parent) + b"/texts/mod\xe8le.txt") in [
        os.fsencode(path) for path in (talks.parent / "texts").iterdir()
    ]
    bad = os.fsdecode(os.fsencode(talks) + b"/b\xe8d\n.flac")
    Path(bad).write_bytes(b"no sound")
    ended = typed(student, bad)
    assert (
        ended.returncode == 2
        and rb"b\xe8d\n.flac: is not a supported" in ended.stderr
        and ended.stderr.count(b"\n") == 1
    )


def test_several_formats_go_to_a_folder(
    student: Path, talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main.main(["transcribe", str(student), str(talks), "--format", "srt,json", "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.json", "a.srt", "b.json", "b.srt"]
    assert json.loads((out / "a.json").read_text())["text"] == "bad cab"
    capsys.readouterr()
    for argv, told in (
        (["--format", "srt,json"], "srt and json cannot share stdout; give --out FOLDER"),
        (["--format", "srt"], "2 clips cannot share one srt file; give --out FOLDER"),
        (["--format", "str"], "--format str: expected txt, json, srt or vtt (did you mean srt?), or several"),
        (["--out", "x.srt"], "--out x.srt: 2 clips cannot share one file; give a folder: --out x --format srt"),
        (["--skip-existing"], "--skip-existing looks for files in --out; give --out FOLDER"),
    ):
        assert main.main(["transcribe", str(student), str(talks), *argv]) == 2
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1


def test_one_clip_to_the_file_that_is_named(
    student: Path, talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["transcribe", str(student), str(talks / "a.flac"), "--out", "new/talk.srt"]) == 0
    assert (tmp_path / "new" / "talk.srt").read_text().startswith("1\n00:00:0")
    assert main.main(["transcribe", str(student), str(talks / "a.flac"), "--out", "x.vtt", "--format", "json"]) == 2
    assert "--out x.vtt: is a vtt file, --format is json" in capsys.readouterr().err
    (tmp_path / "folder.txt").mkdir()
    assert main.main(["transcribe", str(student), str(talks / "a.flac"), "--out", "folder.txt"]) == 0
    assert (tmp_path / "folder.txt" / "a.txt").read_text() == "bad cab\n"


def test_skip_existing(student: Path, talks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    argv = ["transcribe", str(student), str(talks), "--format", "txt,srt", "--out", str(out), "--skip-existing"]
    out.mkdir()
    (out / "a.txt").write_text("from before")
    (out / "a.srt").write_text("")
    (out / "b.txt").write_text("half of it")
    assert main.main(argv) == 0
    assert "1 of 2 clips already in" in capsys.readouterr().err
    assert (out / "a.txt").read_text() == "from before" and (out / "b.txt").read_text() == "ace\n"
    (talks / "c.flac").write_bytes(b"no sound")
    assert main.main(argv) == 1
    said = capsys.readouterr().err
    assert "2 of 3 clips already in" in said and "1 of 1 clip could not be read" in said


def test_a_write_that_fails_leaves_no_half_file(
    student: Path, talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    monkeypatch.setattr(Path, "replace", fail)
    assert main.main(["transcribe", str(student), str(talks), "--out", str(out)]) == 2
    assert list(out.iterdir()) == []


def test_a_terminal_is_no_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    with pytest.raises(UserError, match="stdin: is the terminal"), options.kept(Path("-")):
        pass


def test_an_address_among_files_is_one_line(student: Path, talks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["transcribe", str(student), "https://example.org/a/talk.mp3", str(talks / "b.flac")]) == 1
    printed = capsys.readouterr()
    assert printed.out.endswith("\tace\n")
    assert printed.err.splitlines()[0] == (
        "lalia: https://example.org/a/talk.mp3: is a URL; only local files are read; download it first, e.g. "
        "curl -LO https://example.org/a/talk.mp3"
    )


def spoken(confidence: float, words: int = 25) -> Transcript:
    """A transcript of words of four letters."""
    return Transcript("said " * words, [Word("said", n, n + 0.5, confidence) for n in range(words)], float(words))


@pytest.mark.parametrize(
    ("transcripts", "told"),
    [
        ([spoken(0.7)], "a.flac: low confidence throughout (mean 0.70): is the speech in swa (Swahili), and like"),
        ([spoken(0.9)], ""),
        ([spoken(0.5, 14)], ""),
        ([spoken(0.7), spoken(0.9)], "1 of 2 clips ("),
        ([spoken(0.7, 8), spoken(0.6, 8)], "2 clips together: low confidence throughout (mean 0.65)"),
    ],
)
def test_low_confidence_throughout_is_reported_once(
    transcripts: list[Transcript],
    told: str,
    talks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = make_student(tmp_path / "swahili", language="swa")
    heard = {f"{name}.flac": found for name, found in zip("ab", transcripts, strict=False)}
    monkeypatch.setattr(Student, "transcribe", lambda self, path, *given, **named: heard[Path(path).name])
    assert main.main(["transcribe", str(made), *(str(talks / name) for name in heard)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "confidence" in line]
    assert len(lines) == bool(told) and told in "".join(lines)
