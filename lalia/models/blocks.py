"""The encoder's blocks: transformer, convolutional and Conformer, offline or in chunks for streaming.

A streaming encoder cuts a clip into chunks of ``chunk`` frames. A frame sees its whole chunk, ``left_chunks`` chunks to the left
by attention and half a kernel by convolution in every block, and nothing after its chunk. So the frames of a chunk are final
once the chunk is complete. Training applies this as masks over whole clips; the deployed recogniser
(``lalia/models/export/deployed.py``) computes the same numbers chunk by chunk from cached states.

B clips, C channels, T frames, N chunks, K frames of a chunk with its context.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from fairseq2.models.conformer import ConformerBlock, ConformerConvolution
from fairseq2.models.transformer import (
    StandardFeedForwardNetwork,
    StandardMultiheadAttention,
    StandardTransformerEncoder,
    StandardTransformerEncoderLayer,
    TransformerEncoderLayer,
    TransformerNormOrder,
)
from fairseq2.models.transformer.attention_bias import AttentionBias, AttentionBiasCache
from fairseq2.nn import BatchLayout, Linear, ResidualConnect, RotaryEncoder, StandardLayerNorm, init_bert_projection
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lalia.models.cpu_kernels import Attention
from lalia.models.frontend import autocast_type
from lalia.models.shape import EncoderShape
from lalia.units import Frames

# --- Blocks ----------------------------------------------------------------------------------------------

LONGEST = 16_384
"""Frames in the tables of rotary positions: 11 minutes at 40 ms."""


def make_blocks(shape: EncoderShape) -> list[TransformerEncoderLayer]:
    """The blocks of kind ``shape.block``, each (hidden_BTD, layout) -> hidden_BTD.

    They share the tables of rotary positions, which take more memory than a small block's weights.
    """
    rotary = RotaryEncoder(shape.width // shape.heads, LONGEST) if shape.position == "rotary" else None
    return [_block(shape, block, rotary) for block in range(shape.layers)]


def _block(shape: EncoderShape, block: int, rotary: RotaryEncoder | None) -> TransformerEncoderLayer:
    if shape.block == "conformer":
        # Layer norm inside the convolution: batch norm would mix clips and padding in its statistics.
        return ConformerBlock(
            norm(shape), _feedforward(shape, block, nn.SiLU()), norm(shape), _attention(shape, block, rotary),
            norm(shape), _convolution(shape, block), norm(shape), _feedforward(shape, block, nn.SiLU()),
            norm(shape), dropout_p=shape.dropout,
        )  # fmt: skip
    if shape.block == "convolutional":
        return ConvolutionalBlock(shape, block, rotary)
    return StandardTransformerEncoderLayer(
        _attention(shape, block, rotary), norm(shape), _feedforward(shape, block, nn.GELU()), norm(shape),
        dropout_p=shape.dropout, norm_order=TransformerNormOrder.PRE if shape.norm == "pre" else TransformerNormOrder.POST,
        ffn_residual=AdapterResidual(shape) if shape.adapter else None,
    )  # fmt: skip


class AdapterResidual(ResidualConnect):
    """The residual connection of a block's feed-forward layer, and an adapter after it (Houlsby et al. 2019; MMS, Pratap et al.
    2023, section 4.1): y + up(relu(down(norm(y))))."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.layer_norm = norm(shape)
        self.down_proj = Linear(shape.width, shape.adapter, bias=True, init_fn=init_bert_projection)
        self.up_proj = Linear(shape.adapter, shape.width, bias=True, init_fn=init_bert_projection)

    def forward(self, seqs: Tensor, residual: Tensor) -> Tensor:
        y_BTD = seqs + residual
        return y_BTD + self.up_proj(F.relu(self.down_proj(self.layer_norm(y_BTD))))


def norm(shape: EncoderShape) -> StandardLayerNorm:
    """A layer norm over ``shape.width``."""
    return StandardLayerNorm(shape.width, bias=True)


def checkpoint_blocks(blocks: StandardTransformerEncoder) -> None:
    """Activation checkpointing: keep only each block's input and recompute the rest in the backward pass.

    Dropout repeats its draws, so outputs and gradients are the same numbers. fairseq2's ``apply_layerwise_ac`` does
    this too, by wrapping each block in another module: that would rename the parameters.
    """
    for block in blocks.layers:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


class ConvolutionalBlock(TransformerEncoderLayer):
    """A pre-norm transformer block with a depthwise convolution between attention and feed-forward.

    A Conformer block (Gulati et al. 2020) without its first feed-forward half: at two million parameters that half costs a third
    of the time and the convolution brings most of the gain.
    """

    def __init__(self, shape: EncoderShape, block: int, rotary: RotaryEncoder | None) -> None:
        super().__init__()
        self.self_attn_layer_norm = norm(shape)
        self.self_attn = _attention(shape, block, rotary)
        self.conv_layer_norm = norm(shape)
        self.conv = _convolution(shape, block)
        self.ffn_layer_norm = norm(shape)
        self.ffn = _feedforward(shape, block, nn.GELU())
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, seqs: Tensor, seqs_layout: BatchLayout, attn_bias_cache: AttentionBiasCache) -> Tensor:
        x = self.self_attn_layer_norm(seqs)
        x = self.self_attn(x, seqs_layout, keys=x, keys_layout=seqs_layout, values=x, bias_cache=attn_bias_cache)
        seqs = seqs + self.dropout(x)
        seqs = seqs + self.dropout(self.conv(self.conv_layer_norm(seqs), seqs_layout))
        return seqs + self.dropout(self.ffn(self.ffn_layer_norm(seqs)))


def _attention(shape: EncoderShape, block: int, rotary: RotaryEncoder | None) -> StandardMultiheadAttention:
    attention = StandardMultiheadAttention(
        shape.width,
        shape.heads_of(block),
        Attention(shape.attention_dropout, ChunkBias(shape.chunk, shape.left_chunks) if shape.streaming else None),
        head_dim=shape.width // shape.heads,
        pos_encoder=rotary,
        qkv_proj_init_fn=init_bert_projection,
        output_proj_init_fn=init_bert_projection,
    )
    attention.register_forward_pre_hook(_cast_once, with_kwargs=True)
    return attention


def _cast_once(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Cast frames to autocast's type once, before queries, keys and values each cast and keep their own copy."""
    frames, kind = args[0], autocast_type(args[0].device)
    if kind is not None:
        cast = frames.to(kind)
        same = {name: cast for name in ("keys", "values") if kwargs.get(name) is frames}
        return (cast, *args[1:]), kwargs | same
    return args, kwargs


def _feedforward(shape: EncoderShape, block: int, activation: nn.Module) -> StandardFeedForwardNetwork:
    return StandardFeedForwardNetwork(
        shape.width,
        shape.feedforward_of(block),
        bias=True,
        inner_activation=activation,
        inner_dropout_p=shape.feedforward_dropout,
        proj_init_fn=init_bert_projection,
    )


def _convolution(shape: EncoderShape, block: int) -> ConformerConvolution:
    D, C = shape.width, shape.channels_of(block)
    convolution = ConformerConvolution(D, shape.block_kernel, norm_type="layer_norm")
    if C != D:  # fairseq2's has ``width`` channels
        convolution.pointwise_conv1 = nn.Conv1d(D, 2 * C, 1, bias=False)
        convolution.depthwise_conv = nn.Conv1d(C, C, shape.block_kernel, padding="same", groups=C, bias=False)
        convolution.layer_norm = StandardLayerNorm(C, bias=True)
        convolution.pointwise_conv2 = nn.Conv1d(C, D, 1, bias=False)
    if shape.streaming:
        convolution.depthwise_conv = ChunkedConvolution(C, shape.block_kernel, shape.chunk)
    return convolution


# --- Chunks of a streaming encoder -----------------------------------------------------------------------


class ChunkBias(AttentionBias):
    """Zero where a query may see a key, minus infinity elsewhere: (T, T) over one clip, rows are queries."""

    def __init__(self, chunk: Frames, left_chunks: int) -> None:
        self.chunk = chunk
        self.left_chunks = left_chunks

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChunkBias):
            return NotImplemented
        return (self.chunk, self.left_chunks) == (other.chunk, other.left_chunks)

    def __hash__(self) -> int:
        return hash((self.chunk, self.left_chunks))

    def create_bias_tensor(self, q_len: int, k_len: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        ahead = (
            torch.arange(k_len, device=device) // self.chunk - torch.arange(q_len, device=device)[:, None] // self.chunk
        )
        seen = (ahead <= 0) & (ahead >= -self.left_chunks)
        return torch.zeros(q_len, k_len, device=device, dtype=dtype).masked_fill_(~seen, -torch.inf)


class ChunkedConvolution(nn.Conv1d):
    """A depthwise convolution, (B, C, T) -> (B, C, T), where everything after a frame's own chunk counts as zero.

    It takes the weights of the convolution over whole clips, so those of an offline recogniser fit.
    """

    def __init__(self, channels: int, kernel: Frames, chunk: Frames) -> None:
        super().__init__(channels, channels, kernel, groups=channels, bias=False)
        self.chunk = chunk

    def forward(self, x_BCT: Tensor) -> Tensor:
        B, C, T = x_BCT.shape
        side, chunk = self.kernel_size[0] // 2, self.chunk
        N = -(-T // chunk)
        windows_BCNK = F.pad(x_BCT, (side, N * chunk - T)).unfold(2, side + chunk, chunk)
        windows_MCK = F.pad(windows_BCNK.transpose(1, 2).reshape(B * N, C, side + chunk), (0, side))
        out_MCK = F.conv1d(windows_MCK, self.weight, groups=C)
        return out_MCK.view(B, N, C, chunk).transpose(1, 2).reshape(B, C, N * chunk)[:, :, :T]
