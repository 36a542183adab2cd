"""Distillation of a recogniser into a smaller student: one run, from settings to ``RUN/recogniser`` and its scores."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.config import DistillSettings
from distill.pseudo_labels import beam_labels
from distill.stored_outputs import StoredTeacher, stored
from distill.student import Initial, initial_student
from distill.task import DistillTask
from distill.teacher import Teacher, TorchTeacher, choose_tokens, load_teacher
from lalia.cards import write_json
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
from lalia.decoding.forced_alignment import frames_needed
from lalia.errors import AudioError, UserError
from lalia.model_folder import require_alphabet
from lalia.models.recogniser import Recogniser
from lalia.models.store import count_parameters
from lalia.report.run_page import write_run_report
from lalia.runtime.student import Student
from lalia.text.tokens import Tokens
from lalia.training import trainer
from lalia.training.distributed import (
    autocast,
    is_rank_zero,
    precision_of,
    rank,
    set_threads,
    shard_loader,
    training_device,
)
from lalia.training.validation import Transcripts, describe_clips, describe_languages, transcribe_rows
from lalia.units import SAMPLE_RATE, to_samples

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
    initial = initial_student(inputs.teachers[0], settings.student, settings.regular, inputs.tokens)
    if initial.measure:
        initial.student.encoder.measure(_readable(inputs.mixture, inputs.rows[:MEASURED]))
    check_frames(initial, inputs)
    if is_rank_zero(settings.hardware) and not trainer.first_step(folder):
        print(describe_student(initial, inputs.teachers[0]), file=sys.stderr)
    if settings.store.folder:
        inputs.store_outputs(settings)
    task = DistillTask(settings, inputs.teachers, initial.student, inputs.references)
    train(settings, folder, task, inputs, "distill", best=True)
    if is_rank_zero(settings.hardware):
        _finish(settings, folder, task, inputs, initial.cards)


def _finish(
    settings: DistillSettings, folder: Path, task: DistillTask, inputs: RunInputs, start: list[dict[str, Any]]
) -> None:
    """Save the student of the best checkpoint, with its scores and the teacher's on the test clips."""
    best, step = trainer.best_weights(folder)
    task.load_state_dict(best)
    student = task.student.eval()
    scores = transcribe_rows(student, inputs.mixture, inputs.test).as_dict()
    taught = [teacher_transcripts(teacher, inputs.mixture, inputs.test).as_dict() for teacher in inputs.teachers]
    teacher = taught[0]
    facts = inputs.facts | {
        "steps": settings.schedule.steps, "best_step": step, "fake_int8": settings.qat,
        "test_cer": scores["cer"], "test_wer": scores["wer"],
        "teacher_cer": teacher["cer"], "teacher_wer": teacher["wer"],
    }  # fmt: skip
    if len(taught) > 1:
        facts["teachers"] = [
            {"folder": one.folder, "cer": found["cer"], "wer": found["wer"]}
            for one, found in zip(inputs.teachers, taught, strict=True)
        ]
    student.save(
        folder / "recogniser", [*start, *inputs.cards, *inputs.mixture.cards],
        language=inputs.languages, distillation=facts,
    )  # fmt: skip
    hypotheses = {clip["id"]: clip["hypothesis"] for clip in teacher.pop("clips")}
    for clip in scores["clips"]:
        clip["teacher"] = hypotheses.get(clip["id"], "")
    beside = {"teacher": {"parameters": inputs.teachers[0].parameters} | teacher}
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


MEASURED = 200
"""Training clips that the normalisation of a new frontend is measured on."""
FEW = 0.1
"""Largest share of labelled clips with more letters than the student has frames."""


def describe_student(initial: Initial, teacher: Teacher) -> str:
    """The initial student and where its weights are from; advice if most of it would be a frontend on the wave."""
    shape = initial.student.encoder.shape
    told = (
        f"the student has {shape.layers} blocks of width {shape.width} on {1000 * shape.frame_s:g} ms frames "
        f"({'log-mel' if shape.input == 'logmel' else shape.input}), {len(initial.student.tokens)} tokens, and starts from "
        f"{initial.origin}"
    )
    if teacher.hop != shape.hop:
        told += f"; the teacher's frames of {1000 * teacher.hop / SAMPLE_RATE:g} ms are matched to its own"
    if shape.input == "wave":
        frontend, whole = (count_parameters(part) / 1e6 for part in (initial.student.encoder.frontend, initial.student))
        told += (
            f". It keeps the teacher's frontend on the wave ({frontend:.1f} of {whole:.1f} M parameters); --student.input logmel "
            "gives it log-mel frames instead"
        )
    return told


def check_frames(initial: Initial, inputs: RunInputs) -> None:
    """Raise ``UserError`` if too many labels have more letters than the student has frames; it could not learn them."""
    shape, mixture = initial.student.encoder.shape, inputs.mixture
    long = [
        row
        for row in inputs.labelled.tolist()
        if frames_needed(inputs.encode(mixture.text(row), mixture.language(row)))
        > shape.frames(to_samples(float(mixture.durations_s[row])))
    ]
    if len(long) > FEW * len(inputs.labelled):
        raise UserError(
            f"{len(long)} of {len(inputs.labelled)} labelled clips have more letters than student frames of "
            f"{1000 * shape.frame_s:g} ms ({', '.join(map(mixture.id, long[:3]))}); give shorter frames with --student.stack, "
            "or check that the labels belong to the audio"
        )


def teacher_transcripts(teacher: Teacher, mixture: Mixture, rows: np.ndarray) -> Transcripts:
    """Greedy transcripts of ``rows`` by ``teacher``."""
    if isinstance(teacher, StoredTeacher):
        return teacher.transcripts(mixture, rows)
    if isinstance(teacher, TorchTeacher):
        return transcribe_rows(teacher.recogniser, mixture, rows)
    found, student = Transcripts([], [], []), Student.load(teacher.folder)
    for row in rows.tolist():
        try:
            hypothesis = student.transcribe(mixture.wave(row)).text
        except AudioError as error:
            found.unread.append(str(error))
            continue
        found.add(mixture, row, teacher.normaliser, hypothesis)
    return found


def _readable(mixture: Mixture, rows: np.ndarray) -> Iterator[np.ndarray]:
    for row in rows.tolist():
        with contextlib.suppress(UserError):
            yield mixture.wave(row)


# --- Teacher, clips and labels -------------------------------------------------------------------------


@dataclass
class RunInputs:
    """The teachers, the clips and the batch plan of a run; rows are indices into ``mixture``."""

    teachers: list[Teacher]
    tokens: Tokens
    """the student's"""
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
        """Open the teachers and corpora of ``settings``; a ``UserError`` if one is missing or has another alphabet."""
        data = settings.data
        teachers = [load_teacher(folder, data.language) for folder in settings.teacher]
        first = teachers[0]
        hybrid = any(isinstance(one, TorchTeacher) and one.recogniser.transducer is not None for one in teachers)
        if hybrid and is_rank_zero(settings.hardware):
            print("note: a teacher's transducer is left out; the student learns from its CTC head", file=sys.stderr)
        mixture = Mixture.load(data.corpus)
        rows = mixture.select("train", data.language, min_s=data.min_s, max_s=data.max_s)
        labelled = choose_labels(settings, mixture, rows, first.card)
        # Labelled clips are a separate group, drawn by hours^alpha as languages are, so that a few are drawn often enough.
        groups = mixture.groups * 2
        groups[labelled] += 1
        plan = settings.batch_plan(mixture, rows, groups=groups, crop=False)
        held_out, test = held_out_rows(mixture, data.language, data.min_s, data.max_s, is_rank_zero(settings.hardware))
        texts = {
            row: normalised_label(mixture, row, first.normaliser) for row in [*labelled.tolist(), *held_out.tolist()]
        }
        check_labels(settings, first, mixture, texts)
        tokens = choose_tokens(settings.student.alphabet, first, (texts[row] for row in labelled.tolist()))
        encode = label_encoder(tokens, first.normaliser)
        return cls(teachers, tokens, mixture, rows, labelled, held_out, test, plan, encode)

    @property
    def recogniser(self) -> Recogniser:
        """The first teacher in torch; a ``UserError`` if it is a student."""
        first = self.teachers[0]
        if isinstance(first, StoredTeacher):
            first = load_teacher(first.folder, self.languages)
        if not isinstance(first, TorchTeacher):
            raise UserError(
                f"--teacher {first.folder}: is a student (ONNX); this needs a recogniser with weights in torch"
            )
        return first.recogniser

    def store_outputs(self, settings: DistillSettings) -> None:
        """Replace the teachers by their outputs in the store, which are computed first where they are missing."""
        set_threads(settings.hardware)
        device = training_device(settings.hardware)
        chosen: str = settings.store.precision
        if chosen == "auto" and (known := precision_of(settings.hardware)) != "fp32":
            chosen = known
        rows = np.unique(np.concatenate([self.rows, self.held_out, self.test]))
        self.teachers = stored(
            self.teachers, settings.store, self.mixture, rows, device=device, precision=chosen, micro_s=settings.batch.micro_s,
            leads=is_rank_zero(settings.hardware),
        )  # fmt: skip

    @property
    def cards(self) -> list[dict[str, Any]]:
        """The teachers' cards."""
        return [teacher.card for teacher in self.teachers]

    @property
    def clips(self) -> LabelSubset:
        """The clips, with all labels hidden except those that are used."""
        return LabelSubset(self.mixture, self.labelled)

    @property
    def references(self) -> dict[int, str]:
        """Normalised texts of the held-out clips by row."""
        normaliser = self.teachers[0].normaliser
        return {row: normalised_label(self.mixture, row, normaliser) for row in self.held_out.tolist()}

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


def check_labels(settings: DistillSettings, teacher: Teacher, mixture: Mixture, texts: dict[int, str]) -> None:
    """Raise ``UserError`` if the teacher has no letters for most words of the labels ``texts`` (normalised, by row)."""
    words: list[str] = []
    for row, text in texts.items():
        words += teacher.normaliser.for_language(mixture.language(row)).writing.count_units(text)
    unknown = [word for word in words if teacher.tokens.unknown(word)]
    if words:
        require_alphabet(
            f"--teacher {teacher.folder}: another language or alphabet than the labels of {', '.join(settings.data.corpus)}",
            len(unknown), len(words), " ".join(unknown[:5]), "the teacher",
        )  # fmt: skip


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
            inputs.recogniser, inputs.cards[0], settings.loss.pseudo_lm, inputs.mixture, unlabelled, settings.loss.confidence,
            folder, is_rank_zero(settings.hardware),
        )  # fmt: skip
        task.pseudo = translated(task.pseudo, inputs.teachers[0].tokens, inputs.tokens)
    step = trainer.first_step(folder)
    audio_s = accumulation * ranks * settings.batch.micro_s
    if is_rank_zero(settings.hardware):
        print(
            f"{title}: {' and '.join(teacher.size for teacher in inputs.teachers)} teach "
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


def translated(labels: dict[int, list[int]], old: Tokens, new: Tokens) -> dict[int, list[int]]:
    """``labels`` in ``old`` tokens as ``new`` ones; those with a token that the new ones lack are left out."""
    if old == new:
        return labels
    number = {token: new.symbols.index(symbol) for token, symbol in enumerate(old.symbols) if symbol in new.symbols}
    return {row: [number[t] for t in tokens] for row, tokens in labels.items() if all(t in number for t in tokens)}


def _micro_step(task: DistillTask, inputs: RunInputs) -> None:
    """One forward and backward pass as in training, for timing; the parameters do not change."""
    loader = make_loader(inputs.clips, inputs.plan, start=0, workers=0, labels=inputs.encode, finish=task.sampler)
    batch = next(iter(loader)).to(task.device)
    task.teachers.to(task.device)  # no submodules of the task
    with autocast(task.settings.hardware):
        loss = task.weighted(task.losses(batch))
    loss.backward()
