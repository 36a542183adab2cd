"""Presets: what a run does where its user says nothing, solved from the hours of labels and the size of the encoder.

Two ends are known and everything between is interpolated on a log scale of the encoder's weights. The large end is wav2vec 2.0
BASE (95 M) as fairseq's configs fine-tune it (examples/wav2vec/config/finetuning: base_10m, base_1h, base_10h, base_100h). The
small end is this project's nano encoder (2.9 M), measured at ten minutes of labels (docs/finetuning.md); its other rows hear the
labels fewer times the more there are.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import FinetuneSettings
from lalia.cli.parser import closest
from lalia.errors import UserError
from lalia.model_folder import find_made
from lalia.units import Seconds

SMALL_M, LARGE_M = 2.9, 95.0
"""Millions of weights of the encoders that the two ends were measured on."""
SMALL_RATE, FRESH_RATE, ADAPTER_RATE, HEAD_RATE = 4e-3, 2e-3, 1e-3, 2e-3
"""Of a small pretrained encoder and of random weights each the best of 1e-3, 2e-3 and 4e-3 (docs/diary.md)."""
SMALL_ADAPTER_RATE = 8e-3
"""Twice what all weights of a small encoder learn at: a low-rank change moves them more slowly (docs/diary.md)."""
ADAPTER_SHARES = 0.06, 0.02
"""Of the small end's weights and of the large end's: few hundredths of three million are too few (docs/diary.md)."""
SMALL_FROZEN = 0.15
"""Share of the steps in which the small end's head learns alone (docs/diary.md)."""
LOOKS, PATIENCE = 20, 6


@dataclass(frozen=True)
class Row:
    """Settings for so many hours of labels, at the large and the small end."""

    hours: float
    steps: tuple[int, int]
    batch_s: tuple[float, float]
    rate: float
    frozen: float
    channel_coverage: float
    layerdrop: float
    speed: float


# Large: 3.2 M samples on 2 GPUs, 4 accumulated: 1,600 s a step. Frozen for 10,000 steps, or not at all (100 h).
ROWS = {
    "10min": Row(1 / 6, (13_000, 400), (1600, 30), 5e-5, 10 / 13, 0.25, 0.1, 1.0),
    "1h": Row(1.0, (13_000, 1_200), (1600, 30), 5e-5, 10 / 13, 0.25, 0.1, 1.0),
    "10h": Row(10.0, (20_000, 3_000), (1600, 60), 5e-5, 0.5, 0.5, 0.05, 1.0),
    "100h": Row(100.0, (80_000, 8_000), (1600, 120), 3e-5, 0.0, 0.5, 0.1, 0.5),
}


@dataclass(frozen=True)
class Learner:
    """What is fine-tuned, as far as presets need to know."""

    parameters: int
    width: int
    frame_s: float
    wave: bool
    """whether it begins with convolutions on the raw wave"""
    fresh: bool
    """whether it starts from random weights"""


@dataclass(frozen=True)
class Choice:
    """A setting and why it has its value."""

    key: str
    value: Any
    reason: str


LONGEST_S = 30.0


def data_choices(settings: FinetuneSettings, stated: Collection[str]) -> list[Choice]:
    """What is chosen before the labels are counted."""
    held_s = settings.batch.micro_s if "batch.micro_s" in stated else LONGEST_S
    return [
        Choice("data.min_s", 0.3, "a word is enough"),
        Choice("data.max_s", min(LONGEST_S, held_s), "longer clips cost memory by the square"),
        Choice("data.alpha", 1.0, "clips as they come"),
    ]


def row_for(hours: float) -> str:
    """The preset whose hours are nearest to ``hours`` on a log scale."""
    return min(ROWS, key=lambda name: abs(math.log(max(hours, 1e-4) / ROWS[name].hours)))


def solve(name: str, learner: Learner, mode: str, steps: int = 0, longest_s: Seconds = LONGEST_S) -> list[Choice]:
    """Every choice of the preset ``name`` for ``learner``; ``steps`` are those the user asked for, 0 = none."""
    row = ROWS[name]
    size = math.log(max(learner.parameters, 1) / 1e6 / SMALL_M) / math.log(LARGE_M / SMALL_M)
    large = min(1.0, max(0.0, size))
    end = "wav2vec 2.0 BASE's" if large == 1 else "nano's" if large == 0 else "between nano's and wav2vec 2.0 BASE's"
    free = learner.fresh or mode != "full" or not row.frozen
    frozen = 0.0 if free else round(SMALL_FROZEN * (1 - large) + row.frozen * large, 2)
    # A fresh model has no knowledge to protect, and small ones learn less the more is hidden from them.
    hidden = large * (0.5 if learner.fresh else 1.0)
    batch_s = _between(row.batch_s[1], row.batch_s[0], large)
    steps = steps or _round(_between(row.steps[1], row.steps[0], large))
    look = max(1, math.ceil(steps / LOOKS))
    why_stem = "pretrained convolutions stay as they are" if learner.wave else "it has no convolutions on the wave"
    why_frozen = f"the head alone for {round(frozen * steps)} steps" if frozen else _why_free(learner, mode)
    share = Choice("adapter.share", round(_between(*ADAPTER_SHARES, large), 3), f"of the weights, {end}")
    return [
        Choice("schedule.steps", steps, f"{end} for {name}"),
        Choice("batch.hours", float(f"{batch_s / 3600:.3g}"), f"{batch_s:.0f} s a step, {end}"),
        Choice("batch.micro_s", max(longest_s, min(80.0, round(batch_s))), "held in memory at a time, the rest is accumulated"),
        Choice("optim.lr", _rate(row, learner, mode, large), _why_rate(learner, mode, end)),
        Choice("schedule.warmup", 0.1, "tri-stage"), Choice("schedule.hold", 0.4, "tri-stage"),
        Choice("schedule.decay", "exponential", "tri-stage"), Choice("schedule.final", 0.05, "tri-stage"),
        Choice("schedule.patience", PATIENCE, f"{PATIENCE} looks of {look} steps without a better CER end the run"),
        Choice("freeze.encoder_share", frozen, why_frozen),
        Choice("freeze.stem", learner.wave and not learner.fresh, why_stem),
        Choice("regular.time_coverage", round(0.05 + 0.6 * hidden, 2), f"of the frames, {end}"),
        Choice("regular.time_span", max(2, round(_between(0.16, 0.2, large) / learner.frame_s)), "frames: 160 to 200 ms"),
        Choice("regular.channel_coverage", round(0.1 + (row.channel_coverage - 0.1) * hidden, 2), f"of the width, {end}"),
        Choice("regular.channel_span", max(1, round(learner.width / 12)), "a twelfth of the width, 64 of 768"),
        Choice("regular.layerdrop", 0.0 if learner.fresh else round(row.layerdrop * large, 3), "few blocks can spare none"),
        Choice("augment.speed", row.speed, "of the clips faster or slower: few labels are heard often"),
        Choice("log.valid_every", look, f"{LOOKS} looks"), Choice("log.checkpoint_every", look, "behind each look"),
        *([share] if mode == "adapter" else []),
    ]  # fmt: skip


def lay(settings: FinetuneSettings, choices: Collection[Choice], stated: Collection[str]) -> list[Choice]:
    """Put ``choices`` into ``settings`` but for what the user has ``stated``; returns those that were put."""
    laid = []
    for choice in choices:
        section, _, name = choice.key.partition(".")
        if choice.key in stated or (choice.key == "schedule.steps" and _minutes(settings)):
            continue
        if section == "augment":  # frozen, so that workers may share it
            values = {**settings.augment.__dict__, name: choice.value}
            settings.augment = type(settings.augment)(**values)
        else:
            setattr(getattr(settings, section), name, choice.value)
        laid.append(choice)
    return laid


def told(name: str, hours: float, learner: Learner, laid: Collection[Choice], asked: bool) -> str:
    """What was chosen and why, for the terminal."""
    length = f"{60 * hours:.1f} minutes" if hours < 1 else f"{hours:.1f} hours"
    why = "asked for" if asked else f"the nearest to {length} of labels"
    lines = [
        f"preset {name} ({why}) for {learner.parameters / 1e6:.1f} M weights; config and flags win, --preset none ends it:"
    ]
    width = max((len(f"{choice.key} {_said(choice.value)}") for choice in laid), default=0)
    for choice in laid:
        lines.append(f"  {f'{choice.key} {_said(choice.value)}':{width}}  {choice.reason}")
    return "\n".join(lines)


def check_mode(settings: FinetuneSettings) -> None:
    """A ``UserError`` for settings that contradict each other."""
    scratch = settings.model.kind != "encoder"
    started = [f"--{name}" for name in ("encoder", "recogniser") if getattr(settings, name)]
    if scratch and (started or settings.mode != "full"):
        what = " and ".join(started) or f"--mode {settings.mode}"
        raise UserError(f"--model.kind {settings.model.kind} starts from nothing, found {what}; take one of the two")
    if not scratch and len(started) != 1:
        if started:
            raise UserError(
                f"expected --encoder or --recogniser to start from, found {' and '.join(started)}; take one"
            )
        raise UserError(
            f"--encoder is missing: say {' or '.join(names())}, which comes along, or the folder that lalia pretrain "
            "fit or lalia convert made; or --recogniser to go on from that of another run"
        )
    if settings.start == "random" and (settings.recogniser or settings.mode != "full"):
        raise UserError("--start random: only with --encoder, whose shape it takes, and --mode full")
    if settings.select.lm and settings.select.by != "wer_lm":
        raise UserError(
            f"--select.lm {settings.select.lm}: is asked only with --select.by wer_lm, found {settings.select.by}"
        )
    if settings.select.clips < 0:
        raise UserError(f"--select.clips {settings.select.clips}: expected a number of clips, or 0 for all")
    if settings.mode == "adapter":
        if not 0 < settings.adapter.share <= 0.5:
            raise UserError(f"adapter.share {settings.adapter.share:g}: expected a share of the weights, 0.01 to 0.03")
        if settings.freeze.renew:
            raise UserError("freeze.renew: not with --mode adapter, whose encoder is shared with other languages")
        if settings.hardware.strategy.startswith("zero3"):
            raise UserError(
                f"hardware.strategy {settings.hardware.strategy}: adapters change weights as they are read, which ZeRO 3 "
                "keeps elsewhere; take ddp or zero1, an adapter's optimizer is small"
            )


def _rate(row: Row, learner: Learner, mode: str, large: float) -> float:
    if mode == "head":
        return HEAD_RATE
    rate = _between(SMALL_RATE, row.rate, large)
    if learner.fresh:
        rate = FRESH_RATE * min(1.0, math.sqrt(SMALL_M * 1e6 / max(learner.parameters, 1)))
    if mode == "adapter":
        rate = max(ADAPTER_RATE, _between(SMALL_ADAPTER_RATE, ADAPTER_RATE, large))
    return float(f"{rate:.2g}")


def _why_rate(learner: Learner, mode: str, end: str) -> str:
    if mode == "head":
        return "a head alone bears a high one"
    if mode == "adapter":
        return "MMS's for adapters, more where the encoder is small"
    return "from random weights, by the root of their number" if learner.fresh else f"the peak, {end}"


def _why_free(learner: Learner, mode: str) -> str:
    if mode != "full":
        return "the shared encoder never learns"
    return "random weights need no protection" if learner.fresh else "with so many labels"


def _between(small: float, large: float, share: float) -> float:
    return float(small ** (1 - share) * large**share)


def _round(steps: float) -> int:
    return int(float(f"{steps:.2g}"))


def _said(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _minutes(settings: FinetuneSettings) -> bool:
    return settings.schedule.steps == 0 and settings.schedule.minutes > 0


# --- The encoders that come with the project, by name ----------------------------------------------------

ENCODERS = Path(__file__).parent / "encoders"


def place(encoder: str) -> str:
    """The folder that ``encoder`` means: a shipped one where that is its name and no folder of that name is here."""
    shipped = ENCODERS / encoder
    return str(shipped) if encoder in names() and not Path(encoder).exists() else encoder


def find(encoder: str) -> str:
    """As ``place``, or the encoder in a run's folder; a ``UserError`` names the shipped ones where there is no such folder."""
    folder = place(encoder)
    if not Path(folder).is_dir():
        raise UserError(
            f"--encoder {encoder}: no such folder{closest(encoder, names())}; expected {' or '.join(names())}, which comes "
            "along, or what lalia pretrain fit or lalia convert made"
        )
    return find_made(folder, "encoder", "--encoder")


def names() -> list[str]:
    """What is shipped."""
    return sorted(card.parent.name for card in ENCODERS.glob("*/card.json"))
