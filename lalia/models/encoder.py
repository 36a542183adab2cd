"""The encoder: raw wave to contextual frames, put together from fairseq2's wav2vec 2.0 parts.

B batch, S samples, T frames, F features of a frame, D width. ``features`` makes what the quantizer sees; ``contextualise`` puts
a mask on them and runs the blocks. Parameter names below ``encoder_frontend`` and ``encoder`` are those of fairseq2's models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile  # noqa: F401  # before fairseq2, which would ask the system for libsndfile; the wheel brings its own
import torch
from fairseq2.models.conformer import ConformerBlock, ConformerConvolution
from fairseq2.models.transformer import (
    IdentityBias,
    StandardFeedForwardNetwork,
    StandardMultiheadAttention,
    StandardTransformerEncoder,
    StandardTransformerEncoderLayer,
    TransformerNormOrder,
    create_default_sdpa,
)
from fairseq2.models.wav2vec2.position_encoder import Wav2Vec2PositionEncoder
from fairseq2.nn import BatchLayout, StandardLayerNorm, init_bert_projection
from torch import Tensor, nn

from lalia.models.frontend import make_frontend, valid_frames
from lalia.models.shape import EncoderShape


class Encoder(nn.Module):
    """wave_BS, lengths_B -> hidden_BTD, frame lengths_B.

    A clip in a padded batch gives the same frames as the clip alone.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        D = shape.width
        self.frontend = make_frontend(shape)
        self.feature_norm = nn.LayerNorm(shape.features)
        self.projection = nn.Linear(shape.features, D)
        self.mask_embedding = nn.Parameter(torch.empty(D).uniform_())
        self.position = Wav2Vec2PositionEncoder(D, shape.position_kernel, shape.position_groups)
        self.input_norm = nn.LayerNorm(D) if shape.norm == "post" else None
        self.dropout = nn.Dropout(shape.dropout)
        make = _conformer_block if shape.block == "conformer" else _transformer_block
        final_norm = _norm(D) if shape.norm == "pre" and shape.block == "transformer" else None
        blocks = [make(shape) for _ in range(shape.layers)]
        self.blocks = StandardTransformerEncoder(blocks, final_norm, layer_drop_p=shape.layerdrop)

    def features(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(normalised features_BTF, raw features_BTF, frame lengths_B). Clips too short for a frame raise ValueError."""
        raw_BTF, frames_B = self.frontend(wave_BS, lengths_B)
        if not torch.onnx.is_in_onnx_export() and int(frames_B.min()) < 1:
            raise ValueError(
                f"a clip of {int(lengths_B.min())} samples is shorter than one frame "
                f"({self.shape.receptive_field} samples)"
            )
        return self.feature_norm(raw_BTF), raw_BTF, frames_B

    def contextualise(
        self,
        features_BTF: Tensor,
        frames_B: Tensor,
        mask_BT: Tensor | None = None,
        channel_mask_BD: Tensor | None = None,
        collect: list[Tensor] | None = None,
    ) -> Tensor:
        """hidden_BTD of ``features``; frames in ``mask_BT`` are hidden behind the mask embedding, channels in
        ``channel_mask_BD`` are zero. With ``collect``, the output of every block is appended to it."""
        x_BTD = self.projection(features_BTF)
        if mask_BT is not None:
            x_BTD = torch.where(mask_BT[:, :, None], self.mask_embedding.to(x_BTD.dtype), x_BTD)
        if channel_mask_BD is not None:
            x_BTD = x_BTD.masked_fill(channel_mask_BD[:, None, :], 0.0)
        layout = _layout(x_BTD, frames_B)
        x_BTD = self.position(x_BTD, layout)
        if self.input_norm is not None:
            x_BTD = self.input_norm(x_BTD)
        x_BTD = self.dropout(x_BTD)
        if collect is None:
            return self.blocks(x_BTD, layout)
        hook = self.blocks.register_layer_hook(lambda _i, output, _layout, _n: collect.append(output) or True)
        try:
            return self.blocks(x_BTD, layout)
        finally:
            hook.remove()

    def forward(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        features_BTF, _, frames_B = self.features(wave_BS, lengths_B)
        return self.contextualise(features_BTF, frames_B), frames_B

    def hidden_layers(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """The output of every block, each (B, T, D), and the frame lengths. LayerDrop must be off (eval mode)."""
        features_BTF, _, frames_B = self.features(wave_BS, lengths_B)
        collected: list[Tensor] = []
        self.contextualise(features_BTF, frames_B, collect=collected)
        return collected, frames_B

    @classmethod
    def load(cls, folder: Path | str) -> Encoder:
        """The encoder in ``folder`` (of an encoder or a recogniser)."""
        from lalia.models.store import load_encoder

        return load_encoder(Path(folder))

    def save(self, folder: Path | str, parents: list[dict[str, Any]], **facts: Any) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``card.json`` to ``folder``."""
        from lalia.models.store import save_encoder

        save_encoder(self, Path(folder), parents, **facts)


def _layout(x_BTD: Tensor, frames_B: Tensor) -> BatchLayout:
    if torch.onnx.is_in_onnx_export():  # one clip, never padded: its length stays free in the graph
        return BatchLayout.of(x_BTD)
    lengths = [int(n) for n in frames_B]
    return BatchLayout.of(x_BTD, None if min(lengths) == x_BTD.shape[1] else lengths)


def _norm(width: int) -> StandardLayerNorm:
    return StandardLayerNorm(width, bias=True)


def _attention(shape: EncoderShape) -> StandardMultiheadAttention:
    return StandardMultiheadAttention(
        shape.width,
        shape.heads,
        create_default_sdpa(IdentityBias(), dropout_p=shape.attention_dropout),
        qkv_proj_init_fn=init_bert_projection,
        output_proj_init_fn=init_bert_projection,
    )


def _feedforward(shape: EncoderShape, activation: nn.Module) -> StandardFeedForwardNetwork:
    return StandardFeedForwardNetwork(
        shape.width,
        shape.feedforward,
        bias=True,
        inner_activation=activation,
        inner_dropout_p=shape.feedforward_dropout,
        proj_init_fn=init_bert_projection,
    )


def _transformer_block(shape: EncoderShape) -> nn.Module:
    order = TransformerNormOrder.PRE if shape.norm == "pre" else TransformerNormOrder.POST
    return StandardTransformerEncoderLayer(
        _attention(shape), _norm(shape.width), _feedforward(shape, nn.GELU()), _norm(shape.width),
        norm_order=order, dropout_p=shape.dropout,
    )  # fmt: skip


def _conformer_block(shape: EncoderShape) -> nn.Module:
    # Layer norm inside the convolution: batch norm's statistics would mix clips, and padding with them.
    convolution = ConformerConvolution(shape.width, shape.block_kernel, norm_type="layer_norm")
    return ConformerBlock(
        _norm(shape.width), _feedforward(shape, nn.SiLU()),
        _norm(shape.width), _attention(shape),
        _norm(shape.width), convolution,
        _norm(shape.width), _feedforward(shape, nn.SiLU()),
        _norm(shape.width), dropout_p=shape.dropout,
    )  # fmt: skip


__all__ = ["Encoder", "EncoderShape", "valid_frames"]
