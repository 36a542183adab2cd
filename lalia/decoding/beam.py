"""CTC prefix beam search with an automaton's scores, and exact search over a short closed list of phrases.

T frames, V tokens, N nodes of the phrase tree. A frame has two or three likely tokens and the beam about ten useful prefixes:
for so few, a loop over Python numbers is faster than NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lalia.text.tokens import Tokens, token_texts
from lalia.text.writing_system import WritingSystem

if TYPE_CHECKING:  # automata import the language models, which greedy decoding does not need
    from lalia.decoding.automata import Automaton, CachedAutomaton

# --- CTC prefix beam search ------------------------------------------------------------------------------

NEVER = -math.inf


@dataclass(frozen=True)
class BeamSettings:
    """The beam's size and pruning. Scores are natural logarithms."""

    beam: int = 16
    """prefixes kept after each frame"""
    width: float = 12.0
    """prefixes that are worse than the best by more than this are dropped"""
    token_floor: float = -5.0
    """tokens with a lower log-probability are not tried in a frame"""
    blank_skip: float = 0.999
    """consecutive frames whose blank has at least this probability count as one certain blank"""


@dataclass(frozen=True)
class Hypothesis:
    """A decoded text: its tokens, and their score with the automaton (``score``) and without it (``acoustic``)."""

    tokens: tuple[int, ...]
    score: float
    acoustic: float


# A prefix in the beam: score, number, number of its parent, last token, the automaton's state and score, and the log
# probabilities of its paths that end in a blank, that end in a token, and of both.
_Entry = tuple[float, int, int, int, int, float, float, float, float]


class Prefixes:
    """The texts of a beam search, numbered; each is another one and a token. 0 is the empty text."""

    def __init__(self, tokens: int) -> None:
        self._V = tokens
        self._parents = [-1]
        self._lasts = [-1]
        self._numbers: dict[int, int] = {}

    def extend(self, parent: int, token: int) -> int:
        """The number of the text ``parent`` extended by ``token``."""
        number = self._numbers.setdefault(parent * self._V + token, len(self._parents))
        if number == len(self._parents):
            self._parents.append(parent)
            self._lasts.append(token)
        return number

    def tokens(self, number: int) -> tuple[int, ...]:
        """The tokens of a text."""
        found = []
        while number:
            found.append(self._lasts[number])
            number = self._parents[number]
        return tuple(reversed(found))


class Beam:
    """Prefix beam search over one utterance: ``begin``, then ``frames`` any number of times, then ``best``.

    Hannun et al. 2014 (algorithm 1), with the automaton's score added when a prefix is extended. A prefix's probability has
    two parts: paths that end in a blank and paths that do not (Graves 2012, 7.5.3).
    """

    def __init__(self, automaton: CachedAutomaton, tokens: int, settings: BeamSettings | None = None) -> None:
        self._automaton = automaton
        self._V = tokens
        self.settings = settings or BeamSettings()
        self.begin()

    def begin(self) -> None:
        """Start a new utterance."""
        self._prefixes = Prefixes(self._V)
        self._beam: list[_Entry] = [(0.0, 0, -1, -1, self._automaton.begin(), 0.0, 0.0, NEVER, 0.0)]

    def pause(self) -> None:
        """Process a certain blank: every path ends in it."""
        self._beam = [(*entry[:6], entry[8], NEVER, entry[8]) for entry in self._beam]

    def frames(self, log_probs_TV: np.ndarray) -> None:
        """Process frames (T, V) of natural log-probabilities; certain blanks go to ``pause`` instead."""
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
        """One frame: each prefix stays (a blank, or its last token repeated) and is extended by the likely tokens."""
        V, width, arc = self._V, self.settings.width, self._automaton.arc
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
                    # A token is doubled only by paths with a blank between the two.
                    repeat = log_add(repeat, (from_[6] if from_[3] == last else from_[8]) + score)
            rest = both + blank
            total = log_add(rest, repeat)
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
                bound = more + entry[5]  # the score before the automaton's for this token
                if bound >= top - width and number * V + token not in merged:
                    if bound > top:
                        top = bound
                    grown.append((bound, more, entry, token))
        best = max(entry[0] for entry in stayed)
        found: list[tuple[float, float, _Entry, int, int]] = []
        for bound, more, entry, token in grown:
            if bound >= top - width:
                score, state = arc(entry[4], token)
                if bound + score > best:
                    best = bound + score
                found.append((bound + score, more, entry, token, state))
        after = [entry for entry in stayed if entry[0] >= best - width]
        room = self.settings.beam
        kept = [new for new in found if new[0] >= best - width and new[0] > NEVER]
        if len(after) + len(kept) > room:
            cut = sorted([*(entry[0] for entry in after), *(new[0] for new in kept)], reverse=True)[room - 1]
            after = [entry for entry in after if entry[0] >= cut]
            kept = [new for new in kept if new[0] >= cut]
        for total, more, entry, token, state in kept:
            number = self._prefixes.extend(entry[1], token)
            after.append((total, number, entry[1], token, state, total - more, NEVER, more, more))
        self._beam = after

    def best(self) -> list[Hypothesis]:
        """The texts in the beam that may end here, the best first; empty if none may."""
        found = [
            Hypothesis(self._prefixes.tokens(number), total + self._automaton.final(state), both)
            for total, number, _, _, state, _, _, _, both in self._beam
        ]
        return sorted((path for path in found if path.score > NEVER), key=lambda path: -path.score)


def log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))"""
    if a < b:
        a, b = b, a
    return a if b == NEVER else a + math.log1p(math.exp(b - a))


# --- Exact search over a closed list of phrases ----------------------------------------------------------

MOST_NODES = 20_000
"""For a larger tree (some thousand phrases) beam search is faster."""
_BEST = 16


class PhraseTree:
    """A prefix tree of phrases as tokens, with each phrase's score by the ``automata`` (language model, hot words)."""

    def __init__(
        self,
        phrases: Sequence[str],
        tokens: Tokens,
        automata: Sequence[Automaton],
        writing: WritingSystem | None = None,
    ) -> None:
        self.tokens: list[tuple[int, ...]] = [
            (),
            *(tuple(tokens.encode(text)) for text in sorted(set(phrases)) if text),
        ]
        children: dict[tuple[int, int], int] = {}
        parents, lasts, self.ends = [0], [-1], [0]
        for phrase in self.tokens[1:]:
            node = 0
            for token in phrase:
                child = children.setdefault((node, token), len(parents))
                if child == len(parents):
                    parents.append(node)
                    lasts.append(token)
                node = child
            self.ends.append(node)
        self.parents_N, self.lasts_N = np.array(parents), np.array(lasts)
        self.boundary = tokens.boundary
        writing = writing or WritingSystem()
        inside = [node for node, token in enumerate(lasts) if node and not writing.part(tokens.symbols[token]).spaced]
        self.edges = np.array(sorted({0, *self.ends, *inside}))
        """the nodes at which a word boundary has no effect: before and after a phrase, and where nobody writes spaces"""
        spelled = token_texts(tokens)
        self.text_scores = np.array(
            [_text_score("".join(spelled[t] for t in phrase).strip(), automata) for phrase in self.tokens]
        )

    def __len__(self) -> int:
        return len(self.parents_N)


class ClosedSearch:
    """Exact search over one utterance, with the interface of ``Beam``: the forward variables of CTC (Graves 2012, 7.3) for all
    nodes of the tree at once."""

    def __init__(self, tree: PhraseTree) -> None:
        self._tree = tree
        # A repeated token needs a blank between the two.
        self._doubled_N = tree.lasts_N[tree.parents_N] == tree.lasts_N
        # A boundary after another one has no effect either.
        self._boundaries = (
            np.flatnonzero(tree.lasts_N == tree.boundary) if tree.boundary is not None else np.zeros(0, int)
        )
        self.begin()

    def begin(self) -> None:
        """Start a new utterance."""
        self._blank_N = np.full(len(self._tree), NEVER)  # log probability of the paths to each node that end in a blank
        self._letter_N = np.full(len(self._tree), NEVER)  # and of those that end in its token
        self._blank_N[0] = 0.0

    def pause(self) -> None:
        """Process a certain blank: every path ends in it."""
        self._blank_N = np.logaddexp(self._blank_N, self._letter_N)
        self._letter_N = np.full(len(self._tree), NEVER)

    def frames(self, log_probs_TV: np.ndarray) -> None:
        """Process frames (T, V) of natural log-probabilities."""
        parents_N, lasts_N = self._tree.parents_N, self._tree.lasts_N
        boundary, edges = self._tree.boundary, self._tree.edges
        for log_probs_V in log_probs_TV.astype(np.float64):
            both_N = np.logaddexp(self._blank_N, self._letter_N)
            come_N = np.where(self._doubled_N, self._blank_N[parents_N], both_N[parents_N])
            self._letter_N = np.logaddexp(self._letter_N, come_N) + log_probs_V[lasts_N]
            self._letter_N[0] = NEVER  # the root has no token
            rest_N = both_N + log_probs_V[0]
            if boundary is not None:
                rest_N[edges] = np.logaddexp(rest_N[edges], both_N[edges] + log_probs_V[boundary])
                again = self._blank_N[self._boundaries] + log_probs_V[boundary]
                rest_N[self._boundaries] = np.logaddexp(rest_N[self._boundaries], again)
            self._blank_N = rest_N

    def best(self) -> list[Hypothesis]:
        """The most likely phrases, the best first; the empty one is one of them."""
        acoustic = np.logaddexp(self._blank_N, self._letter_N)[self._tree.ends]
        scores = acoustic + self._tree.text_scores
        order = np.argsort(-scores, kind="stable")[:_BEST].tolist()
        return [
            Hypothesis(self._tree.tokens[i], float(scores[i]), float(acoustic[i])) for i in order if scores[i] > NEVER
        ]


def _text_score(text: str, automata: Sequence[Automaton]) -> float:
    """The sum of the ``automata``'s scores of a text and its end."""
    scores = []
    for automaton in automata:
        state = automaton.start
        for letter in text:
            score, state = automaton.letter(state, letter)
            scores.append(score)
        scores.append(automaton.end(state))
    return math.fsum(scores)
