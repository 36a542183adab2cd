"""N-gram models in other toolkits' file formats: ARPA (read and write) and KenLM's binary format (write).

The KenLM layout is version 5, "probing hash tables" (lm/binary_format.cc, lm/search_hashed.hh, util/probing_hash_table.hh of
kpu/kenlm): a header, a table of word hashes, the 1-grams, one table for each longer n-gram keyed by the hash of its symbols
from the last to the first, then the words.
"""

from __future__ import annotations

import io
import lzma
import math
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import IO

import numpy as np

from lalia.cards import write_bytes, write_text
from lalia.errors import UserError
from lalia.inputs import KENLM_MAGIC, open_decompressed
from lalia.lm.ngrams import BEGIN, SPECIALS, Level, Ngrams, children
from lalia.text.tokens import BOUNDARY

# --- ARPA files ------------------------------------------------------------------------------------------

LN10 = math.log(10)
NEVER = -99.0
"""The conventional log probability (base 10) of ``<s>``."""
_BLANKS = " \t\r\n"
_SEPARATOR = re.compile(r"[ \t]+")
"""What separates symbols: other kinds of space may be symbols."""


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
    symbol, except one that it would drop or split; of n-grams that become equal, the most likely is kept. Memory: some 12 bytes
    per n-gram and 4 more per symbol of it.
    """
    try:
        with open_decompressed(path) as opened, io.TextIOWrapper(opened, encoding="utf-8-sig") as file:
            symbols, levels = _parse(path, file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected an ARPA file") from error
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise UserError(f"{path}: cannot be read as an ARPA file ({error})") from error
    written = [*SPECIALS, *(_written(symbol, normalise) for symbol in symbols[len(SPECIALS) :])]
    names = [*SPECIALS, *sorted(set(written[len(SPECIALS) :]))]
    numbers = {name: number for number, name in enumerate(names)}
    ranks = np.array([numbers[name] for name in written], np.int32)
    return Ngrams(names, _linked(path, [_Table(ranks[t.entries_Nn], t.log_probs_N, t.backoffs_N) for t in levels]))


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


def _parse(path: Path, file: IO[str]) -> tuple[list[str], list[_Table]]:
    symbols = list(SPECIALS)
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    ids |= {"<UNK>": 0}
    levels: list[tuple[array[int], array[float], array[float]]] = []
    expected: list[int] = []
    ended = False
    for number, line in enumerate(file, start=1):
        line = line.strip(_BLANKS)
        if line.startswith("ngram ") and not levels:
            expected.append(_whole(path, number, line.partition("=")[2]))
        elif line.startswith("\\") and line.endswith("-grams:"):
            levels.append((array("i"), array("d"), array("d")))
            if line != f"\\{len(levels)}-grams:":
                raise UserError(f"{path}: line {number} is {line!r}; expected \\{len(levels)}-grams:")
        elif line == "\\end\\":
            ended = True
            break
        elif line and levels:
            _entry(path, number, line, levels, symbols, ids)
    tables = [
        _Table(np.array(entries, np.int32).reshape(-1, n), np.array(log_probs) * LN10, np.array(backoffs) * LN10)
        for n, (entries, log_probs, backoffs) in enumerate(levels, start=1)
    ]
    counts = [len(table.entries_Nn) for table in tables]
    if not ended or not levels or counts != expected:
        declared, found = "/".join(map(str, expected)) or "no", "/".join(map(str, counts)) or "none"
        raise UserError(
            f"{path}: its header declares {declared} n-grams, the file has {found}{'' if ended else ' and no end'};"
            " expected a complete ARPA file, copy it again"
        )
    absent = np.setdiff1d(np.arange(len(SPECIALS)), tables[0].entries_Nn)
    tables[0] = _extended(tables[0], absent[:, None], np.full(len(absent), NEVER * LN10))
    return symbols, tables


def _entry(
    path: Path,
    number: int,
    line: str,
    levels: list[tuple[array[int], array[float], array[float]]],
    symbols: list[str],
    ids: dict[str, int],
) -> None:
    n = len(levels)
    fields = _SEPARATOR.split(line)
    try:
        if len(fields) not in (n + 1, n + 2):
            raise ValueError
        log_prob, backoff = float(fields[0]), float(fields[n + 1]) if len(fields) == n + 2 else 0.0
        if log_prob != log_prob or log_prob > 1e-3 or backoff != backoff or backoff == math.inf:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{path}: line {number} is {line[:60]!r}; expected a log probability, {n} symbols and optionally a back-off weight"
        ) from None
    words = fields[1 : n + 1]
    if n == 1 and words[0] not in ids:
        ids[words[0]] = len(symbols)
        symbols.append(words[0])
    entries, log_probs, backoffs = levels[-1]
    try:
        entries.extend([ids[word] for word in words])
    except KeyError as error:
        raise UserError(f"{path}: line {number} has {error.args[0]!r}, which is not a 1-gram of this file") from None
    log_probs.append(max(log_prob, NEVER))  # -inf is another spelling of never
    backoffs.append(max(backoff, NEVER))


def _whole(path: Path, number: int, text: str) -> int:
    if not text.strip().isdecimal():
        raise UserError(f"{path}: line {number} declares {text!r} n-grams; expected a whole number")
    return int(text)


def _linked(path: Path, tables: list[_Table]) -> list[Level]:
    """The levels of the trie: each table sorted, each n-gram under its first n - 1 symbols.

    The missing suffixes of longer n-grams are added, with the probability that backing off gives; prefixes must be present.
    """
    tables = [_sorted(table) for table in tables]
    for n in range(len(tables) - 1, 0, -1):
        entries, shorter = tables[n].entries_Nn, tables[n - 1]
        if (_find(shorter, entries[:, :-1]) < 0).any():
            raise UserError(
                f"{path}: has {n + 1}-grams whose first {n} symbols are not a {n}-gram; expected every prefix"
            )
        if len(absent := np.unique(entries[_find(shorter, entries[:, 1:]) < 0, 1:], axis=0)):
            tables[n - 1] = _sorted(_extended(shorter, absent, np.full(len(absent), np.nan)))
    for shorter, table in pairwise(tables):  # shorter n-grams are complete before longer ones
        absent = np.flatnonzero(np.isnan(table.log_probs_N))
        context_N = _find(shorter, table.entries_Nn[absent, :-1])
        suffix_N = _find(shorter, table.entries_Nn[absent, 1:])
        table.log_probs_N[absent] = shorter.backoffs_N[context_N] + shorter.log_probs_N[suffix_N]
    levels = []
    for table, longer in zip_longest(tables, tables[1:]):
        parents = np.zeros(0, np.int64) if longer is None else _find(table, longer.entries_Nn[:, :-1])
        levels.append(
            Level(
                np.ascontiguousarray(table.entries_Nn[:, -1]),
                table.log_probs_N.astype(np.float32),
                np.zeros(0, np.float32) if longer is None else table.backoffs_N.astype(np.float32),
                np.zeros(0, np.int64) if longer is None else children(parents, len(table.entries_Nn)),
            )
        )
    return levels


def _extended(table: _Table, entries: np.ndarray, log_probs: np.ndarray) -> _Table:
    return _Table(
        np.concatenate([table.entries_Nn, entries.astype(np.int32)]),
        np.concatenate([table.log_probs_N, log_probs]),
        np.concatenate([table.backoffs_N, np.zeros(len(entries))]),
    )


def _sorted(table: _Table) -> _Table:
    """The n-grams in order; of equal ones, the most likely."""
    columns = [table.entries_Nn[:, i] for i in range(table.entries_Nn.shape[1] - 1, -1, -1)]
    order = np.lexsort([-table.log_probs_N, *columns])
    entries = table.entries_Nn[order]
    first = np.ones(len(entries), bool)
    first[1:] = (entries[1:] != entries[:-1]).any(axis=1)
    return _Table(entries[first], table.log_probs_N[order[first]], table.backoffs_N[order[first]])


def _find(table: _Table, entries: np.ndarray) -> np.ndarray:
    """The place of each of ``entries`` (N, n) among the n-grams of ``table``, which are sorted; -1 if it is not there."""
    known, wanted = _bytes(table.entries_Nn), _bytes(entries)
    places = np.searchsorted(known, wanted)
    there = known[np.minimum(places, len(known) - 1)] == wanted
    return np.where(there, places, -1)


def _bytes(entries: np.ndarray) -> np.ndarray:
    """Each of ``entries`` (N, n) as 4 n bytes, whose order is that of the numbers."""
    return np.ascontiguousarray(entries, ">i4").view(f"S{4 * entries.shape[1]}")[:, 0]


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
