"""Presets: fine-tuning settings chosen by the hours of labels and the size of the encoder.

Settings are interpolated between two ends on a log scale of the encoder's weights. The large end is wav2vec 2.0 BASE (94 M) as
fairseq fine-tunes it (examples/wav2vec/config/finetuning: base_10m, base_1h, base_10h, base_100h). The small end is this
project's nano encoder (2.9 M), measured with ten minutes of labels (docs/finetuning.md); with more labels it runs fewer epochs.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import FinetuneSettings
from lalia.errors import UserError, closest
from lalia.model_folder import find_made
from lalia.units import Seconds

SMALL_M, LARGE_M = 2.9, 94.37
"""Millions of weights of the encoders at the two ends."""
SMALL_RATE, FRESH_RATE, ADAPTER_RATE, HEAD_RATE = 4e-3, 2e-3, 1e-3, 2e-3
"""The first two: the best of 1e-3, 2e-3 and 4e-3 for a small pretrained encoder and for random weights (docs/diary.md)."""
SMALL_ADAPTER_RATE = 8e-3
"""Twice the rate for all weights of a small encoder, because a low-rank change learns more slowly (docs/diary.md)."""
ADAPTER_SHARES = 0.06, 0.02
"""At the small and the large end: 2 % of three million weights are too few (docs/diary.md)."""
SMALL_FROZEN = 0.15
"""Share of the steps in which the encoder is frozen at the small end (docs/diary.md)."""
VALIDATIONS, PATIENCE = 20, 6


@dataclass(frozen=True)
class Preset:
    """Settings for ``hours`` of labels; pairs are for the large and the small end."""

    hours: float
    steps: tuple[int, int]
    batch_s: tuple[float, float]
    rate: float
    frozen: float
    channel_coverage: float
    layerdrop: float
    speed: float


# Large: 3.2 M samples on 2 GPUs, 4 accumulated: 1,600 s a step. Frozen for 10,000 steps, or not at all (100 h).
PRESETS = {
    "10min": Preset(1 / 6, (13_000, 400), (1600, 30), 5e-5, 10 / 13, 0.25, 0.1, 1.0),
    "1h": Preset(1.0, (13_000, 1_200), (1600, 30), 5e-5, 10 / 13, 0.25, 0.1, 1.0),
    "10h": Preset(10.0, (20_000, 3_000), (1600, 60), 5e-5, 0.5, 0.5, 0.05, 1.0),
    "100h": Preset(100.0, (80_000, 8_000), (1600, 120), 3e-5, 0.0, 0.5, 0.1, 0.5),
}


@dataclass(frozen=True)
class InitialModel:
    """The facts about the model to fine-tune that presets depend on."""

    parameters: int
    width: int
    frame_s: float
    wave: bool
    """whether its frontend is convolutions on the raw wave"""
    fresh: bool
    """whether it starts from random weights"""


@dataclass(frozen=True)
class Choice:
    """A chosen value of a setting, with the reason."""

    key: str
    value: Any
    reason: str


LONGEST_S = 30.0


def data_choices(settings: FinetuneSettings, stated: Collection[str]) -> list[Choice]:
    """The choices that do not depend on the hours of labels."""
    held_s = settings.batch.micro_s if "batch.micro_s" in stated else LONGEST_S
    return [
        Choice("data.min_s", 0.3, "a word is enough"),
        Choice("data.max_s", min(LONGEST_S, held_s), "memory grows with the square of the length"),
        Choice("data.alpha", 1.0, "no balancing of languages"),
    ]


def nearest_preset(hours: float) -> str:
    """The preset whose hours are nearest to ``hours`` on a log scale."""
    return min(PRESETS, key=lambda name: abs(math.log(max(hours, 1e-4) / PRESETS[name].hours)))


def preset_choices(
    name: str, model: InitialModel, mode: str, steps: int = 0, longest_s: Seconds = LONGEST_S
) -> list[Choice]:
    """All choices of the preset ``name`` for ``model``; ``steps`` are those the user gave, 0 = none."""
    preset = PRESETS[name]
    size = math.log(max(model.parameters, 1) / 1e6 / SMALL_M) / math.log(LARGE_M / SMALL_M)
    large = min(1.0, max(0.0, size))
    end = "wav2vec 2.0 BASE's" if large == 1 else "nano's" if large == 0 else "between nano's and wav2vec 2.0 BASE's"
    free = model.fresh or mode != "full" or not preset.frozen
    frozen = 0.0 if free else round(SMALL_FROZEN * (1 - large) + preset.frozen * large, 2)
    # Random weights need weaker masks, and so do small models: they learn less under strong ones.
    masking = large * (0.5 if model.fresh else 1.0)
    batch_s = _between(preset.batch_s[1], preset.batch_s[0], large)
    steps = steps or _round(_between(preset.steps[1], preset.steps[0], large))
    interval = max(1, math.ceil(steps / VALIDATIONS))
    why_stem = "pretrained convolutions are frozen" if model.wave else "it has no convolutions on the wave"
    why_frozen = f"only the head learns for {round(frozen * steps)} steps" if frozen else _why_free(model, mode)
    share = Choice("adapter.share", round(_between(*ADAPTER_SHARES, large), 3), f"of the weights, {end}")
    return [
        Choice("schedule.steps", steps, f"{end} for {name}"),
        Choice("batch.hours", float(f"{batch_s / 3600:.3g}"), f"{batch_s:.0f} s a step, {end}"),
        Choice("batch.micro_s", max(longest_s, min(80.0, round(batch_s))), "in memory at a time, the rest is accumulated"),
        Choice("optim.lr", _rate(preset, model, mode, large), _why_rate(model, mode, end)),
        Choice("optim.eps", float(f"{_between(1e-6, 1e-8, large):.2g}"), f"of Adam, {end}"),
        Choice("optim.weight_decay", round(0.01 * (1 - large), 4), end),
        Choice("optim.clip", 0.0 if large == 1 else 5.0, "no gradient clipping" if large == 1 else "gradient norm, nano's"),
        Choice("schedule.warmup", 0.1, "tri-stage"), Choice("schedule.hold", 0.4, "tri-stage"),
        Choice("schedule.decay", "exponential", "tri-stage"), Choice("schedule.final", 0.05, "tri-stage"),
        Choice("schedule.patience", PATIENCE, f"stops after {PATIENCE} validations without a better CER"),
        Choice("freeze.encoder_share", frozen, why_frozen),
        Choice("freeze.stem", model.wave and not model.fresh, why_stem),
        Choice("regular.time_coverage", round(0.05 + 0.6 * masking, 2), f"of the frames, {end}"),
        Choice("regular.time_span", max(2, round(_between(0.16, 0.2, large) / model.frame_s)), "frames: 160 to 200 ms"),
        Choice("regular.channel_coverage", round(0.1 + (preset.channel_coverage - 0.1) * masking, 2), f"of the width, {end}"),
        Choice("regular.channel_span", max(1, round(model.width / 12)), "a twelfth of the width, 64 of 768"),
        Choice("regular.dropout", 0.1 if model.fresh else round(0.1 * (1 - large), 3), f"{end}"),
        Choice("regular.feedforward_dropout", 0.1, "both ends"),
        Choice("regular.layerdrop", 0.0 if model.fresh else round(preset.layerdrop * large, 3), "small encoders spare no block"),
        Choice("augment.speed", preset.speed, "share of the clips played faster or slower"),
        Choice("log.valid_every", interval, f"{VALIDATIONS} validations"),
        Choice("log.checkpoint_every", interval, "after each validation"),
        *([share] if mode == "adapter" else []),
    ]  # fmt: skip


def apply_choices(settings: FinetuneSettings, choices: Collection[Choice], stated: Collection[str]) -> list[Choice]:
    """Apply ``choices`` to ``settings`` except what the user has ``stated``; returns those applied."""
    applied = []
    for choice in choices:
        section, _, name = choice.key.partition(".")
        if choice.key in stated or (choice.key == "schedule.steps" and _minutes(settings)):
            continue
        if section == "augment":  # frozen, so that workers may share it
            values = {**settings.augment.__dict__, name: choice.value}
            settings.augment = type(settings.augment)(**values)
        else:
            setattr(getattr(settings, section), name, choice.value)
        applied.append(choice)
    return applied


def describe_choices(name: str, hours: float, model: InitialModel, applied: Collection[Choice], requested: bool) -> str:
    """The choices and their reasons, for the terminal."""
    length = f"{60 * hours:.1f} minutes" if hours < 1 else f"{hours:.1f} hours"
    why = "requested" if requested else f"the nearest to {length} of labels"
    lines = [
        f"preset {name} ({why}) for {model.parameters / 1e6:.1f} M weights; config and flags override it, "
        "--preset none turns it off:"
    ]
    width = max((len(f"{choice.key} {_format(choice.value)}") for choice in applied), default=0)
    for choice in applied:
        lines.append(f"  {f'{choice.key} {_format(choice.value)}':{width}}  {choice.reason}")
    return "\n".join(lines)


def check_settings(settings: FinetuneSettings) -> None:
    """Raise a ``UserError`` for settings that contradict each other."""
    scratch = settings.model.kind != "encoder"
    started = [f"--{name}" for name in ("encoder", "recogniser") if getattr(settings, name)]
    if scratch and (started or settings.mode != "full"):
        what = " and ".join(started) or f"--mode {settings.mode}"
        raise UserError(
            f"--model.kind {settings.model.kind} starts from random weights, found {what}; use one of the two"
        )
    if not scratch and len(started) != 1:
        if started:
            raise UserError(f"expected --encoder or --recogniser to start from, found {' and '.join(started)}; use one")
        raise UserError(
            f"--encoder is missing: give {' or '.join(shipped_encoders())} (shipped), or a folder made by lalia pretrain fit or "
            "lalia convert; or --recogniser to continue from another run"
        )
    if settings.start == "random" and (settings.recogniser or settings.mode != "full"):
        raise UserError("--start random needs --encoder, whose shape it uses, and --mode full")
    if settings.select.lm and settings.select.by != "wer_lm":
        raise UserError(f"--select.lm {settings.select.lm}: needs --select.by wer_lm, found {settings.select.by}")
    if settings.select.clips < 0:
        raise UserError(f"--select.clips {settings.select.clips}: expected a number of clips, or 0 for all")
    if settings.head == "transducer":
        if not 0 < settings.transducer.ctc < 1:
            raise UserError(
                f"--transducer.ctc {settings.transducer.ctc:g}: expected a share of the loss between 0 and 1"
            )
        if settings.mode == "adapter":
            raise UserError("--head transducer: adapters have CTC heads only; use --mode full or --head ctc")
        if settings.select.by == "wer_lm":
            raise UserError("--select.by wer_lm: decodes with the CTC head; use cer or wer with --head transducer")
    if settings.mode == "adapter":
        if not 0 < settings.adapter.share <= 0.5:
            raise UserError(f"adapter.share {settings.adapter.share:g}: expected a share of the weights, 0.01 to 0.03")
        if settings.freeze.renew:
            raise UserError(
                "freeze.renew: not possible with --mode adapter, whose encoder is shared with other languages"
            )
        if settings.hardware.strategy.startswith("zero3"):
            raise UserError(
                f"hardware.strategy {settings.hardware.strategy}: adapters need whole weights, which ZeRO 3 "
                "shards; use ddp or zero1"
            )


def _rate(preset: Preset, model: InitialModel, mode: str, large: float) -> float:
    if mode == "head":
        return HEAD_RATE
    rate = _between(SMALL_RATE, preset.rate, large)
    if model.fresh:
        rate = FRESH_RATE * min(1.0, math.sqrt(SMALL_M * 1e6 / max(model.parameters, 1)))
    if mode == "adapter":
        rate = max(ADAPTER_RATE, _between(SMALL_ADAPTER_RATE, ADAPTER_RATE, large))
    return float(f"{rate:.2g}")


def _why_rate(model: InitialModel, mode: str, end: str) -> str:
    if mode == "head":
        return "for a head alone"
    if mode == "adapter":
        return "MMS's for adapters, higher for small encoders"
    return "for random weights, by the square root of their number" if model.fresh else f"the peak, {end}"


def _why_free(model: InitialModel, mode: str) -> str:
    if mode != "full":
        return "the shared encoder is always frozen"
    return "random weights are not frozen" if model.fresh else "not needed with so many labels"


def _between(small: float, large: float, share: float) -> float:
    return float(small ** (1 - share) * large**share)


def _round(steps: float) -> int:
    return int(float(f"{steps:.2g}"))


def _format(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _minutes(settings: FinetuneSettings) -> bool:
    return settings.schedule.steps == 0 and settings.schedule.minutes > 0


# --- Shipped encoders, by name -------------------------------------------------------------------------

ENCODERS = Path(__file__).parent / "encoders"


def resolve_encoder(encoder: str) -> str:
    """The folder of ``encoder``: a shipped one if it has that name and no local folder has it."""
    shipped = ENCODERS / encoder
    return str(shipped) if encoder in shipped_encoders() and not Path(encoder).exists() else encoder


def find_encoder(encoder: str) -> str:
    """As ``resolve_encoder``, or the encoder in a run's folder; a ``UserError`` names the shipped ones if there is none."""
    folder = resolve_encoder(encoder)
    if not Path(folder).is_dir():
        raise UserError(
            f"--encoder {encoder}: no such folder{closest(encoder, shipped_encoders())}; expected "
            f"{' or '.join(shipped_encoders())} (shipped), or a folder made by lalia pretrain fit or lalia convert"
        )
    return find_made(folder, "encoder", "--encoder")


def shipped_encoders() -> list[str]:
    """Names of the shipped encoders."""
    return sorted(card.parent.name for card in ENCODERS.glob("*/card.json"))
