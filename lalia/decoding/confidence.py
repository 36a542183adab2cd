"""Word confidence: features from the beam, logistic calibration on held-out speech, and calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EDGE = 1e-3
"""Confidence stays this far from 0 and 1."""


@dataclass(frozen=True)
class Evidence:
    """Features of a word's confidence, each 0 to 1: mean and lowest probability of its letters, and its share of the beam."""

    mean: float
    lowest: float
    share: float

    def features(self) -> list[float]:
        """1 and the log odds of the three."""
        clipped = np.clip([self.mean, self.lowest, self.share], EDGE, 1 - EDGE)
        return [1.0, *(np.log(clipped) - np.log1p(-clipped)).tolist()]


def confidence(evidence: Evidence, weights: Sequence[float] | None = None) -> float:
    """The probability that a word is right; without calibrated ``weights``, the letters' mean times the share of the beam."""
    if weights is None:
        return evidence.mean * evidence.share
    odds = float(np.dot(evidence.features(), weights))
    return float(np.clip(1 / (1 + np.exp(-odds)), EDGE, 1 - EDGE))


def calibrate(
    evidence: Sequence[Evidence], right: Sequence[bool], penalty: float = 1.0, steps: int = 50
) -> list[float]:
    """Weights of ``Evidence.features`` by logistic regression (Newton's method, ridge ``penalty`` on all but the first)."""
    x_NF = np.array([e.features() for e in evidence], np.float64).reshape(-1, 4)
    y_N = np.asarray(right, np.float64)
    ridge_F = np.array([1e-3, penalty, penalty, penalty])
    weights_F = np.zeros(4)
    for _ in range(steps):
        p_N = 1 / (1 + np.exp(-np.clip(x_NF @ weights_F, -30, 30)))
        gradient_F = x_NF.T @ (p_N - y_N) + ridge_F * weights_F
        hessian_FF = (x_NF * (p_N * (1 - p_N))[:, None]).T @ x_NF + np.diag(ridge_F)
        step_F = np.linalg.solve(hessian_FF, gradient_F)
        weights_F = weights_F - step_F
        if np.abs(step_F).max() < 1e-8:
            break
    return [round(float(w), 6) for w in weights_F]


@dataclass(frozen=True)
class Bin:
    """Words of similar confidence: how many, their mean confidence, and the share that is right."""

    words: int
    confidence: float
    right: float


def reliability(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> list[Bin]:
    """The reliability diagram: mean confidence and share of right words in equal bins of confidence, without empty bins."""
    c_N, y_N = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    place_N = np.minimum((c_N * bins).astype(np.int64), bins - 1)
    return [
        Bin(int(here.sum()), float(c_N[here].mean()), float(y_N[here].mean()))
        for here in (place_N == b for b in range(bins))
        if here.any()
    ]


def expected_error(table: Sequence[Bin]) -> float:
    """Expected calibration error (Naeini et al. 2015): mean |confidence - share right| over words."""
    words = sum(b.words for b in table)
    return sum(b.words * abs(b.confidence - b.right) for b in table) / max(words, 1)
