"""The losses of distillation against slow, obvious versions, and numbers worked by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from distill.loss import hidden_distance, labelled_ctc, pause_ctc, posterior_divergence, pseudo_labels
from lalia.models.recogniser import ctc

B, T, V, D = 3, 7, 5, 6


@pytest.fixture()
def drawn():
    torch.manual_seed(0)
    frames_B = torch.tensor([7, 4, 1])
    return torch.randn(B, T, V) * 2, torch.randn(B, T, V) * 2, torch.arange(T) < frames_B[:, None], frames_B


def softmax(logits):
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


@pytest.mark.parametrize(("temperature", "blank_weight"), [(1.0, 1.0), (2.0, 0.1), (4.0, 0.0)])
def test_divergence_is_the_double_loop(drawn, temperature, blank_weight):
    student, teacher, valid, _ = drawn
    loss = count = 0.0
    for b in range(B):
        for t in range(T):
            if not valid[b, t]:
                continue
            p = softmax([x / temperature for x in teacher[b, t].tolist()])
            q = softmax([x / temperature for x in student[b, t].tolist()])
            blank = softmax(teacher[b, t].tolist())[0]
            weight = blank_weight + (1 - blank_weight) * (1 - blank)
            loss += weight * temperature**2 * sum(pi * math.log(pi / qi) for pi, qi in zip(p, q, strict=True))
            count += weight
    found = posterior_divergence(student, teacher, valid, temperature, blank_weight)
    assert_close(found.loss, torch.tensor(loss))
    assert_close(found.count, torch.tensor(count))


def test_divergence_by_hand():
    """The teacher says (3/4, 1/4), the student (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2; the blank has 3/4, so it counts 1/4."""
    teacher = torch.tensor([[[3.0, 1.0]]]).log()
    found = posterior_divergence(torch.zeros(1, 1, 2), teacher, torch.ones(1, 1, dtype=torch.bool), 1.0, 0.0)
    assert float(found.count) == pytest.approx(0.25)
    assert float(found.loss) == pytest.approx(0.25 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)))


def test_a_student_that_says_the_same_has_no_divergence_and_no_gradient(drawn):
    _, teacher, valid, _ = drawn
    student = (teacher + 3.0).requires_grad_()  # softmax does not see what is added to all logits
    found = posterior_divergence(student, teacher, valid, 2.0, 0.1)
    found.loss.backward()
    assert float(found.loss.detach()) == pytest.approx(0.0, abs=1e-4)
    assert student.grad is not None and float(student.grad.abs().max()) < 1e-5


def test_what_lies_behind_a_clip_counts_for_nothing(drawn):
    student, teacher, valid, _ = drawn
    changed = torch.where(valid[:, :, None], student, torch.full_like(student, 50.0))
    assert_close(
        posterior_divergence(student, teacher, valid, 2.0, 0.1).loss,
        posterior_divergence(changed, teacher, valid, 2.0, 0.1).loss,
    )
    hidden, target = torch.randn(B, T, D), torch.randn(B, T, D)
    moved = torch.where(valid[:, :, None], hidden, torch.full_like(hidden, 9.0))
    assert_close(hidden_distance(hidden, target, valid).l1, hidden_distance(moved, target, valid).l1)


def test_hidden_distance_is_the_double_loop(drawn):
    _, _, valid, _ = drawn
    hidden, target = torch.randn(B, T, D), torch.randn(B, T, D)
    l1 = cosine = 0.0
    for b in range(B):
        for t in range(T):
            if valid[b, t]:
                h, g = hidden[b, t].tolist(), target[b, t].tolist()
                l1 += sum(abs(x - y) for x, y in zip(h, g, strict=True)) / D
                dot = sum(x * y for x, y in zip(h, g, strict=True))
                angle = dot / math.sqrt(sum(x * x for x in h)) / math.sqrt(sum(y * y for y in g))
                cosine += math.log(1 + math.exp(-angle))
    found = hidden_distance(hidden, target, valid)
    assert_close(found.l1, torch.tensor(l1))
    assert_close(found.cosine, torch.tensor(cosine))
    assert int(found.count) == 12


def test_losses_are_computed_in_float32():
    logits = torch.randn(1, 4, V).bfloat16()
    valid = torch.ones(1, 4, dtype=torch.bool)
    assert posterior_divergence(logits, logits, valid, 2.0, 0.1).loss.dtype == torch.float32
    assert hidden_distance(logits, logits, valid).l1.dtype == torch.float32


def test_clips_without_a_label_are_not_taught_silence():
    logits = torch.randn(3, 6, V, requires_grad=True)
    frames_B, labels_BU = torch.tensor([6, 5, 6]), torch.tensor([[1, 2], [0, 0], [3, 0]])
    found = labelled_ctc(logits, frames_B, labels_BU, torch.tensor([2, 0, 1]))
    alone = ctc(logits[[0, 2]], frames_B[[0, 2]], labels_BU[[0, 2]], torch.tensor([2, 1]))
    assert_close(found.loss, alone.loss)
    assert int(found.count) == 3
    found.loss.backward()
    assert logits.grad is not None and not logits.grad[1].any()
    none = labelled_ctc(logits, frames_B, labels_BU[:, :0], torch.zeros(3, dtype=torch.int64))
    assert (float(none.loss), int(none.count)) == (0.0, 0)


def probabilities(*frames):
    return torch.tensor([frames]).log()


def test_pseudo_labels_are_the_best_path_with_its_confidence():
    """a a blank a b: a's first run has .9 at best, its second .6, b .8."""
    heard = probabilities(
        [0.2, 0.8, 0.0], [0.1, 0.9, 0.0], [0.95, 0.05, 0.0], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8], [0.0, 0.0, 1.0]
    )
    found = pseudo_labels(heard, torch.tensor([5]), 0.5)
    assert found.labels_BU.tolist() == [[1, 1, 2]]
    assert float(found.confidence_B[0]) == pytest.approx((0.9 * 0.6 * 0.8) ** (1 / 3))


def test_an_unsure_teacher_and_a_silent_one_teach_nothing():
    unsure = probabilities([0.4, 0.6, 0.0], [0.9, 0.1, 0.0])
    silent = probabilities([0.9, 0.1, 0.0], [0.9, 0.1, 0.0])
    found = pseudo_labels(torch.cat([unsure, silent]), torch.tensor([2, 2]), 0.7)
    assert found.lengths_B.tolist() == [0, 0]
    assert found.confidence_B.tolist() == pytest.approx([0.6, 0.0])
    assert pseudo_labels(unsure, torch.tensor([2]), 0.5).lengths_B.tolist() == [1]


def test_a_pause_says_one_word_boundary_or_nothing():
    torch.manual_seed(0)
    pauses, frames_P = [torch.randn(2, V), torch.randn(3, V)], torch.tensor([2, 3])
    padded = torch.nn.utils.rnn.pad_sequence(pauses, batch_first=True)
    found, silent = pause_ctc(padded, frames_P, 1), pause_ctc(padded, frames_P, None)
    assert int(found.count) == int(silent.count) == 2
    for kind, boundary in ((found, 1), (silent, None)):
        expected = 0.0
        for logits_TV in pauses:
            chances = logits_TV.softmax(-1).tolist()
            total = 0.0
            for path in itertools.product(range(2), repeat=len(chances)):
                runs = [token for token, _ in itertools.groupby(path) if token]
                if runs == ([1] if boundary else []):
                    total += math.prod(chance[token] for chance, token in zip(chances, path, strict=True))
            expected -= math.log(total)
        assert float(kind.loss) == pytest.approx(expected, rel=1e-5)
    assert float(pause_ctc(padded[:0], frames_P[:0], 1).loss) == 0.0
