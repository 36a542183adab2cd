"""Distillation of a recogniser into a smaller student: one run, from settings to ``RUN/recogniser`` and its scores."""

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
from lalia.data.labels import (
    LabelSubset,
    choose_minutes,
    clips_digest,
    describe_excluded,
    held_out_rows,
    label_encoder,
    normalised_label,
)
from lalia.data.loader import make_eval_loader, make_loader
from lalia.data.mixture import Mixture
from lalia.data.plan import BatchPlan
from lalia.models.recogniser import Recogniser
from lalia.models.store import count_parameters
from lalia.report.run_page import write_run_report
from lalia.training import trainer
from lalia.training.distributed import autocast, is_rank_zero, rank, shard_loader
from lalia.training.validation import describe_clips, describe_languages, transcribe_rows

SHOW = ("train/loss", "train/posteriors", "valid/divergence", "valid/cer", "valid/wer")
MINIMUM_STEPS = trainer.MinimumSteps(200, "with fewer steps a student stays far from its teacher")

# --- The run -------------------------------------------------------------------------------------------


def distill(settings: DistillSettings, folder: Path, stated: Collection[str] = ()) -> None:
    """Train to the end of the schedule, or continue the run in ``folder``.

    ``stated`` names the settings that the user gave (``config.stated``): a finished run must have been made with them.
    """
    if trainer.finished(folder, settings, stated):
        print(f"{folder}: this run is finished; its recogniser is {folder / 'recogniser'}")
        return
    inputs = RunInputs.load(settings)
    torch.manual_seed(settings.seed)
    student = make_student(inputs.teacher, settings.student, settings.regular)
    task = DistillTask(settings, inputs.teacher, student, inputs.references)
    train(settings, folder, task, inputs, "distill", best=True)
    if is_rank_zero(settings.hardware):
        _finish(settings, folder, task, inputs)


def _finish(settings: DistillSettings, folder: Path, task: DistillTask, inputs: RunInputs) -> None:
    """Save the student of the best checkpoint, with its scores and the teacher's on the test clips."""
    best, step = trainer.best_weights(folder)
    task.load_state_dict(best)
    student = task.student.eval()
    scores = transcribe_rows(student, inputs.mixture, inputs.test).as_dict()
    teacher = transcribe_rows(task.teacher, inputs.mixture, inputs.test).as_dict()
    facts = inputs.facts | {
        "steps": settings.schedule.steps, "best_step": step, "fake_int8": settings.qat,
        "test_cer": scores["cer"], "test_wer": scores["wer"],
        "teacher_cer": teacher["cer"], "teacher_wer": teacher["wer"],
    }  # fmt: skip
    start = [read_card(Path(settings.student.start))] if settings.student.start else []
    student.save(
        folder / "recogniser", [*start, inputs.card, *inputs.mixture.cards],
        language=inputs.languages, distillation=facts,
    )  # fmt: skip
    hypotheses = {clip["id"]: clip["hypothesis"] for clip in teacher.pop("clips")}
    for clip in scores["clips"]:
        clip["teacher"] = hypotheses[clip["id"]]
    beside = {"teacher": {"parameters": count_parameters(inputs.teacher)} | teacher}
    write_json(folder / "scores.json", facts | scores | beside)
    write_run_report(folder, inputs.mixture, type(settings)(), facts)
    trainer.write_finished(folder, facts)
    low, high = scores["cer_interval"]
    print(
        f"test CER {scores['cer']:.3f} (95 % {low:.3f} to {high:.3f}), WER {scores['wer']:.3f} on {describe_clips(scores)}; "
        f"the teacher's {facts['teacher_cer']:.3f} and {facts['teacher_wer']:.3f}; "
        f"the recogniser is {folder / 'recogniser'}"
    )
    if apart := describe_languages(scores):
        print(apart)


# --- Teacher, clips and labels -------------------------------------------------------------------------


@dataclass
class RunInputs:
    """The teacher, the clips and the batch plan of a run; rows are indices into ``mixture``."""

    teacher: Recogniser
    card: dict[str, Any]
    """the teacher's"""
    mixture: Mixture
    rows: np.ndarray
    """training clips"""
    labelled: np.ndarray
    """training clips whose labels are used"""
    held_out: np.ndarray
    test: np.ndarray
    plan: BatchPlan
    encode: Callable[[str, str], list[int]]

    @classmethod
    def load(cls, settings: DistillSettings) -> RunInputs:
        """Open the teacher and corpora of ``settings``; a ``UserError`` if one is missing."""
        data = settings.data
        teacher = Recogniser.load(settings.teacher)
        card = read_card(Path(settings.teacher), "recogniser")
        mixture = Mixture.load(data.corpus)
        rows = mixture.select("train", data.language, min_s=data.min_s, max_s=data.max_s)
        labelled = choose_labels(settings, mixture, rows, card)
        # Labelled clips are a separate group, drawn by hours^alpha as languages are, so that a few are drawn often enough.
        groups = mixture.groups * 2
        groups[labelled] += 1
        plan = settings.batch_plan(mixture, rows, groups=groups, crop=False)
        held_out, test = held_out_rows(mixture, data.language, data.min_s, data.max_s, is_rank_zero(settings.hardware))
        encode = label_encoder(teacher.tokens, teacher.normaliser)
        return cls(teacher, card, mixture, rows, labelled, held_out, test, plan, encode)

    @property
    def clips(self) -> LabelSubset:
        """The clips, with all labels hidden except those that are used."""
        return LabelSubset(self.mixture, self.labelled)

    @property
    def references(self) -> dict[int, str]:
        """Normalised texts of the held-out clips by row."""
        return {row: normalised_label(self.mixture, row, self.teacher.normaliser) for row in self.held_out.tolist()}

    @property
    def facts(self) -> dict[str, Any]:
        """Facts for the card."""
        return {
            "minutes": self.minutes(self.rows),
            "minutes_of_labels": self.minutes(self.labelled),
            "labels": {"clips": clips_digest(self.mixture, self.labelled)},
        }

    @property
    def languages(self) -> list[str]:
        """Languages of the training clips."""
        return [self.mixture.language_names[code] for code in np.unique(self.mixture.languages[self.rows])]

    def left_out(self, settings: DistillSettings) -> str:
        """How many training clips are not used and why, in brackets."""
        data = settings.data
        return describe_excluded(self.mixture, "train", data.language, data.min_s, data.max_s, labelled=None)

    def minutes(self, rows: np.ndarray) -> float:
        """Total length of ``rows`` in minutes."""
        return round(float(self.mixture.durations_s[rows].sum()) / 60, 2)


def choose_labels(
    settings: DistillSettings, mixture: Mixture, rows: np.ndarray, teacher_card: dict[str, Any]
) -> np.ndarray:
    """Rows of the clips whose labels are used: those that the teacher was trained on, unless the settings give a number.

    Prints a note if these are other clips. Empty if labels have no weight or the corpus has none.
    """
    labelled = rows[mixture.labelled[rows]]
    if not settings.loss.labels or not len(labelled):
        return labelled[:0]
    known = teacher_card.get("finetuning", {}).get("labels", {})
    minutes = settings.labels.minutes
    if minutes is None:
        minutes = float(known.get("minutes", 0.0))
    chosen = choose_minutes(mixture, labelled, minutes)
    if known and clips_digest(mixture, chosen) != known["clips"]:
        print(
            f"note: the student uses the labels of {len(chosen)} clips, which are not those that the teacher was trained on "
            "(another corpus, language, data.min_s, data.max_s or labels.minutes)",
            file=sys.stderr,
        )
    return chosen


def train(
    settings: DistillSettings, folder: Path, task: DistillTask, inputs: RunInputs, title: str, best: bool
) -> None:
    """Train ``task`` to the end of the schedule in the run ``folder``; with ``best``, also keep the best checkpoint."""
    ranks = settings.hardware.ranks
    accumulation = settings.batch.accumulation(ranks)
    budget = trainer.resolve_schedule(
        settings, folder, task, lambda: _micro_step(task, inputs), accumulation, MINIMUM_STEPS
    )
    task.zero_grad(set_to_none=True)
    if settings.loss.pseudo and settings.loss.pseudo_lm:
        unlabelled = np.setdiff1d(inputs.rows, inputs.labelled)
        task.pseudo = beam_labels(
            inputs.teacher, inputs.card, settings.loss.pseudo_lm, inputs.mixture, unlabelled, settings.loss.confidence,
            folder, is_rank_zero(settings.hardware),
        )  # fmt: skip
    step = trainer.first_step(folder)
    audio_s = accumulation * ranks * settings.batch.micro_s
    if is_rank_zero(settings.hardware):
        print(
            f"{title}: {count_parameters(inputs.teacher) / 1e6:.2f} M parameters teach "
            f"{count_parameters(task.student) / 1e6:.2f} M on {inputs.minutes(inputs.rows):.1f} minutes in "
            f"{len(inputs.rows)} clips{inputs.left_out(settings)}, {len(inputs.labelled)} of them with labels "
            f"({inputs.minutes(inputs.labelled):.1f} minutes), {settings.schedule.steps} steps of {audio_s:.0f} s"
            + (f"; continuing from step {step}" if step else ""),
            file=sys.stderr,
        )
    # Speed changes the length, so it must be the same for teacher and student; the sampler augments the student's copy further.
    speed = replace(settings.augment, reverb=0.0, noise=0.0, gain=0.0, telephone=0.0)
    train = make_loader(
        inputs.clips, inputs.plan, start=step * accumulation * ranks, ranks=ranks, rank=rank(settings.hardware),
        workers=settings.data.workers, labels=inputs.encode,
        augment=Augment(speed) if settings.augment.any else None,  # if only the sampler augments too: processes read then
        finish=task.sampler,
    )  # fmt: skip
    valid = shard_loader(
        lambda ranks, rank: make_eval_loader(
            inputs.mixture, inputs.held_out, settings.batch.micro_s, inputs.encode, ranks=ranks, rank=rank
        ),
        settings.hardware,
    )
    run = trainer.Run(
        folder, settings.hardware, settings.log, settings.schedule, accumulation, audio_s, title, SHOW,
        monitor=("valid/cer", "min") if best else None, clip=settings.optim.clip,
        budget=budget,
    )  # fmt: skip
    trainer.fit(task, run, train, valid, [])


def _micro_step(task: DistillTask, inputs: RunInputs) -> None:
    """One forward and backward pass as in training, for timing; the parameters do not change."""
    loader = make_loader(inputs.clips, inputs.plan, start=0, workers=0, labels=inputs.encode, finish=task.sampler)
    batch = next(iter(loader)).to(task.device)
    task.teacher.to(task.device)  # no submodule of the task
    with autocast(task.settings.hardware):
        loss = task.weighted(task.losses(batch))
    loss.backward()
