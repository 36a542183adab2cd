"""Tables that name audio: .tsv, .csv, .jsonl and .parquet, row by row; LJSpeech's, which has no names of columns."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lalia.audio.reading import SUFFIXES as AUDIO
from lalia.data.prepare.clips import Clip, Dropped
from lalia.data.prepare.languages import iso_639_3
from lalia.data.prepare.listing import Part
from lalia.data.prepare.options import Options, Say
from lalia.data.prepare.sources.annotations import seconds
from lalia.data.prepare.sources.columns import describe_columns, find_columns
from lalia.exits import UserError
from lalia.filenames import find_path, is_utf8

SUFFIXES = (".tsv", ".csv", ".jsonl", ".ndjson", ".parquet")
SPLIT_NAMES = {
    "train": "train", "training": "train", "other": "train", "validated": "train", "": "train",
    "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev", "eval": "test", "test": "test", "testing": "test",
}  # fmt: skip

_LIKELY = ("", ".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a")
"""Suffixes that tables leave out."""

Row = dict[str, Any]


def list_table(path: Path, options: Options, say: Say, root: Path | None = None) -> Part:
    """The clips of a table; paths start from ``--root``, else from the table's folder.

    ``root`` is the folder that was given, where that was not the table: ids start there, and the names of folders below it
    are splits where the table has no column of them. ``say`` is told which column is read as what, and which rows have no text
    where the others do. Raises ``UserError`` where rows of one file say different things and none says when.
    """
    below = path.parent.relative_to(root) if root is not None else Path()
    source = (root or path.parent).resolve().name if path.stem in ("manifest", "metadata") else path.stem
    split = split_of_folder(below)
    if is_ljspeech(path):
        return Part("LJSpeech folder", list(_ljspeech(path, options, source, below, split)), bool(split))
    columns, rows = read_table(path)
    fields = find_columns(columns, options, str(path))
    for line in describe_columns(columns, fields, str(path)):
        say(line)
    found_splits = set()
    files = set()
    start = options.root or path.parent

    def entries() -> Iterator[Clip | Dropped]:
        for number, row in rows:
            where = f"{(below / path.name).as_posix()} line {number}"
            if isinstance(row, str):
                yield Dropped(where, "bad row", row)
                continue
            said = dict(fields)
            if "split" in fields:
                found_splits.add(str(row.get(fields["split"]) or "").strip())
            elif split:
                row, said["split"] = {**row, "\0split": split}, "\0split"
            clip = clip_of(row, said, start, source, where, options, below)
            if isinstance(clip, Dropped):
                files.add(_file(start, str(row.get(fields["audio"]) or "").strip()))
            yield clip

    listed = list(entries())
    clips = [entry for entry in listed if isinstance(entry, Clip)]
    if "start" not in fields:
        _refuse_many_rows_of_a_file(clips, columns, fields, path)
    wordless = [clip.id for clip in clips if not clip.text]
    if wordless and "text" in fields:
        one = len(wordless) == 1
        say(
            f"{path}: {fields['text']} is empty in {len(wordless):,} of {len(clips):,} rows, such as {wordless[0]}; "
            f"{'that clip' if one else 'those clips'} will have no label"
        )
    # A split column that is empty throughout says nothing.
    return Part("manifest", listed, bool(found_splits - {""} or split), frozenset(files))


def names_audio(path: Path, options: Options) -> bool:
    """Whether a table has a column that is known, or told, to name audio."""
    if is_ljspeech(path):
        return True
    try:
        return "audio" in find_columns(read_table(path)[0], options, str(path))
    except UserError:
        return False


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, Row | str]]]:
    """The columns of a table and its rows as (line number, row); a row that cannot be read is a string that says why."""
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
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
    row: Row, fields: Mapping[str, str], root: Path, source: str, where: str, options: Options, below: Path = Path()
) -> Clip | Dropped:
    """The clip that a row tells of, with its file below ``root``; ``Dropped`` where the row makes no sense.

    Its id is the file's name, which starts ``below`` another folder.
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
        if ours != "audio" and not is_utf8(value(ours)):  # Whatever its bytes, a name may be that of a file.
            save = "save the table as UTF-8 (iconv -f latin1 -t utf-8)"
            return Dropped(id, "bad row", f"{where}: {theirs} is not UTF-8; {save}")
    try:
        start = time("start") if value("start") else 0.0
        duration = time("duration") if value("duration") else 0.0
        end = time("end") if value("end") else start + duration if value("start") and duration else None
        language = options.language or iso_639_3(value("language"))
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
    return Clip(
        id=id,
        path=str(_file(root, name)),
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


def read_channel(word: str) -> int | None:
    """A channel from 0, of its number from 1, its letter or its side; None where the cell is empty."""
    known = {"a": 0, "b": 1, "l": 0, "r": 1, "left": 0, "right": 1}
    if not word:
        return None
    if word.lower() in known:
        return known[word.lower()]
    if word.isascii() and word.isdecimal() and int(word):
        return int(word) - 1
    raise ValueError(f"channel {word!r}: expected a number from 1 on, A or B, left or right")


def split_of_folder(folder: Path) -> str:
    """The split that one of the folders of a path is named after, the outermost first; "" where none is."""
    return next((SPLIT_NAMES[name.lower()] for name in folder.parts if name.lower() in SPLIT_NAMES), "")


def is_ljspeech(path: Path) -> bool:
    """Whether ``metadata.csv`` has LJSpeech's form: names of files without suffix and texts, parted by ``|``, below no header."""
    if path.suffix.lower() != ".csv":
        return False
    first = next((line for _, line in _lines(path) if line.strip()), "")
    cells = first.split("|")
    return len(cells) in (2, 3) and _ljspeech_file(path.parent, cells[0]) is not None


def _ljspeech(path: Path, options: Options, source: str, below: Path, split: str) -> Iterator[Clip | Dropped]:
    """Name, text as it is written, text as it is read; the last of them is the label."""
    root = options.root or path.parent
    for number, line in _lines(path):
        where = f"{(below / path.name).as_posix()} line {number}"
        name, *texts = (cell.strip() for cell in line.split("|"))
        if not line.strip():
            continue
        if not is_utf8(line):
            yield Dropped(where, "bad row", "is not UTF-8; save the table as UTF-8 (iconv -f latin1 -t utf-8)")
        elif not 1 <= len(texts) <= 2:
            yield Dropped(
                where, "bad row", f"has {len(texts) + 1} fields, expected 2 or 3: name|text|text as it is read"
            )
        elif (file := _ljspeech_file(root, name)) is None:
            yield Dropped(where, "missing", f"no audio file wavs/{name}.* beside {path.name}")
        else:
            text = next((text for text in reversed(texts) if text), "")
            language = options.language or iso_639_3("")
            yield Clip((below / name).as_posix(), str(file), language, text, "", split or "train", source)


def _ljspeech_file(root: Path, name: str) -> Path | None:
    if not name.strip() or "/" in name:
        return None
    for folder in ("wavs", "wav", "clips", "audio", "."):
        for suffix in _LIKELY:
            path = find_path(root / folder / f"{name.strip()}{suffix}")
            if path.is_file():
                return path
    return None


def read_lines(path: Path) -> list[bytes]:
    """The lines of a text file, UTF-16 made UTF-8; ``UserError`` where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a text file") from error
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", "replace").encode()
    return data.removeprefix(b"\xef\xbb\xbf").splitlines()


_MILLISECONDS = re.compile(r"(?:^|[^a-z.])(?:ms|msec|milliseconds)$")


def _file(root: Path, name: str) -> Path:
    """The file that a table calls ``name``, perhaps without its suffix; a table of Windows parts its folders by backslashes."""
    path = find_path(root / name)
    if ("\\" not in name and path.suffix.lower() in AUDIO) or path.is_file():
        return path
    name = name.replace("\\", "/")
    others = (find_path(root / f"{name}{suffix}") for suffix in _LIKELY)
    return next((other for other in others if other.is_file()), path)


def _refuse_many_rows_of_a_file(clips: list[Clip], columns: list[str], fields: Mapping[str, str], path: Path) -> None:
    """``UserError`` where rows of one file say different things and it is not known when: each would be the whole file."""
    texts: dict[tuple[str, int | None], set[str]] = {}
    for clip in clips:
        texts.setdefault((clip.path, clip.channel), set()).add(clip.text)
    several = {name: len(found) for (name, _), found in texts.items() if len(found) > 1}
    if not several:
        return
    kept = [row for _, row in read_table(path)[1] if isinstance(row, dict)]
    times = [name for name in columns if name and name not in fields.values() and _holds_times(kept, name)]
    if not times and len(clips) <= 2 * len(texts):
        return  # A few rows that repeat: each is told apart, and what holds the same sound is a duplicate.
    name, most = max(several.items(), key=lambda item: item[1])
    start, end = [*times, "NAME", "NAME"][:2]
    how = f"--columns start={start},end={end}"
    hint = "" if times else f" (its columns: {', '.join(columns)})"
    raise UserError(
        f"{path}: {most} rows with different texts name {Path(name).name}, and no column is known to say when each of them "
        f"begins; name it, as in {how}{hint}"
    )


def _holds_times(rows: list[Row], name: str) -> bool:
    """Whether a column holds a time in every row, and not the same one."""
    found = set()
    for row in rows:
        try:
            found.add(seconds(str(row.get(name) if row.get(name) is not None else "")))
        except ValueError:
            return False
    return len(found) > 1


def _parquet(path: Path) -> tuple[list[str], Iterator[tuple[int, Row | str]]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from error
    return table.column_names, iter(enumerate(table.to_pylist(), 1))


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
