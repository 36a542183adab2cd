"""The hub both ways: a stream outlives the workers that read it, and what is pushed is the corpus and its papers, in private."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import huggingface_hub
import numpy as np
import pyarrow.parquet as pq
import pytest

from lalia.audio.channels import EACH
from lalia.cli.main import main
from lalia.data.corpus import Corpus
from lalia.data.prepare.listing import Options, SourceClip
from lalia.data.prepare.rows import CorpusRow, Reader
from lalia.data.prepare.sources.hub import push
from lalia.data.prepare.sources.opening import open_source
from lalia.errors import UserError
from tests.tiny_clips import save, voiced
from tests.tiny_corpus import make_corpus

datasets = pytest.importorskip("datasets")

_DYING = """\
import os, signal, sys
from pathlib import Path
from lalia.data.prepare import rows, shards
shards.SHARD_ROWS = 2
read = rows.Reader.read
died = Path(sys.argv[1])
def dies_once(reader, clip):
    if clip.text == 'text 5' and not died.exists():
        died.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return read(reader, clip)
rows.Reader.read = dies_once
from lalia.cli.main import main
if __name__ == '__main__': sys.exit(main(sys.argv[2:]))
"""


def layout(folder: Path, clips: int) -> Path:
    """An ``audiofolder``, the way datasets lie on the hub."""
    for number in range(clips):
        save(folder / "train" / f"{number}.wav", voiced(number, 0.4))
    lines = [json.dumps({"file_name": f"{n}.wav", "transcription": f"text {n}"}) for n in range(clips)]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_a_stream_outlives_its_worker(tmp_path: Path) -> None:
    """The clip it was at is blamed, as with files; every other one is read once, in order."""
    source, script = layout(tmp_path / "set", 8), tmp_path / "dying.py"
    script.write_text(_DYING)
    out = ["--out", str(tmp_path / "c"), "--language", "ita", "--dev", "0", "--test", "0", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "died"), "prepare", f"hub:{source}", *out],
        capture_output=True, text=True, timeout=900, check=False, env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int((tmp_path / "died").read_text()) != os.getpid()
    corpus = Corpus.load(tmp_path / "c")
    assert [corpus.text(row) for row in range(len(corpus))] == [f"text {n}" for n in range(8) if n != 5]
    with (tmp_path / "c" / "skipped.tsv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    assert (row["reason"], row["detail"]) == ("unreadable", "the decoder crashed or hung on it")


class Hub:
    """Stands in for the hub's client: takes what is uploaded, and says whether the repository is private."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.created: list[tuple[str, str, bool]] = []
        self.files: dict[str, bytes] = {}

    def __call__(self, **settings: Any) -> Hub:
        return self

    def create_repo(self, name: str, **how: Any) -> None:
        self.created.append((name, how["repo_type"], how["private"]))

    def repo_info(self, name: str, **how: Any) -> SimpleNamespace:
        return SimpleNamespace(id=name, private=self.private, sha="0" * 40)

    def preupload_lfs_files(self, repo_id: str, additions: list[Any], **how: Any) -> None:
        for addition in additions:  # The file is gone afterwards.
            with addition.as_file() as file:
                self.files[addition.path_in_repo] = file.read()

    def create_commit(self, repo_id: str, operations: list[Any], **how: Any) -> None:
        for operation in operations:
            if operation.path_in_repo == "README.md":
                self.files["README.md"] = operation.path_or_fileobj

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **how: Any) -> None:
        for path in huggingface_hub.utils.filter_repo_objects(
            [p.name for p in Path(folder_path).iterdir()], allow_patterns=allow_patterns
        ):
            self.files[path] = (Path(folder_path) / path).read_bytes()


def test_channels_of_a_stream(tmp_path: Path) -> None:
    """Sides become speakers, and a column says which side a label is of."""
    folder = tmp_path / "set" / "train"
    for number in range(2):
        save(folder / f"{number}.wav", np.stack([voiced(number, 0.4), voiced(number + 9, 0.4)], axis=1))
    lines = [json.dumps({"file_name": f"{n}.wav", "side": "AB"[n], "who": "anna"}) for n in range(2)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    listed = open_source(f"hub:{tmp_path / 'set'}", Options(columns={"speaker": "who"}), None, lambda words: None)(
        tmp_path
    )
    (stream,) = listed.streams
    reader = Reader(None, tmp_path, choice=EACH)
    made = [
        made.row
        for clip in stream.clips(0)
        if isinstance(clip, SourceClip)
        for made in reader.read(clip)
        if isinstance(made, CorpusRow)
    ]
    ids = [f"train/00000/000000{n}-{side}" for n in range(2) for side in (1, 2)]
    assert [(row["id"], row["speaker"]) for row in made] == list(zip(ids, ["anna-1", "anna-2"] * 2, strict=True))
    options = Options(columns={"channel": "side"})
    (stream,) = open_source(f"hub:{tmp_path / 'set'}", options, None, lambda words: None)(tmp_path).streams
    assert [clip.channel for clip in stream.clips(0) if isinstance(clip, SourceClip)] == [0, 1]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    from datasets import arrow_dataset

    fake = Hub(private=True)
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    monkeypatch.setattr(arrow_dataset, "HfApi", fake)
    monkeypatch.setattr(arrow_dataset, "HfFileSystem", lambda **settings: fsspec.filesystem("memory"))
    return fake


def test_what_is_pushed_is_the_corpus(tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_corpus(tmp_path / "c", sentences=12)
    (folder / "ATTRIBUTION.md").write_text("by her")
    corpus = Corpus.load(folder)
    assert push(folder, "me/mine") == "https://huggingface.co/datasets/me/mine"
    assert hub.created == [("me/mine", "dataset", True)]
    parquet = {name: data for name, data in hub.files.items() if name.endswith(".parquet")}
    assert sorted(name.rpartition("/")[2].split("-")[0] for name in parquet) == ["test", "train", "validation"]
    sent: dict[str, dict[str, Any]] = {}
    for name, data in parquet.items():
        (tmp_path / "x.parquet").write_bytes(data)
        rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
        assert {row["split"] for row in rows} == {"dev" if "validation" in name else name.split("/")[1].split("-")[0]}
        sent |= {row["id"]: row for row in rows}
    assert len(sent) == len(corpus)
    for row in range(len(corpus)):
        found = sent[corpus.id(row)]
        assert found["audio"]["bytes"] == corpus.audio_bytes(row)
        assert (found["text"], found["language"]) == (corpus.text(row), corpus.language(row))
    assert {"card.json", "ATTRIBUTION.md", "README.md"} <= hub.files.keys()
    assert not {"state.json", "skipped.tsv"} & hub.files.keys()


def test_nothing_is_pushed_where_anybody_could_read_it(tmp_path: Path, hub: Hub) -> None:
    hub.private = False
    with pytest.raises(UserError, match="exists and is public; make it private"):
        push(make_corpus(tmp_path / "c", sentences=6), "me/mine")
    assert not hub.files


def test_a_push_that_fails_is_one_line_and_loses_nothing(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(*words: Any, **how: Any) -> None:
        raise OSError("401 Client Error\nmore")

    monkeypatch.setattr(hub, "create_repo", refuses)
    save(tmp_path / "a" / "x.wav", voiced(1))
    command = ["prepare", str(tmp_path / "a"), "--out", str(tmp_path / "c"), "--workers", "1", "--push", "me/mine"]
    assert main(command) == 2
    message = capsys.readouterr().err
    assert "cannot be pushed to me/mine (401 Client Error); log in with `hf auth login`" in message
    assert len(Corpus.load(tmp_path / "c")) == 1
