"""Several corpora read as one, and the selections that stages make of them."""

from __future__ import annotations

import numpy as np
import pytest

from lalia.data.labels import choose_minutes
from lalia.data.mixture import Mixture
from lalia.errors import UserError
from tests.tiny_corpus import make_corpus


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    first = make_corpus(folder / "first", 12, ("ita", "eng"))
    return Mixture.load([first, make_corpus(folder / "second", 18, ("ita",))])


def test_rows_are_numbered_through_and_languages_merged(mixture):
    assert len(mixture) == 24 + 18
    assert mixture.language_names == ["eng", "ita"]
    assert len(set(mixture.groups.tolist())) == 3  # (first, eng), (first, ita), (second, ita)
    second = mixture.corpora[1]
    assert mixture.id(24) == second.id(0)
    assert np.array_equal(mixture.wave(41), second.wave(17))
    assert mixture.text(41) == second.text(17)


def test_selections_hold_their_conditions(mixture):
    rows = mixture.select("train", ["ita"], labelled=True, min_s=1.0, max_s=2.5)
    assert set(mixture.languages[rows]) == {1}
    assert mixture.durations_s[rows].min() >= 1.0
    assert mixture.durations_s[rows].max() <= 2.5
    assert not set(rows) & set(mixture.select("test", ["ita"]))


def test_an_unknown_language_and_an_empty_selection_are_named(mixture):
    with pytest.raises(UserError, match="deu: not in the corpus, which has eng, ita"):
        mixture.select("train", ["deu"])
    with pytest.raises(UserError, match=r"no unlabelled train clips of 0.0 to inf s in ita"):
        mixture.select("train", ["ita"], labelled=False)
    with pytest.raises(UserError, match=r"--data\.corpus is missing"):
        Mixture.load([])


def test_a_smaller_budget_of_labels_lies_inside_a_larger_one(mixture):
    rows = mixture.select("train", ["ita"], labelled=True)
    few, more = choose_minutes(mixture, rows, 0.1), choose_minutes(mixture, rows, 0.3)
    assert set(few) < set(more) <= set(rows)
    assert mixture.durations_s[more].sum() <= 0.3 * 60
    assert np.array_equal(choose_minutes(mixture, rows, 0), rows)
    with pytest.raises(UserError, match="the corpus has"):
        choose_minutes(mixture, rows, 100)
