"""Praat's ``.TextGrid`` files, in the long and the short form."""

from __future__ import annotations

from pathlib import Path

from lalia.data.prepare.sources.annotations import Annotated, Annotation, Tier
from lalia.exits import UserError
from lalia.text.files import decoded


def read_textgrid(path: Path) -> Annotated:
    """Every tier of intervals; points have no length, so their tiers are empty."""
    try:
        from praatio.utilities.textgrid_io import parseTextgridStr
    except ImportError as error:
        raise UserError(
            f"{path}: a TextGrid is read by praatio, which is not installed; run: pip install praatio"
        ) from error
    with path.open("rb") as file:
        if file.read(12) == b"ooBinaryFile":
            raise UserError(f"{path}: is a binary TextGrid; in Praat: Save as text file")
    text = decoded(path).replace("\r\n", "\n").replace("\r", "\n")
    found = []
    try:
        for tier in parseTextgridStr(text, includeEmptyIntervals=True)["tiers"]:
            entries = tier["entries"] if tier["class"] == "IntervalTier" else []
            rows = [Annotation(text, float(start) + 0.0, float(end)) for start, end, text in entries]
            found.append(Tier(tier["name"], rows))
    except Exception as error:  # Whatever its parser stumbles over.
        raise UserError(
            f"{path}: cannot be read as a TextGrid ({error or 'it ends early'}); save it again in Praat"
        ) from error
    return Annotated("Praat TextGrid", found)
