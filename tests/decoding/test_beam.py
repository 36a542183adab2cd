"""Beam search: equal to the slow, obvious one with texts as keys, and to summing every path where that can be done."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from lalia.decoding.automata import (
    Automaton,
    CachedAutomaton,
    ClosedList,
    HotWords,
    LetterModel,
    TokenAutomaton,
    WordModel,
)
from lalia.decoding.beam import Beam, BeamSettings
from lalia.lm.ngrams import estimate
from lalia.text.tokens import Tokens

TOKENS = Tokens(["<blank>", "|", "a", "b", "c"])
TEXTS = ["abba cab", "a cab", "bac abba", "cab cab a", "aa b"]
LETTERS = estimate([list(text.replace(" ", "|")) for text in TEXTS], 3)
WORDS = estimate([text.split() for text in TEXTS], 2)


def random_log_probs(frames: int, seed: int, sharpness: float = 2.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(frames, len(TOKENS))) * sharpness
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def found_by_beam(log_probs_TV: np.ndarray, automata: list[Automaton], settings: BeamSettings) -> dict[Any, float]:
    beam = Beam(CachedAutomaton(TokenAutomaton(TOKENS, automata), len(TOKENS)), len(TOKENS), settings)
    beam.frames(log_probs_TV)
    return {path.tokens: path.score for path in beam.best()}


def add(a: float, b: float) -> float:
    return float(np.logaddexp(a, b))


def found_slowly(log_probs_TV: np.ndarray, automata: list[Automaton], settings: BeamSettings) -> dict[Any, float]:
    """The same search written down plainly: prefix -> (ends in blank, ends in letter, score of the text, state)."""
    automaton = TokenAutomaton(TOKENS, automata)
    beam: dict[Any, tuple[float, float, float, Any]] = {(): (0.0, -math.inf, 0.0, automaton.start)}
    for log_probs_V in log_probs_TV:
        likely = [v for v in range(1, len(TOKENS)) if log_probs_V[v] >= settings.token_floor]
        stayed, grown = {}, {}
        for prefix, (blank, letter, text, state) in beam.items():
            both = add(blank, letter)
            repeat = letter + log_probs_V[prefix[-1]] if prefix and prefix[-1] in likely else -math.inf
            stayed[prefix] = (both + log_probs_V[0], repeat, text, state)
        for prefix, (blank, letter, text, state) in beam.items():
            for v in likely:
                more = (blank if prefix and prefix[-1] == v else add(blank, letter)) + log_probs_V[v]
                longer = (*prefix, v)
                if longer in stayed:
                    old = stayed[longer]
                    stayed[longer] = (old[0], add(old[1], more), *old[2:])
                else:
                    grown[longer] = (more, text, state, v)
        hopes = [add(b, n) + text for b, n, text, _ in stayed.values()]
        hopes += [more + text for more, text, _, _ in grown.values()]
        cut = max(hopes) - settings.width
        for prefix, (more, text, state, v) in grown.items():
            if more + text >= cut:
                score, after = automaton.arc(state, v)
                stayed[prefix] = (-math.inf, more, text + score, after)
        total = {prefix: add(b, n) + text for prefix, (b, n, text, _) in stayed.items()}
        best = sorted(total, key=total.__getitem__, reverse=True)[: settings.beam]
        beam = {p: stayed[p] for p in best if total[p] >= total[best[0]] - settings.width}
    ends = {p: add(b, n) + text + automaton.final(state) for p, (b, n, text, state) in beam.items()}
    return {p: score for p, score in ends.items() if score > -math.inf}


MACHINES: dict[str, list[Automaton]] = {
    "none": [],
    "letters": [LetterModel(LETTERS, 0.7, 0.5)],
    "words": [WordModel(WORDS, 0.6, 1.0)],
    "hot": [HotWords({"cab": 3.0, "abba cab": 5.0, "b": -2.0})],
    "closed": [ClosedList(["cab a", "abba", "a cab", "aa"])],
    "together": [LetterModel(LETTERS, 0.4, 0.2), WordModel(WORDS, 0.3, 0.1), HotWords({"bac": 4.0}), ClosedList(TEXTS)],
}


@pytest.mark.parametrize("kind", MACHINES)
@pytest.mark.parametrize("settings", [BeamSettings(4, 5.0, -3.0), BeamSettings(16, 14.0, -6.0)])
def test_equal_to_the_slow_one(kind: str, settings: BeamSettings) -> None:
    for seed in range(6):
        log_probs_TV = random_log_probs(14, seed)
        fast = found_by_beam(log_probs_TV, MACHINES[kind], settings)
        slow = found_slowly(log_probs_TV, MACHINES[kind], settings)
        assert fast.keys() == slow.keys()
        assert all(fast[p] == pytest.approx(slow[p], abs=1e-9) for p in fast)
        assert list(fast) == sorted(slow, key=slow.__getitem__, reverse=True)


def test_equal_to_all_paths() -> None:
    """Unpruned, a text's probability is the sum over every path of tokens that collapses to it."""
    log_probs_TV = random_log_probs(4, 1)
    sums: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(len(TOKENS)), repeat=4):
        text = tuple(v for v, before in zip(path, (0, *path), strict=False) if v not in (0, before))
        score = sum(log_probs_TV[t, v] for t, v in enumerate(path))
        sums[text] = add(sums.get(text, -math.inf), score)
    found = found_by_beam(log_probs_TV, [], BeamSettings(10_000, 1000.0, -1000.0))
    assert found.keys() == sums.keys()
    assert all(found[text] == pytest.approx(sums[text], abs=1e-9) for text in sums)


def test_one_number_by_hand() -> None:
    """Two frames, "a" 0.6 then 0.5: said by a a, a _ and _ a."""
    probs = np.full((2, len(TOKENS)), 1e-9)
    probs[0, [0, 2]], probs[1, [0, 2]] = (0.4, 0.6), (0.5, 0.5)
    found = found_by_beam(np.log(probs), [], BeamSettings())
    assert math.exp(found[(2,)]) == pytest.approx(0.6 * 0.5 + 0.6 * 0.5 + 0.4 * 0.5)
    assert math.exp(found[()]) == pytest.approx(0.4 * 0.5)


def test_a_prefix_that_comes_back_is_itself() -> None:
    """A prefix dropped while its children stayed gives them its paths when it returns, and stands in the beam once."""
    for seed in range(40):
        log_probs_TV = random_log_probs(25, seed, 1.0)
        settings = BeamSettings(3, 30.0, -20.0)
        fast = found_by_beam(log_probs_TV, [], settings)
        assert fast == pytest.approx(found_slowly(log_probs_TV, [], settings), abs=1e-9)


def test_a_pause_parts_equal_letters() -> None:
    said = np.log(np.array([[0.01, 0.01, 0.96, 0.01, 0.01]]))
    beam = Beam(CachedAutomaton(TokenAutomaton(TOKENS, []), len(TOKENS)), len(TOKENS))
    beam.frames(said)
    beam.pause()
    beam.frames(said)
    assert beam.best()[0].tokens == (2, 2)
    beam.begin()
    beam.frames(said)
    beam.frames(said)
    assert beam.best()[0].tokens == (2,)


def test_pieces_are_spelled() -> None:
    """Tokens of several letters, their space in front, score as their letters do."""
    pieces = Tokens(["<blank>", "▁a", "▁cab", "ba", "b", "a"])
    automaton = TokenAutomaton(pieces, [LetterModel(LETTERS, 1.0, 0.0)])
    score, state = automaton.arc(automaton.start, 2)
    more, state = automaton.arc(state, 1)
    ids = [LETTERS.id(letter) for letter in "cab|a"]
    assert score + more + automaton.final(state) == pytest.approx(sum(LETTERS.log_probs(ids)))
