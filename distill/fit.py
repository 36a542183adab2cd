"""A distillation run: a teacher, corpora and settings in, ``RUN/recogniser`` and ``RUN/scores.json`` out."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from distill.config import DistillSettings
from distill.material import Material, learn
from distill.student import make_student
from distill.task import DistillTask
from lalia.cards import read_card, write_json
from lalia.models.transcription import told_of, transcribe_rows
from lalia.report.run_report import write_run_report
from lalia.training.ranks import leads
from lalia.training.runs import FINISHED, best_weights, finished


def distill(settings: DistillSettings, folder: Path, stated: Collection[str] = ()) -> None:
    """Train to the end of the schedule, or go on from where the run in ``folder`` stopped.

    ``stated`` are the settings that the user gave (``config.stated``): a finished run must have been made with them.
    """
    if finished(folder, settings, stated):
        print(f"{folder}: this run is finished; its recogniser is {folder / 'recogniser'}")
        return
    material = Material.gather(settings)
    torch.manual_seed(settings.seed)
    student = make_student(material.teacher, settings.student, settings.regular)
    task = DistillTask(settings, material.teacher, student, material.references)
    learn(settings, folder, task, material, "distill", best=True)
    if leads(settings.hardware):
        _finish(settings, folder, task, material)


def _finish(settings: DistillSettings, folder: Path, task: DistillTask, material: Material) -> None:
    """Keep the student of the best checkpoint, and what it and its teacher score on the test clips."""
    best, step = best_weights(folder)
    task.load_state_dict(best)
    student = task.student.eval()
    scores = transcribe_rows(student, material.mixture, material.test).as_dict()
    taught = transcribe_rows(task.teacher, material.mixture, material.test).score()
    facts = material.facts | {
        "steps": settings.schedule.steps, "best_step": step, "fake_int8": settings.qat,
        "test_cer": scores["cer"], "test_wer": scores["wer"],
        "teacher_cer": taught.cer.rate, "teacher_wer": taught.wer.rate,
    }  # fmt: skip
    start = [read_card(Path(settings.student.start))] if settings.student.start else []
    student.save(
        folder / "recogniser", [*start, material.card, *material.mixture.cards],
        language=material.languages, distillation=facts,
    )  # fmt: skip
    write_json(folder / "scores.json", facts | scores)
    write_json(folder / FINISHED, facts)
    write_run_report(folder, material.mixture, type(settings)())
    low, high = scores["cer_interval"]
    print(
        f"test CER {scores['cer']:.3f} (95 % {low:.3f} to {high:.3f}), WER {scores['wer']:.3f} on {told_of(scores)}; "
        f"the teacher's {facts['teacher_cer']:.3f} and {facts['teacher_wer']:.3f}; "
        f"the recogniser is {folder / 'recogniser'}"
    )
