"""Healthy bands of a pretraining run: the range of each vital sign, and the interventions when it is left.

Healthy runs use most of their codes and reach accuracies of .3 to .68. Collapsed runs had one code per codebook, accuracy 1.0 and
loss 0; others stayed at chance with a constant loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

Action = Literal["tell", "skip", "revive", "raise diversity", "cut the rate", "roll back", "stop"]
CALM_STEPS = 100
"""healthy steps after which a band starts again with its weakest intervention"""
EFFECT_STEPS = 25
"""steps that an intervention is given to take effect"""
HISTORY = 64
"""steps that running medians look back"""
FLAT = 0.1
"""features are flat where they vary less than this share of the running median"""
LIVELY = 0.1
"""audio is lively where its variation is above this share of the running median, else still"""


@dataclass
class GuardSettings:
    """When the guard intervenes. Each intervention is written to RUN/guard.jsonl with its figures."""

    enabled: bool = True
    """watch the run and intervene; False turns the guard off"""
    code_share: float = 0.06
    """gumbel only: least perplexity of a codebook, as a share of its entries"""
    too_good: float = 0.95
    """contrastive accuracy above this is a collapse, not a success: the best published runs end at .68"""
    spike: float = 20.0
    """a batch whose gradient norm is this many times the running median is skipped"""
    rollbacks: int = 3
    """rollbacks of a run before it is stopped"""


@dataclass(frozen=True)
class Vitals:
    """One optimizer step in numbers, over all its micro-batches and ranks. None = not known on this hardware."""

    loss: float
    accuracy: float
    code_share: float | None
    """perplexity of the worst codebook over the last steps, as a share of what its entries and frames allow"""
    gradient_norm: float | None
    loss_scale: float | None
    feature_std: float
    """standard deviation over time of the stem's features within a clip, on average"""
    hidden_share: float
    """masked frames as a share of all"""
    wave_variation: float
    """mean absolute deviation of the wave's samples within a clip, on average"""


@dataclass(frozen=True)
class Band:
    """A vital sign, its healthy range, and the interventions outside it, weakest first."""

    vital: str
    says: str
    """message of a breach, with {value} and {limit}"""
    ladder: tuple[Action, ...]
    advice: str
    """what the user should change if no intervention helped"""
    low: float = -math.inf
    high: float = math.inf
    relative: bool = False
    """limits are multiples of the running median of healthy steps"""
    patience: int = 1
    """steps in a row outside the band before an intervention"""
    grace: int = 0
    """first steps of a run, which are not checked"""
    skips: int = 0
    """batches in a row that are skipped before a stronger intervention; > 0: checked before the optimizer step"""
    audio: Literal["any", "still", "lively"] = "any"
    """audio that the band applies to; under other audio it counts as kept"""


@dataclass(frozen=True)
class Breach:
    """A band that was left, and the intervention."""

    band: Band
    value: float
    limit: float
    action: Action

    @property
    def says(self) -> str:
        return self.band.says.format(value=_plain(self.value), limit=_plain(self.limit))


def healthy_bands(
    settings: GuardSettings, kind: str, chance: float, steps: int, diversity: bool = True, stem: bool = True
) -> tuple[Band, ...]:
    """The bands of a run of ``steps`` steps with a quantizer of ``kind`` and the chance level of its accuracy; ``diversity``:
    whether its loss has a diversity penalty, whose weight can be raised; ``stem``: whether features are learned, and can die."""
    learned = kind == "gumbel"
    spread: tuple[Action, ...] = ("raise diversity",) if learned and diversity else ()
    fix_codes: tuple[Action, ...] = ("revive", *spread, "cut the rate", "roll back", "stop")
    rate_advice = "lower --optim.lr, raise --batch.hours, and check the clips named in metrics.jsonl's last steps"
    bands = [
        Band("loss", "the loss is not finite", ("skip", "roll back", "stop"),
             f"weights or audio are broken: {rate_advice}; under fp16 take --hardware.precision bf16", skips=8),
        Band("gradient_norm", "the gradient norm is {value}, {limit} is the most", ("skip", "cut the rate", "roll back", "stop"),
             rate_advice, high=settings.spike, relative=True, grace=20, skips=8),
        Band("feature_std", "features hardly vary within a clip ({value}, at least {limit} expected), "
             + ("nor does the audio: silence or clipping" if stem else "so the audio is silent, steady or clipped"),
             ("skip", "stop"), "prepare the corpus again and look at its speech_ratio and clipping columns",
             low=FLAT, relative=True, grace=20, skips=200, audio="still" if stem else "any"),
        Band("accuracy", "accuracy {value} is too high (at most {limit}): the targets have collapsed",
             (*spread, "cut the rate", "roll back", "stop"),
             "the codes collapsed again and again: lower --optim.lr, raise --objective.diversity_weight, or take "
             "--quantizer.kind kmeans", high=settings.too_good, patience=10, grace=20),
        Band("accuracy", "accuracy {value} is at chance (more than {limit} expected by now): the model does not learn",
             ("cut the rate", "stop"), "raise --batch.hours towards 1.6, lower --optim.lr, give longer clips (--join_s, "
             "--data.max_s)", low=1.3 * chance, patience=50, grace=max(400, int(0.3 * steps))),
        Band("loss_scale", "the loss scale fell to {value} ({limit} at least): gradients overflow in float16",
             ("cut the rate", "roll back", "stop"), "float16 cannot hold this run's gradients: take --hardware.precision bf16 "
             "or fp32, or lower --optim.lr", low=1.0, patience=5),
        Band("hidden_share", "{value} of the frames are hidden ({limit} is the limit)", ("tell",),
             "", low=0.05, patience=20),
        Band("hidden_share", "{value} of the frames are hidden ({limit} is the limit)", ("tell",),
             "", high=0.85, patience=20),
    ]  # fmt: skip
    if learned:
        bands.insert(
            0, Band("code_share", "a codebook uses {value} of its entries' perplexity ({limit} at least): its codes are dying",
                 fix_codes, "the codes died again and again: lower --optim.lr, raise --objective.diversity_weight, raise "
                 "--batch.hours, or take --quantizer.kind kmeans", low=settings.code_share, patience=10, grace=40)
        )  # fmt: skip
    if stem:  # before the codes: codes cannot be revived on constant features
        bands.insert(
            0, Band("feature_std", "features hardly vary within a clip ({value}, at least {limit} expected), though the audio "
                 "does: the stem has died", ("cut the rate", "roll back", "stop"), "the stem's output does not depend on "
                 "the audio: lower --optim.lr or --model.stem_gradient_scale, or raise --schedule.warmup", low=FLAT,
                 relative=True, patience=10, grace=20, audio="lively")
        )  # fmt: skip
    return tuple(bands)


@dataclass
class _BandState:
    """State of one band: steps in a row outside and inside, the next intervention (``rung`` of the ladder), the first step at
    which it may happen, and value and limit of the last breach."""

    outside: int = 0
    inside: int = 0
    rung: int = 0
    not_before: int = 0
    skipped: int = 0
    value: float = 0.0
    limit: float = 0.0


@dataclass
class Watch:
    """Checks vitals against the bands and returns at most one breach per step; all its state is in ``state``."""

    bands: Sequence[Band]
    courses: list[_BandState] = field(default_factory=list)
    history: dict[str, list[float]] = field(default_factory=dict)
    """values of healthy steps, for relative bands and the wave's variation"""

    def __post_init__(self) -> None:
        self.courses = [_BandState() for _ in self.bands]

    def batch(self, vitals: Vitals, step: int) -> Breach | None:
        """The breach that skips this step's batch, or more; called before the optimizer step."""
        found = [b for b in (self._check(i, vitals, step) for i, band in enumerate(self.bands) if band.skips) if b]
        if not found and not any(self._outside(band, vitals, step) for band in self.bands if band.relative):
            for name in {"wave_variation", *(band.vital for band in self.bands if band.relative)}:
                value = getattr(vitals, name)
                if value is not None:
                    self.history[name] = [*self.history.get(name, []), value][-HISTORY:]
        return found[0] if found else None

    def run(self, vitals: Vitals, step: int) -> Breach | None:
        """The breach to act on; called after the optimizer step."""
        checked = [(i, self._check(i, vitals, step)) for i, band in enumerate(self.bands) if not band.skips]
        found = [(i, breach) for i, breach in checked if breach is not None]
        if not found:
            return None
        first, breach = found[0]
        # Rollbacks repeat, each further back at half the learning rate, until the guard's limit.
        if breach.action != "roll back":
            self.courses[first].rung += 1
        # One intervention at a time; every band waits for it to take effect.
        for course in self.courses:
            course.not_before = max(course.not_before, step + EFFECT_STEPS)
        return breach

    @property
    def well(self) -> bool:
        """Whether every band was kept at the last step."""
        return all(course.outside == 0 and course.skipped == 0 for course in self.courses)

    def illness(self) -> Breach | None:
        """The breach at the end of the run: a band left for at least its patience, whether or not an intervention was due.
        Skipped batches do not count: they do not change the weights."""
        for band, course in zip(self.bands, self.courses, strict=True):
            if not band.skips and band.ladder[-1] == "stop" and course.outside >= band.patience:
                return Breach(band, course.value, course.limit, "stop")
        return None

    def left_out(self) -> tuple[int, Breach] | None:
        """(number of skipped batches in a row up to now, breach of the last one), or None."""
        for band, course in zip(self.bands, self.courses, strict=True):
            if band.skips and course.outside:
                return course.outside, Breach(band, course.value, course.limit, "tell")
        return None

    def rolled_back(self, step: int) -> None:
        """Reset counters and running medians after a rollback; the interventions taken so far stay."""
        self.history.clear()
        for course in self.courses:
            course.outside = course.inside = course.skipped = 0
            course.not_before = max(course.not_before, step + EFFECT_STEPS)

    def state(self) -> dict[str, Any]:
        return {"courses": [vars(course).copy() for course in self.courses], "history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        courses = [_BandState(**values) for values in state["courses"]]
        if len(courses) == len(self.bands):
            self.courses = courses
            self.history = {name: list(values) for name, values in state["history"].items()}

    def _check(self, i: int, vitals: Vitals, step: int) -> Breach | None:
        band, course = self.bands[i], self.courses[i]
        if getattr(vitals, band.vital) is None:
            return None
        left = self._outside(band, vitals, step)
        if left is None:
            course.outside, course.skipped = 0, 0
            course.inside += 1
            if course.inside >= CALM_STEPS:
                course.rung = 0
            return None
        course.outside += 1
        course.inside = 0
        value, limit = course.value, course.limit = left
        if band.skips:
            return self._skip_or_more(band, course, value, limit)
        if course.outside < band.patience or step < course.not_before:
            return None
        action = band.ladder[min(course.rung, len(band.ladder) - 1)]
        if action == "tell" and course.rung:
            return None  # reported once
        return Breach(band, value, limit, action)

    def _outside(self, band: Band, vitals: Vitals, step: int) -> tuple[float, float] | None:
        """(value, limit) where this step is outside ``band``."""
        value = getattr(vitals, band.vital)
        if value is None or (band.audio != "any" and band.audio != self._audio(band, vitals)):
            return None
        low, high = band.low, band.high
        if band.relative:
            centre = self._usual(band.vital, band)
            low, high = (low * centre, high * centre) if centre else (-math.inf, math.inf)
        early = step <= band.grace
        if math.isfinite(value) and (early or low <= value <= high):
            return None
        return value, low if value < low else high

    def _usual(self, vital: str, band: Band) -> float | None:
        known = self.history.get(vital, [])
        return median(known) if len(known) >= min(band.grace, HISTORY) else None

    def _audio(self, band: Band, vitals: Vitals) -> str:
        usual = self._usual("wave_variation", band)
        lively = usual is not None and math.isfinite(vitals.wave_variation) and vitals.wave_variation > LIVELY * usual
        return "lively" if lively else "still"

    def _skip_or_more(self, band: Band, course: _BandState, value: float, limit: float) -> Breach:
        course.skipped += 1
        if course.skipped <= band.skips:
            return Breach(band, value, limit, "skip")
        course.skipped = 0
        course.rung = min(course.rung + 1, len(band.ladder) - 1)
        self.history.pop(band.vital, None)  # if this level lasts, it becomes the reference
        return Breach(band, value, limit, band.ladder[course.rung])


def _plain(value: float) -> str:
    return f"{value:.3g}"
