"""The settings of distillation, pruning and export."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lalia.data.augment import AugmentSettings
from lalia.training.settings import DataSettings, RunSettings, SpecAugmentSettings


@dataclass
class StudentSettings:
    """The student's shape; 0 or empty = as in the teacher, or, with a frontend that the teacher does not have, as in
    nano-multilingual."""

    start: str = ""
    """folder of a recogniser to start from, with its shape; none given = cut from the teacher by the settings below"""
    input: Literal["", "logmel"] = ""
    """frontend: logmel = log-mel frames whatever the teacher has; none given = the teacher's"""
    bins: int = 0
    """logmel: mel bins; 0 = 80, or the teacher's"""
    stack: int = 0
    """logmel: 10 ms frames per frame; 0 = 4 (40 ms), or the teacher's"""
    block: Literal["", "transformer", "convolutional", "conformer"] = ""
    """with another frontend than the teacher's: kind of the blocks; none given = convolutional"""
    alphabet: str = ""
    """labels = only the teacher's letters that occur in the training labels, or a file of tokens (tokens.txt), or a folder with
    one; none given = the teacher's letters"""
    layers: int = 0
    """blocks; 0 = half as many as the teacher has, rounded up"""
    blocks: list[int] = field(default_factory=list)
    """the teacher's blocks, from 0, that the student keeps; none given = evenly spaced from first to last"""
    width: int = 0
    """dimensions of a frame; a narrower student keeps the channels with the largest weights, and fewer heads of the same width"""
    feedforward: int = 0
    """inner dimensions of the feed-forward layers; fewer = the units with the largest weights"""
    position_kernel: int = 0
    """frames of the positional convolution; shorter = its middle"""
    chunk: int = 0
    """streaming student: frames of a chunk; no frame sees beyond its chunk"""
    left_chunks: int = 0
    """streaming student: earlier chunks that attention sees, in every block"""


@dataclass
class StoreSettings:
    """The teachers' outputs on disk, computed once for all clips and reused by every student."""

    folder: str = ""
    """the store; it holds several teachers. None given = the teachers run in every step"""
    top: int = 8
    """tokens stored per frame, with their probabilities"""
    layers: list[int] = field(default_factory=list)
    """the teacher's blocks, from 0, whose output is stored; none given = the middle one and the last"""
    components: int = 88
    """principal components stored of each of these, per 40 ms; 0 = no hidden frames"""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """while outputs are computed; auto = bf16 for teachers from 100 M parameters on CPUs that have it, else hardware.precision"""


@dataclass
class LabelSettings:
    """Which labels are used."""

    minutes: float | None = None
    """minutes of labelled audio; none given = the clips that the teacher was trained on; 0 = all"""


@dataclass
class LossSettings:
    """Weights of the losses. Each loss is a mean over its frames or tokens."""

    posteriors: float = 1.0
    """KL divergence of the student's posteriors from the teacher's, per frame"""
    temperature: float = 2.0
    """the logits of both are divided by this before they are compared"""
    blank_weight: float = 0.1
    """weight of frames where the teacher is sure of the blank, against 1 where it is sure of a token"""
    hidden: float = 0.5
    """L1 and cosine distance of the student's hidden frames from the teacher's"""
    cosine: float = 1.0
    """weight of the cosine relative to the L1 distance"""
    hidden_layers: list[int] = field(default_factory=list)
    """the student's blocks, from 0, whose output is compared with that of their teacher block; none given = all"""
    labels: float = 0.3
    """CTC on labels, per token"""
    pseudo: float = 0.3
    """CTC on pseudo-labels of unlabelled clips, per token"""
    confidence: float = 0.9
    """a pseudo-label is used if the geometric mean of its tokens' probabilities reaches this"""
    pseudo_lm: str = ""
    """folder of a language model (`lalia lm`) for pseudo-labels by beam search, made once before training; none given = greedy
    decoding while training"""
    pauses: float = 0.3
    """CTC of a word boundary in each pause between joined clips"""


@dataclass
class RegularSettings(SpecAugmentSettings):
    """SpecAugment on the student's features; the teacher's are not masked."""

    time_coverage: float = 0.3
    channel_coverage: float = 0.1
    dropout: float = 0.0


@dataclass
class DistillSettings(RunSettings):
    """All settings of a distillation run."""

    teacher: list[str] = field(default_factory=list)
    """folder of the recogniser to learn from, made by `lalia finetune fit` or `lalia convert`, or of a student; given several
    times: an ensemble, the mean of their probabilities"""
    join_s: float = 30.0
    """the student's clips are joined, with pauses, to waves of up to this many seconds (the runtime's window), newly drawn for
    each micro-batch; the teacher gets single clips. 0 = no joining"""
    qat: bool = False
    """quantization-aware training: weights and activations are rounded as in the exported int8 file. For a student that loses
    too much in int8: `--qat true --student.start RUN/recogniser` and a few hundred steps"""
    store: StoreSettings = field(default_factory=StoreSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    student: StudentSettings = field(default_factory=StudentSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    regular: RegularSettings = field(default_factory=RegularSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    """augmentation: speed for teacher and student, rooms, noise and telephones for the student only"""


@dataclass
class PruneSection:
    """Gates and the target size of pruning."""

    target: float = 0.5
    """size of the pruned model as a share of the whole"""
    cost: Literal["parameters", "multiply_adds"] = "parameters"
    """measure of size: weights, or multiply-adds per second of audio (they differ for convolutions on the wave)"""
    units: list[str] = field(default_factory=lambda: ["heads", "feedforward", "channels"])
    """what may be removed: attention heads, feed-forward units, channels of convolutions"""
    share: float = 0.6
    """share of the schedule for the gates; the rest is distillation of the pruned model"""
    warmup: float = 0.3
    """share of the gates' steps in which the target falls from 1 to `target`"""
    lr: float = 0.02
    """learning rate of gates and multipliers (DPHuBERT: 0.02)"""
    open_chance: float = 0.95
    """initial probability that a gate is open"""


@dataclass
class PruneSettings(DistillSettings):
    """All settings of a pruning run: those of distillation, and the gates."""

    prune: PruneSection = field(default_factory=PruneSection)


@dataclass
class QuantizeSettings:
    """What becomes int8. Features, normalisation and attention scores always stay float."""

    keep_float: list[str] = field(default_factory=list)
    """groups that stay float, as the sensitivity table names them: `blocks.0.feed-forward`, `head`, or a kind: `attention`"""
    rescue: int = 2
    """groups that may return to float, the most harmful first, if the error rate is too high with all in int8"""
    reduce_range: bool = False
    """weights of 7 bits, for processors that accumulate int8 products in 16 bits (x86 without VNNI)"""


@dataclass
class GateSettings:
    """The budget of the quality checks at export, on held-out audio."""

    float_ratio: float = 1.05
    """character error rate at most this many times that of the same student in float"""
    teacher_ratio: float = 1.15
    """character error rate at most this many times the teacher's"""
    slack: float = 0.001
    """additional errors per character that are allowed, because on a short test set one letter would decide"""
    speed: float = 20.0
    """seconds of audio per second on one thread, at least"""
    speedup: float = 0.0
    """at least this many times the teacher's speed on one thread; 0 = not checked"""
    size_ratio: float = 0.0
    """size of the file, at most this share of the teacher's weights; 0 = not checked"""


@dataclass
class MeasureSettings:
    """Audio for the measurements at export."""

    split: str = "test"
    """split for error rates: test or dev"""
    clips: int = 0
    """at most this many clips of it; 0 = all"""
    timing_s: float = 60.0
    """seconds of audio for the speed measurements"""
    repeats: int = 5
    """the speed is the median of this many runs"""
    sensitivity_s: float = 120.0
    """seconds of audio on which each group is quantized alone"""


@dataclass
class ExportSettings:
    """All settings of an export."""

    recogniser: str = ""
    """folder of the recogniser to export: RUN/recogniser of `lalia distill fit`, or of `lalia finetune fit`"""
    teacher: str = ""
    """folder of its teacher, for comparison; none given = no comparison"""
    data: DataSettings = field(default_factory=DataSettings)
    quantize: QuantizeSettings = field(default_factory=QuantizeSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    measure: MeasureSettings = field(default_factory=MeasureSettings)
    out: str = ""
    """the student folder; written only if the quality checks pass"""
