"""DER and cpWER: as pyannote.metrics and meeteval count (a table made by benchmarks/hearing/speaker_truth.py), and by hand."""

from __future__ import annotations

import json
import math
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lalia.scoring.speaker_errors import assign, concatenated_word_errors, diarization_errors
from lalia.speakers.rttm import SpeakerTurn

TABLE: dict[str, list[dict[str, Any]]] = json.loads(Path(__file__).with_name("speaker_errors.json").read_text())


@pytest.mark.parametrize("case", TABLE["der"])
def test_der_as_pyannote(case: dict[str, Any]) -> None:
    reference, hypothesis = ([SpeakerTurn(*turn) for turn in case[side]] for side in ("reference", "hypothesis"))
    for collar_s, overlap, expected in case["figures"]:
        found = diarization_errors(reference, hypothesis, collar_s, overlap)
        figures = (found.missed_s, found.false_s, found.confused_s, found.reference_s)
        assert figures == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("case", TABLE["cpwer"])
def test_cpwer_as_meeteval(case: dict[str, Any]) -> None:
    found = concatenated_word_errors(case["reference"], case["hypothesis"])
    assert (found.errors, found.reference) == (case["errors"], case["words"])


def test_by_hand() -> None:
    reference = [SpeakerTurn(0, 4, "a"), SpeakerTurn(3, 6, "b")]
    hypothesis = [SpeakerTurn(0, 3, "x"), SpeakerTurn(3, 5, "y"), SpeakerTurn(6, 7, "x")]
    found = diarization_errors(reference, hypothesis)
    # a is x, b is y: missed 3 to 4 (a) and 5 to 6 (b), false 6 to 7.
    assert (found.missed_s, found.false_s, found.confused_s, found.reference_s) == (2, 1, 0, 7)
    assert found.rate == pytest.approx(3 / 7) and (found + found).reference_s == 14
    assert math.isnan(diarization_errors([], []).rate)
    assert diarization_errors(reference, []).missed_s == 7 and diarization_errors([], hypothesis).false_s == 6


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2), (1, 4), (0, 3)])
def test_assignment_is_the_best_of_all(shape: tuple[int, int]) -> None:
    for seed in range(10):
        costs = np.random.default_rng(seed).integers(-5, 9, shape).astype(float)
        pairs = assign(costs)
        few, many = sorted(shape)
        rows = costs if shape[0] <= shape[1] else costs.T
        best = min(
            (sum(rows[i, j] for i, j in enumerate(order)) for order in permutations(range(many), few)), default=0
        )
        assert len(pairs) == few and sum(costs[i, j] for i, j in pairs) == best
