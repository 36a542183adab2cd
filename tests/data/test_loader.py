"""The loader: what reaches the training, from sound and from damaged corpora, in this process and in workers."""

from __future__ import annotations

import io
import itertools
import re
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from lalia.cards import write_card
from lalia.data.augment import Augment, AugmentSettings
from lalia.data.corpus import COLUMNS, SCHEMA, Corpus, write_index
from lalia.data.loader import Batch, Context, NoReadableClip, make_eval_loader, make_loader
from lalia.data.plan import BatchPlan
from lalia.errors import AudioError, UserError


class FakeCorpus:
    """Clips of noise made on the spot; those of ``broken`` cannot be read, those of ``cut`` hold half their samples."""

    def __init__(self, clips: int, broken: set[int] | None = None, cut: set[int] | None = None) -> None:
        self.durations_s = np.random.default_rng(0).uniform(0.5, 5, clips).astype(np.float32)
        self.languages = np.arange(clips, dtype=np.int16) % 3
        self.broken, self.cut = broken or set(), cut or set()

    def id(self, row: int) -> str:
        return f"clip{row}"

    def language(self, row: int) -> str:
        return "ita"

    def text(self, row: int) -> str:
        return "abc"[: row % 4]

    def wave(self, row: int) -> np.ndarray:
        if row in self.broken:
            raise AudioError(f"clip{row}: is cut short; copy it again")
        samples = round(float(self.durations_s[row]) * 16_000)
        wave = np.random.default_rng(row).uniform(-0.5, 0.5, samples).astype(np.float32)
        return wave[: samples // 2] if row in self.cut else wave


def _encode(text: str, language: str = "") -> list[int]:
    return [ord(letter) - 96 for letter in text]


_HARD = Augment(AugmentSettings(speed=0.5, reverb=0.5, noise=0.5, telephone=0.5))


def _plan(corpus: FakeCorpus | Corpus, **settings: object) -> BatchPlan:
    values: dict = {"groups": corpus.languages, "seed": 1, "micro_batch_s": 12, "max_s": 4}
    return BatchPlan(durations_s=corpus.durations_s, **{**values, **settings})


def _take(loader: Iterable[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(loader, count))


def _same(a: Batch, b: Batch) -> bool:
    assert a.labels_BU is not None and b.labels_BU is not None
    pairs = [(a.wave_BS, b.wave_BS), (a.lengths_B, b.lengths_B), (a.rows_B, b.rows_B), (a.labels_BU, b.labels_BU)]
    return a.number == b.number and a.bad == b.bad and all(torch.equal(x, y) for x, y in pairs)


def test_a_batch_holds_the_planned_crops_padded_with_zeros() -> None:
    corpus = FakeCorpus(50)
    plan = _plan(corpus)
    for batch in _take(make_loader(corpus, plan, start=0, workers=0, labels=_encode), 20):
        planned = plan.micro_batch(batch.number)
        assert batch.wave_BS.dtype == torch.float32 and batch.lengths_B.dtype == torch.int64
        assert batch.rows_B.tolist() == planned.rows.tolist()
        assert batch.lengths_B.tolist() == planned.lengths.tolist()
        assert batch.languages_B.tolist() == [row % 3 for row in planned.rows]
        assert batch.samples == planned.lengths.sum()
        for place, (row, start, length) in enumerate(zip(planned.rows, planned.starts, planned.lengths, strict=True)):
            wave = batch.wave_BS[place]
            assert torch.equal(wave[:length], torch.from_numpy(corpus.wave(row)[start : start + length]))
            assert not wave[length:].any()
            assert batch.labels[place].tolist() == _encode(corpus.text(row))


@pytest.mark.parametrize("context", ["threads", "fork"])
def test_workers_bring_the_same_batches_in_the_same_order(context: Context) -> None:
    corpus = FakeCorpus(60, broken={3, 30})
    here = make_loader(corpus, _plan(corpus), start=5, workers=0, labels=_encode, augment=_HARD)
    there = make_loader(corpus, _plan(corpus), start=5, workers=2, labels=_encode, augment=_HARD, context=context)
    assert all(_same(a, b) for a, b in zip(_take(here, 12), _take(there, 12), strict=True))


def test_a_resume_goes_on_exactly_also_on_other_ranks() -> None:
    corpus = FakeCorpus(60)
    plan = _plan(corpus)
    unbroken = _take(make_loader(corpus, plan, start=0, workers=0, labels=_encode, augment=_HARD), 24)
    on_two = [
        _take(make_loader(corpus, plan, start=8, ranks=2, rank=r, workers=0, labels=_encode, augment=_HARD), 8)
        for r in range(2)
    ]
    resumed = [batch for pair in zip(*on_two, strict=True) for batch in pair]
    assert [batch.number for batch in resumed] == list(range(8, 24))
    assert all(_same(a, b) for a, b in zip(unbroken[8:], resumed, strict=True))


def test_a_start_inside_a_step_keeps_ranks_apart() -> None:
    corpus = FakeCorpus(60)
    numbers = [
        [batch.number for batch in _take(make_loader(corpus, _plan(corpus), start=7, ranks=3, rank=r, workers=0), 3)]
        for r in range(3)
    ]
    assert numbers == [[9, 12, 15], [7, 10, 13], [8, 11, 14]]


def test_the_loader_is_endless_and_leaves_the_trainings_random_numbers_alone() -> None:
    corpus = FakeCorpus(10)
    contexts: tuple[Context, ...] = ("threads", "fork")
    for context in contexts:
        loader = make_loader(corpus, _plan(corpus), start=0, workers=1, context=context)
        with pytest.raises(TypeError):
            len(loader)  # type: ignore[arg-type]
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        assert len(_take(loader, 100)) == 100
        assert torch.equal(torch.rand(3), expected)


def test_threads_end_with_their_loader() -> None:
    corpus = FakeCorpus(10)
    batches = iter(make_loader(corpus, _plan(corpus), start=0, workers=2, context="threads"))
    next(batches)
    assert any(thread.name.startswith("lalia-loader") for thread in threading.enumerate())
    del batches
    for thread in threading.enumerate():
        if thread.name.startswith("lalia-loader"):
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_damaged_clips_are_left_out_and_named() -> None:
    corpus = FakeCorpus(40, broken=set(range(0, 40, 4)))
    plan = _plan(corpus)
    bad = 0
    for batch in _take(make_loader(corpus, plan, start=0, workers=0, labels=_encode), 40):
        planned = plan.micro_batch(batch.number).rows.tolist()
        damaged = [row for row in planned if row in corpus.broken]
        bad += len(damaged)
        if len(damaged) < len(planned):
            assert batch.rows_B.tolist() == [row for row in planned if row not in corpus.broken]
        assert [line.split(":")[0] for line in batch.bad[: len(damaged)]] == [f"clip{row}" for row in damaged]
        assert len(batch.wave_BS) == len(batch.lengths_B) == len(batch.labels)
    assert bad > 10


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("broken", [{0}, {39}, {17, 18}, set(range(40)) - {7}])
def test_a_pass_names_what_it_cannot_read_and_goes_on(broken: set[int], workers: int) -> None:
    """One clip a micro-batch: a damaged one is a micro-batch of nothing, which must not end a validation."""
    corpus = FakeCorpus(40, broken=broken)
    batches = list(make_eval_loader(corpus, range(40), 0.01, workers=workers))
    assert {int(row) for batch in batches for row in batch.rows_B} == set(range(40)) - broken
    assert sorted(line.split(":")[0] for batch in batches for line in batch.bad) == sorted(
        f"clip{row}" for row in broken
    )
    with pytest.raises(NoReadableClip):
        list(make_eval_loader(FakeCorpus(4, broken={0, 1, 2, 3}), range(4), 0.01, workers=workers))


def test_where_all_clips_are_damaged_a_spare_comes_and_always_the_same() -> None:
    corpus = FakeCorpus(40, broken=set(range(40)) - {7, 20, 33})
    plan = _plan(corpus, micro_batch_s=4)
    readable = [n for n in range(200) if {7, 20, 33} & set(plan.micro_batch(n).spares.tolist())]
    number = next(n for n in readable if not {7, 20, 33} & set(plan.micro_batch(n).rows.tolist()))
    first, again = (next(iter(make_loader(corpus, plan, start=number, workers=0, labels=_encode))) for _ in range(2))
    assert set(first.rows_B.tolist()) <= {7, 20, 33} and len(first.rows_B) == 1
    assert _same(first, again)


@pytest.mark.parametrize(("workers", "context"), [(0, None), (1, "threads"), (1, "fork")])
def test_nothing_readable_ends_in_one_line(workers: int, context: Context | None) -> None:
    corpus = FakeCorpus(10, broken=set(range(10)))
    with pytest.raises(UserError) as caught:
        next(iter(make_loader(corpus, _plan(corpus), start=0, workers=workers, context=context)))
    assert re.fullmatch(r"micro-batch 0: none of \d+ clips can be read; the first: clip\d: is cut.*", str(caught.value))


def test_a_clip_shorter_than_its_index_gives_what_is_there() -> None:
    corpus = FakeCorpus(12, cut=set(range(12)))
    for batch in _take(make_loader(corpus, _plan(corpus), start=0, workers=0), 10):
        wanted = [min(len(corpus.wave(row)), 64_000) for row in batch.rows_B.tolist()]
        assert batch.lengths_B.tolist() == wanted
        assert not batch.bad


def test_a_label_that_cannot_be_encoded_costs_its_clip_alone() -> None:
    def encode(text: str, language: str) -> list[int]:
        if text == "abc":
            raise UserError("'abc': has letters outside the vocabulary")
        return _encode(text)

    corpus = FakeCorpus(40)
    batches = _take(make_loader(corpus, _plan(corpus), start=0, workers=0, labels=encode), 40)
    assert any("outside the vocabulary" in line for batch in batches for line in batch.bad)
    assert all(row % 4 != 3 for batch in batches for row in batch.rows_B.tolist())


def test_normalise_gives_each_clip_zero_mean_and_unit_variance() -> None:
    corpus = FakeCorpus(20)
    batch = next(iter(make_loader(corpus, _plan(corpus), start=0, workers=0, normalise=True)))
    for wave, length in zip(batch.wave_BS, batch.lengths_B.tolist(), strict=True):
        assert wave[:length].mean().abs() < 1e-5
        assert wave[:length].std(correction=0) == pytest.approx(1, abs=1e-3)
        assert not wave[length:].any()


def test_batches_move_to_a_device_whole() -> None:
    corpus = FakeCorpus(20)
    batch = next(iter(make_loader(corpus, _plan(corpus), start=3, workers=0, labels=_encode)))
    moved = batch.to("meta")
    assert moved.labels_BU is not None
    assert moved.wave_BS.device.type == moved.labels_BU.device.type == "meta"
    assert (moved.number, moved.bad) == (batch.number, batch.bad)
    unlabelled = next(iter(make_loader(corpus, _plan(corpus), start=3, workers=0)))
    assert unlabelled.to("meta").labels_BU is None
    with pytest.raises(ValueError, match="no labels"):
        _ = unlabelled.labels


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_reads_every_row_once_and_whole(workers: int) -> None:
    corpus = FakeCorpus(30)
    rows = np.arange(0, 30, 2)
    loader = make_eval_loader(corpus, rows, 10, _encode, workers=workers)
    for _ in range(2):  # a validation comes more than once
        batches = list(loader)
        assert len(batches) == len(loader)
        assert sorted(row for b in batches for row in b.rows_B.tolist()) == rows.tolist()
        assert all(b.samples == sum(len(corpus.wave(row)) for row in b.rows_B.tolist()) for b in batches)
    halves = [list(make_eval_loader(corpus, rows, 10, ranks=2, rank=rank)) for rank in range(2)]
    assert sorted(row for half in halves for b in half for row in b.rows_B.tolist()) == rows.tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus on disk of 24 clips, one of which is damaged."""
    rng = np.random.default_rng(0)
    rows = []
    for row in range(24):
        wave = (0.1 * rng.standard_normal(int(rng.uniform(0.5, 3) * 16_000))).astype(np.float32)
        file = io.BytesIO()
        soundfile.write(file, wave, 16_000, format="FLAC", subtype="PCM_16")
        data = file.getvalue()
        clip: dict = {name: None for name in COLUMNS}
        clip |= {"id": f"c{row}", "audio": {"bytes": data[:900] if row == 5 else data, "path": f"c{row}.flac"}}
        clip |= {"language": ("ita", "rus")[row % 2], "text": "abc"[: row % 4], "speaker": "", "split": "train"}
        rows.append(clip | {"duration_s": len(wave) / 16_000, "source": "made here"})
    table = pa.Table.from_pylist(rows, SCHEMA)
    shard = tmp_path / "data-00000-of-00001.arrow"
    with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(table)
    write_index(tmp_path, [shard.name], len(rows), shard.stat().st_size, "0", "noise")
    write_card(tmp_path, "corpus", [])
    return tmp_path


@pytest.mark.parametrize("context", [None, "threads", "spawn"])
def test_a_corpus_on_disk(folder: Path, context: Context | None) -> None:
    corpus = Corpus.load(folder)
    loader = make_loader(
        corpus, _plan(corpus, alpha=1.0), start=0, workers=2 if context else 0, labels=_encode, context=context
    )
    batches = _take(loader, _plan(corpus, alpha=1.0).epoch_micro_batches)
    assert sorted(row for batch in batches for row in batch.rows_B.tolist()) == sorted({*range(24)} - {5})
    (line,) = [line for batch in batches for line in batch.bad]
    assert "clip c5" in line
    for batch in batches:
        for place, row in enumerate(batch.rows_B.tolist()):
            expected = torch.from_numpy(np.array(corpus.wave(row)))
            assert torch.equal(batch.wave_BS[place, : batch.lengths_B[place]], expected)
