"""Precision: float32, or bfloat16 and float16 by autocast over float32 weights, with dynamic loss scaling for float16.

The weights, and what the models keep out of autocast, are float32 under every strategy: half-precision weights would round
the islands too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import DeepSpeedPrecision, MixedPrecision, Precision

FIRST_SCALE, PATIENCE = 2.0**16, 2000
"""The loss scale that a float16 run begins with, and the good steps after which it doubles."""


class Float16(MixedPrecision):
    """float16 autocast with a gradient scaler, on a GPU as on a CPU; counts the steps that overflowed and were left out."""

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
    """For ZeRO: DeepSpeed's engine does the autocast; float16 takes a loss scaler that knows of sharded gradients.

    DeepSpeed's own float16 mode makes the weights float16, and its autocast mode clips gradients before it divides the loss
    scale out. So the float32 optimizer gets DeepSpeed's dynamic loss scaler put in, which unscales, checks all ranks' shards
    for overflow and clips in the right order.
    """

    def __init__(self, float16: bool) -> None:
        super().__init__("32-true")
        self.float16 = float16
        self._engine: Any = None

    def convert_input(self, data: Any) -> Any:
        return data

    def backward(self, tensor: Any, model: LightningModule, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        # Lightning has divided the loss by the accumulation already; DeepSpeed would do it again.
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
