"""Bad clips: those that a run could not read, in training or validation, each named in ``RUN/bad_clips.tsv`` and on stderr."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

NAME = "bad_clips.tsv"
SAID = 5
"""Clips that are named on stderr; the file names all."""


class BadClips(Callback):
    """Writes a line for each clip that a batch had to leave out: the step at which it was met first, and why. Every rank
    appends those that it meets."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._known = set(read_bad_clips(folder))
        self._said = 0

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
        for line in new[: SAID - self._said]:
            print(f"left out: {line}", file=sys.stderr, flush=True)
        if self._said < SAID <= self._said + len(new):
            print(f"left out: further clips that cannot be read are named in {self.path}", file=sys.stderr, flush=True)
        self._said += len(new)


def read_bad_clips(folder: Path) -> list[str]:
    """What ``RUN/bad_clips.tsv`` says of each clip, once, in the order in which they were met."""
    path = folder / NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return list(dict.fromkeys(line.partition("\t")[2] for line in lines))


def in_words(folder: Path) -> str:
    """How many clips a run could not read, in words; "" where it read all."""
    found = read_bad_clips(folder)
    one = len(found) == 1
    return f"{len(found):,} clip{'' if one else 's'} could not be read, named in {folder / NAME}" if found else ""
