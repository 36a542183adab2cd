"""A pretraining run: corpora and settings in, ``RUN/encoder`` out."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from lalia.cards import write_json
from lalia.data.loader import make_eval_loader, make_loader
from lalia.data.mixture import Mixture
from lalia.data.plan import BatchPlan
from lalia.training.recording import read_metrics
from lalia.training.runs import FINISHED, Run, finished, first_step, fit, settle
from pretrain.config import PretrainSettings
from pretrain.task import PretrainTask

SHOW = ("train/loss", "train/accuracy", "train/code_perplexity", "valid/accuracy", "valid/code_perplexity")


def pretrain(settings: PretrainSettings, folder: Path) -> None:
    """Train to the end of the schedule, or go on from where the run in ``folder`` stopped."""
    if finished(folder):
        print(f"{folder}: this run is finished; its encoder is {folder / 'encoder'}")
        return
    data = settings.data
    mixture = Mixture.load(data.corpus)
    rows = mixture.select("train", data.language, min_s=data.min_s)
    held_out = mixture.select("dev", data.language, min_s=data.min_s, max_s=data.max_s)
    plan = BatchPlan(
        durations_s=mixture.durations_s, groups=mixture.groups, rows=rows, seed=settings.seed,
        micro_batch_s=settings.batch.micro_s, min_s=data.min_s, max_s=data.max_s, alpha=data.alpha,
    )  # fmt: skip
    ranks = settings.hardware.ranks
    accumulation = settings.batch.accumulation(ranks)

    torch.manual_seed(settings.seed)
    task = PretrainTask(settings)
    settle(settings, folder, lambda: _micro_step(task, mixture, plan), accumulation)
    task.zero_grad(set_to_none=True)

    step = first_step(folder)
    hours = mixture.durations_s[rows].sum() / 3600
    chance = 1 / (settings.objective.distractors + 1)
    codes = settings.quantizer.codebooks * settings.quantizer.entries
    print(
        f"pretraining on {hours:.2f} hours in {len(rows)} clips, {settings.schedule.steps} steps of "
        f"{accumulation * ranks * settings.batch.micro_s:.0f} s; chance is {chance:.4f}, codes {codes}"
        + (f"; going on from step {step}" if step else ""),
        file=sys.stderr,
    )
    run = Run(
        folder, settings.hardware, settings.log, settings.schedule, accumulation,
        accumulation * ranks * settings.batch.micro_s, "pretrain", SHOW, clip=settings.optim.clip,
    )  # fmt: skip
    train = make_loader(mixture, plan, start=step * accumulation * ranks, ranks=ranks, rank=0, workers=data.workers)
    fit(task, run, train, make_eval_loader(mixture, held_out, settings.batch.micro_s, workers=0), [])

    last = {k: v for line in read_metrics(folder) for k, v in line.items() if k.startswith("valid/")}
    facts = {
        "accuracy": last["valid/accuracy"], "chance": chance,
        "code_perplexity": last["valid/code_perplexity"], "codes": codes,
        "steps": settings.schedule.steps, "hours": round(float(hours), 3),
    }  # fmt: skip
    task.encoder.save(folder / "encoder", mixture.cards, pretraining=facts)
    write_json(folder / FINISHED, facts)
    print(
        f"held-out contrastive accuracy {facts['accuracy']:.3f} (chance {chance:.4f}), code perplexity "
        f"{facts['code_perplexity']:.0f} of {codes}; the encoder is {folder / 'encoder'}"
    )


def _micro_step(task: PretrainTask, mixture: Mixture, plan: BatchPlan) -> None:
    """One forward and backward as training does it; parameters stay as they are."""
    batch = next(iter(make_loader(mixture, plan, start=0, workers=0)))
    precision = task.settings.hardware.precision
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        contrast, _, _ = task.contrast(batch, torch.Generator().manual_seed(0), 1.0)
    (contrast.loss / contrast.count.clamp(min=1)).backward()
