"""``lalia pretrain fit``: from corpora and settings to ``RUN/encoder``."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lalia.cards import read_card
from lalia.data.augment import Augment
from lalia.data.loader import make_eval_loader, make_loader
from lalia.data.mixture import Mixture
from lalia.data.plan import BatchPlan
from lalia.data.seeds import generator
from lalia.errors import UserError
from lalia.models.encoder import Encoder
from lalia.models.quantizer import ContrastiveHead, kmeans
from lalia.models.shape import EncoderShape
from lalia.models.store import load_quantizer
from lalia.report.run_page import write_run_report
from lalia.training.distributed import autocast, is_rank_zero, rank, shard_loader
from lalia.training.run_log import ThroughputLog, TimedLoader, read_metrics
from lalia.training.trainer import (
    Run,
    finished,
    first_step,
    fit,
    newest_checkpoint,
    resolve_schedule,
    write_finished,
)
from lalia.units import plural, to_samples
from pretrain.code_usage import CodeRecord
from pretrain.config import PretrainSettings
from pretrain.guard import Guard
from pretrain.plan import MINIMUM_STEPS, check_memory
from pretrain.task import PretrainTask, contrast_sampler

SHOW = ("train/loss", "train/accuracy", "train/code_perplexity", "valid/accuracy", "valid/code_perplexity")


def pretrain(settings: PretrainSettings, folder: Path, stated: Collection[str] = ()) -> None:
    """Train to the end of the schedule, or continue the run in ``folder``.

    ``stated`` are the settings that the user gave (``config.stated``): a finished run must have been made with them.
    """
    if finished(folder, settings, stated):
        print(f"{folder}: this run is finished; its encoder is {folder / 'encoder'}")
        return
    start = _load_initial_model(settings) if settings.encoder else None
    data = settings.data
    mixture = Mixture.load(data.corpus)
    notes = [mixture.hold_out_recordings(data.language, data.min_s)]
    rows = mixture.select("train", data.language, min_s=data.min_s)
    held_out, told = _held_out(settings, mixture)
    notes.append(told)
    plan = settings.batch_plan(mixture, rows)
    ranks = settings.hardware.ranks
    accumulation = settings.batch.accumulation(ranks)

    if not newest_checkpoint(folder) and is_rank_zero(settings.hardware):
        check_memory(settings)
    torch.manual_seed(settings.seed)
    task = PretrainTask(settings)
    if start is not None:
        start.load_into(task)
    if not newest_checkpoint(folder):
        _initialise_from_audio(task, mixture, rows, start)
    budget = resolve_schedule(
        settings, folder, task, lambda: _micro_step(task, mixture, plan), accumulation, MINIMUM_STEPS
    )
    task.zero_grad(set_to_none=True)

    leader = is_rank_zero(settings.hardware)
    step = first_step(folder)
    hours = mixture.durations_s[rows].sum() / 3600
    chance = 1 / (settings.objective.distractors + 1)
    codes = settings.quantizer.codebooks * settings.quantizer.entries
    summary = (
        f"pretraining on {hours:.2f} hours in {plural(len(rows), 'clip')}, {plural(settings.schedule.steps, 'step')} of "
        f"{accumulation * ranks * settings.batch.micro_s:.0f} s; chance is {chance:.4f}, codes {codes}"
        + (f"; continuing from step {step}" if step else "")
    )
    if leader:
        print(*filter(None, notes), summary, sep="\n", file=sys.stderr)
    run = Run(
        folder, settings.hardware, settings.log, settings.schedule, accumulation,
        accumulation * ranks * settings.batch.micro_s, "pretrain", SHOW, clip=settings.optim.clip,
        budget=budget, rollback=settings.guard.enabled, unused_parameters=False,
    )  # fmt: skip
    loader = make_loader(
        mixture,
        plan,
        start=step * accumulation * ranks,
        ranks=ranks,
        rank=rank(settings.hardware),
        workers=data.workers,
        augment=Augment(settings.augment) if settings.augment.any else None,
        finish=contrast_sampler(settings),
    )
    valid = shard_loader(
        lambda ranks, rank: make_eval_loader(
            mixture,
            held_out,
            settings.batch.micro_s,
            ranks=ranks,
            rank=rank,
            max_s=data.max_s,
            finish=contrast_sampler(settings, validation=True),
        ),
        settings.hardware,
    )
    train = TimedLoader(loader)
    recorders = [ThroughputLog(train, mixture.language_names), CodeRecord(folder)]
    fit(task, run, train, valid, [*([Guard(settings.guard, folder)] if settings.guard.enabled else []), *recorders])

    if not leader:
        return
    last = {k: v for line in read_metrics(folder) for k, v in line.items() if k.startswith("valid/")}
    facts = {
        "accuracy": last["valid/accuracy"], "chance": chance,
        "code_perplexity": last["valid/code_perplexity"], "codes": codes,
        "steps": settings.schedule.steps, "hours": round(float(hours), 3),
    }  # fmt: skip
    parents = mixture.cards + [
        read_card(folder) for folder in dict.fromkeys((settings.encoder, settings.quantizer.teacher)) if folder
    ]
    task.encoder.save(folder / "encoder", parents, quantizer=task.head, pretraining=facts)
    write_run_report(folder, mixture, type(settings)(), facts)
    write_finished(folder, facts)
    print(
        f"held-out contrastive accuracy {facts['accuracy']:.3f} (chance {chance:.4f}), code perplexity "
        f"{facts['code_perplexity']:.0f} of {codes}; the encoder is {folder / 'encoder'}"
    )


@dataclass
class InitialModel:
    """The encoder and quantizer that continued pretraining starts from."""

    encoder: Encoder
    quantizer: ContrastiveHead | None
    """None: a new quantizer is trained"""

    def load_into(self, task: PretrainTask) -> None:
        """Load the weights into ``task``."""
        task.encoder.load_state_dict(self.encoder.state_dict())
        if self.quantizer is not None:
            task.head.load_state_dict(self.quantizer.state_dict())


def _load_initial_model(settings: PretrainSettings) -> InitialModel:
    """The encoder and quantizer in ``settings.encoder``; ``settings.model`` and ``settings.quantizer`` become their shapes,
    with the model's dropouts and stem_gradient_scale as the settings have them: these are training's, not the weights'. With a
    ``quantizer.teacher`` the quantizer is new, since the targets change."""
    quantizer = None if settings.quantizer.teacher else load_quantizer(Path(settings.encoder))
    start = InitialModel(Encoder.load(settings.encoder), quantizer)
    values, asked = start.encoder.shape.to_dict(), settings.model.to_dict()
    free = ("dropout", "dropout_input", "attention_dropout", "feedforward_dropout", "layerdrop", "stem_gradient_scale")
    settings.model = EncoderShape.from_dict(values | {name: asked[name] for name in free})
    if start.quantizer is not None:
        settings.quantizer = replace(start.quantizer.shape, dropout_features=settings.quantizer.dropout_features)
    return start


def _held_out(settings: PretrainSettings, mixture: Mixture) -> tuple[np.ndarray, str]:
    """(rows of the dev clips for validation, note on those not used as they are).

    Only clips with enough masked frames for distinct distractors, so that chance is exactly 1 / (distractors + 1); all clips if
    there are none.
    """
    shape, mask, data = settings.model, settings.mask, settings.data
    hidden_share = 0.9 * (1 - math.exp(-mask.coverage))  # spans overlap; 0.9 as a margin for random draws
    shortest_s = min((settings.objective.distractors + 1) / hidden_share * shape.frame_s, data.max_s)
    every = mixture.select("dev", data.language)
    durations_s = mixture.durations_s[every]
    rows = every[durations_s >= shortest_s]
    if not len(rows):
        shortest_s = data.min_s
        rows = mixture.select("dev", data.language, min_s=shortest_s)
    told = []
    if len(rows) < len(every):
        told.append(f"{len(every) - len(rows)} shorter than {shortest_s:.1f} s are skipped")
    if longer := int((durations_s > data.max_s).sum()):
        told.append(f"{longer} longer than data.max_s {data.max_s:g} s are split")
    return rows, f"validation: of {len(every):,} held-out clips {' and '.join(told)}" if told else ""


def _initialise_from_audio(
    task: PretrainTask, mixture: Mixture, rows: np.ndarray, start: InitialModel | None, most: int = 1500
) -> None:
    """Initialise what depends on the corpus before training: feature statistics and k-means centres.

    What comes from ``start`` stays: its weights were trained with it.
    """
    centres = task.settings.quantizer.kind == "kmeans" and (start is None or start.quantizer is None)
    if start is not None and not centres:
        return
    random = generator(task.settings.seed, "measure")
    chosen = rows[torch.randperm(len(rows), generator=random)[:most].numpy()]
    waves = []
    for row in chosen:
        with contextlib.suppress(UserError):  # an unreadable clip is reported when its batch is loaded
            waves.append(mixture.wave(int(row))[: to_samples(task.settings.data.max_s)])
    if start is None:
        task.encoder.measure(waves)
    if centres:
        task.head.measure(waves)
        points = []
        for wave in waves:
            if task.settings.model.frames(len(wave)):
                wave_1S, length_1 = torch.from_numpy(wave)[None], torch.tensor([len(wave)])
                _, raw_1TF, frames_1 = task.encoder.features(wave_1S, length_1)
                points.append(task.head.points(wave_1S, length_1, raw_1TF.detach(), frames_1)[0])
        points_NC = torch.cat(points)
        few_NC = points_NC[torch.randperm(len(points_NC), generator=random)[:40_000]]
        task.head.centres_VC.copy_(kmeans(few_NC, task.settings.quantizer.entries, random))


def _micro_step(task: PretrainTask, mixture: Mixture, plan: BatchPlan) -> None:
    """One forward and backward pass as in training, without a step."""
    loader = make_loader(mixture, plan, start=0, workers=0, finish=contrast_sampler(task.settings))
    batch = next(iter(loader)).to(task.device)
    with autocast(task.settings.hardware):
        output = task(batch, 1.0)
    (output.hidden.loss + (output.visible.loss if output.visible is not None else 0)).backward()
