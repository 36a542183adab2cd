"""Edit distance alignment of two texts: which words or characters are equal, substituted, deleted or inserted."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True)
class Edit:
    """One step from reference to hypothesis; the side that has no unit there is empty."""

    kind: Literal["equal", "substitution", "deletion", "insertion"]
    reference: str
    hypothesis: str


def alignment(reference: str, hypothesis: str, unit: Literal["word", "character"] = "word") -> list[Edit]:
    """The steps from ``reference`` to ``hypothesis``, one per word or character, in reading order."""
    was: Sequence[str] = reference.split() if unit == "word" else " ".join(reference.split())
    now: Sequence[str] = hypothesis.split() if unit == "word" else " ".join(hypothesis.split())
    edits: list[Edit] = []
    for step in Levenshtein.opcodes(was, now):
        old, new = was[step.src_start : step.src_end], now[step.dest_start : step.dest_end]
        if step.tag == "equal":
            edits += [Edit("equal", same, same) for same in old]
        elif step.tag == "replace":
            edits += [Edit("substitution", r, h) for r, h in zip(old, new, strict=True)]
        elif step.tag == "delete":
            edits += [Edit("deletion", r, "") for r in old]
        else:
            edits += [Edit("insertion", "", h) for h in new]
    return edits


def matched(one: Sequence[Hashable], other: Sequence[Hashable]) -> list[tuple[int, int]]:
    """(place in ``one``, place in ``other``) of the units that an alignment with fewest edits holds equal or substitutes."""
    return [
        pair
        for step in Levenshtein.opcodes(one, other)
        if step.tag in ("equal", "replace")
        for pair in zip(range(step.src_start, step.src_end), range(step.dest_start, step.dest_end), strict=True)
    ]


def distance(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The fewest substitutions, deletions and insertions that turn one sequence into the other."""
    return int(Levenshtein.distance(one, other))
