"""Predicts the memory of a pretraining step, from bytes counted while small versions of the model run on fake tensors.

Weights, gradients and optimizer state are counted. For activations, the model runs forward and backward with one block and with
two, on one, three and six clips of the longest length, while ``LiveBytes`` counts the live bytes; what a block and a clip add is
extrapolated to the whole model. The peak is measured at three points: in the stem, in the blocks until the gradient has left
them, and in the stem again. Each is two lines over the number of clips, since a stem that works clip by clip on a CPU holds
more for the first clip than for each further one.

Nothing is computed: the weights and the wave are torch's fake tensors, which have a shape and no memory.

B clips, T frames.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lalia.data.loader import Batch
from lalia.models.frontend import ConvolutionStem
from lalia.training.distributed import device_type, precision_of, training_device
from lalia.training.settings import HardwareSettings
from lalia.units import Seconds, to_samples
from pretrain.config import PretrainSettings
from pretrain.task import PretrainTask, contrast_sampler

# --- Prediction ------------------------------------------------------------------------------------------

GB = 1e9
FLOAT = 4
MOMENTS = 2
"""AdamW's moments per weight"""


@dataclass(frozen=True)
class Memory:
    """Bytes that one device holds at the peak of a step."""

    weights: float
    """with buffers and a teacher, which are not trained"""
    gradients: float
    optimizer: float
    activations: float
    """with temporary tensors at the peak"""

    @property
    def state(self) -> float:
        """Bytes that do not depend on the batch."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        return self.state + self.activations


CLIPS = (1, 3, 6)
"""Clips of the measured batches."""


class Peak(NamedTuple):
    """Bytes that forward and backward pass hold at one of the peaks, as a line over the number of clips."""

    fixed: float
    """at no clips, such as weights in half precision"""
    per_clip: float
    """per clip of the longest length"""


@dataclass(frozen=True)
class Footprint:
    """Memory model of a network: its weights, and the peaks of its passes."""

    parameters: int
    clip_s: Seconds
    """of the longest clip"""
    peaks: Callable[[bool], tuple[Peak, ...]]
    """peaks without (False) or with (True) activation checkpointing"""
    buffers: float = 0.0
    """bytes of buffers and of a teacher, which are not trained"""

    def activation_bytes(self, micro_s: Seconds, checkpointing: bool = False) -> float:
        """Bytes for a micro-batch of ``micro_s`` seconds; ``checkpointing`` = with activation checkpointing."""
        return max(fixed + micro_s / self.clip_s * per_clip for fixed, per_clip in self.peaks(checkpointing))

    def fitting_s(self, free: float, checkpointing: bool = False) -> Seconds:
        """Seconds of audio whose passes fit into ``free`` bytes."""
        return min(max(0.0, free - fixed) / per_clip * self.clip_s for fixed, per_clip in self.peaks(checkpointing))


def trace(settings: PretrainSettings) -> Footprint:
    """The memory model of ``settings``, measured with one and with two blocks, without and with activation checkpointing
    (each when first needed). On CUDA attention is the fused kernel, which keeps no (T, T) weights."""
    cuda = device_type(settings.hardware) == "cuda"
    clip_s, more = longest_clip_s(settings), settings.model.layers - 1

    @cache
    def shallow(blocks: int, checkpointing: bool) -> PretrainTask:
        return _shallow(settings, blocks, checkpointing)

    sizes = (_sizes(shallow(blocks, settings.hardware.checkpointing)) for blocks in (1, 2))
    (weights_1, buffers_1), (weights_2, buffers_2) = sizes

    @cache
    def peaks(checkpointing: bool) -> tuple[Peak, ...]:
        one = _passes(shallow(1, checkpointing), clip_s, CLIPS, cuda)
        two = _passes(shallow(2, checkpointing), clip_s, (CLIPS[0], CLIPS[-1]), cuda)
        whole = []
        for shallow_bytes, (least, most) in zip(one, two, strict=True):
            block = least - shallow_bytes[0]
            per_clip = (most - shallow_bytes[-1] - block) / (CLIPS[-1] - CLIPS[0])
            added = [block + (clips - CLIPS[0]) * per_clip for clips in CLIPS]
            whole.append([bytes_1 + more * bytes_2 for bytes_1, bytes_2 in zip(shallow_bytes, added, strict=True)])
        found = []
        for few, many in ((0, 1), (1, 2)):
            for held in whole:
                per_clip = max(1.0, (held[many] - held[few]) / (CLIPS[many] - CLIPS[few]))
                found.append(Peak(held[few] - CLIPS[few] * per_clip, per_clip))
        return tuple(found)

    return Footprint(
        parameters=weights_1 + more * (weights_2 - weights_1),
        clip_s=clip_s,
        peaks=peaks,
        buffers=buffers_1 + more * (buffers_2 - buffers_1),
    )


def longest_clip_s(settings: PretrainSettings) -> Seconds:
    """Seconds of the longest wave in a batch."""
    return max(settings.data.max_s, settings.join_s)


def predict(
    footprint: Footprint, micro_s: Seconds, stage: int, ranks: int, offload: bool = False, checkpointing: bool = False
) -> Memory:
    """One device's peak under ZeRO ``stage`` (0 = every device holds all) over ``ranks`` devices."""
    state = FLOAT * footprint.parameters
    return Memory(
        weights=state / (ranks if stage >= 3 else 1) + footprint.buffers,
        gradients=state / (ranks if stage >= 2 else 1),
        optimizer=0.0 if offload else MOMENTS * state / (ranks if stage >= 1 else 1),
        activations=footprint.activation_bytes(micro_s, checkpointing),
    )


def machine_bytes(hardware: HardwareSettings) -> float:
    """Free memory of one device: of this process's GPU, or this machine's divided by its processes."""
    devices = hardware.devices
    if device_type(hardware) == "cuda":
        return float(torch.cuda.mem_get_info(training_device(hardware))[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(1024.0 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / devices
    except (OSError, StopIteration):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) / devices


def peak_bytes(task: PretrainTask, batch: Batch, cuda: bool = False) -> tuple[float, ...]:
    """Peak bytes of forward and backward pass of ``batch``, without weights and gradients: before the blocks, in the blocks
    until the gradient has left them, and after that."""
    for weight in task.parameters():
        weight.grad = torch.zeros_like(weight)
    known = [*task.parameters(), *(weight.grad for weight in task.parameters()), *task.buffers()]
    live = LiveBytes((tensor for tensor in known if tensor is not None), fused_attention=cuda)

    def enter(block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        live.mark()
        inputs[0].register_hook(lambda gradient: live.mark())

    watch = task.encoder.blocks.layers[0].register_forward_pre_hook(enter)
    with live:
        forward(task, batch).backward()
    watch.remove()
    return tuple(live.peaks)


def forward(task: PretrainTask, batch: Batch) -> Tensor:
    """The loss of one training micro-batch (from ``contrast_sampler``), without a Trainer."""
    precision = precision_of(task.settings.hardware)
    kind = torch.float16 if precision == "fp16" else torch.bfloat16
    with torch.autocast(batch.wave_BS.device.type, kind, enabled=precision != "fp32"):
        output = task(batch, 1.0)
    loss = output.hidden.loss + output.feature_penalty + output.codes.probabilities_GV.sum()
    return loss + output.visible.loss if output.visible is not None else loss


def noise(settings: PretrainSettings, clips: int, clip_s: Seconds) -> Batch:
    """A complete batch of noise, for measuring: (clips, samples of clip_s)."""
    samples = to_samples(clip_s)
    wave_BS = 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))
    nothing_B = torch.zeros(clips, dtype=torch.int64)
    waves = Batch(0, wave_BS, torch.full((clips,), samples), nothing_B, nothing_B, None, None, ())
    return replace(contrast_sampler(settings), join_s=0.0)(waves)


def _shallow(settings: PretrainSettings, layers: int, checkpointing: bool) -> PretrainTask:
    """The task with only ``layers`` blocks and fake weights; ``checkpointing`` = with activation checkpointing. The stem is that
    of the device to plan for: matrix products on a CPU, convolutions elsewhere."""
    model = replace(settings.model, layers=layers, layerdrop=0.0)
    hardware = replace(settings.hardware, checkpointing=checkpointing, compile=False)
    with torch.random.fork_rng(devices=[]):
        task = PretrainTask(replace(settings, model=model, hardware=hardware)).train()
    if device_type(settings.hardware) != "cpu" and isinstance(task.encoder.frontend, ConvolutionStem):
        task.encoder.frontend.by_products = False
    make_fake(task)
    return task


def _sizes(task: PretrainTask) -> tuple[int, int]:
    """(number of trained weights, bytes of buffers and teacher)."""
    tables = sum(table.nbytes for table in task.buffers())
    return sum(weight.numel() for weight in task.parameters()), tables + task.head.teacher_bytes


def _passes(task: PretrainTask, clip_s: Seconds, counts: Sequence[int], cuda: bool) -> list[tuple[float, ...]]:
    """For each peak, bytes with each of ``counts`` clips of the longest length."""
    with torch.random.fork_rng(devices=[]):
        batches = [noise(task.settings, clips, clip_s) for clips in counts]
        fakes = [replace(batch, wave_BS=MODE.from_tensor(batch.wave_BS)) for batch in batches]
        return list(zip(*(peak_bytes(task, batch, cuda) for batch in fakes), strict=True))


# --- Bytes of live tensors -------------------------------------------------------------------------------

_ATEN = torch.ops.aten


MODE = FakeTensorMode(allow_non_fake_inputs=True)
"""An operation on a fake tensor computes only the shape of its result. Lengths, masks and positions stay real tensors: shapes
depend on their values."""


def make_fake(module: nn.Module) -> None:
    """Turn the parameters and buffers of ``module`` into fake tensors, which have a shape and no memory."""
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(MODE.from_tensor(weight.detach()), weight.requires_grad))
        for name, table in list(part.named_buffers(recurse=False)):
            setattr(part, name, MODE.from_tensor(table))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of every storage that torch operations create, until it is freed.

    ``with LiveBytes(known) as live: ...`` sets ``live.peaks``, the peak of live bytes in each interval between calls of
    ``mark``. Storages of ``known`` (weights, gradients) and workspace inside an operation are not counted. ``fused_attention``:
    (T, T) weights are not counted, as on a GPU, whose kernel has none.
    """

    def __init__(self, known: Iterable[Tensor], fused_attention: bool = False) -> None:
        super().__init__()
        self.peaks = [0]
        self._fused_attention = fused_attention
        self._now = 0
        self._seen = {tensor.untyped_storage()._cdata for tensor in known}

    def mark(self) -> None:
        """Start a new interval."""
        self.peaks.append(self._now)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operation in (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default):
            # A fake tensor takes no mask: the number of places that it leaves is unknown to it.
            args = (args[0], _places(args[1]), *args[2:])
        result: Any
        if operation.overloadpacket is _ATEN.random_:
            result = MODE.from_tensor(args[0])  # dropout's draws: no shape depends on them
        else:
            result = operation(*args, **(kwargs or {}))
            if operation is _ATEN.native_group_norm_backward.default and result[0] is not None:
                # The fake kernel promotes to the weights' type, the real one keeps the input's.
                result = (result[0].to(args[1].dtype), *result[1:])
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        square = tensor.ndim == 4 and tensor.shape[-1] == tensor.shape[-2] > 1
        if address in self._seen or (self._fused_attention and square):
            return
        self._seen.add(address)
        self._now += size
        self.peaks[-1] = max(self.peaks[-1], self._now)
        # The storage's Python object lives as long as the storage itself.
        weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self._now -= size


def _places(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """``indices`` with the positions of the true elements of each real mask in place of the mask."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is None or index.dtype != torch.bool or isinstance(index, FakeTensor):
            found.append(index)
        else:
            found.extend(index.nonzero().unbind(1))
    return found
