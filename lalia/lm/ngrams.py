"""N-gram models: a memory-mapped back-off trie, and interpolated modified Kneser-Ney estimation from text.

Level k holds the n-grams of k + 1 symbols, sorted; the children of entry i are entries ``children[i]`` to ``children[i + 1]``
of level k + 1. Files are plain ``.npy`` and memory-mapped, so loading time does not depend on the size.

Estimation follows Chen and Goodman 1998 and Heafield et al. 2013. P positions of the text, N n-grams of one length. Counting
sorts integers: an n-gram's number is its rank among those of its length, so a longer n-gram is the pair (number of its prefix,
last symbol).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from lalia.cards import write_text
from lalia.errors import UserError

# --- A back-off model as a trie of arrays ----------------------------------------------------------------

UNKNOWN, BEGIN, END = 0, 1, 2
SPECIALS = ("<unk>", "<s>", "</s>")
SYMBOLS_FILE = "symbols.txt"

State = tuple[int, ...]
"""The context: the trie's entries of the last symbol, the last two, and so on."""

_FIELDS = {"symbols": np.int32, "log_probs": np.float32, "backoffs": np.float32, "children": np.int64}


@dataclass(frozen=True)
class Level:
    """The n-grams of one length, N of them: last symbol, natural log probability, log back-off weight, first child.

    The longest n-grams have no back-off weights and no children: those arrays are empty.
    """

    symbols: np.ndarray
    log_probs: np.ndarray
    backoffs: np.ndarray
    children: np.ndarray


class Ngrams:
    """A back-off model over ``symbols``: ``<unk>``, ``<s>``, ``</s>``, then the others in order of code points.

    The first and the last n - 1 symbols of each n-gram are n-grams too.
    """

    def __init__(self, symbols: Sequence[str], levels: Sequence[Level]) -> None:
        self.symbols = list(symbols)
        self.levels = list(levels)
        self.order = len(self.levels)
        self._ids: dict[str, int] | None = None
        # Lists of plain arrays, because attribute access and memmap objects dominate the time of a million look-ups.
        self._symbols = [np.asarray(level.symbols) for level in self.levels]
        self._log_probs = [np.asarray(level.log_probs) for level in self.levels]
        self._backoffs = [np.asarray(level.backoffs) for level in self.levels]
        self._children = [np.asarray(level.children) for level in self.levels]

    @property
    def start(self) -> State:
        """The state at the beginning of a sentence."""
        return (BEGIN,) if self.order > 1 else ()

    def id(self, symbol: str) -> int:
        """The number of ``symbol``; that of ``<unk>`` if it is not in the vocabulary."""
        if self._ids is None:
            self._ids = {symbol: i for i, symbol in enumerate(self.symbols)}
        return self._ids.get(symbol, UNKNOWN)

    def entries(self, n: int) -> np.ndarray:
        """The symbols (N, n) of the N n-grams of length ``n``, in order."""
        numbers = np.arange(len(self._symbols[n - 1]))
        columns = []
        for k in range(n - 1, -1, -1):
            columns.append(self._symbols[k][numbers])
            if k:
                numbers = np.searchsorted(self._children[k - 1], numbers, side="right") - 1
        return np.stack(columns[::-1], axis=1)

    def advance(self, state: State, symbol: int) -> tuple[float, State]:
        """(natural log probability of ``symbol`` after ``state``, next state)."""
        found = symbol
        log_prob = float(self._log_probs[0][symbol])
        after = [symbol]
        known = 0
        for k, entry in enumerate(state):
            children = self._children[k]
            low, high = int(children[entry]), int(children[entry + 1])
            found = bisect_left(self._symbols[k + 1], symbol, low, high)
            if found == high or self._symbols[k + 1][found] != symbol:
                break
            log_prob = float(self._log_probs[k + 1][found])
            after.append(found)
            known = k + 1
        for k in range(known, len(state)):
            log_prob += float(self._backoffs[k][state[k]])
        # A context without longer n-grams and with back-off weight 1 equals the shorter context.
        del after[self.order - 1 :]
        while after and self._is_redundant(len(after) - 1, after[-1]):
            after.pop()
        return log_prob, tuple(after)

    def unigrams(self) -> np.ndarray:
        """Natural log probabilities (symbols,) of the 1-grams."""
        return self._log_probs[0]

    def log_probs(self, sentence: Sequence[int]) -> list[float]:
        """Natural log probabilities of the symbols of a sentence and of its end, in order."""
        state, found = self.start, []
        for symbol in (*sentence, END):
            log_prob, state = self.advance(state, symbol)
            found.append(log_prob)
        return found

    def perplexity(self, sentences: Sequence[Sequence[int]]) -> float:
        """2 to the cross-entropy per symbol, ends of sentences counted, unknown symbols counted as ``<unk>``."""
        found = [log_prob for sentence in sentences for log_prob in self.log_probs(sentence)]
        return math.exp(-sum(found) / len(found)) if found else math.nan

    def _is_redundant(self, level: int, entry: int) -> bool:
        children = self._children[level]
        return bool(children[entry] == children[entry + 1] and self._backoffs[level][entry] == 0)

    def save(self, folder: Path) -> None:
        """Write ``symbols.txt`` and ``ngrams-N.FIELD.npy`` into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / SYMBOLS_FILE, "".join(f"{symbol}\n" for symbol in self.symbols))
        for n, level in enumerate(self.levels, start=1):
            for name, kind in _FIELDS.items():
                values = getattr(level, name)
                if len(values):
                    np.save(folder / _file(n, name), np.ascontiguousarray(values, dtype=kind))

    @classmethod
    def load(cls, folder: Path, order: int) -> Ngrams:
        """The model of ``order`` in ``folder``, memory-mapped; ``UserError`` names the damaged file."""
        path = folder / SYMBOLS_FILE
        try:
            symbols = path.read_text(encoding="utf-8").split("\n")[:-1]
            levels = [
                Level(**{name: _mapped(folder / _file(n, name), kind, n, order) for name, kind in _FIELDS.items()})
                for n in range(1, order + 1)
            ]
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: is missing; copy the whole language model's folder again") from error
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: cannot be read ({error}); copy or make the language model again") from error
        whole = tuple(symbols[:3]) == SPECIALS and len(levels[0].symbols) == len(symbols)
        for level, longer in pairwise(levels):
            count = len(level.symbols)
            whole = whole and len(level.children) == count + 1 and len(level.backoffs) == count
            whole = whole and level.children[-1] == len(longer.symbols) == len(longer.log_probs)
        if not whole:
            raise UserError(f"{folder}: its files belong to different language models; make it again")
        return cls(symbols, levels)


def _file(n: int, name: str) -> str:
    return f"ngrams-{n}.{name}.npy"


def _mapped(path: Path, kind: type, n: int, order: int) -> np.ndarray:
    if n == order and path.name.endswith((".backoffs.npy", ".children.npy")):
        return np.zeros(0, kind)
    # The type must be that of the name: an array of objects would have to be unpickled.
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    if found.dtype != kind or found.ndim != 1:
        raise ValueError(f"{path.name} has {found.dtype} in {found.ndim} dimensions, expected {np.dtype(kind)} in 1")
    return found


# --- Estimation from text --------------------------------------------------------------------------------

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts of n-grams seen once, twice and more often, if the text is too short or too unusual to estimate them."""


@dataclass(frozen=True)
class _Counts:
    """The n-grams of one length: the numbers of their first and of their last n - 1 symbols, and their counts."""

    prefixes: np.ndarray
    suffixes: np.ndarray
    symbols: np.ndarray
    counts: np.ndarray
    begins: np.ndarray  # whether it starts with <s>, which nothing precedes


def estimate(sentences: Sequence[Sequence[str]], order: int) -> Ngrams:
    """An interpolated modified Kneser-Ney model of ``sentences`` (sequences of symbols) with n-grams up to ``order``.

    ``<unk>`` counts as the unknown symbol. ``UserError`` if there is no text.
    """
    sentences = [sentence for sentence in sentences if len(sentence)]
    if not sentences:
        raise UserError("language model: the text has no words; expected sentences, one per line")
    if order < 1:
        raise ValueError(f"order {order}: expected 1 or more")
    words = sorted({symbol for sentence in sentences for symbol in sentence} - set(SPECIALS))
    symbols = [*SPECIALS, *words]
    ids = {symbol: i for i, symbol in enumerate(symbols)}
    stream_P = np.fromiter(
        (i for sentence in sentences for i in (BEGIN, *(ids[s] for s in sentence), END)), dtype=np.int64
    )
    return Ngrams(symbols, _smooth(_count(stream_P, order, len(symbols))))


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """The discounts of n-grams seen once, twice and more often (Chen and Goodman 1998, equation 26)."""
    seen = [int((counts == k).sum()) for k in range(1, 5)]
    if not all(seen):
        return FALLBACK
    y = seen[0] / (seen[0] + 2 * seen[1])
    found = tuple(k - (k + 1) * y * seen[k] / seen[k - 1] for k in (1, 2, 3))
    if any(not 0 < found[k] <= k + 1 for k in range(3)):
        return FALLBACK
    return found[0], found[1], found[2]


def _count(stream_P: np.ndarray, order: int, vocabulary: int) -> list[_Counts]:
    """The n-grams of every length up to ``order``; ``counts`` of all but the longest are numbers of contexts."""
    P = len(stream_P)
    sentence_P = np.cumsum(stream_P == BEGIN)
    numbers_P = stream_P  # of the n-gram that starts at each position; -1 if it would cross the end of a sentence
    levels = [
        _Counts(
            np.zeros(vocabulary, np.int64),
            np.zeros(vocabulary, np.int64),
            np.arange(vocabulary),
            np.bincount(stream_P, minlength=vocabulary),
            np.arange(vocabulary) == BEGIN,
        )
    ]
    for n in range(2, order + 1):
        starts = np.arange(P - n + 1)
        starts = starts[(sentence_P[starts] == sentence_P[starts + n - 1])]
        keys = numbers_P[starts] * vocabulary + stream_P[starts + n - 1]
        unique, first, number, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        prefixes = unique // vocabulary
        shorter = levels[-1]
        here = _Counts(prefixes, numbers_P[starts[first] + 1], unique % vocabulary, counts, shorter.begins[prefixes])
        # Kneser-Ney counts the contexts of a shorter n-gram, unless it starts the sentence.
        contexts = np.bincount(here.suffixes, minlength=len(shorter.counts))
        levels[-1] = _Counts(
            shorter.prefixes,
            shorter.suffixes,
            shorter.symbols,
            np.where(shorter.begins, shorter.counts, contexts),
            shorter.begins,
        )
        levels.append(here)
        numbers_P = np.full(P, -1, np.int64)
        numbers_P[starts] = number
    return levels


def _smooth(levels: Sequence[_Counts]) -> list[Level]:
    """Probabilities and back-off weights: the discounted mass of each length goes to the next shorter one."""
    probs: list[np.ndarray] = []
    backoffs: list[np.ndarray] = []
    for n, level in enumerate(levels):
        counts = level.counts.astype(np.float64)
        if n == 0:
            counts[BEGIN] = 0  # never follows anything
        discount = np.array([0.0, *discounts(level.counts[~level.begins] if n == 0 else level.counts)])
        discount_N = np.minimum(discount[np.minimum(counts, 3).astype(np.int64)], counts)
        contexts = 1 if n == 0 else len(levels[n - 1].counts)
        total = np.bincount(level.prefixes, counts, contexts)
        left = np.bincount(level.prefixes, discount_N, contexts)
        backoff = np.divide(left, total, out=np.ones(contexts), where=total > 0)
        prob = (counts - discount_N) / np.maximum(total, 1)[level.prefixes]
        if n == 0:
            everything = len(counts) - 1  # <unk> and </s> with the words, but not <s>
            probs.append(prob + backoff[0] / everything)
        else:
            probs.append(prob + backoff[level.prefixes] * probs[-1][level.suffixes])
            backoffs.append(backoff)
    probs[0][BEGIN] = 10.0**-99  # as in ARPA files: it never follows anything
    return [
        Level(
            level.symbols.astype(np.int32),
            np.log(prob).astype(np.float32),
            np.log(backoffs[n]).astype(np.float32) if n < len(backoffs) else np.zeros(0, np.float32),
            children(levels[n + 1].prefixes, len(prob)) if n + 1 < len(levels) else np.zeros(0, np.int64),
        )
        for n, (level, prob) in enumerate(zip(levels, probs, strict=True))
    ]


def children(prefixes: np.ndarray, parents: int) -> np.ndarray:
    """For each of ``parents`` n-grams, where its children begin among the next longer n-grams, sorted by prefix."""
    return np.searchsorted(prefixes, np.arange(parents + 1)).astype(np.int64)
