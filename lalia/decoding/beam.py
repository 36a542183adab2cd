"""CTC prefix beam search: the likeliest texts, all their paths counted, under an automaton that scores texts.

T frames, V tokens, K prefixes in the beam, C tokens likely enough in a frame, P pairs of prefix and token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lalia.decoding.automata import Walk


@dataclass(frozen=True)
class BeamSettings:
    """How widely is searched: what is kept in each frame. Scores are natural logarithms."""

    beam: int = 16
    """How many prefixes are kept."""
    width: float = 14.0
    """Prefixes worse than the best by more than this are dropped."""
    token_floor: float = -6.0
    """Tokens less likely than this in a frame are not tried in it."""
    blank_skip: float = 0.999
    """Frames where the blank is at least as likely as this count as one blank that is certain."""


@dataclass(frozen=True)
class Path:
    """A text that was found: its tokens, their score with and without the automaton's part."""

    tokens: tuple[int, ...]
    score: float
    acoustic: float


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
        self._known: dict[int, int] = {}
        self._node_K = np.zeros(1, np.int64)
        self._parent_K = np.full(1, -1, np.int64)
        self._last_K = np.full(1, -1, np.int64)
        self._state_K = np.array([self._walk.begin()], np.int64)
        self._text_K = np.zeros(1)
        self._blank_K = np.zeros(1)
        self._letter_K = np.full(1, -np.inf)

    def pause(self) -> None:
        """A blank that is certain: every path ends in it."""
        self._blank_K = np.logaddexp(self._blank_K, self._letter_K)
        self._letter_K = np.full(len(self._blank_K), -np.inf)

    def frames(self, log_probs_TV: np.ndarray) -> None:
        """Search on through frames none of which is passed over as a blank."""
        log_probs_TV = log_probs_TV.astype(np.float64)
        likely_TV = log_probs_TV >= self.settings.token_floor
        likely_TV[:, 0] = False
        # A column behind the last for the empty prefix, whose last token is -1.
        padded_TV = np.full((len(log_probs_TV), self._V + 1), -np.inf)
        padded_TV[:, :-1][likely_TV] = log_probs_TV[likely_TV]
        column_V = np.full(self._V + 1, -1, np.int64)
        frames, tokens = np.nonzero(likely_TV)
        cuts = np.searchsorted(frames, np.arange(len(log_probs_TV) + 1)).tolist()
        for t in range(len(log_probs_TV)):
            self._frame(log_probs_TV[t, 0], padded_TV[t], tokens[cuts[t] : cuts[t + 1]], column_V)

    def _frame(self, blank: float, padded_V: np.ndarray, tokens_C: np.ndarray, column_V: np.ndarray) -> None:
        width = self.settings.width
        total_K = np.logaddexp(self._blank_K, self._letter_K)
        blank_K = total_K + blank
        letter_K = self._letter_K + padded_V[self._last_K]
        pair_K, pair_C = np.zeros((2, 0), np.int64)
        grown_P = np.zeros(0)
        if len(tokens_C):
            # A prefix that ends in the same token grows only from paths with a blank between the two.
            grown_KC = np.where(self._last_K[:, None] == tokens_C, self._blank_K[:, None], total_K[:, None])
            grown_KC += padded_V[tokens_C]
            column_V[tokens_C] = np.arange(len(tokens_C))
            child, parent = np.nonzero(self._parent_K[:, None] == self._node_K)
            column = column_V[self._last_K[child]]
            column_V[tokens_C] = -1
            if (column >= 0).any():
                child, parent, column = child[column >= 0], parent[column >= 0], column[column >= 0]
                letter_K[child] = np.logaddexp(letter_K[child], grown_KC[parent, column])
                grown_KC[parent, column] = -np.inf
            stayed_K = np.logaddexp(blank_K, letter_K) + self._text_K
            hoped_KC = grown_KC + self._text_K[:, None]
            pair_K, pair_C = np.nonzero(hoped_KC >= max(stayed_K.max(), hoped_KC.max()) - width)
            grown_P = grown_KC[pair_K, pair_C]
        else:
            stayed_K = np.logaddexp(blank_K, letter_K) + self._text_K
        if not len(pair_K):
            self._keep(blank_K, letter_K, _best(stayed_K, self.settings.beam, width))
            return
        added_P, state_P = self._walk.follow(self._state_K[pair_K], tokens_C[pair_C])
        text_P = self._text_K[pair_K] + added_P
        kept = _best(np.concatenate([stayed_K, grown_P + text_P]), self.settings.beam, width)
        K = len(stayed_K)
        new = kept[kept >= K] - K
        if not len(new):
            self._keep(blank_K, letter_K, kept)
            return
        parents = self._node_K[pair_K[new]]
        lasts = tokens_C[pair_C[new]]
        nodes = [self._node(p, token) for p, token in zip(parents.tolist(), lasts.tolist(), strict=True)]
        self._keep(blank_K, letter_K, kept[kept < K])
        self._node_K = np.append(self._node_K, nodes)
        self._parent_K = np.append(self._parent_K, parents)
        self._last_K = np.append(self._last_K, lasts)
        self._state_K = np.append(self._state_K, state_P[new])
        self._text_K = np.append(self._text_K, text_P[new])
        self._blank_K = np.append(self._blank_K, np.full(len(new), -np.inf))
        self._letter_K = np.append(self._letter_K, grown_P[new])

    def _keep(self, blank_K: np.ndarray, letter_K: np.ndarray, kept: np.ndarray) -> None:
        """Go on with the prefixes ``kept`` and their new probabilities."""
        if len(kept) == len(blank_K):
            self._blank_K, self._letter_K = blank_K, letter_K
            return
        self._node_K, self._parent_K, self._last_K = self._node_K[kept], self._parent_K[kept], self._last_K[kept]
        self._state_K, self._text_K = self._state_K[kept], self._text_K[kept]
        self._blank_K, self._letter_K = blank_K[kept], letter_K[kept]

    def _node(self, parent: int, token: int) -> int:
        """The number of the prefix ``parent`` and ``token``, the same one whenever it comes back."""
        number = self._known.setdefault(parent * self._V + token, len(self._parents))
        if number == len(self._parents):
            self._parents.append(parent)
            self._lasts.append(token)
        return number

    def best(self) -> list[Path]:
        """The texts in the beam that may end here, the best first. Empty where none may."""
        acoustic_K = np.logaddexp(self._blank_K, self._letter_K)
        score_K = acoustic_K + self._text_K + self._walk.final(self._state_K)
        order = np.argsort(-score_K, kind="stable")
        return [
            Path(self._tokens(int(self._node_K[k])), float(score_K[k]), float(acoustic_K[k]))
            for k in order
            if score_K[k] > -np.inf
        ]

    def _tokens(self, node: int) -> tuple[int, ...]:
        found = []
        while node:
            found.append(self._lasts[node])
            node = self._parents[node]
        return tuple(reversed(found))


def _best(scores: np.ndarray, beam: int, width: float) -> np.ndarray:
    """The places of at most ``beam`` scores, those within ``width`` of the highest, in order of place."""
    kept = np.flatnonzero(scores >= scores.max() - width)
    if len(kept) > beam:
        kept = np.sort(kept[np.argpartition(-scores[kept], beam - 1)[:beam]])
    return kept
