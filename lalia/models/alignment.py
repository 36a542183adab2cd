"""Forced alignment by torchaudio, where torch is there: the path of ``lalia.decoding.alignment``, sooner.

T frames, V tokens.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torchaudio.functional import forced_align

from lalia.decoding.alignment import require_frames

# Its maintainers meant to take it out of 2.9, and did not: the version that the project is held to has it.
warnings.filterwarnings("ignore", message=".*forced_align has been deprecated")


def align(log_probs_TV: np.ndarray, ids: list[int]) -> np.ndarray:
    """As ``lalia.decoding.alignment.align``: the token said in each frame, (T,) int64, its place in ``ids`` or -1 for a blank.

    ``log_probs_TV`` is float32. ValueError where there are fewer frames than the text takes.
    """
    T = len(log_probs_TV)
    require_frames(ids, T)
    if not ids:
        return np.full(T, -1)
    log_probs_1TV = torch.from_numpy(np.ascontiguousarray(log_probs_TV, np.float32))[None]
    said_T = forced_align(log_probs_1TV, torch.tensor([ids]), blank=0)[0][0].numpy()
    # A token is a new one behind a blank or another one; of two equal ones a blank is always between.
    begins_T = (said_T != 0) & (said_T != np.append(0, said_T[:-1]))
    return np.where(said_T != 0, begins_T.cumsum() - 1, -1)
