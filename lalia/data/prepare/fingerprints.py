"""Acoustic fingerprints: recognise the same recording after re-encoding.

After Haitsma and Kalker, "A highly robust audio fingerprinting system" (ISMIR 2002): each frame becomes a 32-bit word, the
signs of how the energy differences between neighbouring bands change over time. The 128 words of a clip with the lowest hash
are kept: the same ones in every copy. Legend: T frames, F bands, K kept words.
"""

from __future__ import annotations

from collections.abc import Iterator

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


def find_copies(prints_K: np.ndarray, durations_s: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of rows (earlier, later) that are the same recording, from the marks of all rows and their durations (N,)."""
    ordered = np.sort(prints_K, order=["word", "row"])
    word, row, frame = ordered["word"], ordered["row"].astype(np.int64), ordered["frame"].astype(np.int64)
    pairs: list[np.ndarray] = []
    places: list[np.ndarray] = []
    crowded = np.zeros(len(word), bool)
    crowded[: max(0, len(word) - _CROWD)] = word[_CROWD:] == word[: max(0, len(word) - _CROWD)]
    for apart in range(1, _CROWD):
        same = np.flatnonzero((word[apart:] == word[:-apart]) & ~crowded[:-apart])
        if not len(same):
            break
        a, b = same, same + apart
        pairs.append(np.stack([row[a], row[b], frame[b] - frame[a]], axis=1))
        places.append(frame[b])
    if not pairs:
        return
    found, at = np.concatenate(pairs), np.concatenate(places)
    both = np.flatnonzero(found[:, 0] != found[:, 1])
    found = found[both]
    # Copies rarely start at the same sample: a shift may be in either of two neighbouring frames.
    keys = np.concatenate([found, np.add(found, (0, 0, 1))])
    frames = np.concatenate([at[both], at[both]])
    shifts, group, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    first, last = np.full(len(shifts), 1 << 20), np.zeros(len(shifts), np.int64)
    np.minimum.at(first, group.reshape(-1), frames)
    np.maximum.at(last, group.reshape(-1), frames)
    for number in np.flatnonzero(counts >= _SAME_WORDS):
        earlier, later, shift = shifts[number].tolist()
        one, other = float(durations_s[earlier]), float(durations_s[later])
        shared = min(one + shift * HOP_S, other) - max(shift * HOP_S, 0.0)
        # Prompts may share a beginning: a copy must match from end to end.
        if shared >= _SAME_PART * max(one, other) and (last - first)[number] * HOP_S >= _SPREAD * shared:
            yield earlier, later


def _bands(frames_TS: np.ndarray) -> np.ndarray:
    """Energy of the 33 bands of every frame: (T, 33)."""
    power_TF = np.square(np.abs(np.fft.rfft(frames_TS * _WINDOW_S, axis=1)))
    return np.add.reduceat(power_TF, _EDGES, axis=1)[:, : _BITS + 1]


def _hash(words: np.ndarray) -> np.ndarray:
    """A hash of each word that is independent of its frequency (Knuth's multiplicative hash, mixed once)."""
    mixed = words.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))
