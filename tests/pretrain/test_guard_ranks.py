"""The guard on two ranks: what goes wrong on one is mended on both alike, and ends where one process ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed as dist
from torch import multiprocessing

from lalia.models.quantizer import ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.training.checkpoints import newest_checkpoint
from pretrain.bands import GuardSettings
from pretrain.config import PretrainSettings
from pretrain.guard import Guard, read_record
from pretrain.task import PretrainTask
from tests.tiny_corpus import make_corpus
from tests.tiny_run import no_tensors_in_objects

ROOT = Path(__file__).parents[2]
STEPS = 5
POISONED, SPOILED = 7, 3
"""a micro-batch of step 1, the second rank's where there are two; a step"""

pytestmark = pytest.mark.xdist_group("ranks")  # two processes each: one test at a time


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("guard_ranks") / "corpus", sentences=18)


def start(corpus: Path, out: Path, *flags: str, **trouble: str) -> subprocess.CompletedProcess[str]:
    out.mkdir()
    arguments = ["fit", f"--out={out}", f"--data.corpus={corpus}", f"--schedule.steps={STEPS}"]
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.tiny_run", *arguments, *flags], cwd=ROOT, capture_output=True,
        text=True, timeout=400, env=os.environ | {"OMP_NUM_THREADS": "1", "LALIA_TEST_RANKS": str(out)} | trouble, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, with the same poison and the same spoiled weights."""
    out = tmp_path_factory.mktemp("guard_ranks") / "alone"
    found = start(corpus, out, LALIA_TEST_POISON=str(POISONED), LALIA_TEST_SPOIL=str(SPOILED))
    assert found.returncode == 0, found.stderr
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    found = newest_checkpoint(run)
    assert found is not None and found[1]["global_step"] == STEPS
    return found[1]["state_dict"]


@pytest.mark.parametrize("strategy", ["ddp", "zero2"])
def test_one_rank_s_trouble_is_mended_on_all_alike(corpus: Path, alone: Path, tmp_path: Path, strategy: str) -> None:
    out = tmp_path / "run"
    found = start(
        corpus, out, "--hardware.devices=2", f"--hardware.strategy={strategy}",
        LALIA_TEST_POISON=str(POISONED), LALIA_TEST_SPOIL=str(SPOILED),
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    measures = [(line["step"], line["vital"], line["action"]) for line in read_record(out)]
    assert measures == [(1, "loss", "skip"), (SPOILED, "loss", "roll back")]
    assert read_record(alone) == read_record(out)
    assert found.stderr.count("restored from step 3") == 1  # one rank speaks for all
    first, second = (json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["rollbacks"] == 1 and first["rate"] == 0.5
    assert first == second
    expected = weights(alone)
    for name, weight in weights(out).items():
        assert bool(torch.isfinite(weight).all()), name
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3"])
def test_every_action_is_taken_on_both_alike(corpus: Path, tmp_path: Path, strategy: str) -> None:
    out, actions = tmp_path / "run", {2: "revive", 3: "raise diversity", 4: "cut the rate", 5: "roll back"}
    found = start(
        corpus, out, "--hardware.devices=2", f"--hardware.strategy={strategy}", "--schedule.steps=6",
        LALIA_TEST_ACTIONS=",".join(f"{step}:{action}" for step, action in actions.items()),
    )  # fmt: skip
    assert found.returncode == 0 and "Traceback" not in found.stderr, found.stderr
    assert {line["step"]: line["action"] for line in read_record(out)} == actions
    assert "restored from step 1, and the learning rate is cut to 0.25" in found.stderr
    first, second = (json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["rate"] == 0.25
    last = newest_checkpoint(out)
    assert last is not None and all(bool(torch.isfinite(w).all()) for w in last[1]["state_dict"].values())


def test_a_run_that_must_not_be_rolled_back_stops_on_both(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    found = start(corpus, out, "--hardware.devices=2", "--guard.rollbacks=0", LALIA_TEST_SPOIL=str(SPOILED))
    assert found.returncode == 3, found.stderr
    assert found.stderr.count("no intervention helped") == 1, found.stderr
    assert [line["action"] for line in read_record(out)] == ["stop"]


def revive(rank: int, folder: str) -> None:
    """What rank ``rank`` of two makes of dead codes, from live features that are its own."""
    no_tensors_in_objects()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    shape = EncoderShape(
        input="logmel", width=16, layers=1, heads=2, feedforward=16, position_groups=2, position_kernel=4
    )
    quantizer = ContrastiveShape(codebooks=2, entries=8, code_width=8, final_width=8)
    task = PretrainTask(PretrainSettings(model=shape, quantizer=quantizer))
    optimizer = torch.optim.AdamW(task.head.parameters())
    trainer: Any = SimpleNamespace(world_size=2, strategy=DDPStrategy(), optimizers=[optimizer])
    guard = Guard(GuardSettings(), Path(folder))
    guard.usage_GV = torch.ones(2, 8)
    guard.usage_GV[:, 3:] = 0.0
    guard._live_KF = torch.randn(
        20 + rank, task.head.code_logits.in_features, generator=torch.Generator().manual_seed(rank)
    )
    did = guard._revive(trainer, task)
    torch.save(
        {"did": did, "live": guard._live_KF, **task.head.code_logits.state_dict()}, Path(folder) / f"revived{rank}.pt"
    )
    dist.destroy_process_group()


def test_dead_codes_start_at_the_leader_s_features_on_both(tmp_path: Path) -> None:
    multiprocessing.spawn(revive, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"revived{rank}.pt") for rank in (0, 1))
    assert first["did"] == second["did"] == "10 dead codes start again at live features"
    assert first["live"].shape != second["live"].shape
    assert torch.equal(first["weight"], second["weight"]) and torch.equal(first["bias"], second["bias"])


def start_with_own_centres(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    shape = EncoderShape(
        input="logmel", width=16, layers=1, heads=2, feedforward=16, position_groups=2, position_kernel=4
    )
    quantizer = ContrastiveShape(kind="kmeans", codebooks=1, entries=8, code_width=8, final_width=8)
    task = PretrainTask(PretrainSettings(model=shape, quantizer=quantizer))
    task.head.centres_VC.fill_(rank + 1.0)
    task.on_fit_start()
    torch.save(task.head.centres_VC, Path(folder) / f"centres{rank}.pt")
    dist.destroy_process_group()


def test_ranks_that_measured_other_centres_use_the_leader_s(tmp_path: Path) -> None:
    multiprocessing.spawn(start_with_own_centres, (str(tmp_path),), nprocs=2)
    assert all(bool((torch.load(tmp_path / f"centres{rank}.pt") == 1.0).all()) for rank in (0, 1))


def test_a_tensor_inside_an_object_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed import distributed_c10d

    monkeypatch.setattr(distributed_c10d, "_object_to_tensor", distributed_c10d._object_to_tensor)
    no_tensors_in_objects()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        dist.broadcast_object_list([{"step": 3}], 0)
        with pytest.raises(TypeError, match="a tensor travels"):
            dist.broadcast_object_list([{"live": [torch.ones(2)]}], 0)
    finally:
        dist.destroy_process_group()
