"""The contrastive loss of wav2vec 2.0 as pure functions in float32: quantization, InfoNCE, penalties.

Functions return sums with their counts; the task divides. Masks and distractors are drawn in ``lalia/data/batch.py``.

B clips, T frames, M masked frames of the clip that has most, K distractors, G codebooks, V entries, d dimensions of an entry,
P dimensions in which context and target are compared. ``valid_BM`` is False where a clip has fewer masked frames than M.
Source: Baevski et al. 2020, "wav2vec 2.0", sections 2 and 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lalia.models.frontend import full_precision

C = TypeVar("C", bound=Callable[..., Any])


def in_float32(function: C) -> C:
    """``function``, whose first argument is a tensor, with autocast off: cosines, softmaxes and their sums stay in float32 under
    bf16 and fp16."""

    @wraps(function)
    def inner(first: Tensor, *args: Any, **kwargs: Any) -> Any:
        with full_precision(first.device):
            return function(first, *args, **kwargs)

    return inner  # type: ignore[return-value]


@dataclass
class ContrastSum:
    """Sums over the valid masked frames of a batch."""

    loss: Tensor
    """sum of InfoNCE in nats"""
    count: Tensor
    """frames it was summed over"""
    correct: Tensor
    """frames whose target scored higher than all distractors"""


@dataclass
class Codes:
    """Quantized targets of the masked frames."""

    quantized_BMC: Tensor
    """the chosen entries, codebooks side by side; C = G x d"""
    indices_BMG: Tensor
    """the entry each frame would choose without noise"""
    probabilities_GV: Tensor
    """mean softmax of the code logits over the valid frames, with gradient"""
    usage_GV: Tensor
    """share of the valid frames that choose each entry, without noise"""


@in_float32
def quantize(
    logits_BMGV: Tensor,
    codebook_GVd: Tensor,
    valid_BM: Tensor,
    temperature: float,
    generator: torch.Generator | None = None,
) -> Codes:
    """Choose one entry per codebook with a straight-through Gumbel softmax (equation 1), or without noise when
    ``generator``, which is on the logits' device, is None (evaluation)."""
    logits = logits_BMGV.float()
    indices_BMG = logits.argmax(-1)
    noisy = logits
    if generator is not None:
        uniform = torch.rand(logits.shape, generator=generator, device=logits.device)
        noisy = logits - torch.log(-torch.log(uniform.clamp(1e-20, 1.0 - 1e-7)))
    soft = (noisy / temperature).softmax(-1)
    hard = torch.zeros_like(soft).scatter_(-1, noisy.argmax(-1, keepdim=True), 1.0)
    choice_BMGV = hard + soft - soft.detach() if generator is not None else hard
    quantized = torch.einsum("bmgv,gvd->bmgd", choice_BMGV, codebook_GVd.float()).flatten(2)

    weight_BM11 = valid_BM[:, :, None, None].float()
    count = weight_BM11.sum().clamp(min=1)
    probabilities_GV = (logits.softmax(-1) * weight_BM11).sum((0, 1)) / count
    one_hot = F.one_hot(indices_BMG, logits.shape[-1]).float()
    usage_GV = (one_hot * weight_BM11).sum((0, 1)) / count
    return Codes(quantized, indices_BMG if generator is None else noisy.argmax(-1), probabilities_GV, usage_GV)


def look_up(indices_BMG: Tensor, codebook_GVd: Tensor, valid_BM: Tensor) -> Codes:
    """The entries of given codes (k-means)."""
    G, V, _ = codebook_GVd.shape
    quantized = torch.cat([codebook_GVd[g].float()[indices_BMG[:, :, g]] for g in range(G)], -1)
    one_hot = F.one_hot(indices_BMG, V).float() * valid_BM[:, :, None, None]
    usage_GV = one_hot.sum((0, 1)) / valid_BM.sum().clamp(min=1)
    return Codes(quantized, indices_BMG, usage_GV, usage_GV)


def perplexity(probabilities_GV: Tensor) -> Tensor:
    """exp(entropy) of each codebook, (G,): V when all entries are used alike, 1 when one is used alone."""
    return torch.exp(-(probabilities_GV * torch.log(probabilities_GV + 1e-7)).sum(-1))


@in_float32
def info_nce(
    context_BMP: Tensor,
    targets_BMP: Tensor,
    codes_BMG: Tensor,
    distractors_BMK: Tensor,
    valid_BM: Tensor,
    temperature: float,
) -> ContrastSum:
    """InfoNCE over cosine similarities (equation 3), from one frames x frames product and a gather.

    A distractor with the target's own codes is not counted as one: the two vectors are the same.
    """
    # In float32: bf16 cosine ties let the target beat itself.
    context = F.normalize(context_BMP.float(), dim=-1)
    targets = F.normalize(targets_BMP.float(), dim=-1)
    similarity_BMM = torch.bmm(context, targets.transpose(1, 2)) / temperature
    positive_BM = similarity_BMM.diagonal(dim1=1, dim2=2)
    negative_BMK = similarity_BMM.gather(2, distractors_BMK)

    B, M, K = distractors_BMK.shape
    G = codes_BMG.shape[-1]
    drawn_BMKG = codes_BMG.gather(1, distractors_BMK.reshape(B, M * K, 1).expand(-1, -1, G)).view(B, M, K, G)
    same_BMK = (drawn_BMKG == codes_BMG[:, :, None]).all(-1)
    negative_BMK = negative_BMK.masked_fill(same_BMK, -torch.inf)

    logits = torch.cat([positive_BM[:, :, None], negative_BMK], 2)
    losses_BM = torch.logsumexp(logits, 2) - positive_BM
    # A frame without any different distractor counts neither as correct nor in the accuracy.
    counted_BM = valid_BM & ~same_BMK.all(-1)
    correct_BM = (positive_BM[:, :, None] > negative_BMK).all(-1)
    return ContrastSum((losses_BM * valid_BM).sum(), valid_BM.sum(), (correct_BM & counted_BM).sum())


def diversity_penalty(probabilities_GV: Tensor) -> Tensor:
    """1 - (sum of perplexities) / (G V): 0 when every code is used alike, near 1 when few are (equation 4 as fairseq and
    transformers compute it)."""
    G, V = probabilities_GV.shape
    return 1.0 - perplexity(probabilities_GV).sum() / (G * V)


def feature_penalty(raw_BTF: Tensor, valid_BT: Tensor) -> Tensor:
    """Mean square of the stem's raw output over valid frames: keeps its scale from drifting (section 4.2)."""
    squares_BT = raw_BTF.float().square().mean(-1)
    return (squares_BT * valid_BT).sum() / valid_BT.sum().clamp(min=1)


def gumbel_temperature(step: int, start: float, end: float, steps: int) -> float:
    """Geometric decay from ``start`` to ``end``, reached at ``steps``; equation 1's tau.

    The published factor 0.999995 over 400,000 updates goes from 2.0 to 0.5 in 277,000; here the end is set instead of the
    factor, so that short runs anneal as well.
    """
    done = min(1.0, step / max(1, steps))
    return float(start * (end / start) ** done)
