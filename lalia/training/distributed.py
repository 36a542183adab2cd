"""Where and how a run computes: ranks and collectives, precision (fp32, bf16, fp16), and the strategy (one device, DDP, ZeRO).

A run starts its own processes on one machine; torchrun and SLURM start them on one or several. The rank is read from the
environment, so it is known before the processes have met.

Weights, and what the models keep out of autocast, are float32 under every strategy and precision.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sized
from dataclasses import astuple
from typing import Any, NoReturn, TypeVar

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import DeepSpeedPrecision, MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.strategies.launchers import subprocess_script
from torch import Tensor
from torch import distributed as dist

from lalia.errors import GuardStopped, UserError
from lalia.scoring.rates import ErrorCounts
from lalia.signals import stops
from lalia.training.settings import HardwareSettings
from lalia.training.zero import DeepSpeedZero

# --- Ranks -----------------------------------------------------------------------------------------------

L = TypeVar("L", bound=Sized)


def environment() -> ClusterEnvironment:
    """The launcher of the processes: torchrun, SLURM, or the run itself."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        return SLURMEnvironment(auto_requeue=False)  # a signal saves and ends the run; the job script requeues it
    return LightningEnvironment()


def rank(hardware: HardwareSettings) -> int:
    """This process's rank, from 0 to ``hardware.ranks`` - 1.

    Raises ``UserError`` if torchrun or SLURM started another number of processes than the settings say.
    """
    found = environment()
    if isinstance(found, LightningEnvironment):
        return found.node_rank() * hardware.devices + found.local_rank()
    started = found.world_size()
    if started != hardware.ranks:
        who = "torchrun" if isinstance(found, TorchElasticEnvironment) else "SLURM"
        raise UserError(
            f"{who} started {started} processes, expected hardware.devices {hardware.devices} × hardware.nodes "
            f"{hardware.nodes} = {hardware.ranks}; give --hardware.devices the processes of one node"
        )
    return found.global_rank()


def is_rank_zero(hardware: HardwareSettings) -> bool:
    """Whether this process is rank 0, which writes and prints."""
    return rank(hardware) == 0


def shard_loader(make: Callable[[int, int], L], hardware: HardwareSettings) -> L:
    """This rank's shard of the validation loader ``make(ranks, rank)``.

    Every rank gets all batches if there are fewer batches than ranks, and under ZeRO 3, whose ranks must run equally many. Sums
    over ranks then count every batch ``ranks`` times, and rates stay the same.
    """
    if hardware.ranks == 1 or hardware.strategy.startswith("zero3"):
        return make(1, 0)
    everything = make(1, 0)
    return everything if len(everything) < hardware.ranks else make(hardware.ranks, rank(hardware))


def all_reduce_sum(values: Tensor) -> Tensor:
    """``values`` summed over all ranks, in float64; the same tensor everywhere."""
    values = values.double()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def all_reduce_min(values: Tensor) -> Tensor:
    """The smallest of each of ``values`` over all ranks."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values, dist.ReduceOp.MIN)
    return values


def to_host(values: Tensor) -> Tensor:
    """``values`` on the CPU: from a GPU by one copy into pinned memory, for which this thread sleeps."""
    if values.device.type != "cuda":
        return values.cpu()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)
    copied.record()
    copied.synchronize()
    return host


def broadcast(values: Tensor) -> Tensor:
    """Rank 0's ``values``, on this rank's device; shapes may differ between ranks, the number of dimensions may not.

    Not as a pickled object: its tensors would arrive on rank 0's device.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    shape = torch.tensor(values.shape, device=values.device)
    dist.broadcast(shape, 0)
    sent = values.contiguous() if dist.get_rank() == 0 else values.new_empty(shape.tolist())
    dist.broadcast(sent, 0)
    return sent


def stop_all(message: str) -> NoReturn:
    """End the run on every rank, each of which must call it: rank 0 with the first ``message`` that is not empty."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        messages = [""] * dist.get_world_size()
        dist.all_gather_object(messages, message)
        message = next(filter(None, messages))
        if dist.get_rank():
            raise SystemExit(GuardStopped.status)
    raise GuardStopped(message)


def all_reduce_errors(errors: ErrorCounts, device: torch.device) -> ErrorCounts:
    """Error counts summed over all ranks."""
    counts = torch.tensor(astuple(errors), device=device)
    return ErrorCounts(*(int(count) for count in all_reduce_sum(counts)))


# Lightning's own observer kills rank 0 with SIGKILL within five seconds of a rank that did not end with 0, so that nothing is
# said and the status is 137; lalia.signals waits for rank 0's own error and returns the rank's status.
subprocess_script._launch_process_observer = stops.watch_ranks  # type: ignore[assignment]


def set_threads(hardware: HardwareSettings) -> None:
    """Set the CPU threads of this process and of its child processes."""
    if hardware.threads:
        os.environ["OMP_NUM_THREADS"] = str(hardware.threads)
        torch.set_num_threads(hardware.threads)


# --- Precision -------------------------------------------------------------------------------------------

FIRST_SCALE, PATIENCE = 2.0**16, 2000
"""First loss scale of a float16 run; steps without overflow after which it doubles."""


class Float16(MixedPrecision):
    """float16 autocast with a gradient scaler, on a GPU as on a CPU; counts the steps skipped for overflow."""

    def __init__(self, device: str) -> None:
        super().__init__(
            "16-mixed", device, torch.amp.GradScaler(device, init_scale=FIRST_SCALE, growth_interval=PATIENCE)
        )
        self.skipped = 0

    @property
    def scale(self) -> float:
        assert self.scaler is not None
        return float(self.scaler.get_scale())

    def optimizer_step(self, optimizer: Any, model: LightningModule, closure: Callable[[], Any], **kwargs: Any) -> Any:  # type: ignore[override]
        before = self.scale
        result = super().optimizer_step(optimizer, model, closure, **kwargs)
        self.skipped += self.scale < before
        return result

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = int(state_dict.get("skipped", 0))
        super().load_state_dict(state_dict)


class ShardedPrecision(DeepSpeedPrecision):
    """Precision under ZeRO: DeepSpeed's engine does the autocast; float16 needs a loss scaler for sharded gradients.

    DeepSpeed's own float16 mode makes the weights float16, and its autocast mode clips gradients before it divides the loss
    scale out. So the float32 optimizer gets DeepSpeed's dynamic loss scaler, which unscales, checks all shards for overflow and
    clips, in this order.
    """

    def __init__(self, float16: bool) -> None:
        super().__init__("32-true")
        self.float16 = float16
        self._engine: Any = None

    def convert_input(self, data: Any) -> Any:
        return data

    def backward(self, tensor: Any, model: LightningModule, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        # Lightning has divided the loss by the accumulation; DeepSpeed must not do it again.
        self._engine.backward(tensor, scale_wrt_gas=False)

    def attach(self, engine: Any) -> None:
        """Give ``engine``'s optimizer its loss scaler."""
        self._engine = engine
        if self.float16:
            from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

            optimizer = engine.optimizer
            optimizer.torch_autocast_gradscaler = None
            optimizer.check_grad_overflow = True
            optimizer.dynamic_loss_scale = True
            optimizer.loss_scaler = DynamicLossScaler(
                init_scale=FIRST_SCALE, scale_window=PATIENCE, min_scale=1.0, delayed_shift=1,
                consecutive_hysteresis=False, raise_error_at_min_scale=False, dtype=torch.float16,
            )  # fmt: skip

    @property
    def skipped(self) -> int:
        return int(self._engine.skipped_steps)

    @property
    def scale(self) -> float:
        return float(self._engine.optimizer.loss_scaler.loss_scale)

    def state_dict(self) -> dict[str, Any]:
        if not self.float16:
            return {}
        scaler = self._engine.optimizer.loss_scaler
        kept = {key: getattr(scaler, key) for key in ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")}
        return kept | {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self.float16 and state_dict:
            self._engine.skipped_steps = int(state_dict["skipped"])
            for key, value in state_dict.items():
                if key != "skipped":
                    setattr(self._engine.optimizer.loss_scaler, key, value)


class LossScale(Callback):
    """Logs ``train/loss_scale`` and ``train/skipped_steps`` of a float16 run."""

    def __init__(self, precision: Precision) -> None:
        self.precision: Any = precision

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        pl_module.log_dict(
            {"train/loss_scale": self.precision.scale, "train/skipped_steps": float(self.precision.skipped)}
        )


# --- Strategies ------------------------------------------------------------------------------------------

BUCKET = 50_000_000
"""Elements in one ZeRO communication bucket."""
COMPILERS = ("c++", "g++", "clang++")
"""C++ compilers; torch.compile needs one of them on a CPU."""


def check_hardware(hardware: HardwareSettings) -> None:
    """Raise ``UserError`` if this machine cannot run ``hardware``."""
    device, precision = device_type(hardware), precision_of(hardware)
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    if hardware.devices < 1 or hardware.nodes < 1:
        raise UserError(
            f"hardware.devices {hardware.devices}, hardware.nodes {hardware.nodes}: expected at least 1 of each"
        )
    if gpus and hardware.devices > gpus:
        raise UserError(f"hardware.devices {hardware.devices}: this machine has {gpus}; lower it, or start more nodes")
    if not device_is_here(device):
        other = (
            "torch is built without CUDA" if device == "cuda" and torch.version.cuda is None else "there is none here"
        )
        raise UserError(f"hardware.device {device}: {other}; use --hardware.device auto, or install what is missing")
    if gpus and precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        raise UserError(f"hardware.precision bf16: {name} has no bfloat16 arithmetic; use fp16 or fp32")
    if gpus and precision == "fp16" and torch.cuda.get_device_capability() < (5, 3):
        name = torch.cuda.get_device_name()
        raise UserError(f"hardware.precision fp16: {name} has no float16 arithmetic; use fp32")
    if precision == "fp16" and device == "mps":
        raise UserError("hardware.precision fp16: not on mps; use bf16 or fp32")
    if hardware.compile:
        if hardware.strategy.startswith("zero3"):
            raise UserError(
                f"hardware.compile: not with {hardware.strategy}, which gathers a block's weights as it runs; use zero2"
            )
        if device == "cpu" and not any(map(shutil.which, COMPILERS)):
            raise UserError("hardware.compile: no C++ compiler found; install one (g++), or leave it off")
    if hardware.strategy.startswith("zero"):
        if device == "mps":
            raise UserError(f"hardware.strategy {hardware.strategy}: DeepSpeed does not run on mps; use auto")
        if device == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise it warns when it detects the CPU
        try:
            import deepspeed  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"hardware.strategy {hardware.strategy} needs DeepSpeed ({error}); pip install 'lalia[train]'"
            ) from error


def device_type(hardware: HardwareSettings) -> str:
    """The device type that a run trains on here: cuda, mps or cpu."""
    if hardware.device != "auto":
        return hardware.device
    # Not mps: torch has neither CTC nor float64, in which validation sums, there.
    return "cuda" if device_is_here("cuda") else "cpu"


def device_is_here(device: str) -> bool:
    """Whether this machine has a device of the type ``device``."""
    if device == "cuda":
        return torch.cuda.is_available()
    return device != "mps" or torch.backends.mps.is_available()


def training_device(hardware: HardwareSettings) -> torch.device:
    """The device that this process trains on."""
    kind = device_type(hardware)
    return torch.device(kind, environment().local_rank()) if kind == "cuda" else torch.device(kind)


def precision_of(hardware: HardwareSettings) -> str:
    """fp32, bf16 or fp16; auto is resolved for the device here."""
    if hardware.precision != "auto":
        return hardware.precision
    if device_type(hardware) != "cuda" or not torch.cuda.is_available():
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp16" if torch.cuda.get_device_capability() >= (5, 3) else "fp32"


def autocast(hardware: HardwareSettings) -> torch.autocast:
    """The autocast context of training, for passes without a Trainer."""
    precision = precision_of(hardware)
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device_type(hardware), kind, enabled=precision != "fp32")


def set_arithmetic(hardware: HardwareSettings) -> None:
    """TensorFloat-32 for float32 products on CUDA: 10 bits of mantissa in the factors, sums in float32."""
    if device_type(hardware) == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True


def make_strategy(
    hardware: HardwareSettings, parameters: int, unused_parameters: bool
) -> tuple[Strategy | str, Precision]:
    """Lightning's strategy and precision plugin for ``hardware`` and a model of ``parameters`` weights.

    ``unused_parameters``: some get no gradient in some steps, so DDP has to search for them in every backward pass.
    """
    check_hardware(hardware)
    device, wanted = device_type(hardware), precision_of(hardware)
    if hardware.strategy.startswith("zero"):
        return DeepSpeedZero(zero_config(hardware, parameters)), ShardedPrecision(wanted == "fp16")
    precision: Precision = Precision()
    if wanted == "bf16":
        precision = MixedPrecision("bf16-mixed", device)
    elif wanted == "fp16":
        precision = Float16(device)
    if hardware.ranks == 1:
        return "auto", precision
    # Gradients are views of the buckets that are summed, not copies of them. Buffers are constants.
    ddp = DDPStrategy(
        find_unused_parameters=unused_parameters, gradient_as_bucket_view=True, broadcast_buffers=False
    )  # fmt: skip
    return ddp, precision


def zero_config(hardware: HardwareSettings, parameters: int) -> dict[str, Any]:
    """DeepSpeed's configuration for ``hardware.strategy`` (zero1 … zero3-offload); Lightning adds clipping and accumulation."""
    device, precision = device_type(hardware), precision_of(hardware)
    name, _, offload = hardware.strategy.partition("-")
    stage = int(name.removeprefix("zero"))
    zero: dict[str, Any] = {
        "stage": stage, "contiguous_gradients": True, "overlap_comm": device != "cpu",
        "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET,
    }  # fmt: skip
    pinned = {"device": "cpu", "pin_memory": device == "cuda"}
    if stage == 3:
        # Smaller tensors stay whole on every rank: gathering them costs more than it saves.
        zero["stage3_param_persistence_threshold"] = min(100_000, parameters // 1000)
        if offload:
            zero["offload_param"] = pinned
    if offload:
        zero["offload_optimizer"] = pinned
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1, "zero_optimization": zero,
        # torch's AdamW, so that the update is the same under every strategy.
        "zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False,
    }  # fmt: skip
    if precision != "fp32":
        dtype = {"bf16": "bfloat16", "fp16": "float16"}[precision]
        # Gradients are reduced in float32, so that sums over ranks equal those of one process.
        config["torch_autocast"] = {"enabled": True, "dtype": dtype, "lower_precision_safe_modules": []}
    return config
