"""Fine-tuning on the hand-made corpus in this process, small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.tiny_corpus import WORDS, chant, make_corpus
from tests.tiny_teacher import make_recogniser

SMALL = [
    "--data.workers=0", "--data.max_s=8", "--batch.hours=0.0034", "--batch.micro_s=12", "--log.every=1", "--hardware.threads=1",
    "--preset=none", "--regular.time_coverage=0", "--regular.channel_coverage=0", "--regular.layerdrop=0", "--regular.dropout=0",
    "--regular.feedforward_dropout=0", "--optim.clip=5",
    "--schedule.hold=0.4", "--log.checkpoint_every=1000",
]  # fmt: skip


def make_folder(folder: Path) -> Path:
    """A corpus of two languages and an untrained encoder that knows its statistics."""
    import numpy as np

    make_corpus(folder / "corpus", 36)
    encoder = make_recogniser().encoder
    encoder.measure([chant(" ".join(WORDS["ita"]), np.random.default_rng(0))])
    encoder.save(folder / "encoder", [])
    return folder


def fit(folder: Path, out: str, *flags: str, language: str = "ita") -> Path:
    """Run ``lalia finetune fit`` with ``flags``; the run's folder. Without a start among the flags it is the encoder."""
    from finetune.config import FinetuneSettings
    from finetune.fit import finetune
    from lalia import config

    start = any(flag in ("--encoder", "--recogniser", "--model.kind") for flag in flags)
    argv = [
        *SMALL, "--data.corpus", str(folder / "corpus"), "--data.language", language, "--out", str(folder / out),
        *([] if start else ["--encoder", str(folder / "encoder")]), *flags,
    ]  # fmt: skip
    settings = config.load(FinetuneSettings, argv, "finetune", "")
    finetune(settings, folder / out, config.stated(FinetuneSettings, argv))
    return folder / out


def metrics(run: Path, name: str) -> list[float]:
    """The values of a metric over a run."""
    lines: list[dict[str, Any]] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]
