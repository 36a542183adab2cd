"""Long audio as overlapping windows: what each sees, and which part of its frames is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lalia.units import Samples


@dataclass(frozen=True)
class Window:
    """A stretch of a wave; of its frames those from ``keep_from`` to ``keep_to`` (samples; None: its end) are used."""

    wave: np.ndarray
    keep_from: Samples
    keep_to: Samples | None


def cut_windows(blocks: Iterable[np.ndarray], length: Samples, overlap: Samples) -> Iterator[Window]:
    """Windows of ``length`` samples over the wave whose consecutive pieces are ``blocks``.

    Neighbours share ``overlap`` samples and each keeps its half of them, so the kept parts cover the wave exactly once
    and every kept frame has seen at least half an overlap on both sides. A wave up to ``length`` is one window. Memory
    holds one window and one block.
    """
    pending: list[np.ndarray] = []
    held = 0
    keep_from = 0
    for block in blocks:
        pending.append(block)
        held += len(block)
        while held > length:
            wave = np.concatenate(pending)
            yield Window(wave[:length], keep_from, length - overlap // 2)
            pending = [wave[length - overlap :]]
            held = len(pending[0])
            keep_from = overlap // 2
    if held:
        yield Window(np.concatenate(pending), keep_from, None)
