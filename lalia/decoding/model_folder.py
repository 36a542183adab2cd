"""What every language model's folder has, whatever is counted or learned in it: a card, a normaliser, what tuning found."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lalia.cards import content_hash, read_card, write_card
from lalia.exits import UserError
from lalia.kinds import look, refusal
from lalia.text.normaliser import FILE_NAME as NORMALISER
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens, spellings

KIND = "language model"
NGRAMS, LSTM = "ngrams", "lstm"
FOREIGN = 0.02
"""The share of a model's letters that a student may have no token for."""
_FORMS = {NGRAMS: "n-grams", LSTM: "lstm"}
"""What ``lalia.kinds`` calls them."""


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
    if look(folder).kind != (wanted := _FORMS[form]):
        raise refusal(folder, wanted)
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
