"""From a listed clip to a row of the corpus: reading, judging, measuring, packing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lalia.audio.reading import probe_audio, read_audio
from lalia.audio.writing import flac_bytes
from lalia.data.prepare.clips import Clip, Dropped
from lalia.data.prepare.quality import measure
from lalia.exits import UserError
from lalia.units import Seconds, to_samples, to_seconds

SHORTEST_S: Seconds = 0.05  # Below that there is not one phone.
SILENCE = 1e-3  # A peak of -60 dBFS


@dataclass(frozen=True)
class Made:
    """A row, and what tells whether another clip sounds the same."""

    row: dict[str, Any]
    content: str


class Reader:
    """Reads clips; keeps the last file decoded, since many clips may be parts of it."""

    def __init__(self) -> None:
        self._path = ""
        self._wave_S = np.zeros(0, np.float32)
        self._rate = 0

    def read(self, clip: Clip) -> Made | Dropped:
        """The row of ``clip``, or why it cannot be one."""
        try:
            wave_S = self._cut(clip)
        except UserError as error:
            return Dropped(clip.id, "unreadable", str(error).removeprefix(f"{clip.path}: "))
        if reason := unfit(wave_S):
            return Dropped(clip.id, reason, f"{len(wave_S)} samples")
        return make(clip, wave_S, self._rate)

    def _cut(self, clip: Clip) -> np.ndarray:
        if clip.path != self._path:
            self._path = ""
            if not Path(clip.path).is_file():
                raise UserError(f"{clip.path}: no such file")
            self._wave_S, self._rate = read_audio(clip.path), probe_audio(clip.path).rate
            self._path = clip.path
        end = len(self._wave_S) if clip.end_s is None else to_samples(clip.end_s)
        return self._wave_S[to_samples(clip.start_s) : end]


def unfit(wave_S: np.ndarray) -> str:
    """Why ``wave_S`` cannot train anything, ``""`` where it can."""
    if len(wave_S) == 0:
        return "empty"
    if not np.isfinite(wave_S).all():
        return "not finite"
    if to_seconds(len(wave_S)) < SHORTEST_S:
        return "too short"
    if float(np.abs(wave_S).max()) < SILENCE:
        return "silent"
    return ""


def make(clip: Clip, wave_S: np.ndarray, rate: int) -> Made:
    """The row of a clip whose wave is fit."""
    quality = measure(wave_S)
    flac = flac_bytes(wave_S)
    pcm_S = np.clip(np.rint(wave_S * 32768.0), -32768, 32767).astype("<i2")
    row = {
        "id": clip.id,
        "audio": {"bytes": flac, "path": f"{clip.id}.flac"},
        "language": clip.language,
        "text": clip.text,
        "speaker": clip.speaker,
        "split": clip.split,
        "duration_s": to_seconds(len(wave_S)),
        "source": clip.source,
        "original_rate": rate,
        **vars(quality),
    }
    return Made(row, hashlib.sha256(pcm_S.tobytes()).hexdigest())
