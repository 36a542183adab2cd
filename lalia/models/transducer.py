"""The transducer beside a CTC head: a predictor of the last two tokens, a joiner, and the loss.

The predictor has no recurrent state (Ghodsi et al. 2020): it reads the last two tokens, so an exported student needs two small
tables. The joiner adds scores of the tokens from encoder and predictor. With a ``width`` it also adds vectors of that width, and
corrects the scores by a tanh and a linear layer of them.

B clips, T frames, D width of the encoder, V tokens (0 is the blank), U tokens of the longest label, E width of the predictor,
J = V + ``width`` columns of what the joiner adds.
Source: Graves 2012, "Sequence Transduction with Recurrent Neural Networks".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lalia.models.frontend import on_device

_RANGE = 40.0
"""Scores further below the largest one of their row count as this far: products of their exponentials stay in float32's range."""
_NEVER = -1e30
"""The logarithm of no probability, in sums that must stay finite."""
_CHUNK = 1 << 22
"""Most scores of a tanh joiner in memory at a time (16 MB)."""


@dataclass(frozen=True)
class TransducerShape:
    """The sizes of a transducer."""

    width: int = 0
    """dimensions of the joiner's tanh layer; 0: it has none and adds scores alone"""
    predictor: int = 128
    """dimensions of the predictor"""


class Transducer(nn.Module):
    """Encoder output and tokens so far -> scores of the next token."""

    def __init__(self, width: int, tokens: int, shape: TransducerShape) -> None:
        super().__init__()
        self.shape = shape
        self.tokens = tokens
        self.project = nn.Linear(width, tokens + shape.width)
        self.last = nn.Embedding(tokens, shape.predictor)
        """of the last token; the blank stands for the beginning of the text"""
        self.second_last = nn.Embedding(tokens, shape.predictor)
        self.predict = nn.Linear(shape.predictor, tokens + shape.width)
        self.output = nn.Linear(shape.width, tokens, bias=False) if shape.width else None
        for linear in (self.project, self.predict):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        if self.output is not None:  # at first it corrects nothing: a tanh layer alone learns to emit tokens later
            nn.init.zeros_(self.output.weight)

    def prediction(self, labels_BU: Tensor) -> Tensor:
        """What the joiner adds after each prefix of the labels, from none of their tokens to all of them: (B, U + 1, J)."""
        before_BU = torch.nn.functional.pad(labels_BU, (2, 0))
        return self.predict(torch.relu(self.last(before_BU[:, 1:]) + self.second_last(before_BU[:, :-1])))

    def scores(self, encoded_BTJ: Tensor, predicted_BUJ: Tensor, labels_BU: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the blank (B, T, U + 1) and of the label's next token (B, T, U), float32."""
        if self.output is None:
            return _added_scores(encoded_BTJ, predicted_BUJ, labels_BU)
        B, T, _ = encoded_BTJ.shape
        frames = max(1, _CHUNK // (B * predicted_BUJ.shape[1] * (self.tokens + self.shape.width)))
        if frames >= T or not torch.is_grad_enabled():
            parts = [self._joined_scores(part, predicted_BUJ, labels_BU) for part in encoded_BTJ.split(frames, 1)]
        else:  # of many scores, those of a part of the frames at a time: the backward pass computes them again
            parts = [
                checkpoint(self._joined_scores, part, predicted_BUJ, labels_BU, use_reentrant=False)
                for part in encoded_BTJ.split(frames, 1)
            ]
        blanks, labels = zip(*parts, strict=True)
        return torch.cat(blanks, 1), torch.cat(labels, 1)

    def _joined_scores(self, encoded_BTJ: Tensor, predicted_BUJ: Tensor, labels_BU: Tensor) -> tuple[Tensor, Tensor]:
        assert self.output is not None
        sums_BTUJ = encoded_BTJ[:, :, None] + predicted_BUJ[:, None]
        corrections_BTUV = self.output(torch.tanh(sums_BTUJ[..., self.tokens :]))
        scores_BTUV = (sums_BTUJ[..., : self.tokens] + corrections_BTUV).float().log_softmax(-1)
        chosen = labels_BU[:, None, :, None].expand(-1, scores_BTUV.shape[1], -1, -1)
        return scores_BTUV[..., 0], scores_BTUV[:, :, :-1].gather(3, chosen)[..., 0]

    def tables(self) -> dict[str, Any]:
        """The weights that ``lalia.decoding.transducer_search.Joiner`` needs, as float32 arrays."""
        found = {
            "last_VE": self.last.weight,
            "second_last_VE": self.second_last.weight,
            "predict_EJ": self.predict.weight.T,
            "predict_J": self.predict.bias,
        }
        if self.output is not None:
            found["output_WV"] = self.output.weight.T
        return {name: weight.detach().float().cpu().contiguous().numpy() for name, weight in found.items()}


def _added_scores(encoded_BTV: Tensor, predicted_BUV: Tensor, labels_BU: Tensor) -> tuple[Tensor, Tensor]:
    """``Transducer.scores`` of a sum: the softmax's denominators of all places are one matrix product of exponentials."""
    with torch.autocast(encoded_BTV.device.type, enabled=False):
        a_BTV, b_BUV = encoded_BTV.float(), predicted_BUV.float()
        top_BT1, top_BU1 = a_BTV.amax(-1, keepdim=True).detach(), b_BUV.amax(-1, keepdim=True).detach()
        exp_BTV = (a_BTV - top_BT1).clamp(min=-_RANGE).exp()
        exp_BUV = (b_BUV - top_BU1).clamp(min=-_RANGE).exp()
        total_BTU = (exp_BTV @ exp_BUV.mT).log() + top_BT1 + top_BU1.mT
        blank_BTU = a_BTV[:, :, :1] + b_BUV[:, None, :, 0] - total_BTU
        own_BTU = a_BTV.gather(2, labels_BU[:, None].expand(-1, a_BTV.shape[1], -1))
        predicted_BU = b_BUV[:, :-1].gather(2, labels_BU[:, :, None])[..., 0]
        return blank_BTU, own_BTU + predicted_BU[:, None] - total_BTU[:, :, :-1]


def transducer_loss(blank_BTU: Tensor, label_BTU: Tensor, frames_B: Tensor, label_lengths_B: Tensor) -> Tensor:
    """Negative log-likelihood of each clip's label in nats, (B,) float32, summed over all paths (Graves 2012, equation 16).

    ``blank_BTU`` (B, T, U + 1) and ``label_BTU`` (B, T, U) are log-probabilities of ``Transducer.scores``; the lengths are on the
    CPU, and every clip has at least one frame.
    """
    device = blank_BTU.device
    lengths = on_device(frames_B, device), on_device(label_lengths_B, device)
    found: Tensor = _PathSum.apply(blank_BTU.float(), label_BTU.float(), *lengths)
    return -found


class _PathSum(torch.autograd.Function):
    """The log of the sum over all paths, and its gradient by forward and backward variables.

    A frame's variables are one cumulative sum over the label's tokens: with ``c`` the cumulative sum of ``label``,
    ``alpha = c + logcumsumexp(alpha of the frame before + its blank - c)``, and ``beta`` likewise from the other end.
    """

    @staticmethod
    def forward(ctx: Any, blank_BTU: Tensor, label_BTU: Tensor, frames_B: Tensor, lengths_B: Tensor) -> Tensor:
        c_BTU = nn.functional.pad(label_BTU.cumsum(-1), (1, 0))
        alpha_BU = c_BTU[:, 0]
        rows = [alpha_BU]
        for c_BU, blank_BU in zip(c_BTU.unbind(1)[1:], blank_BTU.unbind(1)[:-1], strict=True):
            alpha_BU = c_BU + torch.logcumsumexp(alpha_BU + blank_BU - c_BU, -1)
            rows.append(alpha_BU)
        alpha_BTU = torch.stack(rows, 1)
        clips_B = torch.arange(len(alpha_BTU), device=alpha_BTU.device)
        last = clips_B, frames_B - 1, lengths_B
        total_B = alpha_BTU[last] + blank_BTU[last]
        ctx.save_for_backward(blank_BTU, label_BTU, frames_B, lengths_B, c_BTU, alpha_BTU, total_B)
        return total_B

    @staticmethod
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor | None, ...]:
        blank_BTU, label_BTU, frames_B, lengths_B, c_BTU, alpha_BTU, total_B = ctx.saved_tensors
        T = blank_BTU.shape[1]
        # After the last frame, only the whole label has ended.
        end_BU = torch.full_like(blank_BTU[:, 0], _NEVER).scatter_(1, lengths_B[:, None], 0.0)
        going_on_TB1 = (torch.arange(T, device=frames_B.device)[:, None] < frames_B - 1)[..., None]
        later_BU, rows = end_BU, []
        leaving_TBU = (c_BTU + blank_BTU).unbind(1)
        for t in range(T - 1, -1, -1):
            later_BU = torch.where(going_on_TB1[t], later_BU, end_BU)
            rows.append(later_BU)
            later_BU = torch.logcumsumexp((leaving_TBU[t] + later_BU).flip(-1), -1).flip(-1) - c_BTU[:, t]
            rows.append(later_BU)
        later_BTU, beta_BTU = torch.stack(rows[::2][::-1], 1), torch.stack(rows[1::2][::-1], 1)
        inside_BT1 = (torch.arange(T, device=frames_B.device) < frames_B[:, None])[..., None]
        paths_BTU = torch.where(inside_BT1, alpha_BTU - total_B[:, None, None], _NEVER)
        blank = (paths_BTU + blank_BTU + later_BTU).exp() * grad_B[:, None, None]
        label = (paths_BTU[..., :-1] + label_BTU + beta_BTU[..., 1:]).exp() * grad_B[:, None, None]
        return blank, label, None, None
