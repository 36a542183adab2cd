"""The pretraining task: an encoder, its quantizer, and one training step of the contrastive objective.

B clips, S samples, T frames, M masked frames, F features, D width, K distractors, G codebooks, V entries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lalia.data.loader import Batch
from lalia.models.contrastive import ContrastiveHead
from lalia.models.encoder import Encoder, valid_frames
from lalia.models.masks import span_mask
from lalia.training import LightningModule
from lalia.training.runs import adamw, parameter_groups
from lalia.training.seeds import generator, reseed
from pretrain.config import PretrainSettings
from pretrain.loss import (
    Codes,
    Contrast,
    diversity_penalty,
    feature_penalty,
    gumbel_temperature,
    info_nce,
    perplexity,
    quantize,
)
from pretrain.masking import masked_positions, sample_distractors


class PretrainTask(LightningModule):
    """Contrastive pretraining (Baevski et al. 2020) of ``encoder``; runs under anybody's Trainer."""

    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings.model)
        self.head = ContrastiveHead(settings.model.features, settings.model.width, settings.quantizer)
        self._usage: list[tuple[Tensor, int]] = []

    def contrast(self, batch: Batch, random: torch.Generator, gumbel: float | None) -> tuple[Contrast, Codes, Tensor]:
        """One forward pass: (InfoNCE sums, codes, feature penalty). ``gumbel`` None = no noise in the codes."""
        features_BTF, raw_BTF, frames_B = self.encoder.features(batch.wave_BS, batch.lengths_B)
        mask = self.settings.mask
        mask_BT = span_mask(frames_B, features_BTF.shape[1], mask.coverage, mask.span, mask.min_spans, random)
        mask_BT = mask_BT.to(features_BTF.device)
        positions_BM, valid_BM = masked_positions(mask_BT)
        hidden_BTD = self.encoder.contextualise(features_BTF, frames_B, mask_BT)

        rows_B1 = torch.arange(len(positions_BM), device=positions_BM.device)[:, None]
        targets_BMF = features_BTF[rows_B1, positions_BM]
        if not self.settings.objective.target_gradient:
            targets_BMF = targets_BMF.detach()
        codes = quantize(
            self.head.logits(targets_BMF), self.head.codebook_GVd, valid_BM,
            gumbel or 1.0, random if gumbel is not None else None,
        )  # fmt: skip
        distractors_BMK = sample_distractors(valid_BM, self.settings.objective.distractors, random)
        contrast = info_nce(
            self.head.context_projection(hidden_BTD[rows_B1, positions_BM]),
            self.head.target_projection(codes.quantized_BMC),
            codes.indices_BMG, distractors_BMK, valid_BM, self.settings.objective.temperature,
        )  # fmt: skip
        penalty = feature_penalty(raw_BTF, valid_frames(frames_B, raw_BTF.shape[1]))
        return contrast, codes, penalty

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        objective, seed = self.settings.objective, self.settings.seed
        reseed(seed, "dropout", batch.number)
        gumbel = gumbel_temperature(
            self.global_step, objective.gumbel_start, objective.gumbel_end,
            int(objective.gumbel_share * self.settings.schedule.steps),
        )  # fmt: skip
        contrast, codes, features = self.contrast(batch, generator(seed, "objective", batch.number), gumbel)
        info_nce = contrast.loss / contrast.count.clamp(min=1)
        diversity = diversity_penalty(codes.probabilities_GV)
        loss = info_nce + objective.diversity_weight * diversity
        if self.settings.model.input == "wave":  # log-mel features have no parameters to drift
            loss = loss + objective.feature_weight * features
        self.log_dict(
            {
                "train/loss": loss.detach(),
                "train/info_nce": info_nce.detach(),
                "train/diversity": diversity.detach(),
                "train/accuracy": (contrast.correct / contrast.count.clamp(min=1)).detach(),
                "train/code_perplexity": perplexity(codes.usage_GV).sum().detach(),
                "train/gumbel": gumbel,
                "train/lr": self.optimizers().param_groups[0]["lr"],  # type: ignore[union-attr]
                "train/bad_clips": float(len(batch.bad)),
            }
        )
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        contrast, codes, _ = self.contrast(batch, generator(self.settings.seed, "valid", batch.number), None)
        count = int(contrast.count)
        self.log("valid/info_nce", contrast.loss / count, batch_size=count)
        self.log("valid/accuracy", contrast.correct / count, batch_size=count)
        self._usage.append((codes.usage_GV.detach().float().cpu(), count))

    def on_validation_epoch_end(self) -> None:
        # Over all held-out audio: the perplexity of one batch is bounded by how little one batch holds.
        usage_GV = sum(usage * count for usage, count in self._usage) / sum(count for _, count in self._usage)
        self._usage.clear()
        self.log("valid/code_perplexity", perplexity(usage_GV).sum())  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        return adamw(parameter_groups(self, self.settings.optim.lr), self.settings.optim, self.settings.schedule)
