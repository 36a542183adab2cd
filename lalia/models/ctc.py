"""The CTC loss of labelled clips as a pure function in float32: a sum with its count; the task divides.

B clips, T frames, V tokens, U tokens of the longest label. Source: Graves et al. 2006, "Connectionist Temporal Classification".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class CtcSum:
    """Sums over a batch."""

    loss: Tensor
    """negative log-likelihood of the labels in nats"""
    count: Tensor
    """tokens it was summed over"""
    impossible_B: Tensor
    """clips whose label cannot fit their frames; they count for nothing"""


def ctc(logits_BTV: Tensor, frames_B: Tensor, labels_BU: Tensor, label_lengths_B: Tensor) -> CtcSum:
    """Negative log-likelihood of ``labels``; token 0 is the blank.

    A label needs a frame per token and one more between two equal tokens. Clips with fewer have no path at all: they are named
    in ``impossible_B`` instead of turning the sum infinite.
    """
    impossible_B = frames_needed(labels_BU, label_lengths_B) > frames_B
    log_probs_TBV = logits_BTV.float().log_softmax(-1).transpose(0, 1)  # float32: sums over thousands of paths
    losses_B = F.ctc_loss(log_probs_TBV, labels_BU, frames_B, label_lengths_B, reduction="none", zero_infinity=True)
    possible_B = ~impossible_B
    return CtcSum((losses_B * possible_B).sum(), (label_lengths_B * possible_B).sum(), impossible_B)


def frames_needed(labels_BU: Tensor, label_lengths_B: Tensor) -> Tensor:
    """The fewest frames in which each label can be said: its tokens, and a blank between equal neighbours. (B,)"""
    inside = torch.arange(1, max(1, labels_BU.shape[1]), device=labels_BU.device) < label_lengths_B[:, None]
    equal_B = ((labels_BU[:, 1:] == labels_BU[:, :-1]) & inside).sum(1)
    return label_lengths_B + equal_B
