"""Pretraining that goes on from an encoder: its weights, its statistics and its quantizer are where the run begins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from lalia.cards import read_card
from lalia.models.encoder import Encoder
from lalia.models.store import load_quantizer
from pretrain.__main__ import main
from tests.tiny_corpus import make_corpus

MODEL = """
  width: 16
  layers: 1
  heads: 2
  feedforward: 16
  position_groups: 2
  position_kernel: 4
  dropout: 0.0
  attention_dropout: 0.0
  layerdrop: 0.0
"""
KINDS = {
    "kmeans": ("input: logmel\n  bins: 8\n  stack: 4", "kind: kmeans\n  codebooks: 1\n  entries: 6\n  code_width: 8"),
    "gumbel": (
        "stem: [[8, 10, 5], [8, 3, 4], [8, 3, 4], [8, 8, 8]]\n  normalise_wave: true",
        "entries: 6\n  code_width: 8",
    ),
    "kmeans beside a stem": (
        "stem: [[8, 25, 5], [8, 16, 4], [8, 8, 4], [8, 5, 4], [8, 2, 2]]",
        "kind: kmeans\n  codebooks: 1\n  entries: 6\n  code_width: 8",
    ),
}


def fit(
    tmp_path: Path, patch: pytest.MonkeyPatch, out: str, *argv: object, kind: str = "kmeans", steps: int = 2
) -> Path:
    model, quantizer = KINDS[kind]
    (tmp_path / "config.yaml").write_text(
        f"data:\n  max_s: 4.0\nmodel:\n  {model}{MODEL}quantizer:\n  {quantizer}\n  final_width: 8\n"
        "objective:\n  distractors: 5\nbatch:\n  hours: 0.002\n  micro_s: 8\nhardware:\n  threads: 1\n"
    )
    given = ["--config", tmp_path / "config.yaml", "--data.corpus", tmp_path / "corpus", "--data.workers", 0,
             "--schedule.steps", steps, "--guard.enabled", "false", "--out", tmp_path / out, *argv]  # fmt: skip
    patch.setattr(sys, "argv", ["pretrain", "fit", *map(str, given)])
    assert main() == 0
    return tmp_path / out / "encoder"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_from_an_encoder_and_its_quantizer(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_corpus(tmp_path / "corpus", sentences=12, languages=("ita",))
    first = fit(tmp_path, monkeypatch, "first", kind=kind)
    known = load_quantizer(first)
    assert known is not None
    # With a learning rate of nothing, a run that goes on ends where it began: everything came along.
    still = (
        "--encoder",
        first,
        "--optim.lr",
        0.0,
        "--quantizer.entries",
        4,
        "--model.width",
        32,
        "--model.dropout",
        0.2,
    )
    second = fit(tmp_path, monkeypatch, "second", *still, kind=kind)
    again = load_quantizer(second)
    assert again is not None
    for a, b in ((Encoder.load(first), Encoder.load(second)), (known, again)):
        for (name, one), two in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            torch.testing.assert_close(one, two, rtol=0, atol=0, msg=name)
    assert Encoder.load(second).shape.width == 16 and Encoder.load(second).shape.dropout == 0.2
    parents = read_card(second)["parents"]
    assert [p["kind"] for p in parents] == ["corpus", "encoder"] and parents[1]["id"] == read_card(first)["id"]


def test_an_encoder_without_a_quantizer_gets_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_corpus(tmp_path / "corpus", sentences=12, languages=("ita",))
    first = fit(tmp_path, monkeypatch, "first")
    encoder = Encoder.load(first)
    encoder.save(tmp_path / "bare", [])
    second = fit(tmp_path, monkeypatch, "second", "--encoder", tmp_path / "bare", "--optim.lr", 0.0)
    made = load_quantizer(second)
    assert made is not None and bool((made.centres_VC != 0).any())
    for (name, one), two in zip(encoder.state_dict().items(), Encoder.load(second).state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0, msg=name)


def test_a_folder_that_is_no_encoder_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    make_corpus(tmp_path / "corpus", sentences=6, languages=("ita",))
    with pytest.raises(AssertionError):
        fit(tmp_path, monkeypatch, "run", "--encoder", tmp_path / "absent")
    said = capsys.readouterr().err
    assert "absent: no such folder" in said and said.count("\n") == 1
