"""Which frames pretraining hides (the spans are drawn in ``lalia/models/masks.py``) and which stand in as distractors.

B clips, T frames, M masked frames of the clip that has most, K distractors. Everything random comes from the generator that is
handed in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class MaskSettings:
    """How much of the audio is hidden (wav2vec 2.0: p x M = 0.65, M = 10 frames of 20 ms)."""

    coverage: float = 0.65
    """sum of all span lengths as a share of the clip; spans overlap, so fewer frames are hidden: 0.65 hides about 0.49"""
    span: int = 10
    """frames of one span"""
    min_spans: int = 2
    """spans of a clip at least; a clip too short for them gets as many as fit, and one at least"""


def masked_positions(mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(positions_BM, valid_BM): the hidden frames of each clip in order, padded to the clip that has most."""
    counts_B = mask_BT.sum(1)
    M = int(counts_B.max())
    order_BT = torch.argsort((~mask_BT).to(torch.int8), dim=1, stable=True)
    valid_BM = torch.arange(M, device=mask_BT.device) < counts_B[:, None]
    return order_BT[:, :M], valid_BM


def sample_distractors(valid_BM: Tensor, K: int, generator: torch.Generator, distinct: bool = False) -> Tensor:
    """For each masked frame the numbers, within the masked frames of its own clip, of K others: (B, M, K).

    Drawn evenly from all but the frame itself, with replacement as in wav2vec 2.0, or ``distinct``, which makes the chance level
    exactly 1 / (K + 1) (clips with fewer than K others repeat some). A clip with one masked frame has no others; its rows point
    at the frame itself, which the loss leaves out as equal to the target.
    """
    B, M = valid_BM.shape
    others_B11 = (valid_BM.sum(1).cpu() - 1).clamp(min=0)[:, None, None]
    if distinct:
        keys_BMM = torch.rand(B, M, M, generator=generator)
        keys_BMM.masked_fill_(torch.arange(M) >= others_B11, 2.0)
        order_BMM = keys_BMM.argsort(-1)
        draws_BMK = order_BMM.gather(-1, (torch.arange(K) % others_B11.clamp(min=1)).expand(B, M, K))
    else:
        draws_BMK = (torch.rand(B, M, K, generator=generator) * others_B11).long()
    draws_BMK = draws_BMK + (draws_BMK >= torch.arange(M)[None, :, None]).long()
    return torch.minimum(draws_BMK, others_B11).to(valid_BM.device)
