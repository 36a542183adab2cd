"""Plans: memory is what the whole model's passes hold, batches keep their hours on any hardware, and what cannot fit is said."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch._subclasses import FakeTensor

from lalia.errors import UserError
from lalia.models.quantizer import ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.training.settings import BatchSettings, DataSettings, HardwareSettings, ScheduleSettings
from pretrain import memory as memory_module
from pretrain import plan as plan_module
from pretrain.config import ObjectiveSettings
from pretrain.memory import GB, Footprint, LiveBytes, Peak, machine_bytes, noise, peak_bytes, predict, trace
from pretrain.plan import HEADROOM, PlanRequest, PlanSettings, check_memory, plan, solve
from pretrain.task import PretrainTask
from tests.tiny_corpus import make_corpus

LOGMEL = EncoderShape(input="logmel", width=32, layers=5, heads=2, feedforward=64, block="convolutional", block_kernel=5,
                      position="rotary")  # fmt: skip
WAVE = EncoderShape(stem=[[16, 10, 5], [32, 8, 8], [32, 4, 4], [32, 4, 4]], width=32, layers=4, heads=2, feedforward=64,
                    position_groups=4, position_kernel=9)  # fmt: skip


def peaks(plain: Peak, *again: Peak) -> Callable[[bool], tuple[Peak, ...]]:
    return lambda asked: again if asked else (plain,)


MILLION = Footprint(parameters=1_000_000, clip_s=10.0, peaks=peaks(Peak(0.0, 12e6), Peak(0.0, 4e6), Peak(0.0, 3e6)))


def request(shape: EncoderShape, **changes: object) -> PlanRequest:
    settings = PlanRequest(
        data=DataSettings(max_s=4.0, workers=0),
        model=shape,
        quantizer=ContrastiveShape(entries=16, code_width=16, final_width=16),
        objective=ObjectiveSettings(distractors=10),
        batch=BatchSettings(hours=32 / 3600, micro_s=8.0),
        schedule=ScheduleSettings(steps=100),
    )
    return replace(settings, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [LOGMEL, WAVE], ids=["logmel", "wave"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_what_is_predicted_is_what_the_whole_model_holds(shape: EncoderShape, precision: str, again: bool) -> None:
    hardware = HardwareSettings(precision=precision, checkpointing=again)  # type: ignore[arg-type]
    settings = request(replace(shape, layerdrop=0.0, layers=9), hardware=hardware)
    footprint = trace(settings)
    task = PretrainTask(settings).train()
    held = max(peak_bytes(task, noise(task.settings, 3, 4.0)))
    assert footprint.activation_bytes(12.0, again) == pytest.approx(held, rel=0.05)
    assert footprint.parameters == sum(weight.numel() for weight in task.parameters())
    assert footprint.buffers == sum(table.nbytes for table in task.buffers())
    assert footprint.peaks(True)[1].per_clip < 0.7 * footprint.peaks(False)[1].per_clip  # in the blocks


def test_what_passes_by_is_counted_until_it_is_let_go() -> None:
    weight = torch.ones(1000)
    with LiveBytes([weight]) as live:
        doubled = weight * 2
        passing = doubled.view(10, 100) + 1
        del passing
        live.mark()
        doubled.add_(weight).sum()
    assert live.peaks == [8000, 4004]


def test_base_is_traced_in_five_seconds_without_computing_it() -> None:
    """Its passes would take 40 GFLOP and a gigabyte."""
    begun = time.thread_time()
    footprint = trace(PlanRequest())
    assert footprint.activation_bytes(80.0) > 1 * GB
    assert time.thread_time() - begun < 5.0
    task = memory_module._shallow(PlanRequest(), 1, False)
    assert all(isinstance(tensor, FakeTensor) for tensor in (*task.parameters(), *task.buffers()))


def test_on_a_gpu_attention_keeps_no_weights() -> None:
    on_gpu = request(LOGMEL, hardware=HardwareSettings(device="cuda", precision="fp32"))
    assert trace(on_gpu).peaks(False)[1].per_clip < trace(request(LOGMEL)).peaks(False)[1].per_clip


def test_the_free_memory_is_that_of_the_device_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def free_and_total(device: torch.device) -> tuple[float, float]:
        asked.append(device)
        return 80 * GB, 96 * GB

    monkeypatch.setattr(torch.cuda, "mem_get_info", free_and_total)
    assert machine_bytes(HardwareSettings(device="cuda", devices=8)) == 80 * GB
    assert asked == [torch.device("cuda", 0)]
    alone, shared = (machine_bytes(HardwareSettings(device="cpu", devices=devices)) for devices in (1, 4))
    assert shared == pytest.approx(alone / 4, rel=0.2) and len(asked) == 1


def test_a_gpu_that_is_not_here_is_planned_for_with_its_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = request(LOGMEL, plan=PlanSettings(devices=8), hardware=HardwareSettings(device="cuda"))
    settings.data.corpus = [str(make_corpus(tmp_path / "corpus"))]
    with pytest.raises(UserError, match=r"--plan\.memory_gb is missing: this machine has no cuda"):
        plan(settings)
    settings.plan.memory_gb = 24.0
    plan(settings, Console(width=160))
    said = capsys.readouterr().out
    assert "8, 24.0 GB each (as given)" in said and "not measured" in said


def test_zero_stages_share_out_one_part_after_the_other() -> None:
    totals = [predict(MILLION, 10.0, stage, 4).total for stage in range(4)]
    assert totals == sorted(totals, reverse=True)
    whole, shared = predict(MILLION, 10.0, 0, 4), predict(MILLION, 10.0, 3, 4)
    assert (whole.weights, whole.gradients, whole.optimizer) == (4e6, 4e6, 8e6)
    assert (shared.weights, shared.gradients, shared.optimizer) == (1e6, 1e6, 2e6)
    assert whole.activations == shared.activations == 12e6


@pytest.mark.parametrize("ranks", [1, 2, 7, 64])
def test_the_batch_stays_the_same_on_any_hardware(ranks: int) -> None:
    cut = solve(MILLION, 5760.0, 80.0, ranks, 8 * GB)
    assert cut.micro_s * cut.accumulation * ranks == pytest.approx(5760.0)
    assert cut.micro_s <= cut.largest_s


def test_a_micro_batch_that_does_not_fit_is_made_smaller_and_accumulated() -> None:
    cut = solve(MILLION, 800.0, 800.0, 1, 0.2 * GB)
    assert cut.memory.total <= HEADROOM * 0.2 * GB
    assert cut.accumulation > 1 and cut.micro_s * cut.accumulation == pytest.approx(800.0)


def test_the_lowest_stage_that_fits_is_taken() -> None:
    heavy = replace(MILLION, parameters=1_000_000_000)
    assert solve(heavy, 800.0, 80.0, 8, 24 * GB).strategy == "none"
    assert solve(heavy, 800.0, 80.0, 8, 12 * GB).strategy == "zero1"
    assert solve(heavy, 800.0, 80.0, 8, 7 * GB).strategy == "zero2"
    assert solve(heavy, 800.0, 80.0, 8, 3 * GB).strategy == "zero3"


def test_activations_are_computed_again_only_where_nothing_else_fits() -> None:
    deep = replace(MILLION, peaks=peaks(Peak(0.0, 102e6), Peak(0.0, 13e6)))
    assert not solve(deep, 100.0, 10.0, 1, 0.2 * GB).checkpointing
    assert solve(deep, 100.0, 10.0, 1, 0.05 * GB).checkpointing
    assert solve(deep, 100.0, 10.0, 1, 0.2 * GB, checkpointing=True).largest_s > 80.0
    assert solve(deep, 100.0, 10.0, 1, 0.2 * GB).largest_s < 20.0


def test_what_cannot_fit_says_what_would() -> None:
    with pytest.raises(
        UserError, match=r"one clip of 10 s needs .* GB on each of 1 devices, which have 0.0 GB; take a"
    ):
        solve(MILLION, 100.0, 10.0, 1, 0.002 * GB)
    long = replace(MILLION, peaks=peaks(Peak(0.0, 1e9), Peak(0.0, 1e9)), clip_s=100.0)
    with pytest.raises(UserError, match=r"--data.max_s \d"):
        solve(long, 100.0, 100.0, 1, 0.5 * GB)


def test_a_run_larger_than_memory_is_refused_with_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = request(replace(LOGMEL, layers=20), batch=BatchSettings(hours=1.0, micro_s=3600.0))
    footprint = trace(settings)
    monkeypatch.setattr(plan_module, "machine_bytes", lambda hardware: footprint.activation_bytes(400.0))
    with pytest.raises(UserError, match=r"batch.micro_s 3600 needs about .*--batch.micro_s 3\d\d fits"):
        check_memory(settings)
    check_memory(request(LOGMEL))
    one_clip = predict(footprint, 4.0, 0, 1, checkpointing=True).total
    monkeypatch.setattr(plan_module, "machine_bytes", lambda hardware: 1.02 * one_clip / HEADROOM)
    with pytest.raises(UserError, match=r"with --hardware\.checkpointing true a smaller --batch\.micro_s would fit"):
        check_memory(settings)


def test_a_run_that_fits_is_traced_only_as_it_will_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes with activation checkpointing cost as much again; what they hold is asked only where there is too little."""
    traced: list[bool] = []

    def passes(task: PretrainTask, clip_s: float, counts: tuple[int, ...], cuda: bool) -> list[tuple[float, ...]]:
        traced.append(task.settings.hardware.checkpointing)
        return [tuple(1e9 * count for count in counts)]

    monkeypatch.setattr(memory_module, "_passes", passes)
    monkeypatch.setattr(plan_module, "machine_bytes", lambda hardware: 100 * GB)
    check_memory(request(LOGMEL))
    assert traced == [False, False]
    check_memory(request(LOGMEL, hardware=HardwareSettings(checkpointing=True)))
    assert traced[2:] == [True, True]
    monkeypatch.setattr(plan_module, "machine_bytes", lambda hardware: 0.1 * GB)
    with pytest.raises(UserError, match="needs about"):
        check_memory(request(LOGMEL))
    assert traced[4:] == [False, False, True, True]


def test_the_plan_counts_the_hours_of_the_corpus_and_those_of_a_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = request(LOGMEL, plan=PlanSettings(memory_gb=2.0, devices=1, measure=False))
    settings.data.corpus, settings.data.max_s = [str(make_corpus(tmp_path / "corpus"))], 1.0
    plan(settings, Console(width=160))
    assert "a pass, cut to data.max_s 1 s" in capsys.readouterr().out


def test_the_whole_plan_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = request(LOGMEL, plan=PlanSettings(memory_gb=2.0, devices=2))
    settings.data.corpus = [str(make_corpus(tmp_path / "corpus"))]
    cut = plan(settings, Console(width=160))
    said = capsys.readouterr().out
    assert cut.accumulation == 2 and cut.micro_s == pytest.approx(8.0)
    for words in ("2, 2.0 GB each (as given)", "weights", "gradients", "optimizer", "activations", "passes over the corpus",
                  "measured here", "learning rate", "not needed", "--batch.micro_s 8 --hardware.devices 2"):  # fmt: skip
        assert words in said, words
