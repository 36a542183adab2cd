"""Windows: they cover the wave, whatever the blocks it came in, and their frames become one row without splice_frame errors."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from lalia.runtime.windows import WindowOutput, cut_windows, silence, splice_frame, stitch


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 130, 180, 181, 1000, 2345])
@pytest.mark.parametrize("block", [1, 7, 100, 5000])
def test_windows_cover_the_wave(samples: int, block: int) -> None:
    wave = np.arange(samples, dtype=np.float32)
    windows = list(cut_windows((wave[i : i + block] for i in range(0, samples, block)), 100, 20))
    assert np.array_equal(np.concatenate([w.wave[w.shared :] for w in windows]), wave)
    assert [w.shared for w in windows] == [0, *[20] * (len(windows) - 1)]
    assert all(np.array_equal(a.wave[-20:], b.wave[:20]) for a, b in pairwise(windows))
    assert all(len(w.wave) == 100 for w in windows[:-1]) and len(windows[-1].wave) <= 100
    assert len(windows) == 1 or len(windows[-1].wave) > 20


def test_nothing() -> None:
    assert list(cut_windows([], 100, 20)) == []
    assert list(cut_windows([np.zeros(0, np.float32)], 100, 20)) == []
    assert list(stitch([])) == []


def spoken(tokens: str, V: int = 4) -> np.ndarray:
    """Log-probabilities of a row of tokens, one digit a frame, nearly sure."""
    log_probs_TV = np.full((len(tokens), V), np.log(0.01 / (V - 1)), np.float32)
    log_probs_TV[np.arange(len(tokens)), [int(token) for token in tokens]] = np.log(0.99)
    return log_probs_TV


def said(stretches: list[np.ndarray]) -> str:
    return "".join(str(token) for token in np.concatenate(stretches).argmax(1))


def test_stitched_frames_are_those_of_the_whole() -> None:
    whole = "0012003100200130020012003"
    parts = [
        WindowOutput(spoken(whole[:10]), 10, 0),
        WindowOutput(spoken(whole[4:14]), 10, 6),
        WindowOutput(spoken(whole[8:]), 17, 6),
    ]
    assert said(list(stitch(parts))) == whole


@pytest.mark.parametrize("late", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("at", range(3, 18))
def test_a_letter_at_the_seam_is_neither_lost_nor_doubled(at: int, late: int) -> None:
    """The two windows date the same letter ``late`` frames apart, anywhere in the twenty frames that they share."""
    left = ["0"] * 20
    right = ["0"] * 20
    left[at] = "2"
    right[at + late if at + late < 20 else 19] = "2"
    found = said(
        list(
            stitch(
                [WindowOutput(spoken("1" + "".join(left)), 21, 0), WindowOutput(spoken("".join(right) + "3"), 21, 20)]
            )
        )
    )
    assert found.replace("0", "") == "123"


def test_a_seam_in_the_middle_where_nothing_speaks_against_it() -> None:
    assert splice_frame(spoken("0" * 20), spoken("0" * 20)) == 10
    assert splice_frame(spoken(""), spoken("0")) == 0
    assert splice_frame(spoken("0"), spoken("0")) in (0, 1)


def test_a_frame_that_the_model_owes_is_silence() -> None:
    found = np.concatenate(list(stitch([WindowOutput(spoken("123"), 4, 0), WindowOutput(spoken("21"), 2, 0)])))
    assert said([found]) == "123021"
    assert np.array_equal(silence(2, 3), np.array([[0, -100, -100]] * 2, np.float32))
