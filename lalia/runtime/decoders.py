"""A student's decoder: what is known of the language, put together and checked against the student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lalia.decoding.automata import Machine
from lalia.decoding.beam import BeamSettings
from lalia.decoding.decoder import Decoder
from lalia.decoding.language_model import LanguageModel
from lalia.decoding.lstm import LstmModel
from lalia.decoding.phrases import read_closed, read_hot_words
from lalia.decoding.rescoring import Rescore, Rescorer
from lalia.decoding.words import machine_of
from lalia.exits import UserError

if TYPE_CHECKING:
    from lalia.runtime.student import Student

RESCORING = {"weight": 0.2, "bonus": 0.3, "confidence": None}
"""How much an LSTM counts beside the n-grams that the search is led by, and what each letter is given, until it is tuned."""


def make_decoder(
    student: Student,
    lm: LanguageModel | Path | str | None = None,
    *,
    rescore: LstmModel | Rescore | Path | str | None = None,
    hot_words: Path | dict[str, float] | None = None,
    only: Path | Sequence[str] | None = None,
    weight: float | None = None,
    bonus: float | None = None,
    settings: BeamSettings | None = None,
) -> Decoder:
    """A decoder for ``student``: beam search under a language model, hot words, a closed vocabulary, or several of them.

    ``weight`` and ``bonus`` are those that tuning found for this student unless given. ``rescore`` is an LSTM, or anything
    else, that weighs what was found under ``lm``. ``hot_words`` is a file of phrases, or a dictionary of normalised phrases and
    boosts in natural logarithms; ``only`` a file of phrases with ``(a|b)`` and ``[a]``, or a sequence of normalised phrases.
    A ``UserError`` where the student cannot write what they ask for, or they make no sense together.
    """
    machines: list[Machine] = []
    weights: Sequence[float] | None = None
    rescorer: Rescore | None = None
    if rescore is not None and lm is None:
        raise UserError("--rescore weighs what a search led by n-grams has found; give those as --lm")
    if rescore is not None and only is not None:
        raise UserError("--rescore has nothing to weigh where --only says all that may be said; leave one of them out")
    if lm is not None:
        model = lm if isinstance(lm, LanguageModel) else LanguageModel.load(lm)
        model.check(student.tokens, student.normaliser)
        tuned = model.tuned(str(student.card.get("id")))
        weights = tuned["confidence"]
        if callable(rescore):
            rescorer = rescore
        elif rescore is not None:
            lstm = rescore if isinstance(rescore, LstmModel) else LstmModel.load(rescore)
            lstm.check(student.tokens, student.normaliser)
            found = {**RESCORING, **lstm.card.get("tuned", {}).get(pair_name(student, model), {})}
            rescorer = Rescorer(lstm.lstm, student.tokens, found["weight"], found["bonus"])
            # One set: the LSTM was tuned on what these n-grams found at that weight.
            tuned = {"weight": found.get("lm_weight", tuned["weight"]), "bonus": found.get("lm_bonus", tuned["bonus"])}
            weights = found["confidence"]
        machines.append(
            machine_of(
                model,
                tuned["weight"] if weight is None else weight,
                tuned["bonus"] if bonus is None else bonus,
            )
        )
    if isinstance(hot_words, Path):
        hot_words = read_hot_words(hot_words, student.normaliser, student.tokens)
    if isinstance(only, Path):
        only = read_closed(only, student.normaliser, student.tokens)
    return Decoder(
        student.tokens, student.frame_s, machines,
        hot_words=hot_words, only=only, weights=weights, settings=settings, rescorer=rescorer,
    )  # fmt: skip


def pair_name(student: Student, lm: LanguageModel) -> str:
    """What an LSTM's tuning for a student and its n-grams is kept under."""
    return f"{student.card.get('id')} {lm.id}"
