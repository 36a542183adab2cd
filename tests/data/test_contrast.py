"""Complete batches of pretraining: what is drawn is a function of the batch, the same in threads and processes."""

from __future__ import annotations

import pickle
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from lalia.data.batch import Batch, Contrast, ContrastSampler, MaskSettings, masked_positions, sample_distractors
from lalia.data.corpus import Corpus
from lalia.data.loader import Context, make_eval_loader, make_loader
from lalia.data.plan import BatchPlan
from lalia.models.shape import EncoderShape
from tests.tiny_corpus import make_corpus

SHAPE = EncoderShape(stem=[[8, 20, 10], [8, 8, 8], [8, 8, 8]])
SAMPLER = ContrastSampler(7, "objective", SHAPE.frames, MaskSettings(), distractors=5, visible=True)


def batch_of(*lengths: int) -> Batch:
    lengths_B = torch.tensor(lengths)
    nothing_B = torch.zeros_like(lengths_B)
    return Batch(4, torch.randn(len(lengths), max(lengths)), lengths_B, nothing_B, nothing_B, None, None, ())


def tensors(batch: Batch) -> list[Tensor]:
    drawn = batch.contrast
    assert drawn is not None and drawn.visible is not None
    found = [batch.wave_BS, batch.lengths_B, drawn.mask_BT, drawn.live_L]
    return found + [getattr(part, field.name) for part in (drawn.hidden, drawn.visible) for field in fields(part)]


def drawn_for(batch: Batch) -> Contrast:
    found = SAMPLER(batch).contrast
    assert found is not None
    return found


def test_hidden_and_visible_frames_are_all_frames_of_each_clip() -> None:
    lengths = [60_000, 30_000, 9_000]
    drawn = drawn_for(batch_of(*lengths))
    assert drawn.visible is not None
    assert drawn.mask_BT.shape == (3, SHAPE.frames(60_000))
    for b, length in enumerate(lengths):
        parts = [part.positions_BM[b, part.valid_BM[b]].tolist() for part in (drawn.hidden, drawn.visible)]
        assert sorted(parts[0] + parts[1]) == list(range(SHAPE.frames(length)))
        assert parts[0] == drawn.mask_BT[b].nonzero()[:, 0].tolist()
    assert set(drawn.live_L.tolist()) <= set(drawn.mask_BT.flatten().nonzero()[:, 0].tolist())


def test_other_micro_batches_and_splits_draw_otherwise() -> None:
    batch = batch_of(60_000, 30_000)
    first, again = drawn_for(batch), drawn_for(batch)
    assert torch.equal(first.mask_BT, again.mask_BT)
    assert torch.equal(first.hidden.distractors_BMK, again.hidden.distractors_BMK)
    others = [drawn_for(replace(batch, number=5)), replace(SAMPLER, split="valid")(batch).contrast]
    assert all(other is not None and not torch.equal(other.mask_BT, first.mask_BT) for other in others)


def test_a_batch_moves_as_a_whole_but_for_what_the_host_reads() -> None:
    moved = SAMPLER(batch_of(60_000, 30_000)).to("meta")
    drawn = moved.contrast
    assert drawn is not None and drawn.visible is not None
    on_device = [moved.wave_BS, drawn.mask_BT, drawn.live_L, drawn.hidden.distractors_BMK, drawn.visible.valid_BM]
    assert {tensor.device.type for tensor in on_device} == {"meta"}
    assert {t.device.type for t in (moved.lengths_B, moved.rows_B, moved.languages_B)} == {"cpu"}


def test_cropped_waves_are_as_long_as_the_shortest_and_come_from_within_their_clips() -> None:
    clips, cropping = batch_of(60_000, 30_000, 45_000), replace(SAMPLER, crop=True)
    cropped, again = cropping(clips), cropping(clips)
    assert cropped.wave_BS.shape == (3, 30_000) and cropped.lengths_B.tolist() == [30_000] * 3
    starts = []
    for wave_S, clip_S, length in zip(cropped.wave_BS, clips.wave_BS, clips.lengths_B.tolist(), strict=True):
        windows = clip_S[:length].unfold(0, 30_000, 1)
        starts.append(int((windows[:, 0] == wave_S[0]).nonzero()[0]))
        assert torch.equal(windows[starts[-1]], wave_S)
    assert starts[1] == 0 and starts[0] > 0
    assert all(torch.equal(a, b) for a, b in zip(tensors(cropped), tensors(again), strict=True))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus.load(make_corpus(tmp_path_factory.mktemp("contrast") / "corpus", 12))


@pytest.mark.parametrize("context", ["threads", "spawn"])
def test_workers_complete_batches_as_the_training_process_does(corpus: Corpus, context: Context) -> None:
    plan = BatchPlan(durations_s=corpus.durations_s, groups=corpus.languages, seed=1,
                     micro_batch_s=6.0, min_s=0.3, max_s=5.0, alpha=0.5)  # fmt: skip
    joining = pickle.loads(pickle.dumps(replace(SAMPLER, join_s=4.0)))
    here = iter(make_loader(corpus, plan, start=3, workers=0, finish=joining))
    there = iter(make_loader(corpus, plan, start=3, workers=1, finish=joining, context=context))
    for _ in range(3):
        one, other = next(here), next(there)
        assert one.number == other.number
        assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


def test_validation_batches_are_complete_too(corpus: Corpus) -> None:
    valid = replace(SAMPLER, split="valid", distinct=True)
    for batch in make_eval_loader(corpus, range(4), 6.0, finish=valid):
        assert batch.contrast is not None


def test_masked_positions_lists_the_hidden_frames_in_order() -> None:
    mask = torch.tensor([[False, True, True, False], [True, False, False, False]])
    positions, valid = masked_positions(mask)
    assert positions[0].tolist() == [1, 2]
    assert positions[1, 0] == 0
    assert valid.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("distinct", [False, True])
def test_distractors_are_others_of_the_same_clip(distinct: bool) -> None:
    valid = torch.arange(12) < torch.tensor([12, 7, 2, 1])[:, None]
    drawn = sample_distractors(valid, 6, torch.Generator().manual_seed(0), distinct)
    assert drawn.shape == (4, 12, 6)
    for b, count in enumerate([12, 7, 2]):
        for m in range(count):
            own = drawn[b, m].tolist()
            assert all(0 <= k < count and k != m for k in own)
            if distinct and count > 6:
                assert len(set(own)) == 6
    assert drawn[3, 0].tolist() == [0] * 6  # there is no other


def test_distractors_are_drawn_evenly() -> None:
    valid = torch.ones(1, 5, dtype=torch.bool)
    drawn = sample_distractors(valid.expand(4000, 5), 1, torch.Generator().manual_seed(0))[:, 2, 0]
    share = torch.bincount(drawn, minlength=5) / 4000
    torch.testing.assert_close(share, torch.tensor([0.25, 0.25, 0.0, 0.25, 0.25]), atol=0.03, rtol=0)
