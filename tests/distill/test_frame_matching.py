"""Matching frames of different lengths: no letter is lost, none is added, and order and time are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from distill.frame_matching import align_frames, choose_frames, emissions, place, pool_hidden
from distill.teacher import match


def collapsed(tokens) -> list[int]:
    tokens = np.asarray(tokens)
    return [int(t) for t in tokens[np.append(True, tokens[1:] != tokens[:-1])] if t]


def path(*tokens: int, size: int = 4, sure: float = 0.99) -> torch.Tensor:
    """Log-probabilities (1, N, V) with these best tokens."""
    probs_NV = torch.full((len(tokens), size), (1 - sure) / (size - 1))
    probs_NV[torch.arange(len(tokens)), torch.tensor(tokens)] = sure
    return probs_NV.log()[None]


def matched(logits_BNV: torch.Tensor, frames: int, ratio: float) -> list[int] | None:
    lengths = torch.tensor([logits_BNV.shape[1]])
    found, matched_B = match([logits_BNV], [lengths], [torch.tensor([ratio])], torch.tensor([frames]), frames)
    return found[0].argmax(-1).tolist() if matched_B[0] else None


def test_a_letter_of_one_frame_survives_where_the_mean_loses_it():
    teacher = path(0, 1, 0, 0, 2, 0, 3, 0, sure=0.99)
    teacher[0, [1, 4, 6]] = torch.tensor([0.6, 0.4, 0.4, 0.4]).log()  # unsure letters between sure blanks
    teacher[0, [1, 4, 6], [1, 2, 3]] = 0.0
    teacher = teacher.log_softmax(-1)
    mean = teacher.exp().reshape(1, 4, 2, -1).mean(2)
    assert collapsed(mean[0].argmax(-1)) == []
    assert matched(teacher, 4, 2.0) == [1, 0, 2, 3]


def test_letters_in_neighbouring_frames_get_a_frame_each():
    assert matched(path(0, 0, 1, 2, 0, 0, 0, 0), 4, 2.0) == [1, 2, 0, 0]


def test_equal_letters_keep_the_blank_between_them():
    found = matched(path(0, 1, 0, 1, 0, 0, 0, 0, 0, 0), 5, 2.0)
    assert found is not None and collapsed(found) == [1, 1]
    assert found[found.index(1) : found.index(1) + 3] == [1, 0, 1]


def test_too_many_letters_for_the_frames_are_refused():
    assert matched(path(1, 0, 1, 2, 3, 0), 3, 2.0) is None
    assert matched(path(1, 2, 3, 0, 0, 0), 3, 2.0) == [1, 2, 3]


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.0, 1.5, 2.0, 3.0])
def test_the_greedy_transcript_is_the_teachers_at_any_ratio(ratio):
    random = np.random.default_rng(round(ratio * 10))
    refused = 0
    for _ in range(200):
        count = int(random.integers(1, 60))
        best = random.choice(4, count, p=[0.7, 0.1, 0.1, 0.1])
        frames = max(1, round(count / ratio))
        given = emissions(best, random.random(count))
        places = place(given.frames_U, frames, ratio)
        if places is None:
            refused += 1
            assert len(given.frames_U) > frames
            continue
        chosen = choose_frames(given.frames_U, places, frames, count, ratio)
        assert (np.diff(chosen) >= 0).all() and chosen.min() >= 0 and chosen.max() < count
        assert collapsed(best[chosen]) == collapsed(best)
        assert (np.diff(places) > 0).all() and (chosen[places] == given.frames_U).all()
    assert refused < 200


def test_frames_stay_near_their_time():
    """Letters ten frames apart move by half a student frame at most."""
    best = np.zeros(200, np.int64)
    best[5::10] = np.resize([1, 2, 3], 20)
    given = emissions(best, np.ones(200))
    places = place(given.frames_U, 100, 2.0)
    assert places is not None
    assert np.abs((places + 0.5) * 2.0 - (given.frames_U + 0.5)).max() <= 1.0


def test_an_ensemble_meets_in_the_letters_and_not_in_the_frames():
    """The same letters one frame apart: the mean of aligned probabilities has them, the mean in time loses them."""
    first, second = path(0, 1, 0, 0, 2, 0, 0, 0), path(0, 0, 1, 0, 0, 2, 0, 0)
    first[0, :, 0] += 0.5
    lengths, ratios = [torch.tensor([8])] * 2, [torch.tensor([1.0])] * 2
    found, _ = match([first, second], lengths, ratios, torch.tensor([8]), 8)
    assert collapsed(found[0].argmax(-1)) == [1, 2]
    assert_close(found.exp().sum(-1), torch.ones(1, 8))
    # Two of three correct the first teacher's letter.
    third = path(0, 0, 3, 0, 0, 0, 2, 0)
    wrong = path(0, 3, 0, 0, 1, 0, 0, 0)
    found, _ = match([wrong, second, first], [torch.tensor([8])] * 3, [torch.tensor([1.0])] * 3, torch.tensor([8]), 8)
    assert collapsed(found[0].argmax(-1)) == [1, 2]
    found, _ = match([second, third], lengths, ratios, torch.tensor([8]), 8)
    assert len(collapsed(found[0].argmax(-1))) == 2


def test_letters_that_only_one_teacher_has_do_not_move_the_others():
    first, other = (
        emissions(np.array([0, 1, 0, 2, 0, 0]), np.ones(6)),
        emissions(np.array([1, 0, 3, 0, 0, 2]), np.ones(6)),
    )
    places = place(first.frames_U, 6, 1.0)
    assert places is not None
    chosen = align_frames(first, places, other, 6, 6, 1.0)
    assert chosen[places].tolist() == [0, 5]


def test_hidden_frames_are_the_mean_of_those_in_a_student_frame_and_the_nearest_where_there_is_none():
    hidden = torch.arange(10.0).reshape(2, 5, 1)
    pooled = pool_hidden(hidden, torch.tensor([4, 5]), torch.tensor([2, 3]), torch.tensor([2.0, 2.0]))
    assert pooled[:, :, 0].tolist() == [[0.5, 2.5, 3.0], [5.5, 7.5, 9.0]]
    doubled = pool_hidden(hidden[:1, :2], torch.tensor([2]), torch.tensor([4]), torch.tensor([0.5]))
    assert doubled[0, :, 0].tolist() == [0.0, 0.0, 1.0, 1.0]
