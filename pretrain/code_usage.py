"""Code usage of a pretraining run: how often each code is used over training, and audio of the frames nearest to it.

B clips, S samples, T frames, G codebooks, V entries, L validations.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lalia.cards import write_json
from lalia.data.batch import Batch
from lalia.models.encoder import valid_frames
from lalia.training import Callback, Trainer
from lalia.training.distributed import all_reduce_sum
from lalia.training.run_log import tensorboard
from lalia.units import SAMPLE_RATE, to_samples
from pretrain.task import PretrainTask

RECORD = "codes.json"
MAX_COLUMNS = 128
"""Most columns of a heat map; with more validations, neighbours are averaged."""
CODES_WITH_AUDIO = 8
"""Codes per codebook with audio examples: the most used ones."""
SNIPPETS, SNIPPET_S, PAUSE_S = 4, 0.4, 0.15
AUDIO_TIMES = 8
"""Times in a run that audio is written."""
AUDIO_BATCHES = 4
"""Validation batches that snippets are taken from."""
BRIGHTEST = 8.0
"""The brightest colour: a code with this many times its uniform share (1/V)."""


class CodeRecord(Callback):
    """After each validation: the usage of every code in training since the last one, to ``RUN/codes.json`` and as a heat map per
    codebook to TensorBoard; a few times per run also audio of the most used codes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD
        self.steps: list[int] = []
        self.usage: list[np.ndarray] = []
        """at each of ``steps``, shares (G, V)"""
        self._counts_GV: Tensor | None = None
        self._wanted: list[list[int]] = []
        self._found: dict[tuple[int, int], list[tuple[float, Tensor]]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: PretrainTask) -> None:  # type: ignore[override]
        kept = read_codes(self.path.parent) if trainer.is_global_zero else None
        for step, usage in zip(*kept, strict=True) if kept is not None else ():
            if step <= trainer.global_step:  # later ones belong to repeated steps
                self.steps.append(step)
                self.usage.append(usage)

    def on_train_batch_end(self, trainer: Trainer, pl_module: PretrainTask, *args: Any) -> None:  # type: ignore[override]
        if pl_module.batch_stats is not None:
            used_GV = pl_module.batch_stats.used_GV
            self._counts_GV = used_GV.double() if self._counts_GV is None else self._counts_GV + used_GV

    def on_validation_start(self, trainer: Trainer, pl_module: PretrainTask) -> None:  # type: ignore[override]
        settings = pl_module.settings
        validations = max(1, settings.schedule.steps // settings.log.valid_every)
        number = trainer.global_step // settings.log.valid_every
        last = trainer.global_step >= settings.schedule.steps
        self._found.clear()
        self._wanted = []
        if self._counts_GV is not None and (last or number % -(-validations // AUDIO_TIMES) == 0):
            self._wanted = (
                all_reduce_sum(self._counts_GV)
                .topk(min(CODES_WITH_AUDIO, self._counts_GV.shape[1]), dim=1)
                .indices.tolist()
            )

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: PretrainTask, outputs: Any, batch: Batch, batch_idx: int, *args: Any
    ) -> None:
        if batch_idx >= AUDIO_BATCHES:
            return
        for book, codes in enumerate(self._wanted):
            chosen_BT, score_BT = _nearest(pl_module, batch, book)
            for code in codes:
                best_B, place_B = score_BT.masked_fill(chosen_BT != code, -torch.inf).max(1)
                for b in torch.nonzero(best_B > -torch.inf)[
                    :, 0
                ].tolist():  # one per clip: neighbouring frames sound alike
                    kept = self._found.setdefault((book, code), [])
                    kept.append((float(best_B[b]), _snippet(batch.wave_BS[b], int(place_B[b]), pl_module)))
                    kept.sort(key=lambda pair: -pair[0])
                    del kept[SNIPPETS:]

    def on_validation_end(self, trainer: Trainer, pl_module: PretrainTask) -> None:  # type: ignore[override]
        if self._counts_GV is None:
            return
        counts_GV = all_reduce_sum(self._counts_GV)
        self._counts_GV = None
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        self.steps.append(step)
        self.usage.append((counts_GV / counts_GV.sum(1, keepdim=True).clamp(min=1)).cpu().numpy())
        if len(self.steps) > MAX_COLUMNS:
            self.steps = [*self.steps[1:MAX_COLUMNS:2], step]
            pairs = zip(self.usage[:MAX_COLUMNS:2], self.usage[1:MAX_COLUMNS:2], strict=True)
            self.usage = [*((a + b) / 2 for a, b in pairs), self.usage[-1]]
        write_json(self.path, {"steps": self.steps, "usage": [np.round(usage, 5).tolist() for usage in self.usage]})
        writer = tensorboard(trainer)
        if writer is None:
            return
        for book, shares_LV in enumerate(np.stack(self.usage).transpose(1, 0, 2)):
            writer.add_image(f"codes/use of codebook {book + 1}", heat_map(shares_LV), step, dataformats="HWC")
        for (book, code), kept in sorted(self._found.items()):
            pause = torch.zeros(to_samples(PAUSE_S))
            sound = torch.cat([part for _, wave in kept for part in (wave, pause)])
            writer.add_audio(f"codes/sound of {book + 1}.{code:03d}", sound[None], step, SAMPLE_RATE)


def read_codes(run: Path) -> tuple[list[int], list[np.ndarray]] | None:
    """(steps, shares (G, V) at each) as ``run`` recorded them; None if it did not."""
    path = run / RECORD
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return [int(step) for step in found["steps"]], [np.asarray(usage, np.float64) for usage in found["usage"]]


def heat_map(shares_LV: np.ndarray) -> np.ndarray:
    """A picture (height, width, 3) of uint8: a column per validation, a row per code, dark = unused."""
    L, V = shares_LV.shape
    level_VL = np.log1p(shares_LV.T * V) / np.log1p(BRIGHTEST)
    stops = np.array([[13, 8, 35], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]], np.float64)
    places = np.clip(level_VL, 0, 1) * (len(stops) - 1)
    below = np.minimum(places.astype(int), len(stops) - 2)
    part = (places - below)[:, :, None]
    colours = (1 - part) * stops[below] + part * stops[below + 1]
    cell = (max(1, round(512 / V)), max(1, round(768 / L)), 1)
    return np.kron(colours.round().astype(np.uint8), np.ones(cell, np.uint8))


@torch.no_grad()
def _nearest(task: PretrainTask, batch: Batch, book: int) -> tuple[Tensor, Tensor]:
    """For each frame its code in codebook ``book`` (-1 after the clip's end) and the score of that code: (B, T) each."""
    features_BTF, raw_BTF, frames_B = task.encoder.features(batch.wave_BS, batch.lengths_B)
    if task.head.shape.kind == "kmeans":
        points_BTC = task.head.points(batch.wave_BS, batch.lengths_B, raw_BTF, frames_B)
        near_BTV = -torch.cdist(points_BTC, task.head.centres_VC)
    else:
        near_BTV = task.head.logits(features_BTF)[:, :, book].log_softmax(-1)
    score_BT, chosen_BT = near_BTV.max(-1)
    inside_BT = valid_frames(frames_B, chosen_BT.shape[1], chosen_BT.device)
    return chosen_BT.masked_fill(~inside_BT, -1), score_BT


def _snippet(wave_S: Tensor, frame: int, task: PretrainTask) -> Tensor:
    """The sound around ``frame``, faded at its ends so that it does not click."""
    shape = task.settings.model
    centre, half = frame * shape.hop + shape.receptive_field // 2, to_samples(SNIPPET_S) // 2
    wave = wave_S[max(0, centre - half) : centre + half].detach().float().cpu().clone()
    ramp = torch.linspace(0, 1, min(len(wave) // 4, 320))
    wave[: len(ramp)] *= ramp
    wave[len(wave) - len(ramp) :] *= ramp.flip(0)
    return wave
