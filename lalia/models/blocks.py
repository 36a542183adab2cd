"""The blocks of an encoder, put together from fairseq2's parts."""

from __future__ import annotations

from fairseq2.models.conformer import ConformerBlock, ConformerConvolution
from fairseq2.models.transformer import (
    StandardFeedForwardNetwork,
    StandardMultiheadAttention,
    StandardTransformerEncoderLayer,
    TransformerEncoderLayer,
    TransformerNormOrder,
)
from fairseq2.models.transformer.attention_bias import AttentionBiasCache
from fairseq2.nn import BatchLayout, RotaryEncoder, StandardLayerNorm, init_bert_projection
from torch import Tensor, nn

from lalia.models.attention import Attention
from lalia.models.shape import EncoderShape

LONGEST = 16_384
"""Frames that rotary positions are made for: 11 minutes at 40 ms."""


def make_block(shape: EncoderShape) -> TransformerEncoderLayer:
    """The block that ``shape.block`` names: (hidden_BTD, layout) -> hidden_BTD."""
    if shape.block == "conformer":
        # Layer norm inside the convolution: batch norm's statistics would mix clips, and padding with them.
        return ConformerBlock(
            norm(shape), _feedforward(shape, nn.SiLU()), norm(shape), _attention(shape),
            norm(shape), _convolution(shape), norm(shape), _feedforward(shape, nn.SiLU()),
            norm(shape), dropout_p=shape.dropout,
        )  # fmt: skip
    if shape.block == "convolutional":
        return ConvolutionalBlock(shape)
    return StandardTransformerEncoderLayer(
        _attention(shape), norm(shape), _feedforward(shape, nn.GELU()), norm(shape), dropout_p=shape.dropout,
        norm_order=TransformerNormOrder.PRE if shape.norm == "pre" else TransformerNormOrder.POST,
    )  # fmt: skip


def norm(shape: EncoderShape) -> StandardLayerNorm:
    """A layer norm over ``shape.width``."""
    return StandardLayerNorm(shape.width, bias=True)


class ConvolutionalBlock(TransformerEncoderLayer):
    """A pre-norm transformer block with a depthwise convolution between attention and feed-forward.

    A Conformer block (Gulati et al. 2020) without its first feed-forward half: at two million parameters that half costs a third
    of the time and the convolution brings most of the gain.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.self_attn_layer_norm = norm(shape)
        self.self_attn = _attention(shape)
        self.conv_layer_norm = norm(shape)
        self.conv = _convolution(shape)
        self.ffn_layer_norm = norm(shape)
        self.ffn = _feedforward(shape, nn.GELU())
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, seqs: Tensor, seqs_layout: BatchLayout, attn_bias_cache: AttentionBiasCache) -> Tensor:
        x = self.self_attn_layer_norm(seqs)
        x = self.self_attn(x, seqs_layout, keys=x, keys_layout=seqs_layout, values=x, bias_cache=attn_bias_cache)
        seqs = seqs + self.dropout(x)
        seqs = seqs + self.dropout(self.conv(self.conv_layer_norm(seqs), seqs_layout))
        return seqs + self.dropout(self.ffn(self.ffn_layer_norm(seqs)))


def _attention(shape: EncoderShape) -> StandardMultiheadAttention:
    return StandardMultiheadAttention(
        shape.width,
        shape.heads,
        Attention(shape.attention_dropout),
        pos_encoder=RotaryEncoder(shape.width // shape.heads, LONGEST) if shape.position == "rotary" else None,
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


def _convolution(shape: EncoderShape) -> ConformerConvolution:
    return ConformerConvolution(shape.width, shape.block_kernel, norm_type="layer_norm")
