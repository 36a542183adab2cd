"""The losses of distillation: posteriors, hidden frames, CTC of labels and pseudo-labels.

Pure functions in float32 that return sums with their counts; the task divides.

B clips, T frames, V tokens, D width, U tokens of the longest text. ``valid_BT`` is False after a clip's end. Token 0 is the
blank. The CTC of labels is in ``lalia/models/recogniser.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lalia.models.frontend import on_device
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
    """The teacher's greedy transcripts as labels, on the CPU."""

    labels_BU: Tensor
    """tokens, 0 after the end"""
    lengths_B: Tensor
    """tokens of each clip; 0 if the confidence is too low or the transcript empty"""
    confidence_B: Tensor
    """geometric mean of the tokens' probabilities; 0 for an empty transcript"""


def labelled_ctc(logits_BTV: Tensor, frames_B: Tensor, labels_BU: Tensor, label_lengths_B: Tensor) -> Sum:
    """CTC of the clips that have a label, with the number of their tokens; CTC would take an empty label as silence.

    ``frames_B`` and ``label_lengths_B`` are on the CPU.
    """
    kept = label_lengths_B.nonzero()[:, 0]
    if not len(kept):
        return Sum(logits_BTV.new_zeros((), dtype=torch.float32), label_lengths_B.sum())
    rows = on_device(kept, logits_BTV.device)
    found = ctc(logits_BTV[rows], frames_B[kept], labels_BU[rows], label_lengths_B[kept])
    return Sum(found.loss, found.count)


def pause_ctc(pauses_PTV: Tensor, frames_P: Tensor, boundary: int | None) -> Sum:
    """CTC of one word boundary in each pause between joined clips (logits, padded), with the number of pauses.

    The label of a clip ends without a boundary, so no other loss says that a pause separates words. Without a ``boundary``, in
    languages written without spaces, the target is blanks only.
    """
    P, device = len(frames_P), pauses_PTV.device
    if not P:
        return Sum(torch.zeros(()), torch.zeros(()))
    labels_P1 = torch.full((P, 1), boundary or 0, device=device)
    found = ctc(pauses_PTV, frames_P, labels_P1, torch.full((P,), int(boundary is not None)))
    return Sum(found.loss, torch.tensor(P))


def posterior_divergence(
    logits_BTV: Tensor, teacher_BTV: Tensor, valid_BT: Tensor, temperature: float, blank_weight: float
) -> Sum:
    """Kullback-Leibler divergence of the student's tokens from the teacher's (both logits), in nats, at ``temperature``.

    Multiplied by the square of the temperature, so that gradients keep their size (Hinton et al. 2015, section 2). A frame has
    the weight ``blank_weight`` + (1 - ``blank_weight``) x (1 - the teacher's blank probability), because most frames are blank
    and the student would learn those first.
    """
    teacher = teacher_BTV.float()
    target = (teacher / temperature).log_softmax(-1)
    student = (logits_BTV.float() / temperature).log_softmax(-1)
    divergence_BT = (target.exp() * (target - student)).sum(-1) * temperature**2
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
    """Greedy transcripts of the clips whose geometric mean token probability reaches ``confidence``.

    The probability of a token is the highest in its run of frames, as in ``lalia/decoding/greedy.py``.
    """
    best_BT, tokens_BT = teacher_BTV.float().log_softmax(-1).max(-1)
    both_2BT = torch.stack([best_BT, tokens_BT.to(best_BT.dtype)]).cpu()  # the one thing that distillation waits for
    labels: list[Tensor] = []
    confidences: list[float] = []
    for best_T, tokens_T, frames in zip(both_2BT[0], both_2BT[1].long(), frames_B.tolist(), strict=True):
        runs_U, run_T = tokens_T[:frames].unique_consecutive(return_inverse=True)
        tops_U = torch.full((len(runs_U),), -torch.inf).scatter_reduce(0, run_T, best_T[:frames], "amax")
        tokens_U = runs_U != 0
        mean = float(tops_U[tokens_U].mean().exp()) if bool(tokens_U.any()) else 0.0
        confidences.append(mean)
        labels.append(runs_U[tokens_U] if mean >= confidence else runs_U[:0])
    return PseudoLabels(
        torch.nn.utils.rnn.pad_sequence(labels, batch_first=True), torch.tensor([len(label) for label in labels]),
        torch.tensor(confidences),
    )  # fmt: skip
