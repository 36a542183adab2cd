"""The settings of a pretraining run."""

from __future__ import annotations

from dataclasses import dataclass, field

from lalia.data.augment import AugmentSettings
from lalia.data.batch import MaskSettings
from lalia.models.quantizer import ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.training.settings import RunSettings
from pretrain.bands import GuardSettings


@dataclass
class ObjectiveSettings:
    """The contrastive objective. The defaults are wav2vec 2.0 BASE."""

    distractors: int = 100
    """other masked frames of the same clip that each target must win against"""
    temperature: float = 0.1
    """cosine similarities are divided by this"""
    diversity_weight: float = 0.1
    """weight of the penalty on unevenly used codes; kmeans has none"""
    visible_weight: float = 0.0
    """weight of the same loss at frames that are not masked: in a small model these frames, the only kind in fine-tuning,
    learn little from the masked ones alone"""
    feature_weight: float = 10.0
    """weight of the penalty on the size of the stem's output"""
    gumbel_start: float = 2.0
    """temperature of the Gumbel softmax at the first step"""
    gumbel_end: float = 0.5
    """and at its end"""
    gumbel_share: float = 0.6931
    """share of the steps after which gumbel_end is reached (BASE: a factor of 0.999995 per step for 277,259 of 400,000)"""
    target_gradient: bool = True
    """whether the quantizer's gradient reaches the stem"""


@dataclass
class PretrainSettings(RunSettings):
    """All settings of a pretraining run."""

    encoder: str = ""
    """encoder folder to continue from; its shape replaces `model` except dropouts and stem_gradient_scale, and its
    quantizer, if it has one and `quantizer.teacher` is not given, replaces `quantizer`"""
    join_s: float = 0.0
    """clips are joined, language by language, to waves of at most this many seconds; 0 = off"""
    crop: bool = False
    """crop the waves of a micro-batch to its shortest, at a random place, as fairseq does: less audio a pass, no padding, and
    on a GPU no attention mask, so that flash attention can be used"""
    model: EncoderShape = field(default_factory=EncoderShape)
    quantizer: ContrastiveShape = field(default_factory=ContrastiveShape)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    mask: MaskSettings = field(default_factory=MaskSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    guard: GuardSettings = field(default_factory=GuardSettings)
