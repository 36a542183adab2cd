"""Keyed hashes and permutations: randomness that can be asked for at any place, without a generator's state."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_ROUNDS = 3


def keyed(seed: int, *parts: ArrayLike) -> NDArray[np.uint64]:
    """64 well-mixed bits for (seed, parts…), broadcast over the parts; the same on every machine and NumPy version.

    The mixer is SplitMix64's finaliser (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
    """
    state = np.full(1, seed & _MASK, np.uint64)
    for part in parts:
        state = _mix(state ^ _mix(np.atleast_1d(np.asarray(part)).astype(np.uint64)))
    return state


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) out of the upper 53 of 64 random bits."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(index: NDArray[np.int64], size: NDArray[np.int64], key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where a pseudo-random permutation of ``range(size)``, chosen by ``key``, sends ``index``; all three elementwise.

    A Feistel network over a rectangle barely larger than ``size`` (Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002); the few values that fall outside are sent on until they are inside. O(1) memory and time a value.
    """
    wide = np.ceil(np.sqrt(size)).astype(np.int64)
    tall = -(-size // wide)
    value = _network(index, wide, tall, key)
    while (outside := np.flatnonzero(value >= size)).size:
        value[outside] = _network(value[outside], wide[outside], tall[outside], key[outside])
    return value


def _network(
    index: NDArray[np.int64], wide: NDArray[np.int64], tall: NDArray[np.int64], key: NDArray[np.uint64]
) -> NDArray[np.int64]:
    left, right = (index // tall).astype(np.uint64), (index % tall).astype(np.uint64)
    wide, rows = wide.astype(np.uint64), tall.astype(np.uint64)
    for _ in range(_ROUNDS):
        key = key + _GOLDEN
        left = (left + (_mix(key ^ right) >> np.uint64(1))) % wide
        key = key + _GOLDEN
        right = (right + (_mix(key ^ left) >> np.uint64(1))) % rows
    return (left * rows + right).astype(np.int64)


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = bits + _GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX2
    return bits ^ (bits >> np.uint64(31))
