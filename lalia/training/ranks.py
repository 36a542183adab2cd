"""Ranks: which process of a run this one is, what part of the work is its own, and sums over all of them.

A run starts its own processes on one machine; torchrun and SLURM start them on one or several. In every case the rank is
known from the environment before the processes have met.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import astuple
from typing import TYPE_CHECKING, TypeVar

import torch
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from torch import Tensor
from torch import distributed as dist

from lalia.exits import UserError
from lalia.scoring.rates import ErrorCounts

if TYPE_CHECKING:
    from collections.abc import Sized

    from lalia.training.settings import HardwareSettings

L = TypeVar("L", bound="Sized")


def environment() -> ClusterEnvironment:
    """Who starts the processes: torchrun, SLURM, or the run itself."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if SLURMEnvironment.detect():
        return SLURMEnvironment(
            auto_requeue=False
        )  # a signal saves and ends the run; the job script asks for its requeue
    return LightningEnvironment()


def rank(hardware: HardwareSettings) -> int:
    """This process's number among ``hardware.ranks``.

    A ``UserError`` where torchrun or SLURM started another number of processes than the settings say.
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


def leads(hardware: HardwareSettings) -> bool:
    """Whether this process is the one that writes and prints."""
    return rank(hardware) == 0


def shared(make: Callable[[int, int], L], hardware: HardwareSettings) -> L:
    """This rank's loader of held-out batches, out of ``make(ranks, rank)``.

    Every rank gets all of them where they cannot be shared: fewer batches than ranks, or ZeRO 3, whose ranks must run equally
    many. Sums over ranks then count every batch ``ranks`` times, and rates stay what they are.
    """
    if hardware.ranks == 1 or hardware.strategy.startswith("zero3"):
        return make(1, 0)
    everything = make(1, 0)
    return everything if len(everything) < hardware.ranks else make(hardware.ranks, rank(hardware))


def total(values: Tensor) -> Tensor:
    """``values`` summed over all ranks, in float64; the same tensor everywhere."""
    values = values.double()
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def from_leader(values: Tensor) -> Tensor:
    """The leading rank's ``values``, on this rank's own device; the ranks' may differ in shape, not in dimensions.

    Sent as numbers: a tensor inside a pickled object would arrive on the leader's device.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return values
    shape = torch.tensor(values.shape, device=values.device)
    dist.broadcast(shape, 0)
    sent = values.contiguous() if dist.get_rank() == 0 else values.new_empty(shape.tolist())
    dist.broadcast(sent, 0)
    return sent


def over_ranks(errors: ErrorCounts, device: torch.device) -> ErrorCounts:
    """Errors counted on all ranks."""
    counts = torch.tensor(astuple(errors), device=device)
    return ErrorCounts(*(int(count) for count in total(counts)))


def set_threads(hardware: HardwareSettings) -> None:
    """CPU threads of this process and of those it starts."""
    if hardware.threads:
        os.environ["OMP_NUM_THREADS"] = str(hardware.threads)
        torch.set_num_threads(hardware.threads)
