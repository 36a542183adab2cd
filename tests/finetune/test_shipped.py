"""The encoders that come with the project are found by name, small, whole, and say where they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from finetune import presets
from lalia.cards import ancestors, content_hash, read_card
from lalia.errors import UserError
from lalia.models.encoder import Encoder


def test_the_multilingual_nano_encoder_is_found_by_name() -> None:
    folder = Path(presets.resolve_encoder("nano-multilingual"))
    assert (folder / "model.safetensors").stat().st_size <= 10_000_000
    card = read_card(folder, "encoder")
    assert card["id"] == content_hash(folder)
    assert sum(parent["kind"] == "corpus" for parent in ancestors(card)) > 10
    wave = torch.from_numpy(np.sin(np.arange(16_000) / 20).astype(np.float32))[None]
    hidden_BTD, frames_B = Encoder.load(folder)(wave, torch.tensor([16_000]))
    assert hidden_BTD.isfinite().all() and int(frames_B[0]) == hidden_BTD.shape[1] > 20


def test_a_folder_of_that_name_comes_first_and_other_names_are_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert presets.resolve_encoder("runs/encoder") == "runs/encoder"
    (tmp_path / "nano-multilingual").mkdir()
    assert presets.resolve_encoder("nano-multilingual") == "nano-multilingual"


def test_a_slip_in_its_name_is_told_the_right_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        presets.find_encoder("nano-multilingaul")
    assert str(caught.value) == (
        "--encoder nano-multilingaul: no such folder (did you mean nano-multilingual?); expected nano-multilingual (shipped), or "
        "a folder made by lalia pretrain fit or lalia convert"
    )
    assert presets.find_encoder("nano-multilingual") == presets.resolve_encoder("nano-multilingual")
