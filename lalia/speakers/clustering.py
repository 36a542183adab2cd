"""Cluster the embeddings of voices: agglomerative clustering with centroid linkage.

As scipy's ``linkage(embeddings, "centroid")`` on vectors of length 1, cut at a distance or at a number of clusters. Legend: N
embeddings, D their width, K clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Merge:
    """Two clusters, named by their first members, that are merged, and the distance of their centroids."""

    kept: int
    merged: int
    distance: float


def link_centroids(vectors_ND: np.ndarray, weights_N: np.ndarray | None = None) -> list[Merge]:
    """All merges, nearest centroids first (squared distances by Lance and Williams' formula), N² numbers of memory."""
    count = len(vectors_ND)
    weights_N = np.ones(count) if weights_N is None else weights_N.astype(np.float64).copy()
    products_NN = vectors_ND.astype(np.float64) @ vectors_ND.T.astype(np.float64)
    squares_N = np.diag(products_NN)
    distances_NN = np.maximum(squares_N[:, None] + squares_N - 2 * products_NN, 0)
    np.fill_diagonal(distances_NN, np.inf)
    nearest_N = distances_NN.argmin(axis=1) if count > 1 else np.zeros(count, int)
    nearest_distance_N = distances_NN.min(axis=1, initial=np.inf)
    merges = []
    for _ in range(count - 1):
        one = int(nearest_distance_N.argmin())
        kept, gone = sorted((one, int(nearest_N[one])))
        squared = float(distances_NN[kept, gone])
        merges.append(Merge(kept, gone, squared**0.5))
        a, b = weights_N[kept], weights_N[gone]
        row_N = (a * distances_NN[kept] + b * distances_NN[gone]) / (a + b) - a * b * squared / (a + b) ** 2
        row_N[~np.isfinite(distances_NN[kept])] = np.inf
        row_N[gone] = np.inf
        weights_N[kept] = a + b
        distances_NN[kept], distances_NN[:, kept] = row_N, row_N
        distances_NN[gone], distances_NN[:, gone] = np.inf, np.inf
        stale_N = (nearest_N == kept) | (nearest_N == gone)
        stale_N[kept] = True
        closer_N = row_N < nearest_distance_N
        nearest_N[closer_N], nearest_distance_N[closer_N] = kept, row_N[closer_N]
        for place in np.flatnonzero(stale_N & ~closer_N | (np.arange(count) == kept)):
            nearest_N[place] = distances_NN[place].argmin()
            nearest_distance_N[place] = distances_NN[place, nearest_N[place]]
        nearest_distance_N[gone] = np.inf
    return merges


def cut_at_distance(merges: list[Merge], count: int, threshold: float) -> np.ndarray:
    """The cluster (its first member's number) of each of ``count`` vectors, without the merges beyond ``threshold``."""
    kept = next((number for number, merge in enumerate(merges) if merge.distance > threshold), len(merges))
    return cut_after(merges, count, kept)


def cut_after(merges: list[Merge], count: int, kept: int) -> np.ndarray:
    """The cluster (its first member's number) of each of ``count`` vectors after the first ``kept`` merges."""
    labels_N = np.arange(count)
    for merge in merges[:kept]:
        labels_N[labels_N == merge.merged] = merge.kept
    return labels_N


def cut_at_count(
    merges: list[Merge], weights_N: np.ndarray, clusters: int, least: float, closest: float = 0.0
) -> np.ndarray:
    """As ``cut_at_distance``, after as many merges as possible with ``clusters`` clusters of at least the weight ``least``.

    Where there are never that many: with the most that there are. Merges up to the distance ``closest`` are always made.
    """
    totals_N = weights_N.astype(np.float64).copy()
    large = [int((totals_N >= least).sum())]
    for merge in merges:
        totals_N[merge.kept] += totals_N[merge.merged]
        totals_N[merge.merged] = -np.inf
        large.append(int((totals_N >= least).sum()))
    first = next((step for step, merge in enumerate(merges) if merge.distance > closest), len(merges))
    best = max(number if number <= clusters else 0 for number in large[first:])
    return cut_after(
        merges, len(weights_N), max(step for step, number in enumerate(large) if step >= first and number == best)
    )
