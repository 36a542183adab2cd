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
    """what the head spells in; auto = chosen from the labels, as `lalia finetune check` shows"""
    pieces: int = 512
    """tokens of a vocabulary of pieces"""


@dataclass
class ModelSettings:
    """What learns."""

    kind: Literal["encoder", "wav2letter", "deepspeech", "conformer"] = "encoder"
    """encoder = the one in `--encoder` or `--recogniser`. The others start from nothing, for comparison, and become students
    as it does: torchaudio's Wav2Letter and DeepSpeech, and a Conformer, which can also be adapted, distilled and pruned"""
    features: Literal["spectrogram", "mfcc"] = "spectrogram"
    """what the baselines hear: 80 log-mel bins or 40 cepstra"""
    width: int = 0
    """units of DeepSpeech (0 = 2048 as published), dimensions of the Conformer (0 = 192)"""
    layers: int = 5
    """blocks of the Conformer"""


@dataclass
class AdapterSettings:
    """What `--mode adapter` adds to the shared encoder for a language."""

    share: float = 0.02
    """its weights as a share of the encoder's; the rank of its matrices follows. The preset gives small encoders more"""


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
    stem: bool = False
    """the convolutions on the raw wave never learn (wav2vec 2.0's recipe)"""


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
class FinetuneScheduleSettings(ScheduleSettings):
    """How long, how the rate goes, and when to stop early."""

    patience: int = 0
    """looks at held-out audio in a row without a better error rate (select.by) that end the run, counted behind the frozen steps
    and alarm.grace; 0 = never"""


@dataclass
class SelectSettings:
    """Which checkpoint is the best: the one that held-out audio likes most."""

    by: Literal["cer", "wer", "wer_lm"] = "cer"
    """errors of letters (CER), of words (WER), or of words as decoded with a language model (wer_lm)"""
    lm: str = ""
    """with wer_lm: folder of a language model made by `lalia finetune lm` or `lalia lm`; "" = n-grams of letters of the
    labels that this run learns from"""
    clips: int = 100
    """with wer_lm: held-out clips that are decoded so at each look, spread evenly; 0 = all. An hour of them takes one core 12 s,
    and 90 s while nothing is learned yet"""


@dataclass
class AlarmSettings:
    """What to do where the recogniser says nothing but blank."""

    enabled: bool = True
    """watch for it; a run that speaks is not touched"""
    silent: float = 0.02
    """letters said as a share of those it should say, below which it is silent"""
    grace: float = 0.3
    """share of the steps behind the frozen ones in which a new head may be silent"""
    warm: float = 0.1
    """share of the steps in which the encoder is frozen then, while the head learns alone"""
    cut: float = 0.3
    """what is left of the learning rate each time"""
    tries: int = 2
    """times it acts before it stops the run"""


@dataclass
class FinetuneSettings:
    """Everything a fine-tuning run is made of."""

    encoder: str = ""
    """folder of the encoder to start from, made by `lalia pretrain fit` or `lalia convert`, or the name of one that comes
    with the project: nano-multilingual"""
    recogniser: str = ""
    """folder of a recogniser to start from instead: its letters keep their places in the head, new ones are added behind them"""
    start: Literal["pretrained", "random"] = "pretrained"
    """random = the encoder's shape with random weights, to see what pretraining bought"""
    mode: Literal["full", "head", "adapter"] = "full"
    """full = everything learns; head = the head alone; adapter = a small part for this language besides, so that many languages
    share one encoder and none changes another"""
    preset: Literal["auto", "none", "10min", "1h", "10h", "100h"] = "auto"
    """what is chosen where neither config nor flags say anything: by the hours of labels (auto), as for so many, or not at all"""
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    freeze: FreezeSettings = field(default_factory=FreezeSettings)
    regular: RegularSettings = field(default_factory=RegularSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    batch: BatchSettings = field(default_factory=BatchSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    schedule: FinetuneScheduleSettings = field(default_factory=FinetuneScheduleSettings)
    select: SelectSettings = field(default_factory=SelectSettings)
    alarm: AlarmSettings = field(default_factory=AlarmSettings)
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    log: LogSettings = field(default_factory=LogSettings)
    out: str = ""
    """run folder; the same command continues what is there"""
    seed: int = 1
    """everything random is a function of this and the number of the step"""

    @property
    def fresh(self) -> bool:
        """Whether everything starts from random weights."""
        return self.model.kind != "encoder" or self.start == "random"

    @property
    def weights(self) -> str:
        """What everything starts from, as records say it: a baseline has nothing pretrained, whatever `start` says."""
        return "random" if self.fresh else "pretrained"


@dataclass
class FoldSettings:
    """One language of a recogniser with adapters as a recogniser of its own."""

    recogniser: str = ""
    """folder of the recogniser with adapters"""
    language: str = ""
    """which of its languages (ISO 639-3); may be left out where it has one"""
    out: str = ""
    """folder to write"""
