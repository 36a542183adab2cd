"""Labels: how they are written down, and the vocabulary that follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from finetune.config import LabelSettings
from lalia.data.mixture import Mixture
from lalia.exits import UserError
from lalia.text.normaliser import Normaliser, settings_for
from lalia.text.tokens import BLANK, BOUNDARY, Tokens
from lalia.text.vocabulary import choose_vocabulary, missing_letters


def make_normaliser(settings: LabelSettings, language: str) -> Normaliser:
    """The normaliser that labels, language-model text and scoring share: the language's own, under what ``settings`` say."""
    if settings.normaliser:
        return Normaliser.from_json(Path(settings.normaliser))
    said: dict[str, Any] = {"case": settings.case, "punctuation": settings.punctuation, "digits": settings.digits}
    return Normaliser(settings_for(language, **{name: value for name, value in said.items() if value != "auto"}))


def make_tokens(
    mixture: Mixture,
    rows: np.ndarray,
    normaliser: Normaliser,
    settings: LabelSettings | None = None,
    known: Tokens | None = None,
) -> Tokens:
    """The vocabulary of the training labels; where there are ``known`` tokens, the letters alone that those cannot spell."""
    texts = [normaliser(mixture.text(int(row))) for row in rows]
    if not any(texts):
        raise UserError(
            f"all {len(texts)} training labels are empty once they are normalised ({mixture.text(int(rows[0]))!r}); "
            "lalia finetune check CORPUS says what they hold"
        )
    if known is not None:
        return Tokens([BLANK, *[BOUNDARY] * any(" " in text for text in texts), *missing_letters(known, texts)])
    settings = settings or LabelSettings()
    return choose_vocabulary(texts, settings.unit, settings.pieces).tokens


def describe(tokens: Tokens, normaliser: Normaliser) -> str:
    """What labels become, in two lines: the normaliser's settings, and the tokens."""
    return f"labels: {normaliser.settings.describe()}\ntokens: {tokens.describe()}"
