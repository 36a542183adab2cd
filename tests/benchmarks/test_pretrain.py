"""What benchmarks/training/pretrain_step.py compares is comparable: one shape, one batch; and its parts run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.training.end_to_end import WARM_UP, bare_steps, settings_of, timed_run
from benchmarks.training.pretrain_contenders import CONTENDERS, SIZES, batch
from benchmarks.training.pretrain_profile import attention_seconds, where
from benchmarks.training.pretrain_step import race
from tests.tiny_corpus import make_corpus


def test_the_contenders_have_one_shape_and_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda *a, **k: lambda f: f)
    seconds, weights = race("warm-up", "bf16", list(CONTENDERS), rounds=2)
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(CONTENDERS, 2)
    assert weights > 10_000


@pytest.mark.parametrize("size", SIZES)
def test_as_many_frames_are_hidden_of_each_clip(size: str) -> None:
    wave_BS, mask_BT = batch(SIZES[size])
    assert wave_BS.shape == (SIZES[size].clips, SIZES[size].samples)
    hidden = mask_BT.sum(1)
    assert bool((hidden == hidden[0]).all()) and 0.3 < float(mask_BT.float().mean()) < 0.6


def test_a_profile_finds_the_products() -> None:
    seconds, operations, best = where("warm-up", "fp32", 1)
    assert min(seconds["matrix products"], seconds["convolutions"], seconds["AdamW"], operations, best) > 0
    assert seconds["other"] < 0.5 * sum(seconds.values())


def test_both_attention_implementations_are_timed() -> None:
    fused, written = attention_seconds((1, 2, 9, 8), torch.bfloat16, 0.1, rounds=2, calls=1)
    assert len(fused) == len(written) == 2 and min(fused + written) > 0


def test_a_step_of_a_run_and_the_bare_step_take_the_same_batches(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 24, ("ita",))
    settings = settings_of(str(corpus), "warm-up", "fp32", WARM_UP + 4)
    clock = timed_run(settings, tmp_path)
    assert len(clock.seconds) == 3 and [batch.number for batch in clock.batches] == list(range(WARM_UP + 4))
    assert len(bare_steps(settings, clock.batches)) == 4 and (tmp_path / "run" / "encoder").is_dir()
