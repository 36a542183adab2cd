"""Labels: which labelled clips a run learns from, and the alphabet they are written in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

from finetune.config import LabelSettings
from lalia.data.mixture import Mixture
from lalia.exits import UserError
from lalia.text.normaliser import Normaliser, NormaliserSettings
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


def make_normaliser(settings: LabelSettings, language: str) -> Normaliser:
    """The normaliser that labels, language-model text and scoring share."""
    return Normaliser(NormaliserSettings(language=language, case=settings.case, punctuation=settings.punctuation))


def make_tokens(mixture: Mixture, rows: np.ndarray, normaliser: Normaliser) -> Tokens:
    """The alphabet of the training labels."""
    return Tokens.from_texts(normaliser(mixture.text(int(row))) for row in rows)


def encoder_of(tokens: Tokens, normaliser: Normaliser) -> Callable[[str], list[int]]:
    """text -> token ids; characters the training labels never had are left out (they can never be right)."""
    known = {symbol for symbol in tokens.symbols[2:]} | {" "}

    def encode(text: str) -> list[int]:
        return tokens.encode("".join(letter for letter in normaliser(text) if letter in known))

    return encode
