"""N-gram models as ARPA files, the form that every language model toolkit reads and writes."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import IO

import numpy as np

from lalia.cards import write_text
from lalia.decoding.kneser_ney import children
from lalia.decoding.ngrams import BEGIN, SPECIALS, Level, Ngrams
from lalia.exits import UserError

LN10 = math.log(10)
NEVER = -99.0
"""What the field writes for the probability of the begin of a sentence (to base 10)."""

_Entries = dict[tuple[int, ...], tuple[float, float]]


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


def read_arpa(path: Path) -> Ngrams:
    """The model in an ARPA file (``.gz`` too); a ``UserError`` names the line that is wrong.

    Shorter n-grams that a pruning toolkit left out are put back with the probability that backing off gives them.
    """
    try:
        opened: IO[str] = (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8")
        with opened as file:
            symbols, levels = _parse(path, file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected an ARPA file") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as an ARPA file ({error})") from error
    order = sorted(range(len(SPECIALS), len(symbols)), key=symbols.__getitem__)
    rank = {old: new for new, old in enumerate([*range(len(SPECIALS)), *order])}
    sorted_levels = [{tuple(rank[i] for i in key): value for key, value in level.items()} for level in levels]
    for n, keys in enumerate(_close(path, sorted_levels), start=1):
        for key in keys:  # shorter ones are there by now
            weight = sorted_levels[n - 2].get(key[:-1], (0.0, 0.0))[1]
            sorted_levels[n - 1][key] = (weight + sorted_levels[n - 2][key[1:]][0], 0.0)
    return _model([symbols[i] for i in rank], sorted_levels)


def _parse(path: Path, file: IO[str]) -> tuple[list[str], list[_Entries]]:
    symbols = list(SPECIALS)
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    ids |= {"<UNK>": 0}
    levels: list[_Entries] = []
    expected: list[int] = []
    ended = False
    for number, line in enumerate(file, start=1):
        line = line.strip("\r\n")
        if line.startswith("ngram ") and not levels:
            expected.append(_whole(path, number, line.partition("=")[2]))
        elif line.startswith("\\") and line.endswith("-grams:"):
            levels.append({})
            if line != f"\\{len(levels)}-grams:":
                raise UserError(f"{path}: line {number} is {line!r}; expected \\{len(levels)}-grams:")
        elif line == "\\end\\":
            ended = True
            break
        elif line.strip() and levels:
            _entry(path, number, line, levels, symbols, ids)
    counts = [len(level) for level in levels]
    if not ended or not levels or counts != expected:
        told, found = "/".join(map(str, expected)) or "no", "/".join(map(str, counts)) or "none"
        raise UserError(
            f"{path}: announces {told} n-grams and holds {found}{'' if ended else ', without an end'};"
            " expected a whole ARPA file, copy it again"
        )
    for i in range(len(SPECIALS)):
        levels[0].setdefault((i,), (NEVER * LN10, 0.0))
    return symbols, levels


def _entry(path: Path, number: int, line: str, levels: list[_Entries], symbols: list[str], ids: dict[str, int]) -> None:
    n = len(levels)
    fields = line.split()
    try:
        if len(fields) not in (n + 1, n + 2):
            raise ValueError
        log_prob, backoff = float(fields[0]), float(fields[n + 1]) if len(fields) == n + 2 else 0.0
        if not math.isfinite(log_prob) or not math.isfinite(backoff) or log_prob > 1e-3:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{path}: line {number} is {line[:60]!r}; expected a log probability, {n} symbols and maybe a back-off weight"
        ) from None
    words = fields[1 : n + 1]
    if n == 1 and words[0] not in ids:
        ids[words[0]] = len(symbols)
        symbols.append(words[0])
    try:
        key = tuple(ids[word] for word in words)
    except KeyError as error:
        raise UserError(f"{path}: line {number} has {error.args[0]!r}, which is no 1-gram of this file") from None
    levels[-1][key] = (log_prob * LN10, backoff * LN10)


def _whole(path: Path, number: int, text: str) -> int:
    if not text.strip().isdecimal():
        raise UserError(f"{path}: line {number} announces {text!r} n-grams; expected a whole number")
    return int(text)


def _close(path: Path, levels: list[_Entries]) -> list[list[tuple[int, ...]]]:
    """Put in the missing last n - 1 symbols of every n-gram; the keys put in, by length. First ones must be there."""
    added: list[list[tuple[int, ...]]] = [[] for _ in levels]
    for n in range(len(levels) - 1, 0, -1):
        shorter = levels[n - 1]
        for key in levels[n]:
            if key[:-1] not in shorter:
                raise UserError(
                    f"{path}: has {n + 1}-grams whose first {n} symbols are no {n}-gram; expected every prefix"
                )
            if key[1:] not in shorter:
                shorter[key[1:]] = (0.0, 0.0)
                added[n - 1].append(key[1:])
    return added


def _model(symbols: list[str], levels: list[_Entries]) -> Ngrams:
    made: list[Level] = []
    numbers: dict[tuple[int, ...], int] = {(): 0}
    keys = [sorted(level) for level in levels]
    for n, level in enumerate(levels):
        prefixes = np.array([numbers[key[:-1]] for key in keys[n]], np.int64)
        if made:
            made[-1] = Level(
                made[-1].symbols, made[-1].log_probs, made[-1].backoffs, children(prefixes, len(keys[n - 1]))
            )
        last = n + 1 == len(levels)
        made.append(
            Level(
                np.array([key[-1] for key in keys[n]], np.int32),
                np.array([level[key][0] for key in keys[n]], np.float32),
                np.array([] if last else [level[key][1] for key in keys[n]], np.float32),
                np.zeros(0, np.int64),
            )
        )
        numbers = {key: i for i, key in enumerate(keys[n])}
    return Ngrams(symbols, made)
