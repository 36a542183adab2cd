"""Healthy weights: copies of a run's weights and optimizer that the guard can go back to, in memory and on disk."""

from __future__ import annotations

import shutil
from collections import deque
from pathlib import Path
from typing import Any

import torch

from lalia.exits import UserError

CHECKPOINTS = 3
"""Checkpoints back whose copies stay on disk, so that a resume from any of them can roll back as the run itself would have."""


class HealthyWeights:
    """The two newest copies are in use; the newest is in memory as well."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.steps: list[int] = []
        """of the copies in use, oldest first"""
        self._newest: dict[str, Any] | None = None
        self._named: deque[list[int]] = deque(maxlen=CHECKPOINTS)

    def state(self) -> list[int]:
        """The steps of the copies in use, for a checkpoint to name."""
        self._named.append(self.steps)
        return self.steps

    def keep(self, copy: dict[str, Any], step: int, write: bool) -> None:
        """Keep ``copy`` (weights and moments) as what ``step`` steps led to; one rank writes. Where ranks hold shards the
        others have an empty copy, and will read."""
        self._newest = copy | {"step": step} if copy["weights"] else None
        self.steps = [*(s for s in self.steps if s < step), step][-2:]
        if not write:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(step)
        partial = path.with_suffix(".partial")
        torch.save(self._newest, partial)
        partial.replace(path)
        needed = {self._path(s) for steps in (self.steps, *self._named) for s in steps}
        for old in set(self.folder.glob("healthy*.pt")) - needed:
            old.unlink()

    def copy(self, older: bool) -> tuple[int, dict[str, Any]]:
        """The newest copy and its step, or with ``older`` the one before."""
        step = self.steps[0] if older else self.steps[-1]
        newest = self._newest
        return step, newest if newest is not None and newest["step"] == step else self._read(step)

    def resume(self, steps: list[int]) -> None:
        """Go on with the copies of ``steps`` that are on disk, as a checkpoint of this run names them."""
        self.steps = [step for step in steps if self._path(step).is_file()]
        self._newest = None
        self._named.append(self.steps)

    def forget(self) -> None:
        """Take the copies off the disk: the run is over."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, step: int) -> dict[str, Any]:
        path = self._path(step)
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch says of a file cut short
            raise UserError(f"{path}: healthy weights cannot be read ({str(error).splitlines()[0][:100]})") from error

    def _path(self, step: int) -> Path:
        return self.folder / f"healthy{step:08d}.pt"
