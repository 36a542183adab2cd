"""Names of files that are not UTF-8, or are composed otherwise than the table says; and workers that fail, which end the job."""

from __future__ import annotations

import csv
import os
import signal
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lalia.cli.main import main
from lalia.data.corpus import Corpus
from lalia.data.prepare import pipeline
from lalia.data.prepare.listing import Options, SourceClip
from lalia.data.prepare.shards import Unit
from lalia.data.prepare.sources.opening import open_source
from lalia.data.prepare.workers import make_parts
from lalia.errors import UserError
from lalia.files import find_path, readable
from tests.tiny_clips import in_this_process, loud_is_voice, save, voiced

__all__ = ["loud_is_voice"]

LATIN = os.fsdecode(b"mod\x85 - la notte.wav")
NFC, NFD = unicodedata.normalize("NFC", "perché"), unicodedata.normalize("NFD", "perché")


def prepared(spec: Path | str, out: Path, **options: object) -> Corpus:
    source = open_source(str(spec), Options(**options), None, lambda words: None)  # type: ignore[arg-type]
    pipeline.prepare(source, pipeline.Recipe("test", {}, None, "near"), out, in_this_process, Console(quiet=True))
    return Corpus.load(out)


def test_names_that_are_not_utf8_are_read_by_the_command(tmp_path: Path) -> None:
    """In the name of the folder, of a clip, of one that is damaged and of one that is named as the other is written."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    for number, name in enumerate((LATIN, readable(LATIN), "good.wav")):
        save(folder / name, voiced(number))
    (folder / os.fsdecode(b"rov\xe9.wav")).write_bytes(b"RIFF")
    assert main(["prepare", str(folder), "--out", str(tmp_path / "c"), "--cut", "never", "--workers", "1"]) == 0
    corpus = Corpus.load(tmp_path / "c")
    assert corpus.column("id") == ["good.wav", r"mod\x85 - la notte.wav", r"mod\x85 - la notte.wav~2"]
    assert set(corpus.column("source")) == {r"caf\xe9"}
    with (tmp_path / "c" / "skipped.tsv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\")
    assert row["clip"] == r"rov\xe9.wav"
    again = ["prepare", str(folder), "--out", str(tmp_path / "c"), "--cut", "never"]
    assert main(again) == 0, "the same command finds it finished"


def test_a_table_names_files_by_their_bytes(tmp_path: Path) -> None:
    save(tmp_path / LATIN, voiced(1))
    table = tmp_path / "clips.tsv"
    table.write_bytes(b"audio\ttext\tnote\n" + os.fsencode(LATIN) + b"\tciao\tcaf\xe9, not used\n")
    corpus = prepared(table, tmp_path / "c")
    assert (corpus.column("id"), corpus.column("text")) == ([r"mod\x85 - la notte.wav"], ["ciao"])


def test_half_a_character_in_a_text_costs_its_row(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / f"{name}.wav", voiced(ord(name)))
    table = tmp_path / "clips.jsonl"
    table.write_text('{"audio": "a.wav", "text": "ciao"}\n{"audio": "b.wav", "text": "ciao \\ud83d"}\n')
    assert prepared(table, tmp_path / "c").column("text") == ["ciao"]
    assert "b.wav\tbad row\t" in (tmp_path / "c" / "skipped.tsv").read_text()


@pytest.mark.parametrize(("told", "there"), [(NFC, NFD), (NFD, NFC)])
def test_names_in_another_normal_form_are_found(told: str, there: str, tmp_path: Path) -> None:
    audio = tmp_path / f"audio {there}"
    save(audio / f"{there}.wav", voiced(1))
    assert find_path(tmp_path / f"audio {told}" / f"{told}.wav") == audio / f"{there}.wav"
    assert find_path(tmp_path / told / "no.wav") == tmp_path / told / "no.wav"
    (tmp_path / "clips.tsv").write_text(f"audio\ttext\n{told}.wav\tciao\n", encoding="utf-8")
    assert prepared(tmp_path / "clips.tsv", tmp_path / "table", root=audio).column("text") == ["ciao"]
    kaldi = tmp_path / "kaldi"
    kaldi.mkdir()
    (kaldi / "wav.scp").write_text(f"u1 sox 'audio {told}/{told}.wav' -t wav - |\n", encoding="utf-8")
    (kaldi / "text").write_text("u1 buon giorno\n")
    assert prepared(kaldi, tmp_path / "of kaldi").column("text") == ["buon giorno"]
    hub = tmp_path / f"hub {there}" / "train"
    save(hub / f"{there}.wav", voiced(3))
    (hub / "metadata.csv").write_text(f"file_name,transcription\n{told}.wav,ciao\n", encoding="utf-8")
    assert prepared(f"hub:{tmp_path / f'hub {told}'}", tmp_path / "of hub").column("text") == ["ciao"]
    assert prepared(hub.parent, tmp_path / "of folder").column("text") == ["ciao"]
    save(audio / f"{told}.wav", voiced(2))
    assert find_path(audio / f"{told}.wav").name == f"{told}.wav", "the very name comes first"


@dataclass(frozen=True)
class Faulty:
    """A stream with a fault that is no clip's: an exception of our own, or the death of its worker."""

    dies: bool

    def clips(self, start: int) -> Iterator[SourceClip]:
        yield SourceClip("one", "one.wav", "ita")
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        raise LookupError("a slip of the program")


@pytest.mark.parametrize(("dies", "line"), [(False, "a slip of the program"), (True, "was killed by signal 9")])
def test_a_worker_that_always_fails_ends_the_job(dies: bool, line: str, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    with pytest.raises(UserError, match=line):
        make_parts([Unit(0, stream=Faulty(dies))], tmp_path, None, 1, lambda unit, clips: None)


@pytest.mark.usefixtures("loud_is_voice")
def test_kaldi_tables_with_tabs_spaces_and_ends_of_lines_of_windows(tmp_path: Path) -> None:
    for number, name in enumerate(("a", "b 2", "c")):
        save(tmp_path / f"{name}.wav", voiced(number, 2.0))
    (tmp_path / "wav.scp").write_bytes(b"r1\ta.wav\r\nr2 \t b 2.wav\r\nr3   c.wav\r\n")
    (tmp_path / "segments").write_bytes(b"u1\tr1 0.5\t-1\r\nu2 r2\t0  1.5\r\nu3\tr3\t0\t-1.0\r\n")
    (tmp_path / "text").write_bytes("u1\thabari  yako\r\nu2 \tjambo\r\nu3 perch\xe9\r\nu4\tlost\r\n".encode("latin-1"))
    (tmp_path / "utt2spk").write_bytes(b"u1\tone\r\nu2\ttwo\r\n")
    corpus = prepared(tmp_path, tmp_path / "c", language="swa")
    assert corpus.column("id") == ["u1", "u2"]
    assert corpus.column("text") == ["habari yako", "jambo"]
    assert corpus.column("speaker") == ["one", "two"]
    assert np.allclose(corpus.durations_s, [1.5, 1.5])
    with (tmp_path / "c" / "skipped.tsv").open(encoding="utf-8") as file:
        reasons = {row["clip"]: row["reason"] for row in csv.DictReader(file, delimiter="\t")}
    assert reasons == {"u3": "bad row", "u4": "no audio named"}
