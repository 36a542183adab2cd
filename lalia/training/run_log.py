"""Logging of a run: ``metrics.jsonl``, progress bar, TensorBoard, throughput, interventions, unreadable clips."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lalia.cards import read_json_lines, write_text
from lalia.data.batch import Batch
from lalia.training.distributed import all_reduce_sum
from lalia.training.settings import ScheduleSettings
from lalia.units import SAMPLE_RATE

# --- Metrics, progress, throughput -----------------------------------------------------------------------

METRICS = "metrics.jsonl"


class MetricsFile(Logger):
    """``RUN/metrics.jsonl``: one JSON object per line with ``step``, ``time_s`` since the process began, and numbers."""

    def __init__(self, run: Path, first_step: int) -> None:
        super().__init__()
        self.path = run / METRICS
        self.started = time.monotonic()
        # A run killed after its last checkpoint repeats those steps: their old lines are removed.
        kept = [line for line in read_metrics(run) if line["step"] < first_step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
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
        """Does nothing: ``RUN/config.yaml`` holds the settings."""


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of ``run``'s metrics."""
    return read_json_lines(run / METRICS)


class InterventionLog:
    """``RUN/NAME.jsonl``: one line per intervention, with its reason; also printed and logged to TensorBoard."""

    def __init__(self, run: Path, name: str) -> None:
        self.path, self.name = run / f"{name}.jsonl", name

    def add(self, trainer: Trainer, line: dict[str, Any]) -> None:
        """Write ``line``, which holds ``step``, ``action`` and ``says``, on rank 0."""
        if not trainer.is_global_zero:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_as_line(line))
        for logger in trainer.loggers:
            logger.log_metrics({f"{self.name}/{line['action'].replace(' ', '_')}": 1.0}, line["step"])
        print(f"{self.name}: step {line['step']}: {line['says']}", file=sys.stderr, flush=True)

    def forget_from(self, step: int) -> None:
        """Remove the lines from ``step`` on: those steps are repeated."""
        if self.path.exists():
            kept = [line for line in read_json_lines(self.path) if line["step"] < step]
            write_text(self.path, "".join(map(_as_line, kept)))


def _as_line(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


class ProgressBar(Callback):
    """Steps done, speed, time left and the metrics ``show``, on stderr."""

    def __init__(self, schedule: ScheduleSettings, audio_s_per_step: float, show: tuple[str, ...], title: str) -> None:
        self.audio_s_per_step = audio_s_per_step
        self.show = show
        self.schedule = schedule
        self.title = title
        self.bar: Progress | None = None
        self.numbers = ""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        console = Console(file=sys.stderr)
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"),
            TextColumn("left"), TimeRemainingColumn(compact=True), console=console,
            # Without a terminal: one line per validation, see on_validation_end.
            disable=not console.is_terminal,
        )  # fmt: skip
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=self.schedule.steps, completed=trainer.global_step, numbers="")
        self.begun, self.first = time.monotonic(), trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        step = trainer.global_step
        if self.bar is None or self.bar.disable or not step:
            return
        if step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.numbers = self._numbers(trainer)  # only now, since the device has to catch up before they are read
        self.bar.update(self.task, total=self.schedule.steps, completed=step, numbers=self.numbers)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.bar is not None and not self.bar.console.is_terminal:
            print(
                f"{self.title} {trainer.global_step}/{self.schedule.steps} {self._numbers(trainer)}",
                file=sys.stderr,
                flush=True,
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _numbers(self, trainer: Trainer) -> str:
        seconds = time.monotonic() - self.begun
        speed = (trainer.global_step - self.first) * self.audio_s_per_step / seconds if seconds > 1 else 0.0
        return " · ".join([*format_metrics(self.show, trainer.callback_metrics), f"{speed:.0f} × real time"])


def format_metrics(show: Iterable[str], metrics: Mapping[str, Any]) -> list[str]:
    """The known metrics among ``show``: "train loss 2.655, accuracy 0.125" and "held-out accuracy 0.052"."""
    parts = []
    for group, audio in (("train", "train"), ("valid", "held-out")):
        names = [name for name in show if name.startswith(f"{group}/") and name in metrics]
        figures = [f"{name.partition('/')[2].replace('_', ' ')} {float(metrics[name]):.3f}" for name in names]
        if figures:
            parts.append(f"{audio} {', '.join(figures)}")
    return parts


class TimedLoader(Iterable[Batch]):
    """The batches of ``loader``; ``seconds`` is the time spent waiting for them."""

    def __init__(self, loader: Iterable[Batch]) -> None:
        self.loader = loader
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        while True:
            begun = time.monotonic()
            batch = next(batches, None)
            self.seconds += time.monotonic() - begun
            if batch is None:
                return
            yield batch


class ThroughputLog(Callback):
    """Logs ``speed/audio_s_per_s`` (all ranks, validation not counted) and ``speed/data_wait`` (share of the time that this rank
    waited for audio) since the last logged step; after each validation ``languages/NAME``, each language's share of all training
    audio so far."""

    def __init__(self, train: TimedLoader, languages: list[str]) -> None:
        self.train, self.languages = train, languages
        self.heard_s = torch.zeros(len(languages), dtype=torch.float64)
        """seconds of each language that this rank has trained on"""
        self._begun = self._validation_begun = self._waited = self._audio_s = 0.0
        self._step = 0

    @property
    def state_key(self) -> str:
        return "ThroughputLog"  # the key of its state in checkpoints

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        seconds_B = batch.lengths_B.double() / SAMPLE_RATE
        self.heard_s.index_add_(0, batch.languages_B, seconds_B)
        self._audio_s += float(seconds_B.sum()) * trainer.world_size
        if trainer.global_step == self._step:
            return  # a micro-batch within a step
        self._step = trainer.global_step
        passed_s = max(1e-6, time.monotonic() - self._begun)
        wait = (self.train.seconds - self._waited) / passed_s
        speed, wait_share = torch.tensor(self._audio_s / passed_s), torch.tensor(min(1.0, wait))
        pl_module.log_dict({"speed/audio_s_per_s": speed, "speed/data_wait": wait_share})
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._begin(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_begun = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun += time.monotonic() - self._validation_begun
        heard_s = all_reduce_sum(self.heard_s.to(pl_module.device))
        shares = (heard_s / heard_s.sum().clamp(min=1e-9)).tolist()
        mix = {f"languages/{name}": value for name, value in zip(self.languages, shares, strict=True) if value}
        for logger in trainer.loggers:
            logger.log_metrics(mix, trainer.global_step - 1)

    def state_dict(self) -> dict[str, Any]:
        return {"heard_s": dict(zip(self.languages, self.heard_s.tolist(), strict=True))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.heard_s = torch.tensor(
            [state_dict["heard_s"].get(name, 0.0) for name in self.languages], dtype=torch.float64
        )

    def _begin(self, trainer: Trainer) -> None:
        self._begun, self._waited, self._audio_s = time.monotonic(), self.train.seconds, 0.0
        self._step = trainer.global_step


def tensorboard(trainer: Trainer) -> Any:
    """The run's TensorBoard writer, for images and audio; None on ranks that do not write."""
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def _short(value: float) -> float | None:
    """Six significant digits; None (null in JSON) if not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


# --- Clips that cannot be read ---------------------------------------------------------------------------

NAME = "bad_clips.tsv"
PRINTED = 5
"""Clips that are named on stderr; the file names all of them."""


class BadClips(Callback):
    """Writes each unreadable clip to ``RUN/bad_clips.tsv``: the step it was first met at, and the reason. Every rank appends its
    own."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._known = set(read_bad_clips(folder))
        self._printed = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._note(trainer.global_step, batch.bad)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any
    ) -> None:
        self._note(trainer.global_step, batch.bad)

    def _note(self, step: int, bad: tuple[str, ...]) -> None:
        new = [line for line in dict.fromkeys(" ".join(line.split()) for line in bad) if line not in self._known]
        if not new:
            return
        self._known.update(new)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{step}\t{line}\n" for line in new))
        for line in new[: PRINTED - self._printed]:
            print(f"left out: {line}", file=sys.stderr, flush=True)
        if self._printed < PRINTED <= self._printed + len(new):
            print(f"left out: further clips that cannot be read are named in {self.path}", file=sys.stderr, flush=True)
        self._printed += len(new)


def read_bad_clips(folder: Path) -> list[str]:
    """The lines of ``RUN/bad_clips.tsv`` without their steps, each once, in order."""
    path = folder / NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return list(dict.fromkeys(line.partition("\t")[2] for line in lines))


def bad_clips_summary(folder: Path) -> str:
    """A sentence with the number of unreadable clips and where they are named; "" if there are none."""
    found = read_bad_clips(folder)
    one = len(found) == 1
    return f"{len(found):,} clip{'' if one else 's'} could not be read, named in {folder / NAME}" if found else ""
