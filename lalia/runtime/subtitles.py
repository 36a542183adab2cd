"""Transcripts as files: plain text, JSON lines, SubRip and WebVTT."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from lalia.decoding.greedy import Word
from lalia.exits import UserError
from lalia.runtime.conversation import turns
from lalia.runtime.transcript import Transcript
from lalia.text.scripts import join_words
from lalia.units import Seconds

FORMATS = ("txt", "json", "srt", "vtt")

LINE_COLUMNS = 42
LINES = 2
LONGEST_S: Seconds = 6.0
SHORTEST_S: Seconds = 1.0
PAUSE_S: Seconds = 0.8


@dataclass(frozen=True)
class Cue:
    """Text shown from ``start_s`` to ``end_s``; of one channel, where channels were told apart."""

    start_s: Seconds
    end_s: Seconds
    lines: tuple[str, ...]
    channel: int = 0


def render(transcript: Transcript, format: str, name: str = "") -> str:
    """``transcript`` as the text of a file: one line of txt or json (which names the audio ``name``), or whole subtitles.

    Where channels were told apart, txt has a line for each turn, and turns and cues begin with the channel.
    """
    if format == "txt":
        lines = [f"{turn[0].channel}: {_said(turn)}" for turn in turns(transcript.words)] if _parted(transcript) else []
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
    """Words gathered into cues of at most two lines and six seconds, broken at pauses; none overlaps the next."""
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
        # Long enough to be read, but gone when the next one comes.
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
    parted = _parted(transcript)
    found = {
        "audio": name,
        "duration_s": transcript.duration_s,
        "text": transcript.text,
        "words": [
            {"text": w.text, "start_s": w.start_s, "end_s": w.end_s, "confidence": round(w.confidence, 3)}
            | ({"channel": w.channel} if parted else {})
            for w in transcript.words
        ],
    }
    if parted:
        found["turns"] = [
            {"channel": turn[0].channel, "start_s": turn[0].start_s, "end_s": turn[-1].end_s, "text": _said(turn)}
            for turn in turns(transcript.words)
        ]
    return json.dumps(found, ensure_ascii=False)


def _parted(transcript: Transcript) -> bool:
    """Whether the channels were told apart."""
    return any(word.channel for word in transcript.words)


def _said(turn: Sequence[Word]) -> str:
    return join_words(word.text for word in turn)


def _clock(seconds: Seconds, mark: str) -> str:
    minutes, milliseconds = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{mark}{milliseconds % 1000:03d}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
