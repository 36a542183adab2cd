"""The guard's benchmark: what it calls healthy, and the table it makes of what was run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.training.guard import KINDS, settings_of, table, verdict


def found(**changes: Any) -> dict[str, Any]:
    return {"ended": "finished", "loss": 3.0, "accuracy": 0.3, "perplexity": 60.0, "actions": {}} | changes


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "healthy"),
        ({"accuracy": 0.05}, "healthy"),  # near chance, as every run of so few steps is
        ({"accuracy": 0.99}, "dead"),
        ({"perplexity": 2.0}, "dead"),
        ({"loss": None, "accuracy": 0.0}, "dead"),  # not a number
        ({"ended": "crashed: no", "loss": None, "accuracy": None, "perplexity": None}, "dead"),
        ({"ended": "stopped: step 7: silence"}, "stopped"),
    ],
)
def test_what_became_of_a_run(changes: dict[str, Any], outcome: str) -> None:
    assert verdict(found(**changes)) == outcome


def test_the_table_counts_what_became_of_each_kind() -> None:
    results = [found(kind="healthy", seed=seed, guarded=guarded) for seed in (1, 2) for guarded in (False, True)]
    for seed in (1, 2):
        results.append(found(kind="poison", seed=seed, guarded=False, loss=None, accuracy=0.0))
        results.append(found(kind="poison", seed=seed, guarded=True, actions={"skip (loss)": 4}))
    lines = table(results).splitlines()
    assert "| healthy | 2 healthy | 2 healthy | nothing |" in lines
    assert "| poison | 2 dead | 2 healthy | 8 × skip (loss) |" in lines
    assert "| collapse | - | - | nothing |" in lines


def test_only_what_is_planted_differs() -> None:
    healthy = settings_of("healthy", 1, 100, Path("corpus"), True)
    for kind in KINDS:
        settings = settings_of(kind, 1, 100, Path("corpus"), True)
        assert (settings != healthy) == (kind in ("collapse", "overflow"))
    assert settings_of("collapse", 1, 100, Path("corpus"), True).optim.lr == 2e-2
