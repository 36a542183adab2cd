"""A corpus on disk: what is read back, what anybody's `datasets` reads of it, and what is said when it is broken."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from lalia.cards import content_hash, read_card
from lalia.data.corpus import CLIPS, COLUMNS, Corpus
from lalia.data.prepare import pipeline, shards
from lalia.data.prepare.listing import Listing, SourceClip
from lalia.errors import AudioError, UserError
from tests.tiny_clips import in_this_process, loud_is_voice, save, voiced

__all__ = ["loud_is_voice"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loud_is_voice: None) -> Path:
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    clips = []
    for number, (language, split) in enumerate(
        [
            ("spa", "train"),
            ("ita", "train"),
            ("ita", "test"),
            ("ita", "train"),
            ("spa", "dev"),
            ("ita", "dev"),
            ("spa", "train"),
        ]
    ):
        path = save(tmp_path / f"{number}.wav", voiced(number, 0.4 + number / 10))
        clips.append(SourceClip(f"c{number}", str(path), language, f"testo {number}" if number % 2 else "", "s", split))
    recipe = pipeline.Recipe("test", {}, None, "near")
    pipeline.prepare(
        lambda work: Listing("test", clips), recipe, tmp_path / "corpus", in_this_process, Console(quiet=True)
    )
    return tmp_path / "corpus"


def test_rows_come_back(folder: Path) -> None:
    corpus = Corpus.load(folder)
    assert len(corpus) == 7
    assert len(list(folder.glob("*.arrow"))) == 3
    assert corpus.language_names == ["ita", "spa"]
    assert [corpus.language(row) for row in range(7)] == ["spa", "ita", "ita", "ita", "spa", "ita", "spa"]
    assert np.allclose(corpus.durations_s, 0.4 + np.arange(7) / 10, atol=1e-3)
    assert (corpus.id(5), corpus.text(5), corpus.speaker(5)) == ("c5", "testo 5", "s")
    for row in (0, 2, 3, 6):
        assert np.abs(corpus.wave(row) - voiced(row, 0.4 + row / 10)).max() < 1e-4
    with pytest.raises(IndexError):
        corpus.id(7)


def test_selections(folder: Path) -> None:
    corpus = Corpus.load(folder)
    assert corpus.select().tolist() == list(range(7))
    assert corpus.select("train").tolist() == [0, 1, 3, 6]
    assert corpus.select("train", "ita").tolist() == [1, 3]
    assert corpus.select(language="spa", with_text=False).tolist() == [0, 4, 6]
    assert corpus.select("test", "spa").tolist() == []
    with pytest.raises(UserError, match="language deu: not in the corpus, which has ita, spa"):
        corpus.select(language="deu")
    with pytest.raises(UserError, match="expected one of train, dev, test"):
        corpus.select("validation")


def test_hours_and_counts(folder: Path) -> None:
    corpus = Corpus.load(folder)
    assert corpus.hours()["ita"]["train"] * 3600 == pytest.approx(0.5 + 0.7, abs=1e-2)
    assert corpus.hours(labelled=True)["spa"] == {"train": 0.0, "dev": 0.0, "test": 0.0}
    assert corpus.count("speaker") == 1


def test_index_is_small(folder: Path) -> None:
    corpus = Corpus.load(folder)
    arrays = (corpus.durations_s, corpus.languages, corpus.splits, corpus.labelled)
    assert sum(array.itemsize for array in arrays) == 8


def test_opening_reads_the_index_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    plain = pa.memory_map

    def recording(path: str) -> pa.MemoryMappedFile:
        opened.append(Path(path).name)
        return plain(path)

    monkeypatch.setattr(pa, "memory_map", recording)
    corpus = Corpus.load(folder)
    assert opened == [CLIPS]
    # A corpus of an earlier version has no index, and opens to the same.
    (folder / CLIPS).unlink()
    older = Corpus.load(folder)
    assert len(opened) == 4
    assert older.language_names == corpus.language_names
    for name in ("durations_s", "languages", "splits", "labelled", "shard_rows"):
        ours, theirs = getattr(corpus, name), getattr(older, name)
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    assert [older.id(row) for row in range(7)] == corpus.column("id")


def test_few_shards_are_mapped_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many a corpus has: Linux limits the mappings of a process."""
    monkeypatch.setattr("lalia.data.corpus.MAPPED", 2)
    corpus = Corpus.load(folder)

    def mapped() -> set[str]:
        return {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if ".arrow" in line}

    for row in (0, 3, 6, 1, 4):
        assert np.abs(corpus.wave(row) - voiced(row, 0.4 + row / 10)).max() < 1e-4
        assert len({path for path in mapped() if str(folder) in path}) <= 2
    assert corpus.column("speaker") == ["s"] * 7
    assert len({path for path in mapped() if str(folder) in path}) <= 2


def test_the_id_is_the_hash_of_the_files(folder: Path) -> None:
    """Shards are hashed as they are written, and not read again; the hash is that of the folder."""
    card = read_card(folder)
    assert card["id"] == content_hash(folder)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.arrow")}
    assert content_hash(folder, hashes) == card["id"]
    assert content_hash(folder, hashes | {next(iter(hashes)): "00" * 32}) != card["id"]


def test_an_index_of_other_shards_is_refused(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    state["_data_files"].pop()
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"clips\.index: is of other shards"):
        Corpus.load(folder)
    (folder / CLIPS).write_bytes(b"no Arrow stream")
    with pytest.raises(UserError, match=r"clips\.index: cannot be read"):
        Corpus.load(folder)


def test_other_processes_open_it_themselves(folder: Path) -> None:
    again = pickle.loads(pickle.dumps(Corpus.load(folder)))
    assert again.id(6) == "c6"
    assert len(pickle.dumps(again)) < 500


def test_anybodys_datasets_reads_it(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = datasets.load_from_disk(str(folder))
    assert found.column_names == list(COLUMNS)
    assert isinstance(found.features["audio"], datasets.Audio)
    assert found[3]["audio"]["bytes"] == Corpus.load(folder).audio_bytes(3)
    single = datasets.Dataset.from_file(str(next(iter(sorted(folder.glob("*.arrow"))))))
    assert isinstance(single.features["audio"], datasets.Audio)


def test_a_damaged_clip_is_named(folder: Path) -> None:
    path = sorted(folder.glob("*.arrow"))[0]
    data = bytearray(path.read_bytes())
    at = data.index(b"fLaC") + 2000
    data[at : at + 400] = bytes(400)
    path.write_bytes(bytes(data))
    with pytest.raises(AudioError, match="clip c0"):
        Corpus.load(folder).wave(0)


def test_broken_folders_say_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Corpus.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no card"):
        Corpus.load(tmp_path)
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text("{")
    with pytest.raises(UserError, match=r"state\.json: cannot be read"):
        Corpus.load(folder)
    (folder / "state.json").write_text(json.dumps({"_data_files": []}))
    with pytest.raises(UserError, match="has no clips"):
        Corpus.load(folder)
    (folder / "state.json").write_text(json.dumps(state))
    shard = sorted(folder.glob("*.arrow"))[1]
    shard.write_bytes(shard.read_bytes()[:3000])
    with pytest.raises(UserError, match="shard cannot be read"):
        Corpus.load(folder)
