"""Stretches: a recording of hours as parts that any worker can cut on its own, with the same utterances whoever does.

A part is planned to begin every half an hour. Where it really begins is the middle of a pause nearby, which the worker of
this part and that of the one before find in the same way: both listen to the same seconds around the planned place, from
the same moment on. So parts neither overlap nor leave anything out, and no utterance is cut by them where people pause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from lalia.audio.reading import probe_audio, read_blocks
from lalia.data.prepare.clips import Clip
from lalia.data.prepare.sources.folders import BYTES_PER_S
from lalia.data.prepare.utterances import GO_ON, REACH_S
from lalia.exits import AudioError
from lalia.runtime.voice import FRAME_S, FRAME_SAMPLES, VoiceActivity
from lalia.units import Frames, Seconds

# Multiples of 4 s: whole frames and whole samples at every rate, so that all parts share one grid.
STRETCH_S: Seconds = 1800.0
BEFORE_S: Seconds = 32.0  # The detector remembers; after this long it no longer matters where it began to listen.
AFTER_S: Seconds = 32.0
_PROBED_S: Seconds = 300.0  # by what the source says, or the size of the file
_SEEKABLE = ("WAV", "FLAC", "RF64", "W64", "AIFF", "AU", "CAF", "MP3", "Ogg")


def split_recordings(clips: Iterable[Clip]) -> Iterator[Clip]:
    """The clips, long unlabelled recordings as stretches of ``STRETCH_S``; the last one is up to half as long again.

    Only of kinds that can be read from anywhere; others would be decoded from their beginning for every part.
    """
    for clip in clips:
        duration_s = _duration_s(clip)
        parts = max(1, int(duration_s / STRETCH_S + 0.5)) if duration_s >= 1.5 * STRETCH_S else 1
        if parts == 1:
            yield clip
            continue
        for number in range(parts):
            start_s, last = number * STRETCH_S, number == parts - 1
            length_s = duration_s - start_s if last else STRETCH_S
            end_s = None if last else start_s + STRETCH_S
            yield replace(clip, start_s=start_s, end_s=end_s, duration_s=length_s, stretch=True)


def _duration_s(clip: Clip) -> Seconds:
    """How long a clip is that may be split; 0 for all others, and for what cannot be read, which its worker will find out."""
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


def own_part(clip: Clip, source: Path | bytes, voice: VoiceActivity) -> tuple[Frames, Frames | None]:
    """Where the stretch ``clip`` really begins and ends, in frames of the recording; None: with it.

    The worker of the next stretch asks the same of its beginning, in the same words, and so gets the same answer.
    """

    def met(at_s: Seconds) -> Frames:
        # Four seconds more than are judged: the end of what is read is resampled otherwise than its middle.
        start_s, end_s = round(at_s - BEFORE_S), round(at_s + AFTER_S) + 4
        wave_S = np.concatenate(
            [*read_blocks(source, clip.path, start_s, end_s, channel=clip.channel), np.zeros(0, np.float32)]
        )
        frames: Frames = min(len(wave_S) // FRAME_SAMPLES, round((BEFORE_S + AFTER_S) / FRAME_S))
        levels_T = np.square(wave_S[: frames * FRAME_SAMPLES]).reshape(frames, FRAME_SAMPLES).mean(axis=1)
        return round(start_s / FRAME_S) + meeting(voice(wave_S)[:frames], levels_T)

    return met(clip.start_s) if clip.start_s else 0, None if clip.end_s is None else met(clip.end_s)


def heard_from(clip: Clip) -> tuple[int, int | None]:
    """From which second of the recording to which (None: its end) the worker of a stretch has to listen."""
    end_s = None if clip.end_s is None else round(clip.end_s + AFTER_S)
    return (max(0, round(clip.start_s - BEFORE_S)), end_s) if clip.stretch else (0, None)


def meeting(voice_T: np.ndarray, levels_T: np.ndarray) -> Frames:
    """Where two stretches meet, as a frame of what both have heard: from ``BEFORE_S`` before the planned place on.

    ``voice_T`` are probabilities of speech, ``levels_T`` powers. It is the middle of the first pause that no utterance
    reaches across, else the quietest moment.
    """
    first: Frames = round(BEFORE_S / FRAME_S)
    needed: Frames = round(REACH_S / FRAME_S) + 1
    begin = first
    for frame in range(first, len(voice_T)):
        if voice_T[frame] >= GO_ON:
            begin = frame + 1
        elif frame + 1 - begin == needed:
            return begin + needed // 2
    smooth_T = np.convolve(levels_T, np.ones(5) / 5, mode="same")
    return first + int(np.argmin(smooth_T[first:])) if len(voice_T) > first else len(voice_T)
