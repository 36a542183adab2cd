"""Labels: which labelled clips a run learns from, as what tokens, and what it may not see."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from lalia.data.mixture import Mixture
from lalia.exits import UserError
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens


def choose(mixture: Mixture, rows: np.ndarray, minutes: float) -> np.ndarray:
    """As many of ``rows`` as ``minutes`` hold, in the order of a hash of their ids: the same clips on every machine, and a
    smaller budget always inside a larger one. 0 minutes = all rows."""
    if minutes <= 0:
        return rows
    order = sorted(rows.tolist(), key=lambda row: hashlib.sha256(mixture.id(row).encode()).digest())
    durations = mixture.durations_s[order].cumsum()
    if durations[-1] < 60 * minutes * 0.999:
        raise UserError(
            f"labels.minutes {minutes:g}: the corpus has {durations[-1] / 60:.1f} minutes of labelled training audio; "
            "ask for fewer, or 0 for all"
        )
    count = max(1, int(np.searchsorted(durations, 60 * minutes, side="right")))
    return np.array(sorted(order[:count]), np.int64)


def digest(mixture: Mixture, rows: np.ndarray) -> str:
    """``sha256:…`` of the ids of ``rows``: whether two runs learned from the same clips."""
    return "sha256:" + hashlib.sha256("\n".join(sorted(mixture.id(int(row)) for row in rows)).encode()).hexdigest()


def encoder_of(tokens: Tokens, normaliser: Normaliser) -> Callable[[str], list[int]]:
    """text -> token ids; characters the training labels never had are left out (they can never be right)."""

    def encode(text: str) -> list[int]:
        return tokens.encode(normaliser(text), skip_unknown=True)

    return encode


class Revealed:
    """A mixture whose texts are shown for ``rows`` alone; every other clip reads as unlabelled."""

    def __init__(self, mixture: Mixture, rows: np.ndarray) -> None:
        self._mixture = mixture
        self._rows = frozenset(rows.tolist())

    def text(self, row: int) -> str:
        return self._mixture.text(row) if row in self._rows else ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # while a worker process unpickles this, the mixture is not there yet
            raise AttributeError(name)
        return getattr(self._mixture, name)
