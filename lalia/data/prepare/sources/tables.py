"""Tables that name audio: .tsv, .csv and .jsonl, row by row."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lalia.data.prepare.clips import Clip, Dropped
from lalia.data.prepare.languages import iso_639_3
from lalia.data.prepare.options import Options
from lalia.exits import UserError
from lalia.filenames import find_path, is_utf8

SPLIT_NAMES = {
    "train": "train", "training": "train", "other": "train", "validated": "train", "": "train",
    "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev", "eval": "test", "test": "test", "testing": "test",
}  # fmt: skip

Row = dict[str, Any]


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, Row | str]]]:
    """The columns of a table and its rows as (line number, row); a row that cannot be read is a string that says why."""
    lines = _lines(path)
    if path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
        rows = [(number, _json_row(line)) for number, line in lines if line.strip()]
        columns = list(dict.fromkeys(key for _, row in rows if isinstance(row, dict) for key in row))
        return columns, iter(rows)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(lines[0][1] if lines else "")
    csv.field_size_limit(1 << 24)
    text = io.StringIO("\n".join(line for _, line in lines))
    # Tab-separated texts hold quotation marks that are none of the format's.
    reader = (
        csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        if delimiter == "\t"
        else csv.reader(text, delimiter=delimiter)
    )
    columns = [name.strip() for name in next(reader, [])]
    return columns, _table_rows(reader, columns)


def clip_of(
    row: Row, fields: Mapping[str, str], root: Path, source: str, where: str, options: Options
) -> Clip | Dropped:
    """The clip that a row tells of, with its file below ``root``; ``Dropped`` where the row makes no sense."""

    def value(name: str) -> str:
        found = row.get(fields.get(name, ""))
        return "" if found is None else str(found).strip()

    name = value("audio")
    id = value("id") or name
    if not name:
        return Dropped(id or where, "no audio named", where)
    for ours, theirs in fields.items():
        if ours != "audio" and not is_utf8(value(ours)):  # Whatever its bytes, a name may be that of a file.
            save = "save the table as UTF-8 (iconv -f latin1 -t utf-8)"
            return Dropped(id, "bad row", f"{where}: {theirs} is not UTF-8; {save}")
    try:
        start = float(value("start") or 0.0)
        duration = float(value("duration") or 0.0)
        end = float(value("end")) if value("end") else start + duration if value("start") and duration else None
        language = options.language or iso_639_3(value("language"))
        channel = _channel(value("channel"))
    except (ValueError, UserError) as error:
        return Dropped(id, "bad row", f"{where}: {error}")
    if not 0 <= start < math.inf or (end is not None and not start < end < math.inf):
        return Dropped(id, "bad row", f"{where}: from {start} to {end} s")
    split = SPLIT_NAMES.get(value("split").lower())
    if split is None:
        return Dropped(id, "bad row", f"{where}: split {value('split')!r} is unknown")
    if (start or end is not None) and not value("id"):
        id = f"{name}#{start:.2f}-{end if end is not None else 0:.2f}"
    return Clip(
        id=id,
        path=str(find_path(root / name)),
        language=language,
        text=" ".join(value("text").split()),
        speaker=value("speaker"),
        split=split,
        source=source,
        start_s=start,
        end_s=end,
        duration_s=duration or (end - start if end is not None else 0.0),
        channel=channel,
    )


def _channel(word: str) -> int | None:
    """A channel from 0, of its number from 1, its letter or its side; None where the cell is empty."""
    known = {"a": 0, "b": 1, "l": 0, "r": 1, "left": 0, "right": 1}
    if not word:
        return None
    if word.lower() in known:
        return known[word.lower()]
    if word.isascii() and word.isdecimal() and int(word):
        return int(word) - 1
    raise ValueError(f"channel {word!r}: expected a number from 1 on, A or B, left or right")


def read_lines(path: Path) -> list[bytes]:
    """The lines of a text file, UTF-16 made UTF-8; ``UserError`` where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a text file") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", "replace").encode()
    return data.removeprefix(b"\xef\xbb\xbf").splitlines()


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines; bytes that are no UTF-8 stand in them as lone surrogates, found again row by row."""
    return [(number, line.decode("utf-8", "surrogateescape")) for number, line in enumerate(read_lines(path), 1)]


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
        if len(values) > len(columns) and any(values[len(columns) :]):
            yield reader.line_num, f"line {reader.line_num}: has {len(values)} fields, expected {len(columns)}"
        else:
            yield reader.line_num, dict(zip(columns, values, strict=False))


def _json_row(line: str) -> Row | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"is no JSON ({error})"
    return row if isinstance(row, dict) else f"is a JSON {type(row).__name__}, expected an object"


def _delimiter(header: str) -> str:
    return max(",;\t|", key=header.count)
