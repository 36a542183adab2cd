"""A closed list of phrases, searched without a beam: the CTC probability of each of them, all paths counted, frame by frame.

T frames, V tokens, N nodes of the phrases' tree: what phrases begin with alike is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lalia.decoding.automata import Machine
from lalia.decoding.beam import NEVER, Path
from lalia.text.tokens import Tokens, spellings

MOST_NODES = 20_000
"""A tree larger than this (some thousand phrases) costs more than a beam does."""
_BEST = 16


class PhraseTree:
    """The phrases as tokens, which begin alike from one root: what the search walks, and what each phrase is worth itself.

    A phrase's worth is what the ``machines`` (a language model, hot words) score its text.
    """

    def __init__(self, phrases: Sequence[str], tokens: Tokens, machines: Sequence[Machine]) -> None:
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
        spelled = spellings(tokens)
        self.worth = np.array([_worth("".join(spelled[t] for t in phrase).strip(), machines) for phrase in self.tokens])

    def __len__(self) -> int:
        return len(self.parents_N)


class ClosedSearch:
    """The search over one utterance, as ``Beam`` does it: ``begin``, then ``frames`` any number of times, then ``best``.

    Graves 2012, 7.3 (the forward variables), for every node of the tree at once.
    """

    def __init__(self, tree: PhraseTree) -> None:
        self._tree = tree
        # A token behind itself needs a blank between the two.
        self._doubled_N = tree.lasts_N[tree.parents_N] == tree.lasts_N
        # A word boundary in front of a phrase, behind it, or behind another boundary counts for nothing.
        self._edges = np.array(sorted({0, *tree.ends}))
        self._boundaries = (
            np.flatnonzero(tree.lasts_N == tree.boundary) if tree.boundary is not None else np.zeros(0, int)
        )
        self.begin()

    def begin(self) -> None:
        """Forget the utterance before."""
        self._blank_N = np.full(len(self._tree), NEVER)  # log probability of the paths to each node that end in a blank
        self._letter_N = np.full(len(self._tree), NEVER)  # and of those that end in its token
        self._blank_N[0] = 0.0

    def pause(self) -> None:
        """A blank that is certain: every path ends in it."""
        self._blank_N = np.logaddexp(self._blank_N, self._letter_N)
        self._letter_N = np.full(len(self._tree), NEVER)

    def frames(self, log_probs_TV: np.ndarray) -> None:
        """Search on through frames."""
        parents_N, lasts_N = self._tree.parents_N, self._tree.lasts_N
        boundary, edges = self._tree.boundary, self._edges
        for log_probs_V in log_probs_TV.astype(np.float64):
            both_N = np.logaddexp(self._blank_N, self._letter_N)
            come_N = np.where(self._doubled_N, self._blank_N[parents_N], both_N[parents_N])
            self._letter_N = np.logaddexp(self._letter_N, come_N) + log_probs_V[lasts_N]
            self._letter_N[0] = NEVER  # the root is no token's
            rest_N = both_N + log_probs_V[0]
            if boundary is not None:
                rest_N[edges] = np.logaddexp(rest_N[edges], both_N[edges] + log_probs_V[boundary])
                again = self._blank_N[self._boundaries] + log_probs_V[boundary]
                rest_N[self._boundaries] = np.logaddexp(rest_N[self._boundaries], again)
            self._blank_N = rest_N

    def best(self) -> list[Path]:
        """The likeliest phrases, the best first, the empty one among them."""
        acoustic = np.logaddexp(self._blank_N, self._letter_N)[self._tree.ends]
        scores = acoustic + self._tree.worth
        order = np.argsort(-scores, kind="stable")[:_BEST].tolist()
        return [Path(self._tree.tokens[i], float(scores[i]), float(acoustic[i])) for i in order if scores[i] > NEVER]


def _worth(text: str, machines: Sequence[Machine]) -> float:
    """What ``machines`` score a text, its end with it."""
    scores = []
    for machine in machines:
        state = machine.start
        for letter in text:
            score, state = machine.letter(state, letter)
            scores.append(score)
        scores.append(machine.end(state))
    return math.fsum(scores)
