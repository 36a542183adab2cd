"""What quantization costs where: each group in int8 alone, everything else in float, on the same clips."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from distill.budget import Harm
from distill.quantize import kind_of, quantize
from lalia.data.mixture import Mixture
from lalia.exits import AudioError
from lalia.runtime.evaluation import evaluate
from lalia.runtime.student import Student

Assemble = Callable[[Path, Path], None]
"""(model file, folder): makes the folder a student of that file."""


def harms(
    graph: Path, sets: Sequence[tuple[str, Collection[str]]], assemble: Assemble, mixture: Mixture, rows: Sequence[int],
    reduce_range: bool,
) -> list[Harm]:  # fmt: skip
    """For each (name, groups) of ``sets`` what quantizing those groups alone does on ``rows``."""
    with tempfile.TemporaryDirectory() as work:
        whole = _student(graph, Path(work) / "float", assemble)
        cer_float = evaluate(whole, mixture, rows).score().cer.rate
        found = []
        for number, (name, groups) in enumerate(sets):
            model = Path(work) / f"{number}.onnx"
            quantize(graph, model, groups, reduce_range)
            student = _student(model, Path(work) / str(number), assemble)
            cer = evaluate(student, mixture, rows).score().cer.rate
            found.append(Harm(name, cer, cer_float, divergence(whole, student, mixture, rows)))
            model.unlink()
        return found


def by_kind(groups: Sequence[str]) -> list[tuple[str, list[str]]]:
    """All attention, all convolutions, all feed-forward layers, …"""
    kinds = dict.fromkeys(kind_of(group) for group in groups)
    return [(kind, [group for group in groups if kind_of(group) == kind]) for kind in kinds]


def divergence(first: Student, second: Student, mixture: Mixture, rows: Sequence[int]) -> float:
    """Mean Kullback-Leibler divergence of the second's tokens from the first's, nats per frame."""
    total, frames = 0.0, 0
    for row in rows:
        try:
            wave = mixture.wave(row)
        except AudioError:
            continue
        one_TV, other_TV = first.log_probs(wave).astype(np.float64), second.log_probs(wave).astype(np.float64)
        total += float((np.exp(one_TV) * (one_TV - other_TV)).sum())
        frames += len(one_TV)
    return total / max(frames, 1)


def _student(model: Path, folder: Path, assemble: Assemble) -> Student:
    assemble(model, folder)
    return Student.load(folder)
