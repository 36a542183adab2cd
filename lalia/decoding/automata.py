"""Automata that score texts in beam search: language models, hot words and closed lists of phrases.

An automaton scores each letter and the end of the text; ``TokenAutomaton`` runs several of them over a student's tokens.
``read_hot_words`` and ``read_closed`` read users' lists of phrases.
"""

from __future__ import annotations

import math
import re
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lalia.errors import UserError
from lalia.lm.folder import LanguageModel
from lalia.lm.ngrams import END, SPECIALS, UNKNOWN, Ngrams
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import BOUNDARY, Tokens, token_texts
from lalia.text.writing_system import WritingSystem

# --- Automata over letters and tokens --------------------------------------------------------------------

FORBIDDEN = -math.inf


class Automaton(Protocol):
    """Scores a text letter by letter; words are separated by single spaces, and the text begins with a letter."""

    start: Any

    def letter(self, state: Any, letter: str) -> tuple[float, Any]:
        """(score of ``letter`` as a natural logarithm, next state); ``-inf`` forbids the letter."""
        ...

    def end(self, state: Any) -> float:
        """The score of ending the text; a trailing space has no effect."""
        ...


class TokenAutomaton:
    """Several automata as one over tokens; their scores add up. Leading and repeated spaces have no effect."""

    def __init__(self, tokens: Tokens, automata: Sequence[Automaton]) -> None:
        self._spellings = token_texts(tokens)
        self._automata = list(automata)
        self.start = (True, *(automaton.start for automaton in automata))

    def arc(self, state: Any, token: int) -> tuple[float, Any]:
        """(score of ``token``, next state)."""
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
        """The score of ending the text."""
        return sum(automaton.end(s) for automaton, s in zip(self._automata, state[1:], strict=True))


class CachedAutomaton:
    """A ``TokenAutomaton`` with numbered states and cached arcs, so that no arc is computed twice."""

    MOST_ARCS = 400_000
    """A larger cache (some 100 MB) is cleared when the next text begins."""

    def __init__(self, automaton: TokenAutomaton, tokens: int) -> None:
        self._automaton = automaton
        self._tokens = tokens
        self._forget()

    def _forget(self) -> None:
        self._states: list[Hashable] = []
        self._numbers: dict[Hashable, int] = {}
        self._arcs: dict[int, tuple[float, int]] = {}

    def begin(self) -> int:
        """The number of the start state."""
        if len(self._arcs) > self.MOST_ARCS:
            self._forget()
        return self._number(self._automaton.start)

    def arc(self, state: int, token: int) -> tuple[float, int]:
        """(score of ``token`` after ``state``, next state)."""
        key = state * self._tokens + token
        arc = self._arcs.get(key)
        if arc is None:
            score, after = self._automaton.arc(self._states[state], token)
            arc = self._arcs[key] = (score, 0 if score == FORBIDDEN else self._number(after))
        return arc

    def final(self, state: int) -> float:
        """The score of ending the text in ``state``."""
        return self._automaton.final(self._states[state])

    def _number(self, state: Hashable) -> int:
        number = self._numbers.setdefault(state, len(self._states))
        if number == len(self._states):
            self._states.append(state)
        return number


class PrefixTree:
    """A prefix tree over sorted texts without building one: a node is the range of texts with a prefix, and its length."""

    def __init__(self, texts: Sequence[str], low: int = 0) -> None:
        self._texts = texts
        self.root = (low, len(texts), 0)

    def child(self, node: tuple[int, int, int], letter: str) -> tuple[int, int, int] | None:
        """The texts of ``node`` that continue with ``letter``; None if there are none."""
        low, high, length = node
        if high - low == 1:
            return (low, high, length + 1) if self._texts[low][length : length + 1] == letter else None

        def at(text: str) -> str:
            return text[length : length + 1]

        low = bisect_left(self._texts, letter, low, high, key=at)
        high = bisect_right(self._texts, letter, low, high, key=at)
        return (low, high, length + 1) if low < high else None

    def whole(self, node: tuple[int, int, int]) -> int | None:
        """The index of the text that ends at ``node``; None if none does."""
        low, _, length = node
        return low if len(self._texts[low]) == length else None


class ClosedList:
    """A closed list: only these texts and the empty text are allowed. Where ``writing`` has no spaces, any may be in them."""

    def __init__(self, texts: Sequence[str], writing: WritingSystem | None = None) -> None:
        self._writing = writing or WritingSystem()
        self.texts = sorted(set(texts))
        self._prefixes = PrefixTree(self.texts)
        self.start = (self._prefixes.root, False)

    def letter(self, state: Any, letter: str) -> tuple[float, Any]:
        node, waiting = state
        if letter == " ":
            return 0.0, (node, True)  # it may be a trailing space, which has no effect
        if waiting:
            node = self._prefixes.child(node, " ") or self._without_space(node, letter)
        node = node and self._prefixes.child(node, letter)
        return (0.0, (node, False)) if node else (FORBIDDEN, state)

    def _without_space(self, node: tuple[int, int, int], letter: str) -> tuple[int, int, int] | None:
        """``node`` where the space before ``letter`` may be a pause that nobody writes."""
        low, _, length = node
        before = self.texts[low][length - 1] if length else letter
        return None if self._writing.part(before).spaced and self._writing.part(letter).spaced else node

    def end(self, state: Any) -> float:
        node, _ = state
        return 0.0 if node == self._prefixes.root or self._prefixes.whole(node) is not None else FORBIDDEN


class HotWords:
    """Contextual biasing: the boost of a hot text is added in equal parts with each of its letters.

    The parts are subtracted again if the text does not continue as the hot text (Aho and Corasick 1975; icefall's context
    graphs). Where ``writing`` separates words, hot texts match whole words only; otherwise they match inside runs of letters.
    A word ends at its separator and where letters of a script without spaces follow.
    """

    def __init__(self, boosts: dict[str, float], writing: WritingSystem | None = None) -> None:
        writing = writing or WritingSystem()
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._credit = [0.0]
        self._gain = [0.0]
        for text, boost in boosts.items():
            before, after = writing.edge(text[0]), writing.edge(text[-1])
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
                if i < len(pattern):  # no credit for the leading space; the boost of a complete text is final
                    part = (i - len(before)) / (len(pattern) - len(before)) * boost
                    self._credit[node] = max(self._credit[node], part, key=abs)
            self._gain[node] += boost
        self._link()
        self._writing = writing
        self._edges: dict[str, str] = {}
        self.start = (0, "", True)
        """node, what ends the word that the last letter belongs to ("": nothing does), and whether it has ended"""

    def _link(self) -> None:
        """Failure links, breadth first; a hot text that ends inside a longer one also gets its boost there."""
        queue = list(self._next[0].values())
        for node in queue:
            for letter, child in self._next[node].items():
                fail = self._fail[node]
                while fail and letter not in self._next[fail]:
                    fail = self._fail[fail]
                self._fail[child] = self._next[fail].get(letter, 0)
                queue.append(child)
        for node in queue:  # shorter prefixes first
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
        node, edge, ended = state
        if letter in (" ", edge):
            if not edge:
                return 0.0, state  # a pause inside a run of letters
            score, node = self._step(node, edge)
            return score, (node, edge, True)
        own = self._edge(letter)
        steps = [] if own == edge else [*([] if ended else [edge]), own]
        total = 0.0
        for symbol in (*filter(None, steps), letter):
            score, node = self._step(node, symbol)
            total += score
        return total, (node, own, False)

    def end(self, state: Any) -> float:
        node, edge, ended = state
        score = 0.0
        if edge and not ended:
            score, node = self._step(node, edge)
        return score - self._credit[node]

    def _edge(self, letter: str) -> str:
        if letter not in self._edges:
            self._edges[letter] = self._writing.edge(letter)
        return self._edges[letter]


# --- Language models as automata -------------------------------------------------------------------------

UNKNOWN_WORD = -4.0
"""Natural log score of a word outside the vocabulary, added to the model's own score of ``<unk>``."""


class LetterModel:
    """N-grams of letters, spaces included. ``bonus`` is added for each letter and space.

    If the n-grams know no space (Chinese, Japanese), a space inside a run of letters has no effect.
    """

    def __init__(self, ngrams: Ngrams, weight: float, bonus: float) -> None:
        self._ngrams = ngrams
        self._weight, self._bonus = weight, bonus
        self._space = ngrams.id(BOUNDARY)
        self.start = (ngrams.start, False)

    def letter(self, state: Any, letter: str) -> tuple[float, Any]:
        before, waiting = state
        if letter == " ":
            return 0.0, (before, True)  # scored when a word follows: a trailing space has no effect
        score = 0.0
        if waiting and self._space != UNKNOWN:
            log_prob, before = self._ngrams.advance(before, self._space)
            score = self._weight * log_prob + self._bonus
        log_prob, after = self._ngrams.advance(before, self._ngrams.id(letter))
        return score + self._weight * log_prob + self._bonus, (after, False)

    def end(self, state: Any) -> float:
        return self._weight * self._ngrams.advance(state[0], END)[0]


class WordModel:
    """N-grams of words. ``bonus`` is added for each word.

    An unfinished word is scored as the most likely word with its prefix (look-ahead, as flashlight's lexicon decoder does); the
    end of the word corrects the score. Words outside the vocabulary are allowed, with the score of ``<unk>``.
    """

    def __init__(self, ngrams: Ngrams, weight: float, bonus: float) -> None:
        self._ngrams = ngrams
        self._weight, self._bonus = weight, bonus
        self._prefixes = PrefixTree(ngrams.symbols, len(SPECIALS))
        self._unigrams = ngrams.unigrams()
        self._lookaheads: dict[tuple[int, int], float] = {}
        # (n-gram state, node in the vocabulary or None for an unknown word, look-ahead score of the unfinished word)
        self.start = (ngrams.start, self._prefixes.root, 0.0)

    def letter(self, state: Any, letter: str) -> tuple[float, Any]:
        before, node, lookahead = state
        if letter == " ":
            score, after = self._word(before, node)
            return score - lookahead, (after, self._prefixes.root, 0.0)
        child = node and self._prefixes.child(node, letter)
        longer = self._lookahead(child) if child else self._unknown_word(before)[0]
        return longer - lookahead, (before, child, longer)

    def end(self, state: Any) -> float:
        before, node, lookahead = state
        score = 0.0
        if node != self._prefixes.root:
            score, before = self._word(before, node)
        return score - lookahead + self._weight * self._ngrams.advance(before, END)[0]

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
    """The automaton of ``model``: ``weight`` times its log probability, plus ``bonus`` for each letter or word."""
    return (LetterModel if model.unit == "letter" else WordModel)(model.ngrams, weight, bonus)


# --- Users' lists of phrases -----------------------------------------------------------------------------

BOOST = 6.0
MOST_PHRASES = 100_000
_PARTS = re.compile(r"[()\[\]|]|[^()\[\]|]+")


Phrases = Path | str | Iterable[str]
"""Phrases as a user gives them: a file, one per line, or the phrases themselves."""
HotWordList = Phrases | Mapping[str, float]
"""The same with boosts: after a tab in a file, or the values of a mapping."""


def read_hot_words(
    source: HotWordList, normaliser: Normaliser, tokens: Tokens, warn: Callable[[str], None] = warnings.warn
) -> dict[str, float]:
    """Phrases, normalised, and their boosts as natural logarithms (default: 6); in a file a tab stands before the boost.

    A phrase with letters that have no token is skipped; ``warn`` gets one line about all of them. ``UserError`` names the line
    with an error.
    """
    name = _name(source, "hot words")

    def phrases() -> Iterator[tuple[str, str, float]]:
        for place, line in _lines(source):
            phrase, tab, boost = line.partition("\t")
            given: object = source[line] if isinstance(source, Mapping) else boost if tab else BOOST
            try:
                value = float(given)  # type: ignore[arg-type]
                if not math.isfinite(value) or abs(value) > 100:
                    raise ValueError
            except (ValueError, TypeError):
                raise UserError(
                    f"{name}: {place}: the boost is {given!r}; expected a number from -100 to 100"
                ) from None
            yield place, _normalised(f"{name}: {place}", phrase, normaliser), value

    found, skipped = writable(phrases(), tokens)
    if skipped:
        what = (
            "a hot word that the student cannot write is skipped"
            if found
            else "the student can write none of its hot words"
        )
        warn(f"{name}: {what}: {skipped}")
    elif not found:
        _require_any(name, found)
    return found


def writable(phrases: Iterable[tuple[str, str, float]], tokens: Tokens) -> tuple[dict[str, float], str]:
    """The boosts of those (place, normalised phrase, boost) that ``tokens`` can write, and a line about the others, or ""."""
    found: dict[str, float] = {}
    skipped: list[str] = []
    for place, phrase, boost in phrases:
        try:
            if not phrase:
                raise UserError("has no letters")
            tokens.encode(phrase)
            found[phrase] = boost
        except UserError as error:
            skipped.append(f"{place}: {error}")
    more = f", and {len(skipped) - 1} more" if len(skipped) > 1 else ""
    return found, f"{skipped[0]}{more}" if skipped else ""


def read_closed(source: Phrases, normaliser: Normaliser, tokens: Tokens) -> list[str]:
    """Phrases, normalised and sorted; ``(a|b)`` is a choice, ``[a]`` is optional, both may nest.

    ``UserError`` names the line with an error.
    """
    found: set[str] = set()
    name = _name(source, "closed list")
    for place, line in _lines(source):
        for phrase in expand(line, f"{name}: {place}"):
            written = _normalised(f"{name}: {place}", phrase, normaliser)
            try:
                tokens.encode(written)
            except UserError as error:
                raise UserError(f"{name}: {place}: {error}") from None
            found.add(written)
            if len(found) > MOST_PHRASES:
                raise UserError(f"{name}: {place}: more than {MOST_PHRASES:,} phrases; expected a smaller grammar")
    _require_any(name, found)
    return sorted(found)


def expand(line: str, where: str = "grammar") -> list[str]:
    """All phrases that a line with ``(a|b)`` and ``[a]`` describes."""
    parts = _PARTS.findall(line)
    found, rest = _alternatives(parts, 0, "", where)
    if rest < len(parts):
        raise UserError(f"{where}: {parts[rest]!r} has no opening bracket")
    return [" ".join(phrase.split()) for phrase in found]


def _alternatives(parts: list[str], at: int, closing: str, where: str) -> tuple[list[str], int]:
    """(phrases of the parts from ``at`` to ``closing``, index after them)."""
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
            raise UserError(f"{where}: more than {MOST_PHRASES:,} phrases; expected a smaller grammar")
        current = [head + tail for head in current for tail in inner]
    if closing:
        if at == len(parts) or parts[at] != closing:
            raise UserError(f"{where}: {closing!r} is missing")
        at += 1
    return options + current, at


def _name(source: Phrases, what: str) -> str:
    return str(source) if isinstance(source, (str, Path)) else what


def _lines(source: Phrases) -> Iterator[tuple[str, str]]:
    """(place, phrase) of each phrase; lines of a file that are empty or begin with # are left out."""
    if not isinstance(source, (str, Path)):
        for number, phrase in enumerate(source, start=1):
            if not isinstance(phrase, str):
                raise UserError(f"phrase {number} is {phrase!r}; expected text")
            yield f"phrase {number}", phrase
        return
    try:
        text = Path(source).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such file; expected a list of phrases, one per line") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: cannot be read as UTF-8 text ({error}); expected a list of phrases") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            yield f"line {number}", line


def _normalised(where: str, phrase: str, normaliser: Normaliser) -> str:
    written = normaliser.for_text(phrase)(phrase)
    if not written:
        raise UserError(f"{where}: {phrase.strip()!r} has no letters")
    return written


def _require_any(name: str, found: Collection[str]) -> None:
    if not found:
        raise UserError(f"{name}: has no phrases; expected one per line")
