"""The pretraining task: encoder, quantizer and one training step of the contrastive objective.

B clips, S samples, T frames, M masked frames, F features, D width, K distractors, G codebooks, V entries.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lalia.data.batch import join_clips, span_mask
from lalia.data.loader import Batch
from lalia.models.encoder import Encoder, valid_frames
from lalia.models.quantizer import ContrastiveHead
from lalia.training import LightningModule
from lalia.training.distributed import all_reduce_sum
from lalia.training.seeds import generator, reseed
from lalia.training.trainer import adamw, parameter_groups
from pretrain.config import PretrainSettings
from pretrain.loss import (
    Codes,
    Contrast,
    diversity_penalty,
    feature_penalty,
    gumbel_temperature,
    info_nce,
    look_up,
    masked_positions,
    perplexity,
    quantize,
    sample_distractors,
)


class ForwardOutput(NamedTuple):
    """Result of one forward pass."""

    hidden: Contrast
    """at masked frames"""
    visible: Contrast | None
    """at the other frames; None in evaluation and if their weight is 0"""
    codes: Codes
    """of the masked frames"""
    feature_penalty: Tensor
    batch_stats: BatchStats


class BatchStats(NamedTuple):
    """Statistics of one micro-batch for the guard; without gradient."""

    correct: Tensor
    hidden: Tensor
    """masked frames"""
    frames: Tensor
    """all frames, padding left out"""
    feature_std: Tensor
    """over time, within a clip, mean over features and clips"""
    wave_variation: Tensor
    """mean absolute deviation of a clip's samples, mean over clips; a click in silence counts little"""
    used_GV: Tensor
    """masked frames per entry"""
    live_KF: Tensor
    """gumbel: a sample of the features that codes are chosen for"""


LIVE = 256
"""Largest number of features in a ``BatchStats``."""


class PretrainTask(LightningModule):
    """Contrastive pretraining (Baevski et al. 2020) as a LightningModule."""

    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings.model)
        self.head = ContrastiveHead(settings.model, settings.quantizer)
        if settings.hardware.checkpointing:
            self.encoder.checkpoint_blocks()
        if settings.hardware.compile:
            self.encoder.compile_blocks()
        self.diversity_factor = 1.0
        """factor on the diversity weight; the guard raises it"""
        self.batch_stats: BatchStats | None = None
        """of the last training micro-batch"""
        self.gradient_norm: Tensor | None = None
        """of the coming optimizer step where the guard has computed it; clipping takes it then"""
        self._validation_sums: list[tuple[Tensor, Tensor]] = []

    def forward(self, batch: Batch, random: torch.Generator, gumbel: float | None) -> ForwardOutput:
        """One forward pass. ``gumbel`` is the temperature of the codes' noise; None = no noise, and distinct distractors."""
        variation = wave_variation(batch)  # first, while memory is free: it takes as much as the waves
        features_BTF, raw_BTF, frames_B = self.encoder.features(batch.wave_BS, batch.lengths_B)
        mask, T = self.settings.mask, features_BTF.shape[1]
        mask_BT = span_mask(frames_B, T, mask.coverage, mask.span, mask.min_spans, random).to(features_BTF.device)
        inside_BT = valid_frames(frames_B, T)
        hidden_BTD = self.encoder.contextualise(features_BTF, frames_B, mask_BT)
        clusters_BT1 = None
        if self.settings.quantizer.kind == "kmeans":
            clusters_BT1 = self.head.clusters(batch.wave_BS, batch.lengths_B, raw_BTF, frames_B)

        def contrast(places_BT: Tensor) -> tuple[Contrast, Codes]:
            positions_BM, valid_BM = masked_positions(places_BT)
            rows_B1 = torch.arange(len(positions_BM), device=positions_BM.device)[:, None]
            if clusters_BT1 is not None:
                codes = look_up(clusters_BT1[rows_B1, positions_BM], self.head.codebook_GVd, valid_BM)
            else:
                targets_BMF = features_BTF[rows_B1, positions_BM]
                if not self.settings.objective.target_gradient:
                    targets_BMF = targets_BMF.detach()
                codes = quantize(
                    self.head.logits(targets_BMF), self.head.codebook_GVd, valid_BM,
                    gumbel or 1.0, random if gumbel is not None else None,
                )  # fmt: skip
            distractors_BMK = sample_distractors(valid_BM, self.settings.objective.distractors, random, gumbel is None)
            return info_nce(
                self.head.context_projection(hidden_BTD[rows_B1, positions_BM]),
                self.head.target_projection(codes.quantized_BMC),
                codes.indices_BMG, distractors_BMK, valid_BM, self.settings.objective.temperature,
            ), codes  # fmt: skip

        hidden, codes = contrast(mask_BT)
        use_visible = self.settings.objective.visible_weight > 0 and gumbel is not None
        visible = contrast(inside_BT & ~mask_BT)[0] if use_visible else None
        batch_stats = _batch_stats(hidden, codes, features_BTF, mask_BT, raw_BTF, inside_BT, variation)
        return ForwardOutput(hidden, visible, codes, feature_penalty(raw_BTF, inside_BT), batch_stats)

    def joined(self, batch: Batch) -> Batch:
        """``batch`` with its short clips joined, if ``join_s`` is set."""
        return join_clips(batch, self.settings.join_s) if self.settings.join_s > 0 else batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        objective, seed = self.settings.objective, self.settings.seed
        batch = self.joined(batch)
        reseed(seed, "dropout", batch.number)
        gumbel = gumbel_temperature(
            self.global_step, objective.gumbel_start, objective.gumbel_end,
            int(objective.gumbel_share * self.settings.schedule.steps),
        )  # fmt: skip
        output = self(batch, generator(seed, "objective", batch.number), gumbel)
        self.batch_stats = output.batch_stats
        info_nce = output.hidden.loss / output.hidden.count.clamp(min=1)
        loss = info_nce
        if output.visible is not None:
            loss = loss + objective.visible_weight * output.visible.loss / output.visible.count.clamp(min=1)
        diversity = diversity_penalty(output.codes.probabilities_GV)
        if self.settings.quantizer.kind == "gumbel":
            loss = loss + self.diversity_factor * objective.diversity_weight * diversity
        if self.settings.model.input == "wave":  # log-mel features have no parameters to drift
            loss = loss + objective.feature_weight * output.feature_penalty
        self.log_dict(
            {
                "train/loss": loss.detach(),
                "train/info_nce": info_nce.detach(),
                "train/diversity": diversity.detach(),
                "train/accuracy": (output.hidden.correct / output.hidden.count.clamp(min=1)).detach(),
                "train/code_perplexity": perplexity(output.codes.usage_GV).sum().detach(),
                "train/gumbel": gumbel,
                "train/lr": self.optimizers().param_groups[0]["lr"],  # type: ignore[union-attr]
                "train/bad_clips": float(len(batch.bad)),
            }
        )
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        norm, self.gradient_norm = self.gradient_norm, None
        if norm is None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        output = self(batch, generator(self.settings.seed, "valid", batch.number), None)
        hidden = output.hidden
        sums = torch.stack([hidden.loss.double(), hidden.correct.double(), hidden.count.double()])
        self._validation_sums.append((sums, output.codes.usage_GV.double() * hidden.count))

    def on_validation_epoch_end(self) -> None:
        # Over all held-out audio of all ranks: the perplexity of a single batch is bounded by its few frames.
        sums, usages = zip(*self._validation_sums, strict=True)
        self._validation_sums.clear()
        loss, correct, count = all_reduce_sum(torch.stack(sums).sum(0))
        usage_GV = all_reduce_sum(torch.stack(usages).sum(0)) / count
        self.log_dict(
            {
                "valid/info_nce": (loss / count).float(),
                "valid/accuracy": (correct / count).float(),
                "valid/code_perplexity": perplexity(usage_GV.float()).sum(),
            }
        )

    def configure_optimizers(self) -> Any:
        return adamw(parameter_groups(self, self.settings.optim.lr), self.settings.optim, self.settings.schedule)


@torch.no_grad()
def wave_variation(batch: Batch) -> Tensor:
    """Mean absolute deviation of a clip's samples from their mean, padding left out; mean over clips."""
    inside_BS = valid_frames(batch.lengths_B, batch.wave_BS.shape[1])
    count_B1 = batch.lengths_B[:, None].clamp(min=1)
    wave_BS = batch.wave_BS.float() * inside_BS
    apart_BS = (wave_BS - wave_BS.sum(1, keepdim=True) / count_B1).abs() * inside_BS
    return (apart_BS.sum(1, keepdim=True) / count_B1).mean()


@torch.no_grad()
def _batch_stats(
    hidden: Contrast, codes: Codes, features_BTF: Tensor, mask_BT: Tensor, raw_BTF: Tensor, inside_BT: Tensor,
    variation: Tensor,
) -> BatchStats:  # fmt: skip
    inside_BT1 = inside_BT[:, :, None]
    count_B1F = inside_BT1.sum(1, keepdim=True).clamp(min=1)
    raw = raw_BTF.float() * inside_BT1
    centred = (raw - raw.sum(1, keepdim=True) / count_B1F) * inside_BT1
    std = (centred.square().sum(1, keepdim=True) / count_B1F).sqrt().mean()
    masked_NF = features_BTF[mask_BT]
    live_KF = masked_NF[:: max(1, len(masked_NF) // LIVE)][:LIVE].float()
    used_GV = codes.usage_GV * hidden.count
    return BatchStats(hidden.correct.detach(), hidden.count, inside_BT.sum(), std, variation, used_GV, live_KF)
