"""LM weight tuning on held-out clips: weights and bonuses of n-grams and LSTM, and calibrated confidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lalia.decoding.beam import Hypothesis
from lalia.decoding.confidence import Bin, Evidence, calibrate, confidence, expected_error, reliability
from lalia.decoding.decoder import AcousticModel, Decoder, Rescorer, frames_of, make_decoder, text_of
from lalia.errors import AudioError, UserError
from lalia.lm.folder import LanguageModel
from lalia.lm.lstm import LstmModel
from lalia.model_folder import LabelledClips
from lalia.scoring.evaluation import right_words
from lalia.scoring.rates import ErrorCounts, character_errors, word_errors
from lalia.text.normaliser import Normaliser

WEIGHTS = (0.2, 0.4, 0.7, 1.0)
BONUSES = {"letter": (0.0, 1.0, 2.0, 3.0), "word": (-1.0, 0.5, 2.0, 4.0)}
LSTM_WEIGHTS, LSTM_BONUSES = (0.1, 0.2, 0.3, 0.5, 0.8), (0.0, 1.0, 1.5, 2.0, 3.0)
"""All pairs are tried; a bonus is given as a multiple of the weight."""
PER_WEIGHT = 2.0
"""The bonus per weight while weights are tried; a good start for letters and for words."""


@dataclass(frozen=True)
class Trial:
    """One setting and its errors on the held-out clips."""

    weight: float
    bonus: float
    cer: ErrorCounts
    wer: ErrorCounts

    @property
    def cost(self) -> float:
        """The objective: CER + WER, since either alone is coarse on few clips."""
        return self.cer.rate + self.wer.rate


@dataclass(frozen=True)
class Tuning:
    """All settings tried, the best one, and the reliability of confidence before and after calibration."""

    trials: list[Trial]
    best: Trial
    weights: list[float]
    before: list[Bin]
    after: list[Bin]
    clips: int
    """readable clips whose label has letters"""

    def as_dict(self, **facts: Any) -> dict[str, Any]:
        """Facts for the language model's card."""
        return {
            "weight": self.best.weight,
            "bonus": self.best.bonus,
            "confidence": self.weights,
            "cer": self.best.cer.rate,
            "wer": self.best.wer.rate,
            "calibration_error": {"before": expected_error(self.before), "after": expected_error(self.after)},
            "clips": self.clips,
            **facts,
        }


def tune(
    model: AcousticModel,
    lm: LanguageModel,
    clips: LabelledClips,
    rows: Iterable[int],
    progress: Callable[[Trial], None] | None = None,
) -> Tuning:
    """The weight and bonus with the fewest errors on ``rows`` of ``clips``, and confidence calibrated at that setting.

    The acoustic model runs once. Weights are tried with a proportional bonus, then bonuses at the best weight, then values around
    the best pair: the two depend only weakly on each other. Calibration is fitted and measured on the same clips; its error on
    others is larger. ``UserError`` if no clip can be used.
    """
    held = compute_log_probs(model, clips, rows)
    tried: dict[tuple[float, float], Trial] = {}

    def attempt(weight: float, bonus: float) -> Trial:
        key = (weight, bonus)
        if key not in tried:
            decoder = make_decoder(model, lm, weight=weight, bonus=bonus)
            texts = [text_of(decoder.decode(clip.frames_TX), model.tokens) for clip in held]
            tried[key] = _trial(weight, bonus, held, texts)
            if progress:
                progress(tried[key])
        return tried[key]

    def better(settings: Iterable[tuple[float, float]], best: Trial | None = None) -> Trial:
        trials = [attempt(weight, bonus) for weight, bonus in settings]
        return min([best, *trials] if best else trials, key=lambda trial: trial.cost)

    best = better((weight, PER_WEIGHT * weight) for weight in WEIGHTS)
    best = better(((best.weight, bonus) for bonus in BONUSES[lm.unit]), best)
    best = better(((round(factor * best.weight, 3), best.bonus) for factor in (0.75, 1.3)), best)
    best = better(((best.weight, best.bonus + step) for step in (-0.5, 0.5)), best)

    return _with_calibration(
        make_decoder(model, lm, weight=best.weight, bonus=best.bonus), held, list(tried.values()), best
    )


def tune_lstm(
    model: AcousticModel,
    lm: LanguageModel,
    lstm: LstmModel,
    clips: LabelledClips,
    rows: Iterable[int],
    progress: Callable[[Trial], None] | None = None,
) -> Tuning:
    """The weight and bonus of an LSTM that rescores the n-best lists of beam search with tuned n-grams; otherwise as ``tune``.

    The search runs once and the LSTM scores each text once; a setting only weights the sums. A weight of 0 is tried too, and is
    the result if the LSTM does not help.
    """
    held = compute_log_probs(model, clips, rows)
    scorer = Rescorer(lstm.lstm, model.tokens, 0.0, 0.0)
    beams: list[list[Hypothesis]] = []

    def keep(paths: list[Hypothesis]) -> list[Hypothesis]:
        beams.append(paths)
        return paths

    decoder = make_decoder(model, lm, rescore=keep)
    found: list[list[_NBest]] = []
    for clip in held:
        beams.clear()
        decoder.decode(clip.frames_TX)
        found.append([_NBest.of(paths, scorer, model) for paths in beams if paths])
    trials = []
    for weight in (0.0, *LSTM_WEIGHTS):
        for per_weight in LSTM_BONUSES if weight else (0.0,):
            bonus = round(per_weight * weight, 3)
            texts = [" ".join(u.best(weight, bonus) for u in uttered) for uttered in found]
            trials.append(_trial(weight, bonus, held, texts))
            if progress:
                progress(trials[-1])
    best = min(trials, key=lambda trial: (trial.cost, trial.weight))
    rescorer = Rescorer(lstm.lstm, model.tokens, best.weight, best.bonus)
    return _with_calibration(make_decoder(model, lm, rescore=rescorer), held, trials, best)


@dataclass(frozen=True)
class _NBest:
    """The n-best list of an utterance: N texts, scores of the search, log probabilities of the LSTM, numbers of letters."""

    texts: list[str]
    scores_N: np.ndarray
    log_probs_N: np.ndarray
    letters_N: np.ndarray

    @classmethod
    def of(cls, paths: Sequence[Hypothesis], rescorer: Rescorer, model: AcousticModel) -> _NBest:
        texts = [model.tokens.decode(path.tokens) for path in paths]
        return cls(texts, np.array([path.score for path in paths]), *rescorer.score_texts(paths))

    def best(self, weight: float, bonus: float) -> str:
        return self.texts[int(np.argmax(self.scores_N + weight * self.log_probs_N + bonus * self.letters_N))]


@dataclass(frozen=True)
class HeldOutClip:
    """A labelled clip: its normalised label, frames (``frames_of`` the model) and the normaliser of its language."""

    reference: str
    frames_TX: np.ndarray
    normaliser: Normaliser


def compute_log_probs(model: AcousticModel, clips: LabelledClips, rows: Iterable[int]) -> list[HeldOutClip]:
    """Each readable labelled clip with the model's log-probabilities; ``UserError`` if there is none."""
    held: list[HeldOutClip] = []
    for row in rows:
        normaliser = model.normaliser.for_language(clips.language(row))
        reference = normaliser(clips.text(row))
        try:
            if reference:
                held.append(HeldOutClip(reference, frames_of(model, clips.wave(row)), normaliser))
        except (AudioError, MemoryError):
            continue
    if not held:
        raise UserError("tuning: no clip with a label could be read; expected held-out labelled clips")
    return held


def _trial(weight: float, bonus: float, held: Sequence[HeldOutClip], texts: Sequence[str]) -> Trial:
    """The errors of the transcripts ``texts`` of ``held`` at a setting."""
    cer, wer = ErrorCounts(), ErrorCounts()
    for clip, text in zip(held, texts, strict=True):
        hypothesis = clip.normaliser(text)
        cer += character_errors(clip.reference, hypothesis)
        wer += word_errors(clip.reference, hypothesis, clip.normaliser.writing)
    return Trial(weight, bonus, cer, wer)


def _with_calibration(decoder: Decoder, held: Sequence[HeldOutClip], trials: list[Trial], best: Trial) -> Tuning:
    evidence, right = word_evidence(decoder, ((clip.reference, clip.frames_TX) for clip in held))
    weights = calibrate(evidence, right) if evidence else [0.0, 0.0, 0.0, 0.0]
    return Tuning(
        trials,
        best,
        weights,
        reliability([confidence(e) for e in evidence], right),
        reliability([confidence(e, weights) for e in evidence], right),
        len(held),
    )


def word_evidence(decoder: Decoder, held: Iterable[tuple[str, np.ndarray]]) -> tuple[list[Evidence], list[bool]]:
    """The features of each word decoded from ``held`` (reference, log-probabilities), and whether it is right."""
    evidence: list[Evidence] = []
    right: list[bool] = []
    for reference, frames_TX in held:
        found = decoder.decode(frames_TX)
        evidence += found.evidence
        right += right_words(reference, found.words, decoder.writing)
    return evidence, right
