"""Short clips joined to longer ones: nothing is lost, nothing is mixed."""

from __future__ import annotations

import torch

from lalia.data.batch import join_clips, join_with_pauses
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


def test_with_pauses_every_clip_keeps_its_samples_at_a_whole_frame():
    before = batch([5000, 7000, 9000, 300, 8000], [0, 0, 1, 1, 0])
    kinds = set()
    for number in range(20):
        joined = join_with_pauses(before, 20.0, 640, torch.Generator().manual_seed(number))
        places = list(zip(joined.wave_B, joined.start_B, before.lengths_B.tolist(), strict=True))
        for b, (wave, start, length) in enumerate(places):
            assert start % 640 == 0
            assert torch.equal(joined.batch.wave_BS[wave, start : start + length], before.wave_BS[b, :length])
            assert joined.batch.languages_B[wave] == before.languages_B[b]
            for other, (wave_, start_, length_) in enumerate(places):
                if wave_ == wave and other < b:
                    assert start >= start_ + length_ + 3 * 640
                    pause_S = joined.batch.wave_BS[wave, start_ + length_ : start]
                    if other == b - 1:
                        kinds.add(bool(pause_S.any()))
                        assert pause_S.abs().max() < 0.03
    assert kinds == {True, False}


def test_frames_are_cut_apart_as_they_were_joined():
    before = batch([5000, 7000, 8000], [0, 0, 0])
    joined = join_with_pauses(before, 1000.0, 640, torch.Generator().manual_seed(2))
    assert joined.wave_B == [0, 0, 0]
    frames_B = before.lengths_B // 640
    width = joined.batch.wave_BS.shape[1] // 640 + 1
    found = joined.places(frames_B, 640, width)
    assert found.pauses_PT.shape[0] == 2 and int(found.frames_P.min()) >= 3
    clips = [found.clips_BT[b, : frames_B[b]].tolist() for b in range(3)]
    pauses = [found.pauses_PT[p, : found.frames_P[p]].tolist() for p in range(2)]
    whole = clips[0] + pauses[0] + clips[1] + pauses[1] + clips[2]
    assert whole == list(range(len(whole)))


def test_frames_of_later_waves_follow_those_of_earlier_ones():
    joined = join_with_pauses(batch([6400, 6400], [0, 1]), 20.0, 640, torch.Generator().manual_seed(2))
    found = joined.places(torch.tensor([9, 9]), 640, 12)
    assert found.clips_BT.tolist() == [list(range(9)), list(range(12, 21))]
    assert found.pauses_PT.shape[0] == len(found.frames_P) == 0
