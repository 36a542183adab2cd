"""Wrong-label detection of `lalia finetune check --recogniser`: precision and recall on exchanged labels.

    OMP_NUM_THREADS=1 python -m benchmarks.data.wrong_labels data/demo --language ita --recogniser runs/demo/student

A label is exchanged for that of a clip of similar length, so that length and speaking rate do not reveal it.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import sys
import time
from pathlib import Path

import numpy as np

from finetune.check.clips import find_wrong_labels, load_pair_model, rate_outliers, score_pairs
from finetune.check.findings import Labels, read_labels
from lalia.data.corpus import Corpus
from lalia.text.languages import profile
from lalia.text.normaliser import Normaliser, settings_for


def exchanged(labels: Labels, share: float, seed: int) -> tuple[Labels, set[int]]:
    """``labels`` with a ``share`` of them exchanged for the label of a clip of similar length, and their places."""
    draw = random.Random(seed)
    count = len(labels.texts)
    order = np.argsort(labels.durations_s, kind="stable").tolist()
    position = {place: i for i, place in enumerate(order)}
    texts = list(labels.texts)
    for place in draw.sample(range(count), int(share * count)):
        other = order[min(max(position[place] + draw.choice([-3, -2, 2, 3]), 0), count - 1)]
        texts[place] = labels.texts[other]
    normal = [labels.normaliser(text) for text in texts]
    wrong = {place for place in range(count) if normal[place] != labels.normal[place]}
    return dataclasses.replace(labels, texts=texts, normal=normal), wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--language", required=True)
    parser.add_argument("--recogniser", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.05, help="share of the labels to exchange")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    known = profile(args.language)
    labels, wrong = exchanged(
        read_labels(Corpus.load(args.corpus), known, Normaliser(settings_for(args.language)), 0.02),
        args.share,
        args.seed,
    )
    begun = time.perf_counter()
    scored = list(score_pairs(labels, load_pair_model(args.recogniser)))
    elapsed_s = time.perf_counter() - begun
    found = {score.place for score in find_wrong_labels(scored)}
    fast = set(rate_outliers(labels))
    right = [score.cer for score in scored if score.place not in wrong]
    print(f"{len(labels.rows)} clips, {labels.durations_s.sum() / 60:.1f} minutes, {len(wrong)} wrong labels")
    print(f"mean CER of clips with right labels: {np.mean(right):.2f}")
    print(
        f"by recogniser: {len(found & wrong)} wrong labels found, {len(found - wrong)} false alarms, {elapsed_s:.0f} s"
    )
    print(f"by speaking rate only: {len(fast & wrong)} wrong labels found, {len(fast - wrong)} false alarms")
    for place in sorted(found - wrong):
        print(f"  false alarm: {labels.corpus.id(int(labels.rows[place]))}: {labels.texts[place][:60]!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
