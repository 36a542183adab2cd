"""The guard: leaves healthy runs alone, mends what was planted, says what it did, and goes on after a resume as if unbroken."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lalia.data.loader import Batch
from lalia.errors import GuardStopped
from lalia.models.quantizer import ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.training import Callback
from lalia.training.settings import BatchSettings, DataSettings, LogSettings, OptimSettings, ScheduleSettings
from lalia.training.trainer import newest_checkpoint
from pretrain import fit as fit_module
from pretrain.bands import EFFECT_STEPS, GuardSettings, Vitals, Watch, healthy_bands
from pretrain.config import ObjectiveSettings, PretrainSettings
from pretrain.fit import pretrain
from pretrain.guard import Guard, read_record
from pretrain.task import BatchStats, PretrainTask
from tests.tiny_corpus import make_corpus

HEALTHY = Vitals(loss=3.0, accuracy=0.3, code_share=0.8, gradient_norm=1.0, loss_scale=None, feature_std=1.0,
                 hidden_share=0.4, wave_variation=0.1)  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("guard") / "corpus")


def tiny(corpus: Path, steps: int = 12, **changes: object) -> PretrainSettings:
    settings = PretrainSettings(
        join_s=3.0,
        data=DataSettings(corpus=[str(corpus)], max_s=3.0, workers=0),
        model=EncoderShape(input="logmel", width=32, layers=2, heads=2, feedforward=64, block="convolutional",
                           block_kernel=5, position="rotary", dropout=0.1, layerdrop=0.0),
        quantizer=ContrastiveShape(codebooks=2, entries=16, code_width=16, final_width=16),
        objective=ObjectiveSettings(distractors=10),
        batch=BatchSettings(hours=12 / 3600, micro_s=6.0),
        optim=OptimSettings(lr=1e-3),
        schedule=ScheduleSettings(steps=steps),
        log=LogSettings(every=1, valid_every=steps, checkpoint_every=4),
    )  # fmt: skip
    return replace(settings, **changes)  # type: ignore[arg-type]


def weights(run: Path) -> dict[str, torch.Tensor]:
    found = newest_checkpoint(run)
    assert found is not None
    return found[1]["state_dict"]


class Poison(Callback):
    """Breaks the waves of chosen micro-batches."""

    def __init__(self, numbers: set[int], value: float) -> None:
        self.numbers, self.value = numbers, value

    def on_train_batch_start(self, trainer: object, pl_module: object, batch: Batch, batch_idx: int) -> None:
        if batch.number in self.numbers:
            batch.wave_BS.fill_(self.value)


def with_callback(monkeypatch: pytest.MonkeyPatch, callback: Callback) -> None:
    real = fit_module.fit

    def fit(task: Any, run: Any, train: Any, valid: Any, extra: list[Callback]) -> None:
        real(task, run, train, valid, [callback, *extra])

    monkeypatch.setattr(fit_module, "fit", fit)


# -- The watch alone -------------------------------------------------------------------------------------------------------


def bands(kind: str = "gumbel") -> tuple:
    return healthy_bands(GuardSettings(), kind, 1 / 51, 1000)


def test_a_healthy_run_is_never_touched() -> None:
    watch = Watch(bands())
    for step in range(1, 600):
        # norms of real runs move within a factor of a few
        vitals = replace(HEALTHY, gradient_norm=1.0 + 0.9 * math.sin(step), accuracy=min(0.3, 0.02 + step / 2000))
        assert watch.batch(vitals, step) is None
        assert watch.run(vitals, step) is None


def test_measures_go_from_mild_to_strong_with_time_between() -> None:
    watch = Watch(bands())
    dying = replace(HEALTHY, code_share=0.02)
    taken = []
    for step in range(50, 400):
        assert watch.batch(dying, step) is None
        breach = watch.run(dying, step)
        if breach is not None:
            taken.append((step, breach.action))
    # Each roll back goes further back at half the rate; how many a run may take is for the guard to count.
    assert [action for _, action in taken[:5]] == [
        "revive",
        "raise diversity",
        "cut the rate",
        "roll back",
        "roll back",
    ]
    assert all(later - earlier >= EFFECT_STEPS for (earlier, _), (later, _) in pairwise(taken))


def test_a_mended_band_begins_again_with_the_mildest_measure() -> None:
    watch = Watch(bands())
    dying = replace(HEALTHY, code_share=0.02)

    def first_measure(begin: int) -> str:
        return next(b.action for b in (watch.run(dying, step) for step in range(begin, begin + 200)) if b)

    assert first_measure(50) == "revive"
    for step in range(250, 400):
        watch.run(HEALTHY, step)
    assert first_measure(400) == "revive"


def test_kmeans_has_no_codes_to_mend() -> None:
    assert not any(band.vital == "code_share" for band in bands("kmeans"))
    assert not any("raise diversity" in band.ladder for band in bands("kmeans"))


def test_codes_that_die_in_every_batch_are_seen_while_weights_swing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a high rate each step's frames choose one code, and the next step's another: over ten steps that looks like variety."""
    monkeypatch.setattr("lalia.training.interventions.gradient_norm", lambda *_: torch.tensor(1.0))
    guard, one = Guard(GuardSettings(), tmp_path), torch.tensor(1.0)
    trainer: Any = SimpleNamespace(accumulate_grad_batches=1, world_size=1, strategy=None)
    task: Any = SimpleNamespace(settings=PretrainSettings(), head=SimpleNamespace(shape=ContrastiveShape(entries=16)))
    for step in range(40):
        used_GV = torch.zeros(2, 16)
        used_GV[:, step % 16] = 100
        guard._stats = [(one, BatchStats(one, 100 * one, 200 * one, one, one, used_GV, torch.zeros(1, 4)))]
        share = guard._vitals_of(guard._pack(trainer, task), trainer, task).code_share
    assert share == pytest.approx(1 / 16, rel=0.01)


def test_what_was_usual_before_a_roll_back_is_no_measure_behind_it() -> None:
    watch = Watch(bands())
    for step in range(1, 60):
        assert watch.batch(replace(HEALTHY, gradient_norm=0.1), step) is None
    watch.rolled_back(60)
    for step in range(60, 120):  # the weights of an early step, whose gradients are larger
        assert watch.batch(replace(HEALTHY, gradient_norm=9.0), step) is None


def test_a_diversity_weight_of_nothing_is_not_raised() -> None:
    """Four times nothing would pass for a measure and change none of the weights."""
    ladders = [band.ladder for band in healthy_bands(GuardSettings(), "gumbel", 1 / 51, 1000, diversity=False)]
    assert not any("raise diversity" in ladder for ladder in ladders)
    assert ("revive", "cut the rate", "roll back", "stop") in ladders


def test_a_spike_is_measured_against_the_run_itself() -> None:
    watch = Watch(bands())
    for step in range(1, 40):
        assert watch.batch(replace(HEALTHY, gradient_norm=0.01), step) is None
    breach = watch.batch(replace(HEALTHY, gradient_norm=1.0), 40)
    assert breach is not None and breach.action == "skip"
    assert watch.batch(replace(HEALTHY, gradient_norm=0.02), 41) is None


def test_no_gradient_norm_where_the_hardware_hides_it() -> None:
    watch = Watch(bands())
    assert watch.batch(replace(HEALTHY, gradient_norm=None, code_share=None), 5) is None


def test_the_watch_goes_on_from_its_state() -> None:
    whole, first = Watch(bands()), Watch(bands())
    dying = replace(HEALTHY, code_share=0.02)
    steps = [(step, dying if step % 60 > 20 else HEALTHY) for step in range(1, 240)]
    expected = [(whole.batch(v, s), whole.run(v, s)) for s, v in steps]
    found = [(first.batch(v, s), first.run(v, s)) for s, v in steps[:100]]
    second = Watch(bands())
    second.restore(first.state())
    found += [(second.batch(v, s), second.run(v, s)) for s, v in steps[100:]]
    assert found == expected


# -- In a run --------------------------------------------------------------------------------------------------------------


def test_with_and_without_guard_a_healthy_run_is_the_same(corpus: Path, tmp_path: Path) -> None:
    pretrain(tiny(corpus), tmp_path / "with")
    pretrain(tiny(corpus, guard=GuardSettings(enabled=False)), tmp_path / "without")
    assert read_record(tmp_path / "with") == []
    for name, weight in weights(tmp_path / "without").items():
        assert torch.equal(weight, weights(tmp_path / "with")[name]), name
    # Of a finished run only the newest two stay.
    assert sorted(path.name for path in (tmp_path / "with" / "checkpoints").iterdir()) == [
        "step00000008.ckpt",
        "step00000012.ckpt",
    ]


def test_a_poisoned_batch_is_left_out(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    with_callback(monkeypatch, Poison({9}, math.nan))
    pretrain(tiny(corpus), tmp_path / "run")
    [line] = read_record(tmp_path / "run")
    assert (line["step"], line["vital"], line["action"]) == (4, "loss", "skip")
    assert "guard: step 4: the loss is not finite; this batch is skipped" in capsys.readouterr().err
    assert all(bool(torch.isfinite(weight).all()) for weight in weights(tmp_path / "run").values())


def test_without_guard_the_same_batch_ends_the_run(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_callback(monkeypatch, Poison({9}, math.nan))
    settings = tiny(corpus, guard=GuardSettings(enabled=False))
    try:
        pretrain(settings, tmp_path / "run")
    except Exception:
        return  # whatever NaN weights lead to
    assert not all(bool(torch.isfinite(weight).all()) for weight in weights(tmp_path / "run").values())


def test_broken_weights_are_rolled_back_and_the_rate_is_cut(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Break(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            if trainer.global_step == 6 and pl_module.diversity_factor == 1.0 and not getattr(self, "done", False):
                self.done = True
                pl_module.encoder.projection.weight.data.fill_(math.inf)

    with_callback(monkeypatch, Break())
    pretrain(tiny(corpus), tmp_path / "run")
    [line] = read_record(tmp_path / "run")
    assert line["action"] == "roll back" and line["rate_factor"] == 0.5
    assert "restored from step 4" in line["says"]
    assert all(bool(torch.isfinite(weight).all()) for weight in weights(tmp_path / "run").values())


def test_what_cannot_be_mended_is_stopped_with_advice(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_callback(monkeypatch, Poison(set(range(10, 200)), math.nan))
    with pytest.raises(GuardStopped, match=r"not finite, and no intervention helped; .*lower --optim.lr"):
        pretrain(tiny(corpus, steps=60), tmp_path / "run")
    assert GuardStopped.status == 3
    actions = [line["action"] for line in read_record(tmp_path / "run")]
    assert actions[-1] == "stop" and "roll back" in actions


def test_dead_codes_are_revived_in_a_run(corpus: Path, tmp_path: Path) -> None:
    task = None

    class Kill(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            nonlocal task
            task = pl_module
            if batch_idx == 2 * 45:
                pl_module.head.code_logits.bias.data.view(2, 16)[:, 0] = 1000.0  # one code wins everything
                pl_module.head.code_logits.bias.data.view(2, 16)[:, 1:] = 0.0

    settings = tiny(corpus, steps=150, guard=GuardSettings(code_share=0.2))
    with pytest.MonkeyPatch.context() as monkeypatch:
        with_callback(monkeypatch, Kill())
        pretrain(settings, tmp_path / "run")
    lines = read_record(tmp_path / "run")
    assert lines and lines[0]["action"] == "revive" and "dead codes start again" in lines[0]["says"]
    assert isinstance(task, PretrainTask)


def test_measures_survive_a_resume(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny(corpus)

    class Stop(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            if trainer.global_step == 10:
                raise RuntimeError("killed")

    # Eight poisoned batches are left out, the ninth brings the roll back and the cut: steps 1 to 9, two micro-batches each.
    with_callback(monkeypatch, Poison(set(range(2, 20)), math.nan))
    pretrain(settings, tmp_path / "unbroken")
    with monkeypatch.context() as inner:
        with_callback(inner, Stop())
        with pytest.raises(RuntimeError, match="killed"):
            pretrain(tiny(corpus), tmp_path / "broken")
    pretrain(tiny(corpus), tmp_path / "broken")
    assert read_record(tmp_path / "broken") == read_record(tmp_path / "unbroken")
    assert read_record(tmp_path / "unbroken")[-1]["rate_factor"] == 0.5
    for name, weight in weights(tmp_path / "unbroken").items():
        assert torch.equal(weight, weights(tmp_path / "broken")[name]), name
