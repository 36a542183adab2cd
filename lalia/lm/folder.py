"""Language model folders on disk: card, normaliser and tuned weights (``ModelFolder``), and n-grams (``LanguageModel``)."""

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

# --- Any language model's folder -------------------------------------------------------------------------

KIND = "language model"
NGRAMS, LSTM = "ngrams", "lstm"
FOREIGN = 0.02
"""The largest share of a model's text in letters that a student has no token for."""
_FORMS = {NGRAMS: "n-grams", LSTM: "lstm"}
"""What ``lalia.inputs`` calls them."""


class ModelFolder:
    """A language model's folder, normaliser and card; subclasses add the model itself."""

    def __init__(self, folder: Path, normaliser: Normaliser, card: dict[str, Any]) -> None:
        self.folder = folder
        self.normaliser = normaliser
        self.card = card

    @property
    def id(self) -> str:
        """The content hash, which does not include tuned weights."""
        return str(self.card["id"])

    def check(self, tokens: Tokens, normaliser: Normaliser) -> None:
        """Raise ``UserError`` if the model has another alphabet or normalisation than a student with these tokens."""
        letters = {letter for spelling in token_texts(tokens) for letter in spelling}
        foreign = {letter: share for letter, share in self.card["letters"].items() if letter not in letters}
        if sum(foreign.values()) > FOREIGN:
            most = ", ".join(sorted(foreign, key=foreign.__getitem__, reverse=True)[:8])
            known = "".join(sorted(letters - {" "}))[:40]
            raise UserError(
                f"{self.folder}: is for another alphabet: the student has no token for {most}"
                f" ({100 * sum(foreign.values()):.0f} % of the text), its letters are {known};"
                " make one from text in its language: lalia lm TEXT --like STUDENT --out LM"
            )
        if self.card["unit"] == "word" and " " not in letters:
            raise UserError(f"{self.folder}: is of words, and the student writes no spaces; make it with --unit letter")
        ours, theirs = vars(self.normaliser.settings), vars(normaliser.settings)
        differing = [name for name in ours if name != "language" and ours[name] != theirs[name]]
        if differing:
            differences = ", ".join(f"{name} {ours[name]!r} instead of {theirs[name]!r}" for name in differing)
            raise UserError(
                f"{self.folder}: its text was not normalised like the student's labels ({differences});"
                " make it again with --like STUDENT"
            )

    def store_tuned(self, name: str, found: dict[str, Any]) -> None:
        """Store the tuned values for ``name`` (a student, or ``pair_name``) in the card, with the last ones as ``previous``."""
        facts = {key: value for key, value in self.card.items() if key not in ("kind", "id", "made_by", "parents")}
        known = facts.get("tuned", {})
        if name in known:
            found = {**found, "previous": {key: value for key, value in known[name].items() if key != "previous"}}
        facts["tuned"] = {**known, name: found}
        self.card = write_card(self.folder, KIND, self.card["parents"], **facts)


def open_folder(folder: Path, form: str) -> tuple[Normaliser, dict[str, Any]]:
    """The normaliser and the card of ``folder``; ``UserError`` if it is missing, damaged or not of ``form``."""
    if identify(folder).kind != (wanted := _FORMS[form]):
        raise wrong_kind(folder, wanted)
    card = read_card(folder, KIND)
    if content_hash(folder) != card.get("id"):
        raise UserError(f"{folder}: its files do not match its card (damaged or truncated); copy or make it again")
    return Normaliser.from_json(folder / NORMALISER), card


def require_free(out: Path) -> None:
    """Raise ``UserError`` if ``out`` is something other than a language model; only a language model may be replaced."""
    if out.is_file():
        raise UserError(f"{out}: is a file and is not overwritten; expected a folder to write the language model into")
    if out.exists():
        read_card(out, KIND)


def write_folder(
    out: Path,
    save: Callable[[Path], None],
    normaliser: Normaliser,
    parents: list[dict[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Write the folder ``out`` atomically: what ``save`` writes, a normaliser and a card.

    If it replaces the same model, the tuned weights are kept.
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
    """N-grams with the normaliser of their text and their card. ``LanguageModel.load(folder)``"""

    def __init__(self, folder: Path, ngrams: Ngrams, normaliser: Normaliser, card: dict[str, Any]) -> None:
        super().__init__(folder, normaliser, card)
        self.ngrams = ngrams
        self.unit: Unit = card["unit"]

    @classmethod
    def load(cls, folder: Path | str) -> LanguageModel:
        """The model in ``folder``; ``UserError`` if it is missing, damaged or something else."""
        folder = Path(folder)
        normaliser, card = open_folder(folder, NGRAMS)
        return cls(folder, Ngrams.load(folder, int(card["order"])), normaliser, card)

    def perplexity(self, sentences: Iterable[Sequence[str]]) -> float:
        """Perplexity per symbol of ``sentences`` (from ``symbols_of``), ends included."""
        return self.ngrams.perplexity([[self.ngrams.id(symbol) for symbol in sentence] for sentence in sentences])

    def is_tuned(self, student: str) -> bool:
        """Whether the weight is tuned for the student with this id."""
        return student in self.card.get("tuned", {})

    def tuned(self, student: str) -> dict[str, Any]:
        """``weight``, ``bonus`` and ``confidence`` tuned for the student with this id; the defaults if they are not tuned."""
        found: dict[str, Any] = self.card.get("tuned", {}).get(student, {})
        return {"weight": WEIGHT, "bonus": BONUS, "confidence": None, **found}


def symbols_of(text: str, unit: Unit, tokens: Tokens) -> tuple[list[str], int]:
    """(symbols of a normalised text, number of unknown words); a word with letters that have no token is one ``<unk>``."""
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
    """A word in letters, None if it has letters without a token; cached, because most words of a text are frequent."""
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
    """Estimate n-grams from ``text`` (sentences of symbols), or take given ones, and write the folder ``out`` atomically.

    ``UserError`` if ``out`` is something other than a language model.
    """
    require_free(out)
    ngrams = text if isinstance(text, Ngrams) else estimate(text, order)
    counts = {"ngrams": [len(level.symbols) for level in ngrams.levels], "letters": _letters(ngrams, unit)}
    described: Mapping[str, Any] = {"form": NGRAMS, "unit": unit, "order": ngrams.order, **counts, **facts}
    write_folder(out, ngrams.save, normaliser, parents, described)
    return LanguageModel.load(out)


def _letters(ngrams: Ngrams, unit: Unit) -> dict[str, float]:
    """The share of each letter in the text, from the 1-grams, to compare alphabets."""
    found: Counter[str] = Counter()
    probs = np.exp(ngrams.unigrams())
    for symbol, prob in zip(ngrams.symbols[len(SPECIALS) :], probs[len(SPECIALS) :].tolist(), strict=True):
        for letter in symbol if unit == "word" else symbol.replace(BOUNDARY, " "):
            found[letter] += prob
    return shares(found)


def shares(found: Mapping[str, float]) -> dict[str, float]:
    """Counts of letters as shares of their sum, the most frequent first."""
    total = math.fsum(found.values()) or 1.0
    return {letter: round(share / total, 6) for letter, share in sorted(found.items(), key=lambda pair: -pair[1])}
