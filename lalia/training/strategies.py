"""Strategies: one device, DDP, or ZeRO by DeepSpeed (``zero.py``), and whether this machine can do what was asked for."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, Strategy

from lalia.exits import UserError
from lalia.training.precision import Float16, ShardedPrecision
from lalia.training.settings import HardwareSettings
from lalia.training.zero import DeepSpeedZero

BUCKET = 50_000_000
"""Numbers that ZeRO sends at a time."""
COMPILERS = ("c++", "g++", "clang++")
"""of which torch.compile needs one on a CPU"""


def check_hardware(hardware: HardwareSettings) -> None:
    """A ``UserError`` where this machine cannot do what ``hardware`` asks for."""
    gpus = torch.cuda.device_count()
    if hardware.devices < 1 or hardware.nodes < 1:
        raise UserError(
            f"hardware.devices {hardware.devices}, hardware.nodes {hardware.nodes}: expected at least 1 of each"
        )
    if gpus and hardware.devices > gpus:
        raise UserError(f"hardware.devices {hardware.devices}: this machine has {gpus}; lower it, or start more nodes")
    if gpus and hardware.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        raise UserError(f"hardware.precision bf16: {name} has no bfloat16 arithmetic; take fp16 or fp32")
    if gpus and hardware.precision == "fp16" and torch.cuda.get_device_capability() < (5, 3):
        name = torch.cuda.get_device_name()
        raise UserError(f"hardware.precision fp16: {name} has no float16 arithmetic; take fp32")
    if hardware.precision == "fp16" and not gpus and device_type() != "cpu":
        raise UserError(f"hardware.precision fp16: not on {device_type()}; take bf16 or fp32")
    if hardware.compile:
        if hardware.strategy.startswith("zero3"):
            raise UserError(
                f"hardware.compile: not with {hardware.strategy}, which gathers a block's weights as it runs; take zero2"
            )
        if device_type() == "cpu" and not any(map(shutil.which, COMPILERS)):
            raise UserError("hardware.compile: no C++ compiler found; install one (g++), or leave it off")
    if hardware.strategy.startswith("zero"):
        if device_type() == "mps":
            raise UserError(f"hardware.strategy {hardware.strategy}: DeepSpeed does not run on mps; take auto")
        if device_type() == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it warns where it has to find that out
        try:
            import deepspeed  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"hardware.strategy {hardware.strategy} needs DeepSpeed ({error}); pip install 'lalia[train]'"
            ) from error


def device_type() -> str:
    """What runs train on here: cuda, mps or cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def make_strategy(hardware: HardwareSettings, parameters: int) -> tuple[Strategy | str, Precision]:
    """What Lightning's Trainer needs to run a model of ``parameters`` numbers as ``hardware`` says."""
    check_hardware(hardware)
    if hardware.strategy.startswith("zero"):
        config = zero_config(hardware.strategy, hardware.precision, parameters)
        return DeepSpeedZero(config), ShardedPrecision(hardware.precision == "fp16")
    precision: Precision = Precision()
    if hardware.precision == "bf16":
        precision = MixedPrecision("bf16-mixed", device_type())
    elif hardware.precision == "fp16":
        precision = Float16(device_type())
    if hardware.ranks == 1:
        return "auto", precision
    # Weights without a gradient are the rule while fine-tuning's encoder is frozen. Buffers are constants.
    return DDPStrategy(find_unused_parameters=True, broadcast_buffers=False), precision


def zero_config(strategy: str, precision: str, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration for ``strategy`` (zero1 … zero3-offload); Lightning adds clipping and accumulation."""
    name, _, offload = strategy.partition("-")
    stage = int(name.removeprefix("zero"))
    zero: dict[str, Any] = {
        "stage": stage, "contiguous_gradients": True, "overlap_comm": device_type() != "cpu",
        "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET,
    }  # fmt: skip
    pinned = {"device": "cpu", "pin_memory": device_type() == "cuda"}
    if stage == 3:
        # Smaller tensors stay whole on every rank: gathering them costs more than they weigh.
        zero["stage3_param_persistence_threshold"] = min(100_000, parameters // 1000)
        if offload:
            zero["offload_param"] = pinned
    if offload:
        zero["offload_optimizer"] = pinned
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1, "zero_optimization": zero,
        # torch's AdamW, as everywhere else: the same update on every strategy.
        "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
    }  # fmt: skip
    if precision != "fp32":
        dtype = {"bf16": "bfloat16", "fp16": "float16"}[precision]
        # No module's gradients travel in half precision: sums over ranks are those of one process.
        config["torch_autocast"] = {"enabled": True, "dtype": dtype, "lower_precision_safe_modules": []}
    return config
