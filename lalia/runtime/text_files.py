"""Text files a sentence a line, as a language model learns from them; and what else people give in their place."""

from __future__ import annotations

import gzip
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, cast

from lalia.audio.reading import SUFFIXES
from lalia.decoding.model_files import kind_of
from lalia.exits import UserError
from lalia.kinds import address, document, is_address
from lalia.text.files import conversion, utf_16

_WAYS = {
    "a PDF": " (pdftotext FILE)",
    "a web page (HTML)": " (pandoc -t plain FILE)",
    "a document of an office program": " (pandoc -t plain FILE)",
    "RTF": " (pandoc -t plain FILE)",
    "XML": ", without the tags",
}
"""How the text of a document is had."""
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_MOST_TAGGED = 0.3
"""The share of lines that may hold a tag: more is the source of a page, and a model would learn the names of its tags."""
_HEAD_LINES = 1000
_FEWEST_ROWS = 3
_LINE_CHARACTERS = 1 << 16
"""The longest line that is read as one: a book without line ends shall not be held as a whole."""


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file (``.gz`` too), those longer than 65,536 characters in pieces, cut between words.

    Raises a ``UserError`` where it is missing or neither UTF-8 nor UTF-16, and where it is a table: file names and speakers in
    every sentence are no text of any language, and a model that counts them says it knows words that nobody speaks.
    """
    if is_address(path):
        raise address(path)
    if path.is_file() and (told := document(path)):
        raise UserError(
            f"{path}: is {told}, not text; give its words alone as UTF-8, a sentence a line{_WAYS.get(told, '')}"
        )
    try:
        with _opened(path) as file:
            pieces = _pieces(file)
            head = list(islice(pieces, _HEAD_LINES))
            if table := Table.of(head):
                raise UserError(table.complaint(path))
            if tagged := [line for line in head if _TAG.search(line)]:
                _refuse_tags(path, tagged, head)
            yield from chain(head, pieces)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected text, a sentence a line") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {_instead(path, error)}") from error


def _opened(path: Path) -> io.TextIOWrapper:
    """A text file or a pipe, in UTF-8 or in UTF-16 as its first bytes tell; a pipe is read but once."""
    opened = gzip.open if path.suffix == ".gz" else open
    file = cast(io.BufferedReader, opened(path, "rb"))
    return io.TextIOWrapper(file, encoding=utf_16(file.peek(1)) or "utf-8-sig")


def _refuse_tags(path: Path, tagged: Sequence[str], head: Sequence[str]) -> None:
    if len(tagged) > _MOST_TAGGED * len(head):
        found = _TAG.search(tagged[0])
        raise UserError(
            f"{path}: {len(tagged)} of its first {len(head)} lines hold tags such as {found[0][:40] if found else ''}: is it XML "
            "or HTML? Give its words alone, a sentence a line"
        )


def _pieces(file: IO[str]) -> Iterator[str]:
    begun = ""
    while piece := file.readline(_LINE_CHARACTERS):
        piece, begun = begun + piece, ""
        if not piece.endswith("\n") and len(piece) >= _LINE_CHARACTERS:
            whole, space, rest = piece.rpartition(" ")
            piece, begun = (whole, rest) if space else (piece, "")
        yield piece
    if begun:
        yield begun


def _instead(path: Path, error: Exception) -> str:
    """What ``path`` is, which could not be read as text."""
    kind = kind_of(path) if isinstance(error, UnicodeDecodeError) and path.is_file() else "text"
    if kind == "kenlm":
        return "is KenLM's binary file, which keeps no n-grams but their hashes; give its ARPA file"
    if kind == "audio":
        return "is audio, not text; expected what is said, a sentence a line (lalia transcribe writes it down)"
    if isinstance(error, UnicodeDecodeError) and error.encoding == "utf-8" and path.is_file():
        zipped = path.suffix == ".gz"
        how = f"gzip -cd {path} | {conversion(path)}" if zipped else f"{conversion(path)} {path}"
        return f"cannot be read as UTF-8 text; convert it: {how} > text-utf8.txt"
    return f"cannot be read as text ({error}); give it as UTF-8, or leave it out"


@dataclass(frozen=True)
class Table:
    """Rows of columns: what parts them, how many there are, and which holds the most words (from 1; 0: not known)."""

    separator: str
    columns: int
    wordiest: int

    @classmethod
    def of(cls, head: Sequence[str]) -> Table | None:
        """The table that begins with ``head``; None where those lines are text.

        Half of the lines, and three at least, have the same number of columns. Of columns that commas part, half of the lines
        name an audio file in one: sentences have commas too, and how many there are says nothing.
        """
        rows = [line.strip() for line in head if line.strip()]
        most = max(_FEWEST_ROWS, len(rows) / 2)
        for separator in "\t|;":
            parted = [row.split(separator) for row in rows]
            columns, alike = Counter(map(len, parted)).most_common(1)[0] if parted else (0, 0)
            if columns > 1 and alike >= most:
                words = [sum(len(row[i].split()) for row in parted if len(row) == columns) for i in range(columns)]
                return cls(separator, columns, 1 + words.index(max(words)))
        if sum("," in row and any(map(_names_audio, row.split(","))) for row in rows) >= most:
            return cls(",", rows[0].count(",") + 1, 0)
        return None

    def complaint(self, path: Path) -> str:
        """What is wrong, and how to go on."""
        column = ""
        if self.wordiest:
            by = "" if self.separator == "\t" else f" -d'{self.separator}'"
            column = f" (cut{by} -f{self.wordiest} {path} > sentences.txt)"
            if path.suffix == ".gz":
                column = f" (gzip -cd {path} | cut{by} -f{self.wordiest} > sentences.txt)"
        corpus = f", or a table of clips as a corpus (lalia prepare {path} --out CORPUS)"
        return (
            f"{path}: looks like a table with {self.columns} columns; text files have a sentence a line: give the column of"
            f" sentences alone{column}{corpus if path.suffix in ('.tsv', '.csv') else ''}"
        )


def _names_audio(cell: str) -> bool:
    return Path(cell.strip(' "')).suffix.lower() in SUFFIXES
