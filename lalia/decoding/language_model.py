"""A language model: a folder with n-grams of letters or of words, made from text for the students of one language."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lalia.decoding.kneser_ney import estimate
from lalia.decoding.model_folder import NGRAMS, ModelFolder, open_folder, require_free, write_folder
from lalia.decoding.ngrams import SPECIALS, UNKNOWN, Ngrams
from lalia.exits import UserError
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import BOUNDARY, Tokens, spell

Unit = Literal["letter", "word"]
ORDERS: dict[str, int] = {"letter": 6, "word": 3}
WEIGHT, BONUS = 0.5, 1.0
"""How much the model counts against the sound, and what each letter or word is given, until they are tuned."""


class LanguageModel(ModelFolder):
    """N-grams, the normaliser their text went through, and the card. ``LanguageModel.load(folder)``"""

    def __init__(self, folder: Path, ngrams: Ngrams, normaliser: Normaliser, card: dict[str, Any]) -> None:
        super().__init__(folder, normaliser, card)
        self.ngrams = ngrams
        self.unit: Unit = card["unit"]

    @classmethod
    def load(cls, folder: Path | str) -> LanguageModel:
        """The model in ``folder``; a ``UserError`` where it is missing, damaged or something else."""
        folder = Path(folder)
        normaliser, card = open_folder(folder, NGRAMS)
        return cls(folder, Ngrams.load(folder, int(card["order"])), normaliser, card)

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> float:
        """Per symbol of ``sentences`` as ``symbols_of`` makes them, their ends counted."""
        return self.ngrams.perplexity([[self.ngrams.id(symbol) for symbol in sentence] for sentence in sentences])

    def tuned(self, student: str) -> dict[str, Any]:
        """What tuning found for the student of that id: ``weight``, ``bonus``, ``confidence``; else untuned ones."""
        found: dict[str, Any] = self.card.get("tuned", {}).get(student, {})
        return {"weight": WEIGHT, "bonus": BONUS, "confidence": None, **found}


def symbols_of(text: str, unit: Unit, tokens: Tokens) -> tuple[list[str], int]:
    """A normalised text as what n-grams are made of; words the student cannot write are ``<unk>`` each, and counted."""
    symbols: list[str] = []
    strange = 0
    for word in text.split(" "):
        if unit == "letter" and symbols:
            symbols.append(BOUNDARY)
        spelled = _spelled(word, tokens)
        if spelled is None:
            strange += 1
            symbols.append(SPECIALS[UNKNOWN])
            continue
        symbols += [spelled] if unit == "word" else list(spelled)
    return symbols, strange


@lru_cache(maxsize=1 << 16)
def _spelled(word: str, tokens: Tokens) -> str | None:
    """A word in letters, None where the student cannot write it; kept, since a text says most of its words again and again."""
    try:
        return spell(word, tokens)
    except UserError:
        return None


def make(
    out: Path,
    text: Sequence[Sequence[str]] | Ngrams,
    unit: Unit,
    order: int,
    normaliser: Normaliser,
    parents: list[dict[str, Any]],
    **facts: Any,
) -> LanguageModel:
    """Write the model of ``text`` (sentences of symbols), or n-grams that are there already, as the folder ``out``.

    It appears at once when it is whole. A ``UserError`` where ``out`` holds something else than a language model.
    """
    require_free(out)
    ngrams = text if isinstance(text, Ngrams) else estimate(text, order)
    counts = {"ngrams": [len(level.symbols) for level in ngrams.levels], "letters": _letters(ngrams, unit)}
    described: Mapping[str, Any] = {"form": NGRAMS, "unit": unit, "order": ngrams.order, **counts, **facts}
    write_folder(out, ngrams.save, normaliser, parents, described)
    return LanguageModel.load(out)


def _letters(ngrams: Ngrams, unit: Unit) -> dict[str, float]:
    """How much of the text each letter is, by the 1-grams: what an alphabet is compared by."""
    found: Counter[str] = Counter()
    probs = np.exp(ngrams.unigrams())
    for symbol, prob in zip(ngrams.symbols[len(SPECIALS) :], probs[len(SPECIALS) :].tolist(), strict=True):
        for letter in symbol if unit == "word" else symbol.replace(BOUNDARY, " "):
            found[letter] += prob
    return shares(found)


def shares(found: Mapping[str, float]) -> dict[str, float]:
    """Counts of letters as shares of their sum, the commonest first."""
    total = math.fsum(found.values()) or 1.0
    return {letter: round(share / total, 6) for letter, share in sorted(found.items(), key=lambda pair: -pair[1])}
