"""Blame: which clips made a loss that is no number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lalia.exits import GuardStopped

NAMED = 5


def check_finite(
    logits_BTV: Tensor, loss: Tensor, rows: Sequence[int], before: Sequence[int], model: nn.Module,
    name: Callable[[int], str], step: int, precision: str,
) -> None:  # fmt: skip
    """A ``GuardStopped`` that names the clips of ``rows`` whose scores are no numbers, where there are any or ``loss`` is none.

    Where all clips are, the weights are ruined and no clip of this batch is to blame: those of the step ``before`` are named.
    """
    if bool(torch.isfinite(loss + logits_BTV.float().sum())):
        return
    fp16 = precision == "fp16"
    advice = (
        "take --hardware.precision bf16 or fp32: float16 ends at 65,504"
        if fp16
        else "lower --optim.lr, or clip harder (--optim.clip)"
    )
    bad = [row for row, scores_TV in zip(rows, logits_BTV, strict=True) if not bool(torch.isfinite(scores_TV).all())]
    ruined = not all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
    if ruined or len(bad) == len(rows) > 1:
        raise GuardStopped(
            f"step {step}: every score is no number, so the weights are ruined; they were changed last by the clips "
            f"{_listed(before, name)}. {advice[0].upper()}{advice[1:]}, and listen to these clips"
        )
    raise GuardStopped(
        f"step {step}: the loss is {float(loss.detach()):g}, from {_listed(bad or rows, name)}. Listen to these clips and mend "
        f"or leave them out; if nothing is wrong with them, {advice}"
    )


def _listed(rows: Sequence[int], name: Callable[[int], str]) -> str:
    if not rows:
        return "not known"
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return ", ".join(name(row) for row in rows[:NAMED]) + more
