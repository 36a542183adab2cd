"""A recogniser as a student: the folder that runs without torch, made of its graph, its tokens and its normaliser."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lalia.cards import read_card, write_card
from lalia.models.graph import export_graph
from lalia.models.recogniser import Recogniser
from lalia.models.store import count_parameters, replacing
from lalia.models.streamed import streaming_facts
from lalia.runtime.integrity import MODEL, NORMALISER, TOKENS, file_hashes
from lalia.runtime.spoken import languages_in
from lalia.units import SAMPLE_RATE


def assemble(
    recogniser: Recogniser, graph: Path, folder: Path, parents: list[dict[str, Any]], language: str | Sequence[str]
) -> None:
    """Make ``folder`` a student that runs ``graph`` and says that it is of ``recogniser``."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(graph, folder / MODEL)
    seal(recogniser, folder, parents, language)


def seal(
    recogniser: Recogniser, folder: Path, parents: list[dict[str, Any]], language: str | Sequence[str], **facts: Any
) -> dict[str, Any]:
    """Write what belongs beside the graph in ``folder``: tokens, normaliser and the card, which is returned."""
    recogniser.tokens.save(folder / TOKENS)
    recogniser.normaliser.to_json(folder / NORMALISER)
    if streaming := streaming_facts(recogniser.encoder.shape):
        facts["streaming"] = streaming
    return write_card(
        folder, "student", parents, frame_s=recogniser.frame_s, sample_rate=SAMPLE_RATE, language=language,
        tokens=len(recogniser.tokens), bytes=sum((folder / name).stat().st_size for name in (MODEL, TOKENS, NORMALISER)),
        files=file_hashes(folder), **facts,
    )  # fmt: skip


def export_student(source: Path, out: Path, language: str = "") -> dict[str, Any]:
    """Write the student ``out`` of the recogniser in ``source`` (of many languages: that of ``language``); its card.

    In float32, so it answers as the recogniser does; ``lalia distill`` makes small ones and proves them. A ``UserError``
    where the recogniser is of a kind that is not exported.
    """
    recogniser = Recogniser.load(source, language)
    with replacing(out) as folder:
        export_graph(recogniser, folder / MODEL)
        spoken = language or languages_in(source)
        return seal(
            recogniser, folder, [read_card(source, "recogniser")], spoken, parameters=count_parameters(recogniser)
        )
