"""Error rates of clips alone and of the same clips in one long recording, and the cause of the difference.

    python -m benchmarks.decoding.long_files RECOGNISER CORPUS --language ita [--pauses 0.5 2] [--causes]

Test clips in random order are joined to windows of 30 s with silence between them. ``--causes`` normalises the features by each
clip's own level, restricts attention to each clip, or both; the remaining difference comes from the pauses. Log-mel recognisers
only, in torch, with greedy decoding.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from lalia.data.corpus import Corpus
from lalia.decoding.greedy import greedy, transcript
from lalia.errors import UserError
from lalia.models.frontend import PRIOR_FRAMES, StackedFrames
from lalia.models.recogniser import Recogniser
from lalia.models.shape import FRAME_HOP, FRAME_WINDOW
from lalia.scoring.rates import ErrorCounts, character_errors
from lalia.units import Seconds, to_samples

WINDOW_S: Seconds = 30.0


class Bench:
    """A recogniser, the clips, their references, and the hypotheses of each clip alone."""

    def __init__(self, recogniser: Recogniser, corpus: Corpus, language: str) -> None:
        if not isinstance(recogniser.encoder.frontend, StackedFrames):
            raise UserError(
                "benchmarks.decoding.long_files: this recogniser uses the raw wave; expected a log-mel recogniser"
            )
        self.recogniser = recogniser
        self.frames = cast(StackedFrames, recogniser.encoder.frontend)
        self.hop = recogniser.encoder.shape.hop
        rows = corpus.select(split="test", language=language, with_text=True)
        rows = rows[np.random.default_rng(0).permutation(len(rows))]
        self.waves = [corpus.wave(int(row)) for row in rows]
        self.texts = [recogniser.normaliser(corpus.text(int(row))) for row in rows]
        with torch.inference_mode():
            self.alone = [self.text(self.log_probs(self.features(wave, [], False))) for wave in self.waves]

    @torch.inference_mode()
    def joined(self, pause_s: Seconds, own_level: bool, own_context: bool) -> tuple[float, float]:
        """Character errors of the windows' hypotheses against (the hypotheses of the clips alone, the references)."""
        counts = [ErrorCounts(), ErrorCounts()]
        for window in self.windows(pause_s):
            places: list[tuple[np.ndarray, int]] = []
            length = 0
            for number in window:
                places.append((self.waves[number], length))
                length = -(-(length + len(self.waves[number]) + to_samples(pause_s)) // self.hop) * self.hop
            wave = np.zeros(length, np.float32)
            for clip, start in places:
                wave[start : start + len(clip)] = clip
            features_BTF = self.features(wave, places, own_level)
            edges = [start // self.hop for _, start in places] if own_context else [0]
            found = self.text(self.log_probs(features_BTF, edges))
            for place, texts in enumerate((self.alone, self.texts)):
                expected = " ".join(filter(None, (texts[number] for number in window)))
                counts[place] += character_errors(expected, found)
        return counts[0].rate, counts[1].rate

    def windows(self, pause_s: Seconds) -> list[list[int]]:
        """Numbers of the clips of each window."""
        found: list[list[int]] = [[]]
        held = 0.0
        for number, wave in enumerate(self.waves):
            samples = len(wave) + to_samples(pause_s) + self.hop
            if found[-1] and held + samples > to_samples(WINDOW_S):
                found.append([])
                held = 0
            found[-1].append(number)
            held += samples
        return found

    def features(self, wave: np.ndarray, places: Sequence[tuple[np.ndarray, int]], own_level: bool) -> Tensor:
        """(1, T, F) of ``wave``, normalised over all of it, or from each clip's start on by that clip's own level."""
        encoder = self.recogniser.encoder
        if not own_level:
            return encoder.features(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0]
        stack, prior = self.frames.stack, self.frames.prior_2M
        bins_NM = self.frames._bins(torch.from_numpy(np.pad(wave, (0, FRAME_WINDOW)))[None])[0]
        parts = []
        ends = [*(start for _, start in places[1:]), len(wave)]
        for (clip, start), end in zip(places, ends, strict=True):
            own_NM = self.frames._bins(torch.from_numpy(clip)[None])[0]
            count = len(own_NM) + PRIOR_FRAMES
            mean_M = (own_NM.sum(0) + PRIOR_FRAMES * prior[0]) / count
            variance_M = (own_NM.square().sum(0) + PRIOR_FRAMES * prior[1]) / count - mean_M.square()
            part_NM = bins_NM[start // FRAME_HOP : end // FRAME_HOP]
            parts.append((part_NM - mean_M) * torch.rsqrt(variance_M.clamp(min=0) + 1e-3))
        flat_NM = torch.cat(parts)
        T = len(flat_NM) // stack
        return encoder.feature_norm(flat_NM[: T * stack].reshape(1, T, -1))

    def log_probs(self, features_BTF: Tensor, edges: Sequence[int] = (0,)) -> np.ndarray:
        """Log-probabilities (T, V); attention is restricted to the frames between two ``edges``."""
        ends = [*edges[1:], features_BTF.shape[1]]
        parts = [features_BTF[:, start:end] for start, end in zip(edges, ends, strict=True)]
        encoder = self.recogniser.encoder
        hidden = [encoder.contextualise(part, torch.tensor([part.shape[1]])) for part in parts]
        return self.recogniser.head(torch.cat(hidden, 1)).log_softmax(-1)[0].numpy()

    def text(self, log_probs_TV: np.ndarray) -> str:
        return transcript(greedy(log_probs_TV), self.recogniser.tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recogniser", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--language", required=True)
    parser.add_argument("--pauses", type=float, nargs="*", default=[0.5, 2.0], help="seconds between two clips")
    parser.add_argument("--causes", action="store_true", help="find the part of the model that causes the difference")
    args = parser.parse_args()
    bench = Bench(Recogniser.load(args.recogniser), Corpus.load(args.corpus), args.language)
    errors = [character_errors(text, found) for text, found in zip(bench.texts, bench.alone, strict=True)]
    print(f"{len(bench.waves)} clips, each alone: CER {100 * sum(errors[1:], errors[0]).rate:.1f} %\n")
    print("| pause | normalisation | attention | CER to clips alone | CER |\n|---|---|---|---|---|")
    for pause_s in args.pauses:
        for level, context in (
            [(False, False), (False, True), (True, False), (True, True)] if args.causes else [(False, False)]
        ):
            other, rate = bench.joined(pause_s, level, context)
            names = ["per clip" if own else "whole window" for own in (level, context)]
            print(f"| {pause_s:g} s | {' | '.join(names)} | {100 * other:.1f} % | {100 * rate:.1f} % |", flush=True)


if __name__ == "__main__":
    main()
