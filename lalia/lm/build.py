"""Training text of a language model: text files and corpus labels, normalised and spelled like a student's output.

``lines`` reads text files and rejects tables, markup and audio; ``LeakageFilter`` removes the sentences of dev and test clips.
"""

from __future__ import annotations

import gzip
import io
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, cast

from lalia.audio.reading import SUFFIXES
from lalia.cards import NAME, read_card
from lalia.errors import UserError
from lalia.inputs import document, identify, is_url, kind_of, url_error, wrong_kind
from lalia.lm.folder import Unit, symbols_of
from lalia.model_folder import (
    LabelledCorpus,
    find_student,
    labelled_rows,
    languages_of,
    languages_taken,
    require_alphabet,
)
from lalia.text.normaliser import FILE_NAME as NORMALISER
from lalia.text.normaliser import Normaliser
from lalia.text.text_files import iconv_command, utf_16_variant
from lalia.text.tokens import FILE_NAME as TOKENS
from lalia.text.tokens import Tokens
from lalia.text.writing_system import WritingSystem

# --- Text files a sentence a line, as a language model learns from them; and what else people give in their place ---

_CONVERSIONS = {
    "a PDF": " (pdftotext FILE)",
    "a web page (HTML)": " (pandoc -t plain FILE)",
    "an office document": " (pandoc -t plain FILE)",
    "RTF": " (pandoc -t plain FILE)",
    "XML": ", without the tags",
}
"""How to extract the text of a document."""
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_MOST_TAGGED = 0.3
"""At most this share of lines may hold a tag; more means that the file is markup."""
_HEAD_LINES = 1000
_FEWEST_ROWS = 3
_LINE_CHARACTERS = 1 << 16
"""Longer lines are read in pieces, so that memory stays bounded."""


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file (``.gz`` too), those longer than 65,536 characters in pieces, cut between words.

    Raises a ``UserError`` if it is missing, neither UTF-8 nor UTF-16, or a table, whose file names and speakers a
    model would count as words.
    """
    if is_url(path):
        raise url_error(path)
    if path.is_file() and (told := document(path)):
        raise UserError(
            f"{path}: is {told}, not text; give its words alone as UTF-8, a sentence a line{_CONVERSIONS.get(told, '')}"
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
        raise UserError(f"{path}: {_why_unreadable(path, error)}") from error


def _opened(path: Path) -> io.TextIOWrapper:
    """A text file or a pipe, in UTF-8 or UTF-16 by its first bytes; a pipe is read only once."""
    opened = gzip.open if path.suffix == ".gz" else open
    file = cast(io.BufferedReader, opened(path, "rb"))
    return io.TextIOWrapper(file, encoding=utf_16_variant(file.peek(1)) or "utf-8-sig")


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


def _why_unreadable(path: Path, error: Exception) -> str:
    """Why ``path`` cannot be read as text."""
    kind = kind_of(path) if isinstance(error, UnicodeDecodeError) and path.is_file() else "text"
    if kind == "kenlm":
        return "is a KenLM binary file, which holds hashes instead of n-grams; give its ARPA file"
    if kind == "audio":
        return "is audio, not text; expected what is said, a sentence a line (lalia transcribe writes it down)"
    if isinstance(error, UnicodeDecodeError) and error.encoding == "utf-8" and path.is_file():
        zipped = path.suffix == ".gz"
        how = f"gzip -cd {path} | {iconv_command(path)}" if zipped else f"{iconv_command(path)} {path}"
        return f"cannot be read as UTF-8 text; convert it: {how} > text-utf8.txt"
    return f"cannot be read as text ({error}); give it as UTF-8, or leave it out"


@dataclass(frozen=True)
class Table:
    """A table: its separator, number of columns, and the column with the most words (from 1; 0: unknown)."""

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


# --- Sentences that held-out clips say, found in text and taken out --------------------------------------

SHORTEST = 4
"""Words that a sentence must have to be taken out of the middle of other text. Shorter ones ("please", "I don't know") are what
any text says of its own: to take them out would tear its sentences apart and hide from the model what everybody says. Four words
or more hardly ever meet by chance, and where they do, little is lost."""
_BLOCK = 4096


class LeakageFilter:
    """Removes the sentences of held-out clips from training text (``filter``).

    A line that is one of them goes, however short it is. One of ``SHORTEST`` words or more goes wherever it stands: inside a
    line, from one line to the next, in text that is wrapped or is all one paragraph; what stood before and after it are
    sentences of their own. Where nothing separates words, two ideographs count as a word, or four letters.

    The time is that of a look-up of every place's first four words in a dictionary, whatever the number of sentences; the
    memory is that of the sentences and of a few thousand words.
    """

    def __init__(self, sentences: Iterable[str], writing: WritingSystem | None = None) -> None:
        """``sentences`` are normalised, as the texts will be, and written as ``writing`` says."""
        self._writing = writing or WritingSystem()
        self._lines = frozenset(sentences)
        self._longest = SHORTEST
        self._by_start: dict[tuple[str, ...], list[list[str]]] = {}
        for sentence in self._lines:
            units = self._units(sentence)
            if self._writing.words_in(units) >= SHORTEST:
                self._by_start.setdefault(tuple(units[:SHORTEST]), []).append(units)
                self._longest = max(self._longest, len(units))
        for alike in self._by_start.values():
            alike.sort(key=len, reverse=True)
        self.removed = 0
        """how many sentences ``filter`` has removed"""

    def filter(self, lines: Iterable[str]) -> Iterator[str]:
        """The normalised ``lines`` of one text, none empty, without the sentences."""
        if not self._lines:
            yield from lines
            return
        waiting: list[tuple[str, list[str]]] = []
        units: list[str] = []  # of all lines that wait
        searched = 0  # places in ``units`` where no sentence begins that is not in ``found``
        found: list[tuple[int, int]] = []
        for line in lines:
            waiting.append((line, self._units(line)))
            units += waiting[-1][1]
            if len(units) - searched >= _BLOCK + self._longest:
                safe = len(units) - self._longest + 1
                self._search(units, searched, safe, found)
                done = 0
                while waiting and done + len(waiting[0][1]) <= safe:
                    yield from self._remaining(*waiting[0], done, found)
                    done += len(waiting.pop(0)[1])
                units, searched = units[done:], safe - done
                found = [(start - done, end - done) for start, end in found if end > done]
        self._search(units, searched, len(units), found)
        done = 0
        for line, own in waiting:
            yield from self._remaining(line, own, done, found)
            done += len(own)

    def _search(self, units: list[str], start: int, end: int, found: list[tuple[int, int]]) -> None:
        """Add to ``found`` the places (from, to) of what begins at ``start`` to ``end`` (not included) of ``units``.

        Of two that overlap the second is found as well, one that lies within another is not: both ends only ever grow.
        """
        starts = zip(*(units[start + i : end + i] for i in range(SHORTEST)), strict=False)
        known = self._by_start
        for at in [start + i for i, key in enumerate(starts) if key in known]:
            for sentence in known[tuple(units[at : at + SHORTEST])]:
                last = at + len(sentence)
                if found and last <= found[-1][1]:
                    break
                if units[at:last] == sentence:
                    found.append((at, last))
                    self.removed += 1
                    break

    def _remaining(self, line: str, units: list[str], start: int, found: list[tuple[int, int]]) -> Iterator[str]:
        """What is left of ``line``, whose ``units`` stand at ``start`` of those that were searched."""
        end = start + len(units)
        gaps, at = [], start
        for i in range(bisect_right(found, start, key=itemgetter(1)), len(found)):
            first, last = found[i]
            if first >= end:
                break
            gaps.append((at, first))
            at = last
        if not gaps:
            if line in self._lines:
                self.removed += 1
            else:
                yield line
            return
        places = _places(line, units)
        for first, last in [*gaps, (at, end)]:
            if last > first:
                yield line[places[first - start][0] : places[last - start - 1][1]]

    def _units(self, text: str) -> list[str]:
        """The words of ``text``, or its letters where the normaliser keeps nothing between words."""
        return self._writing.count_units(text) if self._writing.spaced else list(text)


def _places(text: str, units: list[str]) -> list[tuple[int, int]]:
    """Where each of its ``units`` begins and ends in ``text``."""
    places, at = [], 0
    for unit in units:
        at = text.index(unit, at)
        places.append((at, at + len(unit)))
        at += len(unit)
    return places


# --- The sentences that a language model is made of ------------------------------------------------------


@dataclass(frozen=True)
class TrainingText:
    """The training text of a model: sentences of symbols, the student's normaliser and tokens, and facts for the card."""

    sentences: list[list[str]]
    normaliser: Normaliser
    tokens: Tokens
    parents: list[dict[str, Any]]
    facts: dict[str, Any]
    removed: int = 0
    """sentences of held-out clips that were removed from the text files"""

    @classmethod
    def read(
        cls,
        paths: Sequence[Path],
        corpora: Mapping[Path, LabelledCorpus],
        like: Path,
        unit: Unit,
        languages: Sequence[str] | None,
    ) -> TrainingText:
        """The sentences of text files and corpora as the student ``like`` spells them, in symbols of ``unit`` (letter or word).

        ``corpora`` are the folders among ``paths``, opened. ``languages`` are theirs, None means the student's own.
        A ``UserError`` names the first path without a sentence that the student could write.
        """
        folder = like if (like / NAME).is_file() else find_student(like)
        if identify(folder).kind not in ("student", "recogniser"):
            raise wrong_kind(folder, "student", "--like")
        card = read_card(folder)
        normaliser, tokens = Normaliser.from_json(folder / NORMALISER), Tokens.load(folder / TOKENS)
        parents: list[dict[str, Any]] = []
        sentences: list[list[str]] = []
        for path in paths:
            if path.is_file() or not path.exists():  # a pipe is read but once
                next(lines(path), None)  # what is no text is told before an hour of text is read
        own = languages_of(card, normaliser.settings.language)
        taken_in = {
            path: languages_taken(languages, own, corpora[path].language_names, like, path)
            for path in paths
            if path in corpora
        }
        held_out = {normaliser(text) for path in taken_in for text in _held_out(corpora[path], taken_in[path])} - {""}
        leakage = LeakageFilter(held_out, normaliser.writing)
        all_unknown = 0
        for path in paths:
            if path in corpora:
                parents.append(corpora[path].card)
                texts = _training_labels(corpora[path], path, taken_in[path])
            else:
                texts = lines(path)
            normalised = filter(None, map(normaliser, texts))
            words, strange, example, taken = 0, 0, "", leakage.removed
            for text in normalised if path in corpora else leakage.filter(normalised):
                symbols, unknown = symbols_of(text, unit, tokens)
                words += text.count(" ") + 1
                strange += unknown
                example = example or (text if unknown else "")
                sentences.append(symbols)
            if not words and leakage.removed > taken:
                raise UserError(
                    f"{path}: holds nothing but what dev or test clips say; leave it out, or give other text"
                )
            if not words:
                raise UserError(f"{path}: holds no words; expected text, a sentence a line, or a corpus with labels")
            require_alphabet(str(path), strange, words, example)
            all_unknown += strange
        facts = {"language": card.get("language"), "sentences": len(sentences), "unknown_words": all_unknown}
        return cls(sentences, normaliser, tokens, parents, facts, leakage.removed)

    def heldout(self, path: Path, unit: Unit) -> list[list[str]]:
        """The sentences of the text file ``path``, in symbols of ``unit``."""
        texts = (self.normaliser(line) for line in lines(path))
        return [symbols_of(text, unit, self.tokens)[0] for text in texts if text]


def _training_labels(corpus: LabelledCorpus, path: Path, languages: Sequence[str]) -> Iterator[str]:
    """The labels of the training clips of a corpus."""
    for row in labelled_rows(corpus, path, "train", languages, None):
        yield corpus.text(row)


def _held_out(corpus: LabelledCorpus, languages: Sequence[str]) -> Iterator[str]:
    """The labels of the dev and test clips of a corpus."""
    for split in ("dev", "test"):
        for language in list[str | None](languages) or [None]:
            for row in corpus.select(split=split, language=language, with_text=True):
                yield corpus.text(int(row))
