"""Speaker turns, and the files that hold them: RTTM (NIST's Rich Transcription Time Marked) and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lalia.errors import UserError
from lalia.units import Seconds

FORMATS = ("rttm", "json")
_FIELDS = 9
"""A line of RTTM has ten fields; some writers leave out the last."""


@dataclass(frozen=True)
class SpeakerTurn:
    """One speaker talks from ``start_s`` to ``end_s``; the turns of others may overlap."""

    start_s: Seconds
    end_s: Seconds
    speaker: str


def format_rttm(turns: Iterable[SpeakerTurn], name: str) -> str:
    """The turns as lines of RTTM; a file's name must not have spaces there, so they become underscores."""
    name = "_".join(name.split()) or "audio"
    return "".join(
        f"SPEAKER {name} 1 {turn.start_s:.3f} {turn.end_s - turn.start_s:.3f} <NA> <NA> {turn.speaker} <NA> <NA>\n"
        for turn in turns
    )


def format_json(turns: Sequence[SpeakerTurn], name: str, duration_s: Seconds) -> str:
    """One line: the file, its length, its speakers with their seconds, and the turns."""
    seconds: dict[str, float] = {}
    for turn in turns:
        seconds[turn.speaker] = seconds.get(turn.speaker, 0.0) + turn.end_s - turn.start_s
    found = {
        "audio": name,
        "duration_s": duration_s,
        "speakers": {speaker: round(total, 3) for speaker, total in sorted(seconds.items())},
        "turns": [{"speaker": t.speaker, "start_s": round(t.start_s, 3), "end_s": round(t.end_s, 3)} for t in turns],
    }
    return json.dumps(found, ensure_ascii=False) + "\n"


def read_rttm(path: Path) -> Mapping[str, list[SpeakerTurn]]:
    """The turns of each recording in an RTTM file; ``UserError`` names the first line that is not RTTM."""
    found: dict[str, list[SpeakerTurn]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as RTTM ({error})") from error
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0] != "SPEAKER":
            continue
        try:
            start_s, length_s = float(fields[3]), float(fields[4])
            if len(fields) < _FIELDS or length_s < 0:
                raise ValueError
        except (ValueError, IndexError):
            raise UserError(
                f"{path}: line {number} is {line[:60]!r}; expected SPEAKER FILE 1 START LENGTH <NA> <NA> NAME <NA> <NA>"
            ) from None
        found.setdefault(fields[1], []).append(SpeakerTurn(start_s, start_s + length_s, fields[7]))
    return found
