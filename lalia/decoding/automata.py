"""Scores on texts for beam search: language models, hot words and closed lists as automata over letters.

Every automaton adds a score per letter and at the end of the text; ``TokenAutomaton`` runs several of them over a student's
tokens. ``read_hot_words`` and ``read_closed`` read the lists of phrases that users write.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from lalia.errors import UserError
from lalia.lm.folder import LanguageModel
from lalia.lm.ngrams import END, SPECIALS, UNKNOWN, Ngrams
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import BOUNDARY, Tokens, token_texts
from lalia.text.writing_system import WritingSystem

# --- What a text may look like, letter by letter ---------------------------------------------------------

FORBIDDEN = -math.inf


class Automaton(Protocol):
    """Scores a text letter by letter. Words are separated by single spaces; the text begins with a letter."""

    start: Any

    def letter(self, state: Any, letter: str) -> tuple[float, Any]:
        """What ``letter`` adds to the natural log score (``-inf``: forbidden), and the state behind it."""
        ...

    def end(self, state: Any) -> float:
        """What the end of the text adds; a last space counts for nothing."""
        ...


class TokenAutomaton:
    """Machines run side by side over tokens; their scores add up. Spaces at the begin and doubled ones pass unseen."""

    def __init__(self, tokens: Tokens, automata: Sequence[Automaton]) -> None:
        self._spellings = token_texts(tokens)
        self._automata = list(automata)
        self.start = (True, *(automaton.start for automaton in automata))

    def arc(self, state: Any, token: int) -> tuple[float, Any]:
        """What ``token`` adds to the score, and the state behind it."""
        spaced, *states = state
        total = 0.0
        for letter in self._spellings[token]:
            if letter == " " and spaced:
                continue
            spaced = letter == " "
            for i, automaton in enumerate(self._automata):
                score, states[i] = automaton.letter(states[i], letter)
                total += score
            if total == FORBIDDEN:
                break
        return total, (spaced, *states)

    def final(self, state: Any) -> float:
        """What the end of the text adds."""
        return sum(automaton.end(s) for automaton, s in zip(self._automata, state[1:], strict=True))


class CachedAutomaton:
    """An automaton unfolded as it is walked: states become numbers, and no arc is computed twice."""

    MOST_ARCS = 400_000
    """Beyond this (some 100 MB) the automaton forgets what it knows when the next text begins."""

    def __init__(self, automaton: TokenAutomaton, tokens: int) -> None:
        self._automaton = automaton
        self._tokens = tokens
        self._forget()

    def _forget(self) -> None:
        self._states: list[Hashable] = []
        self._numbers: dict[Hashable, int] = {}
        self._arcs: dict[int, tuple[float, int]] = {}

    def begin(self) -> int:
        """The number of the state at the begin of a text."""
        if len(self._arcs) > self.MOST_ARCS:
            self._forget()
        return self._number(self._automaton.start)

    def arc(self, state: int, token: int) -> tuple[float, int]:
        """What adding ``token`` behind ``state`` scores, and the state reached."""
        key = state * self._tokens + token
        arc = self._arcs.get(key)
        if arc is None:
            score, after = self._automaton.arc(self._states[state], token)
            arc = self._arcs[key] = (score, 0 if score == FORBIDDEN else self._number(after))
        return arc

    def final(self, state: int) -> float:
        """What ending behind ``state`` scores."""
        return self._automaton.final(self._states[state])

    def _number(self, state: Hashable) -> int:
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
        return number


class PrefixTree:
    """Sorted texts as a tree that costs nothing to make: a node is the range of those that begin alike, and how long."""

    def __init__(self, texts: Sequence[str], low: int = 0) -> None:
        self._texts = texts
        self.root = (low, len(texts), 0)

    def child(self, node: tuple[int, int, int], letter: str) -> tuple[int, int, int] | None:
        """The texts of ``node`` that go on with ``letter``; None where there are none."""
        low, high, length = node
        if high - low == 1:
            return (low, high, length + 1) if self._texts[low][length : length + 1] == letter else None

        def at(text: str) -> str:
            return text[length : length + 1]

        low = bisect_left(self._texts, letter, low, high, key=at)
        high = bisect_right(self._texts, letter, low, high, key=at)
        return (low, high, length + 1) if low < high else None

    def whole(self, node: tuple[int, int, int]) -> int | None:
        """The number of the text that ends at ``node``; None where none does."""
        low, _, length = node
        return low if len(self._texts[low]) == length else None


class ClosedList:
    """A closed list: only these texts and the empty text are allowed."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = sorted(set(texts))
        self._prefixes = PrefixTree(self.texts)
        self.start = (self._prefixes.root, False)

    def letter(self, state: Any, letter: str) -> tuple[float, Any]:
        node, waiting = state
        if letter == " ":
            return 0.0, (node, True)  # it may be the last, which counts for nothing
        if waiting:
            node = self._prefixes.child(node, " ")
        node = node and self._prefixes.child(node, letter)
        return (0.0, (node, False)) if node else (FORBIDDEN, state)

    def end(self, state: Any) -> float:
        node, _ = state
        return 0.0 if node == self._prefixes.root or self._prefixes.whole(node) is not None else FORBIDDEN


class HotWords:
    """Contextual biasing: each hot text adds its boost, in parts with every letter.

    The parts are subtracted again if the text does not continue as the hot text (Aho and Corasick 1975, as context graphs in
    icefall use it). Where ``writing`` separates words a hot text is whole words, else it is found inside runs of letters.
    """

    def __init__(self, boosts: dict[str, float], writing: WritingSystem | None = None) -> None:
        writing = writing or WritingSystem()
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._credit = [0.0]
        self._gain = [0.0]
        for text, boost in boosts.items():
            before, after = writing.edges(text)
            pattern = f"{before}{text}{after}"
            node = 0
            for i, letter in enumerate(pattern, start=1):
                if letter not in self._next[node]:
                    self._next[node][letter] = len(self._next)
                    self._next.append({})
                    self._fail.append(0)
                    self._credit.append(0.0)
                    self._gain.append(0.0)
                node = self._next[node][letter]
                if i < len(pattern):  # the space in front is no progress, and a whole text's boost is for good
                    part = (i - len(before)) / (len(pattern) - len(before)) * boost
                    self._credit[node] = max(self._credit[node], part, key=abs)
            self._gain[node] += boost
        self._link()
        self._separator = writing.separator if writing.units != "clusters" else ""
        self.start = self._step(0, self._separator)[1] if self._separator else 0

    def _link(self) -> None:
        """Failure links, by breadth; a text that ends within a longer one counts there as well."""
        queue = list(self._next[0].values())
        for node in queue:
            for letter, child in self._next[node].items():
                fail = self._fail[node]
                while fail and letter not in self._next[fail]:
                    fail = self._fail[fail]
                self._fail[child] = self._next[fail].get(letter, 0)
                queue.append(child)
        for node in queue:  # shorter ones first
            if not self._next[node]:
                self._credit[node] = self._credit[self._fail[node]]
            self._gain[node] += self._gain[self._fail[node]]

    def _step(self, node: int, letter: str) -> tuple[float, int]:
        before = self._credit[node]
        while node and letter not in self._next[node]:
            node = self._fail[node]
        node = self._next[node].get(letter, 0)
        return self._credit[node] - before + self._gain[node], node

    def letter(self, state: Any, letter: str) -> tuple[float, Any]:
        if letter == " " and not self._separator:
            return 0.0, state  # a pause inside a run of letters
        return self._step(state, letter)

    def end(self, state: Any) -> float:
        score, node = (0.0, state)
        if self._separator and state != self.start:
            score, node = self._step(state, self._separator)
        return score - self._credit[node]


# --- Language models as automata that score a text letter by letter --------------------------------------

UNKNOWN_WORD = -4.0
"""Natural log score of a word outside the vocabulary, added to the model's own score of ``<unk>``."""


class LetterModel:
    """N-grams of letters, the space between words being one of them. ``bonus`` is for every letter and space."""

    def __init__(self, ngrams: Ngrams, weight: float, bonus: float) -> None:
        self._ngrams = ngrams
        self._weight, self._bonus = weight, bonus
        self._space = ngrams.id(BOUNDARY)
        self.start = (ngrams.start, False)

    def letter(self, state: Any, letter: str) -> tuple[float, Any]:
        before, waiting = state
        if letter == " ":
            return 0.0, (before, True)  # counted when a word follows: the last space of a text is none
        score = 0.0
        if waiting:
            log_prob, before = self._ngrams.advance(before, self._space)
            score = self._weight * log_prob + self._bonus
        log_prob, after = self._ngrams.advance(before, self._ngrams.id(letter))
        return score + self._weight * log_prob + self._bonus, (after, False)

    def end(self, state: Any) -> float:
        return self._weight * self._ngrams.advance(state[0], END)[0]


class WordModel:
    """N-grams of words. ``bonus`` is for every word.

    While a word is being spelled it counts as the likeliest word that begins so (as flashlight's lexicon does), and what
    that was too good by is taken back at its end. A word that the model has never seen may be spelled all the same.
    """

    def __init__(self, ngrams: Ngrams, weight: float, bonus: float) -> None:
        self._ngrams = ngrams
        self._weight, self._bonus = weight, bonus
        self._prefixes = PrefixTree(ngrams.symbols, len(SPECIALS))
        self._unigrams = ngrams.unigrams()
        self._lookaheads: dict[tuple[int, int], float] = {}
        # (what came before, where in the list of words or None for a stranger, what the word was given so far)
        self.start = (ngrams.start, self._prefixes.root, 0.0)

    def letter(self, state: Any, letter: str) -> tuple[float, Any]:
        before, node, given = state
        if letter == " ":
            score, after = self._word(before, node)
            return score - given, (after, self._prefixes.root, 0.0)
        child = node and self._prefixes.child(node, letter)
        hope = self._lookahead(child) if child else self._unknown_word(before)[0]
        return hope - given, (before, child, hope)

    def end(self, state: Any) -> float:
        before, node, given = state
        score = 0.0
        if node != self._prefixes.root:
            score, before = self._word(before, node)
        return score - given + self._weight * self._ngrams.advance(before, END)[0]

    def _word(self, before: Any, node: tuple[int, int, int] | None) -> tuple[float, Any]:
        number = self._prefixes.whole(node) if node else None
        if number is None:
            return self._unknown_word(before)
        log_prob, after = self._ngrams.advance(before, number)
        return self._weight * log_prob + self._bonus, after

    def _unknown_word(self, before: Any) -> tuple[float, Any]:
        log_prob, after = self._ngrams.advance(before, UNKNOWN)
        return self._weight * log_prob + UNKNOWN_WORD + self._bonus, after

    def _lookahead(self, node: tuple[int, int, int]) -> float:
        low, high, _ = node
        if (low, high) not in self._lookaheads:
            self._lookaheads[low, high] = self._weight * float(self._unigrams[low:high].max()) + self._bonus
        return self._lookaheads[low, high]


def lm_automaton(model: LanguageModel, weight: float, bonus: float) -> Automaton:
    """``model`` as scores of texts: ``weight`` times its log probability, and ``bonus`` for every letter or word."""
    return (LetterModel if model.unit == "letter" else WordModel)(model.ngrams, weight, bonus)


# --- Lists of phrases that people write ------------------------------------------------------------------

BOOST = 6.0
MOST_PHRASES = 100_000
_PARTS = re.compile(r"[()\[\]|]|[^()\[\]|]+")


def read_hot_words(path: Path, normaliser: Normaliser, tokens: Tokens) -> dict[str, float]:
    """Phrases and boosts from a file: a phrase a line, after a tab its boost in natural logarithms (6 unless given).

    ``UserError`` names the line that is wrong.
    """
    found: dict[str, float] = {}
    for number, line in _lines(path):
        phrase, tab, boost = line.partition("\t")
        try:
            value = float(boost) if tab else BOOST
            if not math.isfinite(value) or abs(value) > 100:
                raise ValueError
        except ValueError:
            raise UserError(
                f"{path}: line {number}: the boost is {boost!r}; expected a number from -100 to 100"
            ) from None
        found[_normalised(path, number, phrase, normaliser, tokens)] = value
    _require_any(path, found)
    return found


def read_closed(path: Path, normaliser: Normaliser, tokens: Tokens) -> list[str]:
    """The phrases of a file: one a line, ``(a|b)`` for either, ``[a]`` for a or nothing, nested as one likes.

    Normalised and sorted. ``UserError`` names the line that is wrong.
    """
    found: set[str] = set()
    for number, line in _lines(path):
        for phrase in expand(line, f"{path}: line {number}"):
            found.add(_normalised(path, number, phrase, normaliser, tokens))
            if len(found) > MOST_PHRASES:
                raise UserError(
                    f"{path}: line {number}: more than {MOST_PHRASES:,} phrases; expected a smaller grammar"
                )
    _require_any(path, found)
    return sorted(found)


def expand(line: str, where: str = "grammar") -> list[str]:
    """Every phrase that a line with ``(a|b)`` and ``[a]`` stands for."""
    parts = _PARTS.findall(line)
    found, rest = _alternatives(parts, 0, "", where)
    if rest < len(parts):
        raise UserError(f"{where}: {parts[rest]!r} closes nothing")
    return [" ".join(phrase.split()) for phrase in found]


def _alternatives(parts: list[str], at: int, closing: str, where: str) -> tuple[list[str], int]:
    """What the parts from ``at`` to ``closing`` stand for, and the place behind them."""
    options: list[str] = []
    current = [""]
    while at < len(parts) and parts[at] not in (")", "]"):
        part, at = parts[at], at + 1
        if part == "|":
            options, current = options + current, [""]
            continue
        inner = [part]
        if part in ("(", "["):
            inner, at = _alternatives(parts, at, ")" if part == "(" else "]", where)
            if part == "[":
                inner = [*inner, ""]
        if len(current) * len(inner) > MOST_PHRASES:
            raise UserError(f"{where}: stands for more than {MOST_PHRASES:,} phrases; expected a smaller grammar")
        current = [head + tail for head in current for tail in inner]
    if closing:
        if at == len(parts) or parts[at] != closing:
            raise UserError(f"{where}: {closing!r} is missing")
        at += 1
    return options + current, at


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a list of phrases, one a line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text ({error}); expected a list of phrases") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield number, line


def _normalised(path: Path, number: int, phrase: str, normaliser: Normaliser, tokens: Tokens) -> str:
    written = normaliser(phrase)
    if not written:
        raise UserError(f"{path}: line {number}: {phrase.strip()!r} holds no letters")
    try:
        tokens.encode(written)
    except UserError as error:
        raise UserError(f"{path}: line {number}: {error}") from None
    return written


def _require_any(path: Path, found: Collection[str]) -> None:
    if not found:
        raise UserError(f"{path}: holds no phrases; expected one a line")
