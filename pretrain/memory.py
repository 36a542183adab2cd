"""Memory of a pretraining run, predicted before there is a run.

Weights, gradients and optimizer are counted. Activations are what autograd keeps between the forward and the backward pass: the
model itself is run with one block and with two, on one clip of the longest length and on two, and what it keeps is added up: so
much for each clip and each block, and so much (the weights in half precision) for each block alone. With activation
checkpointing each block keeps its input, and one block at a time has the rest as well. The prediction needs a few hundred
megabytes for a model of billions of weights, and stays true when the model's code changes.

B clips, T frames.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lalia.data.loader import Batch
from lalia.training.seeds import generator
from lalia.units import Seconds, to_samples
from pretrain.config import PretrainSettings
from pretrain.task import PretrainTask

GB = 1e9
FLOAT = 4
MOMENTS = 2
"""of AdamW, for each weight"""


@dataclass(frozen=True)
class Memory:
    """Bytes that one device holds at the peak of a step."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def state(self) -> float:
        """What is held however small the batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        return self.state + self.activations


@dataclass(frozen=True)
class Footprint:
    """A model's weights, and the bytes that autograd keeps for one clip of the longest length."""

    parameters: int
    outside: float
    """stem, projections and objective"""
    block: float
    """one block of the encoder"""
    handed_on: float
    """what one block hands on to the next: all that is kept of it under activation checkpointing"""
    layers: int
    clip_s: Seconds
    copies: float = 0.0
    """however many clips: weights in half precision"""
    block_copies: float = 0.0
    """those of one block"""

    def held(self, micro_s: Seconds, again: bool = False) -> float:
        """Bytes for a micro-batch of ``micro_s`` seconds; ``again`` = with activation checkpointing, at its worst moment."""
        return max(fixed + micro_s * a_second for fixed, a_second in self._moments(again))

    def fitting_s(self, free: float, again: bool = False) -> Seconds:
        """Seconds of audio whose activations fit into ``free`` bytes."""
        return min(max(0.0, free - fixed) / a_second for fixed, a_second in self._moments(again))

    def _moments(self, again: bool) -> list[tuple[float, float]]:
        """(bytes however many clips, bytes for each second) when most is held: the end of the forward pass, and with activation
        checkpointing, where autocast lets go of its copies there, also the backward pass of a block."""
        if not again:
            return [(self.copies, (self.outside + self.layers * self.block) / self.clip_s)]
        forward = (self.outside + self.layers * self.handed_on) / self.clip_s
        others = (self.layers - 1) * self.block_copies
        return [(self.copies, forward), (self.copies - others, forward + self.block / self.clip_s)]


def trace(settings: PretrainSettings, cuda: bool = False) -> Footprint:
    """What the model of ``settings`` takes, by running a model of one and of two blocks. ``cuda``: attention by the fused kernel,
    which keeps no (T, T) weights."""
    clip_s = longest_clip_s(settings)
    shape = settings.model
    with torch.random.fork_rng(devices=[]):
        one, two = (_shallow(settings, n, clip_s, cuda) for n in (1, 2))
    clip_1, clip_2 = one.twice - one.once, two.twice - two.once
    copies_1, copies_2 = one.once - clip_1, two.once - clip_2
    return Footprint(
        parameters=one.weights + (shape.layers - 1) * (two.weights - one.weights),
        outside=2 * clip_1 - clip_2,
        block=clip_2 - clip_1,
        handed_on=two.handed_on,
        layers=shape.layers,
        clip_s=clip_s,
        copies=max(0, copies_1 + (shape.layers - 1) * (copies_2 - copies_1)),
        block_copies=max(0, copies_2 - copies_1),
    )


def longest_clip_s(settings: PretrainSettings) -> Seconds:
    """Seconds of the longest wave that the model meets."""
    return max(settings.data.max_s, settings.join_s)


def predict(
    footprint: Footprint, micro_s: Seconds, stage: int, ranks: int, offload: bool = False, again: bool = False
) -> Memory:
    """One device's peak under ZeRO ``stage`` (0 = every device holds all) over ``ranks`` devices."""
    state = FLOAT * footprint.parameters
    return Memory(
        weights=state / (ranks if stage >= 3 else 1),
        gradients=state / (ranks if stage >= 2 else 1),
        optimizer=0.0 if offload else MOMENTS * state / (ranks if stage >= 1 else 1),
        activations=footprint.held(micro_s, again),
    )


def machine_bytes(devices: int = 1) -> float:
    """Memory of one device here that is free for training: of the first GPU, or this machine's over ``devices`` processes."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(1024.0 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / devices
    except (OSError, StopIteration):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / devices


class Kept:
    """Bytes that autograd keeps, each storage once; weights and constants are not counted."""

    def __init__(self, module: nn.Module, cuda: bool = False) -> None:
        self.cuda = cuda
        self.bytes = 0
        self._seen = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
        # Counted storages are held on to: a freed one's address would be given to the next and not be counted.
        self._held: list[Tensor] = []

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        square = tensor.ndim == 4 and tensor.shape[-1] == tensor.shape[-2] > 1
        if storage.data_ptr() not in self._seen and not (self.cuda and square):
            self._seen.add(storage.data_ptr())
            self._held.append(tensor)
            self.bytes += storage.nbytes()
        return tensor


@contextmanager
def counting(module: nn.Module, cuda: bool = False) -> Iterator[Kept]:
    """A count of what autograd keeps of the forward passes inside the block."""
    kept = Kept(module, cuda)
    with torch.autograd.graph.saved_tensors_hooks(kept, lambda tensor: tensor):
        yield kept


def forward(task: PretrainTask, batch: Batch) -> Tensor:
    """The loss of one training micro-batch, as a step makes it, without a Trainer."""
    precision = task.settings.hardware.precision
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.bfloat16)
    with torch.autocast(batch.wave_BS.device.type, kind, enabled=precision != "fp32"):
        seen = task(batch, generator(task.settings.seed, "memory"), 1.0)
    loss = seen.hidden.loss + seen.feature_penalty + seen.codes.probabilities_GV.sum()
    return loss + seen.visible.loss if seen.visible is not None else loss


def noise(clips: int, clip_s: Seconds) -> Batch:
    """A batch of noise, for measuring: (clips, samples of clip_s)."""
    samples = to_samples(clip_s)
    wave_BS = 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))
    nothing_B = torch.zeros(clips, dtype=torch.int64)
    return Batch(0, wave_BS, torch.full((clips,), samples), nothing_B, nothing_B, None, None, ())


class _Counts(NamedTuple):
    once: int
    """bytes kept for one clip"""
    twice: int
    """for two"""
    handed_on: int
    """bytes that the last block is handed, for one clip"""
    weights: int


def _shallow(settings: PretrainSettings, layers: int, clip_s: Seconds, cuda: bool) -> _Counts:
    """What is counted of the model with only ``layers`` blocks."""
    model = replace(settings.model, layers=layers, layerdrop=0.0)
    hardware = replace(settings.hardware, checkpointing=False)
    task = PretrainTask(replace(settings, model=model, hardware=hardware)).train()
    handed: list[int] = []
    task.encoder.blocks.layers[-1].register_forward_pre_hook(lambda _, inputs: handed.append(inputs[0].nbytes))
    counts = []
    for clips in (1, 2):
        with counting(task, cuda) as kept:
            forward(task, noise(clips, clip_s))
        counts.append(kept.bytes)
    return _Counts(counts[0], counts[1], handed[0], sum(p.numel() for p in task.parameters()))
