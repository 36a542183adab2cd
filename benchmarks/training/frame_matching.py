"""A teacher's outputs in longer frames: error rates of its greedy text when frames are chosen, averaged or pooled by the surest.

    python -m benchmarks.training.frame_matching RECOGNISER CORPUS --language CODE [--ratio 1.5 2]

The test clips' posteriors are brought to frames of ``--ratio`` teacher frames and decoded: what a student that learned them
perfectly would say. ``chosen`` is ``distill/frame_matching.py``; clips with more letters than frames are left out of its row,
and counted.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from distill.frame_matching import choose_frames, emissions, place
from lalia.data.labels import normalised_label
from lalia.data.loader import make_eval_loader
from lalia.data.mixture import Mixture
from lalia.decoding.greedy import greedy, transcript
from lalia.models.recogniser import Recogniser
from lalia.scoring.rates import score


def averaged(probs_NV: np.ndarray, frames: int, ratio: float) -> np.ndarray:
    """Mean probability of the frames in each longer frame."""
    place_N = np.minimum((np.arange(len(probs_NV)) + 0.5) / ratio, frames - 1).astype(int)
    return np.stack([probs_NV[place_N == t].mean(0) for t in range(frames)])


def surest(probs_NV: np.ndarray, frames: int, ratio: float) -> np.ndarray:
    """Of the frames in each longer frame the one with the least blank."""
    place_N = np.minimum((np.arange(len(probs_NV)) + 0.5) / ratio, frames - 1).astype(int)
    found = []
    for t in range(frames):
        inside_NV = probs_NV[place_N == t]
        found.append(inside_NV[inside_NV[:, 0].argmin()])
    return np.stack(found)


def chosen(probs_NV: np.ndarray, frames: int, ratio: float) -> np.ndarray | None:
    """Frames chosen so that no letter is lost; None if they are too few."""
    given = emissions(probs_NV.argmax(-1), probs_NV.max(-1))
    places = place(given.frames_U, frames, ratio)
    return None if places is None else probs_NV[choose_frames(given.frames_U, places, frames, len(probs_NV), ratio)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recogniser")
    parser.add_argument("corpus")
    parser.add_argument("--language", required=True)
    parser.add_argument("--ratio", type=float, nargs="*", default=[1.5, 2.0])
    args = parser.parse_args()
    recogniser, mixture = Recogniser.load(args.recogniser), Mixture.load([args.corpus])
    outputs: list[tuple[str, np.ndarray]] = []
    for batch in make_eval_loader(mixture, mixture.select("test", [args.language], labelled=True), 60.0):
        log_probs_BTV, frames_B = recogniser.log_probs(batch.wave_BS, batch.lengths_B)
        for row, log_probs_TV, frames in zip(batch.rows_B.tolist(), log_probs_BTV, frames_B.tolist(), strict=True):
            reference = normalised_label(mixture, row, recogniser.normaliser)
            outputs.append((reference, log_probs_TV[:frames].exp().numpy()))
    print(
        f"| frames of {1000 * recogniser.frame_s:g} ms become | how | clips | CER | of the same clips without change |\n"
        + "|---" * 5
        + "|"
    )
    for ratio in args.ratio:
        for how in (averaged, surest, chosen):
            references, texts, whole = [], [], []
            for reference, probs_NV in outputs:
                found = how(probs_NV, max(1, int(len(probs_NV) / ratio)), ratio)
                if found is not None:
                    references.append(reference)
                    texts.append(transcript(greedy(np.log(found)), recogniser.tokens))
                    whole.append(transcript(greedy(np.log(probs_NV)), recogniser.tokens))
            rates = [f"{score(references, said).cer.rate:.3f}" for said in (texts, whole)]
            ms = 1000 * recogniser.frame_s * ratio
            print(f"| {ms:g} ms | {how.__name__} | {len(references)} of {len(outputs)} | {rates[0]} | {rates[1]} |")


if __name__ == "__main__":
    with torch.inference_mode():
        main()
