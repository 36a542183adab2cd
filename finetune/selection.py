"""What the best checkpoint is known by: letters or words wrong by best path, or words wrong as heard with a language model.

T frames, V tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from finetune.config import SelectSettings
from lalia.decoding.automata import Machine
from lalia.decoding.decoder import Decoder, text_of
from lalia.decoding.kneser_ney import estimate
from lalia.decoding.language_model import BONUS, ORDERS, WEIGHT, LanguageModel, symbols_of
from lalia.decoding.ngrams import SPECIALS, UNKNOWN
from lalia.decoding.words import LetterModel, machine_of
from lalia.exits import UserError
from lalia.models.recogniser import Recogniser
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens

WITH_LM = "valid/wer_lm"
METRICS = {"cer": "valid/cer", "wer": "valid/wer", "wer_lm": WITH_LM}


class Listener:
    """Hears held-out clips with a language model; ``rows`` are those that it is asked for at each look."""

    def __init__(self, recogniser: Recogniser, machine: Machine, rows: Sequence[int], told: str) -> None:
        self.rows = frozenset(rows)
        self.told = told
        """which language model it is, in words"""
        self._tokens, self._normaliser = recogniser.tokens, recogniser.normaliser
        self._decoder = Decoder(recogniser.tokens, recogniser.frame_s, [machine])

    def text(self, log_probs_TV: np.ndarray) -> str:
        """What is said, normalised as labels are."""
        return self._normaliser(text_of(self._decoder.decode(log_probs_TV), self._tokens))


def make_listener(
    settings: SelectSettings, recogniser: Recogniser, labels: Iterable[str], held_out: Sequence[int]
) -> Listener | None:
    """What hears ``held_out`` clips (``settings.clips`` of them, spread evenly); None where ``settings`` ask for none.

    Without a language model of its own it takes n-grams of the letters of ``labels``, which the run learns from. A
    ``UserError`` where the model is of another alphabet, or no label has a word to count.
    """
    if settings.by != "wer_lm":
        return None
    if settings.lm:
        machine, told = _given(Path(settings.lm), recogniser.tokens, recogniser.normaliser)
    else:
        machine, told = _counted(labels, recogniser.tokens, recogniser.normaliser)
    count = min(settings.clips or len(held_out), len(held_out))
    rows = [int(held_out[i * len(held_out) // count]) for i in range(count)]
    return Listener(recogniser, machine, rows, told)


def _given(folder: Path, tokens: Tokens, normaliser: Normaliser) -> tuple[Machine, str]:
    """The language model in ``folder``, with the weight and bonus that tuning found last, whatever student it was for."""
    try:
        model = LanguageModel.load(folder)
        model.check(tokens, normaliser)
    except UserError as error:
        raise UserError(f"--select.lm {error}") from error
    last = next(reversed(model.card.get("tuned", {})), "")
    found = model.tuned(last)
    told = f"{model.ngrams.order}-grams of {model.unit}s in {folder}"
    return machine_of(model, found["weight"], found["bonus"]), told


def _counted(labels: Iterable[str], tokens: Tokens, normaliser: Normaliser) -> tuple[Machine, str]:
    """N-grams of letters of ``labels``, as ``lalia finetune lm`` counts them."""
    texts = (normaliser(label) for label in labels)
    sentences = [symbols_of(text, "letter", tokens)[0] for text in texts if text]
    if not any(symbol != SPECIALS[UNKNOWN] for sentence in sentences for symbol in sentence):
        raise UserError(
            "--select.by wer_lm: no label has a word to count a language model from; give one made by `lalia lm` with --select.lm"
        )
    ngrams = estimate(sentences, ORDERS["letter"])
    return LetterModel(ngrams, WEIGHT, BONUS), f"{ngrams.order}-grams of letters of {len(sentences)} training labels"
