"""Chunks: what a frame may see where speech is written down while it is still being said.

A streaming encoder cuts the frames of a clip into chunks of ``chunk`` frames, from the first on. A frame sees the whole of its
own chunk, to the left ``left_chunks`` chunks by attention and half a kernel by convolution in every block, and nothing behind its
chunk. So the frames of a chunk are final as soon as the chunk is heard. Training lays this on as masks over whole clips; the
deployed recogniser (``lalia/models/streamed.py``) computes the same numbers chunk by chunk, from what it kept of those before.

B clips, C channels, T frames, N chunks, K frames of a chunk with what it sees before and behind.
"""

from __future__ import annotations

import torch
from fairseq2.models.transformer.attention_bias import AttentionBias
from torch import Tensor, nn
from torch.nn import functional as F

from lalia.units import Frames


class ChunkBias(AttentionBias):
    """Zero where a query may see a key, minus infinity elsewhere: (T, T) over one clip, rows are queries."""

    def __init__(self, chunk: Frames, left_chunks: int) -> None:
        self.chunk = chunk
        self.left_chunks = left_chunks

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChunkBias):
            return NotImplemented
        return (self.chunk, self.left_chunks) == (other.chunk, other.left_chunks)

    def __hash__(self) -> int:
        return hash((self.chunk, self.left_chunks))

    def create_bias_tensor(self, q_len: int, k_len: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        ahead = (
            torch.arange(k_len, device=device) // self.chunk - torch.arange(q_len, device=device)[:, None] // self.chunk
        )
        seen = (ahead <= 0) & (ahead >= -self.left_chunks)
        return torch.zeros(q_len, k_len, device=device, dtype=dtype).masked_fill_(~seen, -torch.inf)


class ChunkedConvolution(nn.Conv1d):
    """A depthwise convolution, (B, C, T) -> (B, C, T), for which everything behind a frame's own chunk is zero.

    Its weights are those of the convolution over whole clips: an offline recogniser's fit, masks are all that is new.
    """

    def __init__(self, channels: int, kernel: Frames, chunk: Frames) -> None:
        super().__init__(channels, channels, kernel, groups=channels, bias=False)
        self.chunk = chunk

    def forward(self, x_BCT: Tensor) -> Tensor:
        B, C, T = x_BCT.shape
        side, chunk = self.kernel_size[0] // 2, self.chunk
        N = -(-T // chunk)
        windows_BCNK = F.pad(x_BCT, (side, N * chunk - T)).unfold(2, side + chunk, chunk)
        windows_MCK = F.pad(windows_BCNK.transpose(1, 2).reshape(B * N, C, side + chunk), (0, side))
        said_MCK = F.conv1d(windows_MCK, self.weight, groups=C)
        return said_MCK.view(B, N, C, chunk).transpose(1, 2).reshape(B, C, N * chunk)[:, :, :T]
