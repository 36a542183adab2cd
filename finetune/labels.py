"""Labels: how they are written down, and the alphabet that follows from them."""

from __future__ import annotations

import numpy as np

from finetune.config import LabelSettings
from lalia.data.mixture import Mixture
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import Tokens


def make_normaliser(settings: LabelSettings, language: str) -> Normaliser:
    """The normaliser that labels, language-model text and scoring share."""
    return Normaliser(NormaliserSettings(language=language, case=settings.case, punctuation=settings.punctuation))


def make_tokens(mixture: Mixture, rows: np.ndarray, normaliser: Normaliser) -> Tokens:
    """The alphabet of the training labels."""
    return Tokens.from_texts(normaliser(mixture.text(int(row))) for row in rows)
