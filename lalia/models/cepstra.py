"""Cepstral targets: what k-means clusters in the place of learned codes.

B clips, T stacked frames, N 10 ms frames, F features of a stacked frame (stack x mel bins), C cepstral numbers of a stacked
frame, V clusters.
"""

from __future__ import annotations

import torch
import torchaudio
from torch import Tensor

COEFFICIENTS = 13
HALVES = 2
DELTA_WEIGHT = 0.7
"""How much slopes count beside levels."""
_ENERGY_SCALE = 3.0


def cepstra_width() -> int:
    """C: 13 cepstra and the energy for each half of a stacked frame, and their slopes over the whole."""
    return (HALVES + 1) * (COEFFICIENTS + 1)


def cepstra(raw_BTF: Tensor, frames_B: Tensor, stack: int) -> Tensor:
    """Cepstra of normalised stacked log-mel frames, (B, T, C); slopes are taken over four 10 ms frames to either side.

    Frames behind a clip's end repeat its last one, so that a padded batch gives the numbers of the clips alone.
    """
    B, T, F = raw_BTF.shape
    mels = F // stack
    N = T * stack
    bins_BNM = raw_BTF.float().reshape(B, N, mels)
    last_B1 = (frames_B * stack - 1).clamp(min=0)[:, None]
    place_BN = torch.minimum(torch.arange(N, device=raw_BTF.device)[None], last_B1)
    bins_BNM = bins_BNM.gather(1, place_BN[:, :, None].expand(-1, -1, mels))
    dct_MC = torchaudio.functional.create_dct(COEFFICIENTS + 1, mels, "ortho").to(raw_BTF.device)[:, 1:]
    energy_BN1 = _ENERGY_SCALE * bins_BNM.mean(2, keepdim=True)
    levels_BNC = torch.cat([bins_BNM @ dct_MC, energy_BN1], 2)
    C = levels_BNC.shape[2]
    padded = torch.cat([levels_BNC[:, :1].expand(-1, 4, -1), levels_BNC, levels_BNC[:, -1:].expand(-1, 4, -1)], 1)
    slopes_BNC = padded[:, 8 : 8 + N] + padded[:, 7 : 7 + N] - padded[:, :N] - padded[:, 1 : 1 + N]
    halves_BT = levels_BNC.reshape(B, T, HALVES, stack // HALVES, C).mean(3).flatten(2)
    slopes_BT = slopes_BNC.reshape(B, T, stack, C).mean(2)
    return torch.cat([halves_BT, DELTA_WEIGHT * slopes_BT], 2)


def nearest(points_BTC: Tensor, centres_VC: Tensor) -> Tensor:
    """The nearest centre of each point: (B, T)."""
    return (centres_VC.square().sum(1) - 2 * points_BTC @ centres_VC.T).argmin(-1)


def kmeans(points_NC: Tensor, clusters: int, generator: torch.Generator, rounds: int = 25) -> Tensor:
    """Centres (clusters, C) by Lloyd's rounds from random points; a cluster that loses all its points starts anew at one."""
    N = len(points_NC)
    if clusters > N:
        raise ValueError(f"{clusters} clusters from {N} points")
    centres = points_NC[torch.randperm(N, generator=generator)[:clusters]].clone()
    for _ in range(rounds):
        choice_N = nearest(points_NC[None], centres)[0]
        count_V = torch.bincount(choice_N, minlength=clusters)
        sums = torch.zeros_like(centres).index_add_(0, choice_N, points_NC)
        fresh = points_NC[torch.randint(N, (clusters,), generator=generator)]
        centres = torch.where(count_V[:, None] > 0, sums / count_V[:, None].clamp(min=1), fresh)
    return centres
