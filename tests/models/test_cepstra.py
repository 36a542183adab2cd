"""Cepstral targets against torchaudio, padding, and k-means against the obvious."""

from __future__ import annotations

import torch
import torchaudio

from lalia.models.quantizer import COEFFICIENTS, cepstra, cepstra_width, kmeans, nearest


def test_levels_are_torchaudios_cepstra_averaged_over_half_frames():
    bins = torch.randn(1, 12, 80)
    found = cepstra(bins.reshape(1, 3, 320), torch.tensor([3]), 4)
    dct = torchaudio.functional.create_dct(COEFFICIENTS + 1, 80, "ortho")
    levels = (bins @ dct)[:, :, 1:]
    expected = levels.reshape(1, 6, 2, COEFFICIENTS).mean(2).reshape(1, 3, 2, COEFFICIENTS)
    halves = found[:, :, : 2 * (COEFFICIENTS + 1)].reshape(1, 3, 2, COEFFICIENTS + 1)
    assert found.shape[-1] == cepstra_width()
    torch.testing.assert_close(halves[..., :COEFFICIENTS], expected)


def test_a_steady_sound_has_no_slope():
    found = cepstra(torch.randn(1, 1, 80).expand(1, 40, 80).reshape(1, 10, 320), torch.tensor([10]), 4)
    torch.testing.assert_close(
        found[:, :, -(COEFFICIENTS + 1) :], torch.zeros(1, 10, COEFFICIENTS + 1), atol=1e-5, rtol=0
    )


def test_a_clip_in_a_padded_batch_has_the_numbers_of_the_clip_alone():
    long, short = torch.randn(1, 9, 320), torch.randn(1, 5, 320)
    padded = torch.cat([long, torch.cat([short, torch.full((1, 4, 320), 7.0)], 1)])
    together = cepstra(padded, torch.tensor([9, 5]), 4)
    torch.testing.assert_close(together[1:, :5], cepstra(short, torch.tensor([5]), 4))
    torch.testing.assert_close(together[:1], cepstra(long, torch.tensor([9]), 4))


def test_kmeans_finds_clusters_that_are_there():
    random = torch.Generator().manual_seed(0)
    truth = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = truth.repeat_interleave(200, 0) + torch.randn(600, 2, generator=random) * 0.3
    centres = kmeans(points, 3, random)
    order = nearest(truth[None], centres)[0]
    torch.testing.assert_close(centres[order], truth, atol=0.1, rtol=0)
    brute = torch.cdist(points, centres).argmin(1)
    assert torch.equal(nearest(points[None], centres)[0], brute)
