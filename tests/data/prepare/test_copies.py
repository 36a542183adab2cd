"""Copies are found with little memory, and they are those that the obvious version finds in all fingerprints at once."""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from lalia.data.prepare.fingerprints import FINGERPRINT, HOP_S, find_copies


def clips(seed: int, count: int, words: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Fingerprints and durations of made-up clips: some words are common, and a fifth of the clips are parts of earlier ones."""
    random = np.random.default_rng(seed)
    durations_s = np.clip(random.lognormal(1.0, 0.5, count), 0.4, 20).astype(np.float32)
    found: list[np.ndarray] = []
    for row in range(count):
        if row > 3 and random.random() < 0.2:
            source = int(random.integers(row))
            prints_K = found[source][random.random(len(found[source])) < random.choice([0.05, 0.4, 0.9])]
            moved_K = prints_K["frame"].astype(int) + random.integers(-3, 4) + random.integers(0, 2, len(prints_K))
            prints_K, moved_K = prints_K[moved_K >= 0], moved_K[moved_K >= 0]
            prints_K["frame"] = moved_K
            durations_s[row] = durations_s[source] * random.uniform(0.7, 1.1)
        else:
            drawn = np.unique(random.zipf(1.2, 60) % words)
            prints_K = np.zeros(len(drawn), FINGERPRINT)
            prints_K["word"] = drawn * 2_654_435_761 % 2**32
            prints_K["frame"] = random.integers(0, max(1, int(durations_s[row] / HOP_S)), len(drawn))
        prints_K["row"] = row
        found.append(np.sort(prints_K, order="word"))
    return found, durations_s


def obvious(prints: list[np.ndarray], durations_s: np.ndarray) -> list[tuple[int, int]]:
    """The same in words: four shared words at a shift or the next one, not all in one place, from end to end of both."""
    by_word: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row, word, frame in np.concatenate(prints).tolist():
        by_word[word].append((row, frame))
    shifts: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for places in by_word.values():
        for (one, at), (other, then) in itertools.combinations(sorted(places)[-40:], 2):
            for shift in (then - at, then - at + 1):
                shifts[one, other, shift].append(then)
    pairs = set()
    for (one, other, shift), frames in shifts.items():
        a, b = float(durations_s[one]), float(durations_s[other])
        shared_s = min(a + shift * HOP_S, b) - max(shift * HOP_S, 0.0)
        spread_s = (max(frames) - min(frames)) * HOP_S
        if len(frames) >= 4 and shared_s >= 0.8 * max(a, b) and spread_s >= 0.5 * shared_s:
            pairs.add((one, other))
    return sorted(pairs)


@pytest.mark.parametrize(("seed", "words"), [(0, 150), (1, 2_000), (2, 50_000), (3, 150), (4, 2_000)])
def test_copies_are_those_of_the_obvious_version(seed: int, words: int, tmp_path: Path) -> None:
    prints, durations_s = clips(seed, 250, words)
    expected = obvious(prints, durations_s)
    assert len(expected) > 5
    assert find_copies(iter(prints), durations_s, tmp_path) == expected
    for most in (2_000, 100):  # tens of files, and files that have to be split again
        assert find_copies(iter(prints), durations_s, tmp_path, most) == expected
    assert not list(tmp_path.iterdir()), "nothing stays on disk"
