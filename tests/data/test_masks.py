"""Span masks: how much they hide, what they never hide, and that they repeat."""

from __future__ import annotations

import math

import pytest
import torch

from lalia.data.batch import span_mask


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("coverage", "span"), [(0.65, 10), (0.5, 4), (0.05, 4)])
def test_as_much_is_hidden_as_overlapping_spans_hide(coverage, span):
    mask = span_mask(torch.full((400,), 500), 500, coverage, span, 0, random())
    assert float(mask.float().mean()) == pytest.approx(1 - math.exp(-coverage), abs=0.04)


def test_hidden_places_come_in_spans():
    mask = span_mask(torch.full((50,), 200), 200, 0.3, 7, 1, random())
    for row in mask:
        runs = [len(run) for run in "".join("x" if hidden else " " for hidden in row.tolist()).split()]
        assert min(runs) >= 7


def test_nothing_behind_the_end_is_hidden_and_something_stays_visible():
    lengths = torch.tensor([40, 11, 4, 3, 2, 1])
    for seed in range(30):
        mask = span_mask(lengths, 40, 0.9, 10, 2, random(seed))
        for row, length in zip(mask, lengths.tolist(), strict=True):
            assert not row[length:].any()
            assert not row[:length].all()
            assert row[:length].any() or length == 1


def test_a_mask_is_a_function_of_its_seed():
    lengths = torch.tensor([100, 60])
    first, again, other = (span_mask(lengths, 100, 0.65, 10, 2, random(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_coverage_hides_nothing():
    assert not span_mask(torch.tensor([50, 30]), 50, 0.0, 5, 0, random()).any()
