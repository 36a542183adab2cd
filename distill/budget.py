"""The budget that an exported file must keep, and in plain words which part of it was missed and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.config import GateSettings

LEARN_INT8 = "let the student learn to live with int8: lalia distill fit --qat true --student.start RECOGNISER"


@dataclass(frozen=True)
class Figures:
    """What the gate looks at. Rates are errors per character, speeds seconds of audio per second on one thread."""

    cer_int8: float
    cer_float: float
    speed: float
    bytes: int
    cer_teacher: float | None = None
    speed_teacher: float | None = None
    bytes_teacher: int | None = None


@dataclass(frozen=True)
class Miss:
    """A limit that was not kept."""

    budget: str
    """the setting that says it: ``float_ratio``"""
    found: float
    limit: float
    text: str


@dataclass(frozen=True)
class Harm:
    """What quantizing one group alone did."""

    group: str
    cer: float
    """errors per character with this group in int8 and everything else in float"""
    cer_float: float
    """the same clips with everything in float"""
    divergence: float
    """Kullback-Leibler divergence of its tokens from the float ones, nats per frame"""

    @property
    def order(self) -> tuple[float, float]:
        """Sorts the most harmful last: by errors, then by divergence."""
        return (self.cer, self.divergence)

    def as_dict(self) -> dict[str, Any]:
        return {"group": self.group, "cer": self.cer, "cer_float": self.cer_float, "divergence": self.divergence}


def allowed(cer: float, ratio: float, slack: float) -> float:
    """The highest error rate that a budget of ``ratio`` on ``cer`` lets pass."""
    return cer * ratio + slack


def misses(figures: Figures, gate: GateSettings) -> list[Miss]:
    """Every limit that ``figures`` do not keep; none = the student may be shipped."""
    found: list[Miss] = []
    limit = allowed(figures.cer_float, gate.float_ratio, gate.slack)
    if figures.cer_int8 > limit:
        found.append(Miss("float_ratio", figures.cer_int8, limit,
            f"in int8 it makes {_percent(figures.cer_int8)} character errors, in float {_percent(figures.cer_float)}; "
            f"allowed are {_percent(limit)}"))  # fmt: skip
    if figures.cer_teacher is not None:
        limit = allowed(figures.cer_teacher, gate.teacher_ratio, gate.slack)
        if figures.cer_int8 > limit:
            found.append(Miss("teacher_ratio", figures.cer_int8, limit,
                f"it makes {_percent(figures.cer_int8)} character errors, its teacher {_percent(figures.cer_teacher)}; "
                f"allowed are {_percent(limit)}"))  # fmt: skip
    if figures.speed < gate.speed:
        found.append(Miss("speed", figures.speed, gate.speed,
            f"it runs {figures.speed:.1f} times as fast as real time on one thread; asked for are {gate.speed:g}"))  # fmt: skip
    if gate.speedup and figures.speed_teacher is not None and figures.speed < gate.speedup * figures.speed_teacher:
        found.append(Miss("speedup", figures.speed / figures.speed_teacher, gate.speedup,
            f"it runs {figures.speed / figures.speed_teacher:.2f} times as fast as its teacher; asked for are "
            f"{gate.speedup:g}"))  # fmt: skip
    if (
        gate.size_ratio
        and figures.bytes_teacher is not None
        and figures.bytes > gate.size_ratio * figures.bytes_teacher
    ):
        found.append(Miss("size_ratio", figures.bytes / figures.bytes_teacher, gate.size_ratio,
            f"its file is {figures.bytes / 1e6:.2f} MB, {figures.bytes / figures.bytes_teacher:.2f} of its teacher's weights; "
            f"allowed are {gate.size_ratio:g}"))  # fmt: skip
    return found


def blame(
    missed: Sequence[Miss], figures: Figures, harms: Sequence[Harm], operators: dict[str, float], gate: GateSettings
) -> list[str]:
    """Sentences that say which part of the model, or which operator, each miss comes from, and what to do."""
    said: list[str] = []
    budgets = {miss.budget for miss in missed}
    if "float_ratio" in budgets and harms:
        worst = max(harms, key=lambda harm: harm.order)
        alone = worst.cer - worst.cer_float
        if alone > 0:
            said.append(
                f"quantizing {worst.group} is to blame most: alone it takes the error from {_percent(worst.cer_float)} to "
                f"{_percent(worst.cer)}; keep it in float with --quantize.keep_float {worst.group}, or {LEARN_INT8}"
            )
        else:
            said.append(
                f"no group alone costs errors; the largest change of the posteriors comes from {worst.group} "
                f"({worst.divergence:.3f} nats per frame): raise --quantize.rescue, or {LEARN_INT8}"
            )
    if "teacher_ratio" in budgets and figures.cer_teacher is not None:
        if figures.cer_float > allowed(figures.cer_teacher, gate.teacher_ratio, gate.slack):
            said.append(
                f"quantization is not to blame for the distance from the teacher, the float student has it already "
                f"({_percent(figures.cer_float)}): distil longer, on more audio, or into more blocks"
            )
        else:
            said.append(
                f"the float student would keep the teacher's budget ({_percent(figures.cer_float)}); int8 takes it away"
            )
    if {"speed", "speedup"} & budgets and operators:
        kind, share = next(iter(operators.items()))
        said.append(f"{kind} takes most of the time ({share:.0%}): fewer blocks or a narrower model help")
    if "size_ratio" in budgets:
        said.append("fewer blocks or narrower feed-forward layers make the file smaller")
    return said


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f} %"
