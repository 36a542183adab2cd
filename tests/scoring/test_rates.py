"""Error rates: equal to jiwer's, additive, with intervals that cover."""

from __future__ import annotations

import random

import jiwer
import pytest

from lalia.scoring.rates import (
    ErrorCounts,
    bootstrap_interval,
    character_errors,
    mismatched_errors,
    score,
    word_errors,
)
from lalia.text.edit_distance import alignment


def _pairs(count: int, seed: int = 3) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    words = ["la", "casa", "è", "rossa", "un", "po'", "di", "pane", "你好", "нет"]
    pairs = []
    for _ in range(count):
        reference = draw.choices(words, k=draw.randint(1, 12))
        hypothesis = [draw.choice(words) if draw.random() < 0.2 else w for w in reference if draw.random() > 0.1]
        hypothesis += draw.choices(words, k=draw.randint(0, 2))
        pairs.append((" ".join(reference), " ".join(hypothesis)))
    return pairs


def test_equal_to_jiwer() -> None:
    pairs = _pairs(300)
    references, hypotheses = [p[0] for p in pairs], [p[1] for p in pairs]
    ours = score(references, hypotheses)
    assert ours.clips == 300
    assert ours.wer.rate == pytest.approx(jiwer.wer(references, hypotheses))
    assert ours.cer.rate == pytest.approx(jiwer.cer(references, hypotheses))
    for reference, hypothesis in pairs[:50]:
        theirs = jiwer.process_words(reference, hypothesis)
        mine = word_errors(reference, hypothesis)
        assert (mine.substitutions, mine.deletions, mine.insertions) == (
            theirs.substitutions,
            theirs.deletions,
            theirs.insertions,
        )


def test_by_hand() -> None:
    assert word_errors("la casa è rossa", "la cosa rossa oggi").errors == 3
    assert word_errors("la casa è rossa", "la cosa è") == ErrorCounts(1, 1, 0, 4)
    assert character_errors("abc", "abd") == ErrorCounts(1, 0, 0, 3)
    assert character_errors("abc", "") == ErrorCounts(0, 3, 0, 3)
    assert character_errors("a  b ", "a b").errors == 0
    assert word_errors("", "una parola") == ErrorCounts(0, 0, 2, 0)
    assert word_errors("", "una parola").rate == 2.0
    assert ErrorCounts(1, 2, 3, 10) + ErrorCounts(1, 0, 0, 2) == ErrorCounts(2, 2, 3, 12)
    assert ErrorCounts(1, 2, 3, 12).rate == 0.5


def test_interval_is_fixed_and_covers() -> None:
    draw = random.Random(1)
    covered = 0
    for _ in range(100):
        counts = [ErrorCounts(sum(draw.random() < 0.2 for _ in range(10)), 0, 0, 10) for _ in range(60)]
        low, high = bootstrap_interval(counts)
        covered += low <= 0.2 <= high
    assert 88 <= covered <= 100
    assert bootstrap_interval(counts) == bootstrap_interval(counts)
    assert bootstrap_interval([]) == (0.0, 0.0)


def test_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="1 references for 2"):
        score(["a"], ["a", "b"])


def test_alignment_rebuilds_both_sides() -> None:
    for reference, hypothesis in _pairs(100, seed=9):
        for unit, join in (("word", " "), ("character", "")):
            edits = alignment(reference, hypothesis, unit)  # type: ignore[arg-type]
            assert join.join(e.reference for e in edits if e.kind != "insertion") == reference
            assert join.join(e.hypothesis for e in edits if e.kind != "deletion") == hypothesis
            count = word_errors if unit == "word" else character_errors
            assert sum(e.kind != "equal" for e in edits) == count(reference, hypothesis).errors


def test_alignment_by_hand() -> None:
    assert [(e.kind, e.reference, e.hypothesis) for e in alignment("un po' di buon pane", "un di buon cane")] == [
        ("equal", "un", "un"),
        ("deletion", "po'", ""),
        ("equal", "di", "di"),
        ("equal", "buon", "buon"),
        ("substitution", "pane", "cane"),
    ]


def test_mismatched_pairs_have_other_references_of_similar_length() -> None:
    references, hypotheses = ["aa", "bbbb", "bbbb", "cccccc"], ["aa", "bbbb", "b", "cccc"]
    # aa against bbbb, twice bbbb against cccccc, and the longest against the next shorter one
    expected = [("bbbb", "aa"), ("cccccc", "bbbb"), ("cccccc", "b"), ("bbbb", "cccc")]
    assert mismatched_errors(references, hypotheses) == sum(
        (character_errors(r, h) for r, h in expected), ErrorCounts()
    )
    assert mismatched_errors(["aa", "aa"], ["aa", "a"]) == mismatched_errors([], []) == ErrorCounts()
