"""What a run records: how audio flows, which languages were heard, and the pictures and sounds of its codes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lalia.data.batch import Batch
from lalia.data.corpus import Corpus
from lalia.data.prepare.pipeline import rewrite
from lalia.models.quantizer import ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.training.run_log import TimedLoader, format_metrics, read_bad_clips, read_metrics
from lalia.training.settings import BatchSettings, DataSettings, LogSettings, OptimSettings, ScheduleSettings
from pretrain.code_usage import MAX_COLUMNS, CodeRecord, heat_map, read_codes
from pretrain.config import ObjectiveSettings, PretrainSettings
from pretrain.fit import SHOW, pretrain
from tests.tiny_corpus import make_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("recording") / "corpus")


def tiny(corpus: Path, kind: str) -> PretrainSettings:
    shape = ContrastiveShape(codebooks=2, entries=16, code_width=16, final_width=16)
    if kind == "kmeans":
        shape = replace(shape, kind="kmeans", codebooks=1)
    return PretrainSettings(
        join_s=3.0,
        data=DataSettings(corpus=[str(corpus)], max_s=3.0, workers=0),
        model=EncoderShape(input="logmel", width=32, layers=1, heads=2, feedforward=32, block="convolutional",
                           block_kernel=5, position="rotary", layerdrop=0.0),
        quantizer=shape,
        objective=ObjectiveSettings(distractors=10),
        batch=BatchSettings(hours=12 / 3600, micro_s=6.0),
        optim=OptimSettings(lr=1e-3),
        schedule=ScheduleSettings(steps=6),
        log=LogSettings(every=1, valid_every=2, checkpoint_every=2),
    )  # fmt: skip


@pytest.fixture(scope="module", params=["gumbel", "kmeans"])
def run(request: pytest.FixtureRequest, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("recording") / request.param
    pretrain(tiny(corpus, request.param), folder)
    return request.param, folder


def test_tensorboard_has_scalars_pictures_and_sounds(run: tuple[str, Path]) -> None:
    kind, folder = run
    seen = EventAccumulator(str(folder / "tensorboard"))
    seen.Reload()
    scalars = seen.Tags()["scalars"]
    for name in ("train/loss", "train/accuracy", "train/gumbel", "train/lr", "valid/accuracy", "guard/gradient_norm",
                 "speed/audio_s_per_s", "speed/data_wait", "languages/ita", "languages/eng"):  # fmt: skip
        assert name in scalars, name
    assert len(seen.Scalars("train/loss")) == 6
    books = {"gumbel": 2, "kmeans": 1}[kind]
    assert seen.Tags()["images"] == [f"codes/use of codebook {book + 1}" for book in range(books)]
    sounds = seen.Tags()["audio"]
    assert sounds and all(name.startswith("codes/sound of ") for name in sounds)
    clip = seen.Audio(sounds[0])[-1]
    assert clip.sample_rate == 16_000 and clip.length_frames > 0.3 * 16_000


def test_clips_that_cannot_be_read_are_named_once(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In training and in validation: in the run's folder, on stderr and in the report."""
    whole = Corpus.load(corpus)
    bad = [int(whole.select(split)[3]) for split in ("train", "dev")]
    silent = {row: {"audio": {"bytes": b"no audio", "path": ""}} for row in bad}
    rewrite(whole, tmp_path / "corpus", np.arange(len(whole)), silent, [], {})  # type: ignore[arg-type]
    settings = tiny(tmp_path / "corpus", "gumbel")
    settings.schedule.steps = 8
    pretrain(settings, tmp_path / "run")
    named = read_bad_clips(tmp_path / "run")
    assert sorted(line.split(": clip ")[1].split(":")[0] for line in named) == sorted(whole.id(row) for row in bad)
    said = capsys.readouterr().err
    assert said.count("left out: ") == 2
    assert f"2 clips could not be read, named in {tmp_path / 'run' / 'bad_clips.tsv'}" in said
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(whole.id(row) in page for row in bad)


def test_metrics_have_the_flow_and_the_mix(run: tuple[str, Path]) -> None:
    lines = read_metrics(run[1])
    steps = [line for line in lines if "train/loss" in line]
    assert all(line["speed/audio_s_per_s"] > 0 and 0 <= line["speed/data_wait"] <= 1 for line in steps)
    mixes = [{k: v for k, v in line.items() if k.startswith("languages/")} for line in lines if "languages/ita" in line]
    assert len(mixes) == 3 and sum(mixes[-1].values()) == pytest.approx(1, abs=1e-4)


def test_the_use_of_codes_is_kept_and_shown(run: tuple[str, Path]) -> None:
    kind, folder = run
    found = read_codes(folder)
    assert found is not None
    steps, usage = found
    assert steps == [2, 4, 6]
    assert usage[0].shape == {"gumbel": (2, 16), "kmeans": (1, 16)}[kind]
    np.testing.assert_allclose(usage[-1].sum(1), 1, atol=1e-3)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "Codes in use" in html and ">Languages<" in html and "BASE as published" in html


def test_a_long_run_s_looks_are_put_together(tmp_path: Path) -> None:
    class Look:
        is_global_zero, global_step, loggers = True, 0, ()

    record = CodeRecord(tmp_path)
    for step in range(1, 2 * MAX_COLUMNS):
        Look.global_step = step
        record._counts_GV = torch.tensor([[1.0, 3.0]])
        record.on_validation_end(Look, None)  # type: ignore[arg-type]
    assert len(record.steps) <= MAX_COLUMNS and record.steps[-1] == 2 * MAX_COLUMNS - 1
    assert record.steps == sorted(set(record.steps)) and len(record.usage) == len(record.steps)
    assert all(usage.tolist() == [[0.25, 0.75]] for usage in record.usage)
    assert json.loads((tmp_path / "codes.json").read_text())["steps"] == record.steps


def test_dead_codes_are_dark() -> None:
    picture = heat_map(np.array([[0.0, 0.5, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0]]))
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    height, width = picture.shape[0] // 4, picture.shape[1] // 2
    level = picture.sum(2, dtype=int)[::height, ::width]
    assert level[0].tolist() == level[3].tolist() and level[0, 0] < level[1, 0] < level[1, 1]


def test_waiting_is_what_the_loader_takes() -> None:
    class Slow:
        def __iter__(self) -> Iterator[Batch]:
            for number in range(3):
                time.sleep(0.02)
                yield number  # type: ignore[misc]

    loader = TimedLoader(Slow())
    found = []
    for batch in loader:
        time.sleep(0.03)
        found.append(batch)
    assert found == [0, 1, 2]
    assert 0.06 <= loader.seconds < 0.09 + 0.06


def test_the_progress_line_says_which_figure_is_training_and_which_held_out() -> None:
    metrics = {
        "train/loss": torch.tensor(2.6), "valid/accuracy": 0.21, "train/accuracy": 0.223, "valid/code_perplexity": 28.6,
        "guard/x": 1.0,
    }  # fmt: skip
    said = format_metrics((*SHOW, "valid/missing"), metrics)
    assert said == ["train loss 2.600, accuracy 0.223", "held-out accuracy 0.210, code perplexity 28.600"]
    assert format_metrics(SHOW, {"train/loss": 1.0}) == ["train loss 1.000"]  # before the first validation
