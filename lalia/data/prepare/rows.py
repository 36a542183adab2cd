"""Turn a listed clip into corpus rows: decode, check, segment, measure, encode as FLAC."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lalia.audio.channels import EACH, compare_seconds, cross_talk_ratio, is_same_sound
from lalia.audio.encoding import flac_bytes
from lalia.audio.reading import Note, probe_rate_channels, read_audio, read_blocks
from lalia.audio.vad import FRAME_S, FRAME_SAMPLES, VoiceActivity
from lalia.data.prepare.listing import ClipNote, Dropped, SourceClip
from lalia.data.prepare.quality import NO_SPEECH, is_music, measure, spectral_similarity
from lalia.data.prepare.segments import (
    SPEECH_ONSET,
    Segmentation,
    StoredWave,
    cut_utterances,
    read_range,
    segment_bounds,
)
from lalia.data.prepare.splits import GAP, split_at
from lalia.errors import AudioError
from lalia.files import readable
from lalia.units import SAMPLE_RATE, Frames, Samples, Seconds, to_samples, to_seconds

ROUNDING_S: Seconds = (
    0.1  # Segments that end more than this after their recording are left out: their text may be wrong.
)
SHORTEST_S: Seconds = 0.05  # shorter than any phone
SILENCE = 1e-3  # A peak of -60 dBFS
_SMOOTHED: Frames = 11  # Cross-talk is measured over a third of a second, longer than a syllable.
SHORTEST_SOUND_S: Seconds = 0.1  # in a whole clip: less is a click or a constant offset
SILENT_POWER = 1e-5  # Frames without speech are silence below -50 dBFS, else music or noise.


RecordingChannel = tuple[str, int]
"""A recording and one of its channels."""


@dataclass(frozen=True)
class CorpusRow:
    """A row, its wave, a hash of its samples, and its ``RecordingChannel`` if it is one channel of a recording."""

    row: dict[str, Any]
    wave_S: np.ndarray
    content: str
    channel: RecordingChannel | None = None


@dataclass
class RecordingTotals:
    """Contents of segmented recordings, in seconds: utterances, and the audio between them by kind."""

    recordings: int = 0
    kept_s: Seconds = 0.0
    silence_s: Seconds = 0.0
    music_s: Seconds = 0.0
    noise_s: Seconds = 0.0
    left_out_speech_s: Seconds = 0.0
    gap_s: Seconds = 0.0

    def add(self, other: RecordingTotals) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Reader:
    """Reads clips; keeps the last decoded file, because many clips may be parts of one file."""

    segmentation: Segmentation | None
    scratch: Path  # a folder with enough space for the samples of a recording
    totals: RecordingTotals = field(default_factory=RecordingTotals)
    strict: bool = False  # reject truncated files
    choice: int | None = None  # of channels, if the source selects none

    def __post_init__(self) -> None:
        self._notes: list[Note] = []
        self._voice = VoiceActivity()
        self._opened: SourceClip | None = None
        self._rate, self._channels = 0, 0  # of the open file
        self._waves: dict[int | None, np.ndarray] = {}  # of the file decoded last, by channel

    def read(self, clip: SourceClip) -> Iterator[CorpusRow | Dropped | ClipNote]:
        """The rows of ``clip``, its dropped parts with reasons, and notes; deterministic, also in their order."""
        self._notes.clear()
        yield from self._rows(clip)
        yield from (ClipNote(_clip_name(clip), note.kind, note.text, clip.path) for note in self._notes)

    def _rows(self, clip: SourceClip) -> Iterator[CorpusRow | Dropped]:
        try:
            self._open(clip)
            channel_clips = self._channel_clips(clip)
            if self.segmentation is not None and not clip.text and (clip.end_s is None or clip.is_segment):
                yield from self._utterances(channel_clips, self.segmentation)
                return
            waves = [self._part(channel_clip) for channel_clip in channel_clips]
        except AudioError as error:
            yield _dropped(clip, error)
            return
        for number, (channel_clip, wave_S) in enumerate(zip(channel_clips, waves, strict=True)):
            twin = next(
                (n for n in range(number) if is_same_sound(compare_seconds(waves[n], wave_S, SAMPLE_RATE))), None
            )
            if twin is not None:
                yield _same_as_channel(channel_clip, twin)
            elif reason := why_unusable(wave_S):
                yield Dropped(channel_clip.id, reason, f"{len(wave_S)} samples")
            else:
                yield self._make(channel_clip, channel_clip.id, wave_S)

    def _open(self, clip: SourceClip) -> None:
        """Make the file of ``clip`` the current one."""
        if self._opened is None or clip.path != self._opened.path or clip.data is not self._opened.data:
            self._opened, self._waves = None, {}
            self._rate, self._channels = probe_rate_channels(_source(clip), clip.path)
            self._opened = clip

    def _channel_clips(self, clip: SourceClip) -> list[SourceClip]:
        """``clip``, or with ``--channels each`` a clip of another speaker for each channel."""
        if clip.channel is not None or self.choice is None:
            return [clip]
        if self.choice != EACH:
            return [replace(clip, channel=self.choice)]
        if self._channels == 1:
            return [clip]
        if clip.text:
            found = f"has a label and {self._channels} channels, and the channel of its words is unknown: mixed"
            self._notes.append(
                Note("label of the mix", f"{found}; --columns channel=NAME names the column with the channel")
            )
            return [clip]
        numbers = range(1, self._channels + 1)
        ids, speakers = f"{clip.id}-", f"{clip.speaker or clip.id}-"
        return [replace(clip, id=f"{ids}{n}", speaker=f"{speakers}{n}", channel=n - 1) for n in numbers]

    def _part(self, clip: SourceClip) -> np.ndarray:
        wave_S = self._waves.get(clip.channel)
        if wave_S is None:
            tell, strict = self._notes.append, self.strict
            wave_S = read_audio(_source(clip), clip.path, channel=clip.channel, tell=tell, strict=strict)
            self._waves[clip.channel] = wave_S
        reach_s, length_s = clip.start_s if clip.end_s is None else clip.end_s, to_seconds(len(wave_S))
        if reach_s > length_s + ROUNDING_S:
            raise AudioError(
                f"{clip.path}: a segment that ends at {reach_s:.2f} s is past the end of the recording at {length_s:.2f} s; "
                "is it the right recording?"
            )
        end = len(wave_S) if clip.end_s is None else to_samples(clip.end_s)
        return wave_S[to_samples(clip.start_s) : end]

    def _utterances(self, channel_clips: list[SourceClip], segmentation: Segmentation) -> Iterator[CorpusRow | Dropped]:
        """The utterances of the channels of a recording, or of a segment of one; samples are kept in temporary files."""
        with ExitStack() as opened:
            waves = [opened.enter_context(StoredWave(self.scratch)) for _ in channel_clips]
            voices = [self._store(channel_clip, wave) for channel_clip, wave in zip(channel_clips, waves, strict=True)]
            for number, (channel_clip, wave, voice_T) in enumerate(zip(channel_clips, waves, voices, strict=True)):
                twin = next((n for n in range(number) if _same_sound(waves[n], wave)), None)
                if twin is not None:
                    yield _same_as_channel(channel_clip, twin)
                    continue
                if len(channel_clips) > 1:
                    _remove_cross_talk(voice_T, wave, [other for other in waves if other is not wave])
                if channel_clip.is_segment or to_seconds(wave.count) > segmentation.longest_s or segmentation.always:
                    yield from self._cut(channel_clip, wave, voice_T, segmentation)
                    continue
                whole_S = wave.part(0, wave.count)
                if reason := why_unusable(whole_S):
                    yield Dropped(channel_clip.id, reason, f"{len(whole_S)} samples")
                elif len(channel_clips) > 1 and float(voice_T.max(initial=0.0)) < SPEECH_ONSET:
                    yield Dropped(
                        channel_clip.id, "no speech", f"apart from cross-talk, in {to_seconds(wave.count):.1f} s"
                    )
                else:
                    yield self._make(channel_clip, channel_clip.id, whole_S, voice_T)

    def _store(self, clip: SourceClip, wave: StoredWave) -> np.ndarray:
        """Append the audio of ``clip`` to ``wave``; returns the speech probability of each of its frames, (T,)."""
        start_s, end_s = read_range(clip)
        self._voice.reset()
        voices = []
        channel, tell, strict = clip.channel, self._notes.append, self.strict
        source = _source(clip)
        for block_S in read_blocks(source, clip.path, start_s, end_s, channel=channel, tell=tell, strict=strict):
            voices.append(self._voice.feed(block_S))
            wave.add(block_S)
        voices.append(self._voice.feed(np.zeros(0, np.float32), last=True))
        return np.concatenate(voices)

    def _cut(
        self, clip: SourceClip, wave: StoredWave, voice_T: np.ndarray, segmentation: Segmentation
    ) -> Iterator[CorpusRow | Dropped]:
        before: Frames = round(read_range(clip)[0] / FRAME_S)  # frames of the recording before `wave`
        first, last = segment_bounds(clip, _source(clip), self._voice) if clip.is_segment else (0, None)
        first, last = first - before, len(voice_T) if last is None else min(last - before, len(voice_T))
        voice_T = voice_T[first:last]
        levels_T = wave.levels()[first:last]
        kept_T, gap_T = np.zeros(len(voice_T), bool), np.zeros(len(voice_T), bool)
        for start, end in cut_utterances(voice_T, levels_T, segmentation):
            part_S = wave.part((first + start) * FRAME_SAMPLES, (first + end) * FRAME_SAMPLES)
            begin_s = (before + first + start) * FRAME_S
            name = f"{clip.id}#{begin_s:.2f}-{begin_s + to_seconds(len(part_S)):.2f}"
            if reason := why_unusable(part_S):
                yield Dropped(name, reason, f"{len(part_S)} samples")
                continue
            split = split_at(clip.held_out, begin_s, begin_s + to_seconds(len(part_S))) if clip.held_out else clip.split
            if not split:
                gap_T[start:end] = True
                yield Dropped(name, GAP, f"of {clip.id}")
                continue
            kept_T[start:end] = True
            yield self._make(replace(clip, split=split), name, part_S, voice_T[start:end])
        if not kept_T.any() and not gap_T.any():
            yield Dropped(_clip_name(clip), "no speech", f"in {len(voice_T) * FRAME_S:.1f} s")
        speech_T = (voice_T >= NO_SPEECH) & ~kept_T & ~gap_T
        silent_T = (levels_T < SILENT_POWER) & ~kept_T & ~gap_T & ~speech_T
        other_T = ~(kept_T | gap_T | speech_T | silent_T)
        music_T = is_music(_spectral_similarity(wave, first, other_T), other_T)
        kinds = (kept_T, silent_T, music_T, other_T & ~music_T, speech_T, gap_T)
        another = (clip.is_segment and clip.start_s) or (self.choice == EACH and clip.channel)
        recordings = 0 if another else 1  # each recording counts once, with its first segment and channel
        self.totals.add(RecordingTotals(recordings, *(float(frames_T.sum()) * FRAME_S for frames_T in kinds)))

    def _make(self, clip: SourceClip, name: str, wave_S: np.ndarray, voice_T: np.ndarray | None = None) -> CorpusRow:
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
            "original_rate": self._rate,
            **vars(quality),
            **clip.extra,
        }
        channel = None if clip.channel is None else (readable(clip.path), clip.channel)
        return CorpusRow(row, wave_S, hashlib.sha256(pcm_S.tobytes()).hexdigest()[:16], channel)


def why_unusable(wave_S: np.ndarray) -> str:
    """The reason why ``wave_S`` is unusable, or ``""``."""
    if len(wave_S) == 0:
        return "empty"
    if not np.isfinite(wave_S).all():
        return "not finite"
    if to_seconds(len(wave_S)) < SHORTEST_S:
        return "too short"
    if float(np.abs(wave_S).max()) < SILENCE:
        return "silent"
    if _sounding_s(wave_S) < min(SHORTEST_SOUND_S, to_seconds(len(wave_S)) / 2):
        return "no speech"
    return ""


def _sounding_s(wave_S: np.ndarray) -> Seconds:
    """The duration of sound: the 10 ms frames with a level above silence after removing offset and drift; clicks hardly count."""
    frame: Samples = SAMPLE_RATE // 100
    frames_TS = wave_S[: len(wave_S) // frame * frame].reshape(-1, frame)
    rise_T1 = frames_TS[:, -1:] - frames_TS[:, :1]
    level_TS = frames_TS - frames_TS[:, :1] - rise_T1 * np.linspace(0, 1, frame, dtype=np.float32)
    peaks_T = (level_TS.max(axis=1) - level_TS.min(axis=1)) / 2
    return to_seconds(frame * int((peaks_T >= SILENCE).sum()))


def _same_sound(one: StoredWave, other: StoredWave) -> bool:
    """Whether two channels have the same sound."""
    frames: Frames = -(-one.count // FRAME_SAMPLES)
    minutes = zip(one.minutes(0, frames), other.minutes(0, frames), strict=True)
    return is_same_sound(np.concatenate([np.zeros((0, 2)), *(compare_seconds(*pair, SAMPLE_RATE) for pair in minutes)]))


def _remove_cross_talk(voice_T: np.ndarray, wave: StoredWave, others: list[StoredWave]) -> None:
    """Remove cross-talk of other channels from ``voice_T``."""
    smooth = np.ones(_SMOOTHED) / _SMOOTHED
    if len(voice_T) < _SMOOTHED:
        return
    levels_T, *louder = (np.convolve(w.levels(), smooth, mode="same") for w in (wave, *others))
    for other_T in louder:
        voice_T[levels_T < cross_talk_ratio(levels_T, other_T) * other_T] = 0.0


def _spectral_similarity(wave: StoredWave, first: Frames, wanted_T: np.ndarray) -> np.ndarray:
    """Spectral similarity of the frames from ``first`` on, computed only in minutes with any of ``wanted_T``: (T,)."""
    found = [np.zeros(0, np.float32)]
    at: Frames = 0
    for part_S in wave.minutes(first, first + len(wanted_T)):
        frames: Frames = -(-len(part_S) // FRAME_SAMPLES)
        wanted = wanted_T[at : at + frames].any()
        found.append(spectral_similarity(part_S) if wanted else np.zeros(frames, np.float32))
        at += frames
    return np.concatenate(found)


def _source(clip: SourceClip) -> Path | bytes:
    return Path(clip.path) if clip.data is None else clip.data


def _same_as_channel(channel_clip: SourceClip, twin: int) -> Dropped:
    return Dropped(_clip_name(channel_clip), "duplicate", f"the same sound as channel {twin + 1}")


def _dropped(clip: SourceClip, error: AudioError) -> Dropped:
    message = str(error).removeprefix(f"{clip.path}: ")
    reason = next((word for word, sign in _REASONS.items() if sign in message), "unreadable")
    return Dropped(_clip_name(clip), reason, message)


def _clip_name(clip: SourceClip) -> str:
    """A clip's name, with the time of a segment."""
    return f"{clip.id}#{clip.start_s:.0f}-" if clip.is_segment else clip.id


_REASONS = {
    "missing": "no such file",
    "empty": "is empty",
    "cut short": "cut short",
    "not finite": "are not finite",
    "past the end": "is past the end",
    "no such channel": "has no channel",
}
