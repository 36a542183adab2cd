"""Strategies: one device, DDP, or ZeRO by DeepSpeed, on GPUs with NCCL and on a CPU's processes with gloo.

Whatever the strategy, a checkpoint holds whole weights and a whole AdamW state under the names of the unsharded model, so a
run goes on under any strategy, on any number of ranks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, Strategy
from torch import Tensor, nn
from torch import distributed as dist

from lalia.exits import UserError
from lalia.training.precision import Float16, ShardedPrecision
from lalia.training.settings import HardwareSettings

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET = 50_000_000
"""Numbers that ZeRO sends at a time."""


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


class DeepSpeedZero(DeepSpeedStrategy):
    """DeepSpeed's ZeRO on GPUs and on CPU processes, with checkpoints of whole, unsharded tensors."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config=config)
        self._groups: list[list[nn.Parameter]] = []

    # -- on a CPU: no device index to check, gloo in the place of NCCL --

    def setup_environment(self) -> None:
        if isinstance(self.accelerator, CPUAccelerator):
            assert self.parallel_devices is not None
            self.parallel_devices = [torch.device("cpu", i) for i in range(len(self.parallel_devices))]
            DDPStrategy.setup_environment(self)
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_distributed()
            return
        import deepspeed
        from deepspeed.ops.op_builder import cpu

        # DeepSpeed would compile its own shared-memory collectives first: minutes, and a compiler, for what gloo does.
        deepspeed.ops.__compatible_ops__[cpu.ShareMemCommBuilder.NAME] = False
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    # -- weights are restored before sharding, the optimizer's state after it --

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def _setup_model_and_optimizer(self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None) -> tuple[Any, Any]:
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        engine, sharded = super()._setup_model_and_optimizer(model, optimizer, lr_scheduler)
        self.precision_plugin.attach(engine)  # type: ignore[attr-defined]
        return engine, sharded

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        whole = checkpoint["optimizer_states"][0]
        steps = [float(state["step"]) for state in whole["state"].values()]
        for group, kept in zip(self._zero.optimizer.param_groups, whole["param_groups"], strict=True):
            group.update({key: value for key, value in kept.items() if key != "params"})
        self._make_states(max(steps, default=0.0))
        for number, parameter in enumerate(p for group in self._groups for p in group):
            state = whole["state"].get(number)
            for key in MOMENTS:
                value = torch.zeros(_numbers(parameter)) if state is None else state[key].flatten()
                for shard, part in self._shards(parameter, key):
                    part_value = value[shard.start : shard.stop]
                    part[: len(part_value)].copy_(part_value)

    # -- whole tensors out of shards: every rank takes part, rank 0 keeps them --

    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        parameters = dict(self.lightning_module.named_parameters())
        state = {}
        for name, value in self.lightning_module.state_dict().items():
            state[name] = self._whole(parameters[name]) if name in parameters else value.detach().cpu()
        return state if self.is_global_zero else {}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        inner = self._zero.optimizer
        steps = [float(state["step"]) for state in inner.state.values() if "step" in state]
        states: dict[int, dict[str, Tensor]] = {}
        for number, parameter in enumerate(p for group in self._groups for p in group):
            moments = {key: self._whole(parameter, key) for key in MOMENTS} if steps else {}
            if moments and self.is_global_zero:
                states[number] = {"step": torch.tensor(steps[0])} | moments
        numbers = iter(range(sum(map(len, self._groups))))
        groups = [
            {
                key: value
                for key, value in group.items()
                if isinstance(value, (int, float, bool, str, tuple, type(None)))
            }
            | {"params": [next(numbers) for _ in parameters]}
            for group, parameters in zip(inner.param_groups, self._groups, strict=True)
        ]
        return {"state": states, "param_groups": groups}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def teardown(self) -> None:
        """Leave a plain module behind, its weights to be filled from the last checkpoint."""
        engine: Any = self.model
        module = self.lightning_module
        if module is not None and hasattr(engine, "destroy"):
            shapes = {id(p): getattr(p, "ds_shape", p.shape) for p in module.parameters()}
            engine.destroy()
            for part in module.modules():
                part._parameters = {
                    name: None
                    if p is None
                    else nn.Parameter(torch.zeros(shapes[id(p)], dtype=p.dtype), p.requires_grad)
                    for name, p in dict.items(part._parameters)
                }
        super().teardown()

    # -- where a parameter's numbers are in DeepSpeed's flat shards --

    @property
    def _zero(self) -> Any:
        return self.deepspeed_engine.optimizer

    def _flats(self) -> list[Tensor]:
        zero = self._zero
        return zero.fp32_partitioned_groups_flat if self.zero_stage_3 else zero.single_partition_of_fp32_groups

    def _make_states(self, step: float) -> None:
        for flat in self._flats():
            state = self._zero.optimizer.state[flat]
            state["step"] = torch.tensor(step)
            for key in MOMENTS:
                state[key] = torch.zeros_like(flat)

    def _shards(self, parameter: nn.Parameter, key: str | None) -> Iterator[tuple[slice, Tensor]]:
        """(which of the parameter's numbers, the view of this rank's float32 shard that holds them), none or one."""
        zero = self._zero
        if self.zero_stage_3:
            part, _ = zero._get_fp32_opt_state_partition(parameter, release_swap_buffers=False, optim_state_key=key)
            start = min(len(part) * dist.get_rank(), _numbers(parameter))
            stop = min(start + len(part), _numbers(parameter))
            yield slice(start, stop), part[: stop - start]
        elif parameter._hp_mapping is not None:  # type: ignore[attr-defined]
            mapping = parameter._hp_mapping  # type: ignore[attr-defined]
            mine, inside = mapping.get_hp_fragment_address(), mapping.lp_fragment_address
            flat = self._flats()[mapping.param_group_index]
            held = flat if key is None else zero.optimizer.state[flat][key]
            yield slice(inside.start, inside.start + inside.numel), held.narrow(0, mine.start, mine.numel)

    def _whole(self, parameter: nn.Parameter, key: str | None = None) -> Tensor:
        """The float32 weight, or the moment ``key``, of ``parameter`` from all ranks' shards, on the CPU."""
        if not parameter.requires_grad:
            if not self.zero_stage_3:
                return parameter.detach().cpu()
            from deepspeed.zero import GatheredParameters

            with GatheredParameters([parameter]):
                return parameter.detach().cpu().clone()
        device = self._flats()[0].device if dist.get_backend() == "gloo" else self.root_device
        whole = torch.zeros(_numbers(parameter), dtype=torch.float32, device=device)
        for shard, part in self._shards(parameter, key):
            whole[shard] = part.to(device).detach()
        dist.all_reduce(whole)
        return whole.view(getattr(parameter, "ds_shape", parameter.shape)).cpu()


def _numbers(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))
