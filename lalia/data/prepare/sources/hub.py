"""Stream datasets from the Hugging Face hub or a folder in its layout, and push a corpus to the hub."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lalia.cards import NAME as CARD
from lalia.data.corpus import SPLITS, Corpus
from lalia.data.prepare.listing import Dropped, Listing, Options, Say, SourceClip, Stream, ordering, sentence_key
from lalia.data.prepare.sources.columns import NAMES, describe_columns
from lalia.data.prepare.sources.tables import SPLIT_NAMES, read_channel
from lalia.data.prepare.splits import LEAST_HELD_OUT, PERCENT, held_out_percent
from lalia.errors import UserError
from lalia.files import find_path
from lalia.text.language_codes import UNKNOWN, iso_639_3

_SAVED_PER_STREAM = 2000
_HUB_SPLITS = {"dev": "validation"}


@dataclass(frozen=True)
class HubStream:
    """One file of a split of a dataset; every worker opens it separately."""

    name: str
    config: str
    split: str
    file: int
    files: int
    columns: tuple[tuple[str, str], ...]
    language: str
    source: str
    hold_out: tuple[float, float] | None
    limit: int

    def clips(self, start: int) -> Iterator[SourceClip | Dropped]:
        columns = dict(self.columns)
        rows = _load(self.name, self.config, self.split)
        rows = rows.cast_column(columns["audio"], _stored_audio()).select_columns(list(dict.fromkeys(columns.values())))
        if self.files > 1:
            rows = rows.shard(num_shards=self.files, index=self.file)
        read_language = _word_reader(rows.features, columns.get("language", ""))
        read_extra = {
            ours: _word_reader(rows.features, theirs) for ours, theirs in columns.items() if ours not in NAMES
        }
        entries = enumerate(islice(rows.skip(start), self.limit - start if self.limit else None), start)
        for number, row in entries:
            id = f"{self.split}/{self.file:05d}/{number:07d}"
            audio = row[columns["audio"]] or {}
            data, path = audio.get("bytes"), str(audio.get("path") or id)
            if data is None and not audio.get("path"):
                yield Dropped(id, "no audio named", "the row has no audio")
                continue
            if data is None and "://" in path:
                try:
                    data = _fetched(path)
                except Exception as error:
                    yield Dropped(id, "missing", f"{path}: {_first_line(error)}")
                    continue
            if data is None:
                path = str(find_path(Path(path)))
            text, speaker = (" ".join(str(row.get(columns.get(n, "")) or "").split()) for n in ("text", "speaker"))
            try:
                channel = read_channel(str(row.get(columns.get("channel", "")) or ""))
            except ValueError as error:
                yield Dropped(id, "bad row", str(error))
                continue
            language = self.language or _language(read_language(row))
            split_name = str(row.get(columns.get("split", "")) or self.split.split(".")[0])
            split = SPLIT_NAMES.get(split_name.lower(), "train")
            if self.hold_out is not None:
                key = f"{self.split}/{self.file}"
                split = (
                    _split_by_hash(speaker or sentence_key(text), *self.hold_out)
                    if text
                    else _split_by_position(key, number, *self.hold_out)
                )
            extra = {name: read(row) for name, read in read_extra.items()}
            yield SourceClip(
                id, path, language, text, speaker, split, self.source, data=data, channel=channel, extra=extra
            )


def list_hub(spec: str, options: Options, say: Say) -> Listing:
    """List ``NAME``, ``ORGANISATION/NAME`` or a folder, with ``/CONFIG`` if there are several; ``say`` receives its columns."""
    _be_quiet()
    name, config = _parse_spec(spec)
    splits = _splits(name, config)
    title = Path(name).name
    hold_out = None if len(splits) > 1 else _shares(name, config, splits[0], options)
    streams: list[Stream] = []
    columns: dict[str, str] = {}
    for split in splits:
        rows = _load(name, config, split)
        features = rows.features or _columns_of_first_row(rows)
        columns = _columns(features, options, spec)
        if split == splits[0]:
            for line in describe_columns(features, columns, f"hub:{spec}"):
                say(line)
        hold_out = None if "split" in columns else hold_out
        files = 1 if options.limit else rows.num_shards
        streams += [
            HubStream(
                name,
                config,
                split,
                file,
                files,
                tuple(columns.items()),
                options.language,
                title,
                hold_out,
                options.limit,
            )
            for file in range(files)
        ]
    way = "as the source says"
    if hold_out is not None:
        labelled = (
            f"the {'speaker' if 'speaker' in columns else 'sentence'}, of rows without text "
            if "text" in columns
            else ""
        )
        way = f"by the hash of {labelled}the row; {100 * hold_out[1]:.3g} % test, {100 * hold_out[0]:.3g} % dev"
    licence = options.licence or "not stated"
    facts = {
        "sources": [{"name": title, "form": "dataset", "config": config, "licence": licence}],
        "licences": [options.licence] if options.licence else [],
        "splitting": way,
    }
    return Listing(title, streams=streams, facts=facts, extra=dict.fromkeys(options.keep, "string"))


def _shares(name: str, config: str, split: str, options: Options) -> tuple[float, float]:
    """The shares of dev and test of the only split, by its number of rows if the dataset states it."""
    known = getattr(getattr(_load(name, config, split), "info", None), "splits", None) or {}
    rows = options.limit or int(getattr(known.get(split), "num_examples", 0) or 0)
    labelled = rows or math.ceil(100 * LEAST_HELD_OUT / PERCENT)
    dev, test = (
        held_out_percent(labelled, given_percent) / 100 for given_percent in (options.dev_percent, options.test_percent)
    )
    return dev, test


def push(folder: Path, repository: str) -> str:
    """Upload a finished corpus to the hub as a private dataset, split by split, with its card and credits; returns its URL.

    Raises ``UserError`` if the hub refuses, or if the repository exists and is public.
    """
    from datasets import load_from_disk
    from huggingface_hub import HfApi

    corpus = Corpus.load(folder)
    try:
        hub = HfApi()
        hub.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        private = hub.repo_info(repository, repo_type="dataset").private
        if private:
            rows = load_from_disk(str(folder))
            for code, split in enumerate(SPLITS):
                chosen = np.flatnonzero(corpus.splits == code)
                if len(chosen):
                    rows.select(chosen).push_to_hub(repository, split=_HUB_SPLITS.get(split, split), private=True)
            documents = [CARD, "*.md", "*.txt"]
            hub.upload_folder(repo_id=repository, repo_type="dataset", folder_path=folder, allow_patterns=documents)
    except Exception as error:  # any error of the network or the hub
        raise UserError(
            f"{folder}: cannot be pushed to {repository} ({_first_line(error)}); log in with `hf auth login` and run again"
        ) from error
    if not private:
        raise UserError(f"{repository}: exists and is public; make it private, or choose another --push USER/NAME")
    return f"https://huggingface.co/datasets/{repository}"


def _stored_audio() -> Any:
    """The audio column as stored: bytes, a path, or both; the library's own type needs a decoder even to pass it on."""
    from datasets import Audio

    class Stored(Audio):
        def encode_example(self, value: Any) -> dict[str, Any]:
            if isinstance(value, dict):
                return {"bytes": value.get("bytes"), "path": value.get("path")}
            return {"bytes": value, "path": None} if isinstance(value, bytes) else {"bytes": None, "path": str(value)}

    return Stored(decode=False)


def _fetched(address: str) -> bytes:
    """The bytes of a file on the hub or in an archive that a dataset refers to."""
    import fsspec

    with fsspec.open(address, "rb") as file:
        data: bytes = file.read()
    return data


def _parse_spec(spec: str) -> tuple[str, str]:
    """The dataset and its configuration ("" for the only one)."""
    path = find_path(Path(spec).expanduser())
    if path.is_dir():
        return str(path.resolve()), ""
    if path.parent.is_dir() and path.parent != Path() and (spec.startswith(("/", ".", "~"))):
        return str(path.parent.resolve()), path.name
    parts = spec.strip("/").split("/")
    return "/".join(parts[:2]), "/".join(parts[2:])


def is_saved(folder: Path) -> bool:
    """Whether ``folder`` was made by ``save_to_disk``."""
    return any((folder / file).is_file() for file in ("state.json", "dataset_dict.json"))


def _saved(name: str) -> Any:
    """The splits of a folder made by ``save_to_disk``, ``None`` for other folders."""
    from datasets import Dataset, load_from_disk

    if not is_saved(Path(name)):
        return None
    found = load_from_disk(name)
    return {"train": found} if isinstance(found, Dataset) else dict(found)


def _splits(name: str, config: str) -> list[str]:
    from datasets import get_dataset_split_names

    with _as_user_error(name, config):
        saved = _saved(name)
        return list(saved) if saved is not None else list(get_dataset_split_names(name, config or None))


def _load(name: str, config: str, split: str) -> Any:
    """The rows of a split as an iterable dataset with its list of files."""
    from datasets import load_dataset

    _be_quiet()
    with _as_user_error(name, config):
        saved = _saved(name)
        if saved is None:
            return load_dataset(name, config or None, split=split, streaming=True)
        return saved[split].to_iterable_dataset(num_shards=max(1, -(-len(saved[split]) // _SAVED_PER_STREAM)))


@contextlib.contextmanager
def _as_user_error(name: str, config: str) -> Iterator[None]:
    """Turn any exception of the library into a ``UserError`` of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        spec = f"{name}/{config}" if config else name
        raise UserError(
            f"hub:{spec}: cannot be opened as a dataset ({_first_line(error)}); check its name and configuration"
        ) from error


def _columns_of_first_row(rows: Any) -> dict[str, Any]:
    """Columns of a dataset that does not declare them, from its first row."""
    return dict.fromkeys(next(iter(rows), {}))


def _columns(features: dict[str, Any], options: Options, spec: str) -> dict[str, str]:
    """lalia's field names → the dataset's columns; the audio column is recognised by its type."""
    from datasets import Audio

    found: dict[str, str] = {}
    lower = {name.lower(): name for name in features}
    for ours in ("audio", "text", "language", "speaker", "split", "channel"):
        given = options.columns.get(ours)
        if given is not None and given not in features:
            raise UserError(f"hub:{spec}: has no column {given!r}; it has {', '.join(features)}")
        name = given or next((lower[usual] for usual in NAMES[ours] if usual in lower), None)
        if ours == "audio" and given is None:
            name = next((name for name, kind in features.items() if isinstance(kind, Audio)), name)
        if name is not None:
            found[ours] = name
    for ours, theirs in options.keep.items():
        if theirs not in features:
            raise UserError(f"hub:{spec}: has no column {theirs!r} for --keep; it has {', '.join(features)}")
        found[ours] = theirs
    if "audio" not in found:
        raise UserError(
            f"hub:{spec}: has no audio column (it has {', '.join(features)}); name it: --columns audio=NAME"
        )
    return found


def _word_reader(features: Any, column: str) -> Any:
    """A function that reads a word of a row, such as its language: some datasets store class numbers."""
    kind = features.get(column) if features else None
    if kind is not None and hasattr(kind, "int2str"):
        return lambda row: kind.int2str(row[column]) if row[column] is not None else ""
    return lambda row: str(row.get(column) or "")


def _language(word: str) -> str:
    """The code for a value of a dataset's language column; ``und`` if it is not a language, because classes have any names."""
    try:
        return iso_639_3(word)
    except UserError:
        return UNKNOWN


def _split_by_hash(key: str, dev: float, test: float) -> str:
    place = int(ordering(key)[:12], 16) / 16**12
    return "test" if place < test else "dev" if place < test + dev else "train"


def _split_by_position(key: str, number: int, dev: float, test: float) -> str:
    """The split of row ``number`` of a file. In every block of twenty rows (more for smaller shares) the shares are exact, by a
    hash of the row numbers, so that small datasets have held-out rows too."""
    shares = [share for share in (dev, test) if share > 0]
    if not shares:
        return "train"
    size = max(20, math.ceil(1 / min(shares)))
    block, place = divmod(number, size)
    rank = sorted(range(size), key=lambda other: ordering(f"{key}/{block}/{other}")).index(place)
    held = round(size * dev), round(size * test)
    return "dev" if rank < held[0] else "test" if rank < sum(held) else "train"


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]


def _be_quiet() -> None:
    import datasets

    datasets.disable_progress_bars()
    logging.getLogger("datasets").setLevel(logging.ERROR)
