"""What a run says while it goes: a line of ``metrics.jsonl`` per logged step, and a progress bar with speed and time left."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

METRICS = "metrics.jsonl"


class MetricsFile(Logger):
    """``RUN/metrics.jsonl``: one JSON object per line with ``step``, ``time_s`` since the process began, and numbers."""

    def __init__(self, run: Path, first_step: int) -> None:
        super().__init__()
        self.path = run / METRICS
        self.started = time.monotonic()
        # A run that was killed behind its last checkpoint does those steps again; their old lines leave.
        kept = [line for line in read_metrics(run) if line["step"] < first_step] if self.path.exists() else []
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self.offset_s = kept[-1].get("time_s", 0.0) if kept else 0.0

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        numbers = {k: _short(v) for k, v in metrics.items() if k != "epoch"}
        if numbers:
            line = {"step": step, "time_s": round(self.offset_s + time.monotonic() - self.started, 2), **numbers}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``RUN/config.yaml`` holds the settings."""


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The lines of ``run``'s metrics; a last line cut short by a kill is left out."""
    lines = []
    for text in (run / METRICS).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


class ProgressBar(Callback):
    """Steps done, audio-seconds per second, time left and the numbers that matter, on stderr."""

    def __init__(self, steps: int, audio_s_per_step: float, show: tuple[str, ...], title: str) -> None:
        self.audio_s_per_step = audio_s_per_step
        self.show = show
        self.steps = steps
        self.title = title
        self.bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        console = Console(file=sys.stderr)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
            TextColumn("left"), TimeRemainingColumn(compact=True), console=console,
            # Without a terminal one line every now and then is enough: see on_validation_end.
            disable=not console.is_terminal,
        )  # fmt: skip
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=self.steps, completed=trainer.global_step, numbers="")
        self.begun, self.first = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.bar is not None and trainer.global_step:
            self.bar.update(self.task, completed=trainer.global_step, numbers=self._numbers(trainer))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None and not self.bar.console.is_terminal:
            print(
                f"{self.title} {trainer.global_step}/{self.steps} {self._numbers(trainer)}", file=sys.stderr, flush=True
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _numbers(self, trainer: Trainer) -> str:
        known = {k: float(v) for k, v in trainer.callback_metrics.items()}
        parts = [f"{name.split('/')[-1]} {known[name]:.3f}" for name in self.show if name in known]
        seconds = time.monotonic() - self.begun
        speed = (trainer.global_step - self.first) * self.audio_s_per_step / seconds if seconds > 1 else 0.0
        return " · ".join([*parts, f"{speed:.0f} × real time"])


def _short(value: float) -> float | None:
    """Six digits, and null for what JSON cannot say."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
