"""ZeRO (Rajbhandari et al. 2020) by DeepSpeed, on GPUs with NCCL and on CPU processes with gloo.

A checkpoint holds whole weights and the whole AdamW state under the names of the unsharded model, whatever the strategy. So a run
can continue under another strategy and on another number of ranks.

DeepSpeed's public functions are used where they do the job: ``initialize``, ``zero.GatheredParameters``,
``refresh_fp32_params``. ``PRIVATE`` lists what else is used, and why; ``tests/training/test_zero.py`` checks that the installed
version still has it. The public ``safe_set_full_fp32_param`` and ``safe_set_full_optimizer_state`` cannot restore a checkpoint:
under ZeRO 3 they read past the end of a tensor that the ranks do not divide evenly, under ZeRO 1 and 2 they know the moments
only after the first step. There is no public way to get the gradient norm before the step (``get_global_grad_norm`` is that of
the step before), or to skip a step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, Strategy
from torch import Tensor, nn
from torch import distributed as dist

MOMENTS = ("exp_avg", "exp_avg_sq")

VERSION = "0.19"
"""Of DeepSpeed; the private parts below were read in it."""
STAGE_1_2, STAGE_3 = (
    "runtime.zero.stage_1_and_2:DeepSpeedZeroOptimizer",
    "runtime.zero.stage3:DeepSpeedZeroOptimizer_Stage3",
)
PRIVATE = {
    f"{STAGE_1_2}.single_partition_of_fp32_groups": "this rank's float32 weights, whose moments a checkpoint restores",
    f"{STAGE_3}.fp32_partitioned_groups_flat": "the same under ZeRO 3",
    "utils.tensor_fragment:tensor_fragment.get_hp_fragment_address": "where a parameter lies in them (ZeRO 1, 2)",
    "utils.tensor_fragment:tensor_fragment.lp_fragment_address": "which of its numbers lie there (ZeRO 1, 2)",
    f"{STAGE_3}._get_fp32_opt_state_partition": "a parameter's part of them (ZeRO 3)",
    f"{STAGE_1_2}.scaled_global_norm": "the gradient norm that the guard reads before the step",
    f"{STAGE_3}._get_norm_groups": "the same under ZeRO 3",
    "runtime.utils:combine_grad_norm_groups": "the same under ZeRO 3",
    f"{STAGE_1_2}.check_grad_overflow": "makes a step look for overflow, by which one is skipped and float16 is scaled",
    f"{STAGE_1_2}.check_overflow": "replaced for one step, which is then skipped",
    f"{STAGE_3}._overflow_check_and_loss_scale_update": "the same under ZeRO 3",
    f"{STAGE_1_2}._update_scale": "replaced for that step: the loss scale stays",
    "runtime.fp16.loss_scaler:DynamicLossScaler": "loss scaling of float32 weights under float16 autocast",
    "runtime.zero.linear:LinearFunctionForZeroStage3": "rounds twice in half precision; replaced by torch's (``round_once``)",
    "ops.op_builder.cpu:ShareMemCommBuilder": "switched off on a CPU, where it would compile for minutes",
}  # fmt: skip
"""What lalia uses of DeepSpeed that is not public, and for what: module:name."""


class DeepSpeedZero(DeepSpeedStrategy):
    """DeepSpeed's ZeRO on GPUs and on CPU processes, with checkpoints of whole, unsharded tensors."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config=config)
        self._groups: list[list[nn.Parameter]] = []

    # -- on a CPU: no device index to check, gloo instead of NCCL --

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
        if self.zero_stage_3:
            round_once()
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

    # -- whole tensors from shards: every rank takes part, rank 0 gets them --

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
        """Turn the module back into a plain one; its weights are then loaded from the last checkpoint."""
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

    # -- interventions between backward pass and step; every rank takes part --

    def gradient_norm(self) -> Tensor:
        """Norm of the accumulated gradients over all shards; infinite if one of them is not finite."""
        zero = self._zero
        if self.zero_stage_3:
            from deepspeed.runtime.utils import combine_grad_norm_groups

            norm = combine_grad_norm_groups(zero._get_norm_groups())
        else:
            norm = zero.scaled_global_norm()
        return torch.as_tensor(norm) / float(zero.loss_scale)

    def skip_step(self) -> None:
        """Skip the coming step: weights, moments and loss scale stay as they are."""
        zero = self._zero

        def overflowed(*args: Any, **kwargs: Any) -> bool:
            zero.overflow = True
            return True

        def cleared() -> None:
            del zero.step
            # The path by which DeepSpeed discards gradients that overflowed in float16.
            with _changed(
                zero, check_grad_overflow=True, check_overflow=overflowed,
                _overflow_check_and_loss_scale_update=overflowed, _update_scale=lambda overflow: None,
            ):  # fmt: skip
                zero.step()
            zero.overflow = False

        zero.step = cleared

    def weights_are_finite(self) -> bool:
        """Whether all weights are finite; the same answer on every rank."""
        assert self.lightning_module is not None
        mine = [getattr(p, "ds_tensor", p) for p in self.lightning_module.parameters()]
        return self.reduce_boolean_decision(all(bool(torch.isfinite(part).all()) for part in mine), all=True)

    @contextmanager
    def editing(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Context in which ``parameters`` are whole and changed in the same way on every rank; shards are updated at its end."""
        with self._gathered(parameters):
            yield
        self._zero.refresh_fp32_params()

    def restore(self, weights: Mapping[str, Tensor], moments: Mapping[int, Any]) -> None:
        """Restore whole ``weights`` and AdamW's whole ``moments``, given on every rank; learning rates stay."""
        assert self.lightning_module is not None
        for name, buffer in self.lightning_module.named_buffers():
            if name in weights:
                buffer.copy_(weights[name])
        for name, parameter in self.lightning_module.named_parameters():
            with self._gathered([parameter]), torch.no_grad():
                parameter.copy_(weights[name])
        self._zero.refresh_fp32_params()
        groups: list[dict[str, Any]] = [{} for _ in self._zero.optimizer.param_groups]
        self.load_optimizer_state_dict({"optimizer_states": [{"state": moments, "param_groups": groups}]})

    def reset_moments(self, parameter: nn.Parameter, places: Tensor) -> None:
        """Zero AdamW's moments of ``parameter`` where ``places``, of its shape, is true."""
        for key in MOMENTS if any(self._zero.optimizer.state.values()) else ():
            for shard, part in self._shards(parameter, key):
                part.masked_fill_(places.flatten()[shard][: len(part)].to(part.device), 0.0)

    # -- where a parameter lies in DeepSpeed's flat shards --

    @property
    def _zero(self) -> Any:
        return self.deepspeed_engine.optimizer

    @contextmanager
    def _gathered(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Context in which the parameters are whole; rank 0's values are sharded again at its end."""
        if not self.zero_stage_3:
            yield
            return
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(list(parameters), modifier_rank=0):
            yield

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
            from deepspeed.runtime.zero import GatheredParameters

            with GatheredParameters([parameter]):
                return parameter.detach().cpu().clone()
        device = self._flats()[0].device if dist.get_backend() == "gloo" else self.root_device
        whole = torch.zeros(_numbers(parameter), dtype=torch.float32, device=device)
        for shard, part in self._shards(parameter, key):
            whole[shard] = part.to(device).detach()
        dist.all_reduce(whole)
        return whole.view(getattr(parameter, "ds_shape", parameter.shape)).cpu()


def round_once() -> None:
    """Make the forward pass of DeepSpeed's linear function under ZeRO 3 equal to torch's.

    It saves the parameter instead of its autocast copy, so that gathered weights can be freed between the passes. But it adds
    the bias to a product already rounded to half precision; torch, and so every other strategy, rounds once, after the bias.
    """
    from deepspeed.runtime.zero.linear import LinearFunctionForZeroStage3

    LinearFunctionForZeroStage3.forward = staticmethod(torch.ops.aten.linear.default)


def _numbers(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))


@contextmanager
def _changed(thing: object, **values: Any) -> Iterator[None]:
    """Context in which instance attributes of ``thing`` have other ``values``."""
    own = vars(thing)
    before = {name: own[name] for name in values if name in own}
    own.update(values)
    try:
        yield
    finally:
        for name in values:
            del own[name]
        own.update(before)
