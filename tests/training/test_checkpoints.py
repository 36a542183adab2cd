"""Checkpoints: whole or not at all, the newest readable one, what is kept, and whether one belongs to a model."""

from __future__ import annotations

import errno
import json
import shutil
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lalia.cards import write_json
from lalia.errors import UserError, full_disk, run
from lalia.training import checkpoint_files, checkpoints
from lalia.training.checkpoint_files import (
    CheckpointFiles,
    check_disk,
    free_memory,
    prune,
    quiet_if_full,
    read_checkpoint,
    step_path,
    steps_in,
    write_checkpoint,
)
from lalia.training.checkpoints import Checkpoints, best_weights, check_fits, first_step, newest_checkpoint
from lalia.training.settings import DataSettings, LogSettings, RunSettings, ScheduleSettings
from lalia.training.trainer import content_ids, same_inputs, same_settings
from tests.tiny_corpus import make_corpus


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


def test_more_steps_are_another_run_and_the_refusal_names_the_way(tmp_path: Path) -> None:
    known, asked = {"schedule": {"steps": 10}}, {"schedule": {"steps": 20}}
    with pytest.raises(
        UserError, match=r"steps 10, now 20; .*give another --out, and what this run made in .*--recogniser"
    ):
        same_settings(known, asked, tmp_path / "config.yaml")


def test_a_corpus_that_is_replaced_under_a_run_is_noticed(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus", 6, ("ita",))
    settings = RunSettings(DataSettings([str(corpus)]))
    same_inputs(settings, tmp_path)  # a run of earlier days has no list
    write_json(tmp_path / "inputs.json", content_ids(settings))
    same_inputs(settings, tmp_path)
    shutil.rmtree(corpus)
    make_corpus(corpus, 9, ("ita",))
    with pytest.raises(
        UserError, match=r"corpus: has changed since .* was begun \(it was sha256:\w+…, now sha256:\w+…\)"
    ):
        same_inputs(settings, tmp_path)


# -- Written in the background, on a full disk -------------------------------------------------------------------------------


def state(value: float) -> dict[str, object]:
    moments = {0: {"step": torch.tensor(value), "exp_avg": torch.full((3,), value)}}
    return {"state_dict": {"w": torch.full((3,), value)}, "optimizer_states": [{"state": moments, "param_groups": []}]}


def fill(held: object, value: float) -> None:
    if isinstance(held, torch.Tensor):
        held.fill_(value)
    elif isinstance(held, dict):
        for inner in held.values():
            fill(inner, value)
    elif isinstance(held, list):
        for inner in held:
            fill(inner, value)


def test_a_file_holds_the_state_at_its_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two saves before the first is written, a third that uses the buffers of their copies again."""
    files, begin, live = CheckpointFiles(), threading.Event(), state(0.0)
    plain = torch.save
    monkeypatch.setattr(torch, "save", lambda *args: (begin.wait(60), plain(*args)))
    for step in (1, 2):
        fill(live, float(step))
        files.save_checkpoint(live, step_path(tmp_path, step))
    fill(live, -1.0)
    assert not steps_in(tmp_path)
    begin.set()
    files.wait()
    fill(live, 3.0)
    files.save_checkpoint(live, step_path(tmp_path, 3))
    files.wait()
    assert files.failure is None and len(steps_in(tmp_path)) == 2
    for step in (2, 3):
        found = read_checkpoint(step_path(tmp_path, step))
        assert bool((found["state_dict"]["w"] == step).all())
        assert bool((found["optimizer_states"][0]["state"][0]["exp_avg"] == step).all())
    assert sum(map(len, files._buffers.values())) == 6  # two copies of three tensors


def test_without_room_in_memory_the_step_waits_for_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_files, "free_memory", lambda processes: 0.0)
    files = CheckpointFiles()
    files.save_checkpoint(state(1.0), step_path(tmp_path, 1))
    assert step_path(tmp_path, 1).is_file() and not files._buffers


def test_free_memory_is_what_is_left_at_the_peak() -> None:
    assert 0 < free_memory() < 1e15
    assert free_memory(1000) <= free_memory()


def test_healthy_ones_stay(tmp_path: Path) -> None:
    for step in (0, 1, 2, 3, 4):
        keep(tmp_path, step)
    prune(tmp_path / "checkpoints", keep=(0, 2))
    assert [path.name[11:13] for path in steps_in(tmp_path / "checkpoints")] == ["4.", "3.", "2.", "0."]


def full(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """The next ``writes`` checkpoints meet a full disk half-way, as torch meets it: its own error follows that of the file."""
    plain, left = torch.save, [writes]

    def save(checkpoint: object, file: object) -> None:
        if not left[0]:
            return plain(checkpoint, file)  # type: ignore[arg-type]
        left[0] -= 1
        file.write(b"half")  # type: ignore[attr-defined]
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", save)


@pytest.mark.parametrize("room", [1e15, 0.0])
def test_on_a_full_disk_older_ones_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: float) -> None:
    monkeypatch.setattr(checkpoint_files, "free_memory", lambda processes: room)
    for step in (1, 2):
        keep(tmp_path, step)
    full(monkeypatch, 1)
    files = CheckpointFiles()
    files.save_checkpoint(state(3.0), step_path(tmp_path / "checkpoints", 3))
    files.wait()
    assert files.failure is None
    assert [path.name for path in steps_in(tmp_path / "checkpoints")] == ["step00000003.ckpt", "step00000002.ckpt"]


@pytest.mark.parametrize("room", [1e15, 0.0])
def test_a_disk_that_stays_full_costs_no_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: float
) -> None:
    monkeypatch.setattr(checkpoint_files, "free_memory", lambda processes: room)
    for step in (1, 2):
        keep(tmp_path, step)
    full(monkeypatch, 2)
    files = CheckpointFiles()
    files.save_checkpoint(state(3.0), step_path(tmp_path / "checkpoints", 3))
    files.save_checkpoint(state(4.0), step_path(tmp_path / "checkpoints", 4))  # nothing is written after a failure
    files.wait()
    assert isinstance(files.failure, UserError) and "\n" not in str(files.failure)
    assert "step00000003.ckpt: cannot be written (No space left on device" in str(files.failure)
    assert "continues from step 2" in str(files.failure)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step00000002.ckpt"]


def test_a_run_says_what_it_needs_and_is_refused_where_not_one_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = nn.Linear(1000, 1000)  # 12 bytes a number
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=20e6))
    assert check_disk(tmp_path / "new", module, 3) == "checkpoints: 12 MB each, up to 36 MB at a time; 20 MB are free"
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=8e6))
    with pytest.raises(UserError, match=r"checkpoints: a checkpoint needs 12 MB, and 8 MB are free; make room"):
        check_disk(tmp_path / "checkpoints", module, 3)
    for step in (1, 2):
        keep(tmp_path, step)
    (tmp_path / "checkpoints" / "step00000001.ckpt").write_bytes(bytes(5_000_000))
    assert "8 MB are free" in check_disk(tmp_path / "checkpoints", module, 3)  # the older one gives way


def test_a_full_disk_is_one_line_whoever_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded", str(tmp_path / "metrics.jsonl"))

    def train() -> None:
        with quiet_if_full():
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
            write()

    assert run(train, "lalia") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "metrics.jsonl: cannot be written (Disk quota exceeded); make room" in said

    def forbidden() -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        run(forbidden, "lalia")
    # safetensors is written in Rust, whose errors are its own
    rust = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert full_disk(rust) is not None and full_disk(RuntimeError("(os error 13)")) is None


def test_saves_are_due_by_the_clock_or_by_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def due(log: LogSettings, step: int, minutes: float, rank_zero: bool = True) -> bool:
        checkpoints = Checkpoints(tmp_path, ScheduleSettings(steps=100), log, 1, None)
        monkeypatch.setattr("time.monotonic", lambda: 60 * minutes)
        return checkpoints._due(SimpleNamespace(is_global_zero=rank_zero), step)  # type: ignore[arg-type]

    assert LogSettings().checkpoint_minutes == 10 and LogSettings().checkpoint_every == 0
    assert not due(LogSettings(), 7, 9.9) and due(LogSettings(), 7, 10)
    assert not due(LogSettings(), 7, 10, rank_zero=False)  # one clock decides
    assert due(LogSettings(checkpoint_every=5), 10, 0) and not due(LogSettings(checkpoint_every=5), 11, 100)


def test_the_writer_may_give_buffers_back_while_room_is_looked_for() -> None:
    files, begun = CheckpointFiles(), time.monotonic()
    state = {"w": torch.ones(3)}
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def give() -> None:
        size = 0
        while time.monotonic() - begun < 0.5:
            files._give_back(torch.empty(0, size := size + 1))

    writer = threading.Thread(target=give)
    try:
        writer.start()
        while writer.is_alive():
            assert len(list(files._missing(state))) == 1
    finally:
        sys.setswitchinterval(before)
        writer.join()


def test_ranks_that_see_other_checkpoints_do_not_train_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Checkpoints(tmp_path, ScheduleSettings(steps=9), LogSettings(), 1, None)
    task = SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setattr(checkpoints, "all_reduce_min", lambda steps: torch.tensor([0, -500]))
    for leader, error in ((True, UserError), (False, SystemExit)):
        trainer = SimpleNamespace(global_step=500, is_global_zero=leader)
        with pytest.raises(error, match="steps 0 and 500.*share --out" if leader else "2"):
            found.on_train_start(trainer, task)  # type: ignore[arg-type]


def test_a_second_rollback_takes_the_newer_one_if_a_full_disk_cost_the_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Checkpoints(tmp_path, ScheduleSettings(steps=100), LogSettings(), 1, None, rollback=True)
    monkeypatch.setattr(saved, "written", lambda trainer: None)
    saved.healthy_steps = [10, 20]
    older = keep(tmp_path, 10)
    keep(tmp_path, 20)
    assert saved.read_healthy(SimpleNamespace(), older=True)[0] == 10  # type: ignore[arg-type]
    older.unlink()
    assert saved.read_healthy(SimpleNamespace(), older=True)[0] == 20  # type: ignore[arg-type]
