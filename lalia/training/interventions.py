"""Interventions between backward pass and optimizer step: skip the step, restore weights, scale learning rates, reset moments.

They work the same for whole and sharded (ZeRO) training; every rank makes the same calls. Weights and moments are whole tensors
here, under the names of the unsharded model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from lalia.training.zero import DeepSpeedZero


def gradient_norm(trainer: Trainer) -> Tensor:
    """Norm of the accumulated gradients over all ranks, on the device; the number that ``clip_grad_norm_`` computes."""
    if isinstance(trainer.strategy, DeepSpeedZero):
        return trainer.strategy.gradient_norm()
    return torch.nn.utils.get_total_norm([p.grad for p in _optimized(trainer) if p.grad is not None])


def _optimized(trainer: Trainer) -> list[nn.Parameter]:
    return [p for group in trainer.optimizers[0].param_groups for p in group["params"]]


def skip_step(trainer: Trainer, module: LightningModule) -> None:
    """Skip the coming optimizer step: weights and moments stay as they are."""
    if isinstance(trainer.strategy, DeepSpeedZero):
        trainer.strategy.skip_step()
        return
    for parameter in module.parameters():
        parameter.grad = None


def weights_are_finite(trainer: Trainer, module: LightningModule) -> bool:
    """Whether all weights are finite."""
    if isinstance(trainer.strategy, DeepSpeedZero):
        return trainer.strategy.weights_are_finite()
    return all(bool(torch.isfinite(parameter).all()) for parameter in module.parameters())


def restore(trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
    """Restore weights and moments from ``checkpoint``, whose tensors every rank has mapped from the file; learning rates stay."""
    weights, moments = checkpoint["state_dict"], checkpoint["optimizer_states"][0]["state"]
    if isinstance(trainer.strategy, DeepSpeedZero):
        trainer.strategy.restore(weights, moments)
        return
    module.load_state_dict(weights)
    optimizer = trainer.optimizers[0]
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def scale_learning_rates(trainer: Trainer, factor: float) -> None:
    """Multiply every learning rate by ``factor`` from now on."""
    for config in trainer.lr_scheduler_configs:
        config.scheduler.base_lrs = [rate * factor for rate in config.scheduler.base_lrs]
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            group["lr"] *= factor
            group["initial_lr"] *= factor


@contextmanager
def editing(trainer: Trainer, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Context in which ``parameters`` are whole and can be changed, in the same way on every rank."""
    if isinstance(trainer.strategy, DeepSpeedZero):
        with trainer.strategy.editing(parameters):
            yield
    else:
        yield


def reset_moments(trainer: Trainer, parameter: nn.Parameter, places: Tensor) -> None:
    """Zero the optimizer's moments of ``parameter`` where ``places``, of its shape, is true."""
    if isinstance(trainer.strategy, DeepSpeedZero):
        trainer.strategy.reset_moments(parameter, places)
        return
    for moment in trainer.optimizers[0].state.get(parameter, {}).values():
        if moment.ndim:
            moment.masked_fill_(places.to(moment.device), 0.0)
