"""What a text may look like, letter by letter: machines that score the next letter, and one that makes them score tokens."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

from lalia.text.tokens import Tokens, spellings

FORBIDDEN = -math.inf


class Machine(Protocol):
    """Scores a text as it is spelled. Words are separated by single spaces, and none stands at the begin of the text."""

    start: Any

    def letter(self, state: Any, letter: str) -> tuple[float, Any]:
        """What ``letter`` adds to the natural log score (``-inf``: forbidden), and the state behind it."""
        ...

    def end(self, state: Any) -> float:
        """What the end of the text adds; a last space counts for nothing."""
        ...


class Spelled:
    """Machines run side by side over tokens; their scores add up. Spaces at the begin and doubled ones pass unseen."""

    def __init__(self, tokens: Tokens, machines: Sequence[Machine]) -> None:
        self._spellings = spellings(tokens)
        self._machines = list(machines)
        self.start = (True, *(machine.start for machine in machines))

    def arc(self, state: Any, token: int) -> tuple[float, Any]:
        """What ``token`` adds to the score, and the state behind it."""
        spaced, *states = state
        total = 0.0
        for letter in self._spellings[token]:
            if letter == " " and spaced:
                continue
            spaced = letter == " "
            for i, machine in enumerate(self._machines):
                score, states[i] = machine.letter(states[i], letter)
                total += score
            if total == FORBIDDEN:
                break
        return total, (spaced, *states)

    def final(self, state: Any) -> float:
        """What the end of the text adds."""
        return sum(machine.end(s) for machine, s in zip(self._machines, state[1:], strict=True))


class Walk:
    """An automaton unfolded as it is walked: states become numbers, and no arc is computed twice."""

    MOST_ARCS = 400_000
    """Beyond this (some 100 MB) the walk forgets what it knows when the next text begins."""

    def __init__(self, automaton: Spelled, tokens: int) -> None:
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


class Prefixes:
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


class Closed:
    """Only these texts: anything else is forbidden. The empty text is allowed: nothing of the list was said."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = sorted(set(texts))
        self._prefixes = Prefixes(self.texts)
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


class Hot:
    """Texts that are likelier than the model thinks: each adds its boost, part of it with every letter on the way.

    What was added on the way is taken back where the text goes on otherwise (Aho and Corasick 1975, as context graphs in
    icefall use it). With ``spaced`` a hot text is whole words.
    """

    def __init__(self, boosts: dict[str, float], spaced: bool = True) -> None:
        space = " " if spaced else ""
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._credit = [0.0]
        self._gain = [0.0]
        for text, boost in boosts.items():
            pattern = f"{space}{text}{space}"
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
                    part = (i - len(space)) / (len(pattern) - len(space)) * boost
                    self._credit[node] = max(self._credit[node], part, key=abs)
            self._gain[node] += boost
        self._link()
        self._space = space
        self.start = self._step(0, space)[1] if space else 0

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
        return self._step(state, letter)

    def end(self, state: Any) -> float:
        score, node = self._step(state, self._space) if self._space and state != self.start else (0.0, state)
        return score - self._credit[node]
