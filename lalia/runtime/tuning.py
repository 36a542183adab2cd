"""How much a language model counts for a student: weight, bonus and the calibration of confidence, found on held-out clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lalia.audio.reading import AudioError
from lalia.decoding.confidence import Bin, Evidence, calibrate, confidence, expected_error, reliability
from lalia.decoding.decoder import Decoder, text_of
from lalia.decoding.language_model import LanguageModel
from lalia.exits import UserError
from lalia.runtime.decoders import make_decoder
from lalia.runtime.evaluation import Clips
from lalia.runtime.student import Student
from lalia.scoring.rates import ErrorCounts, alignment, character_errors, word_errors

WEIGHTS = (0.2, 0.4, 0.7, 1.0)
BONUSES = {"letter": (0.0, 1.0, 2.0, 3.0), "word": (-1.0, 0.5, 2.0, 4.0)}
PER_WEIGHT = 2.0
"""The bonus that goes with a weight of 1 while weights are tried: near enough for both units."""


@dataclass(frozen=True)
class Trial:
    """One setting and its errors on the held-out clips."""

    weight: float
    bonus: float
    cer: ErrorCounts
    wer: ErrorCounts

    @property
    def cost(self) -> float:
        """What tuning makes small: letters and words wrong, in equal parts, since either alone is coarse on few clips."""
        return self.cer.rate + self.wer.rate


@dataclass(frozen=True)
class Tuning:
    """Every setting tried, the best of them, and confidence before and after its calibration."""

    trials: list[Trial]
    best: Trial
    weights: list[float]
    before: list[Bin]
    after: list[Bin]

    def as_dict(self, **facts: Any) -> dict[str, Any]:
        """What the language model's card keeps."""
        return {
            "weight": self.best.weight,
            "bonus": self.best.bonus,
            "confidence": self.weights,
            "cer": self.best.cer.rate,
            "wer": self.best.wer.rate,
            "calibration_error": {"before": expected_error(self.before), "after": expected_error(self.after)},
            **facts,
        }


def tune(
    student: Student,
    lm: LanguageModel,
    clips: Clips,
    rows: Iterable[int],
    progress: Callable[[Trial], None] | None = None,
) -> Tuning:
    """The weight and bonus with the fewest errors on ``rows`` of ``clips``, and confidence calibrated at that setting.

    The acoustic model runs once. Weights are tried with a bonus in proportion, then bonuses at the best weight, then what lies
    around the best of both: the two depend on each other, but not by much. Calibration is fitted and judged on the same
    clips; its error on others is larger. ``UserError`` where no clip can be used.
    """
    held: list[tuple[str, np.ndarray]] = []
    for row in rows:
        reference = student.normaliser(clips.text(row))
        try:
            if reference:
                held.append((reference, student.log_probs(clips.wave(row))))
        except AudioError:
            continue
    if not held:
        raise UserError("tuning: no clip with a label could be read; expected labelled clips that were held out")
    tried: dict[tuple[float, float], Trial] = {}

    def attempt(weight: float, bonus: float) -> Trial:
        key = (weight, bonus)
        if key not in tried:
            decoder = make_decoder(student, lm, weight=weight, bonus=bonus)
            texts = [
                student.normaliser(text_of(decoder.decode(log_probs_TV), student.tokens)) for _, log_probs_TV in held
            ]
            pairs = [(reference, text) for (reference, _), text in zip(held, texts, strict=True)]
            tried[key] = Trial(
                weight,
                bonus,
                sum((character_errors(*pair) for pair in pairs), ErrorCounts()),
                sum((word_errors(*pair) for pair in pairs), ErrorCounts()),
            )
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

    evidence, right = judged(make_decoder(student, lm, weight=best.weight, bonus=best.bonus), held)
    weights = calibrate(evidence, right) if evidence else [0.0, 0.0, 0.0, 0.0]
    return Tuning(
        list(tried.values()),
        best,
        weights,
        reliability([confidence(e) for e in evidence], right),
        reliability([confidence(e, weights) for e in evidence], right),
    )


def judged(decoder: Decoder, held: Iterable[tuple[str, np.ndarray]]) -> tuple[list[Evidence], list[bool]]:
    """The evidence for every word that is heard in ``held`` (reference, log-probabilities), and whether it is right."""
    evidence: list[Evidence] = []
    right: list[bool] = []
    for reference, log_probs_TV in held:
        found = decoder.decode(log_probs_TV)
        steps = alignment(reference, " ".join(word.text for word in found.words))
        evidence += found.evidence
        right += [step.kind == "equal" for step in steps if step.kind != "deletion"]
    return evidence, right
