"""The pretraining task: encoder, quantizer and one training step of the contrastive objective.

B clips, S samples, T frames, M masked frames, L sampled frames, F features, D width, G codebooks, V entries.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lalia.data.batch import Batch, Candidates, ContrastSampler
from lalia.data.seeds import generator, reseed
from lalia.models.encoder import Encoder
from lalia.models.frontend import on_device, valid_frames
from lalia.models.quantizer import ContrastiveHead
from lalia.training import LightningModule
from lalia.training.distributed import all_reduce_sum, broadcast
from lalia.training.trainer import adamw, parameter_groups
from pretrain.config import PretrainSettings
from pretrain.loss import (
    Codes,
    ContrastSum,
    diversity_penalty,
    feature_penalty,
    gumbel_temperature,
    info_nce,
    look_up,
    perplexity,
    quantize,
)


class ForwardOutput(NamedTuple):
    """Result of one forward pass."""

    hidden: ContrastSum
    """at masked frames"""
    visible: ContrastSum | None
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
    live_LF: Tensor
    """gumbel: a sample of the features that codes are chosen for"""


def contrast_sampler(settings: PretrainSettings, validation: bool = False) -> ContrastSampler:
    """The stage of the loader that completes a batch for ``PretrainTask``."""
    objective = settings.objective
    return ContrastSampler(
        settings.seed, "valid" if validation else "objective", settings.model.frames, settings.mask, objective.distractors,
        visible=objective.visible_weight > 0 and not validation, distinct=validation,
        join_s=0.0 if validation else settings.join_s, crop=settings.crop and not validation,
    )  # fmt: skip


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

    def forward(self, batch: Batch, gumbel: float | None) -> ForwardOutput:
        """One forward pass of a batch from ``contrast_sampler``. ``gumbel`` is the temperature of the codes' noise; None = no
        noise."""
        drawn = batch.contrast
        if drawn is None:
            raise ValueError("this batch has no masks; make the loader with finish=contrast_sampler(settings)")
        device = batch.wave_BS.device
        noise = None if gumbel is None else generator(self.settings.seed, "noise", batch.number, device=device)
        variation = wave_variation(batch)  # first, while memory is free: it takes as much as the waves
        features_BTF, raw_BTF, frames_B = self.encoder.features(batch.wave_BS, batch.lengths_B)
        inside_BT = valid_frames(frames_B, features_BTF.shape[1], device)
        hidden_BTD = self.encoder.contextualise(features_BTF, frames_B, drawn.mask_BT)
        clusters_BT1 = None
        if self.settings.quantizer.kind == "kmeans":
            clusters_BT1 = self.head.clusters(batch.wave_BS, batch.lengths_B, raw_BTF, frames_B)
        rows_B1 = torch.arange(len(features_BTF), device=device)[:, None]

        def contrast(these: Candidates) -> tuple[ContrastSum, Codes]:
            places, valid_BM = (rows_B1, these.positions_BM), these.valid_BM
            if clusters_BT1 is not None:
                codes = look_up(clusters_BT1[places], self.head.codebook_GVd, valid_BM)
            else:
                targets_BMF = features_BTF[places]
                if not self.settings.objective.target_gradient:
                    targets_BMF = targets_BMF.detach()
                codes = quantize(self.head.logits(targets_BMF), self.head.codebook_GVd, valid_BM, gumbel or 1.0, noise)
            return info_nce(
                self.head.context_projection(hidden_BTD[places]), self.head.target_projection(codes.quantized_BMC),
                codes.indices_BMG, these.distractors_BMK, valid_BM, self.settings.objective.temperature,
            ), codes  # fmt: skip

        hidden, codes = contrast(drawn.hidden)
        visible = None if drawn.visible is None else contrast(drawn.visible)[0]
        live_LF = features_BTF.detach().flatten(0, 1)[drawn.live_L].float()
        batch_stats = _batch_stats(hidden, codes, raw_BTF, inside_BT, variation, live_LF)
        return ForwardOutput(hidden, visible, codes, feature_penalty(raw_BTF, inside_BT), batch_stats)

    def on_fit_start(self) -> None:
        """Give all ranks rank 0's buffers: each has measured them (k-means' centres) by itself, and sums differ between machines.
        DDP and DeepSpeed send only weights."""
        kept = self.state_dict().keys()
        for name, buffer in self.named_buffers():
            if name in kept:
                buffer.copy_(broadcast(buffer))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        objective, seed = self.settings.objective, self.settings.seed
        reseed(seed, "dropout", batch.number)
        gumbel = gumbel_temperature(
            self.global_step, objective.gumbel_start, objective.gumbel_end,
            int(objective.gumbel_share * self.settings.schedule.steps),
        )  # fmt: skip
        output = self(batch, gumbel)
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
                # Tensors on the CPU: Lightning would copy each plain number to the device, and wait.
                "train/gumbel": torch.tensor(gumbel),
                "train/lr": torch.tensor(self.optimizers().param_groups[0]["lr"]),  # type: ignore[union-attr]
                "train/bad_clips": torch.tensor(float(len(batch.bad))),
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
        output = self(batch, None)
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
        return adamw(parameter_groups(self, self.settings.optim.lr), self.settings)


@torch.no_grad()
def wave_variation(batch: Batch) -> Tensor:
    """Mean absolute deviation of a clip's samples from their mean, padding left out; mean over clips."""
    inside_BS = valid_frames(batch.lengths_B, batch.wave_BS.shape[1], batch.wave_BS.device)
    count_B1 = on_device(batch.lengths_B, batch.wave_BS.device)[:, None].clamp(min=1)
    wave_BS = batch.wave_BS.float() * inside_BS
    apart_BS = (wave_BS - wave_BS.sum(1, keepdim=True) / count_B1).abs() * inside_BS
    return (apart_BS.sum(1, keepdim=True) / count_B1).mean()


@torch.no_grad()
def _batch_stats(
    hidden: ContrastSum, codes: Codes, raw_BTF: Tensor, inside_BT: Tensor, variation: Tensor, live_LF: Tensor
) -> BatchStats:
    inside_BT1 = inside_BT[:, :, None]
    count_B1F = inside_BT1.sum(1, keepdim=True).clamp(min=1)
    raw = raw_BTF.float() * inside_BT1
    centred = (raw - raw.sum(1, keepdim=True) / count_B1F) * inside_BT1
    std = (centred.square().sum(1, keepdim=True) / count_B1F).sqrt().mean()
    used_GV = codes.usage_GV * hidden.count
    return BatchStats(hidden.correct.detach(), hidden.count, inside_BT.sum(), std, variation, used_GV, live_LF)
