"""Spans of frames or channels that a model may not see: pretraining's masks and fine-tuning's SpecAugment alike.

B clips, N places of each (frames of a clip, or channels). Everything random comes from the generator that is handed in, so a
mask is a function of (seed, micro-batch) and never of what ran before.
"""

from __future__ import annotations

import torch
from torch import Tensor


def span_mask(
    lengths_B: Tensor, width: int, coverage: float, span: int, min_spans: int, generator: torch.Generator
) -> Tensor:
    """True where a place is hidden: (B, width), on the CPU. Places behind a clip's length are never hidden.

    ``coverage`` is the sum of all span lengths as a share of the clip; spans overlap, so fewer places are hidden (0.65 hides
    about 0.49). The number of spans is coverage x length / span, rounded up or down at random so that its mean is exact, and
    ``min_spans`` at least; their starts are drawn without replacement (Baevski et al. 2020, section 3.1; fairseq's
    ``compute_mask_indices``). A clip too short for that gets shorter and fewer spans; one place of every clip stays visible.
    """
    B = len(lengths_B)
    mask_BN = torch.zeros(B, width, dtype=torch.bool)
    roundings = torch.rand(B, generator=generator).tolist()
    for b, length in enumerate(lengths_B.tolist()):
        if length < 2:
            continue
        here = min(span, length // 2)
        spans = max(int(coverage * length / here + roundings[b]), min_spans)
        starts = torch.randperm(length - here + 1, generator=generator)[: min(spans, length // here)]
        mask_BN[b, (starts[:, None] + torch.arange(here)).flatten()] = True
        if bool(mask_BN[b, :length].all()):
            mask_BN[b, int(torch.randint(length, (), generator=generator))] = False
    return mask_BN
