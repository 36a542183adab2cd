"""From a listed clip to rows of the corpus: reading, judging, cutting, measuring, packing."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lalia.audio.reading import AudioError, probe_audio, read_audio, read_blocks
from lalia.audio.writing import flac_bytes
from lalia.data.prepare.clips import Clip, Dropped
from lalia.data.prepare.quality import NO_SPEECH, measure
from lalia.data.prepare.utterances import Cutting, cut
from lalia.runtime.voice import FRAME_S, FRAME_SAMPLES, VoiceActivity
from lalia.units import SAMPLE_RATE, Samples, Seconds, to_samples, to_seconds

SHORTEST_S: Seconds = 0.05  # Below that there is not one phone.
SILENCE = 1e-3  # A peak of -60 dBFS
SILENT_POWER = 1e-5  # Frames under -50 dBFS that hold no speech are silence; above it, music or noise.


@dataclass(frozen=True)
class Made:
    """A row, its wave, and what tells whether another clip holds the same samples."""

    row: dict[str, Any]
    wave_S: np.ndarray
    content: str


@dataclass
class Heard:
    """What recordings that were cut hold, in seconds: utterances, and what lies between them."""

    recordings: int = 0
    kept_s: Seconds = 0.0
    silence_s: Seconds = 0.0
    other_sound_s: Seconds = 0.0
    left_out_speech_s: Seconds = 0.0

    def add(self, other: Heard) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Reader:
    """Reads clips; keeps the file decoded last, since many clips may be parts of it."""

    cutting: Cutting | None
    scratch: Path  # a folder with room for the samples of a recording
    heard: Heard = field(default_factory=Heard)

    def __post_init__(self) -> None:
        self._voice = VoiceActivity()
        self._key: tuple[str, int] = ("", 0)
        self._wave_S = np.zeros(0, np.float32)
        self._rate = 0

    def read(self, clip: Clip) -> Iterator[Made | Dropped]:
        """The rows of ``clip`` and what is left out of it, and why. The same ones in the same order, every time."""
        try:
            if self.cutting is not None and not clip.text and clip.end_s is None:
                yield from self._utterances(clip, self.cutting)
                return
            wave_S = self._part(clip)
        except AudioError as error:
            yield _dropped(clip, error)
            return
        if reason := unfit(wave_S):
            yield Dropped(clip.id, reason, f"{len(wave_S)} samples")
        else:
            yield self._make(clip, clip.id, wave_S, self._rate)

    def _part(self, clip: Clip) -> np.ndarray:
        key = (clip.path, id(clip.data) if clip.data is not None else 0)
        if key != self._key:
            self._key = ("", 0)
            self._rate = probe_audio(_source(clip), clip.path).rate
            self._wave_S = read_audio(_source(clip), clip.path)
            self._key = key
        end = len(self._wave_S) if clip.end_s is None else to_samples(clip.end_s)
        return self._wave_S[to_samples(clip.start_s) : end]

    def _utterances(self, clip: Clip, cutting: Cutting) -> Iterator[Made | Dropped]:
        """A recording as its utterances; memory does not grow with its length: its samples wait in a file."""
        rate = probe_audio(_source(clip), clip.path).rate
        self._voice.start()
        voices, length = [], 0
        with tempfile.TemporaryFile(dir=self.scratch) as file:
            for block_S in read_blocks(_source(clip), clip.path):
                voices.append(self._voice.feed(block_S))
                length += len(block_S)
                file.write(block_S.astype("<f4").tobytes())
            voices.append(self._voice.feed(np.zeros(0, np.float32), last=True))
            file.flush()
            wave_S = np.memmap(file, "<f4", "r", shape=(length,)) if length else np.zeros(0, np.float32)
            voice_T = np.concatenate(voices)
            if to_seconds(length) <= cutting.longest_s and not cutting.always:
                whole_S = np.array(wave_S, np.float32)
                if reason := unfit(whole_S):
                    yield Dropped(clip.id, reason, f"{length} samples")
                else:
                    yield self._make(clip, clip.id, whole_S, rate, voice_T)
                return
            yield from self._cut(clip, wave_S, voice_T, cutting, rate)

    def _cut(
        self, clip: Clip, wave_S: np.ndarray, voice_T: np.ndarray, cutting: Cutting, rate: int
    ) -> Iterator[Made | Dropped]:
        levels_T = _levels(wave_S, len(voice_T))
        kept_T = np.zeros(len(voice_T), bool)
        for start, end in cut(voice_T, levels_T, cutting):
            part_S = np.array(wave_S[start * FRAME_SAMPLES : end * FRAME_SAMPLES], np.float32)
            name = f"{clip.id}#{start * FRAME_S:.2f}-{start * FRAME_S + to_seconds(len(part_S)):.2f}"
            if reason := unfit(part_S):
                yield Dropped(name, reason, f"{len(part_S)} samples")
                continue
            kept_T[start:end] = True
            yield self._make(clip, name, part_S, rate, voice_T[start:end])
        if not kept_T.any():
            yield Dropped(clip.id, "no speech", f"in {to_seconds(len(wave_S)):.1f} s")
        speech_T = (voice_T >= NO_SPEECH) & ~kept_T
        silent_T = (levels_T < SILENT_POWER) & ~kept_T & ~speech_T
        other_T = ~(kept_T | speech_T | silent_T)
        seconds = [float(frames_T.sum()) * FRAME_S for frames_T in (kept_T, silent_T, other_T, speech_T)]
        self.heard.add(Heard(1, *seconds))

    def _make(self, clip: Clip, name: str, wave_S: np.ndarray, rate: int, voice_T: np.ndarray | None = None) -> Made:
        quality = measure(wave_S, self._voice(wave_S) if voice_T is None else voice_T)
        pcm_S = np.clip(np.rint(wave_S * 32768.0), -32768, 32767).astype("<i2")
        row = {
            "id": name,
            "audio": {"bytes": flac_bytes(wave_S), "path": f"{name}.flac"},
            "language": clip.language,
            "text": clip.text,
            "speaker": clip.speaker,
            "split": clip.split,
            "duration_s": to_seconds(len(wave_S)),
            "source": clip.source,
            "original_rate": rate,
            **vars(quality),
        }
        return Made(row, wave_S, hashlib.sha256(pcm_S.tobytes()).hexdigest()[:16])


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


def _levels(wave_S: np.ndarray, frames: int) -> np.ndarray:
    """Mean square of every 32 ms frame: (T,); a minute at a time, since the wave may lie on disk."""
    levels_T = np.zeros(frames)
    step = 60 * SAMPLE_RATE // FRAME_SAMPLES
    for at in range(0, frames, step):
        part_S: np.ndarray = np.square(wave_S[at * FRAME_SAMPLES : (at + step) * FRAME_SAMPLES], dtype=np.float64)
        odd: Samples = -len(part_S) % FRAME_SAMPLES
        powers_T = np.pad(part_S, (0, odd)).reshape(-1, FRAME_SAMPLES).mean(axis=1)
        levels_T[at : at + len(powers_T)] = powers_T
    return levels_T


def _source(clip: Clip) -> Path | bytes:
    return Path(clip.path) if clip.data is None else clip.data


def _dropped(clip: Clip, error: AudioError) -> Dropped:
    message = str(error).removeprefix(f"{clip.path}: ")
    reason = next((word for word, sign in _REASONS.items() if sign in message), "unreadable")
    return Dropped(clip.id, reason, message)


_REASONS = {"missing": "no such file", "empty": "is empty", "cut short": "cut short", "not finite": "are no numbers"}
