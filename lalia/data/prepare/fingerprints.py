"""Acoustic fingerprints: recognise the same recording after re-encoding.

After Haitsma and Kalker, "A highly robust audio fingerprinting system" (ISMIR 2002): each frame becomes a 32-bit word, the
signs of how the energy differences between neighbouring bands change over time. The 128 words of a clip with the lowest hash
are kept: the same ones in every copy. Legend: T frames, F bands, K kept words.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lalia.units import SAMPLE_RATE, Seconds

WINDOW_SAMPLES = 4096
HOP_SAMPLES = 512
HOP_S: Seconds = HOP_SAMPLES / SAMPLE_RATE
KEPT = 128
QUIET = 1e-4  # of the loudest frame's power: below, words are noise
FINGERPRINT = np.dtype([("row", "<u4"), ("word", "<u4"), ("frame", "<u2")])

_BITS = 32
_EDGES_HZ = np.geomspace(300.0, 2000.0, _BITS + 2)
_EDGES = np.round(_EDGES_HZ * WINDOW_SAMPLES / SAMPLE_RATE).astype(int)
_WINDOW_S = np.hanning(WINDOW_SAMPLES).astype(np.float32)
_SAME_WORDS = 4  # at one time shift, for two clips to be the same recording
_SAME_PART = 0.8  # of the longer one
_SPREAD = 0.5  # of what they share, between the first and the last such word
_CROWD = 40  # a word in more clips than this is ignored


def fingerprint(wave_S: np.ndarray, row: int) -> np.ndarray:
    """The fingerprint of a clip: up to 128 ``FINGERPRINT`` (its row, the word, its frame), sorted by word.

    Clips under 0.3 s have none: they are too short to distinguish a copy from another reading.
    """
    if len(wave_S) < WINDOW_SAMPLES + HOP_SAMPLES:
        return np.zeros(0, FINGERPRINT)
    frames_TS = np.lib.stride_tricks.sliding_window_view(wave_S, WINDOW_SAMPLES)[::HOP_SAMPLES]
    energy_TF = np.concatenate([_bands(frames_TS[at : at + 256]) for at in range(0, len(frames_TS), 256)])
    steps_TF = np.diff(energy_TF, axis=1)
    bits_TF = np.diff(steps_TF, axis=0) > 0
    words_T = np.packbits(bits_TF, axis=1).view(">u4").reshape(-1).astype(np.uint32)
    power_T = energy_TF.sum(axis=1)[1:]
    loud_T = power_T > QUIET * power_T.max(initial=0.0)
    words, first = np.unique(words_T[loud_T], return_index=True)
    frames = np.flatnonzero(loud_T)[first]
    kept = np.sort(np.argsort(_hash(words), kind="stable")[:KEPT])
    found = np.zeros(len(kept), FINGERPRINT)
    found["row"], found["word"], found["frame"] = row, words[kept], np.minimum(frames[kept], 65535)
    return found


# --- Copies among the fingerprints of many clips ---------------------------------------------------------

MOST = 1 << 21
"""Fingerprints, or matches of them, in memory at a time."""
_FILES = 256  # that are written to in turn
MATCH = np.dtype([("earlier", "<u4"), ("later", "<u4"), ("shift", "<i4"), ("frame", "<u2")])
"""A word that two rows share: the frames from its place in the earlier one to that in the later one, and the latter."""


def find_copies(
    prints: Iterable[np.ndarray], durations_s: np.ndarray, scratch: Path | None = None, most: int = MOST
) -> list[tuple[int, int]]:
    """Pairs of rows (earlier, later) that are the same recording, sorted.

    ``prints`` are ``FINGERPRINT`` arrays whose rows ascend, ``durations_s`` (N,) the lengths of all rows. Memory holds about
    ``most`` fingerprints or matches at a time. The rest waits below ``scratch`` (None = the system's temporary folder), in files
    by word, then by pair of rows.
    """
    records = len(durations_s) * KEPT
    with tempfile.TemporaryDirectory(prefix="copies-", dir=scratch) as folder:
        by_word = _Partitions(Path(folder, "words"), FINGERPRINT, lambda prints_K: prints_K["word"], most, records)
        for prints_K in _in_chunks(prints, most):
            by_word.add(_last_of_each_word(prints_K))
        by_pair = _Partitions(Path(folder, "pairs"), MATCH, _pair, most, records)
        for prints_K in by_word.arrays():
            for matches_K in _matches(_last_of_each_word(prints_K), durations_s):
                by_pair.add(matches_K)
        return sorted({pair for matches_K in by_pair.arrays() for pair in _copies(matches_K, durations_s)})


def _last_of_each_word(prints_K: np.ndarray) -> np.ndarray:
    """``prints_K`` by word and row, with the last ``_CROWD`` rows of each word."""
    order = np.argsort(prints_K["word"].astype(np.uint64) << np.uint64(32) | prints_K["row"])
    word = prints_K["word"][order]
    kept = np.ones(len(order), bool)
    kept[:-_CROWD] = word[_CROWD:] != word[:-_CROWD]
    return prints_K[order[kept]]


def _matches(prints_K: np.ndarray, durations_s: np.ndarray) -> Iterator[np.ndarray]:
    """The ``MATCH`` of every two of ``prints_K`` (by word and row) with one word, if their rows can be copies at its shift."""
    word, row, frame = prints_K["word"].copy(), prints_K["row"].copy(), prints_K["frame"].astype(np.int32)
    for apart in range(1, _CROWD):
        a = np.flatnonzero(word[apart:] == word[:-apart])
        if not len(a):
            return
        b = a + apart
        found = np.empty(len(a), MATCH)
        found["earlier"], found["later"], found["shift"], found["frame"] = row[a], row[b], frame[b] - frame[a], frame[b]
        here, next_one = (_shared_s(found, found["shift"] + more, durations_s)[1] for more in (0, 1))
        yield found[(here | next_one) & (found["earlier"] != found["later"])]


def _copies(matches_K: np.ndarray, durations_s: np.ndarray) -> Iterator[tuple[int, int]]:
    """The pairs of rows that share enough words at one shift, from all matches of these pairs."""
    # Copies rarely start at the same sample: a shift may be in either of two neighbouring frames.
    both = np.concatenate([matches_K, matches_K])
    both["shift"][len(matches_K) :] += 1
    both = both[np.lexsort((both["shift"], _pair(both)))]
    pair, shift = _pair(both), both["shift"].copy()
    start = np.flatnonzero(np.append(True, (pair[1:] != pair[:-1]) | (shift[1:] != shift[:-1]))[: len(both)])
    if not len(start):
        return
    last, first = (extreme.reduceat(both["frame"], start).astype(np.int64) for extreme in (np.maximum, np.minimum))
    rows = both[start]
    shared_s, possible = _shared_s(rows, rows["shift"], durations_s)
    enough = np.diff(np.append(start, len(both))) >= _SAME_WORDS
    for found in rows[enough & possible & ((last - first) * HOP_S >= _SPREAD * shared_s)]:
        yield int(found["earlier"]), int(found["later"])


def _shared_s(rows_K: np.ndarray, shift_K: np.ndarray, durations_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(seconds that two rows share at a shift in frames, whether that is enough for copies), each (K,).

    Prompts may share a beginning: a copy must match from end to end.
    """
    one, other = (durations_s[rows_K[name]].astype(np.float64) for name in ("earlier", "later"))
    shift_s = shift_K * HOP_S
    shared_s = np.minimum(one + shift_s, other) - np.maximum(shift_s, 0.0)
    return shared_s, shared_s >= _SAME_PART * np.maximum(one, other)


def _pair(matches_K: np.ndarray) -> np.ndarray:
    return matches_K["earlier"].astype(np.uint64) << np.uint64(32) | matches_K["later"]


def _in_chunks(arrays: Iterable[np.ndarray], most: int) -> Iterator[np.ndarray]:
    """``arrays`` end to end, cut where ``most`` records are there."""
    held: list[np.ndarray] = []
    for array in arrays:
        held.append(array)
        if sum(map(len, held)) >= most:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


class _Partitions:
    """Records on disk in files by a hash of their key: records with one key are in one file, and each file fits into memory."""

    def __init__(
        self, folder: Path, dtype: np.dtype[Any], key: Callable[[np.ndarray], np.ndarray], most: int, records: int,
        above: int = 1,
    ) -> None:  # fmt: skip
        folder.mkdir()
        self._folder, self._dtype, self._key, self._most = folder, dtype, key, most
        self._files = min(_FILES, max(1, -(-records // most)))
        self._above = above  # files that the same hash chose among before
        self._held: list[np.ndarray] = []
        self._records = 0

    def add(self, array: np.ndarray) -> None:
        """Take the records of ``array``."""
        self._held.append(array)
        self._records += len(array)
        if self._records >= self._most:
            self._write()

    def arrays(self) -> Iterator[np.ndarray]:
        """The records of each file, in the order in which they came. Nothing is left on disk."""
        self._write()
        for path in sorted(self._folder.iterdir()):
            records = path.stat().st_size // self._dtype.itemsize
            if records <= 2 * self._most or self._above >= 1 << 32:  # the latter: all of one key
                found = np.fromfile(path, self._dtype)
                path.unlink()
                yield found
                continue
            # Too many for memory: again, by what the hash has left.
            above = self._above * self._files
            parts = _Partitions(path.with_suffix(".parts"), self._dtype, self._key, self._most, records, above)
            with path.open("rb") as file:
                while len(found := np.fromfile(file, self._dtype, self._most)):
                    parts.add(found)
            path.unlink()
            yield from parts.arrays()

    def _write(self) -> None:
        if not self._held:
            return
        array, self._held, self._records = np.concatenate(self._held), [], 0
        where = _hash(self._key(array)) // np.uint64(self._above) % np.uint64(self._files)
        order = np.argsort(where, kind="stable")
        ends = np.searchsorted(where[order], np.arange(self._files), side="right")
        for number, rows in enumerate(np.split(order, ends[:-1])):
            if len(rows):
                with (self._folder / f"{number:05d}").open("ab") as file:
                    array[rows].tofile(file)


def _bands(frames_TS: np.ndarray) -> np.ndarray:
    """Energy of the 33 bands of every frame: (T, 33)."""
    power_TF = np.square(np.abs(np.fft.rfft(frames_TS * _WINDOW_S, axis=1)))
    return np.add.reduceat(power_TF, _EDGES, axis=1)[:, : _BITS + 1]


def _hash(words: np.ndarray) -> np.ndarray:
    """A hash of each word or pair that is independent of its frequency (Knuth's multiplicative hash, mixed once)."""
    mixed = words.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))
