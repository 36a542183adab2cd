"""Short clips joined end to end: a model that learns from context needs some.

B clips in, J joined clips out, S samples.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lalia.data.loader import Batch
from lalia.units import Seconds, to_samples


def join_clips(batch: Batch, longest_s: Seconds) -> Batch:
    """``batch`` with its clips joined, language by language and in their order, to waves of at most ``longest_s``.

    For training without labels only. ``rows_B`` names the first clip of each wave. Prompts, commands and other isolated words
    are too short to hide spans of and to draw distractors from; joined they are as good as running speech
    (fairseq and NVIDIA's recipe crop long recordings instead and never meet them).
    """
    if batch.labels_BU is not None:
        raise ValueError("labelled clips cannot be joined: their labels would have to be joined as well")
    longest = to_samples(longest_s)
    waves: list[list[Tensor]] = []
    firsts: list[int] = []
    open_wave: dict[int, int] = {}  # language -> number of the wave that still has room
    lengths: list[int] = []
    languages = batch.languages_B.tolist()
    for b, length in enumerate(batch.lengths_B.tolist()):
        at = open_wave.get(languages[b])
        if at is None or lengths[at] + length > longest:
            at = open_wave[languages[b]] = len(waves)
            waves.append([])
            lengths.append(0)
            firsts.append(b)
        waves[at].append(batch.wave_BS[b, :length])
        lengths[at] += length
    joined_JS = torch.nn.utils.rnn.pad_sequence([torch.cat(parts) for parts in waves], batch_first=True)
    return replace(
        batch,
        wave_BS=joined_JS,
        lengths_B=torch.tensor(lengths, dtype=torch.int64, device=batch.wave_BS.device),
        rows_B=batch.rows_B[firsts],
        languages_B=batch.languages_B[firsts],
    )
