"""Where in a run's folder a student, recogniser or encoder is, and whether a student is whole, by its card's hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lalia.cards import NAME, read_card
from lalia.exits import UserError
from lalia.kinds import look, refusal

MODEL, TOKENS, NORMALISER = "model.onnx", "tokens.txt", "normaliser.json"
NEEDED = (MODEL, TOKENS, NORMALISER)
STUDENT, RUN = "student", "config.yaml"
"""What a run's folder holds: the student made of its recogniser, and its settings."""


def find_student(folder: Path) -> Path:
    """The student's folder that ``folder`` is, or that is in it where it is a run's; a ``UserError`` says how to make one."""
    inside = folder / STUDENT
    if not (folder / NAME).is_file() and (inside / NAME).is_file():
        return inside
    read_card(folder, STUDENT)
    return folder


def find_made(folder: str, kind: str, flag: str) -> str:
    """The folder of ``kind`` (encoder, recogniser) that ``folder`` is, or that is in it where it is a run's.

    ``UserError``, beginning with ``flag``, where there is no such folder, or the run made nothing of the kind.
    """
    found = look(folder).kind
    if found == kind or (found == "recogniser" and kind == "encoder"):  # one has an encoder in it
        return folder
    if (Path(folder) / kind / NAME).is_file():
        return str(Path(folder) / kind)
    raise refusal(folder, kind, flag)


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of the files a student is made of, for the fact ``files`` of its card."""
    return {name: _sha256(folder / name) for name in NEEDED}


def check_files(folder: Path, card: Mapping[str, Any]) -> None:
    """Raise a ``UserError`` naming the first file that is missing or is not what the card says."""
    expected = card.get("files")
    if not isinstance(expected, dict) or not set(NEEDED) <= set(expected):
        raise UserError(f"{folder}: its card does not list {', '.join(NEEDED)}; export the student again")
    for name, digest in expected.items():
        path = folder / name
        if path.resolve().parent != folder.resolve():
            raise UserError(f"{folder}: its card lists {name!r}, which lies elsewhere; export the student again")
        if not path.is_file():
            raise UserError(f"{path}: is missing; copy the whole student folder again")
        if _sha256(path) != str(digest).removeprefix("sha256:"):
            size = path.stat().st_size
            raise UserError(
                f"{path}: is not the file the card was written for ({size} bytes; damaged, cut short or of another"
                " student); copy the whole student folder again"
            )


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); copy the whole student folder again") from error
    return digest.hexdigest()
