"""Read tables of clips (manifests): .tsv, .csv, .jsonl, .json and .parquet, which refer to audio files or contain audio."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from lalia.audio.reading import SUFFIXES as AUDIO_SUFFIXES
from lalia.data.prepare.finish_listing import PartListing
from lalia.data.prepare.listing import Dropped, Options, Say, SourceClip
from lalia.data.prepare.sources import lhotse
from lalia.data.prepare.sources.annotations import seconds
from lalia.data.prepare.sources.audio_files import AudioIndex, NamedAudio
from lalia.data.prepare.sources.columns import NAMES, describe_columns, detect_headerless, find_columns, list_headerless
from lalia.errors import UserError
from lalia.files import is_utf8
from lalia.text.language_codes import iso_639_3
from lalia.text.text_files import iconv_command, read_lines

SUFFIXES = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")
SPLIT_NAMES = {
    "train": "train", "training": "train", "other": "train", "validated": "train", "": "train",
    "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev", "eval": "test", "test": "test", "testing": "test",
}  # fmt: skip

Row = dict[str, Any]
_CHECKED_ROWS, _MIN_SHARE = 100, 0.9  # rows, and the share of them that must name audio


def form_of(path: Path) -> str:
    """The suffix of a table, without ``.gz`` (``.tsv`` for ``a.tsv.gz``); "" for other files."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def stem_of(path: Path) -> str:
    """The name of a table without its suffixes."""
    compressed = path.name.lower().endswith(".gz")
    return Path(path.name[: -len(".gz")]).stem if compressed else path.stem


def list_table(
    path: Path, options: Options, work: Path, say: Say, root: Path | None = None, index: AudioIndex | None = None
) -> PartListing:
    """The clips of a table; paths are relative to ``--root``, else to the table's folder.

    ``root`` is the folder given as the source, if that is not the table: ids are relative to it, and names of its subfolders
    are splits if the table has no split column; ``index`` is the index of its audio. Audio inside a table is written below
    ``work``. ``say`` receives the meaning of the columns, and the rows without text if others have one. Raises ``UserError``
    if rows of one file have different texts and no times.
    """
    below = path.parent.relative_to(root) if root is not None else Path()
    source = (root or path.parent).resolve().name if stem_of(path) in ("manifest", "metadata") else stem_of(path)
    split = split_of_folder(below) or _split_of_shard(path)
    named = NamedAudio(path, options.root or path.parent, index)
    if form_of(path) in ("", ".tsv", ".csv") and (found := detect_headerless(path, named)):
        say(found.line(path))
        part = list_headerless(path, found, named, options, source, below, split)
        for line in named.lines():
            say(line)
        return part
    columns, rows = read_table(path)
    if kind := lhotse.kind_of(columns):
        fields = dict(lhotse.FIELDS)
        rows = lhotse.rows_of(path, kind, rows, _json_row)
        say(f"{path}: {kind} of lhotse")
    else:
        columns, fields = _known_columns(path, columns, options, named)
        for line in describe_columns(columns, fields, str(path)):
            say(line)
    found_splits = set()
    files = set()
    opened = work / "opened" / stem_of(path)

    def entries() -> Iterator[SourceClip | Dropped]:
        for number, row in rows:
            where = f"{(below / path.name).as_posix()} line {number}"
            if isinstance(row, str):
                yield Dropped(where, "bad row", row)
                continue
            row_fields = dict(fields)
            if "split" in fields:
                found_splits.add(str(row.get(fields["split"]) or "").strip())
            elif split:
                row, row_fields["split"] = {**row, "\0split": split}, "\0split"
            cell = row.get(fields["audio"])
            held = None
            if isinstance(cell, dict | bytes):
                name, data = _held(cell, f"{stem_of(path)}-{number:07d}")
                if not name:
                    yield Dropped(where, "bad row", f"{where}: {fields['audio']} has neither audio nor a path")
                    continue
                row = {**row, fields["audio"]: name}
                held = None if data is None else _put(opened / f"{number:07d}{Path(name).suffix[:8]}", data)
            clip = clip_of(row, row_fields, named, source, where, options, below, held)
            if isinstance(clip, Dropped) and held is None and clip.reason == "bad row":
                file = named.find(str(row.get(fields["audio"]) or "").strip())
                files.add(file if isinstance(file, Path) else path)
            yield clip

    listed = list(entries())
    for line in named.lines():
        say(line)
    clips = [entry for entry in listed if isinstance(entry, SourceClip)]
    if "start" not in fields:
        _refuse_many_rows_of_a_file(clips, columns, fields, path)
    wordless = [clip.id for clip in clips if not clip.text]
    if wordless and "text" in fields:
        one = len(wordless) == 1
        say(
            f"{path}: {fields['text']} is empty in {len(wordless):,} of {len(clips):,} rows, such as {wordless[0]}; "
            f"{'that clip' if one else 'those clips'} will have no label"
        )
    # A split column that is always empty is ignored.
    return PartListing("manifest", listed, bool(found_splits - {""} or split), frozenset(files))


def names_audio(path: Path, options: Options) -> bool:
    """Whether a table has an audio column, by its name or ``--columns``, or contains audio."""
    try:
        columns, _ = read_table(path)
        return holds_audio(path) or bool(lhotse.kind_of(columns)) or bool(_known_columns(path, columns, options)[1])
    except UserError:
        return False


def audio_table_fields(path: Path, options: Options, named: NamedAudio) -> dict[str, str]:
    """lalia's fields → columns of a table whose audio column (by ``--columns``, or nearly all values) ``named`` finds; else {}.

    "text" is missing if no text column is recognised.
    """
    try:
        columns, _ = read_table(path)
        if len(columns) < 2:
            return {}
        columns, fields = _known_columns(path, columns, options, named)
    except UserError:
        return {}
    return fields if "audio" in options.columns or fields["audio"] in _naming(path, columns, named.knows) else {}


def likely_text_column(path: Path, fields: Mapping[str, str]) -> str:
    """The column with the longest texts among those that are not in ``fields``; "" if there is none."""
    columns, rows = read_table(path)
    first = [row for _, row in islice(rows, _CHECKED_ROWS) if isinstance(row, dict)]
    left = [name for name in columns if name and name not in fields.values()]
    return max(left, key=lambda name: sum(len(str(row.get(name) or "")) for row in first), default="")


def columns_of(path: Path) -> str:
    """The names of a table's columns, for messages."""
    try:
        return ", ".join(read_table(path)[0]) or "none"
    except UserError:
        return "no readable columns"


def has_given_columns(path: Path, options: Options) -> bool:
    """Whether a table has all columns that ``--columns`` names."""
    try:
        return set(options.columns.values()) <= set(read_table(path)[0])
    except UserError:
        return False


def holds_audio(path: Path) -> bool:
    """Whether a table is a Parquet file that contains audio, as on the hub."""
    return form_of(path) == ".parquet" and bool(_holding_audio(path))


def _known_columns(
    path: Path, columns: list[str], options: Options, named: NamedAudio | None = None
) -> tuple[list[str], dict[str, str]]:
    """The columns of a table, and lalia's fields → columns. The audio column may have any name if its values look like audio
    files or ``named`` finds them."""

    try:
        return columns, find_columns(columns, options, str(path))
    except UserError:
        if "audio" in options.columns or not all(name in columns for name in options.columns.values()):
            raise
        such = _naming(path, columns, lambda name: _is_audio_name(name) or (named is not None and named.knows(name)))
        if len(such) != 1 or _is_audio_name(such[0]):
            raise
        return columns, find_columns(
            columns, replace(options, columns={**options.columns, "audio": such[0]}), str(path)
        )


def _naming(path: Path, columns: list[str], names: Callable[[str], bool]) -> list[str]:
    """The columns in which nearly all values of the first rows are ``known``."""
    rows = [row for _, row in islice(read_table(path)[1], _CHECKED_ROWS) if isinstance(row, dict)]

    def known(column: str) -> int:
        return sum(isinstance(value := row.get(column), str) and names(value.strip()) for row in rows)

    return [column for column in columns if column and rows and known(column) >= _MIN_SHARE * len(rows)]


def _is_audio_name(value: Any) -> bool:
    return isinstance(value, str) and Path(value.strip()).suffix.lower() in AUDIO_SUFFIXES


def _held(cell: dict[str, Any] | bytes, otherwise: str) -> tuple[str, bytes | None]:
    """The name of the audio in a cell, and its bytes if the cell has them; "" if it has neither."""
    if isinstance(cell, bytes):
        return otherwise, cell
    data, name = cell.get("bytes"), next((cell[key] for key in ("path", "file", "audio_filepath") if cell.get(key)), "")
    data = data if isinstance(data, bytes) else None
    return str(name or (otherwise if data is not None else "")), data


def _put(path: Path, data: bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); make room and run again") from error
    return path


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, Row | str]]]:
    """The columns of a table and its rows as (line number, row); an unreadable row is a string with the reason."""
    form = form_of(path)
    if form == ".parquet":
        return _parquet(path)
    lines = _lines(path)
    if form in (".jsonl", ".json", ".ndjson"):
        rows = _json_rows(lines)
        columns = list(dict.fromkeys(key for _, row in rows if isinstance(row, dict) for key in row))
        return columns, iter(rows)
    if lines and re.fullmatch(r"sep=.", lines[0][1].strip(), re.IGNORECASE):  # Excel's delimiter line
        lines = lines[1:]
    header = lines[0][1] if lines else ""
    delimiter = "\t" if form == ".tsv" and "\t" in header else _delimiter(header)
    csv.field_size_limit(1 << 24)
    text = io.StringIO("\n".join(line for _, line in lines))
    # Quotation marks in tab-separated texts are not CSV quotes.
    reader = (
        csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        if delimiter == "\t"
        else csv.reader(text, delimiter=delimiter)
    )
    columns = [name.strip() for name in next(reader, [])]
    return columns, _table_rows(reader, columns)


def clip_of(
    row: Row,
    fields: Mapping[str, str],
    named: NamedAudio,
    source: str,
    where: str,
    options: Options,
    below: Path = Path(),
    held: Path | None = None,
) -> SourceClip | Dropped:
    """The clip of a row, with its file found by ``named``; ``Dropped`` for an invalid row.

    Its id is the file's path with the prefix ``below``. ``held`` is the path of its audio, if the table contains it.
    """

    def value(name: str) -> str:
        found = row.get(fields.get(name, ""))
        return "" if found is None else str(found).strip()

    def time(name: str) -> float:
        number = seconds(value(name)) if ":" in value(name) else float(value(name).replace(",", "."))
        return number / 1000 if _MILLISECONDS.search(fields[name].casefold()) else number

    name = value("audio")
    id = value("id") or (below / name).as_posix()
    if not name:
        return Dropped(value("id") or where, "no audio named", where)
    for ours, theirs in fields.items():
        if ours != "audio" and not is_utf8(value(ours)):  # A file name may have any bytes.
            save = f"save the table as UTF-8 ({iconv_command(named.table)})"
            return Dropped(id, "bad row", f"{where}: {theirs} is not UTF-8; {save}")
    try:
        start = time("start") if value("start") else 0.0
        duration = time("duration") if value("duration") else 0.0
        end = time("end") if value("end") else start + duration if value("start") and duration else None
        numbered = isinstance(
            row.get(fields.get("language", "")), int
        )  # Class numbers of a dataset, whose names are not in the table.
        language = options.language or iso_639_3("" if numbered else value("language"))
        channel = read_channel(value("channel"))
    except (ValueError, UserError) as error:
        return Dropped(id, "bad row", f"{where}: {error}")
    if not 0 <= start < math.inf or (end is not None and not start < end < math.inf):
        return Dropped(id, "bad row", f"{where}: from {start} to {end} s")
    split = SPLIT_NAMES.get(value("split").lower())
    if split is None:
        return Dropped(id, "bad row", f"{where}: split {value('split')!r} is unknown")
    if (start or end is not None) and not value("id"):
        id = f"{id}#{start:.2f}-{end if end is not None else 0:.2f}"
    file = held or named.find(name)
    if isinstance(file, str):
        return Dropped(id, "missing", f"{where}: {file}")
    return SourceClip(
        id=id,
        path=str(file),
        language=language,
        text=" ".join(value("text").split()),
        speaker=value("speaker"),
        split=split,
        source=source,
        start_s=start,
        end_s=end,
        duration_s=duration or (end - start if end is not None else 0.0),
        channel=channel,
        extra={name: " ".join(value(name).split()) for name in options.keep},
    )


def read_channel(word: str) -> int | None:
    """A channel from 0, for a number from 1, a letter or a side; None for an empty cell."""
    known = {"a": 0, "b": 1, "l": 0, "r": 1, "left": 0, "right": 1}
    if not word:
        return None
    if word.lower() in known:
        return known[word.lower()]
    if word.isascii() and word.isdecimal() and int(word):
        return int(word) - 1
    raise ValueError(f"channel {word!r}: expected a number from 1 on, A or B, left or right")


def split_of_folder(folder: Path) -> str:
    """The split in the name of a folder of a path, the outermost first; "" if there is none."""
    return next((SPLIT_NAMES[name.lower()] for name in folder.parts if name.lower() in SPLIT_NAMES), "")


def _split_of_shard(path: Path) -> str:
    """The split in the name of a Parquet file of the hub: ``train-00000-of-00002.parquet``."""
    found = re.fullmatch(r"([a-z]+)(-\d+-of-\d+)?", path.stem.lower()) if form_of(path) == ".parquet" else None
    return SPLIT_NAMES.get(found[1], "") if found else ""


_MILLISECONDS = re.compile(r"(?:^|[^a-z.])(?:ms|msec|milliseconds)$")


def _refuse_many_rows_of_a_file(
    clips: list[SourceClip], columns: list[str], fields: Mapping[str, str], path: Path
) -> None:
    """Raise ``UserError`` if rows of one file have different texts and no times: each row would be the whole file."""
    texts: dict[tuple[str, int | None], set[str]] = {}
    for clip in clips:
        texts.setdefault((clip.path, clip.channel), set()).add(clip.text)
    several = {name: len(found) for (name, _), found in texts.items() if len(found) > 1}
    if not several:
        return
    kept = [row for _, row in read_table(path)[1] if isinstance(row, dict)]
    times = [name for name in columns if name and name not in fields.values() and _holds_times(kept, name)]
    if not times and len(clips) <= 2 * len(texts):
        return  # A few repeated rows get different ids and are removed as duplicates.
    name, most = max(several.items(), key=lambda item: item[1])
    start, end = [*times, "NAME", "NAME"][:2]
    how = f"--columns start={start},end={end}"
    hint = "" if times else f" (its columns: {', '.join(columns)})"
    raise UserError(
        f"{path}: {most} rows with different texts name {Path(name).name}, and no column with their start times was "
        f"recognised; give it, for example {how}{hint}"
    )


def _holds_times(rows: list[Row], name: str) -> bool:
    """Whether a column has a time in every row, and not always the same."""
    found = set()
    for row in rows:
        try:
            found.add(seconds(str(row.get(name) if row.get(name) is not None else "")))
        except ValueError:
            return False
    return len(found) > 1


def _parquet(path: Path) -> tuple[list[str], Iterator[tuple[int, Row | str]]]:
    """The rows of a Parquet file, in small batches because they may contain audio."""
    file = _opened_parquet(path)
    batches = file.iter_batches(batch_size=64)
    return file.schema_arrow.names, enumerate((row for batch in batches for row in batch.to_pylist()), 1)


def _holding_audio(path: Path) -> list[str]:
    """The columns of a Parquet file that contain audio: structs of bytes and a path."""
    import pyarrow as pa

    try:
        schema = _opened_parquet(path).schema_arrow
    except UserError:
        return []
    structs = [field for field in schema if pa.types.is_struct(field.type)]
    return [field.name for field in structs if {"bytes", "path"} <= {part.name for part in field.type}]


def _opened_parquet(path: Path) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines; bytes that are not UTF-8 become lone surrogates, which are reported row by row."""
    lines = (line.decode("utf-8", "surrogateescape") for line in read_lines(path))
    return [
        (number, line.removeprefix("\ufeff")) for number, line in enumerate(lines, 1)
    ]  # joined files have several BOMs


def _table_rows(reader: Any, columns: list[str]) -> Iterator[tuple[int, Row | str]]:
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, f"line {reader.line_num}: {error}"
            continue
        if not any(values):
            continue
        if [value.strip() for value in values] == columns:
            yield reader.line_num, f"line {reader.line_num}: repeats the column names"
        elif len(values) > len(columns) and any(values[len(columns) :]):
            yield reader.line_num, f"line {reader.line_num}: has {len(values)} fields, expected {len(columns)}"
        else:
            yield reader.line_num, dict(zip(columns, values, strict=False))


def _json_rows(lines: list[tuple[int, str]]) -> list[tuple[int, Row | str]]:
    """The rows of JSON: an object per line; or a list of all (alone, or as the only list of an object); or objects by audio."""
    rows = [(number, _json_row(line)) for number, line in lines if line.strip()]
    if len(rows) > 1 and any(isinstance(row, dict) for _, row in rows[:2]):
        return rows
    try:
        whole = json.loads("\n".join(line for _, line in lines))
    except ValueError:
        return rows
    if isinstance(whole, dict) and not {name.casefold() for name in whole} & set(NAMES["audio"]):
        lists = [value for value in whole.values() if isinstance(value, list)]
        if whole and all(map(_is_audio_name, whole)):
            rest = ({"text": value} if isinstance(value, str) else value for value in whole.values())
            whole = [{"audio": name, **row} for name, row in zip(whole, rest, strict=True) if isinstance(row, dict)]
        elif len(lists) == 1:
            whole = lists[0]
    if not isinstance(whole, list):
        return rows
    return [
        (number, row if isinstance(row, dict) else f"is a JSON {type(row).__name__}, expected an object")
        for number, row in enumerate(whole, 1)
    ]


def _json_row(line: str) -> Row | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"is not JSON ({error})"
    return row if isinstance(row, dict) else f"is a JSON {type(row).__name__}, expected an object"


def _delimiter(header: str) -> str:
    return max(",;\t|", key=header.count)
