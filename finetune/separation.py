"""``lalia finetune separate``: train a network that separates two voices on one channel, and export it.

Mixtures are made while training: pairs of clips of the corpora, played at random speeds and summed at random levels. The loss
is the negative SI-SDR of the better assignment of the two outputs to the two voices (``lalia.models.separator``).

B mixtures, S samples; the axis of 2 is that of the voices.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lalia.data.augment import Augment, AugmentSettings
from lalia.data.batch import Batch, MixSampler
from lalia.data.loader import make_eval_loader, make_loader
from lalia.data.mixture import Mixture
from lalia.data.plan import BatchPlan
from lalia.errors import UserError
from lalia.models.export.onnx_export import export_separator
from lalia.models.separator import Separator, SeparatorShape, best_assignment
from lalia.models.store import count_parameters
from lalia.training import LightningModule
from lalia.training.checkpoints import check_fits
from lalia.training.distributed import all_reduce_sum, autocast, is_rank_zero, rank, shard_loader
from lalia.training.settings import BatchSettings, DataSettings, OptimSettings, RunSettings
from lalia.training.trainer import (
    MinimumSteps,
    Run,
    adamw,
    best_weights,
    finished,
    first_step,
    fit,
    parameter_groups,
    resolve_schedule,
    write_finished,
)
from lalia.units import plural

METRIC = "valid/si_sdri"
MINIMUM_STEPS = MinimumSteps(500, "the outputs of a separator are alike for its first hundred steps")
MOST_DB = 30.0
"""Mixtures that are separated better than this have no gradient, so that the others count."""

# --- Settings --------------------------------------------------------------------------------------------


@dataclass
class CropSettings(DataSettings):
    """What a run learns from. Long clips are cropped: a batch of short ones has more voices in the same time."""

    min_s: float = 2.5
    """shorter clips are skipped, seconds"""
    max_s: float = 5.0
    """longer clips are cropped to this, at a random place: 4 s at the highest speed; with less the network fails on longer
    recordings"""


@dataclass
class MixtureBatchSettings(BatchSettings):
    """How much audio one optimizer step sees. Each clip is in two mixtures, so there is as much audio of mixtures as of clips."""

    hours: float = 40 / 3600
    """hours of audio per optimizer step, over all devices"""
    micro_s: float = 40.0
    """seconds of audio that one device holds at a time; the rest of the batch is accumulated"""


@dataclass
class SeparationOptimSettings(OptimSettings):
    """AdamW and its learning rate."""

    lr: float = 1.5e-3
    """peak learning rate"""
    clip: float = 5.0
    """gradient clipping: gradients with a larger norm are scaled down to this norm; 0 = off"""


@dataclass
class SeparationSettings(RunSettings):
    """All settings of a run that trains a separator."""

    data: CropSettings = field(default_factory=CropSettings)
    batch: MixtureBatchSettings = field(default_factory=MixtureBatchSettings)
    optim: SeparationOptimSettings = field(default_factory=SeparationOptimSettings)
    start: str = ""
    """run of a separator of the same shape; its best weights are the initial ones"""
    model: SeparatorShape = field(default_factory=SeparatorShape)
    level_db: float = 5.0
    """largest difference between the levels of the two voices of a mixture"""
    augment: AugmentSettings = field(default_factory=lambda: AugmentSettings(speed=1.0, speed_factors=(0.8, 1.25)))
    """how each voice is changed before it is mixed; another speed makes it another voice"""


# --- The task --------------------------------------------------------------------------------------------


class SeparationTask(LightningModule):
    """Permutation-invariant training on SI-SDR."""

    def __init__(self, settings: SeparationSettings) -> None:
        super().__init__()
        self.settings = settings
        self.separator = Separator(settings.model)
        self._sums: list[Tensor] = []

    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(SI-SDR of the separated voices, SI-SDR of the mixture), in dB, each (B,)."""
        voices_B2S = batch.voices_B2S
        if voices_B2S is None:
            raise ValueError("this batch has no mixtures; make the loader with finish=MixSampler(…)")
        separated_B, _ = best_assignment(self.separator(batch.wave_BS), voices_B2S)
        mixed_B, _ = best_assignment(batch.wave_BS[:, None].expand_as(voices_B2S), voices_B2S)
        return separated_B, mixed_B

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if not len(batch.wave_BS):  # all clips of one speaker
            return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0.0
        separated_B, mixed_B = self.score(batch)
        loss = -separated_B.clamp(max=MOST_DB).mean()
        self.log_dict(
            {
                "train/loss": loss.detach(),
                "train/si_sdri": (separated_B - mixed_B).mean().detach(),
                "train/mixtures": torch.tensor(float(len(batch.wave_BS))),
                "train/lr": torch.tensor(self.optimizers().param_groups[0]["lr"]),  # type: ignore[union-attr]
                "train/bad_clips": torch.tensor(float(len(batch.bad))),
            }
        )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if len(batch.wave_BS):
            separated_B, mixed_B = self.score(batch)
            gain = (separated_B - mixed_B).double().sum()
            self._sums.append(torch.stack([gain, torch.tensor(float(len(mixed_B)), device=gain.device).double()]))

    def on_validation_epoch_end(self) -> None:
        sums = torch.stack(self._sums).sum(0) if self._sums else torch.zeros(2, dtype=torch.double, device=self.device)
        gain, count = all_reduce_sum(sums)
        self._sums.clear()
        self.log_dict({METRIC: (gain / count.clamp(min=1)).float()})

    def configure_optimizers(self) -> Any:
        return adamw(parameter_groups(self.separator, self.settings.optim.lr), self.settings)


# --- The run ---------------------------------------------------------------------------------------------


def separate(settings: SeparationSettings, folder: Path, stated: Collection[str] = ()) -> None:
    """Train to the end of the schedule, or continue the run in ``folder``; the result is ``folder/separator``.

    ``stated`` are the settings that the user gave (``config.stated``): a finished run must have been made with them.
    """
    if finished(folder, settings, stated):
        print(f"{folder}: this run is finished; its separator is {folder / 'separator'}")
        return
    data = settings.data
    if settings.batch.micro_s < 2 * data.max_s:
        raise UserError(
            f"batch.micro_s {settings.batch.micro_s:g}: expected at least {2 * data.max_s:g}, two clips of data.max_s"
        )
    mixture = Mixture.load(data.corpus)
    leader = is_rank_zero(settings.hardware)
    told = mixture.hold_out_recordings(data.language, data.min_s)
    rows = mixture.select("train", data.language, min_s=data.min_s)
    held_out = mixture.select("dev", data.language, min_s=data.min_s)
    corpora, speakers = corpus_numbers(mixture), speaker_numbers(mixture)
    named = np.array([bool(mixture.speaker(row)) for row in rows.tolist()])
    known, unknown = len(np.unique(speakers[rows][named])), len(np.unique(speakers[rows][~named]))
    if known + unknown < 2:
        raise UserError(
            f"{', '.join(data.corpus)}: all clips have one speaker; a mixture needs two: give another --data.corpus"
        )
    if len(np.unique(speakers[held_out])) < 2:
        raise UserError(
            f"{', '.join(data.corpus)}: the dev split has one speaker with clips of {data.min_s:g} s; validation needs two: "
            "give another --data.corpus too"
        )
    plan = settings.batch_plan(mixture, rows)
    ranks = settings.hardware.ranks
    accumulation = settings.batch.accumulation(ranks)
    torch.manual_seed(settings.seed)
    task = SeparationTask(settings)
    if settings.start:
        weights, _ = best_weights(Path(settings.start))
        check_fits(Path(settings.start), weights, task)
        task.load_state_dict(weights)
    finish = MixSampler(settings.seed, "training", settings.level_db, corpora, speakers)
    budget = resolve_schedule(
        settings, folder, task, lambda: _micro_step(task, mixture, plan, finish), accumulation, MINIMUM_STEPS
    )
    task.zero_grad(set_to_none=True)
    step = first_step(folder)
    audio_s = accumulation * ranks * settings.batch.micro_s
    hours = float(mixture.durations_s[rows].sum()) / 3600
    if leader:
        if told:
            print(told, file=sys.stderr)
        print(
            f"training a separator of {count_parameters(task.separator) / 1e6:.2f} M weights on mixtures of "
            f"{hours:.2f} hours in {plural(len(rows), 'clip')}: {plural(known, 'known speaker')}, {plural(unknown, 'clip')} of "
            f"unknown speakers, which may be mixed with their own; {plural(settings.schedule.steps, 'step')} of {audio_s:.0f} s"
            + (f"; continuing from step {step}" if step else ""),
            file=sys.stderr,
        )
    run = Run(
        folder, settings.hardware, settings.log, settings.schedule, accumulation, audio_s, "finetune (separator)",
        ("train/loss", "train/si_sdri", METRIC), monitor=(METRIC, "max"), clip=settings.optim.clip, budget=budget,
        unused_parameters=False,
    )  # fmt: skip
    train = make_loader(
        mixture, plan, start=step * accumulation * ranks, ranks=ranks, rank=rank(settings.hardware), workers=data.workers,
        augment=Augment(settings.augment) if settings.augment.any else None, finish=finish,
    )  # fmt: skip
    valid = shard_loader(
        lambda ranks, rank: make_eval_loader(
            mixture, held_out, settings.batch.micro_s, ranks=ranks, rank=rank, max_s=data.max_s,
            finish=MixSampler(settings.seed, "validation", settings.level_db, corpora, speakers),
        ),
        settings.hardware,
    )  # fmt: skip
    fit(task, run, train, valid, [])
    if leader:
        _finish(settings, folder, task, mixture, hours, known)


def corpus_numbers(mixture: Mixture) -> np.ndarray:
    """The number of each row's corpus, the same where a corpus is given twice: (N,) int64."""
    ids = [card["id"] for card in mixture.cards]
    return np.repeat([ids.index(id) for id in ids], np.diff(mixture.starts))


def speaker_numbers(mixture: Mixture) -> np.ndarray:
    """The number of each row's speaker within its corpus; a clip whose speaker is not named has one of its own: (N,) int64."""
    names = [
        f"{corpus.card['id']}/{corpus.speaker(row) or f'/{row}'}"
        for corpus in mixture.corpora
        for row in range(len(corpus))
    ]
    return np.unique(names, return_inverse=True)[1]


def _micro_step(task: SeparationTask, mixture: Mixture, plan: BatchPlan, finish: MixSampler) -> None:
    """One forward and backward pass as in training, for timing; the parameters do not change."""
    loader = make_loader(mixture, plan, start=0, workers=0, finish=finish)
    batch = next(batch for batch in loader if len(batch.wave_BS)).to(task.device)
    with autocast(task.settings.hardware):
        separated_B, _ = task.score(batch)
    (-separated_B.mean()).backward()


def _finish(
    settings: SeparationSettings, folder: Path, task: SeparationTask, mixture: Mixture, hours: float, speakers: int
) -> None:
    """Export the best checkpoint to ``folder/separator``."""
    best, step = best_weights(folder)
    task.load_state_dict(best)
    facts = {"steps": settings.schedule.steps, "best_step": step, "hours": round(hours, 3), "known_speakers": speakers}
    card = export_separator(task.separator.eval(), folder / "separator", mixture.cards, training=facts)
    write_finished(folder, facts)
    print(f"the separator is {folder / 'separator'} ({card['bytes'] / 1e6:.1f} MB)")
