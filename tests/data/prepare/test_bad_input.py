"""What is wrong with a source costs itself and no more: a row of skipped.tsv, or one line where it ends the job."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lalia.cli.main import main
from lalia.data.corpus import Corpus
from lalia.data.prepare import pipeline
from lalia.data.prepare.listing import Options
from lalia.data.prepare.segments import Segmentation
from lalia.data.prepare.sources.opening import open_source
from lalia.errors import UserError
from tests.tiny_clips import encoded, in_this_process, loud_is_voice, save, voiced

__all__ = ["loud_is_voice"]
pytestmark = pytest.mark.usefixtures("loud_is_voice")


def prepared(
    spec: Path | str,
    out: Path,
    segmentation: Segmentation | None = None,
    engine: pipeline.Engine = in_this_process,
    **options: object,
) -> Corpus:
    source = open_source(str(spec), Options(**options), None, lambda words: None)  # type: ignore[arg-type]
    pipeline.prepare(source, pipeline.Recipe("test", {}, segmentation, "near"), out, engine, Console(quiet=True))
    return Corpus.load(out)


def skipped(corpus: Corpus) -> dict[str, str]:
    with (corpus.folder / "skipped.tsv").open(encoding="utf-8") as file:
        return {row["clip"]: row["reason"] for row in csv.DictReader(file, delimiter="\t")}


def test_wrong_extensions_are_read_by_what_the_files_hold(tmp_path: Path) -> None:
    for number, (name, form) in enumerate({"a.mp3": "WAV", "b.wav": "MP3", "c.ogg": "FLAC", "d.flac": "OGG"}.items()):
        path = tmp_path / "a" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(voiced(number, 2.0), form=form))
    corpus = prepared(tmp_path / "a", tmp_path / "c")
    assert corpus.column("id") == ["a.mp3", "b.wav", "c.ogg", "d.flac"]
    assert np.allclose(corpus.durations_s, 2.0, atol=0.15)


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_truncated_files_are_used_with_a_note_or_left_out_with_strict(form: str, tmp_path: Path) -> None:
    save(tmp_path / "a" / "good.wav", voiced(1))
    whole = encoded(voiced(2, 30.0), 44_100, form)
    (tmp_path / "a" / f"half.{form.lower()}").write_bytes(whole[: len(whole) // 2])
    name = f"half.{form.lower()}"
    for segmentation in (None, Segmentation()):
        corpus = prepared(tmp_path / "a", tmp_path / f"c{segmentation is None}", segmentation)
        assert {clip.partition("#")[0] for clip in corpus.column("id")} == {"good.wav", name} and not skipped(corpus)
        assert 6 < sum(corpus.durations_s) < 7
        assert corpus.card["notes"] == {"cut short": 1}
        with (corpus.folder / "notes.tsv").open(encoding="utf-8") as file:
            (note,) = csv.DictReader(file, delimiter="\t")
        assert (note["clip"], note["kind"]) == (name, "cut short")
        strict = partial(in_this_process, strict=True)
        corpus = prepared(tmp_path / "a", tmp_path / f"s{segmentation is None}", segmentation, engine=strict)
        assert corpus.column("id") == ["good.wav"]
        assert skipped(corpus) == {name: "cut short"} and not corpus.card["notes"]


def test_links_that_lead_nowhere_and_pipes_are_left_out(tmp_path: Path) -> None:
    save(tmp_path / "a" / "good.wav", voiced(1))
    (tmp_path / "a" / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(tmp_path / "a" / "pipe.wav")
    (tmp_path / "a" / "folder.wav").mkdir()
    assert skipped(prepared(tmp_path / "a", tmp_path / "c")) == {"gone.wav": "missing", "pipe.wav": "missing"}


def test_bad_rows_of_a_manifest_cost_themselves(tmp_path: Path) -> None:
    save(tmp_path / "x.wav", voiced(1, 3.0))
    save(tmp_path / "y.wav", voiced(2, 3.0))
    rows = [
        b"id\taudio\ttext\tlanguage\tstart\tend",
        b"good\tx.wav\tuno\tit\t0\t1.5",
        b"gone\tz.wav\tdue\tit\t\t",
        b"latin\tx.wav\tperch\xe9\tit\t0\t1",
        b"tongue\tx.wav\ttre\tklingon!\t0\t1",
        b"nan\tx.wav\tquattro\tit\tnan\t1",
        b"back\tx.wav\tcinque\tit\t2\t1",
        b"after\tx.wav\tsei\tit\t99\t100",
        b"word\tx.wav\tsette\tit\tone\ttwo",
        b"\t\totto\tit\t\t",
        b"whole\ty.wav\tnove\tit\t\t",
    ]
    (tmp_path / "clips.tsv").write_bytes(b"\n".join(rows) + b"\n")
    corpus = prepared(tmp_path / "clips.tsv", tmp_path / "c")
    assert sorted(corpus.column("id")) == ["good", "whole"]
    found = skipped(corpus)
    assert found.pop("clips.tsv line 10") == "no audio named"
    assert found.pop("latin") == "bad row"
    assert found == {
        "gone": "missing", "tongue": "bad row", "nan": "bad row", "back": "bad row", "after": "past the end", "word": "bad row",
    }  # fmt: skip


def test_bad_lines_of_a_kaldi_folder_cost_themselves(tmp_path: Path) -> None:
    save(tmp_path / "r.wav", voiced(1, 3.0))
    (tmp_path / "wav.scp").write_text("r r.wav\ns s.wav\nu r.wav\n")
    (tmp_path / "text").write_text("a uno\na due\na uno\n")
    (tmp_path / "segments").write_text(
        "a r 0 1\nb r 2 1\nc r nan 1\nd r\ne r 1 x\nf s 0 1\ng t 0 1\nh r 1 2\ni r 50 60\nj\n"
    )
    (tmp_path / "utt2lang").write_text("a it\nh ??\n")
    corpus = prepared(f"kaldi:{tmp_path}", tmp_path / "c")
    assert corpus.column("id") == ["a"]
    reasons = {"b": "bad row", "c": "bad row", "d": "bad row", "e": "bad row", "f": "missing", "g": "missing"}
    more = {"h": "bad row", "i": "past the end", "j": "missing", "u": "no segment", "a": "bad row"}
    assert skipped(corpus) == reasons | more, "of two lines of one name the first counts, and the other is told"
    assert corpus.column("text") == ["uno"]


def test_transcripts_in_another_encoding_cost_their_clips(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.wav", voiced(1))
    save(tmp_path / "a" / "y.wav", voiced(2))
    (tmp_path / "a" / "x.txt").write_bytes("perché".encode("latin-1"))
    (tmp_path / "a" / "y.txt").write_text("perché", encoding="utf-8")
    corpus = prepared(tmp_path / "a", tmp_path / "c")
    assert [corpus.text(row) for row in range(len(corpus))] == ["perché"]
    assert skipped(corpus) == {"x.wav": "unreadable transcript"}


def test_where_nothing_can_be_written_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a" / "x.wav", voiced(1))
    (tmp_path / "file").touch()
    assert main(["prepare", str(tmp_path / "a"), "--out", str(tmp_path / "file" / "c"), "--workers", "1"]) == 2
    message = capsys.readouterr().err
    assert "cannot be written (Not a directory); choose another --out" in message
    assert "Traceback" not in message

    def full(path: Path, write: object) -> None:
        raise UserError(f"{path}: cannot be written (No space left on device); make room and run again")

    monkeypatch.setattr(pipeline, "write_file", full)
    assert main(["prepare", str(tmp_path / "a"), "--out", str(tmp_path / "c"), "--workers", "1"]) == 2
    assert "No space left on device); make room" in capsys.readouterr().err
    assert not (tmp_path / ".c.work").exists()


def test_a_folder_that_cannot_be_entered_and_links_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also hidden files, a link that leads to its own folder, and one to nowhere."""
    root = tmp_path / "all"
    save(root / "a.wav", voiced(1))
    (root / "closed").mkdir()
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "gone").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    (root / "._a.wav").write_bytes(b"\0\5\26\7")
    scandir = os.scandir

    def closed(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    said: list[str] = []
    source = open_source(str(root), Options(), None, said.append)
    pipeline.prepare(
        source, pipeline.Recipe("test", {}, None, "near"), tmp_path / "c", in_this_process, Console(quiet=True)
    )
    assert skipped(Corpus.load(tmp_path / "c")) == {"closed": "unreadable", "gone": "missing"}
    assert said == ["not used: 1 hidden"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.xlsx", "is a spreadsheet; save it as CSV"),
        ("a.ods", "is a spreadsheet; save it as CSV"),
        ("a.zip", "is an archive; unpack it first: unzip -d FOLDER"),
        ("a.tar.gz", "is an archive; unpack it first: tar -C FOLDER -xf"),
        ("a.7z", "is an archive; unpack it first: 7z x -oFOLDER"),
        ("a.pdf", "is a document; save its table as CSV"),
        ("notes.md", "is neither audio nor a table or annotation of audio"),
    ],
)
def test_files_that_are_not_a_source_get_a_remedy(name: str, line: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4 and more")
    with pytest.raises(UserError, match=f"{name}: {line}"):
        prepared(tmp_path / name, tmp_path / "c")
    if name.endswith((".md", ".pdf")):
        return
    save(tmp_path / "b.wav", voiced(1))
    said: list[str] = []
    open_source(str(tmp_path), Options(), None, said.append)(tmp_path / "work")
    assert any(one.startswith(f"{name} is not used: it {line}") for one in said)


def test_a_corpus_is_not_prepared_again_and_a_saved_dataset_is_read(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    save(tmp_path / "a.wav", voiced(1))
    prepared(tmp_path / "a.wav", tmp_path / "c")
    with pytest.raises(UserError, match="c: is a corpus already; train on it"):
        prepared(tmp_path / "c", tmp_path / "d")
    rows = datasets.Dataset.from_dict({"audio": [str(tmp_path / "a.wav")], "sentence": ["moja"]})
    rows.save_to_disk(str(tmp_path / "saved"))
    assert prepared(tmp_path / "saved", tmp_path / "d").column("text") == ["moja"]


def test_rows_that_are_no_files_cost_themselves(tmp_path: Path) -> None:
    """Names that are too long, hold a null, or are those of folders and devices."""
    save(tmp_path / "a.wav", voiced(1))
    odd = ["x" * 5000, "a\0b", "/" * 300, "a.wav/b.wav", "é" * 400 + ".wav", "/dev/zero", ".", {"array": [0.1]}, 7]
    lines = [json.dumps({"audio": name, "text": "moja"}) for name in [*odd, "a.wav"]]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    corpus = prepared(tmp_path / "t.jsonl", tmp_path / "c")
    assert corpus.column("id") == ["a.wav"]
    assert len(skipped(corpus)) == len(odd)


def test_an_archive_next_to_a_table_is_named_if_the_audio_is_missing(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,text\na.wav,moja\n")
    (tmp_path / "audio.zip").write_bytes(b"PK\3\4")
    said: list[str] = []
    with pytest.raises(UserError, match="none of its first 1 files exists"):
        open_source(str(tmp_path), Options(), None, said.append)(tmp_path / "work")
    assert any(line.startswith("audio.zip is not used: it is an archive; unpack it first") for line in said)


def test_a_transcript_that_is_a_web_page_costs_its_clip(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        save(tmp_path / "all" / name, voiced(ord(name[0])))
    (tmp_path / "all" / "a.txt").write_text("<!DOCTYPE html><p>404")
    (tmp_path / "all" / "b.txt").write_text("moja")
    corpus = prepared(tmp_path / "all", tmp_path / "c")
    assert (corpus.column("text"), skipped(corpus)) == (["moja"], {"a.wav": "unreadable transcript"})
