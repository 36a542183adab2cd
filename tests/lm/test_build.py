"""Training text of a language model: files that are not text are refused, and test sentences are removed."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lalia.audio.encoding import flac_bytes
from lalia.cli import main
from lalia.inputs import kind_of
from lalia.lm import build
from lalia.lm.folder import LanguageModel
from tests.cli.test_main import make_corpus
from tests.tiny_student import make_student, sing

CLIPS = [
    ("train", "a bad bed"), ("train", "add a cab"), ("dev", "dead ace a bed"),
    ("test", "Abe added a bad cab!"), ("test", "bed"), ("test", "a cab"),
]  # fmt: skip
FREE = "Ace a cab, a bad dead bed. "
SAID = "Abe added a bad cab! Dead ace, a bed. "


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("sentences") / "student", window_s=3.0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clips = [("ita", split, text, b"") for split, text in CLIPS]
    return make_corpus(tmp_path_factory.mktemp("sentences") / "corpus", clips)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*given: object) -> tuple[int, str, str]:
        status = main.main(["lm", *map(str, given), "--like", str(student), "--out", "lm"])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def ngrams() -> list[str]:
    model = LanguageModel.load("lm").ngrams
    return ["".join(model.symbols[i] for i in entry) for n in range(1, model.order + 1) for entry in model.entries(n)]


@pytest.mark.parametrize("form", ["wrapped", "one paragraph", "a line each", "compressed"])
def test_test_sentences_teach_nothing_however_the_text_is_laid_out(run: Run, corpus: Path, form: str) -> None:
    """The model is that of the text without them: no n-gram that only they have."""
    text = (FREE + SAID) * 3
    path = Path("text.txt")
    if form == "a line each":
        path.write_text(text.replace(". ", ".\n").replace("! ", "!\n"))
    elif form == "compressed":
        path = Path("text.txt.gz")
        path.write_bytes(gzip.compress(textwrap.fill(text, 30).encode()))
    else:
        path.write_text(textwrap.fill(text, 20) if form == "wrapped" else text)
    status, out, _ = run(corpus, path)
    assert status == 0 and "; 6 sentences of dev or test clips removed" in out
    found = ngrams()
    assert "d|bed" in found and not any("abe" in ngram or "added" in ngram or "ace|a|b" in ngram for ngram in found)


def test_short_test_sentences_stay_in_running_text(run: Run, corpus: Path) -> None:
    Path("text.txt").write_text("bed\na bad bed, a cab\nA CAB.\n")
    status, out, _ = run(corpus, "text.txt")
    assert (
        status == 0
        and "3 sentences" in out
        and "; 2 sentences of dev or test clips removed" in out
        and "bed|a|" in ngrams()
    )


def test_a_long_line_is_read_in_pieces(run: Run, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A book that is all one line; what was cut apart is found all the same, and no word is cut."""
    for limit in (30, 64, 333):
        monkeypatch.setattr(build, "_LINE_CHARACTERS", limit)
        Path("text.txt").write_text((FREE + SAID) * 20)
        status, out, _ = run(corpus, "text.txt")
        assert (
            status == 0 and "; 40 sentences of dev or test clips removed" in out and "words that the student" not in out
        )
        assert max(map(len, build.lines(Path("text.txt")))) <= 2 * limit
        assert " ".join(build.lines(Path("text.txt"))).split() == ((FREE + SAID) * 20).split()


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("labels.tsv", "{i}.wav\tA bad, bad cab\tabe", "looks like a table with 3 columns; text files have one sentence per "
         "line: give only the column of sentences (cut -f2 labels.tsv > sentences.txt), or a table of clips as a corpus"
         " (lalia prepare labels.tsv --out CORPUS)"),
        ("labels.tsv.gz", "{i}\tA bad cab", "only the column of sentences (gzip -cd labels.tsv.gz | cut -f2 > sentences.txt)"),
        ("metadata.csv", "clip{i}|a bad cab", "(cut -d'|' -f2 metadata.csv > sentences.txt), or a table of clips"),
        ("labels.csv", '{i}.wav,"a bad, bad cab",abe', "give only the column of sentences, or a table of clips as a corpus"),
    ],
)  # fmt: skip
def test_a_table_is_no_text(run: Run, corpus: Path, name: str, row: str, says: str) -> None:
    written = "\n".join(["file\tsaid\tvoice", *(row.format(i=i) for i in range(5))]).encode()
    Path(name).write_bytes(gzip.compress(written) if name.endswith(".gz") else written)
    for given in ([name], [corpus, name]):
        status, _, err = run(*given)
        assert status == 2 and f"{name}: looks like a table" in err and says in err and err.count("\n") == 1
    assert not Path("lm").exists()


def test_text_with_tabs_commas_and_semicolons_is_text(run: Run) -> None:
    lines = ["\tA bad cab, a bad bed;", "a cab, dead.", "ace,\ta bed", "", "\tbed, cab", "add a cab; bed", "a bad ace"]
    Path("text.txt").write_text("\n".join(lines * 3))
    assert run("text.txt")[0] == 0


def test_a_pipe_is_read_once(run: Run, corpus: Path) -> None:
    """As of ``lalia lm <(cut -f2 labels.tsv)``."""
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=((FREE + SAID) * 1000,))
    writer.start()
    status, out, _ = run(corpus, "pipe")
    writer.join()
    assert status == 0 and "; 2,000 sentences of dev or test clips removed" in out


def test_stdin_is_a_pipe_too(student: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lalia", "lm", "-", "--like", str(student), "--out", str(tmp_path / "lm")]
    ended = subprocess.run(command, input=FREE * 50, capture_output=True, text=True)
    assert ended.returncode == 0 and "text      " in ended.stdout, ended.stderr


@pytest.mark.parametrize(("suffix", "encoding"), [("txt", "utf-16"), ("txt", "utf-16-be"), ("txt.gz", "utf-16")])
def test_text_in_utf_16_is_read(tmp_path: Path, suffix: str, encoding: str) -> None:
    path, text = tmp_path / f"notepad.{suffix}", "þetta er gott\nog þetta líka\n" * 3000
    path.write_bytes(gzip.compress(text.encode(encoding)) if path.suffix == ".gz" else text.encode(encoding))
    assert "".join(build.lines(path)) == text


def test_a_tag_here_and_there_is_text(run: Run) -> None:
    Path("text.txt").write_text("a bad <b>bed</b>\n" + "a bad cab\n" * 9)
    assert run("text.txt")[0] == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "odd.txt: has no words; expected text, one sentence per line"),
        (b"...\n!?\n", "odd.txt: has no words; expected text, one sentence per line"),
        ("สวัสดีครับ สมชาย\nขอบคุณ".encode(), "odd.txt: the student has no letters for 3 of its 3 words"),
        (b"Abe added a bad cab.\nBed!\n", "odd.txt: has only sentences of dev or test clips; leave it out"),
        (
            b"<?xml version='1.0'?>\n<p>bed</p>\n",
            "odd.txt: is XML, not text; convert it to UTF-8 text with one sentence per line",
        ),
        (b"\n<!DOCTYPE html>\n<p>bed", "odd.txt: is a web page (HTML), not text; convert it to UTF-8 text"),
        (
            b"%PDF-1.7\n%\xe2\xe3",
            "odd.txt: is a PDF, not text; convert it to UTF-8 text with one sentence per line (pdftotext FILE)",
        ),
        (
            b"<s>a bed</s>\n" * 3 + b"bed\n" * 3,
            "odd.txt: 3 of its first 6 lines have tags such as <s>: is it XML or HTML?",
        ),
        (flac_bytes(sing("bad cab")), "odd.txt: is audio, not text; expected text with one sentence per line"),
        (b"RIFF\x24\x80\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80>\0\0\0}\0\0", "odd.txt: is audio, not text"),
    ],
)
def test_every_file_must_be_text_that_the_student_writes(run: Run, corpus: Path, content: bytes, says: str) -> None:
    """Though the labels beside it and another file would make a model all the same."""
    Path("good.txt").write_text(FREE * 50)
    Path("odd.txt").write_bytes(content)
    status, _, err = run(corpus, "good.txt", "odd.txt")
    assert status == 2 and says in err and err.count("\n") == 1 and not Path("lm").exists()


def test_words_that_begin_like_audio_are_text(tmp_path: Path) -> None:
    for i, text in enumerate(["caffè nero", "RIFF raff", "OggS and ends", "fLaC", "FORM follows function"]):
        (tmp_path / f"{i}.txt").write_text(text, encoding="utf-8")
        assert kind_of(tmp_path / f"{i}.txt") == "text"
