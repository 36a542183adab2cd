"""A language model: a folder with n-grams of letters or of words, made from text for the students of one language."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lalia.cards import content_hash, read_card, write_card
from lalia.decoding.automata import Machine, spell, spellings
from lalia.decoding.kneser_ney import estimate
from lalia.decoding.ngrams import SPECIALS, UNKNOWN, Ngrams
from lalia.decoding.words import LetterModel, WordModel
from lalia.exits import UserError
from lalia.text.normaliser import FILE_NAME as NORMALISER
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import BOUNDARY, Tokens

KIND = "language model"
Unit = Literal["letter", "word"]
ORDERS: dict[str, int] = {"letter": 6, "word": 3}
WEIGHT, BONUS = 0.5, 1.0
"""How much the model counts against the sound, and what each letter or word is given, until they are tuned."""
FOREIGN = 0.02
"""The share of a model's letters that a student may have no token for."""


class LanguageModel:
    """N-grams, the normaliser their text went through, and the card. ``LanguageModel.load(folder)``"""

    def __init__(self, folder: Path, ngrams: Ngrams, normaliser: Normaliser, card: dict[str, Any]) -> None:
        self.folder = folder
        self.ngrams = ngrams
        self.normaliser = normaliser
        self.card = card
        self.unit: Unit = card["unit"]

    @classmethod
    def load(cls, folder: Path | str) -> LanguageModel:
        """The model in ``folder``; a ``UserError`` where it is missing, damaged or something else."""
        folder = Path(folder)
        card = read_card(folder, KIND)
        if content_hash(folder) != card.get("id"):
            raise UserError(
                f"{folder}: is not what its card was written for (damaged or cut short); copy or make it again"
            )
        return cls(folder, Ngrams.load(folder, int(card["order"])), Normaliser.from_json(folder / NORMALISER), card)

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> float:
        """Per symbol of ``sentences`` as ``symbols_of`` makes them, their ends counted."""
        return self.ngrams.perplexity([[self.ngrams.id(symbol) for symbol in sentence] for sentence in sentences])

    def check(self, tokens: Tokens, normaliser: Normaliser) -> None:
        """Raise a ``UserError`` where a student with these tokens cannot write what the model expects."""
        letters = {letter for spelling in spellings(tokens) for letter in spelling}
        foreign = {letter: share for letter, share in self.card["letters"].items() if letter not in letters}
        if sum(foreign.values()) > FOREIGN:
            most = ", ".join(sorted(foreign, key=foreign.__getitem__, reverse=True)[:8])
            known = "".join(sorted(letters - {" "}))[:40]
            raise UserError(
                f"{self.folder}: is of another alphabet: the student has no token for {most}"
                f" ({100 * sum(foreign.values()):.0f} % of the text), it writes {known};"
                " make one from text of its language: lalia lm TEXT --like STUDENT --out LM"
            )
        if self.unit == "word" and " " not in letters:
            raise UserError(f"{self.folder}: is of words, the student writes none apart; make it with --unit letter")
        ours, theirs = vars(self.normaliser.settings), vars(normaliser.settings)
        differing = [name for name in ours if name != "language" and ours[name] != theirs[name]]
        if differing:
            told = ", ".join(f"{name} {ours[name]!r} and not {theirs[name]!r}" for name in differing)
            raise UserError(
                f"{self.folder}: its text was normalised otherwise than the student's labels ({told});"
                " make it again with --like STUDENT"
            )

    def machine(self, weight: float, bonus: float) -> Machine:
        """The model as scores of texts: ``weight`` times its log probability, and ``bonus`` for every letter or word."""
        return (LetterModel if self.unit == "letter" else WordModel)(self.ngrams, weight, bonus)

    def tuned(self, student: str) -> dict[str, Any]:
        """What tuning found for the student of that id: ``weight``, ``bonus``, ``confidence``; else untuned ones."""
        found: dict[str, Any] = self.card.get("tuned", {}).get(student, {})
        return {"weight": WEIGHT, "bonus": BONUS, "confidence": None, **found}

    def store_tuned(self, student: str, found: dict[str, Any]) -> None:
        """Keep what tuning found for a student in the card."""
        facts = {key: value for key, value in self.card.items() if key not in ("kind", "id", "made_by", "parents")}
        facts["tuned"] = {**facts.get("tuned", {}), student: found}
        self.card = write_card(self.folder, KIND, self.card["parents"], **facts)


def symbols_of(text: str, unit: Unit, tokens: Tokens) -> tuple[list[str], int]:
    """A normalised text as what n-grams are made of; words the student cannot write are ``<unk>`` each, and counted."""
    symbols: list[str] = []
    strange = 0
    for word in text.split(" "):
        if unit == "letter" and symbols:
            symbols.append(BOUNDARY)
        try:
            spelled = spell(word, tokens)
        except UserError:
            strange += 1
            symbols.append(SPECIALS[UNKNOWN])
            continue
        symbols += [spelled] if unit == "word" else list(spelled)
    return symbols, strange


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
    if out.exists():
        read_card(out, KIND)
    ngrams = text if isinstance(text, Ngrams) else estimate(text, order)
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        ngrams.save(made)
        normaliser.to_json(made / NORMALISER)
        counts = {"ngrams": [len(level.symbols) for level in ngrams.levels], "letters": _letters(ngrams, unit)}
        write_card(made, KIND, parents, unit=unit, order=ngrams.order, **counts, **facts)
        made.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return LanguageModel.load(out)


def _letters(ngrams: Ngrams, unit: Unit) -> dict[str, float]:
    """How much of the text each letter is, by the 1-grams: what an alphabet is compared by."""
    found: Counter[str] = Counter()
    probs = np.exp(ngrams.unigrams())
    for symbol, prob in zip(ngrams.symbols[len(SPECIALS) :], probs[len(SPECIALS) :].tolist(), strict=True):
        for letter in symbol if unit == "word" else symbol.replace(BOUNDARY, " "):
            found[letter] += prob
    total = math.fsum(found.values()) or 1.0
    return {letter: round(share / total, 6) for letter, share in found.most_common()}
