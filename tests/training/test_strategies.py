"""Strategies: DeepSpeed accepts what is generated, ranks are known from the environment, impossible hardware is refused."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch._subclasses import FakeTensorMode

from lalia.errors import UserError
from lalia.scoring.rates import ErrorCounts
from lalia.training import distributed
from lalia.training.distributed import check_hardware, make_strategy, precision_of, zero_config
from lalia.training.settings import HardwareSettings, RunSettings
from lalia.training.trainer import adamw, parameter_groups

LAUNCHERS = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "GROUP_RANK", "LOCAL_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("strategy", ["zero1", "zero2", "zero3", "zero2-offload", "zero3-offload"])
def test_deepspeed_accepts_the_configuration(strategy: str, precision: str) -> None:
    from deepspeed.runtime.config import DeepSpeedConfig

    hardware = HardwareSettings(strategy=strategy, precision=precision)  # type: ignore[arg-type]
    found = DeepSpeedConfig(zero_config(hardware, 10_000_000) | {"gradient_accumulation_steps": 1})
    assert found.zero_optimization_stage == int(strategy[4])
    assert (found.zero_config.offload_optimizer is not None) == strategy.endswith("offload")
    assert (found.zero_config.offload_param is not None) == (strategy == "zero3-offload")
    assert found.torch_autocast_enabled == (precision != "fp32")
    if precision != "fp32":
        assert found.torch_autocast_dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    # The weights stay float32: DeepSpeed's own half-precision modes are off.
    assert not found.float16_config.enabled and not found.bfloat16_config.enabled


def test_small_models_are_sharded_too() -> None:
    zero3 = HardwareSettings(strategy="zero3")
    assert zero_config(zero3, 50_000)["zero_optimization"]["stage3_param_persistence_threshold"] == 50
    assert zero_config(zero3, 10**9)["zero_optimization"]["stage3_param_persistence_threshold"] == 100_000


def test_hardware_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    check_hardware(HardwareSettings(devices=64))  # processes of a CPU: any number
    with pytest.raises(UserError, match=r"hardware\.devices 0"):
        check_hardware(HardwareSettings(devices=0))
    with pytest.raises(UserError, match=r"hardware\.device cuda: .*; use --hardware\.device auto"):
        check_hardware(HardwareSettings(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_hardware(HardwareSettings(device="cpu", devices=64))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (5, 2))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UserError, match=r"hardware\.devices 3: this machine has 2"):
        check_hardware(HardwareSettings(devices=3))
    with pytest.raises(UserError, match="fp16: Old GPU has no float16 arithmetic; use fp32"):
        check_hardware(HardwareSettings(precision="fp16"))
    with pytest.raises(UserError, match="bf16: Old GPU has no bfloat16 arithmetic"):
        check_hardware(HardwareSettings(precision="bf16"))


def test_compiling_needs_a_compiler_and_whole_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"not with zero3.*use zero2"):
        check_hardware(HardwareSettings(compile=True, strategy="zero3"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match="no C\\+\\+ compiler"):
        check_hardware(HardwareSettings(compile=True))


def test_float16_and_deepspeed_are_not_for_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match="fp16: not on mps"):
        check_hardware(HardwareSettings(device="mps", precision="fp16"))
    with pytest.raises(UserError, match="DeepSpeed does not run on mps"):
        check_hardware(HardwareSettings(device="mps", strategy="zero2"))
    assert distributed.device_type(HardwareSettings()) == "cpu"  # torch has no CTC on mps


def test_the_rank_comes_from_who_started_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    two = HardwareSettings(devices=2, nodes=2)
    assert distributed.rank(two) == 0 and distributed.is_rank_zero(two)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("NODE_RANK", "1")
    assert distributed.rank(two) == 3 and not distributed.is_rank_zero(two)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert distributed.rank(two) == 2
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        UserError, match=r"torchrun started 3 processes, expected hardware\.devices 2 × hardware\.nodes 2"
    ):
        distributed.rank(two)


def test_held_out_batches_are_shared_where_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")

    def make(batches: int):
        return lambda ranks, rank: list(range(batches))[rank::ranks]

    assert distributed.shard_loader(make(5), HardwareSettings(devices=2)) == [1, 3]
    assert distributed.shard_loader(make(1), HardwareSettings(devices=2)) == [0]
    assert distributed.shard_loader(make(5), HardwareSettings(devices=2, strategy="zero3")) == [0, 1, 2, 3, 4]


def test_sums_of_one_rank_are_its_own() -> None:
    assert distributed.all_reduce_errors(ErrorCounts(1, 2, 3, 10), torch.device("cpu")) == ErrorCounts(1, 2, 3, 10)
    assert distributed.all_reduce_sum(torch.tensor([1, 2])).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("capability", "bf16", "precision"), [((8, 0), True, "bf16"), ((7, 0), False, "fp16"), ((5, 2), False, "fp32")]
)
def test_auto_takes_the_fastest_precision_of_the_device(
    capability: tuple[int, int], bf16: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert precision_of(HardwareSettings()) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert precision_of(HardwareSettings()) == precision
    assert precision_of(HardwareSettings(device="cpu")) == "fp32"
    assert precision_of(HardwareSettings(precision="fp32")) == "fp32"


def test_tensor_float_32_is_for_cuda_alone() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        distributed.set_arithmetic(HardwareSettings(device="cpu"))
        assert torch.get_float32_matmul_precision() == before == "highest"
        distributed.set_arithmetic(HardwareSettings(device="cuda"))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("device", "precision", "fused"),
    [("cuda", "bf16", True), ("cuda", "fp32", True), ("cuda", "fp16", None), ("cpu", "fp32", None)],
)
def test_adamw_is_fused_on_cuda(device: str, precision: str, fused: bool | None) -> None:
    settings = RunSettings(hardware=HardwareSettings(device=device, precision=precision))  # type: ignore[arg-type]
    with FakeTensorMode():
        module = torch.nn.ParameterList([torch.empty(4, 4, device=device), torch.empty(4, device=device)])
        made = adamw(parameter_groups(module, 1e-3), settings)["optimizer"]
    assert made.defaults["fused"] is fused


def test_ddp_searches_for_unused_parameters_only_where_there_are_some() -> None:
    for unused in (False, True):
        strategy, _ = make_strategy(HardwareSettings(devices=2), 1000, unused)
        assert isinstance(strategy, DDPStrategy)
        assert strategy._ddp_kwargs == {
            "find_unused_parameters": unused, "gradient_as_bucket_view": True, "broadcast_buffers": False,
        }  # fmt: skip
