"""The texts that a beam ended with, weighed again by what is too slow to lead the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lalia.decoding.beam import Path
from lalia.decoding.lstm import Lstm
from lalia.text.tokens import Tokens, spellings

Rescore = Callable[[list[Path]], list[Path]]
"""Takes the texts that an utterance's beam ended with, the best first, and gives them back so, with other scores."""


class Rescorer:
    """Adds ``weight`` times an LSTM's log probability, and ``bonus`` for every letter, to the score of each path."""

    def __init__(self, lstm: Lstm, tokens: Tokens, weight: float, bonus: float) -> None:
        self._lstm = lstm
        self._spellings = spellings(tokens)
        self.weight, self.bonus = weight, bonus

    def __call__(self, paths: list[Path]) -> list[Path]:
        """The same paths with their new scores, the best first."""
        if not self.weight or len(paths) < 2:
            return paths
        log_probs_N, letters_N = self.weigh(paths)
        added_N = self.weight * log_probs_N + self.bonus * letters_N
        found = [replace(path, score=path.score + more) for path, more in zip(paths, added_N.tolist(), strict=True)]
        return sorted(found, key=lambda path: -path.score)

    def weigh(self, paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
        """The natural log probability of each path's text (N,), and how many letters it has (N,), spaces counted."""
        texts = [" ".join("".join(self._spellings[token] for token in path.tokens).split()) for path in paths]
        return self._lstm.log_probs([self._lstm.ids(text) for text in texts]), np.array([len(text) for text in texts])
