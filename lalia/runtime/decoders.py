"""A student's decoder: what is known of the language, put together and checked against the student."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lalia.decoding.automata import Machine
from lalia.decoding.beam import BeamSettings
from lalia.decoding.decoder import Decoder
from lalia.decoding.language_model import LanguageModel
from lalia.decoding.phrases import read_closed, read_hot_words
from lalia.runtime.student import Student


def make_decoder(
    student: Student,
    lm: LanguageModel | Path | str | None = None,
    *,
    hot_words: Path | dict[str, float] | None = None,
    only: Path | Sequence[str] | None = None,
    weight: float | None = None,
    bonus: float | None = None,
    settings: BeamSettings | None = None,
) -> Decoder:
    """A decoder for ``student``: beam search under a language model, hot words, a closed vocabulary, or several of them.

    ``weight`` and ``bonus`` are those that tuning found for this student unless given. ``hot_words`` is a file of phrases,
    or a dictionary of normalised phrases and boosts in natural logarithms; ``only`` a file of phrases with ``(a|b)`` and
    ``[a]``, or a sequence of normalised phrases. A ``UserError`` where the student cannot write what they ask for.
    """
    machines: list[Machine] = []
    weights = None
    if lm is not None:
        model = lm if isinstance(lm, LanguageModel) else LanguageModel.load(lm)
        model.check(student.tokens, student.normaliser)
        tuned = model.tuned(str(student.card.get("id")))
        weights = tuned["confidence"]
        machines.append(
            model.machine(
                tuned["weight"] if weight is None else weight,
                tuned["bonus"] if bonus is None else bonus,
            )
        )
    if isinstance(hot_words, Path):
        hot_words = read_hot_words(hot_words, student.normaliser, student.tokens)
    if isinstance(only, Path):
        only = read_closed(only, student.normaliser, student.tokens)
    return Decoder(
        student.tokens, student.frame_s, machines, hot_words=hot_words, only=only, weights=weights, settings=settings
    )
