"""The settings of a distillation run, a pruning run, and an export."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lalia.data.augment import AugmentSettings
from lalia.training.settings import DataSettings, RunSettings, SpecAugmentSettings


@dataclass
class StudentSettings:
    """The student's shape; what is 0 or empty is as the teacher has it."""

    start: str = ""
    """folder of a recogniser to start from, shape and all; none given = cut out of the teacher as the others here say"""
    layers: int = 0
    """blocks; 0 = half as many as the teacher has, rounded up"""
    blocks: list[int] = field(default_factory=list)
    """which of the teacher's blocks, from 0, the student's start from; none given = evenly spaced from first to last"""
    width: int = 0
    """dimensions of a frame; narrower keeps the teacher's most read channels, and its heads' width with fewer heads"""
    feedforward: int = 0
    """inner dimensions of the feed-forward layers; fewer keeps the units with the largest weights"""
    position_kernel: int = 0
    """frames of the convolution that tells positions; shorter keeps its middle"""
    chunk: int = 0
    """a streaming student: frames that it hears at once and behind which none of them sees"""
    left_chunks: int = 0
    """a streaming student: chunks before its own that a frame's attention sees, in every block"""


@dataclass
class LabelSettings:
    """Which labels the student may see."""

    minutes: float | None = None
    """minutes of labelled audio; none given = as many as the teacher learned from, the same clips; 0 = all there are"""


@dataclass
class LossSettings:
    """What counts how much. Each loss is a mean over what it looks at."""

    posteriors: float = 1.0
    """divergence of the student's letters from the teacher's, per frame"""
    temperature: float = 2.0
    """both sides' logits are divided by this before they are compared"""
    blank_weight: float = 0.1
    """what a frame counts where the teacher is sure of the blank, against 1 where it is sure of a letter"""
    hidden: float = 0.5
    """distance of the student's hidden frames from the teacher's, L1 and cosine"""
    cosine: float = 1.0
    """weight of the cosine against the L1 distance"""
    hidden_layers: list[int] = field(default_factory=list)
    """the student's blocks, from 0, whose output is compared with that of the teacher's block they come from; none given = all"""
    labels: float = 0.3
    """CTC on labels, per token"""
    pseudo: float = 0.3
    """CTC on what the teacher heard in clips without a label, per token"""
    confidence: float = 0.9
    """how sure the teacher must be of a clip, on (geometric) average over its letters, for that"""
    pseudo_lm: str = ""
    """folder of a language model (`lalia lm`): what the teacher heard is then searched for with it, once for each clip; none
    given = the teacher's likeliest letters, found while training"""
    pauses: float = 0.3
    """CTC of a word boundary in each pause between clips that were joined"""


@dataclass
class RegularSettings(SpecAugmentSettings):
    """SpecAugment on the student's features; the teacher's are not masked."""

    time_coverage: float = 0.3
    channel_coverage: float = 0.1
    dropout: float = 0.0


@dataclass
class DistillSettings(RunSettings):
    """Everything a distillation run is made of."""

    teacher: str = ""
    """folder of the recogniser to learn from, made by `lalia finetune fit` or `lalia convert`"""
    join_s: float = 30.0
    """the student hears clips joined, with pauses between them, to waves of up to this many seconds (the runtime's window), drawn
    anew for each micro-batch; the teacher hears each alone. 0 = each clip for itself"""
    qat: bool = False
    """the student computes in fake int8 while it learns, rounded as the exported file will be, and comes to terms with it; for
    one that lost too much: `--qat true --student.start RUN/recogniser` and a few hundred steps"""
    labels: LabelSettings = field(default_factory=LabelSettings)
    student: StudentSettings = field(default_factory=StudentSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    regular: RegularSettings = field(default_factory=RegularSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """other speeds are for teacher and student alike; rooms, noise and telephones are for the student alone"""


@dataclass
class PruneSection:
    """Which units get gates, and how much of the model shall be left."""

    target: float = 0.5
    """what shall be left of the whole model, as a share"""
    cost: Literal["parameters", "multiply_adds"] = "parameters"
    """share of what: numbers in the file, or products per second of audio (they differ where a stem works on the wave)"""
    units: list[str] = field(default_factory=lambda: ["heads", "feedforward", "channels"])
    """what may be taken out: attention heads, feed-forward units, channels of convolutions"""
    share: float = 0.6
    """share of the schedule in which gates are learned; in the rest what is left is healed"""
    warmup: float = 0.3
    """share of that in which the target goes from 1 to `target`"""
    lr: float = 0.02
    """learning rate of gates and multipliers (DPHuBERT: 0.02)"""
    open_chance: float = 0.95
    """chance of a gate to be open at the start"""


@dataclass
class PruneSettings(DistillSettings):
    """Everything a pruning run is made of: that of a distillation run, and the gates."""

    prune: PruneSection = field(default_factory=PruneSection)


@dataclass
class QuantizeSettings:
    """What becomes int8. Features, normalisation and attention scores are computed in float always."""

    keep_float: list[str] = field(default_factory=list)
    """groups that stay float, as the sensitivity table names them: `blocks.0.feed-forward`, `head`, or a kind: `attention`"""
    rescue: int = 2
    """groups that may return to float, the most harmful first, if the error grows too much with all of them in int8"""
    reduce_range: bool = False
    """weights of 7 bits, for processors that add int8 products in 16 bits (x86 without VNNI)"""


@dataclass
class GateSettings:
    """The budget that the exported file must keep on held-out audio."""

    float_ratio: float = 1.05
    """character error rate at most this many times that of the same student in float"""
    teacher_ratio: float = 1.15
    """and at most this many times the teacher's"""
    slack: float = 0.001
    """errors per character that are forgiven besides: on a short test set one letter would otherwise decide"""
    speed: float = 20.0
    """seconds of audio per second on one thread, at least"""
    speedup: float = 0.0
    """times the teacher's speed on one thread, at least; 0 = not asked"""
    size_ratio: float = 0.0
    """bytes of the file at most this share of the teacher's weights; 0 = not asked"""


@dataclass
class MeasureSettings:
    """What is measured on how much audio."""

    split: str = "test"
    """clips that errors are counted on: test, or dev"""
    clips: int = 0
    """at most so many of them; 0 = all"""
    timing_s: float = 60.0
    """seconds of them that speeds are measured on"""
    repeats: int = 5
    """the speed is the median of so many runs"""
    sensitivity_s: float = 120.0
    """seconds of them on which each group is quantized alone"""


@dataclass
class ExportSettings:
    """Everything an export is made of."""

    recogniser: str = ""
    """folder of the recogniser to export: RUN/recogniser of `lalia distill fit`, or of `lalia finetune fit`"""
    teacher: str = ""
    """folder of the recogniser it learned from, to be measured beside it; none given = no comparison"""
    data: DataSettings = field(default_factory=DataSettings)
    quantize: QuantizeSettings = field(default_factory=QuantizeSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    measure: MeasureSettings = field(default_factory=MeasureSettings)
    out: str = ""
    """the student folder; written only if the gate lets it pass"""
