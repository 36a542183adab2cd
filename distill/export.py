"""Export: a recogniser becomes an int8 student folder, if it passes the quality checks on held-out clips.

The exported file itself is measured: error rates against the float student and the teacher, speed and size, each with a limit
(the budget). If one is missed, no student is written, and a report names the cause: for error rates the group of weights that
quantization harms most, for speed the slowest operator.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill.config import ExportSettings, GateSettings
from distill.measure import (
    TorchModel,
    figures,
    footprint,
    machine,
    operator_shares,
    real_time_factors,
    sample,
    waves,
    with_threads,
)
from distill.teacher import TorchTeacher, load_teacher
from lalia.cards import read_card, write_json
from lalia.data.mixture import Mixture
from lalia.errors import AudioError, GateRefused, UserError
from lalia.model_folder import MODEL
from lalia.models.export.int8 import groups, kind_of, quantize
from lalia.models.export.onnx_export import assemble, export_graph, write_student_files
from lalia.models.recogniser import Recogniser
from lalia.models.store import WEIGHTS, count_parameters, replacing
from lalia.runtime.student import Student
from lalia.scoring.evaluation import Evaluation, evaluate
from lalia.units import SAMPLE_RATE, plural

# --- The export ----------------------------------------------------------------------------------------


def export(settings: ExportSettings, out: Path) -> dict[str, Any]:
    """Write the student folder ``out`` and return its card; ``GateRefused`` if a quality check fails.

    In that case only ``OUT.refused.json`` is written, and an existing student stays.
    """
    report = out.with_name(out.name + ".refused.json")
    job = ExportJob(settings)
    with replacing(out) as folder, tempfile.TemporaryDirectory() as work:
        found = job.run(folder, Path(work))
        if found["missed"]:
            write_json(report, found)
            raise GateRefused(f"{out}: not exported. {found['summary']} See {report}")
        card = job.write_card(folder, **found["facts"])
    report.unlink(missing_ok=True)
    return card


class ExportJob:
    """One export: the recogniser, its teacher and the clips to measure on."""

    def __init__(self, settings: ExportSettings) -> None:
        self.settings = settings
        self.recogniser = Recogniser.load(settings.recogniser)
        self.card = read_card(Path(settings.recogniser), "recogniser")
        self.teacher: TorchModel | Student | None = None
        if settings.teacher:
            teacher = load_teacher(settings.teacher, settings.data.language)
            if isinstance(teacher, TorchTeacher):
                self.teacher = TorchModel(teacher.recogniser, teacher.card)
            else:
                self.teacher = Student.load(settings.teacher, 1)
        measure, data = settings.measure, settings.data
        self.mixture = Mixture.load(data.corpus)
        rows = self.mixture.select(measure.split, data.language, labelled=True, min_s=data.min_s)
        self.rows = rows if not measure.clips else rows[: measure.clips]
        self.few = sample(self.mixture, self.rows, measure.sensitivity_s)
        self.clips = waves(self.mixture, sample(self.mixture, self.rows, measure.timing_s))
        if not self.clips:
            raise UserError(
                f"{data.corpus[0]}: none of its {measure.split} clips can be read; prepare the corpus again"
            )

    def run(self, folder: Path, work: Path) -> dict[str, Any]:
        """Write the student to ``folder`` and measure it; returns ``facts`` for its card, ``missed`` checks and a ``summary``."""
        settings, graph = self.settings, work / "float.onnx"
        export_graph(self.recogniser, graph)
        self.assemble(graph, work / "float")
        evaluation_float = self._evaluate(Student.load(work / "float"), "float")
        evaluation_teacher = self._evaluate(self.teacher, "teacher") if self.teacher else None

        every = groups(graph)
        kept, sensitivity, evaluation = self._quantize(graph, folder, work, every, evaluation_float.score().cer.rate)
        kinds = measure_sensitivity(
            graph, by_kind([g for g in every if g not in kept]), self.assemble, self.mixture, self.few,
            settings.quantize.reduce_range,
        )  # fmt: skip
        rtf = self._speeds(work / "float", folder)
        size = (folder / MODEL).stat().st_size
        weights = MODEL if isinstance(self.teacher, Student) else WEIGHTS
        teacher_weights = Path(settings.teacher) / weights if self.teacher else None
        numbers = Figures(
            evaluation.score().cer.rate, evaluation_float.score().cer.rate, 1 / rtf["int8"]["1"], size,
            evaluation_teacher.score().cer.rate if evaluation_teacher else None,
            1 / rtf["teacher"]["1"] if self.teacher else None,
            teacher_weights.stat().st_size if teacher_weights else None,
        )  # fmt: skip
        missed = check_budget(numbers, settings.gate)
        scores = {"split": settings.measure.split, "int8": figures(evaluation), "float": figures(evaluation_float)}
        if evaluation_teacher:
            scores["teacher"] = figures(evaluation_teacher)
        if self.recogniser.transducer:
            by_transducer = {
                name: self._evaluate(Student.load(place).with_transducer(), f"{name}, transducer")
                for name, place in (("int8", folder), ("float", work / "float"))
            }
            scores["transducer"] = {name: figures(found) for name, found in by_transducer.items()}
            rates = {name: found.score().cer.rate for name, found in by_transducer.items()}
            missed += check_transducer(rates["int8"], rates["float"], settings.gate)
        facts = {
            "parameters": count_parameters(self.recogniser),
            "quantization": {
                "method": "dynamic int8 of matrix products, per channel; the rest float32",
                "int8": [g for g in every if g not in kept], "float": kept,
                "sensitivity": [h.as_dict() for h in kinds],
            },
            "scores": scores,
            "rtf": rtf | {"audio_s": round(sum(map(len, self.clips)) / SAMPLE_RATE, 1), "repeats": settings.measure.repeats},
            "bytes_float": (work / "float" / MODEL).stat().st_size,
            "bytes_teacher": numbers.bytes_teacher,
            "gate": asdict(settings.gate),
            "machine": machine(),
        }  # fmt: skip
        found: dict[str, Any] = {"facts": facts, "missed": [asdict(miss) for miss in missed], "summary": ""}
        if not missed:
            facts |= footprint(folder, self.clips[0])
            return found
        operators = operator_shares(folder / MODEL, max(self.clips, key=len))
        if not sensitivity:
            sensitivity = self._sensitivity(graph, every)
        reasons = explain_misses(missed, numbers, sensitivity, operators, settings.gate)
        found["summary"] = f"{_sentence('; '.join(miss.text for miss in missed))} {' '.join(map(_sentence, reasons))}"
        found["sensitivity"] = [h.as_dict() for h in sorted(sensitivity, key=lambda h: h.order, reverse=True)]
        found["time_by_operator"] = operators
        found["recogniser"] = {"folder": settings.recogniser, "id": self.card["id"]}
        return found

    def assemble(self, model: Path, folder: Path) -> None:
        """Make ``folder`` a student that runs ``model``."""
        assemble(self.recogniser, model, folder, [self.card], self._language)

    def write_card(self, folder: Path, **facts: Any) -> dict[str, Any]:
        """Write the card of the student in ``folder``."""
        return write_student_files(self.recogniser, folder, [self.card], self._language, **facts)

    @property
    def _language(self) -> list[str]:
        return self.settings.data.language or self.mixture.language_names

    def _evaluate(self, model: Student | TorchModel, name: str) -> Evaluation:
        found = evaluate(model.transcribe, model.normaliser, self.mixture, self.rows)
        if not found.clips:
            raise UserError(f"{self.settings.data.corpus[0]}: no {self.settings.measure.split} clip can be scored; "
                            f"the first: {found.skipped[0]}")  # fmt: skip
        scored = found.score()
        print(
            f"{name}: CER {scored.cer.rate:.4f}, WER {scored.wer.rate:.4f} on {plural(len(found.clips), 'clip')}",
            file=sys.stderr,
        )
        return found

    def _quantize(
        self, graph: Path, folder: Path, work: Path, every: list[str], cer_float: float
    ) -> tuple[list[str], list[GroupSensitivity], Evaluation]:
        """Write the int8 student to ``folder``; returns (groups kept in float, sensitivities if measured, evaluation).

        If the error rate is too high, the most harmful groups return to float one by one, at most ``quantize.rescue``.
        """
        settings, gate = self.settings.quantize, self.settings.gate
        unknown = [name for name in settings.keep_float if name not in {*every, *map(kind_of, every)}]
        if unknown:
            raise UserError(f"--quantize.keep_float {unknown[0]}: no such group; there are {', '.join(every)}")
        kept = [group for group in every if group in settings.keep_float or kind_of(group) in settings.keep_float]
        sensitivity: list[GroupSensitivity] = []
        limit = allowed(cer_float, gate.float_ratio, gate.slack)
        for attempt in range(settings.rescue + 1):
            quantize(graph, work / "int8.onnx", [g for g in every if g not in kept], settings.reduce_range)
            self.assemble(work / "int8.onnx", folder)
            evaluation = self._evaluate(Student.load(folder), "int8" + (f" without {', '.join(kept)}" if kept else ""))
            if evaluation.score().cer.rate <= limit or attempt == settings.rescue or len(kept) == len(every):
                break
            sensitivity = sensitivity or self._sensitivity(graph, every)
            candidates = [h for h in sensitivity if h.group not in kept]
            kept = [*kept, max(candidates, key=lambda h: h.order).group]
        return kept, sensitivity, evaluation

    def _sensitivity(self, graph: Path, every: list[str]) -> list[GroupSensitivity]:
        sets = [(group, [group]) for group in every]
        return measure_sensitivity(
            graph, sets, self.assemble, self.mixture, self.few, self.settings.quantize.reduce_range
        )

    def _speeds(self, float_folder: Path, int8_folder: Path) -> dict[str, dict[str, float]]:
        """Real-time factors by contender and number of threads.

        One thread is timed by its CPU clock, which other programs do not disturb; two threads by the wall clock.
        """
        rtf: dict[str, dict[str, float]] = {}
        for threads, clock in ((1, time.thread_time), (2, time.perf_counter)):
            contenders: dict[str, Any] = {}
            if isinstance(self.teacher, Student):
                contenders["teacher"] = Student.load(self.settings.teacher, threads).transcribe
            elif self.teacher:
                contenders["teacher"] = with_threads(self.teacher.transcribe, threads)
            contenders["float"] = Student.load(float_folder, threads).transcribe
            contenders["int8"] = Student.load(int8_folder, threads).transcribe
            for name, value in real_time_factors(contenders, self.clips, self.settings.measure.repeats, clock).items():
                rtf.setdefault(name, {})[str(threads)] = float(f"{value:.4g}")
        return rtf


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."


# --- The budget ----------------------------------------------------------------------------------------

LEARN_INT8 = "use quantization-aware training: lalia distill fit --qat true --student.start RECOGNISER"


@dataclass(frozen=True)
class Figures:
    """Measurements for the quality checks. Rates are errors per character, speeds seconds of audio per second on one thread."""

    cer_int8: float
    cer_float: float
    speed: float
    bytes: int
    cer_teacher: float | None = None
    speed_teacher: float | None = None
    bytes_teacher: int | None = None


@dataclass(frozen=True)
class Miss:
    """A failed quality check."""

    budget: str
    """the setting of its limit: ``float_ratio``"""
    found: float
    limit: float
    text: str


@dataclass(frozen=True)
class GroupSensitivity:
    """The effect of quantizing one group alone."""

    group: str
    cer: float
    """errors per character with this group in int8 and everything else in float"""
    cer_float: float
    """the same clips with everything in float"""
    divergence: float
    """Kullback-Leibler divergence of its tokens from the float ones, nats per frame"""

    @property
    def order(self) -> tuple[float, float]:
        """Sort key, the most harmful last: by errors, then by divergence."""
        return (self.cer, self.divergence)

    def as_dict(self) -> dict[str, Any]:
        return {"group": self.group, "cer": self.cer, "cer_float": self.cer_float, "divergence": self.divergence}


def allowed(cer: float, ratio: float, slack: float) -> float:
    """The highest error rate within a budget of ``ratio`` on ``cer``."""
    return cer * ratio + slack


def check_budget(figures: Figures, gate: GateSettings) -> list[Miss]:
    """The failed quality checks of ``figures``; none = the student may be shipped."""
    found: list[Miss] = []
    limit = allowed(figures.cer_float, gate.float_ratio, gate.slack)
    if figures.cer_int8 > limit:
        found.append(Miss("float_ratio", figures.cer_int8, limit,
            f"CER is {_percent(figures.cer_int8)} in int8 and {_percent(figures.cer_float)} in float; "
            f"the limit is {_percent(limit)}"))  # fmt: skip
    if figures.cer_teacher is not None:
        limit = allowed(figures.cer_teacher, gate.teacher_ratio, gate.slack)
        if figures.cer_int8 > limit:
            found.append(Miss("teacher_ratio", figures.cer_int8, limit,
                f"CER is {_percent(figures.cer_int8)}, and {_percent(figures.cer_teacher)} for the teacher; "
                f"the limit is {_percent(limit)}"))  # fmt: skip
    if figures.speed < gate.speed:
        found.append(Miss("speed", figures.speed, gate.speed,
            f"it runs {figures.speed:.1f} times as fast as real time on one thread; the limit is {gate.speed:g}"))  # fmt: skip
    if gate.speedup and figures.speed_teacher is not None and figures.speed < gate.speedup * figures.speed_teacher:
        found.append(Miss("speedup", figures.speed / figures.speed_teacher, gate.speedup,
            f"it runs {figures.speed / figures.speed_teacher:.2f} times as fast as its teacher; the limit is "
            f"{gate.speedup:g}"))  # fmt: skip
    if (
        gate.size_ratio
        and figures.bytes_teacher is not None
        and figures.bytes > gate.size_ratio * figures.bytes_teacher
    ):
        found.append(Miss("size_ratio", figures.bytes / figures.bytes_teacher, gate.size_ratio,
            f"its file is {figures.bytes / 1e6:.2f} MB, {figures.bytes / figures.bytes_teacher:.2f} of its teacher's weights; "
            f"the limit is {gate.size_ratio:g}"))  # fmt: skip
    return found


def check_transducer(cer_int8: float, cer_float: float, gate: GateSettings) -> list[Miss]:
    """The failed quality check of a transducer beside the CTC head; none = it may be shipped."""
    limit = allowed(cer_float, gate.float_ratio, gate.slack)
    text = (
        f"CER of the transducer is {_percent(cer_int8)} in int8 and {_percent(cer_float)} in float; the limit is "
        f"{_percent(limit)}"
    )
    return [Miss("float_ratio", cer_int8, limit, text)] if cer_int8 > limit else []


def explain_misses(
    missed: Sequence[Miss],
    figures: Figures,
    sensitivities: Sequence[GroupSensitivity],
    operators: dict[str, float],
    gate: GateSettings,
) -> list[str]:
    """For each failed check a sentence: which part of the model or operator causes it, and the remedy."""
    causes: list[str] = []
    budgets = {miss.budget for miss in missed}
    if "float_ratio" in budgets and sensitivities:
        worst = max(sensitivities, key=lambda found: found.order)
        alone = worst.cer - worst.cer_float
        if alone > 0:
            causes.append(
                f"quantizing {worst.group} costs most: alone it raises the CER from {_percent(worst.cer_float)} to "
                f"{_percent(worst.cer)}; keep it in float with --quantize.keep_float {worst.group}, or {LEARN_INT8}"
            )
        else:
            causes.append(
                f"no group raises the CER alone; {worst.group} changes the posteriors most "
                f"({worst.divergence:.3f} nats per frame): raise --quantize.rescue, or {LEARN_INT8}"
            )
    if "teacher_ratio" in budgets and figures.cer_teacher is not None:
        if figures.cer_float > allowed(figures.cer_teacher, gate.teacher_ratio, gate.slack):
            causes.append(
                f"the float student misses the teacher's limit too ({_percent(figures.cer_float)}), so int8 is not the cause: "
                f"distil longer, on more audio, or into more blocks"
            )
        else:
            causes.append(
                f"the float student keeps the teacher's limit ({_percent(figures.cer_float)}); int8 is the cause"
            )
    if {"speed", "speedup"} & budgets and operators:
        kind, share = next(iter(operators.items()))
        causes.append(f"{kind} takes most of the time ({share:.0%}): fewer blocks or a narrower model help")
    if "size_ratio" in budgets:
        causes.append("fewer blocks or narrower feed-forward layers make the file smaller")
    return causes


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"


# --- Sensitivity to quantization -----------------------------------------------------------------------

Assemble = Callable[[Path, Path], None]
"""(model file, folder): makes the folder a student that runs the file."""


def measure_sensitivity(
    graph: Path, sets: Sequence[tuple[str, Collection[str]]], assemble: Assemble, mixture: Mixture, rows: Sequence[int],
    reduce_range: bool,
) -> list[GroupSensitivity]:  # fmt: skip
    """For each (name, groups) of ``sets``: the effect on ``rows`` of quantizing only these groups."""
    with tempfile.TemporaryDirectory() as work:
        whole = _student(graph, Path(work) / "float", assemble)
        cer_float = evaluate(whole.transcribe, whole.normaliser, mixture, rows).score().cer.rate
        found = []
        for number, (name, groups) in enumerate(sets):
            model = Path(work) / f"{number}.onnx"
            quantize(graph, model, groups, reduce_range)
            student = _student(model, Path(work) / str(number), assemble)
            cer = evaluate(student.transcribe, student.normaliser, mixture, rows).score().cer.rate
            found.append(GroupSensitivity(name, cer, cer_float, divergence(whole, student, mixture, rows)))
            model.unlink()
        return found


def by_kind(groups: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Groups by kind: all attention, all convolutions, all feed-forward layers, …"""
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
