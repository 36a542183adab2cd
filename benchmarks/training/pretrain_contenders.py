"""The models that pretrain_step.py compares: one wav2vec 2.0 shape in lalia, fairseq2 and transformers, each with its own loss.

ours          PretrainTask and the loss of its training step, without a Trainer.
fairseq2      fairseq2 0.8.1's Wav2Vec2Model and its aggregate loss, as shipped: part of its quantizer by torch.compile.
transformers  Wav2Vec2ForPreTraining as shipped. Its distractors are drawn in advance, as in transformers' example data collator.

All have the published dropouts, no LayerDrop (each would skip other blocks), the same waves and the same mask, which masks the
same number of frames in each clip because fairseq2 supports nothing else.

B clips, S samples, T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import soundfile  # noqa: F401  # before fairseq2
import torch
from torch import Tensor, nn

from lalia.models.quantizer import ContrastiveShape
from lalia.models.shape import EncoderShape
from pretrain.config import ObjectiveSettings

WIDENING = [[32, 10, 5], [64, 3, 2], [96, 3, 2], [128, 3, 2], [192, 3, 2], [192, 2, 2], [192, 2, 2]]
NARROW = [[min(width, 128), kernel, stride] for width, kernel, stride in WIDENING]


@dataclass(frozen=True)
class Size:
    """The shape of a model, its objective and its batch."""

    encoder: EncoderShape
    quantizer: ContrastiveShape
    distractors: int
    clips: int
    clip_s: float

    @property
    def samples(self) -> int:
        return round(self.clip_s * 16_000)


_SMALL = ContrastiveShape(entries=100, code_width=128, final_width=128)
SIZES = {
    "192 x 5": Size(
        EncoderShape(stem=NARROW, width=192, layers=5, heads=4, feedforward=768, layerdrop=0.0), _SMALL, 50, 4, 5.0
    ),
    "256 x 6": Size(
        EncoderShape(stem=WIDENING, width=256, layers=6, heads=4, feedforward=1024, layerdrop=0.0), _SMALL, 50, 2, 10.0
    ),
    "base": Size(EncoderShape(layerdrop=0.0), ContrastiveShape(), 100, 2, 5.0),
    "warm-up": Size(EncoderShape(stem=NARROW, width=48, layers=1, heads=4, feedforward=48), _SMALL, 5, 2, 2.0),
}
DIVERSITY, FEATURES = 0.1, 10.0
"""Weights of the two penalties."""


@dataclass(frozen=True)
class Contender:
    """A model and the loss of one batch."""

    model: nn.Module
    loss: Callable[[], Tensor]


def batch(size: Size) -> tuple[Tensor, Tensor]:
    """(wave_BS, mask_BT): noise, and spans that mask the same number of frames in each clip."""
    from lalia.data.batch import span_mask

    random = torch.Generator().manual_seed(0)
    wave_BS = 0.1 * torch.randn(size.clips, size.samples, generator=random)
    T = size.encoder.frames(size.samples)
    mask_BT = span_mask(torch.full((size.clips,), T), T, 0.65, 10, 2, random)
    least = int(mask_BT.sum(1).min())
    for row_T in mask_BT:
        places = row_T.nonzero()[:, 0]
        row_T[places[torch.randperm(len(places), generator=random)[least:]]] = False
    return wave_BS, mask_BT


def ours(size: Size) -> Contender:
    from lalia.data.batch import Batch, Contrast
    from pretrain.config import PretrainSettings
    from pretrain.loss import diversity_penalty
    from pretrain.task import PretrainTask, contrast_sampler

    wave_BS, mask_BT = batch(size)
    objective = ObjectiveSettings(distractors=size.distractors)
    task = PretrainTask(PretrainSettings(model=size.encoder, quantizer=size.quantizer, objective=objective))
    nothing_B = torch.zeros(size.clips, dtype=torch.int64)
    lengths_B = torch.full((size.clips,), size.samples)
    sampler, random = contrast_sampler(task.settings), torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        # Distractors are drawn anew in each step, as the others do; lalia's loader does it ahead of the step.
        contrast = Contrast(mask_BT, sampler.candidates(mask_BT, random), None, torch.zeros(1, dtype=torch.int64))
        seen = task(Batch(0, wave_BS, lengths_B, nothing_B, nothing_B, None, None, (), contrast), 2.0)
        penalties = DIVERSITY * diversity_penalty(seen.codes.probabilities_GV) + FEATURES * seen.feature_penalty
        return seen.hidden.loss / seen.hidden.count + penalties

    return Contender(task.train(), loss)


def fairseq2(size: Size) -> Contender:
    from fairseq2.models.wav2vec2.config import Wav2Vec2Config, Wav2Vec2EncoderConfig
    from fairseq2.models.wav2vec2.factory import create_wav2vec2_model
    from fairseq2.nn import BatchLayout

    shape, codes = size.encoder, size.quantizer
    wave_BS, mask_BT = batch(size)
    model = create_wav2vec2_model(
        Wav2Vec2Config(
            encoder_config=Wav2Vec2EncoderConfig(
                model_dim=shape.width, feature_dim=shape.features, num_encoder_layers=shape.layers,
                num_encoder_attn_heads=shape.heads, ffn_inner_dim=shape.feedforward, layer_drop_p=0.0,
                feature_extractor_layer_descs=[(row[0], row[1], row[2]) for row in shape.stem],
                dropout_p=shape.dropout, attn_dropout_p=shape.attention_dropout, first_pass_dropout_p=shape.dropout_input,
            ),
            final_dim=codes.final_width, quantized_dim=codes.code_width, num_codebooks=codes.codebooks,
            num_codebook_entries=codes.entries, num_distractors=size.distractors,
        )
    )  # fmt: skip
    model.masker.mask_factory = lambda **_: mask_BT  # type: ignore[assignment]

    def loss() -> Tensor:
        found, seen = model(
            wave_BS, BatchLayout.of(wave_BS), diversity_weight=DIVERSITY, features_penalty_weight=FEATURES
        )
        return found.aggregate / seen.num_targets

    return Contender(model.train(), loss)


def transformers(size: Size) -> Contender:
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2.modeling_wav2vec2 import _sample_negative_indices

    shape, codes = size.encoder, size.quantizer
    wave_BS, mask_BT = batch(size)
    channels, kernels, strides = zip(*shape.stem, strict=True)
    model = Wav2Vec2ForPreTraining(
        Wav2Vec2Config(
            hidden_size=shape.width, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
            intermediate_size=shape.feedforward, conv_dim=channels, conv_kernel=kernels, conv_stride=strides,
            hidden_dropout=shape.dropout, attention_dropout=shape.attention_dropout, activation_dropout=0.0, layerdrop=0.0,
            feat_proj_dropout=shape.dropout_input, feat_quantizer_dropout=codes.dropout_features,
            num_codevector_groups=codes.codebooks, num_codevectors_per_group=codes.entries,
            codevector_dim=codes.code_width, proj_codevector_dim=codes.final_width, num_negatives=size.distractors,
            diversity_loss_weight=DIVERSITY,
        )
    )  # fmt: skip
    mask = mask_BT.numpy()
    negatives_BTK = torch.from_numpy(_sample_negative_indices(mask.shape, size.distractors, mask))
    count = int(mask_BT.sum())

    def loss() -> Tensor:
        return model(wave_BS, mask_time_indices=mask_BT, sampled_negative_indices=negatives_BTK).loss / count

    return Contender(model.train(), loss)


CONTENDERS: dict[str, Callable[[Size], Contender]] = {
    "ours": ours, "fairseq2": fairseq2, "transformers": transformers,
}  # fmt: skip
