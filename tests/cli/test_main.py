"""The program ``lalia``: what it prints, where, and how it ends."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from lalia import __version__
from lalia.audio.encoding import flac_bytes
from lalia.cards import write_card
from lalia.cli import main
from lalia.data.corpus import COLUMNS, SCHEMA, write_index
from tests.tiny_student import make_student, sing


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("cli") / "student", language=["ita", "rus"])


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """A folder with clips, one of them below another folder, and files that are none."""
    folder = tmp_path / "talks"
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name, text in (("a.flac", "bad cab"), ("b.flac", "ace"), ("more/c.flac", "deed"), (".hidden/d.flac", "ebb")):
        (folder / name).write_bytes(flac_bytes(sing(text)))
    (folder / "notes.txt").write_text("not audio")
    return folder


OTHERS = "skipped files that are not audio: 1 .txt"
"""What is told of the folder ``talks``."""


class Ended:
    """How a call of ``lalia`` ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


Lalia = Callable[..., Ended]


@pytest.fixture
def lalia(capsys: pytest.CaptureFixture[str]) -> Lalia:
    def call(*argv: object) -> Ended:
        try:
            status = main.main([str(a) for a in argv])
        except SystemExit as ending:  # --help and --version
            status = int(ending.code or 0)
        printed = capsys.readouterr()
        return Ended(status, printed.out, printed.err)

    return call


def test_one_clip(lalia, student: Path, talks: Path) -> None:
    ended = lalia("transcribe", student, talks / "a.flac", "--threads", 1)
    assert (ended.status, ended.out, ended.err) == (0, "bad cab\n", "")


def test_a_damaged_file_is_read_with_a_note(lalia, student: Path, tmp_path: Path) -> None:
    content = io.BytesIO()
    soundfile.write(content, sing("bad cab"), 16_000, format="WAV")
    path = tmp_path / "a.wav"
    path.write_bytes(content.getvalue()[:40] + (1600).to_bytes(4, "little") + content.getvalue()[44:])
    ended = lalia("transcribe", student, path, "--threads", 1)
    assert (ended.status, ended.out) == (0, "bad cab\n")
    assert ended.err.startswith(f"lalia: {path}: the header says 0.1 s, the file holds ")
    path.write_bytes(content.getvalue()[:-16_000])
    ended = lalia("transcribe", student, path, "--threads", 1)
    assert ended.status == 0 and ended.err.startswith(f"lalia: {path}: is cut short: the header says ")


def test_folder(lalia, student: Path, talks: Path) -> None:
    ended = lalia("transcribe", student, talks)
    assert ended.status == 0
    assert ended.out.splitlines() == [
        f"{talks / 'a.flac'}\tbad cab",
        f"{talks / 'b.flac'}\tace",
        f"{talks / 'more' / 'c.flac'}\tdeed",
    ]
    others, summary = ended.err.splitlines()
    assert others == f"lalia: {talks}: {OTHERS}" and "× real time" in summary


def test_json_lines(lalia, student: Path, talks: Path) -> None:
    found = [json.loads(line) for line in lalia("transcribe", student, talks, "--format", "json").out.splitlines()]
    assert [f["text"] for f in found] == ["bad cab", "ace", "deed"]
    assert [w["text"] for w in found[0]["words"]] == ["bad", "cab"]


def test_subtitles_to_stdout_and_to_files(lalia, student: Path, talks: Path, tmp_path: Path) -> None:
    ended = lalia("transcribe", student, talks / "a.flac", "--format", "srt")
    assert ended.out.startswith("1\n00:00:0") and "bad cab" in ended.out
    ended = lalia("transcribe", student, talks, "--format", "vtt")
    assert ended.status == 2 and "--out" in ended.err
    out = tmp_path / "subs"
    ended = lalia("transcribe", student, talks, "--format", "vtt", "--out", out)
    assert (ended.status, ended.out) == (0, "")
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == ["a.vtt", "b.vtt", "more/c.vtt"]
    assert (out / "more" / "c.vtt").read_text().startswith("WEBVTT\n\n00:")


def test_a_bad_clip_among_many(lalia, student: Path, talks: Path) -> None:
    (talks / "aa.wav").write_bytes(b"")
    (talks / "bb.mp3").write_bytes(b"this is no sound at all")
    ended = lalia("transcribe", student, talks, talks / "absent.wav")
    assert ended.status == 1
    assert [line.split("\t")[1] for line in ended.out.splitlines()] == ["bad cab", "ace", "deed"]
    others, *lines = ended.err.splitlines()
    assert others == f"lalia: {talks}: {OTHERS}"
    assert len(lines) == 4
    assert (
        "aa.wav: is empty" in lines[0]
        and "bb.mp3: is not a supported audio file" in lines[1]
        and "absent.wav: no such" in lines[2]
    )
    assert "3 of 6 clips could not be read" in lines[3]


def test_only_bad_clips(lalia, student: Path, tmp_path: Path) -> None:
    ended = lalia("transcribe", student, tmp_path / "absent.wav")
    assert (ended.status, ended.out) == (2, "")
    assert ended.err == f"lalia: {tmp_path / 'absent.wav'}: no such file\n"


def test_folder_without_audio(lalia, student: Path, tmp_path: Path) -> None:
    ended = lalia("transcribe", student, tmp_path)
    assert ended.status == 2 and "holds no audio files" in ended.err


def test_two_clips_one_output(lalia, student: Path, talks: Path, tmp_path: Path) -> None:
    (talks / "a.wav").write_bytes(b"")
    ended = lalia("transcribe", student, talks, "--out", tmp_path / "out")
    assert ended.status == 2 and "would both be written" in ended.err
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be_written(lalia, student: Path, talks: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, not a folder")
    ended = lalia("transcribe", student, talks, "--out", tmp_path / "out")
    others, refusal = ended.err.splitlines()
    assert ended.status == 2 and OTHERS in others and "is a file and is not overwritten" in refusal
    ended = lalia("transcribe", student, talks, "--out", tmp_path / "out" / "below")
    others, refusal = ended.err.splitlines()
    assert ended.status == 2 and OTHERS in others and "cannot be written" in refusal


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk(student: Path, talks: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "lalia.cli.main", "transcribe", student, talks],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 2
    assert "stdout: cannot be written (No space left on device)" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_closed_pipe(student: Path, talks: Path) -> None:
    command = f"{sys.executable} -m lalia transcribe {student} {talks} | head -0"
    ended = subprocess.run(["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert ended.stdout.strip() == "0"
    assert "Traceback" not in ended.stderr


def test_models_that_are_none(lalia, tmp_path: Path, talks: Path) -> None:
    ended = lalia("transcribe", tmp_path / "absent", talks)
    assert ended.status == 2 and "no such folder" in ended.err
    ended = lalia("transcribe", talks, talks)
    assert ended.status == 2 and "card.json" in ended.err


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["transcribe"], "MODEL, AUDIO; see: lalia transcribe --help"),
        (["transcribe", "m", "a", "--format", "doc"], "doc"),
        (["transcribe", "m", "a", "--threads", "0"], "--threads 0: expected a whole number from 1"),
        (["transcribe", "m", "a", "--thread", "1"], "unrecognized"),
        (["transcripe", "m"], "transcripe"),
        (["evaluate", "m"], "CORPUS"),
        (["prepare"], "lalia prepare --help"),
    ],
)
def test_wrong_arguments_are_one_line(lalia, argv: list[str], says: str) -> None:
    ended = lalia(*argv)
    assert ended.status == 2 and says in ended.err
    assert ended.err.startswith("lalia: ") and ended.err.count("\n") == 1


def test_help_teaches(lalia) -> None:
    for verb in ("transcribe", "evaluate", "prepare"):
        ended = lalia(verb, "--help")
        assert ended.status == 0 and f"lalia {verb}" in ended.out
    assert "lalia transcribe my-student talk.mp3" in lalia("--help").out
    assert lalia("--version").out == f"lalia {__version__}\n"
    assert lalia().status == 2


def make_corpus(folder: Path, clips: list[tuple[str, str, str, bytes]]) -> Path:
    """A corpus of (language, split, text, FLAC bytes)."""
    folder.mkdir()
    rows = []
    for number, (language, split, text, content) in enumerate(clips):
        row: dict[str, object] = {name: "" if pa.types.is_string(kind) else 0 for name, kind in COLUMNS.items()}
        row |= {"id": f"clip-{number}", "language": language, "split": split, "text": text, "duration_s": 1.0}
        rows.append({**row, "audio": {"bytes": content, "path": None}})
    with pa.ipc.new_stream(str(folder / "data.arrow"), SCHEMA) as stream:
        stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    write_index(folder, ["data.arrow"], len(rows), 0, "0" * 16, "songs")
    write_card(folder, "corpus", [])
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    def sung(text: str) -> bytes:
        return flac_bytes(sing(text))

    clips = [("ita", "test", "Bad cab!", sung("bad cab")), ("ita", "test", "dad ebb", sung("dad abb"))]
    clips += [
        ("rus", "test", "ace", sung("ace")),
        ("rus", "test", "bed", b"rotten"),
        ("rus", "train", "bed", sung("bed")),
    ]
    clips += [("rus", "dev", "", sung("bed"))]
    return make_corpus(tmp_path / "corpus", clips)


def test_evaluate(lalia, student: Path, corpus: Path, tmp_path: Path) -> None:
    ended = lalia("evaluate", student, corpus, "--json", tmp_path / "scores.json")
    assert ended.status == 0
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["clips", "ita", "rus", "all"]
    assert lines[1].split()[:4] == ["ita", "2", "4", "7.1"]
    assert lines[3].split()[:4] == ["all", "3", "5", "5.9"]
    assert lines[4].split() == ["mean", "over", "languages", "3.6", "12.5"]  # 7.1 and 0; 25 and 0
    assert lines[5].startswith("RTF 0.0") and lines[6] == "clips skipped: 1"
    assert ended.err == f"lalia: skipped: {corpus}: clip clip-3: " + ended.err.split("clip-3: ")[1]
    stored = json.loads((tmp_path / "scores.json").read_text())
    assert stored["student"].startswith("sha256:") and stored["corpus"].startswith("sha256:")
    assert stored["scores"]["ita"]["wer"] == 0.25
    assert stored["clips"][1] == {
        "id": "clip-1",
        "language": "ita",
        "reference": "dad ebb",
        "hypothesis": "dad abb",
        "duration_s": pytest.approx(len(sing("dad ebb")) / 16_000),
        "words": [[pytest.approx(1, abs=0.01), True], [pytest.approx(1, abs=0.01), False]],
    }


def test_evaluate_some(lalia, student: Path, corpus: Path) -> None:
    assert lalia("evaluate", student, corpus, "--language", "rus", "--split", "train").out.splitlines()[1].split()[
        :3
    ] == [
        "rus",
        "1",
        "1",
    ]
    assert "clips skipped" not in lalia("evaluate", student, corpus, "--limit", 2).out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--split", "dev"], "no labelled clips in split dev"),
        (["--split", "exam"], "exam"),
        (["--language", "xyz"], "xyz"),
    ],
)
def test_evaluate_nothing(lalia, student: Path, corpus: Path, options: list[str], says: str) -> None:
    ended = lalia("evaluate", student, corpus, *options)
    assert ended.status == 2 and says in ended.err and ended.err.count("\n") == 1


def test_evaluate_only_rotten_clips(lalia, student: Path, tmp_path: Path) -> None:
    rotten = make_corpus(tmp_path / "rotten", [("ita", "test", "bed", b"rotten")])
    ended = lalia("evaluate", student, rotten)
    assert ended.status == 2 and "none of 1 clip could be scored" in ended.err


def test_import_loads_nothing_that_takes_time() -> None:
    """What ``import lalia`` costs in seconds is measured by benchmarks/runtime/speed.py."""
    code = (
        "import sys, lalia\n"
        "print(sorted({'numpy', 'onnxruntime', 'soundfile', 'soxr', 'rapidfuzz', 'torch', 'argparse'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from lalia.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'onnxruntime', 'soundfile', 'torch', 'pyarrow'} & set(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr.strip() == "[]"


def test_numpy_waves_are_not_touched(student: Path) -> None:
    from lalia import Student

    wave = sing("ace")
    before = wave.copy()
    Student.load(student).transcribe(wave)
    assert np.array_equal(wave, before)
