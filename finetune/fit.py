"""One fine-tuning run: from an encoder, labelled corpora and settings to ``RUN/recogniser`` and ``RUN/scores.json``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from finetune.blank_alarm import BlankAlarm
from finetune.config import FinetuneSettings
from finetune.model import describe, describe_languages_of, initial_model_of, make_recogniser, parents_of, save
from finetune.presets import (
    apply_choices,
    check_settings,
    data_choices,
    describe_choices,
    nearest_preset,
    preset_choices,
)
from finetune.task import METRICS, FinetuneTask, LmDecoder, make_lm_decoder
from lalia.cards import write_json
from lalia.data.augment import Augment
from lalia.data.labels import (
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
from lalia.errors import UserError
from lalia.models.adapters import adapter_of, count
from lalia.models.recogniser import Recogniser
from lalia.models.store import count_parameters
from lalia.report.run_page import write_run_report
from lalia.training.distributed import autocast, is_rank_zero, rank, shard_loader
from lalia.training.run_log import read_metrics
from lalia.training.trainer import (
    EarlyStopping,
    MinimumSteps,
    Run,
    best_weights,
    finished,
    first_step,
    fit,
    resolve_schedule,
    write_finished,
)
from lalia.training.validation import describe_clips, describe_languages, transcribe_rows, tune_blank_penalty
from lalia.units import plural, to_samples

SHOW = ("train/loss", "train/blank", "valid/cer", "valid/wer")
MINIMUM_STEPS = MinimumSteps(200, "a recogniser outputs only blanks for its first 50 to 150 steps")
MEASURED = 200
"""Clips used to compute a baseline's feature statistics."""


def finetune(settings: FinetuneSettings, folder: Path, stated: Collection[str] | None = None) -> None:
    """Train to the end of the schedule, or continue the run in ``folder``.

    ``stated`` names the settings that the user gave (``config.stated``): the preset chooses the others, and a finished run must
    have been made with them. None = all settings are given, and nothing is compared.
    """
    if finished(folder, settings, stated or ()):
        print(f"{folder}: this run is finished; its recogniser is {folder / 'recogniser'}")
        return
    check_settings(settings)
    chosen = settings.preset != "none" and stated is not None
    applied = apply_choices(settings, data_choices(settings, stated or ()), stated or ()) if chosen else []
    data = settings.data
    mixture = Mixture.load(data.corpus)
    labelled = mixture.select("train", data.language, labelled=True, min_s=data.min_s, max_s=data.max_s)
    rows = choose_minutes(mixture, labelled, settings.labels.minutes)
    leader = is_rank_zero(settings.hardware)
    held_out, test = held_out_rows(mixture, data.language, data.min_s, data.max_s, leader)
    language = _language(settings, mixture, rows)
    hours = float(mixture.durations_s[rows].sum()) / 3600
    step = first_step(folder)
    if chosen:
        model = initial_model_of(settings)
        requested = settings.preset != "auto"
        name = settings.preset if requested else nearest_preset(hours)
        choices = preset_choices(name, model, settings.mode, settings.schedule.steps, data.max_s)
        applied += apply_choices(settings, choices, stated or ())
        if leader and not step:
            print(describe_choices(name, hours, model, applied, requested), file=sys.stderr)

    def make_initial() -> Recogniser:
        recogniser = make_recogniser(settings, mixture, rows, language)
        if settings.model.kind != "encoder":
            recogniser.encoder.measure(_readable(mixture, rows[:MEASURED]))
        return recogniser

    recogniser = make_initial()
    if leader and not step:
        print(describe(recogniser.tokens, recogniser.normaliser), file=sys.stderr)
        if union := describe_languages_of(mixture, rows, recogniser.tokens, recogniser.normaliser):
            print(union, file=sys.stderr)
    encode = label_encoder(recogniser.tokens, recogniser.normaliser)
    _check_lengths(mixture, rows, encode, recogniser, leader)
    plan = settings.batch_plan(mixture, rows, crop=False)
    ranks = settings.hardware.ranks
    accumulation = settings.batch.accumulation(ranks)
    references = {row: normalised_label(mixture, row, recogniser.normaliser) for row in held_out.tolist()}
    labels = (normalised_label(mixture, row, recogniser.normaliser) for row in rows.tolist())
    lm_decoder = make_lm_decoder(settings.select, recogniser, labels, held_out.tolist())
    task = FinetuneTask(settings, recogniser, references, mixture.id, lm_decoder, mixture.language)
    budget = resolve_schedule(
        settings, folder, task, lambda: _micro_step(task, mixture, plan, encode), accumulation, MINIMUM_STEPS
    )
    task.zero_grad(set_to_none=True)

    audio_s = accumulation * ranks * settings.batch.micro_s
    if leader:
        print(
            f"fine-tuning {_what(settings, recogniser)} on {60 * hours:.1f} minutes in {plural(len(rows), 'clip')}"
            f"{describe_excluded(mixture, 'train', data.language, data.min_s, data.max_s)}, {len(recogniser.tokens)} tokens, "
            f"{settings.schedule.steps} steps of {audio_s:.0f} s" + (f"; continuing from step {step}" if step else ""),
            file=sys.stderr,
        )
        if settings.recogniser:
            print(
                f"{settings.recogniser} is validated before the first step: the result is never worse on the held-out clips",
                file=sys.stderr,
            )
        if lm_decoder is not None:
            print(_describe_selection(lm_decoder, mixture, len(held_out)), file=sys.stderr)
    metric = METRICS[settings.select.by]
    run = Run(
        folder, settings.hardware, settings.log, settings.schedule, accumulation, audio_s,
        f"finetune ({settings.weights})", tuple(dict.fromkeys((*SHOW, metric))), monitor=(metric, "min"),
        clip=settings.optim.clip,
        budget=budget,
        early_stopping=EarlyStopping(settings.schedule.patience, lambda: task.grace_end(task.frozen_steps)),
        score_start=bool(settings.recogniser),
    )  # fmt: skip
    augment = Augment(settings.augment) if settings.augment.any else None
    train = make_loader(
        mixture, plan, start=step * accumulation * ranks, ranks=ranks, rank=rank(settings.hardware),
        workers=data.workers, labels=encode, augment=augment,
        finish=settings.regular.sampler(settings.seed, recogniser.encoder.shape),
    )  # fmt: skip
    valid = shard_loader(
        lambda ranks, rank: make_eval_loader(mixture, held_out, settings.batch.micro_s, encode, ranks=ranks, rank=rank),
        settings.hardware,
    )

    alarm = BlankAlarm(settings.alarm, folder, make_initial)
    fit(task, run, train, valid, [alarm] if settings.alarm.enabled else [])
    if leader:
        _finish(settings, folder, task, mixture, held_out, test, rows)


def _language(settings: FinetuneSettings, mixture: Mixture, rows: np.ndarray) -> str:
    """The language of ``rows``, the first one where there are several."""
    codes = np.unique(mixture.languages[rows])
    if settings.mode == "adapter" and len(codes) > 1:
        names = ", ".join(mixture.language_names[code] for code in codes)
        raise UserError(f"--mode adapter: the clips are in {names}; take one of them with --data.language")
    return mixture.language_names[mixture.languages[rows[0]]]


def _readable(mixture: Mixture, rows: np.ndarray) -> Iterator[np.ndarray]:
    """The waves of ``rows``; an unreadable clip is skipped here and counted in training."""
    for row in rows.tolist():
        with contextlib.suppress(UserError):
            yield mixture.wave(row)


def _check_lengths(
    mixture: Mixture, rows: np.ndarray, encode: Callable[[str, str], list[int]], recogniser: Recogniser, leader: bool
) -> None:
    """Print which clips have more letters than frames, which CTC cannot learn from; a ``UserError`` if all have."""
    long = []
    for row in rows.tolist():
        frames = recogniser.encoder.shape.frames(to_samples(float(mixture.durations_s[row])))
        if frames_needed(encode(mixture.text(row), mixture.language(row))) > frames:
            long.append(row)
    named = ", ".join(mixture.id(row) for row in long[:3])
    if len(long) == len(rows):
        raise UserError(
            f"all {len(rows)} clips have more letters than frames of {1000 * recogniser.frame_s:g} ms ({named}, …): "
            "do the texts belong to the audio?"
        )
    if long and leader:
        print(
            f"note: {len(long)} of {len(rows)} clips have more letters than frames of {1000 * recogniser.frame_s:g} ms and "
            f"are ignored: {named}{', …' if len(long) > 3 else ''}",
            file=sys.stderr,
        )


def _what(settings: FinetuneSettings, recogniser: Recogniser) -> str:
    """What is trained, for the terminal."""
    if settings.model.kind != "encoder":
        return f"a {settings.model.kind} of {count_parameters(recogniser) / 1e6:.1f} M weights, random"
    if settings.mode == "adapter":
        adapter, whole = count(adapter_of(recogniser.encoder)), count_parameters(recogniser.encoder)
        return f"an adapter of {adapter} weights ({adapter / (whole - adapter):.1%} of the encoder's)"
    what = "the head" if settings.mode == "head" else f"from {settings.start} weights"
    return f"{what}, starting from {settings.recogniser}" if settings.recogniser else what


def _describe_selection(lm_decoder: LmDecoder, mixture: Mixture, held_out: int) -> str:
    """How the best checkpoint is chosen with a language model, for the terminal."""
    minutes = float(mixture.durations_s[sorted(lm_decoder.rows)].sum()) / 60
    return (
        f"the best checkpoint is the one with the lowest WER with {lm_decoder.description}; each validation decodes "
        f"{len(lm_decoder.rows)} of {held_out} held-out clips with it, {minutes:.1f} minutes"
    )


def _finish(
    settings: FinetuneSettings, folder: Path, task: FinetuneTask, mixture: Mixture, held_out: np.ndarray, test: np.ndarray,
    rows: np.ndarray,
) -> None:  # fmt: skip
    """Save the recogniser of the best checkpoint and its scores on the test clips."""
    recogniser = task.recogniser
    best, step = best_weights(folder)
    task.load_state_dict(best)
    recogniser.eval()
    hybrid = recogniser.transducer is not None
    beside: dict[str, Any] = {}
    if hybrid:
        beside = {"head": settings.head, "blank_penalty": tune_blank_penalty(recogniser, mixture, held_out)}
    scores = by_ctc = transcribe_rows(recogniser, mixture, test).as_dict()
    if hybrid:
        scores = transcribe_rows(recogniser, mixture, test, by_transducer=True).as_dict()
        beside |= {"test_cer_ctc": by_ctc["cer"], "test_wer_ctc": by_ctc["wer"]}
    facts = {
        "minutes_of_labels": round(float(mixture.durations_s[rows].sum()) / 60, 2),
        "labels": {"minutes": settings.labels.minutes, "clips": clips_digest(mixture, rows)},
        "languages": sorted({mixture.language_names[code] for code in np.unique(mixture.languages[rows])}),
        "start": settings.weights, "mode": settings.mode, "kind": settings.model.kind, "steps": settings.schedule.steps,
        "best_step": step, "selected_by": settings.select.by, "test_cer": scores["cer"], "test_wer": scores["wer"],
        **beside,
        **_start_score(settings, folder, step), **only_blanks(settings, scores),
    }  # fmt: skip
    save(settings, recogniser, folder / "recogniser", mixture.cards + parents_of(settings), finetuning=facts)
    write_json(folder / "scores.json", facts | scores)
    write_run_report(folder, mixture, type(settings)(), facts)
    write_finished(folder, facts)
    low, high = scores["cer_interval"]
    print(
        f"test CER {scores['cer']:.3f} (95 % {low:.3f} to {high:.3f}), WER {scores['wer']:.3f} on {describe_clips(scores)}; "
        f"the recogniser is {folder / 'recogniser'}"
    )
    if hybrid:
        print(
            f"these are the transducer's (--decoder transducer); by CTC: CER {by_ctc['cer']:.3f}, WER {by_ctc['wer']:.3f}"
        )
    if apart := describe_languages(scores):
        print(apart)


def only_blanks(settings: FinetuneSettings, scores: dict[str, Any]) -> dict[str, bool]:
    """For the card, and a line with what to do, if not one of the clips in ``scores`` has a transcript; otherwise nothing."""
    if any(clip["hypothesis"] for clip in scores["clips"]):
        return {}
    print(
        f"✗ the recogniser outputs only blanks: not one of {len(scores['clips'])} test clips has a transcript, so it has not "
        f"learned to write in {settings.schedule.steps} steps. Check the labels (lalia finetune check "
        f"{settings.data.corpus[0]}), then train with more --schedule.steps or from another --encoder, with another --out",
        file=sys.stderr,
    )
    return {"only_blanks": True}


def _start_score(settings: FinetuneSettings, folder: Path, best_step: int) -> dict[str, float]:
    """The validation of the recogniser that training began with, for the card; a line if no later one was better."""
    metric = METRICS[settings.select.by]
    scored = [line[metric] for line in read_metrics(folder) if metric in line] if settings.recogniser else []
    if not scored:
        return {}
    if best_step == 0:
        print(f"no validation was better than that of {settings.recogniser}: its weights are kept", file=sys.stderr)
    return {f"start_{settings.select.by}": scored[0]}


def _micro_step(task: FinetuneTask, mixture: Mixture, plan: BatchPlan, encode: Callable[[str, str], list[int]]) -> None:
    """One forward and backward pass as in training, for timing; the parameters do not change."""
    batch = next(iter(make_loader(mixture, plan, start=0, workers=0, labels=encode))).to(task.device)
    with autocast(task.settings.hardware):
        hidden_BTD, frames_B = task.recogniser.encoder(batch.wave_BS, batch.lengths_B)
        total = task.losses(hidden_BTD, frames_B, batch)[2]
    total.backward()
