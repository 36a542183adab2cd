"""A streaming recogniser as it runs after training: some chunks of a wave and what was kept of those before, in and out.

Attention keeps the keys and values of the last ``left_chunks`` chunks, as far as there were so many, convolutions half a kernel
of their input; so a chunk costs the same however long the stream has been running. A whole clip is the stream's first and only
piece, heard after nothing: the same graph says to a clip at once what it says to its chunks (up to rounding), see
``lalia/models/chunks.py``.

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

from lalia.models.baselines import Baseline
from lalia.models.deployed import BlockConvolution, Deployed, SelfAttention, Unpadded, turn
from lalia.models.deployed_baselines import DeployedBaseline
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape


@dataclass(frozen=True)
class State:
    """A tensor that is kept from piece to piece."""

    name: str
    shape: tuple[int, ...]
    """of one clip before the first piece: (1, …), zeros"""


class Streamed(Deployed):
    """wave_BS, kept states -> log-probabilities_BTV, the states to keep; ``states`` lists them in order."""

    def __init__(self, recogniser: Recogniser) -> None:
        super().__init__(recogniser)
        shape = recogniser.encoder.shape
        assert shape.streaming
        self.chunk, self.left_chunks = shape.chunk, shape.left_chunks
        self.states: list[State] = []
        for number, block in enumerate(self.blocks.layers):
            for part in block.modules():
                if isinstance(part, ChunkedAttention):
                    # None are kept before the first piece, so that files hold no zeros and whole clips no keys of silence.
                    self.states.append(State(f"{number}.keys_values", (1, 0, 2 * part.heads, part.head_width)))
                elif isinstance(part, ChunkedBlockConvolution):
                    C, _, K = part.depthwise.weight.shape
                    self.states.append(State(f"{number}.convolution", (1, K // 2, C)))

    def begin(self) -> list[Tensor]:
        """The ``states`` before the first piece."""
        return [torch.zeros(state.shape) for state in self.states]

    def forward(self, wave_BS: Tensor, *states: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        layout = Kept(self.chunk, self.left_chunks, states)
        return self.said(wave_BS, layout), *layout.left


class Kept(Unpadded):
    """What parts of blocks take of the pieces before and leave for the next one, in the order in which they are run."""

    def __init__(self, chunk: int, left_chunks: int, states: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.chunk = chunk
        self._left_chunks = left_chunks
        self._given = iter(states)
        self.left: list[Tensor] = []
        self._bias: Tensor | None = None

    def join(self, x_BTXx: Tensor, keep: int) -> Tensor:
        """``x`` behind what was kept; the last ``keep`` frames of both are left for the next piece."""
        past = next(self._given)
        # A state that nobody gave is that of one clip.
        joined = torch.cat([past.expand(x_BTXx.shape[0], *past.shape[1:]), x_BTXx], 1)
        self.left.append(joined[:, -keep:] if keep else joined[:, :0])
        return joined

    def bias(self, past: Any, frames: Any) -> Tensor:
        """Zero where a frame may see a key, minus infinity elsewhere: (T, P + T). What is kept begins and ends with a chunk."""
        if self._bias is None:
            keys = torch.arange(past + frames) // self.chunk
            ahead = keys - (torch.arange(frames)[:, None] + past) // self.chunk
            self._bias = torch.zeros(1).masked_fill((ahead > 0) | (ahead < -self._left_chunks), -torch.inf)
        return self._bias

    @property
    def keys(self) -> int:
        """How many frames of keys and values are kept at most."""
        return self.chunk * self._left_chunks


class ChunkedAttention(SelfAttention):
    """Self-attention over a piece and the kept keys and values, which are stored as they were before positions turned them."""

    def forward(self, seqs: Tensor, seqs_layout: Kept, **_: Any) -> Tensor:  # type: ignore[override]
        H, d = self.heads, self.head_width
        B, T, _D = seqs.shape
        q_BTHd, kv_BTHd = self.qkv(seqs).reshape(B, T, 3 * H, d).split([H, 2 * H], 2)
        k_BHPd, v_BHPd = seqs_layout.join(kv_BTHd, seqs_layout.keys).transpose(1, 2).split([H, H], 1)
        q_BHTd = q_BTHd.transpose(1, 2)
        past = k_BHPd.shape[2] - T
        if self.rotary is not None:
            # Only distances count, so positions are counted from the first kept frame and stay small for ever.
            cos, sin = seqs_layout.angles(past + T, d // 2, self.rotary)
            q_BHTd, k_BHPd = turn(q_BHTd, cos[past:], sin[past:]), turn(k_BHPd, cos, sin)
        scores = torch.matmul(q_BHTd, k_BHPd.transpose(2, 3)) + seqs_layout.bias(past, T)
        return self.output(torch.matmul(scores.softmax(-1), v_BHPd).transpose(1, 2).reshape(B, T, H * d))


class ChunkedBlockConvolution(BlockConvolution):
    """The convolution inside a block, for which everything behind a frame's own chunk is zero."""

    def filtered(self, x_BTD: Tensor, seqs_layout: Kept) -> Tensor:  # type: ignore[override]
        weight, C = self.depthwise.weight, self.depthwise.groups
        side, chunk = self.depthwise.kernel_size[0] // 2, seqs_layout.chunk
        B, T = x_BTD.shape[:2]
        joined_BPC = F.pad(seqs_layout.join(x_BTD, side), (0, 0, 0, chunk - 1))
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


def deploy(recogniser: Recogniser) -> Deployed | DeployedBaseline:
    """``recogniser`` as it runs after training, chunk by chunk where it is a streaming one."""
    if isinstance(recogniser.encoder, Baseline):
        return DeployedBaseline(recogniser)
    return Streamed(recogniser) if recogniser.encoder.shape.streaming else Deployed(recogniser)
