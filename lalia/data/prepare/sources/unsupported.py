"""Explain files that cannot be a source: their kind, and how to convert them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from lalia.data.prepare.listing import Options
from lalia.data.prepare.sources import tables

_SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".numbers")
_DOCUMENTS = (".docx", ".doc", ".odt", ".rtf", ".pdf", ".pages", ".html", ".htm")
_UNPACK = {
    ".zip": "unzip -d FOLDER",
    ".7z": "7z x -oFOLDER",
    ".rar": "unrar x",
    **dict.fromkeys(
        (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"), "tar -C FOLDER -xf"
    ),
    **dict.fromkeys((".bz2", ".xz", ".zst"), "unar"),
}
_LABELS = (".mlf", ".ctm", ".wrd", ".phn", ".exb", ".tdf", ".antx", ".xml", ".transcript")
_ABOUT = re.compile(
    r"(readme|licen[cs]e|copying|changelog|changes|about|credits|attribution|notice|version|times)\b.*", re.IGNORECASE
)


def describe_unsupported(path: Path) -> str:
    """The kind of a file that is never read, and a remedy ("is an archive; unpack it first: …"); "" for other files."""
    name = path.name.lower()
    if name.endswith(_SPREADSHEETS):
        return "is a spreadsheet; save it as CSV (UTF-8) and give that file"
    if command := next((how for suffix, how in _UNPACK.items() if name.endswith(suffix)), ""):
        return f"is an archive; unpack it first: {command} {shlex.quote(str(path))}"
    if name.endswith(_DOCUMENTS):
        return "is a document; save its table as CSV (UTF-8), or the text of each recording as a .txt with the recording's name"
    if name.endswith(".arrow") or name in ("dataset_info.json", "dataset_dict.json", "state.json"):
        return f"is a part of a dataset; give its folder: hub:{shlex.quote(str(path.parent))}"
    return ""


NO_AUDIO_COLUMN = "is not used: no audio column was recognised; name it with --columns audio=NAME"


def unused_file_advice(path: Path, options: Options) -> str:
    """Why a file in a folder is not used and how to use it, if it may contain labels or audio; "" for other files."""
    if path.suffix.lower() in _DOCUMENTS or _ABOUT.fullmatch(path.name):
        return ""
    if problem := describe_unsupported(path):
        of_dataset = (
            path.name.endswith(".arrow") or path.name == "dataset_info.json"
        )  # reported once, for its state.json
        return "" if of_dataset else f"is not used: it {problem}"
    if form := tables.form_of(path):
        if tables.names_audio(path, options):
            return "is not used, although it may name audio; to use it, give it as the source"
        return "" if form == ".json" else NO_AUDIO_COLUMN
    if path.suffix.lower() in _LABELS:
        return "is not used: labels in an unsupported format; convert them to a table with audio, start, end and text"
    if path.suffix.lower() in (".txt", ".lab", ".lst"):
        return "is not used: neither a transcript with the name of an audio file nor a table of audio files and texts"
    return ""
