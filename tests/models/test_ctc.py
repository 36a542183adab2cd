"""CTC against a sum over all paths, and labels that cannot fit."""

from __future__ import annotations

import itertools

import torch

from lalia.models.recogniser import ctc, frames_needed


def every_path(log_probs_TV: torch.Tensor, label: list[int]) -> torch.Tensor:
    """-log of the sum over all frame sequences that collapse to ``label``: slow and obvious."""
    T, V = log_probs_TV.shape
    total = []
    for path in itertools.product(range(V), repeat=T):
        collapsed = [token for token, _ in itertools.groupby(path) if token != 0]
        if collapsed == label:
            total.append(log_probs_TV[range(T), list(path)].sum())
    return -torch.logsumexp(torch.stack(total), 0)


def test_equal_to_the_sum_over_all_paths():
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 3)
    labels, lengths, frames = torch.tensor([[1, 2, 1], [2, 2, 0]]), torch.tensor([3, 2]), torch.tensor([5, 4])
    found = ctc(logits, frames, labels, lengths)
    expected = every_path(logits[0].log_softmax(-1), [1, 2, 1]) + every_path(logits[1, :4].log_softmax(-1), [2, 2])
    torch.testing.assert_close(found.loss, expected)
    assert int(found.count) == 5


def test_a_label_that_cannot_fit_is_named_and_counts_for_nothing():
    logits = torch.randn(2, 3, 3, requires_grad=True)
    labels, lengths = torch.tensor([[1, 1, 0], [1, 2, 1]]), torch.tensor([2, 3])
    assert frames_needed(labels, lengths).tolist() == [3, 3]
    found = ctc(logits, torch.tensor([2, 3]), labels, lengths)
    assert found.impossible_B.tolist() == [True, False]
    assert int(found.count) == 3
    found.loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[0].any()


def test_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        loss = ctc(torch.randn(1, 6, 4).bfloat16(), torch.tensor([6]), torch.tensor([[1, 2]]), torch.tensor([2])).loss
    assert loss.dtype == torch.float32
