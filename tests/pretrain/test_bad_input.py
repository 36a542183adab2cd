"""What goes wrong before or between steps of a pretraining run: one line that says what to do, and no good work lost."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lalia.data.corpus import Corpus
from lalia.data.prepare.pipeline import rewrite
from lalia.errors import run
from lalia.models import blocks
from lalia.training import Callback
from lalia.training.trainer import finished
from pretrain import __main__ as command
from pretrain import fit as stage
from tests.tiny_corpus import make_corpus
from tests.tiny_run import NANO

STEPS, KILLED = 4, 3


Fit = Callable[..., int]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("bad_input") / "corpus", sentences=18)


@pytest.fixture
def fit(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fit:
    """``lalia pretrain fit`` with more flags; its exit status."""

    def call(*flags: str) -> int:
        paths = [f"--data.corpus={corpus}", f"--out={tmp_path / 'run'}", f"--schedule.steps={STEPS}"]
        monkeypatch.setattr(sys, "argv", ["pretrain", "fit", *NANO, *paths, *flags])
        return command.main()

    return call


@pytest.fixture
def killed(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was killed at step 3, with checkpoints of steps 2 and 3."""

    class Kill(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == KILLED:
                raise RuntimeError("killed")

    with monkeypatch.context() as inner:
        real = stage.fit

        def with_kill(task: Any, run: Any, train: Any, valid: Any, extra: list[Callback]) -> None:
            real(task, run, train, valid, [Kill(), *extra])

        inner.setattr(stage, "fit", with_kill)
        with pytest.raises(RuntimeError, match="killed"):
            fit()
    return tmp_path / "run"


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that was said on stderr."""
    [found] = capsys.readouterr().err.splitlines()
    return found


def test_validation_needs_no_split_and_takes_no_more_of_a_clip_than_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a dev split some clips become one; and positions are made for so many frames only."""
    monkeypatch.setattr(blocks, "LONGEST", 40)  # 0.8 s
    whole = Corpus.load(make_corpus(tmp_path / "whole", sentences=12, languages=("ita",)))
    rows = np.arange(len(whole))
    rewrite(whole, tmp_path / "old", rows, {int(row): {"split": "train"} for row in rows}, [], {})
    paths = [f"--data.corpus={tmp_path / 'old'}", f"--out={tmp_path / 'run'}"]
    flags = ["--data.max_s=0.8", "--model.position=rotary", "--schedule.steps=2"]
    monkeypatch.setattr(sys, "argv", ["pretrain", "fit", *NANO, *paths, *flags])
    assert command.main() == 0
    said = capsys.readouterr().err.splitlines()
    assert "no dev split; 1 clips" in said[0]
    assert said[1].startswith("validation: of 1 held-out clips 1 longer than data.max_s 0.8 s are split")


def test_a_batch_larger_than_memory_says_what_fits(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--batch.micro_s=1e8", "--batch.hours=1e6") == 2
    said = line(capsys)
    assert "batch.micro_s 1e+08 needs about" in said and "GB are free; --batch.micro_s" in said and "fits" in said


def test_float16_where_there_is_none(
    fit: Fit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert fit("--hardware.device=mps", "--hardware.precision=fp16") == 2
    assert "hardware.precision fp16: not on mps; use bf16 or fp32" in line(capsys)


def test_a_language_that_the_corpus_lacks(fit: Fit, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--data.language=ita", "--data.language=swa") == 2
    assert "--data.language swa: not in the corpus, which has eng, ita" in line(capsys)
    assert fit("--data.language=it", "--data.language=Italain") == 2
    assert "--data.language Italain: not in the corpus, which has eng, ita" in capsys.readouterr().err


def test_another_architecture_cannot_continue(fit: Fit, killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert fit("--model.feedforward=128") == 2
    assert "this run was begun with model.feedforward 64, now 128; give the same settings" in line(capsys)


def test_a_finished_run_is_not_mistaken_for_another(
    fit: Fit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit() == 0 and finished(tmp_path / "run")
    capsys.readouterr()
    assert fit("--log.valid_every=7") == 0  # what it logs and where it runs may differ
    assert "this run is finished" in capsys.readouterr().out
    assert fit("--optim.lr=3e-3") == 2
    assert re.search(
        r"this run was begun with optim\.lr [\d.e-]+, now 0\.003; .* or another --out for a new run", line(capsys)
    )


@pytest.mark.parametrize("broken", [1, 2])
def test_an_unreadable_checkpoint_costs_its_steps_alone(
    fit: Fit, killed: Path, broken: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sorted((killed / "checkpoints").glob("step*.ckpt"))
    assert [int(path.stem[4:]) for path in found] == [2, 3]
    for path in found[-broken:]:
        path.write_bytes(path.read_bytes()[:1000])
    capsys.readouterr()
    then = {1: "continuing from the previous one", 2: "no other is left, the run starts anew"}[broken]
    with pytest.warns(UserWarning, match=rf"ckpt: cannot be read .*; {then}"):
        assert fit() == 0
    assert ("continuing from step 2" in capsys.readouterr().err) == (broken == 1)
    assert finished(killed)


def test_a_warning_is_one_line_as_well() -> None:
    before = warnings.formatwarning
    try:
        run(lambda: None, "pretrain")
        assert (
            warnings.formatwarning("a.ckpt: cannot be read", UserWarning, "x.py", 1)
            == "pretrain: a.ckpt: cannot be read\n"
        )
    finally:
        warnings.formatwarning = before
