"""Clips made on the spot for the tests of preparation: voiced-like waves, each unlike the others, and ways to store them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalia.data.prepare.segments import Segmentation
from lalia.data.prepare.shards import Unit, make_part
from lalia.data.prepare.workers import Progress


def voiced(seed: int, seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    """A buzz whose pitch and timbre wander: float32 (S,), peak 0.5."""
    draw = np.random.default_rng(seed)
    samples = int(seconds * rate)
    knots = max(4, int(seconds * 8))
    time = np.linspace(0, knots - 1, samples)
    pitch = np.interp(time, np.arange(knots), draw.uniform(90, 250, knots))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    wave = np.zeros(samples)
    for harmonic in range(1, 16):
        wave += np.interp(time, np.arange(knots), draw.uniform(0, 1, knots)) * np.sin(harmonic * phase) / harmonic
    wave += 0.01 * draw.standard_normal(samples)
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def save(path: Path, wave: np.ndarray, rate: int = 16_000, **how: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(os.fsencode(path), wave, rate, **how)
    return path


def encoded(wave: np.ndarray, rate: int = 16_000, form: str = "FLAC") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.rint(wave * 32767).astype(np.int16), rate, format=form)
    return out.getvalue()


def in_this_process(
    units: list[Unit], work: Path, segmentation: Segmentation | None, progress: Progress, strict: bool = False
) -> None:
    """An engine without processes, which would cost each test seconds."""
    for unit in units:
        progress(unit.number, make_part(unit, work, segmentation, strict=strict).clips)


class LoudIsVoice:
    """Stands in for the voice activity model where a test's waves are no voice: what is loud is speech."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._rest = np.zeros(0, np.float32)

    def feed(self, block_S: np.ndarray, last: bool = False) -> np.ndarray:
        wave_S = np.concatenate([self._rest, block_S])
        if last:
            wave_S = np.pad(wave_S, (0, -len(wave_S) % 512))
        frames = len(wave_S) // 512
        self._rest = wave_S[frames * 512 :]
        power_T = np.square(wave_S[: frames * 512]).reshape(frames, 512).mean(axis=1)
        return (power_T > 1e-3).astype(np.float32)

    def __call__(self, wave_S: np.ndarray) -> np.ndarray:
        self.reset()
        return self.feed(wave_S, last=True)


@pytest.fixture
def loud_is_voice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lalia.data.prepare.rows.VoiceActivity", LoudIsVoice)
