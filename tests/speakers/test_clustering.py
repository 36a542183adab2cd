"""Centroid linkage beside the slow way (all means computed again after each merge), and its cuts."""

from __future__ import annotations

import numpy as np
import pytest

from lalia.speakers.clustering import cut_at_count, cut_at_distance, link_centroids


def slow_linkage(vectors_ND: np.ndarray, weights_N: np.ndarray) -> list[tuple[frozenset[int], float]]:
    """The members of each new cluster and the distance of the two that it is of."""
    clusters = [frozenset([n]) for n in range(len(vectors_ND))]
    found = []

    def mean(members: frozenset[int]) -> np.ndarray:
        places = sorted(members)
        return np.average(vectors_ND[places], axis=0, weights=weights_N[places])

    while len(clusters) > 1:
        pairs = [
            (float(np.linalg.norm(mean(a) - mean(b))), i, j)
            for i, a in enumerate(clusters)
            for j, b in enumerate(clusters[:i])
        ]
        distance, i, j = min(pairs)
        merged = clusters[i] | clusters[j]
        clusters = [c for place, c in enumerate(clusters) if place not in (i, j)] + [merged]
        found.append((merged, distance))
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_as_the_slow_way(seed: int, weighted: bool) -> None:
    draw = np.random.default_rng(seed)
    vectors_ND = draw.normal(size=(24, 5)) + 3 * draw.normal(size=(3, 5))[draw.integers(0, 3, 24)]
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    weights_N = draw.uniform(1, 9, 24) if weighted else np.ones(24)
    members = {n: frozenset([n]) for n in range(24)}
    for merge, (expected, distance) in zip(
        link_centroids(vectors_ND, weights_N), slow_linkage(vectors_ND, weights_N), strict=True
    ):
        members[merge.kept] |= members.pop(merge.merged)
        assert members[merge.kept] == expected and merge.distance == pytest.approx(distance, abs=1e-7)


def test_cuts() -> None:
    # Two pairs at 0 and 1, a single one far away; by hand: 0.1, 0.1, about 1, then the rest.
    vectors_ND = np.array([[0.0, 0], [0.1, 0], [1.0, 0], [1.1, 0], [9.0, 0]])
    merges = link_centroids(vectors_ND)
    assert [round(merge.distance, 6) for merge in merges] == [0.1, 0.1, 1.0, 8.45]
    assert cut_at_distance(merges, 5, 0.5).tolist() == [0, 0, 2, 2, 4]
    assert cut_at_distance(merges, 5, 0.05).tolist() == [0, 1, 2, 3, 4]
    assert cut_at_count(merges, np.ones(5), 2, 2.0).tolist() == [0, 0, 2, 2, 4]
    assert cut_at_count(merges, np.ones(5), 2, 0.0).tolist() == [0, 0, 0, 0, 4]
    assert cut_at_count(merges, np.ones(5), 3, 2.0).tolist() == [0, 0, 2, 2, 4]
    assert cut_at_count(merges, np.ones(5), 5, 0.0, closest=0.5).tolist() == [0, 0, 2, 2, 4]
    assert link_centroids(vectors_ND[:1]) == []
