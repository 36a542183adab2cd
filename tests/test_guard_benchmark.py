"""The guard's benchmark: what it calls healthy, and the table it makes of what was run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.guard import KINDS, settings_of, table, verdict


def found(**changes: Any) -> dict[str, Any]:
    return {"ended": "finished", "accuracy": 0.3, "perplexity": 60.0, "actions": {}} | changes


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "healthy"),
        ({"accuracy": 0.14}, "dead"),  # not half of what its seed reaches
        ({"accuracy": 0.99}, "dead"),
        ({"perplexity": 2.0}, "dead"),
        ({"accuracy": None}, "dead"),  # not a number
        ({"ended": "crashed: no"}, "dead"),
        ({"ended": "stopped: step 7: silence"}, "stopped"),
    ],
)
def test_what_became_of_a_run(changes: dict[str, Any], outcome: str) -> None:
    assert verdict(found(**changes), reference=0.3) == outcome


def test_the_table_counts_runs_whose_seed_has_a_healthy_one() -> None:
    results = [found(kind="healthy", seed=seed, guarded=guarded) for seed in (1, 2) for guarded in (False, True)]
    for seed in (1, 2, 3):  # of seed 3 no healthy run is there yet
        results.append(found(kind="poison", seed=seed, guarded=False, accuracy=None))
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
    assert settings_of("collapse", 1, 100, Path("corpus"), True).optim.lr == 1e-3
