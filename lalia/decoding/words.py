"""Language models as machines that score a text letter by letter: n-grams of letters, and n-grams of words."""

from __future__ import annotations

from typing import Any

from lalia.decoding.automata import Machine, Prefixes
from lalia.decoding.language_model import LanguageModel
from lalia.decoding.ngrams import END, SPECIALS, UNKNOWN, Ngrams
from lalia.text.tokens import BOUNDARY

STRANGER = -4.0
"""Natural log score of a word that the model has never seen, on top of the model's own for unknown words."""


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
        self._prefixes = Prefixes(ngrams.symbols, len(SPECIALS))
        self._unigrams = ngrams.unigrams()
        self._hopes: dict[tuple[int, int], float] = {}
        # (what came before, where in the list of words or None for a stranger, what the word was given so far)
        self.start = (ngrams.start, self._prefixes.root, 0.0)

    def letter(self, state: Any, letter: str) -> tuple[float, Any]:
        before, node, given = state
        if letter == " ":
            score, after = self._word(before, node)
            return score - given, (after, self._prefixes.root, 0.0)
        child = node and self._prefixes.child(node, letter)
        hope = self._hope(child) if child else self._stranger(before)[0]
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
            return self._stranger(before)
        log_prob, after = self._ngrams.advance(before, number)
        return self._weight * log_prob + self._bonus, after

    def _stranger(self, before: Any) -> tuple[float, Any]:
        log_prob, after = self._ngrams.advance(before, UNKNOWN)
        return self._weight * log_prob + STRANGER + self._bonus, after

    def _hope(self, node: tuple[int, int, int]) -> float:
        low, high, _ = node
        if (low, high) not in self._hopes:
            self._hopes[low, high] = self._weight * float(self._unigrams[low:high].max()) + self._bonus
        return self._hopes[low, high]


def machine_of(model: LanguageModel, weight: float, bonus: float) -> Machine:
    """``model`` as scores of texts: ``weight`` times its log probability, and ``bonus`` for every letter or word."""
    return (LetterModel if model.unit == "letter" else WordModel)(model.ngrams, weight, bonus)
