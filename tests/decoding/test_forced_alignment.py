"""Forced alignment: the likeliest path that spells a text, and the letter of each frame."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from lalia.decoding.forced_alignment import align, align_words, letters_of_frames, text_score
from lalia.text.tokens import Tokens


def spelled(path: tuple[int, ...]) -> list[int]:
    """What a CTC path says: repeats merged, blanks left out."""
    return [token for i, token in enumerate(path) if token and (i == 0 or path[i - 1] != token)]


def log_probs(frames: int, tokens: int, seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(frames, tokens))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


@pytest.mark.parametrize("ids", [[1], [1, 2], [1, 1], [2, 1, 2], [1, 2, 2]])
@pytest.mark.parametrize("seed", range(4))
def test_finds_the_best_of_all_paths(ids: list[int], seed: int) -> None:
    log_probs_TV = log_probs(5, 3, seed)
    paths = [path for path in product(range(3), repeat=5) if spelled(path) == ids]
    best = max(paths, key=lambda path: sum(log_probs_TV[t, token] for t, token in enumerate(path)))
    found = align(log_probs_TV, ids)
    assert [ids[u] if u >= 0 else 0 for u in found] == list(best)
    assert sorted(set(found) - {-1}) == list(range(len(ids)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.filterwarnings("ignore:.*forced_align has been deprecated")
def test_equals_torchaudios_forced_align(seed: int) -> None:
    import torch
    from torchaudio.functional import forced_align

    from lalia.models import recogniser

    random = np.random.default_rng(seed)
    frames, tokens = int(random.integers(30, 200)), int(random.integers(3, 40))
    letters = int(random.integers(1, frames // 3))
    ids = random.integers(1, tokens, letters).tolist()  # of few tokens many come twice in a row
    log_probs_TV = log_probs(frames, tokens, seed).astype(np.float32)
    theirs_1T, _ = forced_align(torch.from_numpy(log_probs_TV)[None], torch.tensor([ids], dtype=torch.int32), blank=0)
    ours_T = align(log_probs_TV, ids)
    assert [ids[u] if u >= 0 else 0 for u in ours_T] == theirs_1T[0].tolist()
    assert recogniser.align(log_probs_TV, ids).tolist() == ours_T.tolist()


def both() -> list[Callable[[np.ndarray, list[int]], np.ndarray]]:
    """The runtime's own alignment, and torchaudio's where torch is there."""
    from lalia.models import recogniser

    return [align, recogniser.align]


def test_a_text_that_does_not_fit_is_refused() -> None:
    for found in both():
        with pytest.raises(ValueError, match="needs 3 frames does not fit into 2"):
            found(log_probs(2, 3, 0), [1, 1])


def test_an_empty_text_is_blank_throughout() -> None:
    for found in both():
        assert found(log_probs(4, 3, 0), []).tolist() == [-1] * 4


def test_frames_get_the_nearest_letter_within_reach() -> None:
    tokens = Tokens(["<blank>", "|", "a", "b"])
    marks = [0, 0, 2, 0, 0, 3, 0, 0, 0]
    log_probs_TV = np.full((9, 4), -9.0)
    log_probs_TV[np.arange(9), marks] = -0.01
    assert letters_of_frames(log_probs_TV, tokens, "ab", reach=2) == ["a", "a", "a", "a", "b", "b", "b", "b", ""]


def test_spaces_are_no_letters_and_unknown_letters_give_none() -> None:
    tokens = Tokens(["<blank>", "|", "a", "b"])
    log_probs_TV = np.full((5, 4), -9.0)
    log_probs_TV[np.arange(5), [2, 1, 3, 0, 0]] = -0.01
    assert letters_of_frames(log_probs_TV, tokens, "a b", reach=0) == ["a", "", "b", "", ""]
    assert letters_of_frames(log_probs_TV, tokens, "axb") == []
    assert letters_of_frames(log_probs_TV, tokens, "") == []
    assert letters_of_frames(log_probs_TV, tokens, "ababab") == []


# --- Words that may be missing, and audio that may be ------------------------------------------------------


def emitted(text: str, tokens: int = 6, frames: int = 2, sure: float = 6.0) -> np.ndarray:
    """Log-probabilities of a recogniser that is sure: each letter (a = 2, b = 3, ...; | = 1) in two frames, then a blank."""
    path = [i for letter in text for i in ([1 if letter == "|" else ord(letter) - 95] * frames + [0])]
    logits = np.zeros((len(path), tokens), np.float32)
    logits[np.arange(len(path)), path] = sure
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def ids(*words: str) -> list[list[int]]:
    return [[ord(letter) - 95 for letter in word] for word in words]


def test_words_are_found_where_they_are() -> None:
    path = align_words(emitted("abc|cab|b"), ids("abc", "cab", "b"), boundary=1)
    assert path.frames_W2.tolist() == [[0, 8], [12, 20], [24, 26]]
    assert not path.star_T.any()
    assert path.deficit_T.max() == 0


def test_a_word_that_nobody_says_is_left_out() -> None:
    first, last = "abcabcabcabc", "bacbacbacbac"  # a short one at an edge would be cheaper to leave out
    path = align_words(emitted(f"{first}|{last}"), ids(first, "dddcdcddcd", last), boundary=1)
    assert path.frames_W2[1].tolist() == [-1, -1]
    assert path.frames_W2[[0, 2]].tolist() == [[0, 34], [39, 74]]
    assert path.star_T[34:39].any()  # the star is entered between the words


def test_audio_that_is_not_in_the_text_is_left_out() -> None:
    path = align_words(emitted("abcabc|dcdcdcddcdcdccdd|bacbac"), ids("abcabc", "bacbac"), boundary=1)
    assert path.frames_W2.tolist() == [[0, 17], [72, 89]]
    assert path.star_T[24:66].all()


def test_the_beginning_and_the_end_of_a_text_may_be_missing() -> None:
    words = ids("ddcdcddd", "abcabc", "bacbac", "cdcdcdd")
    path = align_words(emitted("abcabc|bacbac"), words, boundary=1)
    assert (path.frames_W2[:, 0] >= 0).tolist() == [False, True, True, False]


def test_text_score_is_that_of_the_best_path() -> None:
    log_probs_TV = log_probs(6, 4, 3)
    found = text_score(log_probs_TV, [[2], [3, 2]], boundary=1)
    best = -np.inf
    for path in product(range(4), repeat=6):
        # A boundary between words, or none; before and after them too.
        letters = [token for i, token in enumerate(path) if token and (i == 0 or path[i - 1] != token)]
        inside = [token for token in letters if token != 1]
        if inside != [2, 3, 2]:
            continue
        first, second = path.index(2), path.index(3)
        last = len(path) - 1 - path[::-1].index(2)
        allowed = all(token != 1 for token in path[second : last + 1])
        runs = "".join(map(str, path[first:second])).strip("013") in ("2", "22", "222", "2222")
        if allowed and runs:
            best = max(best, sum(log_probs_TV[t, token] for t, token in enumerate(path)))
    assert found == pytest.approx(best)
