"""A language model's folder: card, normaliser and tuned weights of any model, and n-grams (``LanguageModel``)."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lalia.cards import content_hash, read_card, write_card
from lalia.errors import UserError
from lalia.inputs import identify, wrong_kind
from lalia.lm.ngrams import SPECIALS, UNKNOWN, Ngrams, estimate
from lalia.text.normaliser import FILE_NAME as NORMALISER
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import BOUNDARY, Tokens, spell, token_texts

# --- What every language model's folder has, whatever is counted or learned in it ------------------------

KIND = "language model"
NGRAMS, LSTM = "ngrams", "lstm"
FOREIGN = 0.02
"""The share of a model's letters that a student may have no token for."""
_FORMS = {NGRAMS: "n-grams", LSTM: "lstm"}
"""What ``lalia.inputs`` calls them."""


class ModelFolder:
    """A language model's folder, its normaliser and its card; what is inside is the business of who inherits this."""

    def __init__(self, folder: Path, normaliser: Normaliser, card: dict[str, Any]) -> None:
        self.folder = folder
        self.normaliser = normaliser
        self.card = card

    @property
    def id(self) -> str:
        """The content hash; what tuning found is not in it."""
        return str(self.card["id"])

    def check(self, tokens: Tokens, normaliser: Normaliser) -> None:
        """Raise a ``UserError`` where a student with these tokens cannot write what the model expects."""
        letters = {letter for spelling in token_texts(tokens) for letter in spelling}
        foreign = {letter: share for letter, share in self.card["letters"].items() if letter not in letters}
        if sum(foreign.values()) > FOREIGN:
            most = ", ".join(sorted(foreign, key=foreign.__getitem__, reverse=True)[:8])
            known = "".join(sorted(letters - {" "}))[:40]
            raise UserError(
                f"{self.folder}: is of another alphabet: the student has no token for {most}"
                f" ({100 * sum(foreign.values()):.0f} % of the text), it writes {known};"
                " make one from text of its language: lalia lm TEXT --like STUDENT --out LM"
            )
        if self.card["unit"] == "word" and " " not in letters:
            raise UserError(f"{self.folder}: is of words, the student writes none apart; make it with --unit letter")
        ours, theirs = vars(self.normaliser.settings), vars(normaliser.settings)
        differing = [name for name in ours if name != "language" and ours[name] != theirs[name]]
        if differing:
            told = ", ".join(f"{name} {ours[name]!r} and not {theirs[name]!r}" for name in differing)
            raise UserError(
                f"{self.folder}: its text was normalised otherwise than the student's labels ({told});"
                " make it again with --like STUDENT"
            )

    def store_tuned(self, name: str, found: dict[str, Any]) -> None:
        """Keep what tuning found for ``name`` (a student, or a student with its n-grams) in the card; what it found the time
        before stays beside it as ``previous``."""
        facts = {key: value for key, value in self.card.items() if key not in ("kind", "id", "made_by", "parents")}
        known = facts.get("tuned", {})
        if name in known:
            found = {**found, "previous": {key: value for key, value in known[name].items() if key != "previous"}}
        facts["tuned"] = {**known, name: found}
        self.card = write_card(self.folder, KIND, self.card["parents"], **facts)


def open_folder(folder: Path, form: str) -> tuple[Normaliser, dict[str, Any]]:
    """The normaliser and the card of ``folder``; a ``UserError`` where it is missing, damaged or not of ``form``."""
    if identify(folder).kind != (wanted := _FORMS[form]):
        raise wrong_kind(folder, wanted)
    card = read_card(folder, KIND)
    if content_hash(folder) != card.get("id"):
        raise UserError(f"{folder}: is not what its card was written for (damaged or cut short); copy or make it again")
    return Normaliser.from_json(folder / NORMALISER), card


def require_free(out: Path) -> None:
    """Raise a ``UserError`` where ``out`` holds something else than a language model, which alone may be replaced."""
    if out.is_file():
        raise UserError(f"{out}: is a file, and stays as it is; expected a folder to write the language model into")
    if out.exists():
        read_card(out, KIND)


def write_folder(
    out: Path,
    save: Callable[[Path], None],
    normaliser: Normaliser,
    parents: list[dict[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Make ``out`` of what ``save`` writes, a normaliser and a card; it appears at once when it is whole.

    Where the same model is there already, what tuning found for it is kept.
    """
    require_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        save(made)
        normaliser.to_json(made / NORMALISER)
        known = read_card(out, KIND) if out.exists() else {}
        if "tuned" in known and known.get("id") == content_hash(made):
            facts = {**facts, "tuned": known["tuned"]}
        write_card(made, KIND, parents, **facts)
        made.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


# --- A language model ------------------------------------------------------------------------------------

Unit = Literal["letter", "word"]
ORDERS: dict[str, int] = {"letter": 6, "word": 3}
WEIGHT, BONUS = 0.5, 1.0
"""The untuned LM weight, and the bonus per letter or word."""


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

    def is_tuned(self, student: str) -> bool:
        """Whether the weight was tuned for the student of that id."""
        return student in self.card.get("tuned", {})

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
