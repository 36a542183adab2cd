"""Build training batches: pad clips, join short clips, draw masks.

Legend: B clips, S samples, U tokens of a text, J joined clips, T frames, N places (frames of a clip, or channels).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lalia.units import Frames, Samples, Seconds, to_samples

# --- Batches ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """One micro-batch, padded with zeros at the end of each clip."""

    number: int  # of the plan's micro-batch
    wave_BS: Tensor  # float32, 16 kHz
    lengths_B: Tensor  # int64, samples
    rows_B: Tensor  # int64, row numbers of the corpus
    languages_B: Tensor  # int64, the corpus's language codes
    labels_BU: Tensor | None  # int64, 0 after the end of each text; None without labels
    label_lengths_B: Tensor | None  # int64
    bad: tuple[str, ...]  # one line for each clip that could not be read and was left out

    @property
    def labels(self) -> list[Tensor]:
        """Each clip's labels without padding: B tensors (U,)."""
        if self.labels_BU is None or self.label_lengths_B is None:
            raise ValueError("this batch has no labels; make the loader with labels=")
        return [label_U[:length] for label_U, length in zip(self.labels_BU, self.label_lengths_B.tolist(), strict=True)]

    @property
    def samples(self) -> int:
        """Samples of audio, padding not counted."""
        return int(self.lengths_B.sum())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on ``device``."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (DataLoader calls this)."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            values[field.name] = change(value) if isinstance(value, Tensor) else value
        return Batch(**values)


def pad(
    number: int,
    rows: list[int],
    waves: list[NDArray[np.float32]],
    languages: NDArray[np.integer],
    labels: list[list[int]] | None,
    bad: list[str],
) -> Batch:
    """The Batch of ``waves`` (each (S,) float32) and their ``labels``; ``languages`` are the whole corpus's codes."""
    lengths_B = torch.tensor([len(wave) for wave in waves])
    wave_BS = torch.zeros(len(waves), int(lengths_B.max()))
    filled = wave_BS.numpy()
    for place, wave in enumerate(waves):
        filled[place, : len(wave)] = wave
    rows_B = torch.tensor(rows)
    languages_B = torch.from_numpy(np.asarray(languages[np.asarray(rows)], np.int64))
    labels_BU = label_lengths_B = None
    if labels is not None:
        label_lengths_B = torch.tensor([len(label) for label in labels])
        labels_BU = torch.zeros(len(labels), int(label_lengths_B.max()), dtype=torch.int64)
        for place, label in enumerate(labels):
            labels_BU[place, : len(label)] = torch.tensor(label, dtype=torch.int64)
    return Batch(number, wave_BS, lengths_B, rows_B, languages_B, labels_BU, label_lengths_B, tuple(bad))


# --- Short clips joined end to end -----------------------------------------------------------------------

SHORTEST_PAUSE: Frames = 3
LONGEST_PAUSE_S: Seconds = 2.0
SILENT = 0.3
"""Share of pauses that are digital silence; the others are soft white noise."""
SOFTEST, LOUDEST = 1e-5, 3e-3
"""Root mean square of that noise, between -100 and -50 dB."""


@dataclass(frozen=True)
class JoinedBatch:
    """Clips of ``batch`` behind one another, and where each of them is."""

    batch: Batch
    wave_B: list[int]
    """number of the joined wave"""
    start_B: list[Samples]
    """its first sample there"""

    def split(self, x_JTD: Tensor, frames_B: Tensor, hop: Samples) -> Tensor:
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


def join_with_pauses(batch: Batch, longest_s: Seconds, hop: Samples, random: torch.Generator) -> JoinedBatch:
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
) -> JoinedBatch:  # fmt: skip
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
    return JoinedBatch(made, wave_B, start_B)


# --- Spans of frames or channels that a model may not see ------------------------------------------------


def span_mask(
    lengths_B: Tensor, width: int, coverage: float, span: int, min_spans: int, generator: torch.Generator
) -> Tensor:
    """True where a place is hidden: (B, width), on the CPU. Places behind a clip's length are never hidden.

    ``coverage`` is the sum of all span lengths as a share of the clip; spans overlap, so fewer places are hidden (0.65 hides
    about 0.49). The number of spans is coverage x length / span, rounded up or down at random so that its mean is exact, and
    ``min_spans`` at least; their starts are drawn without replacement (Baevski et al. 2020, section 3.1; fairseq's
    ``compute_mask_indices``). A clip too short for that gets shorter and fewer spans; one place of every clip stays visible.
    """
    B = len(lengths_B)
    mask_BN = torch.zeros(B, width, dtype=torch.bool)
    roundings = torch.rand(B, generator=generator).tolist()
    for b, length in enumerate(lengths_B.tolist()):
        if length < 2:
            continue
        here = min(span, length // 2)
        spans = max(int(coverage * length / here + roundings[b]), min_spans)
        starts = torch.randperm(length - here + 1, generator=generator)[: min(spans, length // here)]
        mask_BN[b, (starts[:, None] + torch.arange(here)).flatten()] = True
        if bool(mask_BN[b, :length].all()):
            mask_BN[b, int(torch.randint(length, (), generator=generator))] = False
    return mask_BN
