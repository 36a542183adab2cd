"""Linear classifiers of clips: held-out groups are predicted without having been seen, and confounded labels are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lalia.data.mixture import Mixture
from lalia.errors import UserError
from lalia.training.linear_probe import PENALTIES, Question, ask, figures, solve, temperature
from tests.tiny_corpus import write_clips

TONES = {"low": 300.0, "mid": 900.0, "high": 2500.0}


def tone(label: str, seed: int, seconds: float = 0.8) -> np.ndarray:
    """A wave that sounds like ``label``: a tone under noise."""
    random = np.random.default_rng(seed)
    t = np.arange(int(16_000 * seconds)) / 16_000
    wave = 0.3 * np.sin(2 * np.pi * TONES[label] * random.uniform(0.9, 1.1) * t)
    return (wave + random.normal(scale=0.02, size=len(t))).astype(np.float32)


def corpus(folder: Path, *clips: tuple[str, str, str]) -> Path:
    """Clips of (label, speaker, source); "" = unknown."""
    rows: list[dict[str, Any]] = [
        {"wave": tone(label or "low", number), "pitch": label, "speaker": speaker, "source": source}
        for number, (label, speaker, source) in enumerate(clips)
    ]
    return write_clips(folder, rows)


def grid(labels: str, speakers: str, source: str = "one", repeats: int = 2) -> list[tuple[str, str, str]]:
    return [(label, who, source) for label in labels.split() for who in speakers.split() for _ in range(repeats)]


def test_held_out_scores_are_those_of_a_regression_without_the_group() -> None:
    random = np.random.default_rng(1)
    groups = np.arange(60) % 5
    labels = random.integers(0, 3, 60)
    x = random.normal(size=(60, 7))
    x[np.arange(60), labels] += 4
    x = x * random.uniform(0.1, 10, 7) + random.normal(size=7)
    question = Question(
        "pitch", "speaker", np.arange(60), labels, ["a", "b", "c"], groups, groups, np.ones(60, bool), []
    )
    found = solve(question, [x])
    targets = np.eye(3)[labels]
    for group in range(5):  # slowly: each penalty, features standardised by the others alone
        held, seen = groups == group, groups != group
        mean, std = x[seen].mean(0), x[seen].std(0)
        z = (x[seen] - mean) / std
        options = [
            np.linalg.solve(z.T @ z + penalty * seen.sum() * np.eye(7), z.T @ (targets[seen] - targets[seen].mean(0)))
            for penalty in PENALTIES
        ]
        expected = [(x[held] - mean) / std @ weight + targets[seen].mean(0) for weight in options]
        assert min(abs(found.held_out_NC[held] - one).max() for one in expected) < 1e-6
    assert figures(question, found.held_out_NC.argmax(1)).accuracy > 0.8
    assert found.by_layer[0] == figures(question, found.held_out_NC.argmax(1)).accuracy


def test_noise_is_not_learned_however_many_features_and_layers_there_are() -> None:
    random = np.random.default_rng(2)
    groups = np.arange(120) % 12
    question = Question(
        "x", "speaker", np.arange(120), random.integers(0, 2, 120), ["a", "b"], groups, groups, np.ones(120, bool), []
    )
    found = solve(question, [random.normal(size=(120, 200)) for _ in range(4)])
    assert 0.35 < figures(question, found.held_out_NC.argmax(1)).accuracy < 0.65


def test_a_temperature_makes_scores_likely() -> None:
    labels = np.arange(100) % 4
    assert temperature(np.eye(4)[labels], np.eye(4)[labels]) > 30  # always right: sure
    assert (
        temperature(np.zeros((100, 4)) + np.eye(4)[(labels + 1) % 4], np.eye(4)[labels]) == 0.5
    )  # always wrong: unsure


def test_speakers_apart_in_one_source(tmp_path: Path) -> None:
    clips = [*grid("low high", "a b c"), ("", "a", "one"), ("low", "", "one"), ("mid", "a", "one")]
    question = ask(Mixture.load([corpus(tmp_path / "c", *clips)]), "pitch", "speaker")
    assert question.names == ["high", "low"] and len(question.rows) == 12 and question.scored.all()
    assert not question.confounded
    notes = " ".join(question.notes)
    assert "1 clip of 15 have no pitch" in notes and "1 clip of 15 have no speaker" in notes and "mid" in notes


@pytest.mark.parametrize(
    ("clips", "apart", "words"),
    [
        ([*grid("low", "a b"), *grid("high", "c d")], "source", "2 of 2 labels (high, low) come from one source only"),
        ([*grid("low", "a b", "x"), *grid("high", "c d", "y")], "source", "come from one source only"),
        ([*grid("low", "a b", "x"), *grid("high", "c d", "y")], "speaker", "every source holds one pitch only"),
        ([*grid("low", "a"), *grid("high", "b")], "speaker", "come from one speaker only"),
        ([*grid("low", "a", "x"), *grid("low", "b", "y"), *grid("high", "c", "y")], "source", "1 of 2 labels (high)"),
    ],
)
def test_labels_that_coincide_with_sources_or_speakers_get_no_figure(
    tmp_path: Path, clips: list[tuple[str, str, str]], apart: Any, words: str
) -> None:
    question = ask(Mixture.load([corpus(tmp_path / "c", *clips)]), "pitch", apart)
    assert words in question.confounded and "cannot be known" in question.confounded


def test_of_two_corpora_speakers_of_one_name_differ_and_a_second_source_makes_a_label_known(tmp_path: Path) -> None:
    both = [
        corpus(tmp_path / name, *grid("low high", "a b", name), *grid("mid", "a", name) * (name == "one"))
        for name in ("one", "two")
    ]
    mixture = Mixture.load(both)
    assert len(set(ask(mixture, "pitch", "speaker").groups.tolist())) == 4
    question = ask(mixture, "pitch", "source")
    assert not question.confounded
    assert {question.names[label] for label in question.labels[question.scored].tolist()} == {"low", "high"}


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "c", *grid("low", "a b"), ("high", "", "one"), ("high", "", "one"))
    mixture = Mixture.load([folder])
    with pytest.raises(UserError, match="has no column 'colour'"):
        ask(mixture, "colour", "source")
    with pytest.raises(UserError, match="the only pitch is 'low'; two or more are needed"):
        ask(mixture, "pitch", "speaker")
    with pytest.raises(UserError, match="no clip has the pitch 'mid'"):
        ask(mixture, "pitch", "speaker", names=["low", "mid"])
