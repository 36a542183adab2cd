"""ELAN's ``.eaf`` files, and the tables that ELAN exports (tab-delimited text)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from lalia.data.prepare.sources.annotations import Annotated, Annotation, Tier, seconds
from lalia.data.prepare.sources.markup import read_xml
from lalia.exits import UserError
from lalia.text.files import decoded, first_line
from lalia.units import Seconds


def read_elan(path: Path) -> Annotated:
    """Every tier of an ``.eaf``.

    An annotation without times of its own has those of the one it refers to. Where several share a time (words below an
    utterance, or parts that nobody has aligned) they become one: when each of them is spoken is not known.
    """
    root = read_xml(path, "ANNOTATION_DOCUMENT", "an ELAN file")
    per_s = 1000.0 if root.find("HEADER") is None else _units_per_s(root)
    slots: dict[str, Seconds | None] = {}
    for slot in root.iterfind("TIME_ORDER/TIME_SLOT"):
        value = slot.get("TIME_VALUE")
        try:
            slots[slot.get("TIME_SLOT_ID", "")] = None if value is None else float(value) / per_s
        except ValueError as error:
            raise UserError(f"{path}: holds a time that is none ({error}); save it again in ELAN") from error
    media = list(root.iterfind("HEADER/MEDIA_DESCRIPTOR"))
    # Audio before video: a recording is often both.
    media.sort(key=lambda one: not one.get("MIME_TYPE", "").startswith("audio"))
    origin = media[0].get("TIME_ORIGIN", "0") if media else "0"
    origin_s = int(origin) / 1000 if origin.removeprefix("-").isdecimal() else 0.0
    times = _times(root, slots)
    tiers = []
    for tier in root.iterfind("TIER"):
        found = [(one.get("ANNOTATION_ID", ""), one.findtext("ANNOTATION_VALUE") or "") for one in tier.iterfind("*/*")]
        tiers.append(
            Tier(
                name=tier.get("TIER_ID", ""),
                annotations=_joined([(times.get(id, (None, None)), text) for id, text in found], origin_s),
                kind=tier.get("LINGUISTIC_TYPE_REF", ""),
                parent=tier.get("PARENT_REF", ""),
                speaker=tier.get("PARTICIPANT", "").strip(),
            )
        )
    links = [one.get(name, "") for name in ("RELATIVE_MEDIA_URL", "MEDIA_URL") for one in media]
    header = root.find("HEADER")
    links.append("" if header is None else header.get("MEDIA_FILE", ""))
    return Annotated("ELAN file", tiers, [link for link in links if link])


def _units_per_s(root: ElementTree.Element) -> float:
    header = root.find("HEADER")
    units = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    return {"milliseconds": 1000.0, "NTSC-frames": 30000 / 1001, "PAL-frames": 25.0}.get(units, 1000.0)


_Times = tuple[Seconds | None, Seconds | None]


def _times(root: ElementTree.Element, slots: dict[str, Seconds | None]) -> dict[str, _Times]:
    """From when to when each annotation goes, by its name."""
    times: dict[str, _Times] = {}
    refers: dict[str, str] = {}
    for tier in root.iterfind("TIER"):
        chain: list[tuple[str, str, str]] = []
        for one in tier.iterfind("ANNOTATION/ALIGNABLE_ANNOTATION"):
            chain.append((one.get("ANNOTATION_ID", ""), one.get("TIME_SLOT_REF1", ""), one.get("TIME_SLOT_REF2", "")))
        times |= _aligned(chain, slots)
        for one in tier.iterfind("ANNOTATION/REF_ANNOTATION"):
            refers[one.get("ANNOTATION_ID", "")] = one.get("ANNOTATION_REF", "")
    for id in refers:
        above, seen = id, set()
        while above in refers and above not in seen:
            seen.add(above)
            above = refers[above]
        times[id] = times.get(above, (None, None))
    return times


def _aligned(chain: list[tuple[str, str, str]], slots: dict[str, Seconds | None]) -> dict[str, _Times]:
    """Annotations of a tier that meet in slots without a time all get the known times around them."""
    starts = {first: (id, last) for id, first, last in chain}
    ends = {last: (id, first) for id, first, last in chain}

    def known(slot: str, beyond: dict[str, tuple[str, str]]) -> Seconds | None:
        seen = set()
        while slots.get(slot) is None and slot in beyond and slot not in seen:
            seen.add(slot)
            slot = beyond[slot][1]
        return slots.get(slot)

    return {id: (known(first, ends), known(last, starts)) for id, first, last in chain}


def _joined(found: Sequence[tuple[_Times, str]], origin_s: Seconds) -> list[Annotation]:
    """Annotations in order; neighbours with the same times are one."""
    groups: list[tuple[_Times, list[str]]] = []
    for times, text in found:
        if groups and groups[-1][0] == times and None not in times:
            groups[-1][1].append(text)
        else:
            groups.append((times, [text]))
    return [
        Annotation(
            " ".join(texts),
            None if start_s is None else start_s + origin_s,
            None if end_s is None else end_s + origin_s,
        )
        for (start_s, end_s), texts in groups
    ]


_HEADER = re.compile(r"(begin|end) ?time(?: ?- ?(hh:mm:ss\.ms|ss\.msec|msec|.*frames))?", re.IGNORECASE)
_CLOCK = re.compile(r"\d+:\d\d:\d+\.\d+")
_DECIMAL = re.compile(r"\d+\.\d+")
_NOT_TEXT = re.compile(
    r"(begin|end) ?time.*|duration.*|tier.*|speaker|participant|annotator|file.*|media.*", re.IGNORECASE
)


def is_elan_export(path: Path) -> bool:
    """Whether a file is a table that ELAN exported: its columns are called so, or its first row holds times of its form."""
    cells = first_line(path).split("\t")
    return bool(_time_columns(cells)) or _bare_columns(cells) is not None


def read_elan_export(path: Path) -> Annotated:
    """The rows of a table that ELAN exported, with or without names of columns, a tier or a file each.

    A column that is none of those that ELAN names is a tier (``Separate column for each tier``).
    """
    rows = [line.split("\t") for line in decoded(path).splitlines() if line.strip()]
    names = [cell.strip() for cell in rows[0]] if rows else []
    times = _time_columns(names)
    if times:
        rows = rows[1:]
        lower = [name.casefold() for name in names]
        column = {
            "tier": _first(lower, "tier", "tier name"),
            "speaker": _first(lower, "speaker", "participant"),
            "file": _first(lower, "file", "file name", "media", "media file", "file path"),
        }
        texts = [number for number, name in enumerate(names) if name and not _NOT_TEXT.fullmatch(name)]
    else:
        bare = _bare_columns(names)
        if bare is None:
            raise UserError(f"{path}: is no table that ELAN exported; expected columns such as Begin Time - ss.msec")
        times, column, texts = bare
    tiers: dict[str, Tier] = {}
    for row in rows:
        cell = {name: row[number].strip() if 0 <= number < len(row) else "" for name, number in column.items()}
        start_s, end_s = (_time(row, *found) for found in times)
        for number in texts:
            if len(texts) > 1 and not (number < len(row) and row[number].strip()):
                continue  # Each tier has its column: the row is another's.
            name = names[number] if len(texts) > 1 else cell["tier"]
            text = row[number] if number < len(row) else ""
            tier = tiers.setdefault(name, Tier(name, []))
            tier.annotations.append(Annotation(text, start_s, end_s, cell["speaker"], cell["file"]))
    return Annotated("ELAN export", list(tiers.values()))


_TimeColumns = list[tuple[int, float]]


def _first(names: list[str], *usual: str) -> int:
    return next((names.index(name) for name in usual if name in names), -1)


def _time_columns(names: list[str]) -> _TimeColumns:
    """The columns of begin and end and their units in seconds, the surest form first; [] where there are none."""
    found: dict[str, list[tuple[int, int, float]]] = {"begin": [], "end": []}
    for number, name in enumerate(names):
        match = _HEADER.fullmatch(name.strip())
        form = (match[2] or "").casefold() if match else "frames"
        if match and "frames" not in form:
            order = ["ss.msec", "hh:mm:ss.ms", "msec", ""].index(form)
            found[match[1].casefold()].append((order, number, 0.001 if form == "msec" else 1.0))
    if not found["begin"] or not found["end"]:
        return []
    return [(min(found[which])[1], min(found[which])[2]) for which in ("begin", "end")]


def _bare_columns(cells: list[str]) -> tuple[_TimeColumns, dict[str, int], list[int]] | None:
    """What the columns of a table without a header hold: tier, participant, begin, end, perhaps duration, text."""
    clocks = [number for number, cell in enumerate(cells) if _CLOCK.fullmatch(cell.strip())]
    if len(clocks) < 2 or clocks[0] > 2:
        return None
    numbers = [number for number, cell in enumerate(cells) if _DECIMAL.fullmatch(cell.strip()) or number in clocks]
    text = next((number for number in range(clocks[1] + 1, len(cells)) if number not in numbers), None)
    if text is None or any(cells[number].strip().isdecimal() for number in (text,)):
        return None
    column = {"tier": 0 if clocks[0] else -1, "speaker": 1 if clocks[0] > 1 else -1, "file": -1}
    return [(clocks[0], 1.0), (clocks[1], 1.0)], column, [text]


def _time(row: list[str], number: int, unit_s: Seconds) -> Seconds | None:
    try:
        return seconds(row[number]) * unit_s
    except (ValueError, IndexError):
        return None
