"""Kaldi's filterbanks beside ``torchaudio.compliance.kaldi.fbank``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchaudio

from lalia.speakers.filterbank import BINS, kaldi_filterbanks


@pytest.mark.parametrize("samples", [400, 559, 560, 16_000, 700_000])
def test_as_torchaudio(samples: int) -> None:
    wave_S = (np.random.default_rng(samples).normal(size=samples) * np.linspace(0, 0.3, samples)).astype(np.float32)
    expected = torchaudio.compliance.kaldi.fbank(torch.from_numpy(wave_S)[None], num_mel_bins=BINS, dither=0.0).numpy()
    found = kaldi_filterbanks(wave_S)
    assert found.shape == expected.shape and found.dtype == np.float32
    # Bins near the floor of float32 differ by more.
    assert np.abs(found - expected)[expected > -12].max() < 2e-3
    assert np.abs(found - expected).mean() < 2e-5


def test_shorter_than_a_frame() -> None:
    assert kaldi_filterbanks(np.zeros(399, np.float32)).shape == (0, BINS)
