"""The guard tells a stem that has died from audio that is silent, and no run ends ill as if nothing were wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lalia.data.batch import Batch, MaskSettings
from lalia.errors import GuardStopped
from lalia.models.quantizer import ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.training import Callback
from lalia.training.settings import BatchSettings, DataSettings, LogSettings, OptimSettings, ScheduleSettings
from lalia.training.trainer import FINISHED, newest_checkpoint
from pretrain import fit as fit_module
from pretrain.bands import EFFECT_STEPS, Breach, GuardSettings, Vitals, Watch, healthy_bands
from pretrain.config import ObjectiveSettings, PretrainSettings
from pretrain.fit import pretrain
from pretrain.guard import read_record
from pretrain.task import PretrainTask, wave_variation
from tests.tiny_corpus import make_corpus

HowTo = Callable[[PretrainTask, Batch, int], None]
"""breaks a task or a batch before a step"""
HEALTHY = Vitals(loss=3.0, accuracy=0.3, code_share=0.8, gradient_norm=1.0, loss_scale=None, feature_std=1.0,
                 hidden_share=0.4, wave_variation=0.1)  # fmt: skip
FLAT = replace(HEALTHY, feature_std=0.02)
SILENT = replace(FLAT, wave_variation=5e-5)
"""silence with a click"""


def watch_of(stem: bool = True, kind: str = "gumbel", healthy: int = 40) -> Watch:
    watch = Watch(healthy_bands(GuardSettings(), kind, 1 / 51, 1000, stem=stem))
    for step in range(1, healthy + 1):
        assert judged(watch, HEALTHY, step) is None
    return watch


def judged(watch: Watch, vitals: Vitals, step: int) -> Breach | None:
    return watch.batch(vitals, step) or watch.run(vitals, step)


def batch_of(wave_BS: torch.Tensor, lengths: list[int]) -> Batch:
    lengths_B = torch.tensor(lengths)
    nothing_B = torch.zeros_like(lengths_B)
    return Batch(0, wave_BS, lengths_B, nothing_B, nothing_B, None, None, ())


# -- The wave's own variation ----------------------------------------------------------------------------------------------


def test_a_click_in_silence_hardly_varies_and_padding_does_not_count() -> None:
    wave_BS = torch.zeros(2, 16_000)
    wave_BS[:, 4000] = 0.9
    assert float(wave_variation(batch_of(wave_BS, [16_000, 16_000]))) < 2e-4
    assert (
        float(wave_variation(batch_of(torch.full((2, 16_000), 0.7), [16_000, 16_000]))) < 1e-6
    )  # clipped to a constant
    noise_BS = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(1))
    whole = float(wave_variation(batch_of(noise_BS, [16_000, 16_000])))
    padded_BS = torch.cat([noise_BS, torch.zeros(2, 48_000)], dim=1)
    assert float(wave_variation(batch_of(padded_BS, [16_000, 16_000]))) == pytest.approx(whole)


# -- The watch alone -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gumbel", "kmeans"])
def test_flat_features_of_lively_audio_are_a_dead_stem(kind: str) -> None:
    watch = watch_of(kind=kind)
    found = [(step, breach) for step in range(41, 150) if (breach := judged(watch, FLAT, step))]
    assert [breach.action for _, breach in found[:3]] == ["cut the rate", "roll back", "roll back"]
    assert found[0][0] == 50 and found[1][0] == 50 + EFFECT_STEPS  # ten steps in a row, then time to work
    assert all("the stem has died" in breach.says for _, breach in found)


def test_what_is_flat_for_long_does_not_become_the_measure() -> None:
    watch = watch_of()
    for step in range(41, 400):
        judged(watch, FLAT, step)
    assert watch.illness() is not None


def test_flat_features_of_still_audio_are_silence() -> None:
    watch = watch_of()
    for step in range(41, 141):
        breach = judged(watch, SILENT, step)
        assert breach is not None and breach.action == "skip" and "nor does the audio" in breach.says
    assert judged(watch, HEALTHY, 141) is None
    assert watch.illness() is None


def test_a_few_steps_of_a_steady_tone_are_neither() -> None:
    watch = watch_of()
    for step in range(41, 49):
        assert judged(watch, FLAT, step) is None
    assert judged(watch, HEALTHY, 49) is None and watch.well


def test_features_that_are_not_learned_cannot_die() -> None:
    watch = watch_of(stem=False)
    for step in range(41, 141):
        breach = judged(watch, FLAT, step)  # a steady tone has flat log-mel features
        assert breach is not None and breach.action == "skip"
    assert watch.illness() is None


def test_the_watch_goes_on_from_its_state_with_a_dead_stem() -> None:
    steps = [(step, FLAT if 60 < step < 120 else SILENT if step > 150 else HEALTHY) for step in range(1, 200)]
    whole, first = (Watch(healthy_bands(GuardSettings(), "gumbel", 1 / 51, 1000)) for _ in range(2))
    expected = [judged(whole, vitals, step) for step, vitals in steps]
    found = [judged(first, vitals, step) for step, vitals in steps[:80]]
    second = Watch(whole.bands)
    second.restore(first.state())
    assert found + [judged(second, vitals, step) for step, vitals in steps[80:]] == expected
    assert any(breach is not None and breach.action == "roll back" for breach in expected)


# -- In a run --------------------------------------------------------------------------------------------------------------


class Plant(Callback):
    """Before each step: ``plant(task, batch, step)``."""

    def __init__(self, plant: HowTo) -> None:
        self.plant = plant

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.plant(pl_module, batch, trainer.global_step)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("stem") / "corpus", sentences=18)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Callable[[HowTo], None]:
    def plant(how: HowTo) -> None:
        real = fit_module.fit

        def with_plant(task: Any, run: Any, train: Any, valid: Any, extra: list[Callback]) -> None:
            real(task, run, train, valid, [Plant(how), *extra])

        monkeypatch.setattr(fit_module, "fit", with_plant)

    return plant


def tiny(corpus: Path, steps: int, **changes: Any) -> PretrainSettings:
    settings = PretrainSettings(
        data=DataSettings(corpus=[str(corpus)], max_s=2.0, workers=0),
        model=EncoderShape(stem=[[16, 20, 10], [32, 8, 8], [64, 8, 8]], width=32, layers=1, heads=2, feedforward=64, norm="pre",
                           position="rotary", dropout=0.0, attention_dropout=0.0, layerdrop=0.0),
        quantizer=ContrastiveShape(codebooks=2, entries=16, code_width=16, final_width=16),
        mask=MaskSettings(coverage=0.4, span=3),
        objective=ObjectiveSettings(distractors=10),
        batch=BatchSettings(hours=4 / 3600, micro_s=4.0),
        optim=OptimSettings(lr=5e-4),
        schedule=ScheduleSettings(steps=steps),
        log=LogSettings(every=10, valid_every=steps, checkpoint_every=10),
    )  # fmt: skip
    return replace(settings, **changes)


def kill_stem(task: PretrainTask) -> None:
    with torch.no_grad():
        for name, parameter in task.encoder.frontend.named_parameters():
            if name.startswith("layers.2."):
                parameter.zero_()


def test_a_dead_stem_is_brought_back(corpus: Path, tmp_path: Path, planted: Callable[[HowTo], None]) -> None:
    def plant(task: PretrainTask, batch: Batch, step: int) -> None:
        if 30 <= step < 66:  # as long as the rate is merely cut
            kill_stem(task)

    planted(plant)
    pretrain(tiny(corpus, 80), tmp_path / "run")
    lines = [line for line in read_record(tmp_path / "run") if line["vital"] == "feature_std"]
    assert [line["action"] for line in lines] == ["cut the rate", "roll back"]
    assert "though the audio does: the stem has died" in lines[0]["says"]
    assert (tmp_path / "run" / FINISHED).exists()


def test_a_run_that_ends_ill_is_stopped_and_is_not_finished_by_asking_again(
    corpus: Path, tmp_path: Path, planted: Callable[[HowTo], None]
) -> None:
    planted(lambda task, batch, step: kill_stem(task) if step >= 30 else None)
    for _ in range(2):  # the second time from the last checkpoint on
        with pytest.raises(
            GuardStopped, match=r"step 55: .*the stem has died, and the run ends here; .*lower --optim.lr"
        ):
            pretrain(tiny(corpus, 55), tmp_path / "run")
        assert not (tmp_path / "run" / FINISHED).exists() and not (tmp_path / "run" / "encoder").exists()
    assert [line["action"] for line in read_record(tmp_path / "run")] == ["cut the rate", "stop"]


def test_a_run_that_ends_in_silence_says_so(
    corpus: Path,
    tmp_path: Path,
    planted: Callable[[HowTo], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def plant(task: PretrainTask, batch: Batch, step: int) -> None:
        if step >= 30:
            batch.wave_BS.fill_(0.9)  # clipped to a constant

    planted(plant)
    pretrain(tiny(corpus, 45), tmp_path / "run")
    lines = read_record(tmp_path / "run")
    assert [line["action"] for line in lines] == ["skip"] * 15 + ["tell"]
    assert "the last 15 batches were skipped and not trained on" in capsys.readouterr().err
    assert (tmp_path / "run" / FINISHED).exists()


def test_a_healthy_run_on_waves_is_the_same_with_and_without_guard(corpus: Path, tmp_path: Path) -> None:
    pretrain(tiny(corpus, 30), tmp_path / "with")
    pretrain(tiny(corpus, 30, guard=GuardSettings(enabled=False)), tmp_path / "without")
    assert read_record(tmp_path / "with") == []
    found, expected = (newest_checkpoint(tmp_path / name) for name in ("with", "without"))
    assert found is not None and expected is not None
    for name, weight in expected[1]["state_dict"].items():
        assert torch.equal(weight, found[1]["state_dict"][name]), name
