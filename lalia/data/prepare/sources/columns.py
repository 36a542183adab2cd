"""Columns of tables: which of them holds what, whatever they are called, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePath

from lalia.audio.reading import SUFFIXES
from lalia.data.prepare.options import Options
from lalia.exits import UserError

NAMES: dict[str, tuple[str, ...]] = {
    "audio": (
        "audio", "path", "audio_filepath", "audio_path", "file", "filename", "file_name", "wav", "clip", "audio_file",
        "audio_filename", "wav_path", "wav_filename", "filepath", "file_path", "recording", "wav_file", "audiofile", "file name",
        "audio file", "media",
    ),
    "text": (
        "text", "sentence", "transcription", "transcript", "raw_transcription", "normalized_text", "label",
        "utterance_text", "transcript_text", "normalised_text", "raw_text", "prompt", "utterance",
    ),
    "language": ("language", "lang", "locale", "lang_id", "language_code", "lang_code"),
    "speaker": (
        "speaker", "speaker_id", "client_id", "spk", "speaker_name", "spk_id", "speakerid", "voice", "voice_id", "reader",
        "reader_id", "talker", "user", "user_id", "narrator",
    ),
    "split": ("split", "subset", "partition"),
    "duration": ("duration_s", "duration", "duration_seconds", "length_s", "duration_ms"),
    "start": (
        "start_s", "start", "offset", "begin", "start_time", "begin_time", "start_sec", "start_seconds", "onset", "tmin", "xmin",
        "begin time - ss.msec", "begin time - hh:mm:ss.ms", "begin time", "start time", "start_ms", "begin_ms",
        "begin time - msec",
    ),
    "end": (
        "end_s", "end", "stop", "end_time", "stop_time", "end_sec", "end_seconds", "tmax", "xmax", "end time - ss.msec",
        "end time - hh:mm:ss.ms", "end time", "stop time", "end_ms", "stop_ms", "end time - msec",
    ),
    "id": ("id", "clip_id", "utt_id", "segment_id", "utterance_id"),
    "channel": (),  # Its usual name is that of other things too; --columns channel=NAME says it.
    "licence": ("licence", "license"),
}  # fmt: skip
"""Our field names and the usual names for each, the surest first."""


def find_columns(
    columns: list[str], options: Options, where: str, needed: tuple[str, ...] = ("audio",)
) -> dict[str, str]:
    """Our field names to the table's columns, as told or by their usual names; ``UserError`` where one needed is missing, or
    where the first line holds no names at all."""
    found: dict[str, str] = {}
    known = {name.lower(): name for name in columns}
    if not any(word in known for usual in NAMES.values() for word in usual):
        _refuse_data(columns, where)
    for ours, usual in NAMES.items():
        told = options.columns.get(ours)
        if told is not None and told not in columns:
            raise UserError(f"{where}: has no column {told!r}; it has {', '.join(columns) or 'none'}")
        name = told or next((known[word] for word in usual if word in known), None)
        if name is not None:
            found[ours] = name
    if missing := [name for name in needed if name not in found]:
        raise UserError(
            f"{where}: has no column for {', '.join(missing)} (it has {', '.join(columns) or 'none'});"
            f" name it, as in --columns {_example(columns, found)}"
        )
    return found


def _example(columns: list[str], found: Mapping[str, str]) -> str:
    """What ``--columns`` may say of the columns that nobody knows, in their order: audio, text, then the speaker."""
    unknown = [name for name in columns if name and name not in found.values()]
    wanted = [ours for ours in ("audio", "text", "speaker") if ours not in found]
    return ",".join(f"{ours}={name}" for ours, name in zip(wanted, unknown, strict=False)) or "audio=NAME"


def describe_columns(columns: Iterable[str], found: Mapping[str, str], where: str) -> list[str]:
    """In a line what is read as what and what is not used, and in another that there are no texts where that is so."""
    unused = [name for name in columns if name and name not in found.values()]
    line = "columns: " + ", ".join(f"{ours}={theirs}" for ours, theirs in found.items())
    if unused:
        hint = next((f"{ours}={unused[0]}" for ours in ("text", "speaker") if ours not in found), "OURS=NAME")
        line += f"; not used: {', '.join(unused)} (--columns {hint} uses {'it' if len(unused) == 1 else 'one'})"
    if "text" in found:
        return [line]
    such = f"--columns text=NAME names one of {', '.join(unused)}" if unused else "none is left that could hold them"
    return [line, f"{where}: no column is known to hold texts, so no clip will have a label; {such}"]


def _refuse_data(columns: list[str], where: str) -> None:
    """A ``UserError`` where the names of columns are the values of a first clip."""
    audio = next((name for name in columns if PurePath(name).suffix.lower() in SUFFIXES), None)
    if audio is None:
        return
    text = max((name for name in columns if name != audio), key=len, default=None)
    names = {audio: "audio", text: "text"}
    header = ", ".join(names.get(name, f"column{number}") for number, name in enumerate(columns, 1))
    raise UserError(
        f"{where}: its first line looks like data ({audio!r}), not like the names of its columns; write such a line above it, "
        f"as in: {header} (parted as the others are). --columns OURS=NAME tells what a column holds whose name is not known"
    )
