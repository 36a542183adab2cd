"""The quantizer: discrete targets for contrastive pretraining, by Gumbel softmax or by k-means on cepstra or a teacher's frames.

The parameters follow wav2vec 2.0 (Baevski et al. 2020, section 2); the losses that use them are in ``pretrain/loss.py``.

B clips, S samples, T stacked frames, N 10 ms frames, F features of a stacked frame (stack x mel bins), C dimensions of a point
that k-means clusters; G codebooks, V entries of each, d dimensions of an entry, P dimensions in which context and target are
compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor, nn

from lalia.errors import UserError
from lalia.models.cpu_kernels import ByteDropout
from lalia.models.frontend import StackedFrames, full_precision, on_device
from lalia.models.shape import FRAME_HOP, EncoderShape

# --- Quantizer and projections ---------------------------------------------------------------------------


@dataclass
class ContrastiveShape:
    """Quantizer and projections. The defaults are wav2vec 2.0 BASE."""

    kind: Literal["gumbel", "kmeans"] = "gumbel"
    """gumbel learns the codes during training (wav2vec 2.0); kmeans clusters cepstra, or a teacher's frames, once before
    training and learns only the codes' vectors: it cannot collapse and gives a small model targets from the first step"""
    codebooks: int = 2
    """codebooks of the quantizer; kmeans has 1"""
    entries: int = 320
    """entries of each codebook"""
    code_width: int = 256
    """dimensions of a quantized target, all codebooks together"""
    final_width: int = 256
    """dimensions in which context and target are compared"""
    teacher: str = ""
    """kmeans only: folder of an encoder, pretrained before, whose frames are clustered instead of cepstra (the second round
    of HuBERT, Hsu et al. 2021, section II-D)"""
    teacher_block: int = 0
    """the teacher's block, from 1, whose output is taken; 0 = its last"""
    dropout_features: float = 0.1
    """gumbel only: dropout on the unmasked features that codes are chosen for (fairseq's name)"""

    def __post_init__(self) -> None:
        if self.code_width % self.codebooks:
            raise UserError(
                f"quantizer.code_width {self.code_width} must be a multiple of quantizer.codebooks {self.codebooks}"
            )
        if self.kind == "kmeans" and self.codebooks != 1:
            raise UserError(f"quantizer.codebooks {self.codebooks}: kmeans has 1")
        if self.kind != "kmeans" and self.teacher:
            raise UserError(f"quantizer.teacher {self.teacher}: only kmeans has one; use --quantizer.kind kmeans")


class ContrastiveHead(nn.Module):
    """The learned parts of the objective: code logits, codebook, and both projections."""

    centres_VC: Tensor

    def __init__(self, encoder: EncoderShape, shape: ContrastiveShape) -> None:
        super().__init__()
        self.shape = shape
        self.frames: StackedFrames | None = None
        G, V, d = shape.codebooks, shape.entries, shape.code_width // shape.codebooks
        if shape.kind == "gumbel":
            self.code_logits = nn.Linear(encoder.features, G * V)
            nn.init.normal_(self.code_logits.weight, std=1.0)
            nn.init.zeros_(self.code_logits.bias)
            self.dropout_features = ByteDropout(shape.dropout_features)
        elif shape.teacher:
            self._teacher = Teacher(encoder, shape)
            self.register_buffer("centres_VC", torch.zeros(V, self._teacher.width))
        else:
            if shape.teacher_block:
                raise UserError(
                    f"quantizer.teacher_block {shape.teacher_block}: there is no teacher; give one with "
                    "--quantizer.teacher"
                )
            if encoder.input != "logmel":
                self.frames = _log_mel_beside(encoder)
            self._stack = encoder.hop // FRAME_HOP
            self.register_buffer("centres_VC", torch.zeros(V, cepstra_width()))
        self.codebook_GVd = nn.Parameter(torch.empty(G, V, d).uniform_())
        self.context_projection = nn.Linear(encoder.width, shape.final_width)
        self.target_projection = nn.Linear(shape.code_width, shape.final_width)

    def logits(self, features_BMF: Tensor) -> Tensor:
        """gumbel: logits of every code, (B, M, G, V), in float32 whatever the autocast."""
        with full_precision(features_BMF.device):
            logits = self.code_logits(self.dropout_features(features_BMF.float()))
        return logits.unflatten(-1, (self.shape.codebooks, self.shape.entries))

    @property
    def teacher_bytes(self) -> int:
        """Bytes of a teacher's weights and buffers; 0 without one."""
        if not self.shape.teacher:
            return 0
        return sum(tensor.nbytes for tensor in (*self._teacher.encoder.parameters(), *self._teacher.encoder.buffers()))

    @torch.no_grad()
    def points(self, wave_BS: Tensor, lengths_B: Tensor, raw_BTF: Tensor, frames_B: Tensor) -> Tensor:
        """kmeans: what is clustered, (B, T, C): the cepstra of ``raw_BTF``, or the teacher's frames of the wave."""
        if self.shape.teacher:
            return self._teacher(wave_BS, lengths_B)
        if self.frames is not None:
            raw_BTF, frames_B = self.frames(wave_BS, lengths_B)
        return cepstra(raw_BTF, frames_B, self._stack)

    def measure(self, waves: Iterable[NDArray[np.float32]]) -> None:
        """Set the normalisation of the log-mel frames beside a stem, if there are any, from ``waves``, each (S,)."""
        if self.frames is not None:
            self.frames.measure(torch.from_numpy(wave) for wave in waves)

    @torch.no_grad()
    def clusters(self, wave_BS: Tensor, lengths_B: Tensor, raw_BTF: Tensor, frames_B: Tensor) -> Tensor:
        """kmeans: the nearest cluster of every frame, (B, T, 1)."""
        return nearest(self.points(wave_BS, lengths_B, raw_BTF, frames_B), self.centres_VC)[:, :, None]

    @torch.no_grad()
    def revive(self, group: int, dead_K: Tensor, features_KF: Tensor) -> None:
        """gumbel: re-initialise dead entries ``dead_K`` of codebook ``group`` from live features: logit weights in the features'
        directions with the mean norm of the live entries, so that each is chosen near its feature."""
        V = self.shape.entries
        rows = group * V + dead_K
        weight = self.code_logits.weight
        living = torch.ones(V, dtype=torch.bool, device=weight.device)
        living[dead_K] = False
        norms = weight[group * V : (group + 1) * V].norm(dim=1)
        norm = norms[living].mean() if bool(living.any()) else norms.mean()
        directions = features_KF - features_KF.mean(0, keepdim=True)
        weight[rows] = (directions / directions.norm(dim=1, keepdim=True).clamp(min=1e-6) * norm).to(weight.dtype)
        self.code_logits.bias[rows] = self.code_logits.bias[group * V : (group + 1) * V].mean()


def _log_mel_beside(encoder: EncoderShape) -> StackedFrames:
    """Log-mel frames as far apart and as long as the stem's, whose cepstra are clustered for a stem on the raw wave."""
    stack = encoder.hop // FRAME_HOP
    frames = replace(EncoderShape(input="logmel"), stack=max(1, stack))
    if encoder.input != "wave" or stack % 2 or (frames.hop, frames.receptive_field) != (
        encoder.hop, encoder.receptive_field
    ):  # fmt: skip
        raise UserError(
            "quantizer.kind kmeans without a quantizer.teacher clusters log-mel frames: it needs model.input logmel, or a stem "
            f"with as many samples in a frame; found {encoder.input} with frames {encoder.hop} samples apart and "
            f"{encoder.receptive_field} long (four log-mel frames are 640 and 880): use gumbel, or change model.stem"
        )
    return StackedFrames(frames)


class Teacher:
    """A frozen encoder up to the block whose frames are clustered. Not a module, so neither trained nor saved in checkpoints."""

    def __init__(self, student: EncoderShape, shape: ContrastiveShape) -> None:
        from lalia.models.encoder import Encoder

        self.encoder: Encoder = Encoder.load(Path(shape.teacher)).requires_grad_(False).eval()
        theirs = self.encoder.shape
        if not 0 <= shape.teacher_block <= theirs.layers:
            raise UserError(
                f"quantizer.teacher_block {shape.teacher_block}: {shape.teacher} has blocks 1 to {theirs.layers}"
            )
        if (theirs.hop, theirs.receptive_field) != (student.hop, student.receptive_field):
            raise UserError(
                f"{shape.teacher}: its frames are {theirs.hop} samples apart and {theirs.receptive_field} long, those of model "
                f"{student.hop} and {student.receptive_field}; a teacher needs the frames of the model"
            )
        blocks: Any = self.encoder.blocks
        del blocks.layers[shape.teacher_block or theirs.layers :]
        self.width = theirs.width

    def __call__(self, wave_BS: Tensor, lengths_B: Tensor) -> Tensor:
        """The block's output, each frame normalised to mean 0 and variance 1: (B, T, C) float32."""
        self.encoder.to(wave_BS.device)
        layers, _ = self.encoder.hidden_layers(wave_BS, lengths_B)
        return torch.nn.functional.layer_norm(layers[-1].float(), (self.width,))


# --- Cepstra and k-means ---------------------------------------------------------------------------------

COEFFICIENTS = 13
HALVES = 2
DELTA_WEIGHT = 0.7
"""Weight of the slopes (deltas) relative to the levels."""
_ENERGY_SCALE = 3.0


def cepstra_width() -> int:
    """C: 13 cepstra and the energy for each half of a stacked frame, and their slopes over the whole."""
    return (HALVES + 1) * (COEFFICIENTS + 1)


def cepstra(raw_BTF: Tensor, frames_B: Tensor, stack: int) -> Tensor:
    """Cepstra of normalised stacked log-mel frames, (B, T, C); slopes are taken over four 10 ms frames to either side.

    Frames after a clip's end repeat its last one, so that padding does not change the result.
    """
    B, T, F = raw_BTF.shape
    mels = F // stack
    N = T * stack
    bins_BNM = raw_BTF.float().reshape(B, N, mels)
    last_B1 = on_device((frames_B * stack - 1).clamp(min=0)[:, None], raw_BTF.device)
    place_BN = torch.minimum(torch.arange(N, device=raw_BTF.device)[None], last_B1)
    bins_BNM = bins_BNM.gather(1, place_BN[:, :, None].expand(-1, -1, mels))
    dct_MC = on_device(torchaudio.functional.create_dct(COEFFICIENTS + 1, mels, "ortho"), raw_BTF.device)[:, 1:]
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
    """k-means centres (clusters, C) by Lloyd's algorithm from random points; an empty cluster restarts at a random point."""
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
