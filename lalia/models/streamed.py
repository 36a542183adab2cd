"""A streaming recogniser as it runs after training: some chunks of a wave and what was kept of those before, in and out.

Attention keeps the keys and values of the last ``left_chunks`` chunks, convolutions half a kernel of their input, so that a chunk
costs the same however long the stream has been running. A whole clip is the stream's first and only piece, heard after
nothing: the same graph says to a clip at once what it says to its chunks (up to rounding), see ``lalia/models/chunks.py``.

A piece of T frames starts at a chunk and has (T - 1) x hop + receptive field samples, so that pieces overlap by what features
see of the next frame. All pieces but the last hold whole chunks.

B clips, S samples, T frames, P kept frames, D width, H heads, d dimensions of a head, C channels, N chunks, K taps and frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lalia.models.deployed import BlockConvolution, Deployed, SelfAttention, Unpadded, turn
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape

FRAMES = "frames"
"""The state that counts the frames before this piece: int64 (1,)."""


@dataclass(frozen=True)
class State:
    """A tensor that is kept from piece to piece."""

    name: str
    shape: tuple[int, ...]
    """of one clip: (1, …); zeros before the first piece"""


class Streamed(Deployed):
    """wave_BS, frames, kept states -> log-probabilities_BTV, frames, the states to keep; ``states`` lists them in order."""

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__(recogniser)
        shape = recogniser.encoder.shape
        assert shape.streaming
        self.chunk, self.left_chunks = shape.chunk, shape.left_chunks
        self.states: list[State] = []
        for number, block in enumerate(self.blocks.layers):
            for part in block.modules():
                if isinstance(part, ChunkedAttention):
                    kept = (1, shape.chunk * shape.left_chunks, 2 * part.heads, part.head_width)
                    self.states.append(State(f"{number}.keys_values", kept))
                elif isinstance(part, ChunkedBlockConvolution):
                    C, _, K = part.depthwise.weight.shape
                    self.states.append(State(f"{number}.convolution", (1, K // 2, C)))

    def begin(self) -> list[Tensor]:
        """What is kept before the first piece: ``frames``, then ``states``."""
        return [torch.zeros(1, dtype=torch.int64), *(torch.zeros(state.shape) for state in self.states)]

    def forward(self, wave_BS: Tensor, frames: Tensor, *states: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        layout = Kept(self.chunk, self.left_chunks, frames, states)
        log_probs_BTV = self.said(wave_BS, layout)
        return log_probs_BTV, frames + log_probs_BTV.shape[1], *layout.left


class Kept(Unpadded):
    """What parts of blocks take of the pieces before and leave for the next one, in the order in which they are run."""

    def __init__(self, chunk: int, left_chunks: int, frames: Tensor, states: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.chunk = chunk
        self.past = chunk * left_chunks
        self._left_chunks = left_chunks
        self._frames = frames
        self._given = iter(states)
        self.left: list[Tensor] = []
        self._bias: Tensor | None = None

    def join(self, x_BTXx: Tensor) -> Tensor:
        """``x`` behind what was kept; as many frames of the end as were kept are left for the next piece."""
        past = next(self._given)
        # A state that nobody gave is that of one clip.
        past = past.expand(x_BTXx.shape[0], *past.shape[1:])
        joined = torch.cat([past, x_BTXx], 1)
        self.left.append(joined[:, x_BTXx.shape[1] :])
        return joined

    def bias(self, frames: Any) -> Tensor:
        """Zero where a frame may see a key, minus infinity elsewhere: (T, P + T). Kept frames before the first are not there."""
        if self._bias is None:
            keys = torch.arange(self.past + frames)
            chunks_behind = keys // self.chunk - (torch.arange(frames) // self.chunk)[:, None]
            seen = (chunks_behind >= 0) & (chunks_behind <= self._left_chunks) & (keys + self._frames >= self.past)
            self._bias = torch.zeros(1).masked_fill(~seen, -torch.inf)
        return self._bias


class ChunkedAttention(SelfAttention):
    """Self-attention over a piece and the kept keys and values, which are stored as they were before positions turned them."""

    def forward(self, seqs: Tensor, seqs_layout: Kept, **_: Any) -> Tensor:  # type: ignore[override]
        H, d = self.heads, self.head_width
        B, T, _D = seqs.shape
        q_BTHd, kv_BTHd = self.qkv(seqs).reshape(B, T, 3 * H, d).split([H, 2 * H], 2)
        k_BHPd, v_BHPd = seqs_layout.join(kv_BTHd).transpose(1, 2).split([H, H], 1)
        q_BHTd = q_BTHd.transpose(1, 2)
        past = seqs_layout.past
        if self.rotary is not None:
            # Only distances count, so positions are counted from the first kept frame and stay small for ever.
            cos, sin = seqs_layout.angles(past + T, d // 2, self.rotary)
            q_BHTd, k_BHPd = turn(q_BHTd, cos[past:], sin[past:]), turn(k_BHPd, cos, sin)
        scores = torch.matmul(q_BHTd, k_BHPd.transpose(2, 3)) + seqs_layout.bias(T)
        return self.output(torch.matmul(scores.softmax(-1), v_BHPd).transpose(1, 2).reshape(B, T, H * d))


class ChunkedBlockConvolution(BlockConvolution):
    """The convolution inside a block, for which everything behind a frame's own chunk is zero."""

    def filtered(self, x_BTD: Tensor, seqs_layout: Kept) -> Tensor:  # type: ignore[override]
        weight, C = self.depthwise.weight, self.depthwise.groups
        side, chunk = self.depthwise.kernel_size[0] // 2, seqs_layout.chunk
        B, T = x_BTD.shape[:2]
        joined_BPC = F.pad(seqs_layout.join(x_BTD), (0, 0, 0, chunk - 1))
        starts = torch.arange(0, T, chunk)[:, None]
        windows_BNKC = joined_BPC[:, starts + torch.arange(side + chunk)]
        windows_MCK = F.pad(windows_BNKC.flatten(0, 1).transpose(1, 2), (0, side))
        said_MKC = F.conv1d(windows_MCK, weight, groups=C).transpose(1, 2)
        return said_MKC.reshape(B, -1, C)[:, :T]


Streamed.attention, Streamed.convolution = ChunkedAttention, ChunkedBlockConvolution


def streaming_facts(shape: EncoderShape) -> dict[str, float | int] | None:
    """What a student's card says of how it hears; None where it hears clips whole."""
    if not shape.streaming:
        return None
    return {
        "chunk_s": round(shape.chunk * shape.frame_s, 6),
        "left_s": round(shape.chunk * shape.left_chunks * shape.frame_s, 6),
        "lookahead_s": round((shape.chunk - 1) * shape.frame_s, 6),
        "chunk_frames": shape.chunk,
        "receptive_field": shape.receptive_field,
    }


def deploy(recogniser: Recogniser) -> Deployed:
    """``recogniser`` as it runs after training, chunk by chunk where it is a streaming one."""
    return Streamed(recogniser) if recogniser.encoder.shape.streaming else Deployed(recogniser)
