"""Read lhotse manifests (cuts, supervisions, recordings) as rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lalia.errors import UserError
from lalia.text.text_files import read_lines

FIELDS = {name: name for name in ("audio", "text", "language", "speaker", "start", "duration", "id", "channel")}
"""The columns of the rows."""
_KINDS = {
    "cuts": {"supervisions", "recording"},
    "supervisions": {"recording_id", "start", "duration"},
    "recordings": {"sources", "sampling_rate"},
}

Row = dict[str, Any]


def kind_of(columns: Iterable[str]) -> str:
    """The kind of lhotse manifest with these columns; "" if it is none."""
    found = set(columns)
    return next((kind for kind, needed in _KINDS.items() if needed <= found), "")


def rows_of(
    path: Path, kind: str, rows: Iterable[tuple[int, Row | str]], parse: Any
) -> Iterator[tuple[int, Row | str]]:
    """A row for every supervision, and for every cut or recording without one; ``parse`` reads a line of JSON."""
    recordings: dict[str, Row] = {}
    if kind == "supervisions":
        recordings_path = path.with_name(path.name.replace("supervisions", "recordings"))
        if recordings_path == path or not recordings_path.is_file():
            raise UserError(
                f"{path}: lhotse's supervisions refer to recordings by id; expected their manifest next to it, with the same "
                "name and recordings instead of supervisions"
            )
        found = [parse(line.decode("utf-8", "replace")) for line in read_lines(recordings_path) if line.strip()]
        recordings = {str(row.get("id")): row for row in found if isinstance(row, dict)}
    for number, row in rows:
        if isinstance(row, str):
            yield number, row
            continue
        try:
            if kind == "cuts":
                yield from ((number, found) for found in _of_cut(row))
            elif kind == "recordings":
                yield number, _row(row, row.get("id"), {}, 0.0, 0.0)
            else:
                recording = recordings.get(str(row["recording_id"]))
                if recording is None:
                    yield number, f"no recording has the id {row['recording_id']}"
                    continue
                whole = not row["start"] and row["duration"] >= recording["duration"]
                yield number, _row(recording, row.get("id"), row, row["start"], 0.0 if whole else row["duration"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            yield number, f"cannot be read as a {kind[:-1]} ({type(error).__name__}: {error})"


def _of_cut(cut: Row) -> Iterator[Row]:
    if cut.get("type", "MonoCut") not in ("MonoCut", "MultiCut"):
        raise ValueError(f"a {cut['type']}; expected MonoCut")
    recording = cut["recording"]
    whole = not cut["start"] and cut["duration"] >= recording["duration"]
    for one in cut.get("supervisions") or [{}]:
        start_s, length_s = float(one.get("start", 0.0)), float(one.get("duration", cut["duration"]))
        if whole and not start_s and length_s >= cut["duration"]:
            length_s = 0.0
        yield _row(
            recording,
            one.get("id") or cut.get("id"),
            {"channel": cut.get("channel"), **one},
            cut["start"] + start_s,
            length_s,
        )


def _row(recording: Row, id: Any, supervision: Row, start_s: float, length_s: float) -> Row:
    sources = recording["sources"]
    if len(sources) != 1 or sources[0].get("type") not in ("file", "url"):
        raise ValueError(
            f"its audio is {', '.join(str(one.get('type')) for one in sources) or 'nowhere'}, expected one file"
        )
    channel = supervision.get("channel")
    several = len(sources[0].get("channels", [])) > 1 and isinstance(channel, int)
    return {
        "audio": sources[0]["source"],
        "text": supervision.get("text") or "",
        "language": supervision.get("language") or "",
        "speaker": supervision.get("speaker") or "",
        "start": start_s if length_s else "",
        "duration": length_s or "",
        "id": id,
        "channel": channel + 1 if several and isinstance(channel, int) else "",
    }
