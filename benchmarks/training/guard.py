"""Pretraining with planted failures, with and without the guard: ``python -m benchmarks.training.guard --work DIR``.

A raw-wave encoder of 0.3 M parameters with a learned (Gumbel) quantizer, on synthetic speech-like audio of two languages in
batches of eight seconds, and five kinds of run:

healthy   no failure: the guard must not act
collapse  forty times the healthy learning rate with a tenth of the diversity weight (wav2vec 2.0's): the codes die
silence   part of the run is silence with a click (odd seeds), or clipped to the sign of the samples (even seeds)
overflow  float16, and at one step a feed-forward layer's weights grow until its activations overflow
poison    a twentieth of the micro-batches have NaN samples or noise a thousand times too loud

The quantizer's logits start at a tenth of wav2vec 2.0's, so that the effect of a learning rate shows in two hundred steps instead
of thousands; in so few steps accuracy stays near chance, and code use decides. A run ends ``healthy`` if its held-out loss is
finite, held-out accuracy is below 0.95, and code perplexity on held-out audio is at least 6 % of the entries. Otherwise it is
``dead``, or ``stopped`` if the guard ended it. Runs in DIR/results.jsonl are not repeated; DIR/table.md is made from that file.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lalia.data.batch import MaskSettings
from lalia.data.loader import Batch
from lalia.data.seeds import generator
from lalia.errors import GuardStopped
from lalia.models.quantizer import ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.training import Callback
from lalia.training.run_log import read_metrics
from lalia.training.settings import BatchSettings, DataSettings, LogSettings, OptimSettings, ScheduleSettings
from pretrain import fit as fit_module
from pretrain.bands import GuardSettings
from pretrain.config import ObjectiveSettings, PretrainSettings
from pretrain.fit import pretrain
from pretrain.guard import read_record
from pretrain.task import PretrainTask
from tests.tiny_corpus import make_corpus

KINDS = ("healthy", "collapse", "silence", "overflow", "poison")
ENTRIES = 64


class Planted(Callback):
    """Corrupts audio or weights at chosen steps, as a function of the seed."""

    def __init__(self, kind: str, seed: int, steps: int) -> None:
        self.kind, self.seed, self.steps = kind, seed, steps
        draw = int(torch.randint(1000, (1,), generator=generator(seed, "planted")))
        self.begin = steps // 3 + draw % max(1, steps // 3)
        self.done = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module.head.code_logits.weight.mul_(0.1)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        step, random = trainer.global_step, generator(self.seed, "planted", batch.number)
        if self.kind == "silence" and self.begin <= step < self.begin + self.steps // 3:
            if self.seed % 2:
                batch.wave_BS.zero_()
                batch.wave_BS[:, 4000] = 0.9
            else:
                batch.wave_BS.sign_()
        if self.kind == "poison" and torch.rand((), generator=random) < 0.05:
            if torch.rand((), generator=random) < 0.5:
                batch.wave_BS[:, ::7] = math.nan
            else:
                batch.wave_BS.copy_(1000.0 * torch.randn(batch.wave_BS.shape, generator=random))
        if self.kind == "overflow" and step == self.begin and not self.done:
            self.done = True
            with torch.no_grad():
                for name, parameter in pl_module.encoder.blocks.named_parameters():
                    if parameter.ndim > 1 and "ffn" in name:
                        parameter.mul_(1e4)


def settings_of(kind: str, seed: int, steps: int, corpus: Path, guarded: bool) -> PretrainSettings:
    settings = PretrainSettings(
        data=DataSettings(corpus=[str(corpus)], max_s=2.0, workers=0),
        model=EncoderShape(stem=[[32, 20, 10], [64, 8, 8], [256, 8, 8]], stem_gradient_scale=1.0, width=64, layers=2, heads=4,
                           feedforward=128, norm="pre", position="rotary", dropout=0.0, dropout_input=0.0,
                           attention_dropout=0.0, layerdrop=0.0),
        quantizer=ContrastiveShape(codebooks=2, entries=ENTRIES, code_width=32, final_width=32, dropout_features=0.0),
        mask=MaskSettings(coverage=0.4, span=3),
        objective=ObjectiveSettings(distractors=20, diversity_weight=1.0),
        batch=BatchSettings(hours=8 / 3600, micro_s=8.0),
        optim=OptimSettings(lr=5e-4, clip=5.0),
        schedule=ScheduleSettings(steps=steps, hold=0.9),
        log=LogSettings(every=10, valid_every=steps, checkpoint_every=50),
        guard=GuardSettings(enabled=guarded),
        seed=seed,
    )  # fmt: skip
    if kind == "collapse":
        settings.optim.lr = 2e-2
        settings.objective = replace(settings.objective, diversity_weight=0.1)
    if kind == "overflow":
        settings.hardware.precision = "fp16"
    return settings


@contextmanager
def planted(failure: Callback) -> Iterator[None]:
    """Pretraining runs in this context have the callback ``failure`` and no report, and log held-out figures only, which saves a
    third of the time."""
    fit, report, log = fit_module.fit, fit_module.write_run_report, PretrainTask.log_dict

    def log_held_out(task: PretrainTask, values: Any) -> None:
        if any(name.startswith("valid/") for name in values):
            log(task, values)

    PretrainTask.log_dict = log_held_out  # type: ignore[method-assign, assignment]
    fit_module.fit = lambda task, run, train, valid, extra: fit(task, run, train, valid, [failure, *extra])
    fit_module.write_run_report = lambda run, *args: run
    try:
        yield
    finally:
        fit_module.fit, fit_module.write_run_report = fit, report
        PretrainTask.log_dict = log  # type: ignore[method-assign]


def run(settings: PretrainSettings, kind: str, folder: Path) -> dict[str, Any]:
    """Run one training with its planted failure; returns the results."""
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.process_time()
    with planted(Planted(kind, settings.seed, settings.schedule.steps)):
        try:
            pretrain(settings, folder)
            ended = "finished"
        except GuardStopped as stop:
            ended = f"stopped: {stop}"
        except (ValueError, RuntimeError, KeyError) as error:
            ended = f"crashed: {error}"
    lines = read_metrics(folder)
    last = {key: value for line in lines for key, value in line.items() if key.startswith(("valid/", "guard/"))}
    return {
        "ended": ended, "loss": last.get("valid/info_nce"), "accuracy": last.get("valid/accuracy"),
        "perplexity": last.get("valid/code_perplexity"),
        "actions": dict(Counter(f"{line['action']} ({line['vital']})" for line in read_record(folder))),
        "cpu_s": round(time.process_time() - begun, 1),
    }  # fmt: skip


def verdict(found: dict[str, Any]) -> str:
    if found["ended"].startswith("stopped"):
        return "stopped"
    loss, accuracy, perplexity = (found[name] for name in ("loss", "accuracy", "perplexity"))
    if loss is None or not math.isfinite(loss):
        return "dead"
    return "healthy" if accuracy < 0.95 and perplexity >= 2 * 0.06 * ENTRIES else "dead"


def table(results: list[dict[str, Any]]) -> str:
    """A table of the outcomes of ``results``, one line per kind."""
    rated = [r | {"outcome": verdict(r)} for r in results]
    lines = ["| planted | without guard | with guard | actions of the guard |", "|---|---|---|---|"]
    for kind in KINDS:
        cells = []
        for guarded in (False, True):
            counts = Counter(r["outcome"] for r in rated if (r["kind"], r["guarded"]) == (kind, guarded))
            cells.append(", ".join(f"{n} {what}" for what, n in counts.most_common()) or "-")
        did: Counter[str] = Counter()
        for found in rated:
            if found["kind"] == kind and found["guarded"]:
                did.update(found["actions"])
        measures = ", ".join(f"{n} × {what}" for what, n in did.most_common())
        lines.append(f"| {kind} | {cells[0]} | {cells[1]} | {measures or 'nothing'} |")
    return "\n".join(lines)


def read_results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--kind", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--work", type=Path, required=True, help="folder for the corpus, the runs and results.jsonl")
    ask = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    corpus = ask.work / "corpus"
    if not corpus.is_dir():
        make_corpus(corpus, sentences=60)
    path = ask.work / "results.jsonl"
    known = {(r["kind"], r["seed"], r["guarded"]) for r in read_results(path)}
    for seed in range(1, ask.seeds + 1):
        for kind in ask.kind:
            for guarded in (False, True):
                if (kind, seed, guarded) in known:
                    continue
                settings = settings_of(kind, seed, ask.steps, corpus, guarded)
                found = run(settings, kind, ask.work / "runs" / f"{kind}-{seed}-{'with' if guarded else 'without'}")
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"kind": kind, "seed": seed, "guarded": guarded, **found}) + "\n")
    text = table(read_results(path))
    (ask.work / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
