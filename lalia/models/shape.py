"""The encoder's hyperparameters: every number that decides its tensors, as stored in ``config.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from lalia.errors import UserError
from lalia.units import SAMPLE_RATE, Frames, Samples

# The stem of wav2vec 2.0 (Baevski et al. 2020, section 4.2): (channels, kernel, stride) per convolution, 20 ms in all.
WAV2VEC2_STEM = [[512, 10, 5], [512, 3, 2], [512, 3, 2], [512, 3, 2], [512, 3, 2], [512, 2, 2], [512, 2, 2]]


@dataclass
class EncoderShape:
    """An encoder from raw 16 kHz wave to contextual frames. The defaults are wav2vec 2.0 BASE."""

    input: Literal["wave", "logmel", "mfcc"] = "wave"
    """what the first layer sees: the raw wave through convolutions, or stacked log-mel or MFCC frames"""
    stem: list[list[int]] = field(default_factory=lambda: [list(row) for row in WAV2VEC2_STEM])
    """wave only: [channels, kernel, stride] of each convolution"""
    stem_norm: Literal["group", "layer"] = "group"
    """wave only: group = group norm after the first convolution (BASE), layer = layer norm after each (LARGE, XLS-R)"""
    stem_bias: bool = False
    """wave only: whether the convolutions have a bias (LARGE, XLS-R)"""
    normalise_wave: bool = False
    """wave only: normalise each clip to zero mean and unit variance first (LARGE, XLS-R)"""
    stem_gradient_scale: float = 0.1
    """wave only: factor on the gradient that reaches the stem"""
    bins: int = 80
    """logmel and mfcc only: mel bins or cepstral coefficients per 10 ms frame"""
    stack: int = 4
    """logmel and mfcc only: 10 ms frames stacked into one vector, 4 = one vector per 40 ms"""
    width: int = 768
    """dimensions of a contextual frame"""
    layers: int = 12
    """blocks of the encoder"""
    heads: int = 12
    """attention heads"""
    feedforward: int = 3072
    """inner dimensions of the feed-forward layers"""
    block: Literal["transformer", "convolutional", "conformer"] = "transformer"
    """transformer as in wav2vec 2.0; convolutional adds a depthwise convolution to it; conformer adds a feed-forward half too"""
    block_kernel: int = 31
    """convolutional and conformer only: kernel of the depthwise convolution, in frames"""
    heads_by_block: list[int] = field(default_factory=list)
    """after pruning: heads of each block, as wide as width / heads; none given = `heads` in every block"""
    feedforward_by_block: list[int] = field(default_factory=list)
    """after pruning: inner dimensions of each block's feed-forward layers; none given = `feedforward`"""
    channels_by_block: list[int] = field(default_factory=list)
    """after pruning: channels of each block's convolution (convolutional and conformer only); none given = `width`"""
    norm: Literal["post", "pre"] = "post"
    """transformer only: layer norm after each residual (BASE) or before each block (LARGE, XLS-R)"""
    adapter: int = 0
    """transformer with norm pre only: inner dimensions of an adapter after each block (MMS has 16); 0 = no adapters"""
    position: Literal["convolution", "rotary"] = "convolution"
    """position encoding: a wide convolution before the blocks (wav2vec 2.0), or rotary positions"""
    position_kernel: int = 128
    """kernel of that convolution, in frames"""
    position_groups: int = 16
    """groups of that convolution"""
    chunk: Frames = 0
    """streaming: frames of a chunk, after which its frames see nothing; 0 = offline, a clip is processed whole"""
    left_chunks: int = 0
    """streaming: chunks before its own that a frame's attention sees, in every block"""
    dropout: float = 0.1
    """after the frontend, attention and feed-forward"""
    dropout_input: float = 0.1
    """on the projected features, before frames are masked (fairseq's name)"""
    attention_dropout: float = 0.1
    """on attention weights"""
    feedforward_dropout: float = 0.0
    """inside the feed-forward layers"""
    layerdrop: float = 0.05
    """LayerDrop: probability that a block is skipped in a training step"""

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % self.position_groups:
            raise UserError(
                f"model.width {self.width} must be a multiple of model.heads {self.heads} "
                f"and of model.position_groups {self.position_groups}"
            )
        if self.normalise_wave and self.input != "wave":
            raise UserError(
                f"model.normalise_wave needs model.input wave, found {self.input}, which normalises its frames"
            )
        if self.block != "transformer" and self.block_kernel % 2 == 0:
            raise UserError(f"model.block_kernel {self.block_kernel} must be odd, so that each frame is its own centre")
        if self.adapter < 0 or (self.adapter and (self.block != "transformer" or self.norm != "pre")):
            raise UserError(
                f"model.adapter {self.adapter}: expected 0, or from 1 on with model.block transformer and model.norm pre; found "
                f"block {self.block} and norm {self.norm}"
            )
        self._check_chunks()
        for name in ("heads_by_block", "feedforward_by_block", "channels_by_block"):
            sizes = getattr(self, name)
            if sizes and (len(sizes) != self.layers or min(sizes) < 1):
                raise UserError(f"model.{name} {sizes}: expected {self.layers} numbers from 1 on, one per block")

    def _check_chunks(self) -> None:
        """Raise ``UserError`` if a part needs the whole clip, or the numbers of chunks are invalid."""
        if self.chunk < 0 or self.left_chunks < 0 or bool(self.chunk) != bool(self.left_chunks):
            raise UserError(
                f"chunk {self.chunk} and left_chunks {self.left_chunks}: expected both from 1 on for streaming, "
                "or both 0"
            )
        whole = [
            what
            for what, found in (
                ("model.position convolution", self.position == "convolution"),
                ("model.stem_norm group", self.input == "wave" and self.stem_norm == "group"),
                ("model.normalise_wave", self.normalise_wave),
            )
            if found
        ]
        if self.chunk and whole:
            raise UserError(
                f"streaming (chunk {self.chunk}) processes chunk by chunk, but {' and '.join(whole)} needs the whole clip; "
                "start from a recogniser on log-mel frames, or on a stem with layer norm, with rotary positions"
            )

    @property
    def streaming(self) -> bool:
        """Whether a clip is processed chunk by chunk."""
        return self.chunk > 0

    @property
    def pruned(self) -> bool:
        """Whether blocks differ in size."""
        return bool(self.heads_by_block or self.feedforward_by_block or self.channels_by_block)

    def heads_of(self, block: int) -> int:
        """Attention heads of a block."""
        return self.heads_by_block[block] if self.heads_by_block else self.heads

    def feedforward_of(self, block: int) -> int:
        """Inner dimensions of a block's feed-forward layers."""
        return self.feedforward_by_block[block] if self.feedforward_by_block else self.feedforward

    def channels_of(self, block: int) -> int:
        """Channels of a block's convolution."""
        return self.channels_by_block[block] if self.channels_by_block else self.width

    @property
    def features(self) -> int:
        """Dimensions of a frame before the projection to ``width``."""
        return self.stem[-1][0] if self.input == "wave" else self.bins * self.stack

    @property
    def hop(self) -> Samples:
        """Samples from one frame to the next."""
        if self.input != "wave":
            return self.stack * FRAME_HOP
        hop = 1
        for _, _, stride in self.stem:
            hop *= stride
        return hop

    @property
    def receptive_field(self) -> Samples:
        """Samples that a frame sees: the shortest wave that gives a frame."""
        if self.input != "wave":
            return FRAME_WINDOW + (self.stack - 1) * FRAME_HOP
        seen, hop = 1, 1
        for _, kernel, stride in self.stem:
            seen += (kernel - 1) * hop
            hop *= stride
        return seen

    @property
    def frame_s(self) -> float:
        """Seconds from one frame to the next."""
        return self.hop / SAMPLE_RATE

    def frames(self, samples: Samples) -> Frames:
        """Number of frames in ``samples`` samples (0 if too short for one)."""
        if self.input != "wave":
            return max(0, (samples - FRAME_WINDOW) // FRAME_HOP + 1) // self.stack
        for _, kernel, stride in self.stem:
            samples = max(0, (samples - kernel) // stride + 1)
        return samples

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderShape:
        """The shape in ``values``; a ``UserError`` names keys this version does not know."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise UserError(f"encoder config has unknown keys {sorted(unknown)}; was it made by a newer lalia?")
        return cls(**values)


FRAME_WINDOW: Samples = 400
"""Samples of one log-mel frame, 25 ms."""
FRAME_HOP: Samples = 160
"""Samples from one log-mel frame to the next, 10 ms."""
