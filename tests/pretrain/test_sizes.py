"""The published sizes: every configuration is read, and its encoder counts as many parameters as transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile  # noqa: F401  # before fairseq2
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

from lalia import config
from lalia.models.encoder import Encoder
from lalia.models.quantizer import ContrastiveHead
from lalia.models.store import count_parameters
from pretrain.config import PretrainSettings

CONFIGS = Path(__file__).parents[2] / "configs" / "pretrain"
LARGE = dict(feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True, num_attention_heads=16)


def published(width: int, layers: int, code_width: int) -> dict[str, int]:
    """What the published models' config.json says where it differs from BASE."""
    return dict(hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width,
                codevector_dim=code_width, proj_codevector_dim=code_width)  # fmt: skip


PUBLISHED = {
    "base": {},
    "large": published(1024, 24, 768),
    "xlsr-300m": published(1024, 24, 768),
    "xlsr-1b": published(1280, 48, 1024),
    "xlsr-2b": published(1920, 48, 1024),
}
MILLIONS = {"base": 95, "large": 317, "xlsr-300m": 317, "xlsr-1b": 965, "xlsr-2b": 2162}


def load(name: str) -> PretrainSettings:
    return config.load(PretrainSettings, ["--config", str(CONFIGS / f"{name}.yaml")], "test", "")


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_parameters_as_published(name: str) -> None:
    settings = load(name)
    theirs = Wav2Vec2Config(**PUBLISHED[name] | (LARGE if name != "base" else {}))
    with torch.device("meta"):
        ours = count_parameters(Encoder(settings.model)) + count_parameters(
            ContrastiveHead(settings.model, settings.quantizer)
        )
        peer = count_parameters(Wav2Vec2ForPreTraining(theirs))
    assert ours == peer
    assert ours / 1e6 == pytest.approx(MILLIONS[name], rel=0.005)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_are_read_and_say_what_they_are(path: Path) -> None:
    settings = load(path.stem)
    assert path.read_text(encoding="utf-8").startswith("# ")
    # The published decoys: lr 5e-3, and warm-up longer than the run.
    assert settings.optim.lr <= 2e-3
    assert settings.schedule.warmup + settings.schedule.hold < 1
    assert settings.schedule.steps or settings.schedule.minutes
    assert settings.batch.accumulation(1) * settings.batch.micro_s / 3600 == pytest.approx(
        settings.batch.hours, rel=0.1
    )
