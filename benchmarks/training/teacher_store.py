"""Stored outputs of a large teacher: processor time and bytes per hour of audio, and peak memory, with random weights.

    python -m benchmarks.training.teacher_store CORPUS [--config configs/pretrain/xlsr-300m.yaml] [--minutes 2] [--precision bf16]

The teacher has the shape in the config and 40 tokens. The first clips of the corpus, ``--minutes`` of them, are stored, and the
figures are extrapolated to an hour. Time is that of the process on all its threads (``OMP_NUM_THREADS``).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from distill.config import StoreSettings
from distill.stored_outputs import HIDDEN, POSTERIORS, stored
from distill.teacher import TorchTeacher
from lalia import config
from lalia.data.mixture import Mixture
from lalia.models.encoder import Encoder
from lalia.models.recogniser import Recogniser
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import BLANK, BOUNDARY, Tokens
from pretrain.config import PretrainSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("--config", default="configs/pretrain/xlsr-300m.yaml", help="a pretraining config: the shape")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--micro_s", type=float, default=30.0, help="seconds of audio per batch")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    args = parser.parse_args()
    shape = config.load(PretrainSettings, ["--config", args.config], "teacher_store", "").model
    torch.manual_seed(0)
    tokens = Tokens([BLANK, BOUNDARY, *map(chr, range(0x4E00, 0x4E00 + 38))])
    recogniser = Recogniser(Encoder(shape), tokens, Normaliser(NormaliserSettings()))
    teacher = TorchTeacher(recogniser, {"id": "sha256:random"}, "random weights")
    mixture = Mixture.load([args.corpus])
    count = int(np.searchsorted(np.cumsum(mixture.durations_s), 60 * args.minutes)) + 1
    rows = np.arange(min(count, len(mixture)))
    hours = float(mixture.durations_s[rows].sum()) / 3600
    with tempfile.TemporaryDirectory() as work:
        begun, wall = time.process_time(), time.perf_counter()
        settings = StoreSettings(folder=f"{work}/store")
        device = torch.device("cpu")
        stored(
            [teacher],
            settings,
            mixture,
            rows,
            device=device,
            precision=args.precision,
            micro_s=args.micro_s,
            leads=True,
        )
        taken, waited = time.process_time() - begun, time.perf_counter() - wall
        size = sum((Path(work) / "store" / "0" / name).stat().st_size for name in (POSTERIORS, HIDDEN))
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        "| parameters | precision | audio measured | processor minutes per hour | MB per hour | peak memory |\n"
        + "|---" * 6
        + "|"
    )
    print(
        f"| {teacher.size} | {args.precision} | {60 * hours:.1f} min, {waited:.0f} s wall | {taken / 60 / hours:.1f} | "
        f"{size / 1e6 / hours:.1f} | {peak_gb:.1f} GB |"
    )


if __name__ == "__main__":
    main()
