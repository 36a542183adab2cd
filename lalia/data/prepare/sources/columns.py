"""Recognise the columns of a table by their names, or by their values if the table has no header.

Tables without a header start with the name of the audio file: LJSpeech, OpenSLR, MLS, CSS10, Festival and many more.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from lalia.audio.reading import SUFFIXES
from lalia.data.prepare.finish_listing import PartListing
from lalia.data.prepare.listing import Dropped, Options, SourceClip
from lalia.data.prepare.sources.audio_files import NamedAudio
from lalia.errors import UserError
from lalia.files import is_utf8
from lalia.text.language_codes import iso_639_3
from lalia.text.text_files import iconv_command, read_lines

# --- Columns of tables -----------------------------------------------------------------------------------

NAMES: dict[str, tuple[str, ...]] = {
    "audio": (
        "audio", "path", "audio_filepath", "audio_path", "file", "filename", "file_name", "wav", "clip", "audio_file",
        "audio_filename", "wav_path", "wav_filename", "filepath", "file_path", "recording", "wav_file", "audiofile", "file name",
        "audio file", "media",
    ),
    "text": (
        "text", "sentence", "transcription", "transcript", "raw_transcription", "normalized_text", "label",
        "utterance_text", "transcript_text", "normalised_text", "raw_text", "prompt", "utterance",
    ),
    "language": ("language", "lang", "locale", "lang_id", "language_code", "lang_code"),
    "speaker": (
        "speaker", "speaker_id", "client_id", "spk", "speaker_name", "spk_id", "speakerid", "voice", "voice_id", "reader",
        "reader_id", "talker", "user", "user_id", "narrator",
    ),
    "split": ("split", "subset", "partition"),
    "duration": ("duration_s", "duration", "duration_seconds", "length_s", "duration_ms"),
    "start": (
        "start_s", "start", "offset", "begin", "start_time", "begin_time", "start_sec", "start_seconds", "onset", "tmin", "xmin",
        "begin time - ss.msec", "begin time - hh:mm:ss.ms", "begin time", "start time", "start_ms", "begin_ms",
        "begin time - msec",
    ),
    "end": (
        "end_s", "end", "stop", "end_time", "stop_time", "end_sec", "end_seconds", "tmax", "xmax", "end time - ss.msec",
        "end time - hh:mm:ss.ms", "end time", "stop time", "end_ms", "stop_ms", "end time - msec",
    ),
    "id": ("id", "clip_id", "utt_id", "segment_id", "utterance_id"),
    "channel": (),  # Its usual name has other meanings too; --columns channel=NAME sets it.
    "licence": ("licence", "license"),
}  # fmt: skip
"""lalia's field names and the usual column names of each, the most reliable first."""


def find_columns(
    columns: list[str], options: Options, where: str, needed: tuple[str, ...] = ("audio",)
) -> dict[str, str]:
    """lalia's field names → the table's columns, by ``options.columns`` or by their usual names.

    Raises ``UserError`` if a ``needed`` one is missing, or the first line holds data instead of names.
    """
    found: dict[str, str] = {}
    known = {name.lower(): name for name in columns}
    if not any(word in known for usual in NAMES.values() for word in usual):
        _refuse_data(columns, where)
    for ours, usual in NAMES.items():
        given = options.columns.get(ours)
        if given is not None and given not in columns:
            raise UserError(f"{where}: has no column {given!r}; it has {', '.join(columns) or 'none'}")
        name = given or next((known[word] for word in usual if word in known), None)
        if name is not None:
            found[ours] = name
    for ours, theirs in options.keep.items():
        if theirs not in columns:
            raise UserError(f"{where}: has no column {theirs!r} for --keep; it has {', '.join(columns) or 'none'}")
        found[ours] = theirs
    if missing := [name for name in needed if name not in found]:
        raise UserError(
            f"{where}: has no column for {', '.join(missing)} (it has {', '.join(columns) or 'none'});"
            f" name it, for example --columns {_example(columns, found)}"
        )
    return found


def _example(columns: list[str], found: Mapping[str, str]) -> str:
    """An example for ``--columns``: the unrecognised columns in order as audio, text, speaker."""
    unknown = [name for name in columns if name and name not in found.values()]
    wanted = [ours for ours in ("audio", "text", "speaker") if ours not in found]
    return ",".join(f"{ours}={name}" for ours, name in zip(wanted, unknown, strict=False)) or "audio=NAME"


def describe_columns(columns: Iterable[str], found: Mapping[str, str], where: str) -> list[str]:
    """A line with the columns that are used and not used; if no column holds texts, a second line that says so."""
    unused = [name for name in columns if name and name not in found.values()]
    line = "columns: " + ", ".join(f"{ours}={theirs}" for ours, theirs in found.items())
    if unused:
        hint = next((f"{ours}={unused[0]}" for ours in ("text", "speaker") if ours not in found), "OURS=NAME")
        line += f"; not used: {', '.join(unused)} (to use {'it' if len(unused) == 1 else 'one'}: --columns {hint})"
    if "text" in found:
        return [line]
    such = f"if one of {', '.join(unused)} does, give --columns text=NAME" if unused else "no other column is left"
    return [line, f"{where}: no column with texts was recognised, so no clip will have a label; {such}"]


def _refuse_data(columns: list[str], where: str) -> None:
    """Raise ``UserError`` if the column names look like the values of a clip."""
    audio = next((name for name in columns if PurePath(name).suffix.lower() in SUFFIXES), None)
    if audio is None:
        return
    text = max((name for name in columns if name != audio), key=len, default=None)
    names = {audio: "audio", text: "text"}
    header = ", ".join(names.get(name, f"column{number}") for number, name in enumerate(columns, 1))
    raise UserError(
        f"{where}: its first line looks like data ({audio!r}), not like column names; insert a line above it, "
        f"for example: {header} (with the delimiter of the other lines). --columns OURS=NAME maps columns with other names"
    )


# --- Tables without column names whose first field is the name of an audio file --------------------------

_SURE = ("\t", "|")
_FESTIVAL = "("
_DELIMITERS = (_FESTIVAL, *_SURE, ";", ",", " ")
_FESTIVAL_LINE = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')
_CHECKED_LINES, _HEAD_BYTES = 200, 1 << 18
_NAME = re.compile(r"[^\W\d]+([ _-][^\W\d]+)*")
"""A first field of letters only that is not the name of a file is a column name."""
_STRESS = frozenset("ˈˌː")
_SHARE = {True: 0.5, False: 0.9}
"""Share of the first fields that must name audio: with a tab or bar as delimiter, and with delimiters that occur in texts."""


@dataclass(frozen=True)
class HeaderlessTable:
    """The format of such a table: its delimiter, its maximum number of fields, and the columns with texts, from 0."""

    delimiter: str
    width: int
    texts: tuple[int, ...]

    def line(self, path: Path) -> str:
        """A line that describes the format."""
        unused = [str(n + 1) for n in range(1, self.width) if n not in self.texts]
        spare = [str(n + 1) for n in self.texts[:-1]]
        line = f"{path}: has no column names; audio is column 1, text column {self.texts[-1] + 1}"
        line += f" (if that is empty: column {', '.join(reversed(spare))})" if spare else ""
        return line + (f"; not used: column {', '.join(unused)}" if unused else "")


def detect_headerless(path: Path, named: NamedAudio) -> HeaderlessTable | None:
    """The format of ``path`` if it is such a table, else None: its first fields must be names of audio that ``named`` finds."""
    lines = [line for _, line in _numbered(path, _HEAD_BYTES) if line.strip()][:_CHECKED_LINES]
    for delimiter in _DELIMITERS:
        if not lines or delimiter not in lines[0] or (delimiter == " " and len(lines) < 2):
            continue
        rows = list(_fields(lines, delimiter))
        names = {cell.casefold() for cell in rows[0]}
        if (names & set(NAMES["audio"]) or _NAME.fullmatch(rows[0][0])) and not named.knows(rows[0][0]):
            return None  # It has column names.
        known = sum(len(row) > 1 and named.knows(row[0]) for row in rows)
        if known < _SHARE[delimiter in _SURE] * len(rows) or not known:
            continue
        widths = Counter(len(row) for row in rows)
        width = max(n for n, count in widths.items() if count >= 0.1 * len(rows))
        if texts := _texts(rows, width):
            return HeaderlessTable(delimiter, width, texts)
    return None


def list_headerless(
    path: Path, form: HeaderlessTable, named: NamedAudio, options: Options, source: str, below: Path, split: str
) -> PartListing:
    """The clips of such a table; of several texts in a row the last non-empty one is the label."""

    def entries() -> Iterator[SourceClip | Dropped]:
        lines = [line for _, line in _numbered(path)]
        for number, row in enumerate(_fields(lines, form.delimiter), 1):
            where = f"{(below / path.name).as_posix()} row {number}"
            if not any(row):
                continue
            if not is_utf8("".join(row[1:])):  # A file name may have any bytes.
                yield Dropped(where, "bad row", f"is not UTF-8; save the table as UTF-8 ({iconv_command(path)})")
                continue
            if not 2 <= len(row) <= form.width:
                wanted = "2" if form.width == 2 else f"2 to {form.width}"
                yield Dropped(where, "bad row", f"has {len(row)} fields, expected {wanted}: audio and text")
                continue
            file = named.find(row[0])
            if isinstance(file, str):
                yield Dropped(row[0], "missing", file)
                continue
            text = next((row[n] for n in reversed(form.texts) if n < len(row) and row[n]), "")
            language = options.language or iso_639_3("")
            name = (below / row[0]).as_posix()
            yield SourceClip(name, str(file), language, " ".join(text.split()), "", split or "train", source)

    return PartListing("table without a header", list(entries()), bool(split))


def _numbered(path: Path, limit: int | None = None) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_lines(path, limit), 1):
        yield number, line.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _fields(lines: list[str], delimiter: str) -> Iterator[list[str]]:
    """The fields of each line, stripped. With a space as delimiter there are two, because the text contains spaces."""
    rows: Iterable[list[str]]
    if delimiter == _FESTIVAL:
        found = ((line, _FESTIVAL_LINE.fullmatch(line.strip())) for line in lines)
        return ([*match.groups()] if match else [line] for line, match in found)
    if delimiter == " ":
        rows = (line.split(maxsplit=1) for line in lines)
    elif delimiter in _SURE:
        rows = (line.split(delimiter) for line in lines)
    else:
        rows = csv.reader(lines, delimiter=delimiter)
    return ([cell.strip() for cell in row] for row in rows)


def _texts(rows: list[list[str]], width: int) -> tuple[int, ...]:
    """The text columns: the one with the longest texts, and other versions of it (for example with numbers written out)."""
    cells = {n: [row[n] for row in rows if n < len(row) and row[n]] for n in range(1, width)}
    written = {n: found for n, found in cells.items() if found and sum(map(_is_text, found)) > 0.5 * len(found)}
    if not written:
        return ()
    longest = max(written, key=lambda n: sum(map(len, written[n])) / len(written[n]))
    return tuple(n for n in written if n == longest or _alike(rows, n, longest))


def _is_text(cell: str) -> bool:
    """Whether a cell is text: it has letters and is neither a URL nor a phonetic transcription."""
    return any(letter.isalpha() for letter in cell) and "://" not in cell and not _STRESS & set(cell)


def _alike(rows: list[list[str]], one: int, other: int) -> bool:
    """Whether two columns have words in common in most rows where both are filled."""
    both = [row for row in rows if max(one, other) < len(row) and row[one] and row[other]]
    words = [[set(re.findall(r"\w+", row[n].casefold())) for n in (one, other)] for row in both]
    return sum(bool(a & b) for a, b in words) > 0.5 * len(both)
