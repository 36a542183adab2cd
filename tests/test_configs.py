"""Every YAML in configs/ is one that its stage takes, says in its first line what it is for, and survives being written again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.config import DistillSettings, ExportSettings, PruneSettings
from finetune.config import FinetuneSettings
from lalia import config
from pretrain.config import PretrainSettings

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def schema_of(path: Path) -> type[Any]:
    stage = path.relative_to(CONFIGS).parts[0]
    if stage == "distill" and path.stem.startswith("export"):
        return ExportSettings
    if stage == "distill" and path.stem.startswith("prune"):
        return PruneSettings
    return {"pretrain": PretrainSettings, "finetune": FinetuneSettings, "distill": DistillSettings}[stage]


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_every_stage_has_one() -> None:
    assert {path.relative_to(CONFIGS).parts[0] for path in FILES} == {"pretrain", "finetune", "distill"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_config(path: Path, tmp_path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    first = text.splitlines()[0]
    assert first.startswith("# ") and len(first) > 12, "line 1 says what this trains, and on what"
    settings = config.load(schema_of(path), ["--config", str(path)], "test", "")
    asked, got = leaves(yaml.safe_load(text)), leaves(config.to_dict(settings))
    assert {key: got[key] for key in asked} == asked
    config.dump(settings, tmp_path / "again.yaml")
    assert config.load(schema_of(path), ["--config", str(tmp_path / "again.yaml")], "test", "") == settings
