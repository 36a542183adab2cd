"""The settings of a fine-tuning run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lalia.align.pieces import ACCEPT
from lalia.align.written import TextOptions
from lalia.data.augment import AugmentSettings
from lalia.training.settings import RunSettings, ScheduleSettings, SpecAugmentSettings


@dataclass
class LabelSettings:
    """Which labels are used, and how they become tokens."""

    minutes: float = 0.0
    """minutes of labelled audio to use; always the same clips, and a larger subset contains the smaller; 0 = all"""
    case: Literal["auto", "lower", "upper", "keep"] = "auto"
    """case of the labels; auto = as the language needs, mostly lower"""
    punctuation: Literal["auto", "drop", "keep"] = "auto"
    """whether punctuation is kept; auto = no"""
    digits: Literal["auto", "spell", "keep"] = "auto"
    """spell numbers as words, or keep digits; auto = spelled where num2words or CLDR know the language's numbers"""
    numbers: str = ""
    """a table of the language's numbers, NUMBER<tab>WORDS a line, for languages whose numbers no library knows; `lalia finetune
    check --numbers FILE` makes one to fill in"""
    normaliser: str = ""
    """a normaliser.json to use instead of the language's defaults and the three settings above"""
    unit: Literal["auto", "letters", "graphemes", "jamo", "pieces"] = "auto"
    """kind of token; auto = chosen from the labels, as `lalia finetune check` shows"""
    pieces: int = 512
    """size of a vocabulary of pieces"""


@dataclass
class ModelSettings:
    """The model that is trained."""

    kind: Literal["encoder", "wav2letter", "deepspeech", "conformer"] = "encoder"
    """encoder = the one in `--encoder` or `--recogniser`. The others are baselines with random weights, which can be exported
    too: torchaudio's Wav2Letter and DeepSpeech, and a Conformer, which can also be adapted, distilled and pruned"""
    features: Literal["spectrogram", "mfcc"] = "spectrogram"
    """input of the baselines: 80 log-mel bins or 40 MFCCs"""
    width: int = 0
    """units of DeepSpeech (0 = 2048 as published), dimensions of the Conformer (0 = 192)"""
    layers: int = 5
    """blocks of the Conformer"""


@dataclass
class TransducerSettings:
    """The transducer that `--head transducer` trains beside the CTC head."""

    width: int = 0
    """dimensions of the joiner's tanh layer; 0 = none: encoder and predictor add scores of tokens, which is fastest"""
    predictor: int = 128
    """dimensions of the predictor, which reads the last two tokens"""
    ctc: float = 0.3
    """share of CTC in the loss, more than 0 and less than 1; the transducer has the rest"""


@dataclass
class AdapterSettings:
    """The adapter that `--mode adapter` adds to the shared encoder for one language."""

    share: float = 0.02
    """its weights as a share of the encoder's; this sets the rank of its matrices. Presets give small encoders more"""


@dataclass
class FreezeSettings:
    """Frozen, slower and re-initialised parts of the encoder."""

    encoder_share: float = 0.0
    """share of the steps, at the start, in which the encoder is frozen and only the head learns"""
    encoder_lr: float = 1.0
    """learning rate of the encoder as a share of the head's"""
    layer_decay: float = 1.0
    """learning rate of each block as a share of that of the block above it"""
    renew: int = 0
    """blocks at the top that start from random weights, because they are specialised to the pretraining task"""
    stem: bool = False
    """freeze the convolutions on the raw wave for the whole run (wav2vec 2.0's recipe)"""


@dataclass
class RegularSettings(SpecAugmentSettings):
    """SpecAugment on features, dropout and layerdrop."""

    feedforward_dropout: float = 0.1
    """inside the feed-forward layers"""
    layerdrop: float = 0.05
    """chance that a whole block is skipped in a training step"""


@dataclass
class FinetuneScheduleSettings(ScheduleSettings):
    """Length, learning-rate schedule and early stopping."""

    patience: int = 0
    """early stopping: this many validations in a row without a better error rate (select.by) end the run, counted after the
    frozen steps and alarm.grace; 0 = never"""


@dataclass
class SelectSettings:
    """Which checkpoint is kept: the one with the lowest error rate on held-out clips."""

    by: Literal["cer", "wer", "wer_lm"] = "cer"
    """CER, WER, or WER decoded with a language model (wer_lm)"""
    lm: str = ""
    """with wer_lm: folder of a language model made by `lalia finetune lm` or `lalia lm`; "" = n-grams of letters of the
    labels that this run learns from"""
    clips: int = 100
    """with wer_lm: held-out clips that are decoded with it at each validation, spread evenly; 0 = all. An hour of them takes one
    core 12 s, and 90 s at the start of training"""


@dataclass
class AlarmSettings:
    """The blank alarm: what to do when the recogniser outputs only blanks."""

    enabled: bool = True
    """use the alarm; it does not change a healthy run"""
    silent: float = 0.02
    """the output counts as blank below this number of tokens per reference token"""
    grace: float = 0.3
    """share of the steps after the frozen ones in which blank output is allowed"""
    warm: float = 0.1
    """after a restart: share of the steps in which the encoder is frozen and only the head learns"""
    cut: float = 0.3
    """the learning rate is multiplied by this at each restart"""
    tries: int = 2
    """restarts before the run is stopped"""


@dataclass
class FinetuneSettings(RunSettings):
    """All settings of a fine-tuning run."""

    encoder: str = ""
    """folder of the encoder to start from, made by `lalia pretrain fit` or `lalia convert`, or the name of the shipped one:
    nano-multilingual"""
    recogniser: str = ""
    """folder of a recogniser to start from instead; its head is kept and extended by the new letters"""
    start: Literal["pretrained", "random"] = "pretrained"
    """random = the encoder's shape with random weights, to measure what pretraining gains"""
    mode: Literal["full", "head", "adapter"] = "full"
    """full = all weights learn; head = only the head; adapter = only a head and a small adapter for this language, so that many
    languages share one frozen encoder"""
    preset: Literal["auto", "none", "10min", "1h", "10h", "100h"] = "auto"
    """defaults for settings that neither config nor flags give: by the hours of labels (auto), for a fixed amount, or none"""
    head: Literal["ctc", "transducer"] = "ctc"
    """ctc = a linear layer; transducer = a transducer beside it, for `--decoder transducer`. Validation and selection are of the
    transducer then"""
    transducer: TransducerSettings = field(default_factory=TransducerSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    labels: LabelSettings = field(default_factory=LabelSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    freeze: FreezeSettings = field(default_factory=FreezeSettings)
    regular: RegularSettings = field(default_factory=RegularSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    schedule: FinetuneScheduleSettings = field(default_factory=FinetuneScheduleSettings)
    select: SelectSettings = field(default_factory=SelectSettings)
    alarm: AlarmSettings = field(default_factory=AlarmSettings)

    @property
    def fresh(self) -> bool:
        """Whether all weights start random."""
        return self.model.kind != "encoder" or self.start == "random"

    @property
    def weights(self) -> str:
        """The kind of initial weights, for records: a baseline is always "random", whatever `start` says."""
        return "random" if self.fresh else "pretrained"


@dataclass
class GrowthSettings:
    """Where more labels come from, and when to stop."""

    source: list[str] = field(default_factory=list)
    """recordings with their text, as `lalia align` takes them: a folder of pairs or a table; or the flag twice, audio and text"""
    unlabelled: list[str] = field(default_factory=list)
    """corpus of audio without text; its clips get pseudo-labels"""
    text: list[str] = field(default_factory=list)
    """text file for the language model of the pseudo-labels, in addition to the labels"""
    recogniser: str = ""
    """a recogniser or run that was trained on the same labels; the first round uses it instead of training one"""
    accept: float = ACCEPT
    """highest score of an aligned piece that is accepted: the expected share of wrong words"""
    confidence: float = 0.9
    """a pseudo-label is used if the geometric mean of its letters' probabilities reaches this"""
    rounds: int = 4
    """the most rounds"""
    least: float = 0.02
    """a round that accepts less than this share more than the one before is the last"""


@dataclass
class GrowSettings(FinetuneSettings):
    """All settings of `lalia finetune grow`: those of the fits, and the sources of more labels."""

    grow: GrowthSettings = field(default_factory=GrowthSettings)
    reading: TextOptions = field(default_factory=TextOptions)


@dataclass
class FoldSettings:
    """Settings of `lalia finetune fold`: one language of a recogniser with adapters as a separate recogniser."""

    recogniser: str = ""
    """folder of the recogniser with adapters"""
    language: str = ""
    """which of its languages (ISO 639-3); optional if it has only one"""
    out: str = ""
    """folder to write"""
