"""Language model folders on disk: card, normaliser and tuned weights (``ModelFolder``), and n-grams (``LanguageModel``)."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lalia.cards import NAME, content_hash, read_card, write_card, write_json
from lalia.errors import UserError
from lalia.inputs import identify, wrong_kind
from lalia.lm.ngrams import SPECIALS, UNKNOWN, Ngrams, estimate
from lalia.text.language_codes import language_name
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
        if self.card["unit"] == "word" and (" " not in letters or not normaliser.writing.spaced):
            raise UserError(f"{self.folder}: {needs_words_reason(normaliser)}")
        theirs = vars(normaliser.settings)
        ours = vars(self.normaliser.for_language(theirs["language"]).settings)
        differing = [name for name in ours if name not in ("language", "languages") and ours[name] != theirs[name]]
        if differing:
            differences = ", ".join(f"{name} {ours[name]!r} instead of {theirs[name]!r}" for name in differing)
            raise UserError(
                f"{self.folder}: its text was not normalised like the student's labels ({differences});"
                " make it again with --like STUDENT"
            )

    def store_tuned(self, names: Sequence[str], found: dict[str, Any]) -> None:
        """Store the values tuned for ``names`` (``model_names``, ``pair_names``) in the card, the last ones as ``previous``."""
        known = self.card.get("tuned", {})
        name, *exported_from = names
        if exported_from:
            found = {**found, "exported_from": exported_from}
        if name in known:
            found = {**found, "previous": {key: value for key, value in known[name].items() if key != "previous"}}
        self.card = {**self.card, "tuned": {**known, name: found}}
        write_json(self.folder / NAME, self.card)

    def find_tuned(self, names: Sequence[str]) -> dict[str, Any] | None:
        """The values tuned for one of ``names``, else for another export of the same recogniser; None if there are none."""
        known: dict[str, dict[str, Any]] = self.card.get("tuned", {})
        for name in names:
            if name in known:
                return known[name]
        related = (found for found in known.values() if set(names) & set(found.get("exported_from", [])))
        return next(related, None)


def needs_words_reason(normaliser: Normaliser) -> str:
    """Why there are no n-grams of words for the normaliser's language, and what to do."""
    language = language_name(normaliser.settings.language) or "the student's language"
    return (
        f"n-grams of words need spaces between words, and {language} is written without them: a whole sentence would be one"
        " unknown word; make it with --unit letter, whose n-grams reach over several words"
    )


def model_names(card: Mapping[str, Any]) -> list[str]:
    """The ids that tuned values are found by: a model's own, then that of the recogniser that a student was exported from."""
    parents = card.get("parents", []) if card.get("kind") == "student" else []
    return [str(card.get("id")), *(str(parent["id"]) for parent in parents[:1])]


def open_folder(folder: Path, form: str) -> tuple[Normaliser, dict[str, Any]]:
    """The normaliser and the card of ``folder``; ``UserError`` if it is missing, damaged or not of ``form``."""
    if identify(folder).kind != (wanted := _FORMS[form]):
        raise wrong_kind(folder, wanted)
    card = read_card(folder, KIND)
    if "files" in card:
        _check_files(folder, card["files"])
    elif content_hash(folder, names=_own_files(folder)) != card.get("id"):
        raise UserError(f"{folder}: its files do not match its card (damaged or truncated); copy or make it again")
    return Normaliser.from_json(folder / NORMALISER), card


HASHED_BYTES = 1 << 22
"""Larger files are compared by size alone when a model is loaded: they are mapped, and hashing would read all of them."""
_OWN = re.compile(r"symbols\.txt|normaliser\.json|model\.onnx|ngrams-\d+\.\w+\.npy")


def _own_files(folder: Path) -> list[str]:
    """The names of a model's files in ``folder``; anything else there is none of its business."""
    return sorted(path.name for path in folder.iterdir() if path.is_file() and _OWN.fullmatch(path.name))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _check_files(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ``UserError`` for the first file that is missing or does not match the card's ``files``: bytes and SHA-256."""
    for name, known in files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: is missing; copy the whole language model's folder again")
        size = path.stat().st_size
        same = size == known["bytes"]
        if not same or (size <= HASHED_BYTES and _sha256(path) != known["sha256"]):
            raise UserError(
                f"{path}: its {size:,} bytes do not match its card (damaged or truncated); copy or make it again"
            )


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
        hashes = {name: _sha256(made / name) for name in _own_files(made)}
        files = {name: {"bytes": (made / name).stat().st_size, "sha256": hashes[name]} for name in hashes}
        card = write_card(made, KIND, parents, known=hashes, **facts, files=files)
        if "tuned" in known and known.get("id") == card["id"]:
            write_json(made / NAME, {**card, "tuned": known["tuned"]})
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

    def tuned(self, names: Sequence[str]) -> dict[str, Any]:
        """``weight``, ``bonus`` and ``confidence`` as ``find_tuned`` finds them; the defaults if they are not tuned."""
        return {"weight": WEIGHT, "bonus": BONUS, "confidence": None, **(self.find_tuned(names) or {})}


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
