"""The settings of a fine-tuning run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lalia.data.augment import AugmentSettings
from lalia.training.settings import (
    BatchSettings,
    DataSettings,
    HardwareSettings,
    LogSettings,
    OptimSettings,
    ScheduleSettings,
)


@dataclass
class LabelSettings:
    """Which labels are learned from and what they become."""

    minutes: float = 0.0
    """learn from this many minutes of labelled audio, the same clips every time, and more minutes hold the fewer; 0 = all"""
    case: Literal["auto", "lower", "upper", "keep"] = "auto"
    """letters become lower or upper case, or stay; auto = as suits the language, mostly lower"""
    punctuation: Literal["auto", "drop", "keep"] = "auto"
    """whether punctuation is learned; auto = no"""
    digits: Literal["auto", "spell", "keep"] = "auto"
    """numbers are spelled out as words, or kept as digits; auto = spelled where num2words knows the language"""
    normaliser: str = ""
    """a normaliser.json to use as it is, instead of the language's own settings and the three above"""
    unit: Literal["auto", "letters", "graphemes", "jamo", "pieces"] = "auto"
    """what the head spells in; auto = chosen from the labels, as `python -m finetune check` shows"""
    pieces: int = 512
    """tokens of a vocabulary of pieces"""


@dataclass
class FreezeSettings:
    """What stands still, and what starts anew."""

    encoder_share: float = 0.0
    """share of the steps in which only the head learns"""
    encoder_lr: float = 1.0
    """learning rate of the encoder as a share of the head's"""
    layer_decay: float = 1.0
    """each block below the top learns at this share of the one above it"""
    renew: int = 0
    """blocks at the top that start from random weights: they are the ones pretraining made for its own task"""


@dataclass
class RegularSettings:
    """Masks as in SpecAugment (Park et al. 2019) on features, and dropout."""

    time_coverage: float = 0.5
    """sum of the hidden spans of frames as a share of the clip"""
    time_span: int = 5
    """frames of one span"""
    channel_coverage: float = 0.3
    """sum of the hidden spans of channels as a share of the width"""
    channel_span: int = 16
    """channels of one span"""
    dropout: float = 0.1
    """in the encoder's blocks and before the head"""
    layerdrop: float = 0.05
    """chance that a whole block is skipped in a training step"""


@dataclass
class FinetuneSettings:
    """Everything a fine-tuning run is made of."""

    encoder: str = ""
    """folder of the encoder to start from, made by `python -m pretrain fit` or `lalia convert`"""
    start: Literal["pretrained", "random"] = "pretrained"
    """random = the encoder's shape with random weights, to see what pretraining bought"""
    data: DataSettings = field(default_factory=DataSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    freeze: FreezeSettings = field(default_factory=FreezeSettings)
    regular: RegularSettings = field(default_factory=RegularSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    log: LogSettings = field(default_factory=LogSettings)
    out: str = ""
    """run folder; the same command continues what is there"""
    seed: int = 1
    """everything random is a function of this and the number of the step"""
