"""Seconds that a training step waits for a checkpoint: ``python -m benchmarks.training.checkpoints --work DIR``.

Weights and AdamW's moments of an encoder (base: 95 M parameters, three tensors each) are saved several times in two ways: written
before the step goes on, and copied to buffers that a background thread writes. The state changes in place after each save, as
training changes it; each file must hold the state at its save.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.training.memory import SIZES
from lalia.models.encoder import Encoder
from lalia.training.checkpoint_files import CheckpointFiles, in_bytes, read_checkpoint, step_path, write_checkpoint


def state_of(module: torch.nn.Module) -> dict[str, Any]:
    """What a checkpoint of ``module`` under AdamW holds."""
    moments = {
        number: {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        for number, p in enumerate(module.parameters())
    }
    return {"state_dict": module.state_dict(), "optimizer_states": [{"state": moments, "param_groups": []}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="base", choices=SIZES)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--work", type=Path, required=True, help="folder on the disk to measure")
    ask = parser.parse_args()
    torch.set_num_threads(1)
    module = Encoder(SIZES[ask.size][0])
    state = state_of(module)
    weight = next(module.parameters())
    written: list[float] = []
    for step in range(ask.saves):
        begun = time.perf_counter()
        write_checkpoint(state, step_path(ask.work, step))
        written.append(time.perf_counter() - begun)
        step_path(ask.work, step).unlink()
    files = CheckpointFiles()
    files.reserve(module)
    files.wait()
    waited: list[float] = []
    for step in range(ask.saves):
        with torch.no_grad():
            weight.fill_(float(step))
        begun = time.perf_counter()
        files.save_checkpoint(state, step_path(ask.work, step))
        waited.append(time.perf_counter() - begun)
        with torch.no_grad():
            weight.fill_(-1.0)
        files.wait()
        saved = next(iter(read_checkpoint(step_path(ask.work, step))["state_dict"].values()))
        assert files.failure is None and bool((saved == step).all())
    shutil.rmtree(ask.work)
    size = 3 * sum(p.nbytes for p in module.parameters())
    print(f"{ask.size}: {in_bytes(size)}; seconds that a step waits, median and most of {ask.saves}")
    for name, seconds in (("written in the foreground", written), ("copied, written in the background", waited)):
        print(f"{name}: {median(seconds):.2f} {max(seconds):.2f}")


if __name__ == "__main__":
    main()
