"""A distillation run: a teacher, corpora and settings in, ``RUN/recogniser`` and ``RUN/scores.json`` out.

What a run learns from: the teacher, all audio of the language, the labels it may see, and the order of it all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.config import DistillSettings
from distill.pseudo_labels import beam_labels
from distill.student import make_student
from distill.task import DistillTask
from lalia.cards import read_card, write_json
from lalia.data.augment import Augment
from lalia.data.labels import Revealed, choose, digest, encoder_of, left_out, tell_unvalidated, to_be_scored
from lalia.data.loader import make_eval_loader, make_loader
from lalia.data.mixture import Mixture
from lalia.data.plan import BatchPlan
from lalia.models.recogniser import Recogniser
from lalia.models.store import count_parameters
from lalia.report.run_page import write_run_report
from lalia.training.distributed import is_rank_zero, rank, shard_loader
from lalia.training.seeds import generator
from lalia.training.trainer import (
    FINISHED,
    MinimumSteps,
    Run,
    best_weights,
    finished,
    first_step,
    fit,
    resolve_schedule,
)
from lalia.training.validation import describe_clips, transcribe_rows

# --- What a run learns from ------------------------------------------------------------------------------

SHOW = ("train/loss", "train/posteriors", "valid/divergence", "valid/cer", "valid/wer")
MINIMUM_STEPS = MinimumSteps(200, "in fewer a student does not come near its teacher")


@dataclass
class Material:
    """The teacher and the clips of a run; rows are numbers in ``mixture``."""

    teacher: Recogniser
    card: dict[str, Any]
    """the teacher's"""
    mixture: Mixture
    rows: np.ndarray
    """training clips"""
    labelled: np.ndarray
    """those of them whose labels may be seen"""
    held_out: np.ndarray
    test: np.ndarray
    plan: BatchPlan
    encode: Callable[[str], list[int]]

    @classmethod
    def gather(cls, settings: DistillSettings) -> Material:
        """Open what ``settings`` name; a ``UserError`` says what is missing."""
        data = settings.data
        teacher = Recogniser.load(settings.teacher)
        card = read_card(Path(settings.teacher), "recogniser")
        mixture = Mixture.load(data.corpus)
        rows = mixture.select("train", data.language, min_s=data.min_s, max_s=data.max_s)
        labelled = choose_labels(settings, mixture, rows, card)
        # Labelled clips are a group of their own: drawn by hours^alpha as languages are, a few are not lost among many.
        groups = mixture.groups * 2
        groups[labelled] += 1
        plan = BatchPlan(
            durations_s=mixture.durations_s, groups=groups, rows=rows, seed=settings.seed,
            micro_batch_s=settings.batch.micro_s, min_s=data.min_s, max_s=data.max_s, alpha=data.alpha, crop=False,
        )  # fmt: skip
        if is_rank_zero(settings.hardware):
            tell_unvalidated(mixture, data.language, data.min_s, data.max_s)
        return cls(
            teacher, card, mixture, rows, labelled,
            mixture.select("dev", data.language, labelled=True, min_s=data.min_s, max_s=data.max_s),
            to_be_scored(mixture, data.language, data.min_s, data.max_s, is_rank_zero(settings.hardware)),
            plan, encoder_of(teacher.tokens, teacher.normaliser),
        )  # fmt: skip

    @property
    def clips(self) -> Revealed:
        """The clips with all labels hidden but those that may be seen."""
        return Revealed(self.mixture, self.labelled)

    @property
    def references(self) -> dict[int, str]:
        """Normalised texts of the held-out clips by row."""
        return {int(row): self.teacher.normaliser(self.mixture.text(int(row))) for row in self.held_out}

    @property
    def facts(self) -> dict[str, Any]:
        """What of this belongs on a card."""
        return {
            "minutes": self.minutes(self.rows),
            "minutes_of_labels": self.minutes(self.labelled),
            "labels": {"clips": digest(self.mixture, self.labelled)},
        }

    @property
    def languages(self) -> list[str]:
        """Languages of the training clips."""
        return [self.mixture.language_names[code] for code in np.unique(self.mixture.languages[self.rows])]

    def left_out(self, settings: DistillSettings) -> str:
        """In brackets how many training clips are not used, and why."""
        data = settings.data
        return left_out(self.mixture, "train", data.language, data.min_s, data.max_s, labelled=None)

    def minutes(self, rows: np.ndarray) -> float:
        """How long ``rows`` last together."""
        return round(float(self.mixture.durations_s[rows].sum()) / 60, 2)


def choose_labels(
    settings: DistillSettings, mixture: Mixture, rows: np.ndarray, teacher_card: dict[str, Any]
) -> np.ndarray:
    """The clips whose labels the student may see: those the teacher learned from, unless the settings say how many.

    Says so where they turn out to be others. None where labels weigh nothing or the corpus has none.
    """
    labelled = rows[mixture.labelled[rows]]
    if not settings.loss.labels or not len(labelled):
        return labelled[:0]
    known = teacher_card.get("finetuning", {}).get("labels", {})
    minutes = settings.labels.minutes
    if minutes is None:
        minutes = float(known.get("minutes", 0.0))
    chosen = choose(mixture, labelled, minutes)
    if known and digest(mixture, chosen) != known["clips"]:
        print(
            f"note: the student sees the labels of {len(chosen)} clips, and they are not those the teacher learned from "
            "(another corpus, language, data.min_s, data.max_s or labels.minutes)",
            file=sys.stderr,
        )
    return chosen


def learn(
    settings: DistillSettings, folder: Path, task: DistillTask, material: Material, title: str, best: bool
) -> None:
    """Train ``task`` to the end of the schedule in the run ``folder``; with ``best``, the best checkpoint is kept as well."""
    ranks = settings.hardware.ranks
    accumulation = settings.batch.accumulation(ranks)
    budget = resolve_schedule(settings, folder, lambda: _micro_step(task, material), accumulation, MINIMUM_STEPS)
    task.zero_grad(set_to_none=True)
    if settings.loss.pseudo and settings.loss.pseudo_lm:
        unlabelled = np.setdiff1d(material.rows, material.labelled)
        task.pseudo = beam_labels(
            material.teacher, material.card, settings.loss.pseudo_lm, material.mixture, unlabelled, settings.loss.confidence,
            folder, is_rank_zero(settings.hardware),
        )  # fmt: skip
    step = first_step(folder)
    audio_s = accumulation * ranks * settings.batch.micro_s
    if is_rank_zero(settings.hardware):
        print(
            f"{title}: {count_parameters(material.teacher) / 1e6:.2f} M parameters teach "
            f"{count_parameters(task.student) / 1e6:.2f} M on {material.minutes(material.rows):.1f} minutes in "
            f"{len(material.rows)} clips{material.left_out(settings)}, {len(material.labelled)} of them with labels "
            f"({material.minutes(material.labelled):.1f} minutes), {settings.schedule.steps} steps of {audio_s:.0f} s"
            + (f"; going on from step {step}" if step else ""),
            file=sys.stderr,
        )
    # Teacher and student must hear the same length; what else is done to the clip, the task does to the student's copy.
    speed = replace(settings.augment, reverb=0.0, noise=0.0, gain=0.0, telephone=0.0)
    train = make_loader(
        material.clips, material.plan, start=step * accumulation * ranks, ranks=ranks, rank=rank(settings.hardware),
        workers=settings.data.workers, labels=material.encode, augment=Augment(speed) if speed.any else None,
    )  # fmt: skip
    valid = shard_loader(
        lambda ranks, rank: make_eval_loader(
            material.mixture, material.held_out, settings.batch.micro_s, material.encode, ranks=ranks, rank=rank
        ),
        settings.hardware,
    )
    run = Run(
        folder, settings.hardware, settings.log, settings.schedule, accumulation, audio_s, title, SHOW,
        monitor=("valid/cer", "min") if best else None, clip=settings.optim.clip,
        budget=budget,
    )  # fmt: skip
    fit(task, run, train, valid, [])


def _micro_step(task: DistillTask, material: Material) -> None:
    """One forward and backward as training does it; parameters stay as they are."""
    batch = next(iter(make_loader(material.clips, material.plan, start=0, workers=0, labels=material.encode)))
    with torch.autocast("cpu", torch.bfloat16, enabled=task.settings.hardware.precision == "bf16"):
        loss = task.weighted(task.losses(batch, generator(task.settings.seed, "timing")))
    loss.backward()


# --- A distillation run ----------------------------------------------------------------------------------


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
    if is_rank_zero(settings.hardware):
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
        f"test CER {scores['cer']:.3f} (95 % {low:.3f} to {high:.3f}), WER {scores['wer']:.3f} on {describe_clips(scores)}; "
        f"the teacher's {facts['teacher_cer']:.3f} and {facts['teacher_wer']:.3f}; "
        f"the recogniser is {folder / 'recogniser'}"
    )
