"""Faster CPU kernels for training: wav2vec 2.0's position convolution, dropout, and scaled dot-product attention.

The position convolution (128 taps, 16 groups) becomes large matrix products: ``P`` neighbouring output frames at once,
as the frames they see times a matrix that holds the taps ``P`` times, shifted by one frame each. Dropout takes one byte of
randomness and of memory per number. Attention replaces fairseq2's.

B clips, T frames, D width, G groups, C and F input and output channels of a group, K taps, P frames of a block, W blocks that an
output block sees, N output blocks of a clip, H heads, d dimensions of a head.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, cast

import torch
from fairseq2.models.transformer import SDPA, IdentityBias
from fairseq2.models.transformer.attention_bias import AttentionBias, AttentionBiasCache
from fairseq2.models.wav2vec2.position_encoder import Wav2Vec2PositionEncoder
from fairseq2.nn import BatchLayout
from torch import Tensor, nn
from torch.nn import functional as F

from lalia.models.frontend import autocast_type, full_precision

# --- Position convolution --------------------------------------------------------------------------------

LEAST_TAPS = 64
WIDEST = {torch.float32: 16, torch.bfloat16: 32}
"""Channels per group up to which blocks are faster: 2.2 times in float32 at 16, 3.2 and 1.7 times in bfloat16 at 16 and 32, each
forward and backward with 128 taps. For wider groups torch's own convolution is fast enough (docs/pretraining.md)."""


def position_encoder(width: int, kernel: int, groups: int) -> Wav2Vec2PositionEncoder:
    """fairseq2's position encoder; while it trains on a CPU its convolution is computed by blocks."""
    encoder = Wav2Vec2PositionEncoder(width, kernel, groups)
    # The module stays fairseq2's: weight norm, parameter names, and what runs on a GPU and in an exported graph.
    encoder.conv.forward = partial(_forward, encoder.conv)  # type: ignore[method-assign]
    return encoder


def _forward(conv: nn.Conv1d, x_BDT: Tensor) -> Tensor:
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_BDT.dtype
    narrow = conv.in_channels // conv.groups <= WIDEST.get(kind, 0) and conv.kernel_size[0] >= LEAST_TAPS
    if not (conv.training and narrow and x_BDT.device.type == "cpu"):
        return nn.Conv1d.forward(conv, x_BDT)
    x_BDT, weight_DCK, bias_D = x_BDT.to(kind), conv.weight.to(kind), cast(Tensor, conv.bias).to(kind)
    y_BTD = _ByBlocks.apply(x_BDT.transpose(1, 2), weight_DCK, conv.groups, int(conv.padding[0]))
    return (y_BTD + bias_D).transpose(1, 2)


class _ByBlocks(torch.autograd.Function):
    """x_BTD, weight_DCK -> (B, T + 2 padding - K + 1, D). Only these two are saved for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight_DCK: Tensor, groups: int, padding: int) -> Tensor:
        ctx.save_for_backward(x_BTD, weight_DCK)
        ctx.groups, ctx.padding = groups, padding
        taps_GKCF = weight_DCK.unflatten(0, (groups, -1)).permute(0, 3, 2, 1)
        frames = x_BTD.shape[1] + 2 * padding - weight_DCK.shape[2] + 1
        return _side_by_side(_convolved(_apart(x_BTD, groups), taps_GKCF, padding, frames))

    @staticmethod
    def backward(ctx: Any, gradient_BTD: Tensor) -> tuple[Tensor | None, ...]:
        x_BTD, weight_DCK = ctx.saved_tensors
        D, C, K = weight_DCK.shape
        G = ctx.groups
        x_GBTC, gradient_GBTF = _apart(x_BTD, G), _apart(gradient_BTD, G)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            back_GKFC = weight_DCK.view(G, D // G, C, K).flip(3).permute(0, 3, 1, 2)
            of_x = _side_by_side(_convolved(gradient_GBTF, back_GKFC, K - 1 - ctx.padding, x_BTD.shape[1]))
        if ctx.needs_input_grad[1]:
            of_taps_GKCF = _of_taps(x_GBTC, gradient_GBTF, K, ctx.padding)
            of_weight = of_taps_GKCF.permute(0, 3, 2, 1).reshape(D, C, K).to(weight_DCK.dtype)
        return of_x, of_weight, None, None


def _convolved(x_GBTC: Tensor, taps_GKCF: Tensor, padding: int, frames: int) -> Tensor:
    """(G, B, ``frames``, F): the sum over k of x at frame t + k - ``padding`` (zero outside the clip) times tap k."""
    G, B, _, C = x_GBTC.shape
    K, F = taps_GKCF.shape[1], taps_GKCF.shape[3]
    P, W, N = _blocks(B, frames, K, F)
    seen = _seen(x_GBTC, padding, P, W, N)
    taps_GKCF, repeated = taps_GKCF.contiguous(), taps_GKCF.new_zeros(G, W * P, C, P, F)
    for p in range(P):
        repeated[:, p : p + K, :, p] = taps_GKCF
    return torch.bmm(seen, repeated.view(G, W * P * C, P * F)).view(G, B, N * P, F)[:, :, :frames]


def _of_taps(x_GBTC: Tensor, gradient_GBTF: Tensor, K: int, padding: int) -> Tensor:
    """The gradient of ``_convolved`` to its taps, (G, K, C, F) in float32."""
    G, B, frames, F = gradient_GBTF.shape
    C = x_GBTC.shape[3]
    P, W, N = _blocks(B, frames, K, F)
    seen = _seen(x_GBTC, padding, P, W, N)
    gradient = gradient_GBTF.new_zeros(G, B, N * P, F)
    gradient[:, :, :frames] = gradient_GBTF
    repeated = torch.bmm(seen.transpose(1, 2), gradient.view(G, B * N, P * F)).view(G, W * P, C, P, F)
    of_taps = torch.zeros(G, K, C, F)
    for p in range(P):
        of_taps += repeated[:, p : p + K, :, p]
    return of_taps


def _blocks(clips: int, frames: int, taps: int, channels: int) -> tuple[int, int, int]:
    """(P, W, N): blocks so long that what is seen, copied 1 + K / P times, and the taps, copied P times, are as large."""
    P = 2 ** max(0, round(math.log2(clips * frames / channels) / 2))
    return P, -(-(taps + P - 1) // P), -(-frames // P)


def _seen(x_GBTC: Tensor, padding: int, P: int, W: int, N: int) -> Tensor:
    """The W blocks that each of N output blocks sees, (G, B x N, W x P x C)."""
    G, B, T, C = x_GBTC.shape
    padded = x_GBTC.new_zeros(G, B, (N + W - 1) * P, C)
    padded[:, :, padding : padding + T] = x_GBTC
    blocks = padded.view(G, B, N + W - 1, P * C).unfold(2, W, 1)
    return blocks.transpose(3, 4).reshape(G, B * N, W * P * C)


def _apart(x_BTD: Tensor, groups: int) -> Tensor:
    return x_BTD.unflatten(2, (groups, -1)).permute(2, 0, 1, 3)


def _side_by_side(x_GBTF: Tensor) -> Tensor:
    return x_GBTF.permute(1, 2, 0, 3).flatten(2)


# --- Dropout ---------------------------------------------------------------------------------------------


def dropout(x: Tensor, p: float) -> Tensor:
    """Dropout: a share ``p`` of ``x`` is zero, the rest is scaled to keep the mean.

    On a CPU ``p`` is rounded to 1/256 and the scale uses the rounded value. Draws come from torch's global generator.
    """
    if x.device.type != "cpu":
        return F.dropout(x, p)
    drawn = draw_kept(x.shape, p, x.device)
    return x if drawn is None else _Masked.apply(x, *drawn)


@torch.compiler.disable  # inductor gives the bytes the size of the words; and so compiled blocks draw what plain ones draw
def draw_kept(shape: tuple[int, ...], p: float, device: torch.device) -> tuple[Tensor, float] | None:
    """(byte mask of ``shape``: 1 = kept; scale of the kept numbers), or None if all are kept.

    Bytes rather than bools: comparing in place and casting bytes to numbers are vector instructions, and ten times faster.
    """
    dropped = round(p * 256)
    if not dropped:
        return None
    numbers = torch.Size(shape).numel()
    words = torch.empty((numbers + 7) // 8, dtype=torch.int64, device=device).random_(-(2**63), None)
    return words.view(torch.uint8)[:numbers].view(shape).ge_(dropped), 256 / (256 - dropped)


def masked(x: Tensor, kept: Tensor) -> Tensor:
    """``x`` where ``kept`` is 1, zero where it is 0."""
    return kept.to(x.dtype).mul_(x)  # in place: new memory costs more than the product


class _Masked(torch.autograd.Function):
    """Product with a byte mask; plain autograd would save the mask in x's type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return masked(x, kept).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return masked(gradient, kept).mul_(ctx.scale), None, None


class ByteDropout(nn.Module):
    """``dropout`` while training, nothing in eval mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


def replace_dropouts(module: nn.Module) -> None:
    """Replace every ``nn.Dropout`` in ``module`` by ``ByteDropout``."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout):
                setattr(parent, name, ByteDropout(child.p))


# --- Attention -------------------------------------------------------------------------------------------


class Attention(SDPA):
    """softmax(q k / sqrt(d)) v over the valid frames of each clip.

    On a GPU this is torch's fused kernel, on a CPU in float32 without dropout too. Elsewhere on a CPU the products are written
    out, in which the fused kernel took 1.5 times as long with dropout, 2 times in bfloat16 and 3 times with both
    (`python -m benchmarks.training.pretrain_profile --attention`; docs/pretraining.md).
    """

    def __init__(self, dropout_p: float, bias: AttentionBias | None = None) -> None:
        """``bias`` is added to the scores (minus infinity = masked); by default nothing is masked."""
        super().__init__()
        self.bias = bias or IdentityBias()
        self.dropout_p = dropout_p

    def forward(
        self,
        q: Tensor,
        q_layout: BatchLayout,
        k: Tensor,
        k_layout: BatchLayout,
        v: Tensor,
        bias_cache: AttentionBiasCache,
        *,
        needs_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """q, k, v (B, T, H, d) -> (attended (B, T, H, d), the weights (B, H, T, T) if requested)."""
        bias = added_to_scores(self.bias, q, k_layout, bias_cache)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        dropout = self.dropout_p if self.training else 0.0
        plain = q.dtype == torch.float32 and not dropout and not torch.is_autocast_enabled("cpu")
        if (plain or q.device.type != "cpu") and not needs_weights:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
            return attended.transpose(1, 2), None
        if needs_weights:
            scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(2, 3))
            weights = (scores if bias is None else scores + bias).softmax(-1, dtype=torch.float32).to(v.dtype)
            return torch.matmul(weights, v).transpose(1, 2), weights
        return attend(q, k, v, bias, dropout).transpose(1, 2), None


@torch.compiler.disable  # it depends on the layout alone, and is made once for all blocks
def added_to_scores(bias: AttentionBias, q: Tensor, layout: BatchLayout, cache: AttentionBiasCache) -> Tensor | None:
    """``bias`` and minus infinity at padded keys, as (T, T), (B, 1, 1, T) or (B, 1, T, T); None where nothing is masked.

    fairseq2's own is (B, 1, T, T) for every padded batch, filled clip by clip, and lets padded queries see padded keys.
    """
    free = isinstance(bias, IdentityBias)
    if free and not layout.padded:
        return None
    made = cache.maybe_get(bias, "added", Tensor)
    if made is None:
        T = layout.width
        if not free:
            made = bias.create_bias_tensor(T, T, q.device, q.dtype)
        if layout.padded:
            keys_B11T = torch.zeros(len(layout.seq_lens), 1, 1, T, device=q.device, dtype=q.dtype)
            keys_B11T.masked_fill_((layout.position_indices < 0)[:, None, None], -torch.inf)
            made = keys_B11T if made is None else made + keys_B11T
        cache.set(bias, "added", made)
    return made


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """q, k, v (B, H, T, d) -> attended (B, H, T, d); ``bias`` is added to the scores, ``dropout`` is the share of weights left
    out. Products are in autocast's type; the weights and a byte per draw are saved for the backward pass."""
    kind = autocast_type(q.device)
    if kind is not None:
        q, k, v = (x.to(kind) for x in (q, k, v))
    kept = draw_kept((*q.shape[:3], k.shape[2]), dropout, q.device) if dropout else None
    with full_precision(q.device):
        return _WrittenOut.apply(q * q.shape[-1] ** -0.5, k, v, bias, *(kept or (None, 1.0)))


class _WrittenOut(torch.autograd.Function):
    """softmax(q k + bias) v in few passes over the (T, T) weights, of which one copy is kept."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kept: Tensor | None, scale: float
    ) -> Tensor:
        scores = torch.matmul(q, k.transpose(2, 3))
        if bias is not None:
            scores += bias
        weights = scores.softmax(-1)
        del scores
        ctx.save_for_backward(q, k, v, weights, kept)
        ctx.scale = scale
        if kept is None:
            return torch.matmul(weights, v)
        return torch.matmul(masked(weights, kept), v * scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, kept = ctx.saved_tensors
        if kept is not None:
            gradient = gradient * ctx.scale
        dropped = weights if kept is None else masked(weights, kept)
        of_v = torch.matmul(dropped.transpose(2, 3), gradient)
        del dropped
        of_weights = torch.matmul(gradient, v.transpose(2, 3))
        if kept is not None:
            of_weights = masked(of_weights, kept)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        del of_weights
        return torch.matmul(of_scores, k), torch.matmul(of_scores.transpose(2, 3), q), of_v, None, None, None
