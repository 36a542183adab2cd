"""Separation of two voices on one channel: a convolutional network on spectrogram frames gives each voice a mask.

The short-time Fourier transform of the mixture is multiplied by the masks and transformed back. Training maximises SI-SDR under
the better of the two assignments of outputs to voices (permutation-invariant training, Kolbæk et al. 2017). The blocks are
dilated convolutions over time with global layer normalisation, as in Conv-TasNet (Luo and Mesgarani 2019), but with full
instead of depthwise convolutions: on a CPU these train faster.

B clips, S samples, T frames, F frequencies, D width; the axis of 2 is that of the voices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

VOICES = 2
"""How many voices are separated."""


@dataclass(frozen=True)
class SeparatorShape:
    """Size of the network."""

    window: int = 512
    """samples of an STFT window (32 ms)"""
    hop: int = 256
    """samples between two windows"""
    width: int = 192
    """channels of the blocks"""
    blocks: int = 8
    """dilated convolutions over time"""
    cycle: int = 8
    """blocks after which the dilation, which doubles from block to block, is 1 again"""
    kernel: int = 3
    """frames that a convolution sees"""

    @property
    def frequencies(self) -> int:
        return self.window // 2 + 1


class Separator(nn.Module):
    """mixture_BS -> voices_B2S. Mixtures have any level; the outputs have that of the mixture."""

    window_W: Tensor

    def __init__(self, shape: SeparatorShape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("window_W", torch.hann_window(shape.window).sqrt(), persistent=False)
        self.network = MaskNetwork(shape)

    def spectrum(self, wave_BS: Tensor) -> Tensor:
        """The complex spectrogram, (B, F, T): frame t is centred on sample t × hop, and the wave is zero outside."""
        shape = self.shape
        return torch.stft(
            wave_BS.float(), shape.window, shape.hop, window=self.window_W, pad_mode="constant", return_complex=True
        )

    def wave(self, spectrum_BFT: Tensor, samples: int) -> Tensor:
        """The inverse of ``spectrum``, (B, S)."""
        shape = self.shape
        return torch.istft(spectrum_BFT, shape.window, shape.hop, window=self.window_W, length=samples)

    def forward(self, mixture_BS: Tensor) -> Tensor:
        spectrum_BFT = self.spectrum(mixture_BS)
        masks_B2FT = self.network(spectrum_BFT.abs()).float()
        return self.masked(spectrum_BFT, masks_B2FT, mixture_BS.shape[1])

    def masked(self, spectrum_BFT: Tensor, masks_B2FT: Tensor, samples: int) -> Tensor:
        """The waves (B, 2, S) of a spectrogram under two masks."""
        voices_B2FT = masks_B2FT * spectrum_BFT[:, None]
        return self.wave(voices_B2FT.flatten(0, 1), samples).unflatten(0, masks_B2FT.shape[:2])


class MaskNetwork(nn.Module):
    """magnitude_BFT -> masks_B2FT between 0 and 1. The whole input is normalised together: clips of a batch are equally long."""

    def __init__(self, shape: SeparatorShape) -> None:
        super().__init__()
        self.shape = shape
        self.input = nn.Conv1d(shape.frequencies, shape.width, 1)
        self.blocks = nn.ModuleList(Block(shape, 2 ** (number % shape.cycle)) for number in range(shape.blocks))
        self.norm = nn.GroupNorm(1, shape.width)
        self.output = nn.Conv1d(shape.width, VOICES * shape.frequencies, 1)

    def forward(self, magnitude_BFT: Tensor) -> Tensor:
        # Not by adding a small number, which the exporter would leave out: silence would become 0 / 0.
        level_B11 = magnitude_BFT.square().mean((1, 2), keepdim=True).clamp(min=1e-10).sqrt()
        loudness_BFT = torch.log(magnitude_BFT / level_B11 + 1e-3)
        x_BDT = self.input(loudness_BFT - loudness_BFT.mean((1, 2), keepdim=True))
        for block in self.blocks:
            x_BDT = block(x_BDT)
        logits_BKT = self.output(self.norm(x_BDT))
        return logits_BKT.sigmoid().unflatten(1, (VOICES, self.shape.frequencies))


class Block(nn.Module):
    """A residual convolution over time."""

    def __init__(self, shape: SeparatorShape, dilation: int) -> None:
        super().__init__()
        padding = dilation * (shape.kernel // 2)
        self.norm = nn.GroupNorm(1, shape.width)
        self.conv = nn.Conv1d(shape.width, shape.width, shape.kernel, dilation=dilation, padding=padding)
        self.activation = nn.PReLU()

    def forward(self, x_BDT: Tensor) -> Tensor:
        out: Tensor = self.activation(self.conv(self.norm(x_BDT)))
        return x_BDT + out


# --- Signal-to-distortion ratios -------------------------------------------------------------------------


def si_sdr(estimate_S: Tensor, target_S: Tensor) -> Tensor:
    """The scale-invariant signal-to-distortion ratio in dB over the last axis (Le Roux et al. 2019), at most 80."""
    power = target_S.square().sum(-1, keepdim=True)
    projected_S = (estimate_S * target_S).sum(-1, keepdim=True) / (power + 1e-8) * target_S
    signal = projected_S.square().sum(-1)
    distortion = (estimate_S - projected_S).square().sum(-1)
    return 10 * torch.log10((signal + 1e-8) / (distortion + 1e-8 * signal + 1e-8))


def best_assignment(estimates_B2S: Tensor, targets_B2S: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SI-SDR in dB of the better assignment of outputs to voices, (B,), and whether that is the swapped one, (B,)."""
    straight_B = si_sdr(estimates_B2S, targets_B2S).mean(-1)
    swapped_B = si_sdr(estimates_B2S.flip(1), targets_B2S).mean(-1)
    return torch.maximum(straight_B, swapped_B), swapped_B > straight_B


def ideal_ratio_masks(separator: Separator, targets_B2S: Tensor) -> Tensor:
    """The masks (B, 2, F, T) whose values are the voices' shares of the magnitudes: the ceiling of what masks reach."""
    magnitudes_B2FT = separator.spectrum(targets_B2S.flatten(0, 1)).abs().unflatten(0, targets_B2S.shape[:2])
    return magnitudes_B2FT / magnitudes_B2FT.sum(1, keepdim=True).clamp(min=1e-8)
