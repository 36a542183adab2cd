"""Transcripts: text and words with times, conversations over several channels, and txt, JSON, SubRip and WebVTT files."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np

from lalia.audio.channels import compare_seconds, cross_talk_ratio, is_same_sound
from lalia.decoding.greedy import Word
from lalia.errors import UserError
from lalia.text.writing_system import join_words
from lalia.units import SAMPLE_RATE, Samples, Seconds

# --- A transcript ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transcript:
    """The text of a clip, its words with times and confidence, and the clip's length."""

    text: str
    words: list[Word] = field(default_factory=list)
    duration_s: Seconds = 0.0


# --- Conversations ---------------------------------------------------------------------------------------

PHRASE_S: Seconds = 0.8
"""A longer pause ends a phrase; another speaker's phrase may follow."""
TURN_S: Seconds = 2.0
"""A longer pause ends a turn, also where nobody else speaks."""

_FRAME: Samples = SAMPLE_RATE // 50
_POINT: Samples = 163  # prime, so that no tone is in step with it
_AROUND_S: Seconds = 0.04


class Track:
    """A summary of a channel, to compare it with the others: 50 powers and 98 samples of each second."""

    def __init__(self) -> None:
        self._powers: list[np.ndarray] = []
        self._points: list[np.ndarray] = []
        self._shares: dict[Track, float] = {}

    def record(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield ``blocks`` of a wave (float32, 16 kHz) unchanged and record them."""
        waiting_S = np.zeros(0, np.float32)
        first: Samples = 0
        for block_S in blocks:
            waiting_S = np.concatenate([waiting_S, block_S])
            whole = len(waiting_S) // _FRAME * _FRAME
            self._powers.append(np.square(waiting_S[:whole]).reshape(-1, _FRAME).mean(axis=1))
            self._points.append(waiting_S[first:whole:_POINT].copy())
            first = (first - whole) % _POINT
            waiting_S = waiting_S[whole:]
            yield block_S

    def is_cross_talk(self, word: Word, others: Iterable[Track]) -> bool:
        """Whether a word is cross-talk from one of the other channels."""
        here = self._power(word)
        return any(here < self._cross_talk(other) * other._power(word) for other in others)

    def _cross_talk(self, other: Track) -> float:
        if other not in self._shares:
            self._shares[other] = cross_talk_ratio(self._joined(self._powers), self._joined(other._powers))
        return self._shares[other]

    def _power(self, word: Word) -> float:
        powers_T = self._joined(self._powers)
        first = max(0, int((word.start_s - _AROUND_S) * SAMPLE_RATE / _FRAME))
        last = max(first + 1, round((word.end_s + _AROUND_S) * SAMPLE_RATE / _FRAME))
        return float(powers_T[first:last].mean()) if first < len(powers_T) else 0.0

    def same_audio(self, other: Track) -> bool:
        """Whether both channels are the same audio: a mono recording saved as stereo."""
        rate = SAMPLE_RATE // _POINT
        return is_same_sound(compare_seconds(self._joined(self._points), other._joined(other._points), rate))

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        parts[:] = [np.concatenate([np.zeros(0, np.float32), *parts])]
        return parts[0]


def duplicate_channels(tracks: Sequence[Track]) -> list[int]:
    """The channels, from 0, with the same audio as an earlier one."""
    return [
        channel
        for channel, track in enumerate(tracks)
        if any(track.same_audio(earlier) for earlier in tracks[:channel])
    ]


def merge_channels(words_C: Sequence[Sequence[Word]], tracks: Sequence[Track]) -> list[Word]:
    """The words of all channels, numbered from 1, phrase by phrase in order of time.

    Cross-talk (``lalia.audio.channels``) and channels that repeat another one are left out.
    """
    phrases: list[list[Word]] = []
    left_out = duplicate_channels(tracks)
    for channel, (words, track) in enumerate(zip(words_C, tracks, strict=True)):
        if channel in left_out:
            continue
        others = [other for other in tracks if other is not track]
        own = [replace(word, channel=channel + 1) for word in words if not track.is_cross_talk(word, others)]
        phrases += _split(own, PHRASE_S)
    return [word for phrase in sorted(phrases, key=lambda phrase: phrase[0].start_s) for word in phrase]


def turns(words: Sequence[Word]) -> list[list[Word]]:
    """The words of a conversation as turns: split at each change of channel and at long pauses."""
    return _split(words, TURN_S)


def _split(words: Sequence[Word], pause_s: Seconds) -> list[list[Word]]:
    parts: list[list[Word]] = []
    for word in words:
        if parts and word.channel == parts[-1][-1].channel and word.start_s - parts[-1][-1].end_s <= pause_s:
            parts[-1].append(word)
        else:
            parts.append([word])
    return parts


# --- Transcripts as files --------------------------------------------------------------------------------

FORMATS = ("txt", "json", "srt", "vtt")

LINE_COLUMNS = 42
LINES = 2
LONGEST_S: Seconds = 6.0
SHORTEST_S: Seconds = 1.0
PAUSE_S: Seconds = 0.8


@dataclass(frozen=True)
class Cue:
    """A subtitle: text shown from ``start_s`` to ``end_s``, of one ``channel`` (0: mixed)."""

    start_s: Seconds
    end_s: Seconds
    lines: tuple[str, ...]
    channel: int = 0


def render(transcript: Transcript, format: str, name: str = "") -> str:
    """``transcript`` as the text of a file: one line of txt or json (which names the audio ``name``), or whole subtitles.

    If channels were transcribed separately, txt has a line for each turn, and turns and cues begin with the channel.
    """
    if format == "txt":
        lines = (
            [f"{turn[0].channel}: {_turn_text(turn)}" for turn in turns(transcript.words)]
            if _has_channels(transcript)
            else []
        )
        return "\n".join(lines or [transcript.text]) + "\n"
    if format == "json":
        return _json(transcript, name) + "\n"
    if format == "srt":
        return "".join(
            f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n"
            + (f"{cue.channel}: " if cue.channel else "")
            + "\n".join(cue.lines)
            + "\n\n"
            for number, cue in enumerate(make_cues(transcript.words), start=1)
        )
    if format == "vtt":
        return "WEBVTT\n\n" + "".join(
            f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n"
            + (f"<v {cue.channel}>" if cue.channel else "")
            + "\n".join(map(_escaped, cue.lines))
            + "\n\n"
            for cue in make_cues(transcript.words)
        )
    raise UserError(f"format {format!r} is unknown; expected one of {', '.join(FORMATS)}")


def make_cues(words: Sequence[Word]) -> list[Cue]:
    """Words grouped into cues of at most two lines and six seconds, split at pauses; cues do not overlap."""
    groups: list[list[Word]] = []
    for word in words:
        group = groups[-1] if groups else []
        if (
            not group
            or word.channel != group[-1].channel
            or word.start_s - group[-1].end_s > PAUSE_S
            or word.end_s - group[0].start_s > LONGEST_S
            or len(_wrap([w.text for w in [*group, word]])) > LINES
        ):
            groups.append([word])
        else:
            group.append(word)
    cues = []
    for group, following in zip_longest(groups, groups[1:]):
        # At least SHORTEST_S, but not longer than until the next one.
        end_s = max(group[-1].end_s, group[0].start_s + SHORTEST_S)
        if following:
            end_s = min(end_s, max(following[0].start_s, group[-1].end_s))
        cues.append(Cue(group[0].start_s, end_s, tuple(_wrap([w.text for w in group])), group[0].channel))
    return cues


def _wrap(texts: Sequence[str]) -> list[str]:
    lines: list[list[str]] = [[]]
    for text in texts:
        if lines[-1] and _columns(join_words([*lines[-1], text])) > LINE_COLUMNS:
            lines.append([])
        lines[-1].append(text)
    return [join_words(line) for line in lines]


def _columns(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _json(transcript: Transcript, name: str) -> str:
    separate = _has_channels(transcript)
    found = {
        "audio": name,
        "duration_s": transcript.duration_s,
        "text": transcript.text,
        "words": [
            {"text": w.text, "start_s": w.start_s, "end_s": w.end_s, "confidence": round(w.confidence, 3)}
            | ({"channel": w.channel} if separate else {})
            for w in transcript.words
        ],
    }
    if separate:
        found["turns"] = [
            {"channel": turn[0].channel, "start_s": turn[0].start_s, "end_s": turn[-1].end_s, "text": _turn_text(turn)}
            for turn in turns(transcript.words)
        ]
    return json.dumps(found, ensure_ascii=False)


def _has_channels(transcript: Transcript) -> bool:
    """Whether channels were transcribed separately."""
    return any(word.channel for word in transcript.words)


def _turn_text(turn: Sequence[Word]) -> str:
    return join_words(word.text for word in turn)


def _clock(seconds: Seconds, mark: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{mark}{milliseconds % 1000:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
