"""Windows: their kept parts cover the wave once, whatever the blocks it came in."""

from __future__ import annotations

import numpy as np
import pytest

from lalia.runtime.windows import cut_windows


@pytest.mark.parametrize("samples", [1, 99, 100, 101, 130, 180, 181, 1000, 2345])
@pytest.mark.parametrize("block", [1, 7, 100, 5000])
def test_kept_parts_cover_the_wave_once(samples: int, block: int) -> None:
    wave = np.arange(samples, dtype=np.float32)
    windows = list(cut_windows((wave[i : i + block] for i in range(0, samples, block)), 100, 20))
    kept = np.concatenate([w.wave[w.keep_from : w.keep_to] for w in windows])
    assert np.array_equal(kept, wave)
    assert max(len(w.wave) for w in windows) <= 100
    assert len(windows) == 1 or len(windows[-1].wave) > 20


def test_nothing() -> None:
    assert list(cut_windows([], 100, 20)) == []
    assert list(cut_windows([np.zeros(0, np.float32)], 100, 20)) == []
