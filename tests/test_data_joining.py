"""Short clips joined to longer ones: nothing is lost, nothing is mixed."""

from __future__ import annotations

import torch

from lalia.data.joining import join_clips
from lalia.data.loader import Batch


def batch(lengths: list[int], languages: list[int]) -> Batch:
    wave = torch.zeros(len(lengths), max(lengths))
    for b, length in enumerate(lengths):
        wave[b, :length] = torch.arange(1, length + 1) + 1000 * b
    return Batch(3, wave, torch.tensor(lengths), torch.arange(len(lengths)), torch.tensor(languages), None, None, ())


def test_clips_of_one_language_are_joined_in_order_up_to_the_limit():
    joined = join_clips(batch([8000, 4000, 8000, 6000, 16000], [0, 1, 0, 0, 1]), 1.2)
    assert joined.lengths_B.tolist() == [16000, 4000, 6000, 16000]
    assert joined.languages_B.tolist() == [0, 1, 0, 1]
    first = torch.cat([torch.arange(1.0, 8001), torch.arange(1.0, 8001) + 2000])
    assert torch.equal(joined.wave_BS[0, :16000], first)
    assert not joined.wave_BS[1, 4000:].any()


def test_every_sample_is_kept_once():
    before = batch([5000, 7000, 9000, 300], [0, 0, 1, 1])
    after = join_clips(before, 1.0)
    kept = torch.cat([w[:n] for w, n in zip(after.wave_BS, after.lengths_B.tolist(), strict=True)])
    assert torch.equal(kept.sort()[0], before.wave_BS[before.wave_BS > 0].sort()[0])
    assert after.number == before.number
