"""A pretraining run that is killed, stopped and moved to other ranks ends where the unbroken run ends.

Raw wave, weight-normed position convolution, LayerDrop and dropout; accumulation, and held-out audio between the checkpoints.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lalia.models.encoder import Encoder
from lalia.training.checkpoints import newest_checkpoint
from tests.tiny_corpus import make_corpus

ROOT = Path(__file__).parents[2]
STEPS = 4
RUN = ["-W", "ignore", "-m", "tests.tiny_run"]
TORCHRUN = ["-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tests.tiny_run"]

pytestmark = pytest.mark.xdist_group("ranks")  # two processes each: one test at a time


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("resume") / "corpus", sentences=18)


@pytest.fixture(scope="module")
def unbroken(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process that nothing happens to."""
    out = tmp_path_factory.mktemp("resume") / "unbroken"
    assert start(corpus, out).returncode == 0
    return out


def start(
    corpus: Path, out: Path, *flags: str, how: list[str] = RUN, **trouble: str
) -> subprocess.CompletedProcess[str]:
    arguments = ["fit", f"--out={out}", f"--data.corpus={corpus}", f"--schedule.steps={STEPS}", "--model.layerdrop=0.1"]
    return subprocess.run(
        [sys.executable, *how, *arguments, *flags], cwd=ROOT, capture_output=True, text=True, timeout=400,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | trouble, check=False,
    )  # fmt: skip


def content(run: Path) -> tuple[dict[str, torch.Tensor], list[tuple[int, float]]]:
    """Final weights and AdamW moments by name, and (step, loss on held-out audio)."""
    found = newest_checkpoint(run)
    assert found is not None and found[1]["global_step"] == STEPS
    moments = found[1]["optimizer_states"][0]["state"]
    tensors = found[1]["state_dict"] | {f"{i}.{k}": v for i, state in moments.items() for k, v in state.items()}
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return tensors, [(line["step"], line["valid/info_nce"]) for line in lines if "valid/info_nce" in line]


def differ(a: Path, b: Path) -> float:
    """The largest difference of any weight, moment or held-out loss; the losses must be of the same steps."""
    (tensors, losses), (other, other_losses) = content(a), content(b)
    assert tensors.keys() == other.keys()
    assert [step for step, _ in losses] == [step for step, _ in other_losses] == [1, 3]
    apart = max(float((tensors[name] - other[name]).abs().max()) for name in tensors)
    return max(apart, *(abs(x - y) for (_, x), (_, y) in zip(losses, other_losses, strict=True)))


def encoder(run: Path) -> dict[str, torch.Tensor]:
    return Encoder.load(run / "encoder").state_dict()


def test_killed_at_a_step_it_ends_bit_equal(corpus: Path, unbroken: Path, tmp_path: Path) -> None:
    # A checkpoint every second step: what was done behind the last one is done again.
    flags = ["--log.checkpoint_every=2"]
    assert start(corpus, tmp_path, *flags, LALIA_TEST_KILL_AT="3").returncode == -9
    assert start(corpus, tmp_path, *flags).returncode == 0
    assert differ(unbroken, tmp_path) == 0.0
    assert all(torch.equal(value, encoder(tmp_path)[name]) for name, value in encoder(unbroken).items())
    again = start(corpus, tmp_path, *flags)
    assert again.returncode == 0 and "this run is finished" in again.stdout


def test_stopped_and_moved_over_strategies_and_ranks(corpus: Path, unbroken: Path, tmp_path: Path) -> None:
    stopped = start(corpus, tmp_path, "--hardware.devices=2", "--hardware.strategy=zero2", LALIA_TEST_SIGNAL="TERM:1")
    assert stopped.returncode == 130, stopped.stderr
    assert "saved at step 1 of 4" in stopped.stderr and "the same command continues" in stopped.stderr
    assert "Traceback" not in stopped.stderr and stopped.stderr.count("stopped by SIGTERM") == 1, stopped.stderr
    alone = start(corpus, tmp_path, LALIA_TEST_SIGNAL="INT:2")
    assert alone.returncode == 130 and "continuing from step 1" in alone.stderr, alone.stderr
    on_two = start(corpus, tmp_path, "--hardware.devices=2", "--hardware.strategy=zero3", how=TORCHRUN)
    assert on_two.returncode == 0 and "continuing from step 2" in on_two.stderr, on_two.stderr
    assert on_two.stdout.count("the encoder is") == 1
    assert differ(unbroken, tmp_path) < 1e-4
    apart = [float((value - encoder(tmp_path)[name]).abs().max()) for name, value in encoder(unbroken).items()]
    assert max(apart) < 1e-4  # one model.safetensors, whole, out of sharded weights


def test_ddp_in_bfloat16_is_one_process_in_bfloat16(corpus: Path, tmp_path: Path) -> None:
    flags = ["--hardware.precision=bf16"]
    assert start(corpus, tmp_path / "one", *flags).returncode == 0
    assert start(corpus, tmp_path / "two", *flags, "--hardware.devices=2").returncode == 0
    assert differ(tmp_path / "one", tmp_path / "two") < 5e-3


def test_float16_skips_what_overflows_and_says_so(corpus: Path, tmp_path: Path) -> None:
    flags = ["--hardware.precision=fp16", "--hardware.strategy=zero1"]
    assert start(corpus, tmp_path, *flags, LALIA_TEST_SIGNAL="TERM:3").returncode == 130
    assert start(corpus, tmp_path, *flags).returncode == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss_scale" in line]
    assert [line["step"] for line in steps] == [0, 1, 2, 3]
    for line in steps:  # each skipped step halves the scale that began at 65,536, over the resume as well
        assert line["train/loss_scale"] == 65_536 / 2 ** line["train/skipped_steps"]


def test_another_architecture_is_refused_by_name(corpus: Path, unbroken: Path) -> None:
    (unbroken / "finished.json").rename(unbroken / "finished.away")
    try:
        refused = start(corpus, unbroken, "--model.width=64", "--model.heads=4")
    finally:
        (unbroken / "finished.away").rename(unbroken / "finished.json")
    assert refused.returncode == 2
    assert "model.width 32, now 64; model.heads 2, now 4" in refused.stderr
