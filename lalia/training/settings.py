"""Settings sections that all stages share: data, batch, optim, schedule, hardware, log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from numpy.typing import NDArray

from lalia.data.batch import MaskSampler, MaskSettings
from lalia.data.plan import BatchPlan
from lalia.errors import UserError
from lalia.inputs import identify, wrong_kind
from lalia.models.shape import EncoderShape
from lalia.units import Seconds

if TYPE_CHECKING:
    import numpy as np

    from lalia.data.mixture import Mixture


@dataclass
class DataSettings:
    """What a run learns from."""

    corpus: list[str] = field(default_factory=list)
    """corpus folder made by `lalia prepare`; repeat the flag for several"""
    language: list[str] = field(default_factory=list)
    """only clips in these languages (ISO 639-3); none given = all"""
    min_s: float = 0.5
    """shorter clips are skipped, seconds"""
    max_s: float = 15.0
    """longest clip in a batch, seconds"""
    alpha: float = 0.5
    """languages and corpora are sampled with p ~ hours^alpha: 1 proportional to hours, 0 uniform (XLS-R: 0.5)"""
    workers: int = 1
    """processes that decode audio"""


@dataclass
class BatchSettings:
    """How much audio one optimizer step sees."""

    hours: float = 1.6
    """hours of audio per optimizer step, over all devices (wav2vec 2.0 BASE: 1.6)"""
    micro_s: float = 80.0
    """seconds of audio that one device holds at a time; the rest of the batch is accumulated"""

    def accumulation(self, ranks: int) -> int:
        """Micro-batches that each of ``ranks`` devices accumulates per step, as near to ``hours`` as possible."""
        if self.hours <= 0 or self.micro_s <= 0:
            raise UserError(f"batch.hours {self.hours} and batch.micro_s {self.micro_s} must be more than 0")
        return max(1, round(self.hours * 3600 / (self.micro_s * ranks)))


@dataclass
class OptimSettings:
    """AdamW and its learning rate."""

    lr: float = 5e-4
    """peak learning rate"""
    beta1: float = 0.9
    """decay of the gradient's mean"""
    beta2: float = 0.98
    """decay of the gradient's square"""
    eps: float = 1e-6
    """added to the root of the gradient's square"""
    weight_decay: float = 0.01
    """weight decay of matrices; vectors (norms, biases) have none"""
    clip: float = 0.0
    """gradient clipping: gradients with a larger norm are scaled down to this norm; 0 = off, as in fairseq"""


@dataclass
class ScheduleSettings:
    """Length of the run and learning-rate schedule: warm-up over `warmup`, constant over `hold`, then decay to `final`."""

    steps: int = 0
    """optimizer steps; 0 = as many as fit `minutes`"""
    minutes: float = 0.0
    """time budget, used if steps is 0: converted to steps by timing micro-batches and again the first steps (docs/hardware.md)"""
    warmup: float = 0.1
    """learning-rate warm-up, as a share of the steps"""
    hold: float = 0.0
    """share of the steps at the peak"""
    decay: Literal["linear", "exponential", "cosine"] = "linear"
    """shape of the decay"""
    final: float = 0.0
    """learning rate at the end, as a share of the peak"""


@dataclass
class HardwareSettings:
    """What the run uses of the machine."""

    strategy: Literal["auto", "ddp", "zero1", "zero2", "zero3", "zero2-offload", "zero3-offload"] = "auto"
    """auto = one device alone, several with ddp. DeepSpeed splits over devices: zero1 optimizer state, zero2 also gradients,
    zero3 also weights; offload keeps optimizer state (zero3: and weights) in CPU memory"""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """what the run trains on; auto = CUDA if there is a GPU, else the CPU"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """arithmetic of the matrix products; weights, losses, softmax and quantizer stay in float32. auto = bf16 on a GPU that has
    it (Ampere and later), fp16 on an older one, fp32 on other devices; a continued run keeps its precision"""
    checkpointing: bool = False
    """activation checkpointing: keep only each block's input and recompute the block in the backward pass. Same numbers, less
    memory, a second forward pass; `lalia pretrain plan` says whether it is needed"""
    compile: bool = False
    """torch.compile each block: fewer passes over memory on a GPU, no gain measured on a CPU; on a GPU dropout draws other
    numbers"""
    devices: int = 1
    """devices of one node; without a GPU, any number of processes"""
    nodes: int = 1
    """nodes, each started with the same command by torchrun or SLURM"""
    threads: int = 0
    """CPU threads of one process; 0 = as torch chooses"""

    @property
    def ranks(self) -> int:
        """Processes of the whole run."""
        return self.devices * self.nodes


@dataclass
class LogSettings:
    """Logging, validation and checkpoint intervals."""

    every: int = 10
    """steps between two lines of metrics.jsonl"""
    valid_every: int = 200
    """steps between two validations"""
    checkpoint_minutes: float = 10.0
    """minutes between two checkpoints"""
    checkpoint_every: int = 0
    """steps between two checkpoints; 0 = by `checkpoint_minutes`"""


@dataclass
class RunSettings:
    """The settings that every training run has; each stage adds its own."""

    data: DataSettings = field(default_factory=DataSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    log: LogSettings = field(default_factory=LogSettings)
    out: str = ""
    """run folder; the same command continues what is there"""
    seed: int = 1
    """everything random is a function of this and the number of the step"""

    def batch_plan(
        self, mixture: Mixture, rows: NDArray[np.integer], *, groups: NDArray[np.integer] | None = None,
        micro_s: Seconds = 0.0, crop: bool = True,
    ) -> BatchPlan:  # fmt: skip
        """The micro-batches over ``rows`` of ``mixture``; ``groups`` instead of its languages and corpora, ``micro_s`` instead
        of ``batch.micro_s``. Clips longer than ``data.max_s`` are cropped, or left out without ``crop``."""
        data = self.data
        return BatchPlan(
            durations_s=mixture.durations_s, groups=mixture.groups if groups is None else groups, rows=rows, seed=self.seed,
            micro_batch_s=micro_s or self.batch.micro_s, min_s=data.min_s, max_s=data.max_s, alpha=data.alpha, crop=crop,
        )  # fmt: skip


@dataclass
class SpecAugmentSettings:
    """Masks on features as in SpecAugment (Park et al. 2019), and dropout."""

    time_coverage: float = 0.5
    """sum of the masked spans of frames as a share of the clip"""
    time_span: int = 5
    """frames of one span"""
    channel_coverage: float = 0.3
    """sum of the masked spans of channels as a share of the width"""
    channel_span: int = 16
    """channels of one span"""
    dropout: float = 0.1
    """in the blocks of the model that learns, and before its head"""

    def sampler(self, seed: int, shape: EncoderShape) -> MaskSampler:
        """The loader's stage that draws these masks for an encoder of ``shape``."""
        time = MaskSettings(self.time_coverage, self.time_span, 0)
        return MaskSampler(
            seed, shape.frames, shape.width, time, MaskSettings(self.channel_coverage, self.channel_span, 0)
        )


def require(value: object, flag: str, what: str) -> None:
    """Raise ``UserError`` that names ``flag`` if ``value`` is empty."""
    if not value:
        raise UserError(f"{flag} is missing: {what}")


def require_corpora(paths: list[str], flag: str) -> None:
    """Raise ``UserError`` for the first of ``paths`` that is not a corpus."""
    for path in paths:
        if identify(path).kind != "corpus":
            raise wrong_kind(path, "corpus", flag)
