"""CTC prefix beam search: the likeliest texts, all their paths counted, under an automaton that scores texts.

T frames, V tokens. A frame has two or three likely tokens and the beam some ten prefixes worth the name: plain numbers in a
loop, since arrays that small cost more to call than to compute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lalia.decoding.automata import Walk

NEVER = -math.inf


@dataclass(frozen=True)
class BeamSettings:
    """How widely is searched: what is kept in each frame. Scores are natural logarithms."""

    beam: int = 16
    """How many prefixes are kept."""
    width: float = 12.0
    """Prefixes worse than the best by more than this are dropped."""
    token_floor: float = -5.0
    """Tokens less likely than this in a frame are not tried in it."""
    blank_skip: float = 0.999
    """Frames where the blank is at least as likely as this count as one blank that is certain."""


@dataclass(frozen=True)
class Path:
    """A text that was found: its tokens, their score with and without the automaton's part."""

    tokens: tuple[int, ...]
    score: float
    acoustic: float


# A prefix in the beam: its score and number, that of the prefix it grew from, its last token, the automaton's state and
# score, and the log probabilities of its paths that end in a blank, that end in a letter, and of both.
_Entry = tuple[float, int, int, int, int, float, float, float, float]


class Beam:
    """The search over one utterance, fed frames as they come: ``begin``, then ``frames`` any number of times, then ``best``.

    Hannun et al. 2014 (algorithm 1), with the automaton's score added whenever a prefix grows. A prefix's probability is
    kept in two parts, of the paths that end in a blank and of those that do not (Graves 2012, 7.5.3).
    """

    def __init__(self, walk: Walk, tokens: int, settings: BeamSettings | None = None) -> None:
        self._walk = walk
        self._V = tokens
        self.settings = settings or BeamSettings()
        self.begin()

    def begin(self) -> None:
        """Forget the utterance before."""
        self._parents = [-1]
        self._lasts = [-1]
        self._numbers: dict[int, int] = {}
        self._beam: list[_Entry] = [(0.0, 0, -1, -1, self._walk.begin(), 0.0, 0.0, NEVER, 0.0)]

    def pause(self) -> None:
        """A blank that is certain: every path ends in it."""
        self._beam = [(*entry[:6], entry[8], NEVER, entry[8]) for entry in self._beam]

    def frames(self, log_probs_TV: np.ndarray) -> None:
        """Search on through frames none of which is passed over as a blank."""
        likely_TV = log_probs_TV >= self.settings.token_floor
        likely_TV[:, 0] = False
        frames, tokens = np.nonzero(likely_TV)
        cuts = np.searchsorted(frames, np.arange(len(log_probs_TV) + 1)).tolist()
        scores = log_probs_TV[frames, tokens].tolist()
        tokens = tokens.tolist()
        for t, blank in enumerate(log_probs_TV[:, 0].tolist()):
            here = slice(cuts[t], cuts[t + 1])
            self._frame(blank, dict(zip(tokens[here], scores[here], strict=True)))

    def _frame(self, blank: float, likely: dict[int, float]) -> None:
        """One frame: every prefix stays, by a blank or its last token again, and grows by the likely tokens."""
        V, width, arc = self._V, self.settings.width, self._walk.arc
        before = self._beam
        stayed: list[_Entry] = []
        merged: set[int] = set()  # prefixes that stay, as what they would grow from
        places = {entry[1]: entry for entry in before}
        top = NEVER
        for _, number, parent, last, state, text, _, letter, both in before:
            repeat = NEVER
            if last in likely:
                score = likely[last]
                repeat = letter + score
                if parent in places:
                    merged.add(parent * V + last)
                    from_ = places[parent]
                    # A prefix that ends in the same token grows only by paths with a blank between the two.
                    repeat = _add(repeat, (from_[6] if from_[3] == last else from_[8]) + score)
            rest = both + blank
            total = _add(rest, repeat)
            if total + text > top:
                top = total + text
            stayed.append((total + text, number, parent, last, state, text, rest, repeat, total))
        grown: list[tuple[float, float, _Entry, int]] = []
        by_score = sorted(likely.items(), key=lambda pair: -pair[1])
        for entry in before:
            base, number, last = entry[0], entry[1], entry[3]
            for token, score in by_score:
                if base + score < top - width:
                    break
                more = (entry[6] if token == last else entry[8]) + score
                hope = more + entry[5]
                if hope >= top - width and number * V + token not in merged:
                    if hope > top:
                        top = hope
                    grown.append((hope, more, entry, token))
        best = max(entry[0] for entry in stayed)
        found: list[tuple[float, float, _Entry, int, int]] = []
        for hope, more, entry, token in grown:
            if hope >= top - width:
                score, state = arc(entry[4], token)
                if hope + score > best:
                    best = hope + score
                found.append((hope + score, more, entry, token, state))
        after = [entry for entry in stayed if entry[0] >= best - width]
        room = self.settings.beam
        kept = [new for new in found if new[0] >= best - width and new[0] > NEVER]
        if len(after) + len(kept) > room:
            cut = sorted([*(entry[0] for entry in after), *(new[0] for new in kept)], reverse=True)[room - 1]
            after = [entry for entry in after if entry[0] >= cut]
            kept = [new for new in kept if new[0] >= cut]
        for total, more, entry, token, state in kept:
            number = self._number(entry[1], token)
            after.append((total, number, entry[1], token, state, total - more, NEVER, more, more))
        self._beam = after

    def _number(self, parent: int, token: int) -> int:
        """The number of the prefix ``parent`` and ``token``, the same one whenever it comes back."""
        number = self._numbers.setdefault(parent * self._V + token, len(self._parents))
        if number == len(self._parents):
            self._parents.append(parent)
            self._lasts.append(token)
        return number

    def best(self) -> list[Path]:
        """The texts in the beam that may end here, the best first. Empty where none may."""
        found = [
            Path(self._tokens(number), total + self._walk.final(state), both)
            for total, number, _, _, state, _, _, _, both in self._beam
        ]
        return sorted((path for path in found if path.score > NEVER), key=lambda path: -path.score)

    def _tokens(self, number: int) -> tuple[int, ...]:
        found = []
        while number:
            found.append(self._lasts[number])
            number = self._parents[number]
        return tuple(reversed(found))


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))
