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
        voices = []
        with _Samples(self.scratch) as samples:
            for block_S in read_blocks(_source(clip), clip.path):
                voices.append(self._voice.feed(block_S))
                samples.add(block_S)
            voices.append(self._voice.feed(np.zeros(0, np.float32), last=True))
            voice_T = np.concatenate(voices)
            if to_seconds(samples.count) > cutting.longest_s or cutting.always:
                yield from self._cut(clip, samples, voice_T, cutting, rate)
                return
            whole_S = samples.part(0, samples.count)
        if reason := unfit(whole_S):
            yield Dropped(clip.id, reason, f"{len(whole_S)} samples")
        else:
            yield self._make(clip, clip.id, whole_S, rate, voice_T)

    def _cut(
        self, clip: Clip, samples: _Samples, voice_T: np.ndarray, cutting: Cutting, rate: int
    ) -> Iterator[Made | Dropped]:
        levels_T = samples.levels()
        kept_T = np.zeros(len(voice_T), bool)
        for start, end in cut(voice_T, levels_T, cutting):
            part_S = samples.part(start * FRAME_SAMPLES, end * FRAME_SAMPLES)
            name = f"{clip.id}#{start * FRAME_S:.2f}-{start * FRAME_S + to_seconds(len(part_S)):.2f}"
            if reason := unfit(part_S):
                yield Dropped(name, reason, f"{len(part_S)} samples")
                continue
            kept_T[start:end] = True
            yield self._make(clip, name, part_S, rate, voice_T[start:end])
        if not kept_T.any():
            yield Dropped(clip.id, "no speech", f"in {to_seconds(samples.count):.1f} s")
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


class _Samples:
    """The wave of a recording, kept in a nameless file: memory does not grow with its length."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self.count: Samples = 0

    def __enter__(self) -> _Samples:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def add(self, block_S: np.ndarray) -> None:
        self._file.write(block_S.astype("<f4").tobytes())
        self.count += len(block_S)

    def part(self, start: Samples, end: Samples) -> np.ndarray:
        """The samples from ``start`` to ``end`` or the recording's, float32."""
        self._file.seek(4 * start)
        return np.frombuffer(self._file.read(4 * max(0, min(end, self.count) - start)), "<f4").astype(np.float32)

    def levels(self) -> np.ndarray:
        """Mean square of every 32 ms frame: (T,)."""
        minutes = []
        step = 60 * SAMPLE_RATE // FRAME_SAMPLES * FRAME_SAMPLES
        for start in range(0, self.count, step):
            part_S = np.square(self.part(start, start + step), dtype=np.float64)
            odd: Samples = -len(part_S) % FRAME_SAMPLES
            minutes.append(np.pad(part_S, (0, odd)).reshape(-1, FRAME_SAMPLES).mean(axis=1))
        return np.concatenate(minutes) if minutes else np.zeros(0)


def _source(clip: Clip) -> Path | bytes:
    return Path(clip.path) if clip.data is None else clip.data


def _dropped(clip: Clip, error: AudioError) -> Dropped:
    message = str(error).removeprefix(f"{clip.path}: ")
    reason = next((word for word, sign in _REASONS.items() if sign in message), "unreadable")
    return Dropped(clip.id, reason, message)


_REASONS = {"missing": "no such file", "empty": "is empty", "cut short": "cut short", "not finite": "are no numbers"}
