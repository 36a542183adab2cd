"""Training text of a language model: text files and corpus labels, normalised and tokenised as for a student.

``lines`` reads text files and rejects tables, markup and audio; ``LeakageFilter`` removes the sentences of dev and test clips.
"""

from __future__ import annotations

import io
import lzma
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any

from lalia.audio.reading import SUFFIXES
from lalia.cards import NAME, read_card
from lalia.errors import UserError
from lalia.inputs import document, identify, is_url, kind_of, open_decompressed, url_error, wrong_kind
from lalia.lm.folder import Unit, needs_words_reason, symbols_of
from lalia.model_folder import (
    LabelledCorpus,
    find_exported,
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

# --- Text files with one sentence per line, and what is wrong with other files ---------------------------

_CONVERSIONS = {
    "a PDF": " (pdftotext FILE)",
    "a web page (HTML)": " (pandoc -t plain FILE)",
    "an office document": " (pandoc -t plain FILE)",
    "RTF": " (pandoc -t plain FILE)",
    "XML": ", without the tags",
}
"""How to extract the text of a document."""
_UNPACK = {".gz": "gzip -cd", ".bz2": "bzip2 -cd", ".xz": "xz -cd"}
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_MOST_TAGGED = 0.3
"""A larger share of lines with tags means that the file is markup."""
_HEAD_LINES = 1000
_FEWEST_ROWS = 3
_LINE_CHARACTERS = 1 << 16
"""Longer lines are read in pieces, so that memory stays bounded."""


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file (``.gz``, ``.bz2`` and ``.xz`` too); lines longer than 65,536 characters are split between words.

    ``UserError`` if it is missing, neither UTF-8 nor UTF-16, or a table, whose file names and speakers would count as words.
    """
    if is_url(path):
        raise url_error(path)
    if path.is_file() and (kind := document(path)):
        raise UserError(
            f"{path}: is {kind}, not text; convert it to UTF-8 text with one sentence per line{_CONVERSIONS.get(kind, '')}"
        )
    try:
        with _opened(path) as file:
            pieces = _pieces(file)
            head = list(islice(pieces, _HEAD_LINES))
            if table := Table.of(head):
                raise UserError(table.error(path))
            if tagged := [line for line in head if _TAG.search(line)]:
                _refuse_tags(path, tagged, head)
            yield from chain(head, pieces)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected text, one sentence per line") from error
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path}: {_why_unreadable(path, error)}") from error


def _opened(path: Path) -> io.TextIOWrapper:
    """A text file or a pipe, in UTF-8 or UTF-16 by its first bytes; a pipe is read only once."""
    file = open_decompressed(path)
    return io.TextIOWrapper(file, encoding=utf_16_variant(file.peek(1)) or "utf-8-sig")


def _refuse_tags(path: Path, tagged: Sequence[str], head: Sequence[str]) -> None:
    if len(tagged) > _MOST_TAGGED * len(head):
        found = _TAG.search(tagged[0])
        raise UserError(
            f"{path}: {len(tagged)} of its first {len(head)} lines have tags such as {found[0][:40] if found else ''}: is it XML "
            "or HTML? Convert it to text with one sentence per line"
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
        return "is audio, not text; expected text with one sentence per line (lalia transcribe makes text from audio)"
    if isinstance(error, UnicodeDecodeError) and error.encoding == "utf-8" and path.is_file():
        unpack = _UNPACK.get(path.suffix)
        how = f"{unpack} {path} | {iconv_command(path)}" if unpack else f"{iconv_command(path)} {path}"
        return f"cannot be read as UTF-8 text; convert it: {how} > text-utf8.txt"
    return f"cannot be read as text ({error}); give it as UTF-8, or leave it out"


@dataclass(frozen=True)
class Table:
    """A table that was given as text: separator, number of columns, and the column with the most words (from 1; 0: unknown)."""

    separator: str
    columns: int
    wordiest: int

    @classmethod
    def of(cls, head: Sequence[str]) -> Table | None:
        """The table whose first lines are ``head``; None if they are text.

        In a table, half of the lines and at least three have the same number of columns. Sentences have commas too, so a
        comma-separated table must also name an audio file in half of its lines.
        """
        rows = [line.strip() for line in head if line.strip()]
        most = max(_FEWEST_ROWS, len(rows) / 2)
        for separator in "\t|;":
            cells = [row.split(separator) for row in rows]
            columns, equal = Counter(map(len, cells)).most_common(1)[0] if cells else (0, 0)
            if columns > 1 and equal >= most:
                words = [sum(len(row[i].split()) for row in cells if len(row) == columns) for i in range(columns)]
                return cls(separator, columns, 1 + words.index(max(words)))
        if sum("," in row and any(map(_names_audio, row.split(","))) for row in rows) >= most:
            return cls(",", rows[0].count(",") + 1, 0)
        return None

    def error(self, path: Path) -> str:
        """The error message, with the remedy."""
        column = ""
        if self.wordiest:
            by = "" if self.separator == "\t" else f" -d'{self.separator}'"
            column = f" (cut{by} -f{self.wordiest} {path} > sentences.txt)"
            if unpack := _UNPACK.get(path.suffix):
                column = f" ({unpack} {path} | cut{by} -f{self.wordiest} > sentences.txt)"
        corpus = f", or a table of clips as a corpus (lalia prepare {path} --out CORPUS)"
        return (
            f"{path}: looks like a table with {self.columns} columns; text files have one sentence per line: give only the column"
            f" of sentences{column}{corpus if path.suffix in ('.tsv', '.csv') else ''}"
        )


def _names_audio(cell: str) -> bool:
    return Path(cell.strip(' "')).suffix.lower() in SUFFIXES


# --- Leakage: held-out sentences in training text --------------------------------------------------------

SHORTEST = 4
"""The fewest words of a held-out sentence that is removed from the middle of other text. Shorter ones ("please", "I don't know")
occur in any text: removing them would split its sentences and hide common phrases from the model. Four words or more rarely match
by chance, and then little is lost."""
_BLOCK = 4096


class LeakageFilter:
    """Removes the sentences of held-out clips from training text (``filter``).

    A line that equals such a sentence is removed, however short it is. A sentence of ``SHORTEST`` words or more is removed
    wherever it occurs, also inside a line or across lines; the text before and after it become separate sentences. Without
    spaces between words, two ideographs or four letters count as a word.

    Time: one dictionary look-up of four words per word of text, whatever the number of sentences. Memory: the sentences and a
    few thousand words.
    """

    def __init__(self, sentences: Iterable[str], writing: WritingSystem | None = None) -> None:
        """``sentences`` are normalised like the texts; ``writing`` says how their words are separated."""
        self._writing = writing or WritingSystem()
        self._lines = frozenset(sentences)
        self._longest = SHORTEST
        self._by_start: dict[tuple[str, ...], list[list[str]]] = {}
        for sentence in self._lines:
            units = self._units(sentence)
            if self._writing.words_in(units) >= SHORTEST:
                self._by_start.setdefault(tuple(units[:SHORTEST]), []).append(units)
                self._longest = max(self._longest, len(units))
        for same_start in self._by_start.values():
            same_start.sort(key=len, reverse=True)
        self.removed = 0
        """how many sentences ``filter`` has removed"""

    def filter(self, lines: Iterable[str]) -> Iterator[str]:
        """The normalised, non-empty ``lines`` of one text without the held-out sentences."""
        if not self._lines:
            yield from lines
            return
        waiting: list[tuple[str, list[str]]] = []
        units: list[str] = []  # of all waiting lines
        searched = 0  # all sentences that begin before this place of ``units`` are in ``found``
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
        """Add to ``found`` the (start, end) in ``units`` of the sentences that begin from ``start`` up to ``end``.

        Overlapping sentences are both found; one inside another is not, so that starts and ends both increase.
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
        """The parts of ``line`` that are kept; its ``units`` begin at ``start`` of those that were searched."""
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
    """The (start, end) of each of its ``units`` in ``text``."""
    places, at = [], 0
    for unit in units:
        at = text.index(unit, at)
        places.append((at, at + len(unit)))
        at += len(unit)
    return places


# --- Training text ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingText:
    """Training text: sentences of symbols, the student's normaliser and tokens, and facts for the card."""

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
        """Read text files and corpora, normalised and tokenised for the student ``like``, in symbols of ``unit``.

        ``corpora`` are the folders among ``paths``, opened. ``languages`` are theirs, None means the student's own. Labels are
        normalised by the rules of their language, text files by those of the only one of ``languages``, else the student's first.
        A ``UserError`` names the first path without a sentence that the student could write.
        """
        folder = like if (like / NAME).is_file() else find_exported(like)
        if identify(folder).kind not in ("student", "recogniser"):
            raise wrong_kind(folder, "student", "--like")
        card = read_card(folder)
        normaliser, tokens = Normaliser.from_json(folder / NORMALISER), Tokens.load(folder / TOKENS)
        if languages and len(languages) == 1:
            normaliser = normaliser.for_language(languages[0])
        if unit == "word" and not normaliser.writing.spaced:
            raise UserError(f"--unit word: {needs_words_reason(normaliser)}")
        parents: list[dict[str, Any]] = []
        sentences: list[list[str]] = []
        for path in paths:
            if path.is_file() or not path.exists():  # not a pipe, which can be read only once
                next(lines(path), None)  # report a file that is not text before reading hours of others
        own = languages_of(card, normaliser.settings.language)
        taken_in = {
            path: languages_taken(languages, own, corpora[path].language_names, like, path)
            for path in paths
            if path in corpora
        }
        held_out = {
            text for path, codes in taken_in.items() for text in _held_out(corpora[path], codes, normaliser)
        } - {""}
        leakage = LeakageFilter(held_out, normaliser.writing)
        all_unknown = 0
        for path in paths:
            if path in corpora:
                parents.append(corpora[path].card)
                texts = _training_labels(corpora[path], path, taken_in[path], normaliser)
            else:
                texts = map(normaliser, lines(path))
            normalised = filter(None, texts)
            words, strange, example, taken = 0, 0, "", leakage.removed
            for text in normalised if path in corpora else leakage.filter(normalised):
                symbols, unknown = symbols_of(text, unit, tokens)
                words += text.count(" ") + 1
                strange += unknown
                example = example or (text if unknown else "")
                sentences.append(symbols)
            if not words and leakage.removed > taken:
                raise UserError(f"{path}: has only sentences of dev or test clips; leave it out, or give other text")
            if not words:
                raise UserError(f"{path}: has no words; expected text, one sentence per line, or a corpus with labels")
            require_alphabet(str(path), strange, words, example)
            all_unknown += strange
        facts = {"language": card.get("language"), "sentences": len(sentences), "unknown_words": all_unknown}
        return cls(sentences, normaliser, tokens, parents, facts, leakage.removed)

    def heldout(self, path: Path, unit: Unit) -> list[list[str]]:
        """The sentences of the text file ``path``, in symbols of ``unit``."""
        texts = (self.normaliser(line) for line in lines(path))
        return [symbols_of(text, unit, self.tokens)[0] for text in texts if text]


def _training_labels(
    corpus: LabelledCorpus, path: Path, languages: Sequence[str], normaliser: Normaliser
) -> Iterator[str]:
    """The normalised labels of the training clips of a corpus."""
    for row in labelled_rows(corpus, path, "train", languages, None):
        yield normaliser.for_language(corpus.language(row))(corpus.text(row))


def _held_out(corpus: LabelledCorpus, languages: Sequence[str], normaliser: Normaliser) -> Iterator[str]:
    """The normalised labels of the dev and test clips of a corpus."""
    for split in ("dev", "test"):
        for language in list[str | None](languages) or [None]:
            for row in corpus.select(split=split, language=language, with_text=True):
                yield normaliser.for_language(corpus.language(int(row)))(corpus.text(int(row)))
