"""Healthy weights: copies of a run's weights and optimizer that the guard can go back to, in memory and on disk."""

from __future__ import annotations

import shutil
from collections import deque
from pathlib import Path
from typing import Any

import torch
from torch import nn

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

    def keep(self, module: nn.Module, optimizer: torch.optim.Optimizer, step: int, write: bool) -> None:
        """Copy ``module`` and the state of ``optimizer`` as they are after ``step`` steps; one rank writes."""
        self._newest = {
            "step": step,
            "weights": {name: w.detach().cpu().clone() for name, w in module.state_dict().items()},
            "moments": _cloned(optimizer.state_dict()["state"]),
        }
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

    def restore(self, module: nn.Module, optimizer: torch.optim.Optimizer, older: bool) -> int:
        """Put a copy back and return its step: the newest, or with ``older`` the one before. Learning rates stay."""
        step = self.steps[0] if older else self.steps[-1]
        newest = self._newest
        kept = newest if newest is not None and newest["step"] == step else self._read(step)
        module.load_state_dict(kept["weights"])
        state = optimizer.state_dict()
        # A copy: the optimizer goes on to change what it is given.
        optimizer.load_state_dict({"state": _cloned(kept["moments"]), "param_groups": state["param_groups"]})
        return step

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


def _cloned(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.detach().cpu().clone()
    if isinstance(state, dict):
        return {key: _cloned(value) for key, value in state.items()}
    return state
