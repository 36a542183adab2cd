"""Planted failures with and without the guard: ``python -m benchmarks.guard --seeds 3 --work DIR``.

A small log-mel encoder with a learned (Gumbel) quantizer on synthetic speech-like audio of two languages, and five kinds of run:

healthy   nothing is planted: the guard must not touch it
collapse  a learning rate at which the codes die, with diversity weight 0.1 (wav2vec 2.0's)
silence   a sixth of the run is silence with a click: what a broken recorder leaves
overflow  gradients of three single steps are infinite, and those of ten steps in a row a thousand times too large
poison    a twentieth of the micro-batches hold NaN samples or noise a thousand times too loud

A run ends ``healthy`` where all its weights are finite, held-out accuracy is at least half of what the same seed reached in its
healthy run without a guard, below 0.95, and a codebook uses 6 % of its entries or more. Else it is ``dead``; one that the guard
ended is ``stopped``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lalia.data.loader import Batch
from lalia.exits import GuardStopped
from lalia.models.contrastive import ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.training import Callback
from lalia.training.recording import read_metrics
from lalia.training.seeds import generator
from lalia.training.settings import BatchSettings, DataSettings, LogSettings, OptimSettings, ScheduleSettings
from pretrain import fit as fit_module
from pretrain.bands import GuardSettings
from pretrain.config import ObjectiveSettings, PretrainSettings
from pretrain.fit import pretrain
from pretrain.guard import read_record
from tests.tiny_corpus import make_corpus

ENTRIES = 64


class Planted(Callback):
    """Breaks audio or gradients of chosen steps, the same for the same seed."""

    def __init__(self, kind: str, seed: int, steps: int) -> None:
        self.kind, self.seed, self.steps = kind, seed, steps
        draws = torch.randperm(steps, generator=generator(seed, "planted")).tolist()
        self.single = set(draws[:3])
        self.begin = steps // 3 + draws[0] % max(1, steps // 3)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        step, random = trainer.global_step, generator(self.seed, "planted", batch.number)
        if self.kind == "silence" and self.begin <= step < self.begin + self.steps // 6:
            batch.wave_BS.zero_()
            batch.wave_BS[:, 4000] = 0.9
        if self.kind == "poison" and torch.rand((), generator=random) < 0.05:
            if torch.rand((), generator=random) < 0.5:
                batch.wave_BS[:, ::7] = math.nan
            else:
                batch.wave_BS.copy_(1000.0 * torch.randn(batch.wave_BS.shape, generator=random))

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if self.kind != "overflow":
            return
        step = trainer.global_step
        factor = math.inf if step in self.single else 1000.0 if self.begin <= step < self.begin + 10 else 1.0
        if factor != 1.0:
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)


def settings_of(kind: str, seed: int, steps: int, corpus: Path, guarded: bool, bad_rate: float) -> PretrainSettings:
    settings = PretrainSettings(
        join_s=4.0,
        data=DataSettings(corpus=[str(corpus)], max_s=4.0, workers=0),
        model=EncoderShape(input="logmel", width=64, layers=2, heads=4, feedforward=128, block="convolutional",
                           block_kernel=5, position="rotary", dropout=0.0, attention_dropout=0.0, layerdrop=0.0),
        quantizer=ContrastiveShape(codebooks=2, entries=ENTRIES, code_width=32, final_width=32),
        objective=ObjectiveSettings(distractors=20, diversity_weight=1.0),
        batch=BatchSettings(hours=16 / 3600, micro_s=16.0),
        optim=OptimSettings(lr=5e-4),
        schedule=ScheduleSettings(steps=steps),
        log=LogSettings(every=10, valid_every=steps, checkpoint_every=steps),
        guard=GuardSettings(enabled=guarded, keep_every=50),
        seed=seed,
    )  # fmt: skip
    if kind == "collapse":
        settings.optim.lr = bad_rate
        settings.objective = replace(settings.objective, diversity_weight=0.1)
    return settings


def run(settings: PretrainSettings, kind: str, folder: Path) -> dict[str, Any]:
    """One run, with its failure planted; what became of it."""
    shutil.rmtree(folder, ignore_errors=True)
    real: Callable[..., None] = fit_module.fit
    planted = Planted(kind, settings.seed, settings.schedule.steps)
    fit_module.fit = lambda *args: real(*args[:-1], [planted, *args[-1]])
    try:
        pretrain(settings, folder)
        ended = "finished"
    except GuardStopped as stop:
        ended = f"stopped: {stop}"
    except (ValueError, RuntimeError, KeyError) as error:
        ended = f"crashed: {error}"
    finally:
        fit_module.fit = real
    lines = read_metrics(folder)
    last = {key: value for line in lines for key, value in line.items() if key.startswith(("valid/", "guard/"))}
    return {
        "ended": ended, "accuracy": last.get("valid/accuracy"), "perplexity": last.get("valid/code_perplexity"),
        "actions": dict(Counter(line["action"] for line in read_record(folder))),
    }  # fmt: skip


def verdict(found: dict[str, Any], reference: float) -> str:
    if found["ended"].startswith("stopped"):
        return "stopped"
    accuracy, perplexity = found["accuracy"], found["perplexity"]
    if found["ended"] != "finished" or accuracy is None or perplexity is None:
        return "dead"
    return "healthy" if reference / 2 <= accuracy < 0.95 and perplexity >= 2 * 0.06 * ENTRIES else "dead"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rate", type=float, default=1e-2, help="learning rate of the runs that are to collapse")
    parser.add_argument("--kind", nargs="+", default=["healthy", "collapse", "silence", "overflow", "poison"])
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpus, the runs and results.jsonl")
    ask = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    corpus = ask.work / "corpus"
    if not corpus.is_dir():
        make_corpus(corpus, sentences=120)
    table: dict[tuple[str, bool], list[tuple[str, dict[str, Any]]]] = {}
    for seed in range(1, ask.seeds + 1):
        reference = 0.0
        for kind in ask.kind:
            for guarded in (False, True):
                settings = settings_of(kind, seed, ask.steps, corpus, guarded, ask.rate)
                found = run(settings, kind, ask.work / "runs" / f"{kind}-{seed}-{'with' if guarded else 'without'}")
                if kind == "healthy" and not guarded:
                    reference = float(found["accuracy"])
                outcome = verdict(found, reference)
                table.setdefault((kind, guarded), []).append((outcome, found))
                with (ask.work / "results.jsonl").open("a", encoding="utf-8") as file:
                    line = {"kind": kind, "seed": seed, "guarded": guarded, "outcome": outcome, **found}
                    file.write(json.dumps(line) + "\n")
    print("| planted | without guard | with guard | what the guard did |\n|---|---|---|---|")
    for kind in ask.kind:
        cells = []
        for guarded in (False, True):
            counts = Counter(outcome for outcome, _ in table[kind, guarded])
            cells.append(", ".join(f"{n} {what}" for what, n in counts.most_common()))
        did: Counter[str] = sum((Counter(found["actions"]) for _, found in table[kind, True]), Counter())
        print(
            f"| {kind} | {cells[0]} | {cells[1]} | {', '.join(f'{n} × {what}' for what, n in did.items()) or 'nothing'} |"
        )


if __name__ == "__main__":
    main()
