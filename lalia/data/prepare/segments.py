"""Segment long recordings into utterances at pauses, by voice activity.

Recordings of hours are first divided into segments of half an hour that workers process independently. The actual start of
a segment is the middle of a pause near its planned start. The workers of both neighbours compute that point from the same
seconds of audio, so segments neither overlap nor leave a gap.

Legend: T frames of 32 ms. Spans are (start, end) in frames, the end excluded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lalia.audio.reading import probe_audio, read_blocks
from lalia.audio.vad import FRAME_S, FRAME_SAMPLES, VoiceActivity
from lalia.data.prepare.listing import SourceClip
from lalia.data.prepare.sources.folders import BYTES_PER_S
from lalia.errors import AudioError
from lalia.units import SAMPLE_RATE, Frames, Samples, Seconds

# --- The wave of a long recording, in a temporary file ---------------------------------------------------

_MINUTE: Frames = 60 * SAMPLE_RATE // FRAME_SAMPLES


class StoredWave:
    """A wave on disk: samples are appended and read anywhere; the file is deleted at the end of the ``with`` block."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self.count: Samples = 0

    def __enter__(self) -> StoredWave:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, block_S: np.ndarray) -> None:
        self._file.write(block_S.astype("<f4").tobytes())
        self.count += len(block_S)

    def part(self, start: Samples, end: Samples) -> np.ndarray:
        """The samples from ``start`` to ``end`` (at most the end of the recording), float32."""
        self._file.seek(4 * start)
        return np.frombuffer(self._file.read(4 * max(0, min(end, self.count) - start)), "<f4").astype(np.float32)

    def minutes(self, start: Frames, end: Frames) -> Iterator[np.ndarray]:
        """The samples of the 32 ms frames from ``start`` to ``end`` (at most the end of the recording), in blocks of a minute."""
        for at in range(start, end, _MINUTE):
            part_S = self.part(at * FRAME_SAMPLES, min(end, at + _MINUTE) * FRAME_SAMPLES)
            if len(part_S):
                yield part_S

    def levels(self) -> np.ndarray:
        """Mean square of every 32 ms frame: (T,)."""
        minutes = []
        for part_S in self.minutes(0, -(-self.count // FRAME_SAMPLES)):
            odd: Samples = -len(part_S) % FRAME_SAMPLES
            squares_S = np.square(np.pad(part_S, (0, odd)), dtype=np.float64)
            minutes.append(squares_S.reshape(-1, FRAME_SAMPLES).mean(axis=1))
        return np.concatenate(minutes) if minutes else np.zeros(0)


# --- Utterances ------------------------------------------------------------------------------------------

FrameSpan = tuple[Frames, Frames]

SPEECH_ONSET, SPEECH_OFFSET = 0.5, 0.35  # Speech starts above the first and continues above the second.
JOIN_S: Seconds = 0.5  # Shorter pauses are inside an utterance,
LONGEST_PAUSE_INSIDE_S: Seconds = 1.5  # and pauses up to this if an utterance would otherwise be too short.
PAD_S: Seconds = 0.16


@dataclass(frozen=True)
class Segmentation:
    """Settings of the segmentation: utterances of ``shortest_s`` to ``longest_s``; clips up to ``longest_s`` stay whole.

    ``always`` also segments these.
    """

    shortest_s: Seconds = 2.0
    longest_s: Seconds = 20.0
    always: bool = False


def cut_utterances(voice_T: np.ndarray, levels_T: np.ndarray, segmentation: Segmentation) -> list[FrameSpan]:
    """The utterances of a recording, in order, without overlaps.

    ``voice_T`` are probabilities of speech, ``levels_T`` powers of the frames: long speech without a pause is split at its
    quietest frame. Speech that remains shorter than ``shortest_s`` is left out.
    """
    pad = round(PAD_S / FRAME_S)
    longest = int(segmentation.longest_s / FRAME_S)
    shortest = min(round(segmentation.shortest_s / FRAME_S), longest // 2)
    spans = _merge_close(_regions(voice_T), round(JOIN_S / FRAME_S), longest - 2 * pad)
    spans = _extend_short(spans, shortest - 2 * pad, round(LONGEST_PAUSE_INSIDE_S / FRAME_S), longest - 2 * pad)
    if not spans:
        return []
    smooth_T = np.convolve(levels_T, np.ones(5) / 5, mode="same")
    pieces = [piece for span in _pad(spans, pad, len(voice_T)) for piece in _split(span, smooth_T, shortest, longest)]
    return [(start, end) for start, end in pieces if end - start >= shortest]


def _regions(voice_T: np.ndarray) -> list[FrameSpan]:
    """The spans of speech, by the two thresholds."""
    if not len(voice_T):
        return []
    weak_T = np.concatenate([[False], voice_T >= SPEECH_OFFSET, [False]])
    edges = np.flatnonzero(np.diff(weak_T.astype(np.int8)))
    spans = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [(start, end) for start, end in spans if float(voice_T[start:end].max()) >= SPEECH_ONSET]


def _merge_close(spans: list[FrameSpan], gap: Frames, longest: Frames) -> list[FrameSpan]:
    """Join neighbours with a pause of at most ``gap`` if the result is no longer than ``longest``."""
    joined: list[FrameSpan] = []
    for start, end in spans:
        if joined and start - joined[-1][1] <= gap and end - joined[-1][0] <= longest:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _extend_short(spans: list[FrameSpan], shortest: Frames, gap: Frames, longest: Frames) -> list[FrameSpan]:
    """Join too short spans to the nearer neighbour within ``gap``, repeatedly."""
    spans = list(spans)
    at = 0
    while at < len(spans):
        start, end = spans[at]
        choices = []
        if end - start < shortest:
            if at and start - spans[at - 1][1] <= gap and end - spans[at - 1][0] <= longest:
                choices.append((start - spans[at - 1][1], at - 1))
            if at + 1 < len(spans) and spans[at + 1][0] - end <= gap and spans[at + 1][1] - start <= longest:
                choices.append((spans[at + 1][0] - end, at))
        if not choices:
            at += 1
            continue
        left = min(choices)[1]
        spans[left : left + 2] = [(spans[left][0], spans[left + 1][1])]
        at = left
    return spans


def _pad(spans: list[FrameSpan], pad: Frames, frames: Frames) -> list[FrameSpan]:
    """Add a margin on both sides, limited by the neighbours."""
    padded = []
    for number, (start, end) in enumerate(spans):
        before = spans[number - 1][1] if number else 0
        after = spans[number + 1][0] if number + 1 < len(spans) else frames
        padded.append((start - min(pad, (start - before + 1) // 2), end + min(pad, (after - end) // 2)))
    return [(max(0, start), min(frames, end)) for start, end in padded]


def _split(span: FrameSpan, levels_T: np.ndarray, shortest: Frames, longest: Frames) -> list[FrameSpan]:
    """Pieces no longer than ``longest``, cut at the quietest frame of the middle part."""
    start, end = span
    if end - start <= longest:
        return [span]
    margin = max(shortest, (end - start) // 4 if end - start < 2 * longest else longest // 2)
    middle_T = levels_T[start + margin : end - margin if end - start < 2 * longest else start + longest]
    at = start + margin + int(np.argmin(middle_T))
    return [*_split((start, at), levels_T, shortest, longest), *_split((at, end), levels_T, shortest, longest)]


# --- Segments of long recordings -------------------------------------------------------------------------

# Multiples of 4 s are whole frames and whole samples at every rate, so that all segments share one grid.
SEGMENT_S: Seconds = 1800.0
BEFORE_S: Seconds = 32.0  # The detector has a state; after this long its result does not depend on where it started.
AFTER_S: Seconds = 32.0
_PROBED_S: Seconds = 300.0  # shorter by the source's duration or the file size: not probed
_SEEKABLE = ("WAV", "FLAC", "RF64", "W64", "AIFF", "AU", "CAF", "MP3", "Ogg")


def split_recordings(clips: Iterable[SourceClip]) -> Iterator[SourceClip]:
    """The clips, with long unlabelled recordings divided into segments of ``SEGMENT_S``; the last is up to half as long again.

    Only seekable formats are divided; others would be decoded from the beginning for every segment.
    """
    for clip in clips:
        duration_s = _duration_s(clip)
        parts = max(1, int(duration_s / SEGMENT_S + 0.5)) if duration_s >= 1.5 * SEGMENT_S else 1
        if parts == 1:
            yield clip
            continue
        for number in range(parts):
            start_s, last = number * SEGMENT_S, number == parts - 1
            length_s = duration_s - start_s if last else SEGMENT_S
            end_s = None if last else start_s + SEGMENT_S
            yield replace(clip, start_s=start_s, end_s=end_s, duration_s=length_s, is_segment=True)


def _duration_s(clip: SourceClip) -> Seconds:
    """The duration of a clip that may be divided; 0 for others, and for unreadable files, which the worker reports."""
    if clip.text or clip.data is not None or clip.start_s or clip.end_s is not None:
        return 0.0
    path = Path(clip.path)
    try:
        if (clip.duration_s or path.stat().st_size / BYTES_PER_S) < _PROBED_S:
            return 0.0
        found = probe_audio(path)
    except (AudioError, OSError):
        return 0.0
    return found.duration_s if found.format in _SEEKABLE else 0.0


def segment_bounds(clip: SourceClip, source: Path | bytes, voice: VoiceActivity) -> tuple[Frames, Frames | None]:
    """The actual start and end of the segment ``clip``, in frames of the recording; None: the recording's end.

    The worker of the next segment computes its start from the same audio, so both get the same frame.
    """

    def boundary(at_s: Seconds) -> Frames:
        # Four seconds more than are used, because the resampler treats the end of its input differently.
        start_s, end_s = round(at_s - BEFORE_S), round(at_s + AFTER_S) + 4
        wave_S = np.concatenate(
            [*read_blocks(source, clip.path, start_s, end_s, channel=clip.channel), np.zeros(0, np.float32)]
        )
        frames: Frames = min(len(wave_S) // FRAME_SAMPLES, round((BEFORE_S + AFTER_S) / FRAME_S))
        levels_T = np.square(wave_S[: frames * FRAME_SAMPLES]).reshape(frames, FRAME_SAMPLES).mean(axis=1)
        return round(start_s / FRAME_S) + boundary_frame(voice(wave_S)[:frames], levels_T)

    return boundary(clip.start_s) if clip.start_s else 0, None if clip.end_s is None else boundary(clip.end_s)


def read_range(clip: SourceClip) -> tuple[int, int | None]:
    """The seconds of the recording (start, end; None: its end) that the worker of a segment reads."""
    end_s = None if clip.end_s is None else round(clip.end_s + AFTER_S)
    return (max(0, round(clip.start_s - BEFORE_S)), end_s) if clip.is_segment else (0, None)


def boundary_frame(voice_T: np.ndarray, levels_T: np.ndarray) -> Frames:
    """The boundary of two segments, as a frame of the audio that both read, from ``BEFORE_S`` before the planned boundary on.

    ``voice_T`` are probabilities of speech, ``levels_T`` powers. It is the middle of the first pause that is inside no
    utterance, else the quietest frame.
    """
    first: Frames = round(BEFORE_S / FRAME_S)
    needed: Frames = round(LONGEST_PAUSE_INSIDE_S / FRAME_S) + 1
    begin = first
    for frame in range(first, len(voice_T)):
        if voice_T[frame] >= SPEECH_OFFSET:
            begin = frame + 1
        elif frame + 1 - begin == needed:
            return begin + needed // 2
    smooth_T = np.convolve(levels_T, np.ones(5) / 5, mode="same")
    return first + int(np.argmin(smooth_T[first:])) if len(voice_T) > first else len(voice_T)
