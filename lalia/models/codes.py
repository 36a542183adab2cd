"""What a pretrained quantizer says of audio: the code of every frame, and how often each code is used.

S samples, T frames, G codebooks, V entries.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import yaml

from lalia.exits import UserError
from lalia.models.contrastive import ContrastiveHead, ContrastiveShape
from lalia.models.encoder import Encoder
from lalia.models.shape import EncoderShape
from lalia.training.runs import CONFIG, newest_checkpoint


class CodeReader:
    """The encoder and quantizer of a pretraining run, as its newest checkpoint holds them."""

    def __init__(self, encoder: Encoder, head: ContrastiveHead) -> None:
        self.encoder = encoder.eval()
        self.head = head.eval()

    @classmethod
    def load(cls, run: Path | str) -> CodeReader:
        """From the folder of a pretraining run; ``UserError`` where it has no checkpoint or is none."""
        run = Path(run)
        try:
            config = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
            shape, quantizer = EncoderShape(**config["model"]), ContrastiveShape(**config["quantizer"])
        except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{run}: expected the folder of a pretraining run ({error})") from error
        found = newest_checkpoint(run)
        if found is None:
            raise UserError(f"{run}: has no checkpoint that can be read; the quantizer is kept only there")
        reader = cls(Encoder(shape), ContrastiveHead(shape, quantizer))
        weights = found[1]["state_dict"]
        for name, module in (("encoder.", reader.encoder), ("head.", reader.head)):
            module.load_state_dict({k.removeprefix(name): w for k, w in weights.items() if k.startswith(name)})
        return reader

    @torch.inference_mode()
    def codes(self, wave: np.ndarray) -> np.ndarray:
        """The entry of each codebook that each frame of ``wave`` (S,) chooses: (T, G) int64; no frames where it is too short."""
        if self.encoder.shape.frames(len(wave)) < 1:
            return np.zeros((0, self.head.shape.codebooks), np.int64)
        wave_1S, length_1 = torch.from_numpy(wave)[None], torch.tensor([len(wave)])
        features_1TF, raw_1TF, frames_1 = self.encoder.features(wave_1S, length_1)
        if self.head.shape.kind == "kmeans":
            return self.head.clusters(wave_1S, length_1, raw_1TF, frames_1)[0].numpy()
        return self.head.logits(features_1TF)[0].argmax(-1).numpy()

    def usage(self, waves: Iterable[np.ndarray]) -> np.ndarray:
        """The share of all frames of ``waves`` that chooses each entry: (G, V), each codebook adding up to 1."""
        G, V = self.head.shape.codebooks, self.head.shape.entries
        counts_GV = np.zeros((G, V))
        for wave in waves:
            codes_TG = self.codes(wave)
            for g in range(G):
                counts_GV[g] += np.bincount(codes_TG[:, g], minlength=V)
        return counts_GV / np.maximum(counts_GV.sum(1, keepdims=True), 1.0)
