"""NIST's segment time marks (``.stm``): file, channel, speaker, two times, perhaps labels, and a text in each line."""

from __future__ import annotations

import re
from pathlib import Path

from lalia.data.prepare.sources.annotations import Annotated, Annotation, Tier
from lalia.exits import UserError
from lalia.text.files import decoded

_LINE = re.compile(
    r"(\S+)\s+(\S+)\s+(\S+)\s+(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)(?:\s+<[^<>\s]*,[^<>]*>|\s+<[\w]*>)?(?:\s+(.*))?"
)
_NOT_SCORED = "ignore_time_segment_in_scoring"
_CHANNELS = {"a": 0, "b": 1, "1": 0, "2": 1}


def read_stm(path: Path) -> Annotated:
    """Its segments. Those that are not scored have no text; of alternatives (``{ a / b }``) the first is read.

    The channels of a file count where it has segments on several.
    """
    found: list[tuple[str, Annotation]] = []
    for number, line in enumerate(decoded(path).splitlines(), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        parts = _LINE.fullmatch(line.strip())
        if parts is None:
            raise UserError(
                f"{path}: line {number} is none of an .stm ({line[:40]!r}); expected FILE CHANNEL SPEAKER START END <LABELS> TEXT"
            )
        file, channel, speaker, start, end, text = parts.groups()
        text = (
            "" if (text or "").strip().casefold() == _NOT_SCORED else re.sub(r"\{([^{}/]*)/[^{}]*\}", r"\1", text or "")
        )
        text = " ".join(word for word in text.split() if word != "@")
        found.append(
            (channel, Annotation(text, float(start), float(end), speaker, file, _CHANNELS.get(channel.casefold())))
        )
    if not found:
        raise UserError(f"{path}: holds no segment; expected lines of FILE CHANNEL SPEAKER START END <LABELS> TEXT")
    channels: dict[str, set[str]] = {}
    for channel, one in found:
        channels.setdefault(one.media, set()).add(channel)
    kept = [one if len(channels[one.media]) > 1 else one.of_all_channels() for _, one in found]
    return Annotated("STM file", [Tier("", kept)])
