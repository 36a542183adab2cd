"""A fine-tuning run: an encoder, labelled corpora and settings in, ``RUN/recogniser`` and ``RUN/scores.json`` out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from finetune.config import FinetuneSettings
from finetune.labels import make_normaliser, make_tokens
from finetune.loss import ctc
from finetune.task import FinetuneTask
from lalia.cards import read_card, write_json
from lalia.data.augment import Augment
from lalia.data.labels import choose, digest, encoder_of
from lalia.data.loader import make_eval_loader, make_loader
from lalia.data.mixture import Mixture
from lalia.data.plan import BatchPlan
from lalia.models.encoder import Encoder, EncoderShape
from lalia.models.recogniser import Recogniser
from lalia.models.transcription import transcribe_rows
from lalia.report.run_report import write_run_report
from lalia.training.ranks import leads, rank, shared
from lalia.training.runs import FINISHED, Run, best_weights, finished, first_step, fit, settle

SHOW = ("train/loss", "train/blank", "valid/cer", "valid/wer")


def finetune(settings: FinetuneSettings, folder: Path) -> None:
    """Train to the end of the schedule, or go on from where the run in ``folder`` stopped."""
    if finished(folder):
        print(f"{folder}: this run is finished; its recogniser is {folder / 'recogniser'}")
        return
    data = settings.data
    mixture = Mixture.load(data.corpus)
    labelled = mixture.select("train", data.language, labelled=True, min_s=data.min_s, max_s=data.max_s)
    rows = choose(mixture, labelled, settings.labels.minutes)
    held_out = mixture.select("dev", data.language, labelled=True, min_s=data.min_s, max_s=data.max_s)
    test = mixture.select("test", data.language, labelled=True, min_s=data.min_s)
    language = mixture.language_names[mixture.languages[rows[0]]]
    normaliser = make_normaliser(settings.labels, language)
    tokens = make_tokens(mixture, rows, normaliser)
    encode = encoder_of(tokens, normaliser)

    torch.manual_seed(settings.seed)
    recogniser = Recogniser(make_encoder(settings), tokens, normaliser, settings.regular.dropout)
    plan = BatchPlan(
        durations_s=mixture.durations_s, groups=mixture.groups, rows=rows, seed=settings.seed,
        micro_batch_s=settings.batch.micro_s, min_s=data.min_s, max_s=data.max_s, alpha=data.alpha, crop=False,
    )  # fmt: skip
    ranks = settings.hardware.ranks
    accumulation = settings.batch.accumulation(ranks)
    references = {int(row): normaliser(mixture.text(int(row))) for row in held_out}
    task = FinetuneTask(settings, recogniser, references)
    settle(settings, folder, lambda: _micro_step(task, mixture, plan, encode), accumulation)
    task.zero_grad(set_to_none=True)

    leader = leads(settings.hardware)
    step = first_step(folder)
    minutes = float(mixture.durations_s[rows].sum()) / 60
    audio_s = accumulation * ranks * settings.batch.micro_s
    said = (
        f"fine-tuning from {settings.start} weights on {minutes:.1f} minutes in {len(rows)} clips, {len(tokens)} tokens, "
        f"{settings.schedule.steps} steps of {audio_s:.0f} s" + (f"; going on from step {step}" if step else "")
    )
    if leader:
        print(said, file=sys.stderr)
    run = Run(
        folder, settings.hardware, settings.log, settings.schedule, accumulation, audio_s,
        f"finetune ({settings.start})", SHOW, monitor=("valid/cer", "min"), clip=settings.optim.clip,
    )  # fmt: skip
    augment = Augment(settings.augment) if settings.augment.any else None
    train = make_loader(
        mixture,
        plan,
        start=step * accumulation * ranks,
        ranks=ranks,
        rank=rank(settings.hardware),
        workers=data.workers,
        labels=encode,
        augment=augment,
    )
    valid = shared(
        lambda ranks, rank: make_eval_loader(mixture, held_out, settings.batch.micro_s, encode, ranks=ranks, rank=rank),
        settings.hardware,
    )
    fit(task, run, train, valid, [])
    if leader:
        _finish(settings, folder, task, mixture, test, rows)


def make_encoder(settings: FinetuneSettings) -> Encoder:
    """The encoder to start from, with fine-tuning's dropouts: the one in ``settings.encoder``, or its shape with random weights
    (and the same feature statistics, which no training made)."""
    encoder = Encoder.load(settings.encoder)
    regular = settings.regular
    values = encoder.shape.to_dict() | {
        "dropout": regular.dropout, "attention_dropout": regular.dropout, "feedforward_dropout": regular.dropout,
        "layerdrop": regular.layerdrop,
    }  # fmt: skip
    fresh = Encoder(EncoderShape.from_dict(values))
    known = encoder.state_dict()
    if settings.start == "random":
        fresh.load_state_dict({name: known[name] for name, _ in fresh.named_buffers() if name in known}, strict=False)
    else:
        first_renewed = encoder.shape.layers - settings.freeze.renew
        renewed = tuple(f"blocks.layers.{i}." for i in range(first_renewed, encoder.shape.layers))
        kept = {key: w for key, w in known.items() if not (renewed and key.startswith(renewed))}
        fresh.load_state_dict(kept, strict=False)
    return fresh


def _finish(
    settings: FinetuneSettings, folder: Path, task: FinetuneTask, mixture: Mixture, test: np.ndarray, rows: np.ndarray
) -> None:
    """Keep the recogniser of the best checkpoint, and what it scores on the test clips."""
    recogniser = task.recogniser
    best, step = best_weights(folder)
    task.load_state_dict(best)
    recogniser.eval()
    scores = transcribe_rows(recogniser, mixture, test).as_dict()
    facts = {
        "minutes_of_labels": round(float(mixture.durations_s[rows].sum()) / 60, 2),
        "labels": {"minutes": settings.labels.minutes, "clips": digest(mixture, rows)},
        "start": settings.start, "steps": settings.schedule.steps,
        "best_step": step, "test_cer": scores["cer"], "test_wer": scores["wer"],
    }  # fmt: skip
    parents = mixture.cards + ([read_card(Path(settings.encoder))] if settings.start == "pretrained" else [])
    recogniser.save(folder / "recogniser", parents, finetuning=facts)
    write_json(folder / "scores.json", facts | scores)
    write_json(folder / FINISHED, facts)
    write_run_report(folder, mixture, type(settings)())
    low, high = scores["cer_interval"]
    print(
        f"test CER {scores['cer']:.3f} (95 % {low:.3f} to {high:.3f}), WER {scores['wer']:.3f} on {len(test)} clips; "
        f"the recogniser is {folder / 'recogniser'}"
    )


def _micro_step(task: FinetuneTask, mixture: Mixture, plan: BatchPlan, encode: Callable[[str], list[int]]) -> None:
    """One forward and backward as training does it; parameters stay as they are."""
    batch = next(iter(make_loader(mixture, plan, start=0, workers=0, labels=encode)))
    assert batch.labels_BU is not None and batch.label_lengths_B is not None
    with torch.autocast("cpu", torch.bfloat16, enabled=task.settings.hardware.precision == "bf16"):
        logits_BTV, frames_B = task.recogniser(batch.wave_BS, batch.lengths_B)
    ctc(logits_BTV, frames_B, batch.labels_BU, batch.label_lengths_B).loss.backward()
