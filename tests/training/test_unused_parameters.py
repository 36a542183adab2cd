"""Which training steps leave a parameter without a gradient: DDP must search for those, and for no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lalia import config
from pretrain.config import PretrainSettings
from pretrain.memory import forward, noise
from pretrain.task import PretrainTask

CONFIGS = sorted(Path("configs/pretrain").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_pretraining_step_uses_every_parameter(path: Path) -> None:
    """Also under LayerDrop: fairseq2 runs a dropped block and gives it a zero gradient."""
    settings = config.load(PretrainSettings, ["--config", str(path)], "pretrain", "")
    settings.quantizer.teacher, settings.quantizer.teacher_block = "", 0
    shape = settings.model
    stem = [[16, kernel, stride] for _, kernel, stride in shape.stem]
    small = {"width": 32, "heads": 2, "feedforward": 64, "layers": 3, "layerdrop": 0.5, "stem": stem}
    if shape.position == "convolution":
        small |= {"position_groups": 4, "position_kernel": 9}
    settings.model = replace(shape, **small)  # type: ignore[arg-type]
    settings.hardware.precision = "fp32"
    task = PretrainTask(settings).train()
    forward(task, noise(settings, 2, 3.0)).backward()
    assert [name for name, weight in task.named_parameters() if weight.grad is None] == []
