"""Short clips joined end to end: a model that learns from context needs some, and one that hears long files must know them.

B clips in, J joined clips out, G pauses, S samples, T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lalia.data.batch import Batch
from lalia.units import Frames, Samples, Seconds, to_samples

SHORTEST_PAUSE: Frames = 3
LONGEST_PAUSE_S: Seconds = 2.0
SILENT = 0.3
"""Share of pauses that are digital silence; the others are soft white noise."""
SOFTEST, LOUDEST = 1e-5, 3e-3
"""Root mean square of that noise, between -100 and -50 dB."""


@dataclass(frozen=True)
class Joined:
    """Clips of ``batch`` behind one another, and where each of them is."""

    batch: Batch
    wave_B: list[int]
    """number of the joined wave"""
    start_B: list[Samples]
    """its first sample there"""

    def apart(self, x_JTD: Tensor, frames_B: Tensor, hop: Samples) -> Tensor:
        """(B, T, D): what belongs to each clip's own frames, zero behind them; ``start_B`` must lie on multiples of ``hop``."""
        places = zip(self.wave_B, self.start_B, frames_B.tolist(), strict=True)
        cut = [x_JTD[wave, start // hop : start // hop + frames] for wave, start, frames in places]
        return torch.nn.utils.rnn.pad_sequence(cut, batch_first=True)

    def pauses(self, x_JTD: Tensor, frames_B: Tensor, hop: Samples) -> list[Tensor]:
        """The frames between a clip and the next one in its wave, (T', D) each."""
        found: list[Tensor] = []
        before: dict[int, Frames] = {}  # wave -> the frame behind the clip seen last in it
        for wave, start, frames in zip(self.wave_B, self.start_B, frames_B.tolist(), strict=True):
            if wave in before:
                found.append(x_JTD[wave, before[wave] : start // hop])
            before[wave] = start // hop + frames
        return found


def join_clips(batch: Batch, longest_s: Seconds) -> Batch:
    """``batch`` with its clips joined, language by language and in their order, to waves of at most ``longest_s``.

    For training without labels only. ``rows_B`` names the first clip of each wave. Prompts, commands and other isolated words
    are too short to hide spans of and to draw distractors from; joined they are as good as running speech
    (fairseq and NVIDIA's recipe crop long recordings instead and never meet them).
    """
    if batch.labels_BU is not None:
        raise ValueError("labelled clips cannot be joined: their labels would have to be joined as well")
    return _joined(batch, longest_s, [0] * len(batch.lengths_B), 1, None).batch


def join_with_pauses(batch: Batch, longest_s: Seconds, hop: Samples, random: torch.Generator) -> Joined:
    """The same with pauses between the clips, each clip at a whole frame of ``hop`` samples: the frames of a clip cover the
    same samples as if it were alone.

    How long the waves are at most is drawn for each batch, ``longest_s`` times the square of a uniform number, so that a model
    goes on hearing short clips alone. Pauses are ``LONGEST_PAUSE_S`` times such a square, and ``SHORTEST_PAUSE`` frames at
    least. Labels stay those of single clips and are left out of the batch.
    """
    count = len(batch.lengths_B)
    drawn = torch.rand(1 + count, generator=random).square().tolist()
    longest = to_samples(LONGEST_PAUSE_S)
    pauses = [max(SHORTEST_PAUSE * hop, round(share * longest)) for share in drawn[1:]]
    silent_B = torch.rand(count, generator=random) < SILENT
    level_B = math.log(SOFTEST) + torch.rand(count, generator=random) * math.log(LOUDEST / SOFTEST)
    level_B = level_B.exp().masked_fill(silent_B, 0.0)
    return _joined(batch, longest_s * drawn[0], pauses, hop, (level_B.tolist(), random))


def _joined(
    batch: Batch, longest_s: Seconds, pauses: list[Samples], hop: Samples, noise: tuple[list[float], torch.Generator] | None
) -> Joined:  # fmt: skip
    """``batch`` joined, behind each clip its pause up to the next multiple of ``hop``, of ``noise`` at the clip's level."""
    longest = to_samples(longest_s)
    waves: list[list[Tensor]] = []
    firsts: list[int] = []
    open_wave: dict[int, int] = {}  # language -> number of the wave that still has room
    lengths: list[Samples] = []
    wave_B: list[int] = []
    start_B: list[Samples] = []
    languages = batch.languages_B.tolist()
    for b, length in enumerate(batch.lengths_B.tolist()):
        at = open_wave.get(languages[b])
        start = 0 if at is None else -(-(lengths[at] + pauses[b]) // hop) * hop
        if at is None or start + length > longest:
            at = open_wave[languages[b]] = len(waves)
            start = 0
            waves.append([])
            lengths.append(0)
            firsts.append(b)
        if start > lengths[at]:
            silence_S = torch.zeros(start - lengths[at])
            if noise is not None and noise[0][b]:
                silence_S = noise[0][b] * torch.randn(len(silence_S), generator=noise[1])
            waves[at].append(silence_S.to(batch.wave_BS))
        waves[at].append(batch.wave_BS[b, :length])
        lengths[at] = start + length
        wave_B.append(at)
        start_B.append(start)
    made = replace(
        batch,
        wave_BS=torch.nn.utils.rnn.pad_sequence([torch.cat(parts) for parts in waves], batch_first=True),
        lengths_B=torch.tensor(lengths, dtype=torch.int64, device=batch.wave_BS.device),
        rows_B=batch.rows_B[firsts],
        languages_B=batch.languages_B[firsts],
        labels_BU=None,
        label_lengths_B=None,
    )
    return Joined(made, wave_B, start_B)
