"""A distillation run: a teacher, corpora and settings in, ``RUN/recogniser`` and ``RUN/scores.json`` out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.config import DistillSettings
from distill.student import make_student
from distill.task import DistillTask
from lalia.cards import read_card, write_json
from lalia.data.augment import Augment
from lalia.data.labels import Revealed, choose, digest, encoder_of
from lalia.data.loader import make_eval_loader, make_loader
from lalia.data.mixture import Mixture
from lalia.data.plan import BatchPlan
from lalia.models.recogniser import Recogniser
from lalia.models.store import count_parameters
from lalia.models.transcription import transcribe_rows
from lalia.training.ranks import leads, rank, shared
from lalia.training.runs import FINISHED, Run, best_weights, finished, first_step, fit, settle
from lalia.training.seeds import generator

SHOW = ("train/loss", "train/posteriors", "valid/divergence", "valid/cer", "valid/wer")


def distill(settings: DistillSettings, folder: Path) -> None:
    """Train to the end of the schedule, or go on from where the run in ``folder`` stopped."""
    if finished(folder):
        print(f"{folder}: this run is finished; its recogniser is {folder / 'recogniser'}")
        return
    data = settings.data
    teacher = Recogniser.load(settings.teacher)
    card = read_card(Path(settings.teacher), "recogniser")
    mixture = Mixture.load(data.corpus)
    rows = mixture.select("train", data.language, min_s=data.min_s, max_s=data.max_s)
    labelled = choose_labels(settings, mixture, rows, card)
    held_out = mixture.select("dev", data.language, labelled=True, min_s=data.min_s, max_s=data.max_s)
    test = mixture.select("test", data.language, labelled=True, min_s=data.min_s)
    clips = Revealed(mixture, labelled)
    encode = encoder_of(teacher.tokens, teacher.normaliser)

    torch.manual_seed(settings.seed)
    student = make_student(teacher, settings.student, settings.regular)
    # Labelled clips are a group of their own: drawn by hours^alpha as languages are, a few of them are not lost among many.
    groups = mixture.groups * 2
    groups[labelled] += 1
    plan = BatchPlan(
        durations_s=mixture.durations_s, groups=groups, rows=rows, seed=settings.seed,
        micro_batch_s=settings.batch.micro_s, min_s=data.min_s, max_s=data.max_s, alpha=data.alpha, crop=False,
    )  # fmt: skip
    ranks = settings.hardware.ranks
    accumulation = settings.batch.accumulation(ranks)
    references = {int(row): teacher.normaliser(mixture.text(int(row))) for row in held_out}
    task = DistillTask(settings, teacher, student, references)
    settle(settings, folder, lambda: _micro_step(task, clips, plan, encode), accumulation)
    task.zero_grad(set_to_none=True)

    leader = leads(settings.hardware)
    step = first_step(folder)
    audio_s = accumulation * ranks * settings.batch.micro_s
    said = (
        f"distilling {count_parameters(teacher) / 1e6:.2f} M parameters into {count_parameters(student) / 1e6:.2f} M on "
        f"{mixture.durations_s[rows].sum() / 60:.1f} minutes in {len(rows)} clips, {len(labelled)} of them with labels "
        f"({mixture.durations_s[labelled].sum() / 60:.1f} minutes), {settings.schedule.steps} steps of {audio_s:.0f} s"
        + (f"; going on from step {step}" if step else "")
    )
    if leader:
        print(said, file=sys.stderr)
    run = Run(
        folder, settings.hardware, settings.log, settings.schedule, accumulation, audio_s,
        "distill", SHOW, monitor=("valid/cer", "min"), clip=settings.optim.clip,
    )  # fmt: skip
    # Teacher and student must hear the same length; what else is done to the clip, the task does to the student's copy.
    speed = replace(settings.augment, reverb=0.0, noise=0.0, telephone=0.0)
    augment = Augment(speed) if speed.any else None
    train = make_loader(
        clips, plan, start=step * accumulation * ranks, ranks=ranks, rank=rank(settings.hardware), workers=data.workers,
        labels=encode, augment=augment,
    )  # fmt: skip
    valid = shared(
        lambda ranks, rank: make_eval_loader(mixture, held_out, settings.batch.micro_s, encode, ranks=ranks, rank=rank),
        settings.hardware,
    )
    fit(task, run, train, valid, [])
    if leader:
        _finish(settings, folder, task, mixture, test, labelled, rows)


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


def _finish(
    settings: DistillSettings, folder: Path, task: DistillTask, mixture: Mixture, test: np.ndarray,
    labelled: np.ndarray, rows: np.ndarray,
) -> None:  # fmt: skip
    """Keep the student of the best checkpoint, and what it and its teacher score on the test clips."""
    best, step = best_weights(folder)
    task.load_state_dict(best)
    student = task.student.eval()
    scores = transcribe_rows(student, mixture, test).as_dict()
    taught = transcribe_rows(task.teacher, mixture, test).score()
    facts = {
        "minutes": round(float(mixture.durations_s[rows].sum()) / 60, 2),
        "minutes_of_labels": round(float(mixture.durations_s[labelled].sum()) / 60, 2),
        "labels": {"minutes": settings.labels.minutes, "clips": digest(mixture, labelled)},
        "steps": settings.schedule.steps, "best_step": step,
        "test_cer": scores["cer"], "test_wer": scores["wer"],
        "teacher_cer": taught.cer.rate, "teacher_wer": taught.wer.rate,
    }  # fmt: skip
    student.save(
        folder / "recogniser", [read_card(Path(settings.teacher)), *mixture.cards],
        language=[mixture.language_names[code] for code in np.unique(mixture.languages[rows])], distillation=facts,
    )  # fmt: skip
    write_json(folder / "scores.json", facts | scores)
    write_json(folder / FINISHED, facts)
    low, high = scores["cer_interval"]
    print(
        f"test CER {scores['cer']:.3f} (95 % {low:.3f} to {high:.3f}), WER {scores['wer']:.3f} on {len(test)} clips; "
        f"the teacher's {facts['teacher_cer']:.3f} and {facts['teacher_wer']:.3f}; "
        f"the recogniser is {folder / 'recogniser'}"
    )


def _micro_step(task: DistillTask, clips: Any, plan: BatchPlan, encode: Callable[[str], list[int]]) -> None:
    """One forward and backward as training does it; parameters stay as they are."""
    batch = next(iter(make_loader(clips, plan, start=0, workers=0, labels=encode)))
    with torch.autocast("cpu", torch.bfloat16, enabled=task.settings.hardware.precision == "bf16"):
        loss = task.weighted(task.losses(batch, generator(task.settings.seed, "timing")))
    loss.backward()
