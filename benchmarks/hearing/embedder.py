"""Distil a small speaker embedder from a diarizer's own: the folder it writes has the same segmentation and a new embedder.

  python -m benchmarks.hearing.embedder my-diarizer small-diarizer SPEECH… --without MIXES --minutes 15

SPEECH: folders with audio, any speech in any language, without labels. Pieces of 3 s, half of them at another speed (another
pitch is another voice), get the embedding of the large network; the small one learns it from the same filterbanks, mean removed,
with other crops and noise. ``--without``: a folder of audio whose voices are tested on; pieces whose embeddings are like one of
them are left out. Legend: B pieces, T frames, F features, C channels, D width.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lalia.audio.reading import SUFFIXES, read_audio
from lalia.cards import read_card
from lalia.models.convert.speaker_models import export_embedding, store_int8, write_diarizer_card
from lalia.onnx_session import open_session
from lalia.speakers.diarizer import EMBEDDING, SEGMENTATION
from lalia.speakers.filterbank import BINS, kaldi_filterbanks
from lalia.units import SAMPLE_RATE, Seconds, to_samples

PIECE_S: Seconds = 3.0
SPEEDS = (0.8, 1.25)
SAME_VOICE = 0.5
"""The cosine of embeddings from which a piece is taken for a voice of ``--without``."""


class SmallEmbedder(nn.Module):
    """Depthwise-separable convolutions on frames of 40 ms, mean and deviation over time: about a million weights."""

    def __init__(self, width: int = 192, blocks: int = 5, pooled: int = 384, size: int = 192) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(BINS, width, 5, 2, 2), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Conv1d(width, width, 5, 2, 2, groups=width // 8), nn.BatchNorm1d(width), nn.ReLU(),
        )  # fmt: skip
        self.blocks = nn.ModuleList(_block(width) for _ in range(blocks))
        self.pool = nn.Sequential(nn.Conv1d(width, pooled, 1), nn.BatchNorm1d(pooled), nn.ReLU())
        self.out = nn.Linear(2 * pooled, size)

    def forward(self, features_BTF: Tensor) -> Tensor:
        """Filterbanks (B, T, F), mean removed -> embeddings (B, D)."""
        hidden_BCT = self.stem(features_BTF.transpose(1, 2))
        for block in self.blocks:
            hidden_BCT = hidden_BCT + block(hidden_BCT)
        hidden_BCT = self.pool(hidden_BCT)
        deviation_BC = hidden_BCT.var(-1, unbiased=False).add(1e-5).sqrt()
        return self.out(torch.cat([hidden_BCT.mean(-1), deviation_BC], 1))


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(width, width, 7, padding=3, groups=width, bias=False), nn.BatchNorm1d(width),
        nn.Conv1d(width, 2 * width, 1), nn.ReLU(), nn.Conv1d(2 * width, width, 1, bias=False), nn.BatchNorm1d(width),
    )  # fmt: skip


def pieces(folder: Path, most: int, draw: np.random.Generator) -> Iterator[np.ndarray]:
    """At most ``most`` waves of three seconds from the audio files of ``folder``; a shorter clip is repeated."""
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    length = to_samples(PIECE_S)
    if not files:
        raise SystemExit(f"{folder}: holds no audio files")
    taken = 0
    for place in draw.permutation(len(files)):
        wave_S = read_audio(files[place])
        for start in range(0, max(1, len(wave_S) - length // 2), length):
            piece_S = wave_S[start : start + length]
            if float(np.abs(piece_S).max()) < 1e-3 or len(piece_S) < to_samples(0.5):
                continue
            yield np.resize(piece_S, length)
            taken += 1
            if taken == most:
                return


def examples(
    diarizer: Path, speech: Sequence[Path], without: Path | None, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Filterbanks (B, T, F) float16 and the large network's embeddings (B, D), of length 1."""
    session, draw = open_session(diarizer / EMBEDDING), np.random.default_rng(seed)

    def embed(features_TF: np.ndarray) -> np.ndarray:
        vector_D = session.run(["embedding"], {"features": (features_TF - features_TF.mean(axis=0))[None]})[0][0]
        return vector_D / np.linalg.norm(vector_D)

    tested = []
    for path in sorted(without.rglob("*")) if without else []:
        if path.suffix.lower() in SUFFIXES:
            features_TF = kaldi_filterbanks(read_audio(path))
            tested += [embed(features_TF[: len(features_TF) // 3]), embed(features_TF[-(len(features_TF) // 3) :])]
    tested_DN = np.array(tested).T if tested else np.zeros((192, 0))
    kept_features, kept_vectors, left_out = [], [], 0
    for folder in speech:
        for wave_S in pieces(folder, most, draw):
            features_TF = kaldi_filterbanks(wave_S)
            vector_D = embed(features_TF)
            if (vector_D @ tested_DN).max(initial=-1) >= SAME_VOICE:
                left_out += 1
                continue
            changed_S = np.resize(soxr.resample(wave_S, SAMPLE_RATE, SAMPLE_RATE / draw.uniform(*SPEEDS)), len(wave_S))
            changed_TF = kaldi_filterbanks(changed_S.astype(np.float32))
            kept_features += [features_TF.astype(np.float16), changed_TF.astype(np.float16)]
            kept_vectors += [vector_D, embed(changed_TF)]
        print(
            f"{folder.name}: {len(kept_vectors)} pieces so far, {left_out} left out as voices of the test", flush=True
        )
    return np.stack(kept_features), np.stack(kept_vectors).astype(np.float32)


def train(network: SmallEmbedder, features_BTF: np.ndarray, targets_BD: np.ndarray, minutes: float, seed: int) -> None:
    """Fit the cosine to the targets, and the cosines between the pieces of a batch, for ``minutes`` of processor time."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    begun, size, step, mean = time.process_time(), 64, 0, 0.0
    held = len(features_BTF) // 50
    while (spent := (time.process_time() - begun) / 60 / minutes) < 1:
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, step / 50 + 0.02) * 0.5 * (1 + np.cos(np.pi * spent))
        rows = draw.integers(held, len(features_BTF), size)
        length = int(draw.integers(100, features_BTF.shape[1] + 1))
        start = int(draw.integers(0, features_BTF.shape[1] - length + 1))
        batch_BTF = torch.from_numpy(features_BTF[rows, start : start + length].astype(np.float32))
        floor_B11 = batch_BTF.mean((1, 2), keepdim=True) + torch.empty(size, 1, 1).uniform_(-8, -2)
        batch_BTF = torch.logaddexp(batch_BTF, floor_B11 + 0.5 * torch.randn_like(batch_BTF))  # noise
        target_BD = torch.from_numpy(targets_BD[rows])
        found_BD = F.normalize(network.train()(batch_BTF - batch_BTF.mean(1, keepdim=True)), dim=1)
        pairs = (found_BD @ found_BD.T - target_BD @ target_BD.T).square().mean()
        loss = (1 - (found_BD * target_BD).sum(1)).mean() + 10 * pairs
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, mean = step + 1, loss.item() if not step else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0:
            with torch.no_grad():
                test_BTF = torch.from_numpy(features_BTF[:held].astype(np.float32))
                test_BD = F.normalize(network.eval()(test_BTF - test_BTF.mean(1, keepdim=True)), dim=1)
                cosine = (test_BD * torch.from_numpy(targets_BD[:held])).sum(1).mean()
            print(f"step {step}, {100 * spent:.0f} %: loss {mean:.3f}, held-out cosine {cosine:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("diarizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("speech", type=Path, nargs="+")
    parser.add_argument("--without", type=Path)
    parser.add_argument("--pieces", type=int, default=400, help="of each folder (default: 400)")
    parser.add_argument("--minutes", type=float, default=15.0, help="of processor time for training (default: 15)")
    parser.add_argument("--threshold", type=float, default=0.0, help="of clustering (default: that of the large one)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    card = read_card(args.diarizer, "diarizer")
    features_BTF, targets_BD = examples(args.diarizer, args.speech, args.without, args.pieces, args.seed)
    # The first pieces are held out.
    order = np.random.default_rng(args.seed).permutation(len(features_BTF))
    features_BTF, targets_BD = features_BTF[order], targets_BD[order]
    network = SmallEmbedder()
    print(f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M weights, {len(features_BTF)} pieces", flush=True)
    train(network, features_BTF, targets_BD, args.minutes, args.seed)
    args.out.mkdir(parents=True)
    shutil.copyfile(args.diarizer / SEGMENTATION, args.out / SEGMENTATION)
    (args.out / EMBEDDING).write_bytes(store_int8(export_embedding(network)))
    large = card["sources"][EMBEDDING]
    sources = {
        SEGMENTATION: card["sources"][SEGMENTATION],
        EMBEDDING: {"from": f"distilled from {large['from']}", "licence": large["licence"]},
    }
    write_diarizer_card(
        args.out, args.threshold or card["threshold"], sources, distilled_on=sorted(path.name for path in args.speech)
    )
    print(f"{args.out}: embedder {(args.out / EMBEDDING).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
