"""The losses of distillation as pure functions in float32: sums with their counts; the task divides.

B clips, T frames, V tokens, D width, U tokens of the longest text. ``valid_BT`` is False behind a clip's end. Token 0 is the
blank. The CTC of labels is in ``lalia/models/recogniser.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lalia.models.recogniser import ctc


@dataclass
class Sum:
    """A loss summed over frames or tokens."""

    loss: Tensor
    count: Tensor
    """frames, each with its weight, or tokens"""


@dataclass
class HiddenSum:
    """Distances between hidden frames, summed over frames."""

    l1: Tensor
    """mean absolute difference of the dimensions"""
    cosine: Tensor
    """-log sigmoid of the cosine"""
    count: Tensor
    """frames"""


@dataclass
class PseudoLabels:
    """What the teacher heard."""

    labels_BU: Tensor
    """tokens, 0 after the end"""
    lengths_B: Tensor
    """tokens of each clip; 0 where the teacher was not sure enough or heard nothing"""
    confidence_B: Tensor
    """geometric mean of the letters' probabilities; 0 where nothing was heard"""


def labelled_ctc(logits_BTV: Tensor, frames_B: Tensor, labels_BU: Tensor, label_lengths_B: Tensor) -> Sum:
    """CTC of the clips that have a label, with the number of its tokens; to CTC itself an empty label means silence."""
    kept = label_lengths_B > 0
    if not bool(kept.any()):
        return Sum(logits_BTV.new_zeros((), dtype=torch.float32), label_lengths_B.sum())
    found = ctc(logits_BTV[kept], frames_B[kept], labels_BU[kept], label_lengths_B[kept])
    return Sum(found.loss, found.count)


def pause_ctc(pauses: list[Tensor], boundary: int | None) -> Sum:
    """CTC of one word boundary in each pause between joined clips, logits (T', V) each, with the number of pauses.

    A clip alone ends without one, so nobody else says that what follows a pause is another word. Nothing but blanks is asked
    for where there is no ``boundary``, in languages written without spaces.
    """
    if not pauses:
        return Sum(torch.zeros(()), torch.zeros(()))
    frames_B = torch.tensor([len(logits_TV) for logits_TV in pauses])
    labels_BU = torch.full((len(pauses), 1), boundary or 0)
    found = ctc(
        torch.nn.utils.rnn.pad_sequence(pauses, batch_first=True), frames_B.to(pauses[0].device),
        labels_BU.to(pauses[0].device), torch.full_like(frames_B, int(boundary is not None)).to(pauses[0].device),
    )  # fmt: skip
    return Sum(found.loss, frames_B.new_tensor(len(pauses)).to(pauses[0].device))


def posterior_divergence(
    logits_BTV: Tensor, teacher_BTV: Tensor, valid_BT: Tensor, temperature: float, blank_weight: float
) -> Sum:
    """Kullback-Leibler divergence of the student's tokens from the teacher's (both logits), in nats, at ``temperature``.

    Multiplied by the temperature's square, so that gradients keep their size (Hinton et al. 2015, section 2). CTC's teacher says
    blank on most frames; a frame counts ``blank_weight`` + (1 - ``blank_weight``) x (1 - the teacher's blank), lest the student
    learn silence first.
    """
    teacher = teacher_BTV.float()
    target = (teacher / temperature).log_softmax(-1)
    heard = (logits_BTV.float() / temperature).log_softmax(-1)
    divergence_BT = (target.exp() * (target - heard)).sum(-1) * temperature**2
    weight_BT = blank_weight + (1 - blank_weight) * (1 - teacher.softmax(-1)[..., 0])
    weight_BT = weight_BT * valid_BT
    return Sum((divergence_BT * weight_BT).sum(), weight_BT.sum())


def hidden_distance(hidden_BTD: Tensor, target_BTD: Tensor, valid_BT: Tensor) -> HiddenSum:
    """L1 and cosine distance of hidden frames from the teacher's (DistilHuBERT, Chang et al. 2022, equation 1)."""
    hidden, target = hidden_BTD.float(), target_BTD.float()
    l1_BT = (hidden - target).abs().mean(-1)
    cosine_BT = -F.logsigmoid(F.cosine_similarity(hidden, target, dim=-1))
    return HiddenSum((l1_BT * valid_BT).sum(), (cosine_BT * valid_BT).sum(), valid_BT.sum())


def pseudo_labels(teacher_BTV: Tensor, frames_B: Tensor, confidence: float) -> PseudoLabels:
    """The best path of each clip, where the geometric mean probability of its letters reaches ``confidence``.

    The probability of a letter is the highest in its run of frames, as in ``lalia/decoding/greedy.py``.
    """
    best_BT, tokens_BT = teacher_BTV.float().log_softmax(-1).max(-1)
    labels: list[Tensor] = []
    confidences: list[float] = []
    for best_T, tokens_T, frames in zip(best_BT.cpu(), tokens_BT.cpu(), frames_B.tolist(), strict=True):
        runs_U, run_T = tokens_T[:frames].unique_consecutive(return_inverse=True)
        tops_U = torch.full((len(runs_U),), -torch.inf).scatter_reduce(0, run_T, best_T[:frames], "amax")
        letters_U = runs_U != 0
        sure = float(tops_U[letters_U].mean().exp()) if bool(letters_U.any()) else 0.0
        confidences.append(sure)
        labels.append(runs_U[letters_U] if sure >= confidence else runs_U[:0])
    device = teacher_BTV.device
    return PseudoLabels(
        torch.nn.utils.rnn.pad_sequence(labels, batch_first=True).to(device),
        torch.tensor([len(label) for label in labels], device=device),
        torch.tensor(confidences, device=device),
    )
