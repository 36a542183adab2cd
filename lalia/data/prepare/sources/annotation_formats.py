"""Read annotation formats: ELAN, Praat TextGrid, subtitles, Audacity labels, CHAT, Transcriber and STM.

Each reader returns an ``AnnotationFile`` and is registered in ``folders.ANNOTATIONS``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from lalia.data.prepare.sources.annotations import Annotation, AnnotationFile, Tier, seconds
from lalia.errors import UserError
from lalia.text.text_files import first_line, read_unicode
from lalia.units import Seconds

# --- XML files of annotation programs; entities are rejected because they can expand without limit -------


def read_xml(path: Path, top: str, what: str) -> ElementTree.Element:
    """The root element of the XML file ``path``, with the tag ``top``; ``UserError`` for any other file.

    A file that declares entities is rejected: none of these formats needs them, and nested entities can expand without limit.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected {what}") from error
    if b"<!ENTITY" in data.replace(b"\0", b""):
        raise UserError(f"{path}: declares XML entities, which {what} never has; save it again with its program")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path}: cannot be read as XML ({error}); expected {what}") from error
    if root.tag != top:
        raise UserError(f"{path}: is XML of another kind (<{root.tag}>); expected {what}")
    return root


# --- ELAN's ``.eaf`` files, and tables exported by ELAN (tab-delimited text) -----------------------------


def read_elan(path: Path) -> AnnotationFile:
    """All tiers of an ``.eaf``.

    An annotation without times has those of the annotation it refers to. Annotations with the same times (words of an
    utterance, or parts that are not aligned) become one, because their own times are unknown.
    """
    root = read_xml(path, "ANNOTATION_DOCUMENT", "an ELAN file")
    per_s = 1000.0 if root.find("HEADER") is None else _units_per_s(root)
    slots: dict[str, Seconds | None] = {}
    for slot in root.iterfind("TIME_ORDER/TIME_SLOT"):
        value = slot.get("TIME_VALUE")
        try:
            slots[slot.get("TIME_SLOT_ID", "")] = None if value is None else float(value) / per_s
        except ValueError as error:
            raise UserError(f"{path}: contains an invalid time ({error}); save it again in ELAN") from error
    media = list(root.iterfind("HEADER/MEDIA_DESCRIPTOR"))
    # Audio before video: a recording often has both.
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
    return AnnotationFile("ELAN file", tiers, [link for link in links if link])


def _units_per_s(root: ElementTree.Element) -> float:
    header = root.find("HEADER")
    units = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    return {"milliseconds": 1000.0, "NTSC-frames": 30000 / 1001, "PAL-frames": 25.0}.get(units, 1000.0)


_Times = tuple[Seconds | None, Seconds | None]


def _times(root: ElementTree.Element, slots: dict[str, Seconds | None]) -> dict[str, _Times]:
    """Start and end of each annotation, by its id."""
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
    """Start and end of each aligned annotation. Annotations that meet at slots without a time get the known times around them."""
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
    """Annotations in order; neighbours with the same times are joined."""
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
    """Whether a file is a table exported by ELAN, by the names of its columns or the times in its first row."""
    cells = first_line(path).split("\t")
    return bool(_time_columns(cells)) or _bare_columns(cells) is not None


def read_elan_export(path: Path) -> AnnotationFile:
    """The rows of a table exported by ELAN, with or without column names.

    A column with a name that ELAN does not use is a tier (option ``Separate column for each tier``).
    """
    rows = [line.split("\t") for line in read_unicode(path).splitlines() if line.strip()]
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
            raise UserError(f"{path}: is not a table exported by ELAN; expected columns such as Begin Time - ss.msec")
        times, column, texts = bare
    tiers: dict[str, Tier] = {}
    for row in rows:
        cell = {name: row[number].strip() if 0 <= number < len(row) else "" for name, number in column.items()}
        start_s, end_s = (_time(row, *found) for found in times)
        for number in texts:
            if len(texts) > 1 and not (number < len(row) and row[number].strip()):
                continue  # Each tier has its own column: this row belongs to another tier.
            name = names[number] if len(texts) > 1 else cell["tier"]
            text = row[number] if number < len(row) else ""
            tier = tiers.setdefault(name, Tier(name, []))
            tier.annotations.append(Annotation(text, start_s, end_s, cell["speaker"], cell["file"]))
    return AnnotationFile("ELAN export", list(tiers.values()))


_TimeColumns = list[tuple[int, float]]


def _first(names: list[str], *usual: str) -> int:
    return next((names.index(name) for name in usual if name in names), -1)


def _time_columns(names: list[str]) -> _TimeColumns:
    """The columns of begin and end and their units in seconds, the most reliable format first; [] if there are none."""
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
    """The columns of a table without a header: tier, participant, begin, end, optionally duration, text."""
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


# --- Praat's ``.TextGrid`` files, in the long and the short form -----------------------------------------


def read_textgrid(path: Path) -> AnnotationFile:
    """All interval tiers; point tiers are empty, because points have no length."""
    try:
        from praatio.utilities.textgrid_io import parseTextgridStr
    except ImportError as error:
        raise UserError(
            f"{path}: a TextGrid is read by praatio, which is not installed; run: pip install praatio"
        ) from error
    with path.open("rb") as file:
        if file.read(12) == b"ooBinaryFile":
            raise UserError(f"{path}: is a binary TextGrid; in Praat: Save as text file")
    text = read_unicode(path).replace("\r\n", "\n").replace("\r", "\n")
    found = []
    try:
        for tier in parseTextgridStr(text, includeEmptyIntervals=True)["tiers"]:
            entries = tier["entries"] if tier["class"] == "IntervalTier" else []
            rows = [Annotation(text, float(start) + 0.0, float(end)) for start, end, text in entries]
            found.append(Tier(tier["name"], rows))
    except Exception as error:  # Whatever the parser raises.
        raise UserError(
            f"{path}: cannot be read as a TextGrid ({error or 'the file is truncated'}); save it again in Praat"
        ) from error
    return AnnotationFile("Praat TextGrid", found)


# --- Subtitles (SRT, WebVTT, SubStation) and Audacity's label tracks -------------------------------------

FORMATS = {".srt": "srt", ".vtt": "vtt", ".ass": "ass", ".ssa": "ass"}
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


def read_subtitles(path: Path) -> AnnotationFile:
    """The lines of subtitles without their markup; WebVTT's ``<v Anna>`` and SubStation's names are the speakers."""
    try:
        import pysubs2
    except ImportError as error:
        raise UserError(
            f"{path}: subtitles are read by pysubs2, which is not installed; run: pip install pysubs2"
        ) from error
    text = read_unicode(path)
    form = FORMATS[path.suffix.lower()]
    keep = {"keep_html_tags": True} if form in ("srt", "vtt") else {}
    try:
        lines = [line for line in pysubs2.SSAFile.from_string(text, format_=form, **keep) if not line.is_comment]
    except Exception as error:
        raise UserError(f"{path}: cannot be read as {form.upper()} ({error}); expected subtitles") from error
    if not lines:
        raise UserError(
            f"{path}: holds no subtitles; expected {form.upper()} with times such as 00:00:01,000 --> 00:00:02,500"
        )
    found = []
    for line in lines:
        voice = _VOICE.search(line.text)
        words = html.unescape(_TAG.sub("", re.sub(r"\\[Nnh]", " ", line.text)))
        found.append(Annotation(words, line.start / 1000, line.end / 1000, voice[1].strip() if voice else line.name))
    return AnnotationFile("subtitles", [Tier("", found)], language=_language(path, text))


def _language(path: Path, text: str) -> str:
    """The language in the header of a WebVTT file, or in a file name such as ``talk.it.srt``."""
    found = re.search(r"^Language:\s*([\w-]+)\s*$", text[:1000], re.MULTILINE)
    return found[1] if found else path.stem.rpartition(".")[2] if "." in path.stem else ""


_LABEL = re.compile(r"(\d+(?:[.,]\d+)?)\t(\d+(?:[.,]\d+)?)(?:\t(.*))?")


def is_label_track(path: Path) -> bool:
    """Whether a text file contains Audacity labels: two times and a text in each line."""
    return _LABEL.fullmatch(first_line(path)) is not None


def read_labels(path: Path) -> AnnotationFile:
    """The labels of an Audacity track. Lines of frequencies, which start with a backslash, are skipped."""
    found = []
    for number, line in enumerate(read_unicode(path).splitlines(), 1):
        if not line.strip() or line.startswith("\\"):
            continue
        label = _LABEL.fullmatch(line)
        if label is None:
            raise UserError(
                f"{path}: line {number} is not a label ({line[:40]!r}); expected two times and a text, separated by tabs"
            )
        found.append(Annotation(label[3] or "", seconds(label[1]), seconds(label[2])))
    return AnnotationFile("Audacity labels", [Tier("", found)])


# --- CHAT transcripts (``.cha``) of CHILDES and TalkBank -------------------------------------------------

_UNKNOWN_WORDS = frozenset(("xxx", "yyy", "www"))  # unintelligible, phonological, untranscribed


def read_chat(path: Path) -> AnnotationFile:
    """The utterances, without codes and without text in brackets.

    An utterance with unintelligible words has no text, because its label would be incomplete.
    """
    try:
        from rustling.chat import CHAT
    except ImportError as error:
        raise UserError(
            f"{path}: CHAT is read by rustling, which is not installed; run: pip install rustling"
        ) from error
    text = read_unicode(path)
    try:
        chat = CHAT.from_strs([text], parallel=False, strict=False, mor_tier=None, gra_tier=None)
        header = chat.headers()[0]
        utterances = chat.utterances()
    except Exception as error:
        raise UserError(f"{path}: cannot be read as CHAT ({error}); expected a .cha file") from error
    names = {one.code: one.name or one.code for one in header.participants}
    found = []
    for one in utterances:
        if one.changeable_header is not None:
            continue
        words = (one.audible or "").split()
        text = "" if _UNKNOWN_WORDS & set(words) else " ".join(words)
        start_s, end_s = (at / 1000 for at in one.time_marks) if one.time_marks else (None, None)
        found.append(Annotation(text.rstrip(' .?!+/"').strip(), start_s, end_s, names.get(one.participant or "", "")))
    if not found:
        raise UserError(f"{path}: contains no utterance; expected a CHAT transcript with lines such as *CHI:")
    media = (header.media or {}).get("filename") or ""
    return AnnotationFile("CHAT transcript", [Tier("", found)], [media], (header.languages or [""])[0])


# --- Transcriber's ``.trs`` files ------------------------------------------------------------------------

_NOT_SPOKEN = ("Event", "Comment", "Background")


def read_transcriber(path: Path) -> AnnotationFile:
    """The text between two times; if two speak at once, one annotation for each."""
    root = read_xml(path, "Trans", "a Transcriber file")
    names = {one.get("id", ""): one.get("name", one.get("id", "")) for one in root.iterfind("Speakers/Speaker")}
    found: list[Annotation] = []
    try:
        for turn in root.iter("Turn"):
            speakers = [names.get(id, id) for id in turn.get("speaker", "").split()]
            pieces: list[tuple[float, list[list[str]]]] = [(float(turn.get("startTime", "")), [[turn.text or ""]])]
            for one in turn:
                if one.tag == "Sync":
                    at_s = float(one.get("time", ""))
                    if at_s > pieces[-1][0]:
                        pieces.append((at_s, [[]]))
                elif one.tag == "Who":
                    who = int(one.get("nb", "1"))
                    while len(pieces[-1][1]) < who:
                        pieces[-1][1].append([])
                    pieces[-1][1][who - 1].append(one.tail or "")
                    continue
                elif one.tag not in _NOT_SPOKEN:
                    pieces[-1][1][-1].append("".join(one.itertext()))
                pieces[-1][1][-1].append(one.tail or "")
            ends_s = [start_s for start_s, _ in pieces[1:]] + [float(turn.get("endTime", ""))]
            for (start_s, spoken), end_s in zip(pieces, ends_s, strict=True):
                texts = [" ".join("".join(words).split()) for words in spoken]
                for number, text in enumerate(texts):
                    if text or not any(texts):
                        speaker = speakers[number] if number < len(speakers) else ""
                        found.append(Annotation(text, start_s, end_s, speaker))
                        if not text:
                            break
    except ValueError as error:
        raise UserError(f"{path}: contains an invalid time ({error}); expected a Transcriber file") from error
    language = root.get("{http://www.w3.org/XML/1998/namespace}lang", "")
    return AnnotationFile("Transcriber file", [Tier("", found)], [root.get("audio_filename", "")], language)


# --- NIST's segment time marks (``.stm``) ----------------------------------------------------------------

_LINE = re.compile(
    r"(\S+)\s+(\S+)\s+(\S+)\s+(\d+(?:\.\d+)?)\s+(\d+(?:\.\d+)?)(?:\s+<[^<>\s]*,[^<>]*>|\s+<[\w]*>)?(?:\s+(.*))?"
)
_NOT_SCORED = "ignore_time_segment_in_scoring"
_CHANNELS = {"a": 0, "b": 1, "1": 0, "2": 1}


def read_stm(path: Path) -> AnnotationFile:
    """All segments. Segments that are not scored have no text; of alternatives (``{ a / b }``) the first is read.

    Channels are used only if the file has segments on several.
    """
    found: list[tuple[str, Annotation]] = []
    for number, line in enumerate(read_unicode(path).splitlines(), 1):
        if not line.strip() or line.startswith(";;"):
            continue
        parts = _LINE.fullmatch(line.strip())
        if parts is None:
            raise UserError(
                f"{path}: line {number} is not STM ({line[:40]!r}); expected FILE CHANNEL SPEAKER START END <LABELS> TEXT"
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
        raise UserError(f"{path}: contains no segment; expected lines of FILE CHANNEL SPEAKER START END <LABELS> TEXT")
    channels: dict[str, set[str]] = {}
    for channel, one in found:
        channels.setdefault(one.media, set()).add(channel)
    kept = [one if len(channels[one.media]) > 1 else one.of_all_channels() for _, one in found]
    return AnnotationFile("STM file", [Tier("", kept)])
