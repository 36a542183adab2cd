"""The encoder: from raw wave to contextual frames, built from fairseq2's wav2vec 2.0 parts.

B clips, S samples, T frames, F features of a frame, D width. ``features`` makes the input of the quantizer; ``contextualise``
masks it and runs the blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile  # noqa: F401  # before fairseq2, which would ask the system for libsndfile; the wheel brings its own
import torch
from fairseq2.models.transformer import StandardTransformerEncoder
from fairseq2.nn import BatchLayout
from torch import Tensor, nn

from lalia.models.blocks import checkpoint_blocks, make_blocks, norm
from lalia.models.cpu_kernels import position_encoder, replace_dropouts
from lalia.models.cpu_products import replace_products
from lalia.models.frontend import StackedFrames, make_frontend, valid_frames
from lalia.models.shape import EncoderShape


class Encoder(nn.Module):
    """wave_BS, lengths_B -> hidden_BTD, frame lengths_B; lengths are on the CPU.

    A clip in a padded batch gives the same frames as the clip alone.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        D = shape.width
        self.frontend = make_frontend(shape)
        self.feature_norm = nn.LayerNorm(shape.features)
        self.projection = nn.Linear(shape.features, D)
        self.dropout_input = nn.Dropout(shape.dropout_input)
        self.mask_embedding = nn.Parameter(torch.empty(D).uniform_())
        self.position = (
            position_encoder(D, shape.position_kernel, shape.position_groups)
            if shape.position == "convolution"
            else None
        )
        self.input_norm = nn.LayerNorm(D) if shape.norm == "post" else None
        self.dropout = nn.Dropout(shape.dropout)
        # Blocks that do not end with a norm need one after the last.
        open_ended = shape.block == "convolutional" or (shape.block == "transformer" and shape.norm == "pre")
        self.blocks = StandardTransformerEncoder(
            make_blocks(shape),
            norm(shape) if open_ended else None,
            layer_drop_p=shape.layerdrop,
        )
        replace_dropouts(self)
        replace_products(self)

    def features(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(normalised features_BTF, raw features_BTF, frame lengths_B). Clips too short for a frame raise ValueError."""
        if int(lengths_B.min()) < self.shape.receptive_field:
            raise ValueError(
                f"a clip of {int(lengths_B.min())} samples is shorter than one frame "
                f"({self.shape.receptive_field} samples)"
            )
        raw_BTF, frames_B = self.frontend(wave_BS, lengths_B)
        return self.feature_norm(raw_BTF), raw_BTF, frames_B

    def contextualise(
        self,
        features_BTF: Tensor,
        frames_B: Tensor,
        mask_BT: Tensor | None = None,
        channel_mask_BD: Tensor | None = None,
        collect: list[Tensor] | None = None,
    ) -> Tensor:
        """hidden_BTD of ``features``; frames in ``mask_BT`` are replaced by the mask embedding, channels in
        ``channel_mask_BD`` are zero. With ``collect``, the output of every block is appended to it."""
        x_BTD, layout = self._block_input(features_BTF, frames_B, mask_BT, channel_mask_BD)
        return self._run_blocks(x_BTD, layout, collect)

    def _block_input(
        self,
        features_BTF: Tensor,
        frames_B: Tensor,
        mask_BT: Tensor | None = None,
        channel_mask_BD: Tensor | None = None,
    ) -> tuple[Tensor, BatchLayout]:
        """What the first block is given, (B, T, D), and its layout."""
        x_BTD = self.dropout_input(self.projection(features_BTF))
        if mask_BT is not None:
            x_BTD = torch.where(mask_BT[:, :, None], self.mask_embedding.to(x_BTD.dtype), x_BTD)
        if channel_mask_BD is not None:
            x_BTD = x_BTD.masked_fill(channel_mask_BD[:, None, :], 0.0)
        layout = _layout(x_BTD, frames_B)
        if self.position is not None:
            x_BTD = self.position(x_BTD, layout)
        if self.input_norm is not None:
            x_BTD = self.input_norm(x_BTD)
        return self.dropout(x_BTD), layout

    def _run_blocks(self, x_BTD: Tensor, layout: BatchLayout, collect: list[Tensor] | None) -> Tensor:
        """The output of the last block; with ``collect``, the output of every block is appended to it."""
        if collect is None:
            return self.blocks(x_BTD, layout)

        def keep(layer_idx: int, layer_output: Tensor, layer_output_layout: BatchLayout, num_layers: int) -> bool:
            collect.append(layer_output)
            return True

        hook = self.blocks.register_layer_hook(keep)
        try:
            return self.blocks(x_BTD, layout)
        finally:
            hook.remove()

    def forward(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        features_BTF, _, frames_B = self.features(wave_BS, lengths_B)
        return self.contextualise(features_BTF, frames_B), frames_B

    def hidden_layers(self, wave_BS: Tensor, lengths_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """The output of every block, each (B, T, D), and the frame lengths. LayerDrop must be off (eval mode)."""
        features_BTF, _, frames_B = self.features(wave_BS, lengths_B)
        collected: list[Tensor] = []
        self.contextualise(features_BTF, frames_B, collect=collected)
        return collected, frames_B

    def hidden_states(
        self, wave_BS: Tensor, lengths_B: Tensor, mask_BT: Tensor | None = None, channel_mask_BD: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The input of the first block and the output of every block, each (B, T, D), and the frame lengths.

        The last one is behind the final norm, if the encoder has one (transformers' ``hidden_states``). LayerDrop must be off.
        """
        features_BTF, _, frames_B = self.features(wave_BS, lengths_B)
        x_BTD, layout = self._block_input(features_BTF, frames_B, mask_BT, channel_mask_BD)
        outputs: list[Tensor] = []
        last_BTD = self._run_blocks(x_BTD, layout, outputs)
        return [x_BTD, *outputs[:-1], last_BTD], frames_B

    def checkpoint_blocks(self) -> None:
        """Turn on activation checkpointing: recompute each block in the backward pass. Baselines have no blocks."""
        if hasattr(self, "blocks"):
            checkpoint_blocks(self.blocks)

    def compile_blocks(self) -> None:
        """Turn on torch.compile for each block, for all lengths at once; weights keep their names."""
        if hasattr(self, "blocks"):
            for block in self.blocks.layers:
                block.compile(dynamic=True)

    def measure(self, waves: Iterable[np.ndarray]) -> None:
        """Set the normalisation of log-mel and MFCC frontends from ``waves``, each (S,); other frontends have none."""
        if isinstance(self.frontend, StackedFrames):
            self.frontend.measure(torch.from_numpy(wave) for wave in waves)

    @classmethod
    def load(cls, folder: Path | str) -> Encoder:
        """The encoder in ``folder`` (of an encoder or a recogniser)."""
        from lalia.models.store import load_encoder

        return load_encoder(Path(folder))

    def save(self, folder: Path | str, parents: list[dict[str, Any]], **facts: Any) -> None:
        """Write ``config.json``, ``model.safetensors`` and ``card.json`` to ``folder``; with ``quantizer``, that too."""
        from lalia.models.store import save_encoder

        save_encoder(self, Path(folder), parents, **facts)


def _layout(x_BTD: Tensor, frames_B: Tensor) -> BatchLayout:
    lengths = frames_B.tolist()
    return BatchLayout.of(x_BTD, None if min(lengths) == x_BTD.shape[1] else lengths)


__all__ = ["Encoder", "EncoderShape", "valid_frames"]
