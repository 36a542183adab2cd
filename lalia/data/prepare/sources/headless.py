"""Tables without names of columns whose first field names the audio: of LJSpeech, OpenSLR, MLS, CSS10, Festival, many more."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lalia.data.prepare.clips import Clip, Dropped
from lalia.data.prepare.listing import Part
from lalia.data.prepare.options import Options
from lalia.data.prepare.sources.columns import NAMES
from lalia.data.prepare.sources.named_audio import NamedAudio
from lalia.filenames import is_utf8
from lalia.text.files import conversion, read_lines
from lalia.text.language_names import iso_639_3

_SURE = ("\t", "|")
_FESTIVAL = "("
_DELIMITERS = (_FESTIVAL, *_SURE, ";", ",", " ")
_FESTIVAL_LINE = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')
_LOOKED_AT, _HEAD_BYTES = 200, 1 << 18
_NAME = re.compile(r"[^\W\d]+([ _-][^\W\d]+)*")
"""A first field of letters alone, which no file is called, names a column."""
_STRESS = frozenset("ˈˌː")
_SHARE = {True: 0.5, False: 0.9}
"""Of the first fields, that must name audio where a tab or a bar parts them, and where it is what texts hold as well."""


@dataclass(frozen=True)
class Headless:
    """How such a table is read: what parts its fields, how many there are at most, and those with texts, from 0."""

    delimiter: str
    width: int
    texts: tuple[int, ...]

    def line(self, path: Path) -> str:
        """What is said of it."""
        unused = [str(n + 1) for n in range(1, self.width) if n not in self.texts]
        spare = [str(n + 1) for n in self.texts[:-1]]
        line = f"{path}: has no names of columns; audio is column 1, text column {self.texts[-1] + 1}"
        line += f" (where that is empty: column {', '.join(reversed(spare))})" if spare else ""
        return line + (f"; not used: column {', '.join(unused)}" if unused else "")


def headless(path: Path, named: NamedAudio) -> Headless | None:
    """How ``path`` is read as such a table; None where it is none: its first fields are not those of audio ``named`` knows."""
    lines = [line for _, line in _numbered(path, _HEAD_BYTES) if line.strip()][:_LOOKED_AT]
    for delimiter in _DELIMITERS:
        if not lines or delimiter not in lines[0] or (delimiter == " " and len(lines) < 2):
            continue
        rows = list(_fields(lines, delimiter))
        names = {cell.casefold() for cell in rows[0]}
        if (names & set(NAMES["audio"]) or _NAME.fullmatch(rows[0][0])) and not named.knows(rows[0][0]):
            return None  # It has names of columns.
        known = sum(len(row) > 1 and named.knows(row[0]) for row in rows)
        if known < _SHARE[delimiter in _SURE] * len(rows) or not known:
            continue
        widths = Counter(len(row) for row in rows)
        width = max(n for n, count in widths.items() if count >= 0.1 * len(rows))
        if texts := _texts(rows, width):
            return Headless(delimiter, width, texts)
    return None


def list_headless(
    path: Path, form: Headless, named: NamedAudio, options: Options, source: str, below: Path, split: str
) -> Part:
    """The clips of such a table; of several texts in a row the last one that is not empty is the label."""

    def entries() -> Iterator[Clip | Dropped]:
        lines = [line for _, line in _numbered(path)]
        for number, row in enumerate(_fields(lines, form.delimiter), 1):
            where = f"{(below / path.name).as_posix()} row {number}"
            if not any(row):
                continue
            if not is_utf8("".join(row[1:])):  # Whatever its bytes, a name may be that of a file.
                yield Dropped(where, "bad row", f"is not UTF-8; save the table as UTF-8 ({conversion(path)})")
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
            yield Clip(name, str(file), language, " ".join(text.split()), "", split or "train", source)

    return Part("table without a header", list(entries()), bool(split))


def _numbered(path: Path, limit: int | None = None) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_lines(path, limit), 1):
        yield number, line.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def _fields(lines: list[str], delimiter: str) -> Iterator[list[str]]:
    """The fields of each line, without spaces around them. What a space parts has two: the text holds spaces as well."""
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
    """The columns of texts: the one with the longest, and those that say the same in other words, as numbers written out."""
    cells = {n: [row[n] for row in rows if n < len(row) and row[n]] for n in range(1, width)}
    written = {n: found for n, found in cells.items() if found and sum(map(_is_text, found)) > 0.5 * len(found)}
    if not written:
        return ()
    longest = max(written, key=lambda n: sum(map(len, written[n])) / len(written[n]))
    return tuple(n for n in written if n == longest or _alike(rows, n, longest))


def _is_text(cell: str) -> bool:
    """Whether a cell is written in letters, and is no address and no phonetic transcription."""
    return any(letter.isalpha() for letter in cell) and "://" not in cell and not _STRESS & set(cell)


def _alike(rows: list[list[str]], one: int, other: int) -> bool:
    """Whether two columns have words in common in most rows that fill both."""
    both = [row for row in rows if max(one, other) < len(row) and row[one] and row[other]]
    words = [[set(re.findall(r"\w+", row[n].casefold())) for n in (one, other)] for row in both]
    return sum(bool(a & b) for a, b in words) > 0.5 * len(both)
