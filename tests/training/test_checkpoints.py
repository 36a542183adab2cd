"""Checkpoints: whole or not at all, the newest readable one, what is kept, and whether one belongs to a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lalia.errors import UserError
from lalia.training.checkpoint_files import prune, write_checkpoint
from lalia.training.checkpoints import (
    best_weights,
    check_fits,
    first_step,
    newest_checkpoint,
)
from lalia.training.trainer import same_settings


def keep(run: Path, step: int) -> Path:
    path = run / "checkpoints" / f"step{step:08d}.ckpt"
    write_checkpoint({"global_step": step, "state_dict": {"w": torch.full((3,), float(step))}}, path)
    return path


def test_the_newest_is_found_by_its_step(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None and first_step(tmp_path) == 0
    for step in (9, 100, 20):
        keep(tmp_path, step)
    assert first_step(tmp_path) == 100
    assert best_weights(tmp_path)[1] == 100


def test_a_truncated_newest_is_passed_over_and_named(tmp_path: Path) -> None:
    keep(tmp_path, 10)
    newest = keep(tmp_path, 20)
    newest.write_bytes(newest.read_bytes()[:200])
    with pytest.warns(UserWarning, match="step00000020.ckpt: cannot be read .* continuing from the previous one"):
        found = newest_checkpoint(tmp_path)
    assert found is not None and found[1]["global_step"] == 10


def test_a_kill_while_saving_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = keep(tmp_path, 10)

    def killed(checkpoint: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint({"global_step": 11}, path)
    assert first_step(tmp_path) == 10


def test_old_ones_and_halves_are_removed_and_the_best_is_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        keep(tmp_path, step)
    folder = tmp_path / "checkpoints"
    (folder / "best.ckpt").write_bytes(b"x")
    (folder / ".step00000005.ckpt.part").write_bytes(b"half")
    prune(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "step00000003.ckpt", "step00000004.ckpt"]


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "step00000001.ckpt"
    path.parent.mkdir()
    torch.save({"global_step": 1, "state_dict": {}, "harm": Path("x")}, path)
    with pytest.warns(UserWarning, match="cannot be read"):
        assert newest_checkpoint(tmp_path) is None


def test_another_architecture_is_named() -> None:
    module = nn.Linear(3, 4)
    with pytest.raises(UserError, match=r"weight \(4, 2\) for \(4, 3\); no bias; unknown extra") as caught:
        check_fits(Path("a.ckpt"), {"weight": torch.zeros(4, 2), "extra": torch.zeros(1)}, module)
    assert "\n" not in str(caught.value)
    check_fits(Path("a.ckpt"), module.state_dict(), module)


def test_a_run_goes_on_with_other_hardware_but_not_with_other_settings() -> None:
    known = {"model": {"width": 32, "layers": 2}, "optim": {"lr": 1e-3}, "hardware": {"devices": 1, "strategy": "auto"}}
    asked = json.loads(json.dumps(known))
    asked["hardware"] = {"devices": 4, "strategy": "zero2"}
    same_settings(known, asked, Path("config.yaml"))
    asked["model"] = {"width": 64, "layers": 3}
    with pytest.raises(UserError, match=r"model\.width 32, now 64; model\.layers 2, now 3; give the same settings"):
        same_settings(known, asked, Path("config.yaml"))
