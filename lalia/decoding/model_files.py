"""What a file is that was given for a language model: an ARPA file, KenLM's binary file, audio, or text."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path
from typing import Literal

from lalia.audio.signatures import HEAD_BYTES, recognise

KENLM_MAGIC = b"mmap lm http://kheafield.com/code"
"""How KenLM's binary files of every version begin."""
Kind = Literal["arpa", "kenlm", "audio", "text"]


def kind_of(path: Path) -> Kind:
    """What the file ``path`` is, by its first bytes; an ARPA file by its name as well. What cannot be told is text.

    Raises ``OSError`` where it cannot be read.
    """
    if is_arpa(path):
        return "arpa"
    if is_kenlm(path):
        return "kenlm"
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    # Signatures of audio are short, and words may begin like one (caffè like Apple's CAF): what is UTF-8 is text.
    if _is_text(head):
        return "text"
    return "audio" if recognise(head, path.suffix.lower(), path.stat().st_size) else "text"


def is_kenlm(path: Path) -> bool:
    """Whether ``path`` is a binary file of KenLM, of whatever version."""
    with path.open("rb") as file:
        return file.read(len(KENLM_MAGIC)) == KENLM_MAGIC


def is_arpa(path: Path) -> bool:
    """Whether ``path`` is named as an ARPA file, or begins as one (``.gz`` too)."""
    if path.name.endswith((".arpa", ".arpa.gz")):
        return True
    if not path.is_file():  # a pipe is read but once
        return False
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(HEAD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"\\data\\")
    except (OSError, EOFError):
        return False


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut at the end of what was read
    except UnicodeDecodeError:
        return False
    return b"\0" not in head
