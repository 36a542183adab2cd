"""N-gram models in other toolkits' file formats: ARPA (read and write) and KenLM's binary format (write).

The KenLM layout is version 5, "probing hash tables" (lm/binary_format.cc, lm/search_hashed.hh, util/probing_hash_table.hh of
kpu/kenlm): a header, a table of word hashes, the 1-grams, one table for each longer n-gram keyed by the hash of its symbols
from the last to the first, then the words.
"""

from __future__ import annotations

import codecs
import lzma
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import IO

import numpy as np

from lalia.cards import write_bytes, write_text
from lalia.errors import UserError
from lalia.inputs import KENLM_MAGIC, open_decompressed
from lalia.lm.ngrams import BEGIN, SPECIALS, UNKNOWN, Level, Ngrams, children
from lalia.text.tokens import BOUNDARY

# --- ARPA files ------------------------------------------------------------------------------------------

LN10 = math.log(10)
NEVER = -99.0
"""The conventional log probability (base 10) of ``<s>``."""
_BLANKS = " \t\r\n"
_SEPARATOR = re.compile(r"[ \t]+")
"""What separates symbols: other kinds of space may be symbols."""
_CERTAIN = 1e-3
"""A log probability may exceed 0 by as much, from rounding."""
_UNK = b"<UNK>"
"""Another spelling of ``<unk>``."""
_NEWLINE, _RETURN, _MINUS, _POINT, _ZERO = b"\n\r-.0"
_BLANK = np.isin(np.arange(256), list(b" \t"))
_TITLE = np.isin(np.arange(256), list(b"\\ \t"))
"""Bytes that a title begins with, such as ``\\2-grams:``; a line of an n-gram that begins so is parsed alone."""
_BLOCK = 1 << 20
"""Bytes that are parsed at once, so that the arrays stay in the processor's cache."""
_DIGITS = 17
"""Longer numbers are parsed one by one."""
_TENS = 10.0 ** np.arange(_DIGITS + 1)
_KEY_BITS = 63


def write_arpa(model: Ngrams, path: Path) -> None:
    """Write ``model`` to ``path``: logarithms to base 10, n-grams in the model's own order."""
    lines = ["\\data\\", *(f"ngram {n}={len(level.symbols)}" for n, level in enumerate(model.levels, start=1))]
    for n, level in enumerate(model.levels, start=1):
        lines += ["", f"\\{n}-grams:"]
        for i, entry in enumerate(model.entries(n).tolist()):
            words = [model.symbols[symbol] for symbol in entry]
            log_prob = NEVER if words == [SPECIALS[BEGIN]] else level.log_probs[i] / LN10
            backoff = f"\t{level.backoffs[i] / LN10:.7g}" if len(level.backoffs) else ""
            lines.append(f"{log_prob:.7g}\t{' '.join(words)}{backoff}")
    write_text(path, "\n".join([*lines, "", "\\end\\", ""]))


def read_arpa(path: Path, normalise: Callable[[str], str] | None = None) -> Ngrams:
    """The model in an ARPA file (``.gz``, ``.bz2``, ``.xz`` too); ``UserError`` names the line with an error.

    Shorter n-grams that a pruning toolkit left out are added with their back-off probability. ``normalise`` is applied to each
    symbol, except one that it would drop or split; of n-grams that become equal, the most likely is kept. Memory: some 70 bytes
    for each of the longest n-grams.
    """
    reader = _Reader(path)
    try:
        with open_decompressed(path) as file:
            reader.read(file)
        symbols = [symbol.decode() for symbol in reader.ids]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected an ARPA file") from error
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read as an ARPA file ({error})") from error
    written = [*SPECIALS, *(_written(symbol, normalise) for symbol in symbols[len(SPECIALS) :])]
    names = [*SPECIALS, *sorted(set(written[len(SPECIALS) :]))]
    numbers = {name: number for number, name in enumerate(names)}
    ranks = np.array([numbers[name] for name in written], np.int32)
    return Ngrams(
        names, _linked(path, [_Table(ranks[t.entries_Nn], t.log_probs_N, t.backoffs_N) for t in reader.tables()])
    )


def _written(symbol: str, normalise: Callable[[str], str] | None) -> str:
    """``symbol`` normalised, if it stays one word or letter."""
    found = normalise(symbol) if normalise and symbol != BOUNDARY else symbol
    return found if found and " " not in found and found not in SPECIALS else symbol


@dataclass(frozen=True)
class _Table:
    """The N n-grams of one length n: numbers of their symbols, natural log probabilities and back-off weights."""

    entries_Nn: np.ndarray
    log_probs_N: np.ndarray
    backoffs_N: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[_Table]) -> _Table:
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class _Reader:
    """Parses an ARPA file in blocks of lines.

    Lines as toolkits write them (single blanks, decimal numbers, known symbols) are parsed together, with NumPy. Every other
    line, and so every line with an error, is parsed alone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids = {symbol.encode(): i for i, symbol in enumerate(SPECIALS)}
        """the number of each symbol"""
        self._levels: list[list[_Table]] = []
        self._expected: list[int] = []
        self._ended = False
        self._vocabulary: _Vocabulary | None = None

    def read(self, file: IO[bytes]) -> None:
        number, rest = 1, b""
        while not self._ended:
            read = file.read(_BLOCK)
            if number == 1:
                read = read.removeprefix(codecs.BOM_UTF8)
            block = rest + read
            cut = block.rfind(b"\n") + 1 if read else len(block)
            block, rest = block[:cut], block[cut:]
            number += self._parse(block, number)
            if not read:
                break

    def tables(self) -> list[_Table]:
        """What was read; ``UserError`` if it is not what the file's header declares."""
        tables = [_Table.joined(parts) for parts in self._levels]
        counts = [len(table.entries_Nn) for table in tables]
        if not self._ended or not tables or counts != self._expected:
            declared, found = "/".join(map(str, self._expected)) or "no", "/".join(map(str, counts)) or "none"
            raise UserError(
                f"{self.path}: its header declares {declared} n-grams, the file has {found}"
                f"{'' if self._ended else ' and no end'}; expected a complete ARPA file, copy it again"
            )
        absent = np.setdiff1d(np.arange(len(SPECIALS)), tables[0].entries_Nn)
        tables[0] = _extended(tables[0], absent[:, None], np.full(len(absent), NEVER * LN10))
        return tables

    def _parse(self, block: bytes, number: int) -> int:
        """Parse whole lines, the first of which is line ``number``; returns how many there are."""
        buffer = np.frombuffer(block, np.uint8)
        ends_L = np.flatnonzero(buffer == _NEWLINE)
        if len(block) and block[-1] != _NEWLINE:
            ends_L = np.append(ends_L, len(block))
        starts_L = np.append(0, ends_L[:-1] + 1)[: len(ends_L)]
        titles = [*np.flatnonzero(_TITLE[buffer[starts_L]]).tolist(), len(ends_L)]
        line = 0
        while line < len(ends_L) and not self._ended:
            if self._levels:
                after = titles[bisect_left(titles, line)]
                self._entries(block, buffer, starts_L[line:after], ends_L[line:after], number + line)
                line = after
            if line < len(ends_L):
                self._line(number + line, block[starts_L[line] : ends_L[line]])
                line += 1
        return len(ends_L)

    def _line(self, number: int, written: bytes) -> None:
        """One line of any kind."""
        line = written.decode().strip(_BLANKS)
        if line.startswith("ngram ") and not self._levels:
            count = line.partition("=")[2]
            if not count.strip().isdecimal():
                raise UserError(f"{self.path}: line {number} declares {count!r} n-grams; expected a whole number")
            self._expected.append(int(count))
        elif line.startswith("\\") and line.endswith("-grams:"):
            self._levels.append([_Table(np.zeros((0, len(self._levels) + 1), np.int32), *np.zeros((2, 0), np.float32))])
            if line != f"\\{len(self._levels)}-grams:":
                raise UserError(f"{self.path}: line {number} is {line!r}; expected \\{len(self._levels)}-grams:")
        elif line == "\\end\\":
            self._ended = True
        elif line and self._levels:
            self._entry(number, line)

    def _entry(self, number: int, line: str) -> None:
        n = len(self._levels)
        parts = _SEPARATOR.split(line)
        try:
            if len(parts) not in (n + 1, n + 2):
                raise ValueError
            log_prob, backoff = float(parts[0]), float(parts[n + 1]) if len(parts) == n + 2 else 0.0
            if log_prob != log_prob or log_prob > _CERTAIN or backoff != backoff or backoff == math.inf:
                raise ValueError
        except ValueError:
            raise UserError(
                f"{self.path}: line {number} is {line[:60]!r}; expected a log probability, {n} symbols and optionally a back-off"
                " weight"
            ) from None
        words = [word.encode() for word in parts[1 : n + 1]]
        if n == 1:
            self._id(words[0])
        if (unknown := next((word for word in words if word not in self.ids and word != _UNK), None)) is not None:
            raise UserError(f"{self.path}: line {number} has {unknown.decode()!r}, which is not a 1-gram of this file")
        self._add(np.array([[self._id(word) for word in words]]), np.array([log_prob]), np.array([backoff]))

    def _id(self, word: bytes) -> int:
        return UNKNOWN if word == _UNK else self.ids.setdefault(word, len(self.ids))

    def _add(self, entries_Nn: np.ndarray, log_probs_N: np.ndarray, backoffs_N: np.ndarray) -> None:
        natural = [
            (np.maximum(tens, NEVER) * LN10).astype(np.float32) for tens in (log_probs_N, backoffs_N)
        ]  # -inf: never
        self._levels[-1].append(_Table(entries_Nn.astype(np.int32), *natural))

    def _entries(self, block: bytes, buffer: np.ndarray, starts_L: np.ndarray, ends_L: np.ndarray, number: int) -> None:
        """Lines of n-grams, the first of which is line ``number``."""
        if not len(starts_L):
            return
        n = len(self._levels)
        ends_L = ends_L - (buffer[ends_L - 1] == _RETURN)
        waiting_L = ends_L > starts_L
        begin, end = int(starts_L[0]), int(ends_L[-1])
        blanks = np.flatnonzero(_BLANK[buffer[begin:end]]) + begin
        first_L = np.searchsorted(blanks, starts_L)
        counts_L = np.searchsorted(blanks, ends_L) - first_L
        hashes = _Hashes(buffer[begin:end]) if n > 1 else None
        for count in (n, n + 1):  # without and with a back-off weight
            lines = np.flatnonzero(waiting_L & (counts_L == count))
            if not len(lines):
                continue
            between = blanks[first_L[lines][:, None] + np.arange(count)]
            from_LF = np.column_stack([starts_L[lines], between + 1])
            to_LF = np.column_stack([between, ends_L[lines]])
            good = (to_LF > from_LF).all(1)
            log_probs, fine = _numbers(buffer, from_LF[:, 0], to_LF[:, 0])
            good &= fine & (log_probs <= _CERTAIN)
            backoffs = np.zeros(len(lines))
            if count > n:
                backoffs, fine = _numbers(buffer, from_LF[:, -1], to_LF[:, -1])
                good &= fine
            if hashes is None:
                pairs = zip(from_LF[:, 1].tolist(), to_LF[:, 1].tolist(), strict=True)
                entries = np.array([[self._id(block[a:b])] for a, b in pairs])
            else:
                self._vocabulary = self._vocabulary or _Vocabulary(list(self.ids))
                entries = self._vocabulary.find(hashes.of(from_LF[:, 1 : n + 1] - begin, to_LF[:, 1 : n + 1] - begin))
                good &= (entries >= 0).all(1)
            self._add(entries[good], log_probs[good], backoffs[good])
            waiting_L[lines[good]] = False
        for line in np.flatnonzero(waiting_L).tolist():
            self._line(number + line, block[starts_L[line] : ends_L[line]])


def _numbers(buffer: np.ndarray, from_N: np.ndarray, to_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the decimal numbers that are written there, which of them are such numbers and short): as ``float`` reads them."""
    length_N = to_N - from_N
    mantissa_N, decimals_N = np.zeros(len(from_N), np.int64), np.zeros(len(from_N), np.int64)
    minus_N = buffer[from_N] == _MINUS
    point_N, fine_N, digits_N = np.zeros(len(from_N), bool), length_N <= _DIGITS, np.zeros(len(from_N), np.int64)
    for k in range(min(int(length_N.max()), _DIGITS)):
        inside_N = k < length_N
        byte_N = buffer[np.minimum(from_N + k, len(buffer) - 1)]
        digit_N = byte_N - _ZERO  # of other characters 10 or more, because bytes have no sign
        is_digit_N = (digit_N < 10) & inside_N
        is_point_N = (byte_N == _POINT) & inside_N
        fine_N &= is_digit_N | (is_point_N & ~point_N) | ~inside_N | (minus_N if k == 0 else False)
        mantissa_N = np.where(is_digit_N, 10 * mantissa_N + digit_N, mantissa_N)
        point_N |= is_point_N
        decimals_N += is_digit_N & point_N
        digits_N += is_digit_N
    fine_N &= (digits_N > 0) & (mantissa_N < 1 << 53)
    found_N = mantissa_N / _TENS[decimals_N]  # both are exact, so this is the nearest number
    return np.where(minus_N, -found_N, found_N), fine_N


class _Hashes:
    """Hashes of the words of a text: the sum of its bytes, each as a random number times the power of its place."""

    _powers = np.ones(1, np.uint64)
    _inverse = np.ones(1, np.uint64)
    _bytes = np.random.default_rng(0).integers(0, 1 << 64, 256, np.uint64)
    _base = 0x9E3779B97F4A7C15

    def __init__(self, buffer: np.ndarray) -> None:
        if len(buffer) >= len(self._powers):
            size = max(len(buffer) + 1, _BLOCK + 1)
            type(self)._powers = _powers(self._base, size)
            type(self)._inverse = _powers(pow(self._base, -1, 1 << 64), size)
        self._sums = np.zeros(len(buffer) + 1, np.uint64)
        np.cumsum(self._bytes[buffer] * self._powers[: len(buffer)], out=self._sums[1:])

    def of(self, from_: np.ndarray, to: np.ndarray) -> np.ndarray:
        """The hash of the bytes between each ``from_`` and ``to``; both of the same shape."""
        return (self._sums[to] - self._sums[from_]) * self._inverse[from_]


def _powers(base: int, size: int) -> np.ndarray:
    """1, base, base squared, …: ``size`` of them, modulo 2^64."""
    powers = np.full(size, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


class _Vocabulary:
    """Finds the number of a word by its hash, as in KenLM: 64 bits tell all words of a language apart."""

    def __init__(self, words: Sequence[bytes]) -> None:
        numbers, spelled = np.arange(len(words) + 1), [*words, _UNK]
        numbers[-1] = UNKNOWN
        lengths = np.array([len(word) for word in spelled])
        to = np.cumsum(lengths)
        keys = _Hashes(np.frombuffer(b"".join(spelled), np.uint8)).of(to - lengths, to)
        table = _table(keys, _WORD, {"value": numbers}, room=len(keys))
        self._keys, self._numbers = table["key"].copy(), table["value"].astype(np.int32)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The number of each word, -1 if it is not in the vocabulary; of the shape of ``keys``."""
        wanted = keys.ravel()
        found = np.full(len(wanted), -1, np.int32)
        places = (wanted % np.uint64(len(self._keys))).astype(np.int64)
        waiting = np.arange(len(wanted))
        while len(waiting):
            there = self._keys[places[waiting]]
            same = there == wanted[waiting]
            found[waiting[same]] = self._numbers[places[waiting[same]]]
            waiting = waiting[~same & (there != 0)]
            places[waiting] = (places[waiting] + 1) % len(self._keys)
        return found.reshape(keys.shape)


def _linked(path: Path, tables: list[_Table]) -> list[Level]:
    """The levels of the trie: each table sorted, each n-gram under its first n - 1 symbols.

    The missing suffixes of longer n-grams are added, with the probability that backing off gives; prefixes must be present.
    """
    tables = [_sorted(table) for table in tables]
    parents_N: list[np.ndarray] = []
    for n in range(len(tables) - 1, 0, -1):
        suffixes = _absent(tables[n - 1].entries_Nn, tables[n].entries_Nn[:, 1:])
        if len(suffixes):
            tables[n - 1] = _sorted(_extended(tables[n - 1], suffixes, np.full(len(suffixes), np.nan)))
    for n, (shorter, table) in enumerate(pairwise(tables), start=1):  # shorter n-grams are complete before longer ones
        parents_N.append(_find(shorter.entries_Nn, table.entries_Nn[:, :-1]))
        if (parents_N[-1] < 0).any():
            raise UserError(
                f"{path}: has {n + 1}-grams whose first {n} symbols are not a {n}-gram; expected every prefix"
            )
        absent = np.flatnonzero(np.isnan(table.log_probs_N))
        suffix_N = _find(shorter.entries_Nn, table.entries_Nn[absent, 1:])
        table.log_probs_N[absent] = shorter.backoffs_N[parents_N[-1][absent]] + shorter.log_probs_N[suffix_N]
    levels = []
    for table, parents in zip_longest(tables, parents_N):
        levels.append(
            Level(
                np.ascontiguousarray(table.entries_Nn[:, -1]),
                table.log_probs_N,
                np.zeros(0, np.float32) if parents is None else table.backoffs_N,
                np.zeros(0, np.int64) if parents is None else children(parents, len(table.entries_Nn)),
            )
        )
    return levels


def _extended(table: _Table, entries: np.ndarray, log_probs: np.ndarray) -> _Table:
    added = _Table(entries.astype(np.int32), log_probs.astype(np.float32), np.zeros(len(entries), np.float32))
    return _Table.joined([table, added])


def _sorted(table: _Table) -> _Table:
    """The n-grams in order; of equal ones, the most likely."""
    (keys,) = _sort_keys(table.entries_Nn)
    order = np.argsort(keys)
    keys = keys[order]
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    if not first.all():
        order = order[np.lexsort([-table.log_probs_N[order], keys])][first]
    return _Table(table.entries_Nn[order], table.log_probs_N[order], table.backoffs_N[order])


def _find(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The place of each n-gram of ``wanted`` (W, n) among ``known`` (N, n), which are sorted; -1 if it is not there."""
    keys, wanted_keys = _sort_keys(known, wanted)
    places = np.searchsorted(keys, wanted_keys)
    there = keys[np.minimum(places, len(keys) - 1)] == wanted_keys if len(keys) else np.zeros(len(wanted), bool)
    return np.where(there, places, -1)


def _absent(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Those n-grams of ``wanted`` (W, n) that are not among ``known`` (N, n), which are sorted; each once."""
    keys, wanted_keys = _sort_keys(known, wanted)
    order = np.argsort(wanted_keys)  # searching in order finds neighbours in the cache
    wanted_keys = wanted_keys[order]
    places = np.searchsorted(keys, wanted_keys)
    missing = keys[np.minimum(places, len(keys) - 1)] != wanted_keys if len(keys) else np.ones(len(wanted), bool)
    missing[1:] &= wanted_keys[1:] != wanted_keys[:-1]
    return wanted[order[missing]]


def _sort_keys(*tables: np.ndarray) -> list[np.ndarray]:
    """A number for each n-gram of ``tables``, each (N, n): in the order of their symbols, equal for equal ones.

    As many symbols as fit stand in the bits of the number. Where more follow, the number becomes its rank among all.
    """
    bits = max([1, *(int(table.max()).bit_length() for table in tables if table.size)])
    keys = [np.zeros(len(table), np.int64) for table in tables]
    used = 0
    for place in range(tables[0].shape[1]):
        if used + bits > _KEY_BITS:
            known, ranks = np.unique(np.concatenate(keys), return_inverse=True)
            keys = np.split(ranks, np.cumsum([len(table) for table in tables])[:-1])
            used = len(known).bit_length()
        keys = [(key << bits) | table[:, place] for key, table in zip(keys, tables, strict=True)]
        used += bits
    return keys


# --- KenLM binary files ----------------------------------------------------------------------------------

_MAGIC = KENLM_MAGIC + b" format version 5\n\0"
_SPACE = 1.5
"""Size of a hash table relative to its number of entries; KenLM's default."""
_SANITY = np.dtype(
    [("magic", "S56"), ("floats", "<f4", 3), ("words", "<u4", 3), ("one", "<u8")]
)  # checks that reader and writer agree on floats, sizes and byte order
_FIXED = np.dtype(
    {
        "names": ["order", "multiplier", "type", "has_words", "version"],
        "formats": ["u1", "<f4", "<u4", "u1", "<u4"],
        "offsets": [0, 4, 8, 12, 16],
        "itemsize": 20,
    }
)
_WORD = np.dtype([("key", "<u8"), ("value", "<u4")])
_UNIGRAM = np.dtype([("prob", "<f4"), ("backoff", "<f4")])
_MIDDLE = np.dtype([("key", "<u8"), ("prob", "<f4"), ("backoff", "<f4")])
_LONGEST = np.dtype([("key", "<u8"), ("prob", "<f4")])


def write_kenlm(model: Ngrams, path: Path) -> None:
    """Write ``model`` to ``path`` as a KenLM binary file. ``UserError`` for a model of 1-grams, which KenLM cannot read.

    KenLM reads up to 6-grams unless it was compiled for more.
    """
    if model.order < 2:
        raise UserError(f"{path}: KenLM reads models of 2-grams and longer; make one with --order 2 or more")
    entries = [model.entries(n) for n in range(1, model.order + 1)]
    # The sign bit of a probability means that no longer n-gram ends with this one; that of a zero back-off weight, that none
    # begins with it. Such states can be shortened.
    ending = [_keys(longer[:, 1:]) for longer in entries[1:]] + [np.zeros(0, np.uint64)]
    parts = [_header([len(level.symbols) for level in model.levels]), _vocabulary(model.symbols)]
    for n, level in enumerate(model.levels, start=1):
        keys = _keys(entries[n - 1])
        probs = np.abs(level.log_probs / LN10).astype(np.float32)
        if n == 1:
            probs[BEGIN] = -NEVER
        values = {"prob": np.where(np.isin(keys, ending[n - 1]), probs, -probs)}
        if n == model.order:
            parts.append(_table(keys, _LONGEST, values))
            continue
        backoffs = (level.backoffs / LN10).astype(np.float32)
        leads = np.diff(level.children) > 0
        values["backoff"] = np.where((backoffs == 0) & ~leads, np.float32(-0.0), backoffs + np.float32(0))
        parts.append(_unigrams(values) if n == 1 else _table(keys, _MIDDLE, values))
    words = b"".join(symbol.encode() + b"\0" for symbol in model.symbols)
    write_bytes(path, b"".join(part.tobytes() for part in parts) + words)


def _header(counts: list[int]) -> np.ndarray:
    header = np.zeros(-(-(_SANITY.itemsize + _FIXED.itemsize + 8 * len(counts)) // 8) * 8, np.uint8)
    sanity = header[: _SANITY.itemsize].view(_SANITY)
    sanity["magic"], sanity["floats"], sanity["words"], sanity["one"] = _MAGIC, (0, 1, -0.5), (1, 2**32 - 1, 0), 1
    fixed = header[_SANITY.itemsize :][: _FIXED.itemsize].view(_FIXED)
    fixed["order"], fixed["multiplier"], fixed["has_words"] = len(counts), _SPACE, 1
    header[_SANITY.itemsize + _FIXED.itemsize :][: 8 * len(counts)].view("<u8")[:] = counts
    return header


def _vocabulary(symbols: list[str]) -> np.ndarray:
    """The number of words and their hash table; words that are not in it are ``<unk>``."""
    keys = np.array([murmur(symbol.encode()) for symbol in symbols[1:]], np.uint64)
    table = _table(keys, _WORD, {"value": np.arange(1, len(symbols))}, room=1)
    return np.concatenate([np.array([0, len(symbols)], "<u4").view(np.uint8), table.view(np.uint8)])


def _unigrams(values: dict[str, np.ndarray]) -> np.ndarray:
    rows = np.zeros(len(values["prob"]) + 1, _UNIGRAM)  # one more, for files whose 1-grams have no <unk>
    for name, column in values.items():
        rows[name][:-1] = column
    return rows


def _table(keys: np.ndarray, kind: np.dtype, values: dict[str, np.ndarray], room: int = 0) -> np.ndarray:
    """A hash table with linear probing: each of ``keys`` (N,) is in the first free slot from key % size on.

    All unplaced keys try at once, and the first one for a free slot gets it. All slots before an entry's own are then taken,
    which is all that a look-up needs.
    """
    entries = len(keys) + room
    table = np.zeros(max(entries + 1, int(np.float32(_SPACE) * np.float32(entries))), kind)
    places = (keys % np.uint64(len(table))).astype(np.int64)
    waiting = np.arange(len(keys))
    taken = np.zeros(len(table), bool)
    while len(waiting):
        wanted, first = np.unique(places[waiting], return_index=True)
        first = first[~taken[wanted]]
        taken[wanted] = True
        placed = waiting[first]
        table["key"][places[placed]] = keys[placed]
        for name, column in values.items():
            table[name][places[placed]] = column[placed]
        waiting = np.delete(waiting, first)
        places[waiting] = (places[waiting] + 1) % len(table)
    return table


def _keys(entries: np.ndarray) -> np.ndarray:
    """KenLM's hashes (N,) of n-grams (N, n), from the last symbol to the first; the hash of a 1-gram is its number."""
    symbols = entries.astype(np.uint64)
    keys = symbols[:, -1]
    for column in range(symbols.shape[1] - 2, -1, -1):
        keys = (keys * np.uint64(8978948897894561157)) ^ (
            (symbols[:, column] + np.uint64(1)) * np.uint64(17894857484156487943)
        )
    return keys


def murmur(word: bytes) -> int:
    """MurmurHash64A of ``word`` with seed 0 (Austin Appleby, public domain), KenLM's hash of words."""
    mask, factor = 2**64 - 1, 0xC6A4A7935BD1E995
    value = len(word) * factor & mask
    whole = len(word) // 8 * 8
    for start in range(0, whole, 8):
        block = int.from_bytes(word[start : start + 8], "little") * factor & mask
        value = (value ^ ((block ^ block >> 47) * factor & mask)) * factor & mask
    if whole < len(word):
        value = (value ^ int.from_bytes(word[whole:], "little")) * factor & mask
    value = (value ^ value >> 47) * factor & mask
    return value ^ value >> 47
