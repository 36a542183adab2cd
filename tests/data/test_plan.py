"""The batch plan: what it promises to a training that is resumed, moved to other ranks, or run on a huge corpus."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lalia.data.plan import BatchPlan, Interleaver, keyed_hash, padding, permute, sequential
from lalia.errors import UserError


def _durations(clips: int, seed: int = 0) -> np.ndarray:
    """Seconds as read speech has them: most clips of 3 to 12 s, a few of half a second, a few of 40 s."""
    return np.clip(np.random.default_rng(seed).lognormal(1.8, 0.6, clips), 0.5, 40).astype(np.float32)


def _groups(clips: int, shares: tuple[float, ...], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).choice(len(shares), clips, p=shares)


def _plan(clips: int = 2000, **settings: object) -> BatchPlan:
    values: dict = {"durations_s": _durations(clips), "groups": None, "seed": 7, "micro_batch_s": 60, "alpha": 1.0}
    return BatchPlan(**{**values, **settings})


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _visits(plan: BatchPlan, clips: int, passes: float) -> np.ndarray:
    numbers = range(int(passes * plan.epoch_micro_batches))
    return np.bincount(np.concatenate([plan.micro_batch(n).rows for n in numbers]), minlength=clips)


def test_a_micro_batch_depends_on_seed_and_number_alone() -> None:
    groups = _groups(2000, (0.8, 0.15, 0.05))
    one, other = (_plan(groups=groups, alpha=0.5) for _ in range(2))
    numbers = [0, 1, 5, 1000, 10**6, 10**9]
    in_order = [one.micro_batch(n) for n in numbers]
    backwards = [other.micro_batch(n) for n in reversed(numbers)]
    assert all(_same(a, b) for a, b in zip(in_order, reversed(backwards), strict=True))
    assert not _same(in_order[0], _plan(groups=groups, alpha=0.5, seed=8).micro_batch(0))


def test_the_plan_is_pinned() -> None:
    """A change of these numbers breaks every resume of every run that was started before it."""
    assert keyed_hash(7, 1, [2, 3]).tolist() == [6476345280182596470, 1004089195473380556]
    durations_s = np.linspace(1, 30, 500, dtype=np.float32)
    plan = BatchPlan(durations_s=durations_s, groups=np.arange(500) % 3, seed=7, micro_batch_s=60, alpha=0.5)
    micro_batch = plan.micro_batch(12346)
    assert micro_batch.rows.tolist() == [136, 132, 137, 139, 129, 137]
    assert micro_batch.starts.tolist() == [0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("clips", [1, 2, 3, 20, 100, 1200])
@pytest.mark.parametrize("micro_batch_s", [20, 60, 300])
def test_every_clip_comes_before_any_comes_a_third_time(clips: int, micro_batch_s: float) -> None:
    for seed in range(3 if clips < 500 else 1):
        plan = _plan(clips, durations_s=_durations(clips, seed), seed=seed, micro_batch_s=micro_batch_s)
        visits = np.zeros(clips, int)
        for number in range(3 * plan.epoch_micro_batches):
            visits += np.bincount(plan.micro_batch(number).rows, minlength=clips)
            assert visits.max() < 3 or visits.min() > 0
            if (number + 1) % plan.epoch_micro_batches == 0:
                assert visits.min() == visits.max()  # a pass is every clip once


def test_clips_of_a_group_take_turns_whatever_alpha() -> None:
    groups = _groups(3000, (0.9, 0.08, 0.02))
    plan = _plan(3000, groups=groups, alpha=0.3)
    visits = _visits(plan, 3000, 4)
    for group in range(3):
        here = visits[groups == group]
        assert here.max() - here.min() <= 3


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_groups_come_by_the_power_of_their_hours(alpha: float) -> None:
    clips, shares = 2000, (0.85, 0.10, 0.05)
    durations_s, groups = _durations(clips), _groups(clips, shares)
    plan = BatchPlan(durations_s=durations_s, groups=groups, seed=1, micro_batch_s=60, max_s=20, alpha=alpha)
    hours, drawn = (np.zeros(len(shares)) for _ in range(2))
    np.add.at(hours, groups, np.minimum(durations_s, 20))
    for number in range(3 * plan.epoch_micro_batches):
        micro_batch = plan.micro_batch(number)
        np.add.at(drawn, groups[micro_batch.rows], micro_batch.lengths)
    wanted = (hours / hours.sum()) ** alpha
    np.testing.assert_allclose(drawn / drawn.sum(), wanted / wanted.sum(), rtol=0.05)


@pytest.mark.parametrize("micro_batch_s", [20, 25, 45, 200])
def test_no_micro_batch_is_empty(micro_batch_s: float) -> None:
    for seed in range(5):
        groups = _groups(60, (0.8, 0.15, 0.05), seed)
        plan = _plan(durations_s=_durations(60, seed), groups=groups, alpha=0.3, seed=seed, micro_batch_s=micro_batch_s)
        for number in range(200):
            micro_batch = plan.micro_batch(number)
            assert len(micro_batch.rows) and micro_batch.padded_s <= micro_batch_s


def test_ranks_never_overlap_and_another_world_size_goes_on_with_the_same_plan() -> None:
    """12 micro-batches a step: 4 ranks × 3 accumulations, then resumed on 2 ranks × 6."""
    plan = _plan()

    def step(k: int, ranks: int, accumulate: int) -> list[set[int]]:
        span = ranks * accumulate
        numbers = range(k * span, (k + 1) * span)
        return [
            {int(row) for n in numbers if n % ranks == rank for row in plan.micro_batch(n).rows}
            for rank in range(ranks)
        ]

    for k in (0, 1, 9):
        four, two = step(k, 4, 3), step(k, 2, 6)
        assert set.union(*four) == set.union(*two)
        assert sum(map(len, four)) == len(set.union(*four))  # no clip on two ranks


@pytest.mark.parametrize("micro_batch_s", [20.0, 30.0, 77.7, 240.0])
def test_the_budget_holds_with_padding_and_little_is_padding(micro_batch_s: float) -> None:
    rng = np.random.default_rng(3)
    corpora = {
        "read sentences": rng.gamma(4, 1.4, 6000) + 0.8,
        "audio books": np.clip(rng.normal(13, 4, 6000), 1, 18),
        "prompts": rng.lognormal(0.6, 0.9, 6000),
        "cut by voice activity": rng.uniform(2, 20, 6000),
        "phone calls": rng.exponential(4, 6000) + 0.2,
    }
    for name, durations_s in corpora.items():
        plan = _plan(durations_s=durations_s.astype(np.float32), micro_batch_s=micro_batch_s)
        batches = [plan.micro_batch(n) for n in range(150)]
        assert max(batch.padded_s for batch in batches) <= micro_batch_s
        assert padding(batches).waste < 0.05, name
        assert plan.padding(20).waste < 0.1


def test_mean_seconds_and_the_length_of_a_pass_are_what_comes() -> None:
    plan = _plan(5000)
    batches = [plan.micro_batch(n) for n in range(plan.epoch_micro_batches)]
    assert sum(b.audio_s for b in batches) / len(batches) == pytest.approx(plan.mean_s, rel=0.01)
    assert sum(b.audio_s for b in batches) / 3600 == pytest.approx(plan.hours, rel=0.01)
    assert sum(len(b.rows) for b in batches) == plan.clips


def test_long_clips_are_cropped_at_random_places() -> None:
    durations_s = np.full(300, 30, np.float32)
    plan = _plan(durations_s=durations_s, max_s=10)
    batches = [plan.micro_batch(n) for n in range(300)]
    starts = np.concatenate([b.starts for b in batches])
    assert {int(length) for b in batches for length in b.lengths} == {160_000}
    assert starts.min() >= 0 and starts.max() <= 320_000
    np.testing.assert_allclose(np.quantile(starts, [0.1, 0.5, 0.9]), [32_000, 160_000, 288_000], atol=20_000)
    first, again = plan.micro_batch(0), plan.micro_batch(plan.epoch_micro_batches)
    assert not np.array_equal(first.starts, again.starts)


def test_without_crop_long_clips_are_left_out_and_counted() -> None:
    durations_s = np.array([1, 5, 19.99, 20, 20.1, 0.01, 300, np.nan], np.float32)
    plan = _plan(durations_s=durations_s, max_s=20, min_s=0.5, crop=False)
    assert (plan.clips, plan.too_short, plan.too_long, plan.left_out) == (4, 2, 2, 4)
    rows = np.concatenate([plan.micro_batch(n).rows for n in range(20)])
    assert set(rows) == {0, 1, 2, 3}
    assert all((plan.micro_batch(n).starts == 0).all() for n in range(20))


def test_only_the_rows_asked_for() -> None:
    durations_s, groups = _durations(2000), _groups(2000, (0.5, 0.5))
    rows = np.arange(1, 2000, 3)
    plan = _plan(durations_s=durations_s, groups=groups, alpha=0.5, rows=rows)
    visited = _visits(plan, 2000, 5)
    assert set(np.flatnonzero(visited)) == set(rows)


def test_without_shuffle_a_bucket_keeps_the_order_of_the_corpus() -> None:
    plan = _plan(durations_s=np.full(64, 5, np.float32), shuffle=False)
    rows = np.concatenate([plan.micro_batch(n).rows for n in range(plan.epoch_micro_batches)])
    assert rows.tolist() == list(range(64))


def test_many_languages_make_more_cells_than_sixteen_bits_hold() -> None:
    clips = 40_000
    rng = np.random.default_rng(5)
    durations_s, groups = rng.uniform(0.2, 20, clips), rng.integers(0, 3000, clips)
    plan = _plan(durations_s=durations_s, groups=groups, alpha=0.5, micro_batch_s=40)
    rows = np.concatenate([plan.micro_batch(n).rows for n in range(600)])
    by_length = [np.ptp(plan.micro_batch(n).lengths) / 16_000 for n in range(300)]
    assert np.median(by_length) < 1
    assert len(np.unique(groups[rows])) > 1000


def test_memory_is_four_bytes_a_clip_and_durations_may_be_mapped(tmp_path: object) -> None:
    path = f"{tmp_path}/durations.f32"
    _durations(50_000).tofile(path)
    mapped = np.memmap(path, np.float32, mode="r")
    plan, in_memory = _plan(durations_s=mapped), _plan(durations_s=np.array(mapped))
    assert plan.bytes < 4.2 * 50_000
    assert _same(plan.micro_batch(3), in_memory.micro_batch(3))


def test_spares_are_other_clips_of_about_the_same_length() -> None:
    durations_s = _durations(3000)
    micro_batch = _plan(durations_s=durations_s).micro_batch(11)
    assert len(micro_batch.spares) == 8
    longest = micro_batch.lengths.max() / 16_000
    assert durations_s[micro_batch.spares].max() <= 1.1 * longest or longest == 20


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"micro_batch_s": 10, "max_s": 20}, "cannot hold a clip of 20 s"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"durations_s": np.zeros(0, np.float32)}, "none of 0 clips"),
        ({"durations_s": np.full(3, 0.01, np.float32)}, "3 are shorter than 0.1 s"),
        ({"durations_s": np.full(3, 50, np.float32), "crop": False}, "3 longer than 20 s"),
        ({"alpha": 0.5, "groups": np.full(2000, -1)}, "group codes run from -1"),
    ],
)
def test_bad_settings_say_what_to_do(settings: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        _plan(**settings)


def test_sequential_brings_every_clip_once_within_the_budget() -> None:
    durations_s = _durations(500)
    rows = np.arange(0, 500, 2)
    batches = sequential(rows, durations_s, 30)
    assert sorted(np.concatenate([b.rows for b in batches])) == rows.tolist()
    assert all(b.padded_s <= 30 or len(b.rows) == 1 for b in batches)
    assert [b.number for b in batches] == list(range(len(batches)))
    assert batches[0].lengths[0] == max(b.lengths.max() for b in batches)
    assert sequential([], durations_s, 30) == []


def test_sequential_takes_what_is_too_long_in_pieces() -> None:
    durations_s = np.array([660.0, 3.0, 12.0], np.float32)
    batches = sequential([0, 1, 2], durations_s, 10, max_s=5.0)
    taken = [(int(r), int(s), int(n)) for b in batches for r, s, n in zip(b.rows, b.starts, b.lengths, strict=True)]
    assert taken[:132] == [(0, piece * 80_000, 80_000) for piece in range(132)]
    assert taken[132:] == [(2, 16_000, 80_000), (2, 96_000, 80_000), (1, 0, 48_000)]
    assert all(b.padded_s <= 10 for b in batches)


@pytest.mark.parametrize("size", [*range(1, 40), 97, 256, 1000, 4099])
def test_permute_is_a_permutation(size: int) -> None:
    index, sizes = np.arange(size), np.full(size, size)
    images = {tuple(permute(index, sizes, np.full(size, key, np.uint64))) for key in range(5)}
    assert all(sorted(image) == index.tolist() for image in images)
    assert size < 4 or len(images) > 1


def test_permute_sends_each_value_everywhere_alike() -> None:
    """Over many keys every value lands on every place; a 6 × 6 table of 60,000 throws each row, within 4 sigma."""
    keys = keyed_hash(0, np.arange(60_000))
    for value in range(6):
        images = permute(np.full(60_000, value), np.full(60_000, 6), keys)
        counts = np.bincount(images, minlength=6)
        assert np.abs(counts - 10_000).max() < 4 * np.sqrt(60_000 * 5 / 36)


def test_clocks_equal_the_slow_way() -> None:
    """The slow way: write down all ticks of all clocks and sort them by time."""
    rates, phases = np.array([0.5, 0.3, 0.15, 0.05, 1e-4]), np.array([0.1, 0.9, 0.5, 0.0, 0.99])
    unit = rates / rates.sum()
    ticks = sorted(((n + 1 - phases[c]) / unit[c], c, n) for c in range(5) for n in range(3000))
    interleaver = Interleaver(rates, phases)
    for first, count in [(0, 1), (0, 50), (7, 3), (999, 101), (2500, 17)]:
        clock, nth = interleaver.draws(first, count)
        assert [(c, n) for _, c, n in ticks[first : first + count]] == list(zip(clock, nth, strict=True))


def test_clocks_agree_with_themselves_far_out() -> None:
    rng = np.random.default_rng(0)
    interleaver = Interleaver(rng.exponential(1, 200) ** 4, rng.random(200))
    for first in (10**6, 10**10):
        clock, nth = interleaver.draws(first, 64)
        single = [interleaver.draws(first + i, 1) for i in range(64)]
        assert [(c[0], n[0]) for c, n in single] == list(zip(clock, nth, strict=True))
