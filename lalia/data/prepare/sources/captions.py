"""Subtitles (SRT, WebVTT, SubStation) and Audacity's label tracks."""

from __future__ import annotations

import html
import re
from pathlib import Path

from lalia.data.prepare.sources.annotations import Annotated, Annotation, Tier, seconds
from lalia.exits import UserError
from lalia.text.files import decoded, first_line

FORMATS = {".srt": "srt", ".vtt": "vtt", ".ass": "ass", ".ssa": "ass"}
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


def read_subtitles(path: Path) -> Annotated:
    """The lines of subtitles without their markup; WebVTT's ``<v Anna>`` and SubStation's names are the speakers."""
    try:
        import pysubs2
    except ImportError as error:
        raise UserError(
            f"{path}: subtitles are read by pysubs2, which is not installed; run: pip install pysubs2"
        ) from error
    text = decoded(path)
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
    return Annotated("subtitles", [Tier("", found)], language=_language(path, text))


def _language(path: Path, text: str) -> str:
    """The language that a WebVTT says in its header, as those of video sites do, or that a name such as ``talk.it.srt`` says."""
    found = re.search(r"^Language:\s*([\w-]+)\s*$", text[:1000], re.MULTILINE)
    return found[1] if found else path.stem.rpartition(".")[2] if "." in path.stem else ""


_LABEL = re.compile(r"(\d+(?:[.,]\d+)?)\t(\d+(?:[.,]\d+)?)(?:\t(.*))?")


def is_label_track(path: Path) -> bool:
    """Whether a text file holds Audacity's labels: two times and a text in each line."""
    return _LABEL.fullmatch(first_line(path)) is not None


def read_labels(path: Path) -> Annotated:
    """The labels of an Audacity track. A line of frequencies below a label, which starts with a backslash, is not used."""
    found = []
    for number, line in enumerate(decoded(path).splitlines(), 1):
        if not line.strip() or line.startswith("\\"):
            continue
        label = _LABEL.fullmatch(line)
        if label is None:
            raise UserError(
                f"{path}: line {number} is no label ({line[:40]!r}); expected two times and a text, parted by tabs"
            )
        found.append(Annotation(label[3] or "", seconds(label[1]), seconds(label[2])))
    return Annotated("Audacity labels", [Tier("", found)])
