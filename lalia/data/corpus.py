"""Read a corpus: the folder of speech, labels and splits that `lalia prepare` writes.

A corpus is a ``datasets.load_from_disk`` folder (Arrow shards of FLAC bytes, 16 kHz mono) with a ``card.json`` and a
``clips.index``. This module maps shards when they are read and does not import ``datasets``. What every clip needs (8 bytes:
duration, language, split, labelled or not) comes from ``clips.index``, which processes share through the memory map.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lalia.audio.flac import read_flac
from lalia.cards import read_card, write_bytes, write_json
from lalia.errors import UserError, closest
from lalia.text.language_codes import language_not_in_corpus
from lalia.units import SAMPLE_RATE

SPLITS = ("train", "dev", "test")

CLIPS = "clips.index"
"""The file with duration, language, split and labelled or not of every clip, and the rows and bytes of every shard."""
MAPPED = 1024
"""Shards of a corpus that stay mapped: Linux allows a process 65,530 mappings (vm.max_map_count)."""

QUALITY = {
    "snr_db": "SNR, dB",
    "clipping": "clipping, share",
    "speech_ratio": "speech, share",
    "loudness_dbfs": "loudness, dBFS",
    "bandwidth_hz": "bandwidth, Hz",
    "original_rate": "original rate, Hz",
}
"""The columns that say how good a clip is, and their units in words."""

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "audio": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    "language": pa.string(),  # ISO 639-3, "und" where nobody said
    "text": pa.string(),  # "" where nobody wrote it down
    "speaker": pa.string(),  # "" where nobody said
    "split": pa.string(),
    "duration_s": pa.float32(),
    "source": pa.string(),
    "snr_db": pa.float32(),
    "clipping": pa.float32(),  # share of the samples
    "speech_ratio": pa.float32(),
    "loudness_dbfs": pa.float32(),
    "original_rate": pa.int32(),
    "bandwidth_hz": pa.float32(),
}


ExtraColumns = Mapping[str, Literal["string", "float"]]
"""Columns that a corpus has in addition to ``COLUMNS``, and their types: text, or float32."""
_TYPES: dict[str, pa.DataType] = {"string": pa.string(), "float": pa.float32()}


def _features(extra: ExtraColumns) -> dict[str, dict[str, Any]]:
    """The columns in the words of ``datasets``."""
    words = {"string": "string", "float": "float32", "int32": "int32"}
    audio = {"sampling_rate": SAMPLE_RATE, "decode": False, "_type": "Audio"}
    kinds = {name: str(kind) for name, kind in COLUMNS.items()} | dict(extra)
    return {
        name: audio if name == "audio" else {"dtype": words[kind], "_type": "Value"} for name, kind in kinds.items()
    }


def schema_with(extra: ExtraColumns) -> pa.Schema:
    """The schema of every shard of a corpus; its metadata lets ``datasets`` read a single shard as audio too."""
    columns = [*COLUMNS.items(), *((name, _TYPES[kind]) for name, kind in extra.items())]
    features = json.dumps({"info": {"features": _features(extra)}}, sort_keys=True)
    return pa.schema(columns, metadata={"huggingface": features})


SCHEMA = schema_with({})
"""The schema of a corpus without extra columns."""


def write_index(
    folder: Path,
    shards: Sequence[str],
    rows: int,
    size_bytes: int,
    fingerprint: str,
    about: str,
    extra: ExtraColumns = MappingProxyType({}),
) -> None:
    """Write what ``datasets.load_from_disk`` looks for: ``dataset_info.json``, then ``state.json``."""
    info = {
        "description": about,
        "citation": "",
        "homepage": "",
        "license": "",
        "features": _features(extra),
        "splits": {"train": {"name": "train", "num_bytes": size_bytes, "num_examples": rows, "dataset_name": "lalia"}},
    }
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in shards],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "dataset_info.json", info)
    write_json(folder / "state.json", state)


_CUT = r"^(?P<file>.+)#(?P<start>[0-9]+(?:\.[0-9]+)?)-(?P<end>[0-9]+(?:\.[0-9]+)?)$"
"""The name of an utterance that was cut out of a recording, as preparation gives it."""


class Recordings(NamedTuple):
    """The recordings of a corpus, and of each clip (N,) its recording's place in ``names`` and its seconds in it (NaN: not
    known)."""

    names: list[str]
    codes: np.ndarray
    starts_s: np.ndarray
    ends_s: np.ndarray


class _Shards:
    """The shard files of a corpus. A file is mapped when it is read; the last ``MAPPED`` stay mapped."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names = folder, names
        self.batches = lru_cache(MAPPED)(self.read)
        """``read`` with a memory; safe in threads and after a fork, as a lock of our own would not be"""

    def read(self, number: int) -> list[pa.RecordBatch]:
        """The record batches of a shard; ``UserError`` if it cannot be read."""
        path = self.folder / self.names[number]
        try:
            # A memory map stays valid when the reader is gone: the buffers of the batches keep it open.
            return list(pa.ipc.open_stream(pa.memory_map(os.fspath(path))))
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{path}: shard cannot be read ({error}); prepare the corpus again") from error


class _Clips(NamedTuple):
    """What is in memory of every clip, 8 bytes each, and the number of clips of each shard."""

    durations_s: np.ndarray
    languages: np.ndarray
    splits: np.ndarray
    labelled: np.ndarray
    language_names: list[str]
    shard_rows: np.ndarray

    @classmethod
    def scan(cls, shards: _Shards) -> _Clips:
        """Read them from the shards, one after the other."""
        columns: list[tuple[np.ndarray, ...]] = []
        found: dict[str, int] = {}
        split_codes = {name: code for code, name in enumerate(SPLITS)}
        rows = np.zeros(len(shards.names), np.int64)
        for number in range(len(shards.names)):
            for batch in shards.read(number):
                if not batch.num_rows:
                    continue
                if missing := [name for name in COLUMNS if name not in batch.schema.names]:
                    raise UserError(f"{shards.folder}: corpus lacks the columns {', '.join(missing)}; prepare it again")
                labelled = pc.greater(pc.binary_length(batch.column("text")), 0).to_numpy(zero_copy_only=False)
                languages = _codes(batch.column("language"), found, grow=True)
                try:
                    splits = _codes(batch.column("split"), split_codes, grow=False, kind=np.int8)
                except KeyError as error:
                    raise UserError(
                        f"{shards.folder}: split {error} is unknown, expected one of {', '.join(SPLITS)}"
                    ) from None
                columns.append((np.array(batch.column("duration_s").to_numpy()), languages, splits, labelled))
                rows[number] += batch.num_rows
        if not columns:
            raise UserError(f"{shards.folder}: corpus has no clips; prepare it again from a source that has some")
        durations_s, languages, splits, labelled = map(np.concatenate, zip(*columns, strict=True))
        names = sorted(found)
        rank = np.zeros(len(names), np.int16)
        for new, name in enumerate(names):
            rank[found[name]] = new
        return cls(durations_s, rank[languages], splits, labelled, names, rows)

    @classmethod
    def read(cls, shards: _Shards) -> _Clips | None:
        """Map them from ``clips.index``; None for a corpus without it. ``UserError`` if the shards are not those of the index."""
        path = shards.folder / CLIPS
        if not path.is_file():
            return None
        try:
            with pa.ipc.open_stream(pa.memory_map(os.fspath(path))) as stream:
                batch, facts = stream.read_next_batch(), json.loads(stream.schema.metadata[b"lalia"])
        except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
            raise UserError(f"{path}: cannot be read ({error}); prepare the corpus again") from error
        sizes = {entry.name: entry.stat().st_size for entry in os.scandir(shards.folder)}
        for name, expected in zip(shards.names, facts["shard_bytes"], strict=False):
            if sizes.get(name) != expected:
                raise UserError(
                    f"{shards.folder / name}: shard cannot be read (found {sizes.get(name, 'no file')} bytes, expected "
                    f"{expected}); prepare the corpus again"
                )
        rows = np.array(facts["shard_rows"], np.int64)
        if len(shards.names) != len(rows) or rows.sum() != batch.num_rows:
            raise UserError(f"{path}: is of other shards than state.json names; prepare the corpus again")
        durations_s, languages, splits, labelled = (column.to_numpy() for column in batch.columns)
        return cls(durations_s, languages, splits, labelled.view(bool), facts["languages"], rows)


def write_clip_index(folder: Path) -> Corpus:
    """Write ``clips.index`` of the corpus in ``folder``, which may have no card yet, and open it: it then opens without reading
    its shards."""
    (folder / CLIPS).unlink(missing_ok=True)  # of an interrupted call
    corpus = Corpus.open(folder, {})
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    facts = {
        "languages": corpus.language_names,
        "shard_rows": corpus.shard_rows.tolist(),
        "shard_bytes": [sizes[name] for name in corpus.shard_names],
    }
    batch = pa.record_batch(
        [pa.array(corpus.durations_s), pa.array(corpus.languages), pa.array(corpus.splits),
         pa.array(corpus.labelled.view(np.uint8))],
        pa.schema(
            [("duration_s", pa.float32()), ("language", pa.int16()), ("split", pa.int8()), ("labelled", pa.uint8())],
            {"lalia": json.dumps(facts)},
        ),
    )  # fmt: skip
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    write_bytes(folder / CLIPS, sink.getvalue().to_pybytes())
    return corpus


class Corpus:
    """A corpus on disk, read row by row through memory maps.

    ``durations_s`` (N,) float32, ``languages`` (N,) int16 codes into ``language_names``, ``splits`` (N,) int8 codes
    into ``SPLITS`` and ``labelled`` (N,) bool are at hand, 8 bytes per clip; everything else is read when it is needed.
    ``shard_names`` and ``shard_rows`` are the files and how many clips each has.
    """

    def __init__(self, folder: Path, card: dict[str, Any], shards: _Shards, clips: _Clips) -> None:
        self.folder = folder
        self.card = card
        self.durations_s, self.languages, self.splits, self.labelled, self.language_names, self.shard_rows = clips
        self.shard_names = shards.names
        self._shards = shards
        self._ends = np.cumsum(clips.shard_rows, dtype=np.int64)

    @classmethod
    def load(cls, folder: Path | str) -> Corpus:
        """Open the corpus in ``folder``; ``UserError`` where it is missing, unfinished, damaged or empty."""
        return cls.open(Path(folder), read_card(folder, "corpus"))

    @classmethod
    def open(cls, folder: Path, card: dict[str, Any]) -> Corpus:
        """Open shards that may not have a card yet (see ``load``). Without ``clips.index`` (earlier versions made none) every
        shard is read once."""
        state = folder / "state.json"
        try:
            names = [file["filename"] for file in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{state}: cannot be read ({error}); prepare the corpus again") from error
        shards = _Shards(folder, names)
        return cls(folder, card, shards, (_Clips.read(shards) if names else None) or _Clips.scan(shards))

    def __len__(self) -> int:
        return len(self.durations_s)

    def __repr__(self) -> str:
        return f"Corpus({os.fspath(self.folder)!r}, {len(self)} clips, {self.durations_s.sum() / 3600:.1f} h)"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Corpus.load, (self.folder,))  # Another process maps the shards itself.

    def select(
        self, split: str | None = None, language: str | None = None, with_text: bool | None = None
    ) -> np.ndarray:
        """Row numbers (K,) int64, ascending, that meet every condition given; ``UserError`` for an unknown name."""
        keep = np.ones(len(self), bool)
        if split is not None:
            if split not in SPLITS:
                raise UserError(f"split {split!r} is unknown, expected one of {', '.join(SPLITS)}")
            keep &= self.splits == SPLITS.index(split)
        if language is not None:
            if language not in self.language_names:
                raise language_not_in_corpus(f"{self.folder}: language {language}", language, self.language_names)
            keep &= self.languages == self.language_names.index(language)
        if with_text is not None:
            keep &= self.labelled == with_text
        return np.flatnonzero(keep)

    @property
    def extra_columns(self) -> ExtraColumns:
        """The columns in addition to ``COLUMNS``."""
        schema = next(self._batches()).schema
        return {f.name: "string" if f.type == pa.string() else "float" for f in schema if f.name not in COLUMNS}

    def labels(self, name: str) -> list[str]:
        """The values of a string column that says something of whole clips; ``UserError`` if there is none of that name."""
        own = [column for column, kind in COLUMNS.items() if pa.types.is_string(kind) and column not in ("id", "split")]
        known = [*own, *(column for column, kind in self.extra_columns.items() if kind == "string")]
        if name not in known:
            raise UserError(
                f"{self.folder}: has no column {name!r}{closest(name, known)}; it has {', '.join(known)} (keep more of a table's "
                f"columns with lalia prepare --keep {name})"
            )
        return [str(value or "") for value in self.column(name)]

    def column(self, name: str, rows: np.ndarray | None = None) -> list[Any]:
        """The values of one column, for ``rows`` or for all; not for ``audio``, which is read clip by clip."""
        if rows is not None:
            return [self._value(int(row), name) for row in rows]
        return [value for batch in self._batches() for value in batch.column(name).to_pylist()]

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers, (N,)."""
        return np.concatenate([np.array(batch.column(name).to_numpy()) for batch in self._batches()])

    def id(self, row: int) -> str:
        """The clip's name, unique in the corpus."""
        return str(self._value(row, "id"))

    def text(self, row: int) -> str:
        """What is said, or ``""``."""
        return str(self._value(row, "text"))

    def speaker(self, row: int) -> str:
        """Who says it, or ``""``."""
        return str(self._value(row, "speaker"))

    def language(self, row: int) -> str:
        """The ISO 639-3 code of the clip's language."""
        return self.language_names[self.languages[row]]

    def audio_bytes(self, row: int) -> bytes:
        """The FLAC file of the clip."""
        batch, offset = self._locate(row)
        value = batch.column("audio").field("bytes")[offset]
        return bytes(value.as_buffer()) if value.is_valid else b""

    def wave(self, row: int) -> np.ndarray:
        """The clip's wave: float32 (samples,), 16 kHz mono, -1 to 1. ``AudioError`` names the clip that is damaged."""
        return read_flac(self.audio_bytes(row), name=lambda: f"{self.folder}: clip {self.id(row)}")

    def hours(self, labelled: bool | None = None) -> dict[str, dict[str, float]]:
        """Hours per language and split, of all clips or the labelled ones: ``{"ita": {"train": 0.31, ...}, ...}``."""
        kept = np.ones(len(self), bool) if labelled is None else self.labelled == labelled
        cells = self.languages[kept].astype(np.int64) * len(SPLITS) + self.splits[kept]
        seconds = np.bincount(cells, self.durations_s[kept], minlength=len(self.language_names) * len(SPLITS))
        return {
            name: dict(zip(SPLITS, (row / 3600).tolist(), strict=True))
            for name, row in zip(self.language_names, seconds.reshape(-1, len(SPLITS)), strict=True)
        }

    def tally(self, labelled: bool | None = None) -> dict[str, int]:
        """Clips per split, all or the labelled ones: ``{"train": 2709, "dev": 61, "test": 61}``."""
        kept = np.ones(len(self), bool) if labelled is None else self.labelled == labelled
        return dict(zip(SPLITS, np.bincount(self.splits[kept], minlength=len(SPLITS)).tolist(), strict=True))

    def count(self, column: str) -> int:
        """How many different values a string column has, ``""`` aside."""
        values: set[str] = set()
        for batch in self._batches():
            values.update(batch.column(column).unique().to_pylist())
        return len(values - {""})

    def recordings(self) -> Recordings:
        """Which recording each clip was cut from, as far as its name says: ``FILE#START-END``, else it is one of its own.

        The channels of a file (``--channels each`` calls them ``FILE-1``, ``FILE-2``) are one recording.
        """
        by_channel = (self.card.get("recipe") or {}).get("channels") == "each"
        names: dict[str, int] = {}
        codes: list[np.ndarray] = []
        starts: list[np.ndarray] = []
        ends: list[np.ndarray] = []
        for batch in self._batches():
            ids = batch.column("id")
            parts = pc.extract_regex(ids, pattern=_CUT)
            files = pc.coalesce(pc.struct_field(parts, "file"), ids)
            if by_channel:
                files = pc.replace_substring_regex(files, pattern=r"-[0-9]+$", replacement="")
            codes.append(_codes(files, names, grow=True, kind=np.int32))
            for field, found in (("start", starts), ("end", ends)):
                times = pc.cast(pc.struct_field(parts, field), pa.float64())
                found.append(times.to_numpy(zero_copy_only=False))
        return Recordings(list(names), *map(np.concatenate, (codes, starts, ends)))

    def _locate(self, row: int) -> tuple[pa.RecordBatch, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"{self.folder}: row {row} of {len(self)}")
        shard = int(np.searchsorted(self._ends, row, side="right"))
        offset = int(row - (self._ends[shard - 1] if shard else 0))
        for batch in self._shards.batches(shard):
            if offset < batch.num_rows:
                return batch, offset
            offset -= batch.num_rows
        raise UserError(
            f"{self.folder / self.shard_names[shard]}: shard has fewer clips than {CLIPS} says; prepare the corpus again"
        )

    def _batches(self) -> Iterator[pa.RecordBatch]:
        """All record batches, one shard mapped at a time."""
        for shard in range(len(self.shard_names)):
            yield from self._shards.read(shard)

    def _value(self, row: int, column: str) -> Any:
        batch, offset = self._locate(row)
        return batch.column(column)[offset].as_py()


def _codes(column: pa.Array, known: dict[str, int], grow: bool, kind: type = np.int16) -> np.ndarray:
    """Each value of a string column as its number in ``known``, which grows where it may."""
    encoded = column.dictionary_encode()
    table = []
    for name in encoded.dictionary.to_pylist():
        if grow:
            known.setdefault(name, len(known))
        table.append(known[name])
    return np.asarray(table, kind)[encoded.indices.to_numpy(zero_copy_only=False)]
