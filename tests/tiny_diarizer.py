"""A diarizer made by hand: a voice is a steady tone beside one that swells, so every test knows who speaks when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lalia.models.convert.speaker_models import export_embedding, export_segmentation, write_diarizer_card
from lalia.speakers.diarizer import EMBEDDING, FRAME_HOP, FRAME_WIDTH, SEGMENTATION
from lalia.units import SAMPLE_RATE

VOICES_HZ = (250.0, 1000.0, 2500.0)


def talk(turns: Sequence[tuple[float, float, int]], seconds: float) -> np.ndarray:
    """A wave in which voice 0, 1 or 2 speaks in each turn (start, end, voice)."""
    wave_S = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    for start_s, end_s, voice in turns:
        first, last = round(start_s * SAMPLE_RATE), min(round(end_s * SAMPLE_RATE), len(wave_S))
        t = np.arange(last - first) / SAMPLE_RATE
        swell = 0.05 * (0.6 + 0.4 * np.sin(2 * np.pi * 6 * t))
        tone = 0.2 * np.sin(2 * np.pi * VOICES_HZ[voice] * t) + swell * np.sin(2 * np.pi * 1.3 * VOICES_HZ[voice] * t)
        wave_S[first:last] += tone.astype(np.float32)
    return wave_S


class _Tones(nn.Module):
    """Log-probabilities of the seven sets of speakers from the power at three frequencies."""

    filters: Tensor
    sets: Tensor

    def __init__(self) -> None:
        super().__init__()
        t = torch.arange(FRAME_WIDTH) / SAMPLE_RATE
        phases = 2 * torch.pi * torch.tensor(VOICES_HZ)[:, None] * t
        filters = torch.stack([phases.cos(), phases.sin()], 1).flatten(0, 1) * torch.hann_window(FRAME_WIDTH)
        self.register_buffer("filters", filters[:, None] * 4 / FRAME_WIDTH)
        sets = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
        self.register_buffer("sets", torch.tensor([[float(k in chosen) for k in range(3)] for chosen in sets]))

    def forward(self, wave_BS: Tensor) -> Tensor:
        power_BCT = F.conv1d(wave_BS[:, None], self.filters, stride=FRAME_HOP).square()
        logits_BTK = 3000 * (power_BCT[:, 0::2] + power_BCT[:, 1::2] - 0.004).transpose(1, 2)
        return F.log_softmax(logits_BTK @ self.sets.T, -1)


class _Changes(nn.Module):
    """How much each filterbank changes from frame to frame: a tone that swells moves the bins around it; edges count little."""

    def forward(self, features_BTF: Tensor) -> Tensor:
        return (features_BTF[:, 1:] - features_BTF[:, :-1]).abs().clamp(max=0.3).mean(1)


def make_diarizer(folder: Path) -> Path:
    """Write the diarizer to ``folder``."""
    folder.mkdir(parents=True)
    (folder / SEGMENTATION).write_bytes(export_segmentation(_Tones()))
    (folder / EMBEDDING).write_bytes(export_embedding(_Changes()))
    made = {"from": "a test", "licence": "Apache-2.0"}
    write_diarizer_card(folder, 0.75, {SEGMENTATION: made, EMBEDDING: made})
    return folder
