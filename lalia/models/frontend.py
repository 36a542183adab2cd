"""The frontend (feature extractor): log-mel or MFCC frames, or the convolutional stem of wav2vec 2.0 on the raw wave.

A clip in a padded batch gives the same frames as the clip alone: padding never enters an average.
Lengths (``lengths_B``, ``frames_B``) are on the CPU wherever the waves are: shapes follow from them, and reading a length from
a GPU would stop the host until the GPU has caught up. ``valid_frames`` and ``on_device`` send them without waiting.

B clips, S samples, N 10 ms frames, T frames, F features of a frame, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torchaudio
from torch import Tensor, nn
from torch.nn import functional as F

from lalia.models.cpu_stem import stem
from lalia.models.shape import FRAME_HOP, FRAME_WINDOW, EncoderShape
from lalia.units import SAMPLE_RATE

FFT = 512
WAVE_EPSILON = 1e-7
"""Added to the variance of a wave that is normalised, as transformers' feature extractor does."""
PRIOR_FRAMES = 100
"""Weight of the training audio's statistics in the normalisation of a clip, in 10 ms frames."""


def make_frontend(shape: EncoderShape) -> nn.Module:
    """The module (wave_BS, lengths_B) -> (features_BTF, frame lengths_B) that ``shape.input`` names."""
    return ConvolutionStem(shape) if shape.input == "wave" else StackedFrames(shape)


def on_device(small: Tensor, device: torch.device) -> Tensor:
    """``small``, a tensor on the CPU, on ``device``; the host does not wait for the copy."""
    if device.type == "cuda":
        small = small.pin_memory()
    return small.to(device, non_blocking=True)


def valid_frames(lengths_B: Tensor, frames: int, device: torch.device | None = None) -> Tensor:
    """True where a frame belongs to its clip: (B, frames), on ``device``."""
    device = device or lengths_B.device
    return torch.arange(frames, device=device) < on_device(lengths_B, device)[:, None]


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Inside, autocast is off on ``device``."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def autocast_type(device: torch.device) -> torch.dtype | None:
    """What autocast computes products in on ``device``; None where it is off (the meta device has none)."""
    enabled = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if enabled else None


class StackedFrames(nn.Module):
    """Log-mel or MFCC frames of 25 ms every 10 ms, normalised per clip and bin, ``stack`` of them side by side.

    A clip's mean and variance are mixed with those of the training audio, which count as ``PRIOR_FRAMES``: half a second alone is
    too short for an estimate. A streaming encoder uses those of the training audio alone: a frame must not depend on later audio
    nor on the length of the stream.

    Runs in float32 whatever the autocast.
    """

    mel_FM: Tensor
    dct_MF: Tensor
    prior_2M: Tensor
    window: Tensor

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.stack = shape.stack
        self.mfcc = shape.input == "mfcc"
        self.streaming = shape.streaming
        mels = 80 if self.mfcc else shape.bins
        mel = torchaudio.functional.melscale_fbanks(FFT // 2 + 1, 20.0, SAMPLE_RATE / 2, mels, SAMPLE_RATE, None, "htk")
        # Not persistent: they follow from the shape, so checkpoints stay free of constants.
        self.register_buffer("mel_FM", mel, persistent=False)
        self.register_buffer("window", torch.hann_window(FRAME_WINDOW), persistent=False)
        self.register_buffer("dct_MF", torchaudio.functional.create_dct(shape.bins, mels, "ortho"), persistent=False)
        # Mean, and mean of squares, of each bin over the training audio; `measure` fills them, checkpoints keep them.
        self.register_buffer("prior_2M", torch.stack([torch.zeros(shape.bins), torch.ones(shape.bins)]))

    def forward(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision(wave_BS.device):
            features_BNM = self._bins(wave_BS.float())
            frames_B = torch.clamp((lengths_B - FRAME_WINDOW) // FRAME_HOP + 1, min=0)
            if self.streaming:
                mean_M, squares_M = self.prior_2M
                features_BNM = (features_BNM - mean_M) * torch.rsqrt((squares_M - mean_M.square()).clamp(min=0) + 1e-3)
                features_BNM = features_BNM * valid_frames(frames_B, features_BNM.shape[1], wave_BS.device)[:, :, None]
            else:
                features_BNM = normalise_over_time(features_BNM, frames_B, prior_2F=self.prior_2M)
            B, N, M = features_BNM.shape
            T = N // self.stack
            stacked_BTF = features_BNM[:, : T * self.stack].reshape(B, T, self.stack * M)
            return stacked_BTF, frames_B // self.stack

    @torch.no_grad()
    def measure(self, waves: Iterable[Tensor]) -> None:
        """Set mean and mean square of each bin from ``waves``, each (S,)."""
        total_2M, frames = torch.zeros_like(self.prior_2M), 0
        for wave_S in waves:
            if len(wave_S) >= FRAME_WINDOW:
                bins_NM = self._bins(wave_S[None].float())[0]
                total_2M += torch.stack([bins_NM.sum(0), bins_NM.square().sum(0)])
                frames += len(bins_NM)
        if frames:
            self.prior_2M.copy_(total_2M / frames)

    def _bins(self, wave_BS: Tensor) -> Tensor:
        bins_BNM = torch.log(self._power(wave_BS) @ self.mel_FM + 1e-6)
        return bins_BNM @ self.dct_MF if self.mfcc else bins_BNM

    def _power(self, wave_BS: Tensor) -> Tensor:
        frames_BNK = wave_BS.unfold(1, FRAME_WINDOW, FRAME_HOP) * self.window
        spectrum_BNF = torch.view_as_real(torch.fft.rfft(frames_BNK, n=FFT))
        return spectrum_BNF.square().sum(-1)


def normalise_over_time(
    features_BTF: Tensor, lengths_B: Tensor, epsilon: float = 1e-3, prior_2F: Tensor | None = None
) -> Tensor:
    """Zero mean and unit variance of each feature over the valid frames of its clip; zero after them.

    ``prior_2F`` (mean, mean of squares) counts as ``PRIOR_FRAMES`` additional frames.
    """
    valid_BT1 = valid_frames(lengths_B, features_BTF.shape[1], features_BTF.device)[:, :, None]
    count_B11 = valid_BT1.sum(1, keepdim=True)
    sum_B1F = (features_BTF * valid_BT1).sum(1, keepdim=True)
    if prior_2F is None:
        mean_B1F = sum_B1F / count_B11.clamp(min=1)
        centred_BTF = (features_BTF - mean_B1F) * valid_BT1
        variance_B1F = centred_BTF.square().sum(1, keepdim=True) / count_B11.clamp(min=1)
    else:
        mean_B1F = (sum_B1F + PRIOR_FRAMES * prior_2F[0]) / (count_B11 + PRIOR_FRAMES)
        squares_B1F = (features_BTF.square() * valid_BT1).sum(1, keepdim=True)
        variance_B1F = (squares_B1F + PRIOR_FRAMES * prior_2F[1]) / (count_B11 + PRIOR_FRAMES) - mean_B1F.square()
        centred_BTF = (features_BTF - mean_B1F) * valid_BT1
    return centred_BTF * torch.rsqrt(variance_B1F.clamp(min=0) + epsilon)


class ConvolutionStem(nn.Module):
    """The stem of wav2vec 2.0 (Baevski et al. 2020, section 2): convolutions from the wave to 20 ms frames.

    Parameter names are fairseq2's. Group norm uses only the valid frames of a clip; other toolkits include padding.
    Normalisation of the wave, if the shape has it, is part of the model, so callers cannot forget it.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.normalise_wave = shape.normalise_wave
        self.gradient_scale = shape.stem_gradient_scale
        self.by_products = shape.stem_norm == "group"
        """whether training on a CPU computes with ``cpu_stem.stem``, which calls no layer and so none of its hooks"""
        channels = 1
        self.layers = nn.ModuleList()
        for i, (width, kernel, stride) in enumerate(shape.stem):
            norm = shape.stem_norm if shape.stem_norm == "layer" or i == 0 else None
            self.layers.append(StemLayer(channels, width, kernel, stride, shape.stem_bias, norm))
            channels = width

    def forward(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        if self.normalise_wave:
            with full_precision(wave_BS.device):
                wave_BS = normalise_over_time(wave_BS.float()[:, :, None], lengths_B, WAVE_EPSILON)[:, :, 0]
        if self.training and self.by_products and wave_BS.device.type == "cpu":
            x_BTC, lengths_B = self._products(wave_BS, lengths_B)
        else:
            x_BCT = wave_BS[:, None]
            for layer in self.layers:
                x_BCT, lengths_B = layer(x_BCT, lengths_B)
            x_BTC = x_BCT.transpose(1, 2)
        if self.training and self.gradient_scale != 1.0:
            x_BTC = _ScaleGradient.apply(x_BTC, self.gradient_scale)
        return x_BTC, lengths_B

    def _products(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        layers = [cast(StemLayer, layer) for layer in self.layers]
        frames_B = layers[0].frames(lengths_B).tolist()
        for layer in layers:
            lengths_B = layer.frames(lengths_B)
        kind = autocast_type(wave_BS.device) or layers[0].conv.weight.dtype
        with full_precision(wave_BS.device):
            norm = cast(nn.GroupNorm, layers[0].group_norm)
            return stem(wave_BS, frames_B, [layer.conv for layer in layers], norm, kind), lengths_B


class StemLayer(nn.Module):
    """One convolution of the stem with its norm and GELU."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, bias: bool, norm: str | None) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, width, kernel, stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.group_norm = nn.GroupNorm(width, width) if norm == "group" else None
        self.layer_norm = nn.LayerNorm(width) if norm == "layer" else None

    def forward(self, x_BCT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BCT = self.conv(x_BCT)
        lengths_B = self.frames(lengths_B)
        if self.group_norm is not None:
            x_BCT = group_norm(self.group_norm, x_BCT, lengths_B)
        if self.layer_norm is not None:
            x_BCT = self.layer_norm(x_BCT.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x_BCT), lengths_B

    def frames(self, lengths_B: Tensor) -> Tensor:
        """Frames of clips of ``lengths_B`` input frames."""
        return torch.clamp((lengths_B - self.conv.kernel_size[0]) // self.conv.stride[0] + 1, min=0)


def group_norm(norm: nn.GroupNorm, x_BCT: Tensor, lengths_B: Tensor) -> Tensor:
    """``norm``, which has a group per channel, over each clip's valid frames; zero after them. Sums are in float32."""
    T, kind, on_cpu = x_BCT.shape[2], x_BCT.dtype, x_BCT.device.type == "cpu"

    def normed(part_BCT: Tensor) -> Tensor:
        # Only a CPU takes bfloat16 with float32 weights, and sums it in float32.
        part_BCT = part_BCT if on_cpu and kind == torch.bfloat16 else part_BCT.float()
        return torch.group_norm(part_BCT, norm.num_groups, norm.weight, norm.bias, norm.eps).to(kind)

    with full_precision(x_BCT.device):
        if int(lengths_B.min()) == T:
            return normed(x_BCT)
        if not on_cpu:
            return PaddedGroupNorm.apply(x_BCT, norm.weight, norm.bias, lengths_B, norm.eps)
        # On a CPU clip by clip: under bfloat16 a third of the time of the sums over all clips.
        clips = [F.pad(normed(x_BCT[b : b + 1, :, :n]), (0, T - n)) for b, n in enumerate(lengths_B.tolist())]
        return torch.cat(clips)


class PaddedGroupNorm(torch.autograd.Function):
    """Group norm over the valid frames of all clips at once, in a number of operations that does not depend on the clips.

    For the backward pass it keeps x, the largest activation of a model, and a mean and a scale per clip and channel.
    """

    @staticmethod
    def forward(ctx: Any, x_BCT: Tensor, weight_C: Tensor, bias_C: Tensor, lengths_B: Tensor, epsilon: float) -> Tensor:
        invalid_B1T = ~valid_frames(lengths_B, x_BCT.shape[2], x_BCT.device)[:, None]
        count_B11 = on_device(lengths_B, x_BCT.device)[:, None, None].clamp(min=1)
        y_BCT = x_BCT.float().masked_fill(invalid_B1T, 0.0)
        mean_BC1 = y_BCT.sum(2, keepdim=True) / count_B11
        y_BCT.sub_(mean_BC1).masked_fill_(invalid_B1T, 0.0)
        scale_BC1 = (torch.linalg.vector_norm(y_BCT, dim=2, keepdim=True).square() / count_B11 + epsilon).rsqrt()
        y_BCT.mul_(scale_BC1 * weight_C[:, None]).add_(bias_C[:, None]).masked_fill_(invalid_B1T, 0.0)
        ctx.save_for_backward(x_BCT, mean_BC1, scale_BC1, weight_C, invalid_B1T, count_B11)
        return y_BCT.to(x_BCT.dtype)

    @staticmethod
    def backward(ctx: Any, gradient_BCT: Tensor) -> tuple[Tensor | None, ...]:
        x_BCT, mean_BC1, scale_BC1, weight_C, invalid_B1T, count_B11 = ctx.saved_tensors
        gradient = gradient_BCT.float().masked_fill(invalid_B1T, 0.0)
        unit_BCT = ((x_BCT - mean_BC1) * scale_BC1).masked_fill_(invalid_B1T, 0.0)
        sum_BC1 = gradient.sum(2, keepdim=True)
        product_BC1 = (gradient * unit_BCT).sum(2, keepdim=True)
        # With respect to the normalised x the gradient loses its mean and its part along x.
        of_x = gradient.sub_(sum_BC1 / count_B11).sub_(unit_BCT.mul_(product_BC1 / count_B11))
        of_x.mul_(scale_BC1 * weight_C[:, None]).masked_fill_(invalid_B1T, 0.0)
        return of_x.to(x_BCT.dtype), product_BC1.sum(0)[:, 0], sum_BC1.sum(0)[:, 0], None, None


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient * ctx.scale, None
