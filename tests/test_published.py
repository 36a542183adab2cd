"""docs/configs.md: every number of the configs beside its published source, compared with the YAML files and the publications."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from fairseq2.models.transformer import TransformerNormOrder
from fairseq2.models.wav2vec2 import Wav2Vec2Config, register_wav2vec2_configs
from fairseq2.runtime.config_registry import get_config
from fairseq2.runtime.dependency import DependencyContainer

from finetune.config import FinetuneSettings
from finetune.presets import PRESETS, InitialModel, data_choices, preset_choices
from lalia import config
from lalia.models.shape import EncoderShape
from pretrain.config import PretrainSettings
from tests.test_configs import CONFIGS, leaves

PAGE = (Path(__file__).parents[1] / "docs" / "configs.md").read_text(encoding="utf-8")
OURS = " †"
SMALL = ("nano", "nano-second", "nano-wave", "tiny")

# Copied from fairseq's wav2vec2_base_librispeech.yaml, and from its defaults where that file is silent.
BASE: dict[str, Any] = {
    "data.min_s": 32_000 / 16_000, "data.max_s": 250_000 / 16_000,
    "batch.micro_s": 1_400_000 / 16_000, "batch.hours": round(1_400_000 * 64 / 16_000 / 3600, 1),
    "optim.lr": 0.0005, "optim.beta1": 0.9, "optim.beta2": 0.98, "optim.eps": 1e-6, "optim.weight_decay": 0.01,
    "optim.clip": 0.0, "schedule.steps": 400_000, "schedule.warmup": 32_000 / 400_000, "schedule.hold": 0.0,
    "schedule.final": 0.0,
    "model.stem": [[512, 10, 5]] + [[512, 3, 2]] * 4 + [[512, 2, 2]] + [[512, 2, 2]], "model.stem_gradient_scale": 0.1,
    "model.width": 768, "model.layers": 12, "model.heads": 12, "model.feedforward": 3072,
    "model.position_kernel": 128, "model.position_groups": 16,
    "model.dropout": 0.1, "model.dropout_input": 0.1, "model.attention_dropout": 0.1, "model.feedforward_dropout": 0.0,
    "model.layerdrop": 0.05,
    "quantizer.codebooks": 2, "quantizer.entries": 320, "quantizer.code_width": 256, "quantizer.final_width": 256,
    "quantizer.dropout_features": 0.1, "mask.coverage": 0.65, "mask.span": 10, "mask.min_spans": 2,
    "objective.distractors": 100, "objective.temperature": 0.1, "objective.diversity_weight": 0.1,
    "objective.visible_weight": 0.0, "objective.feature_weight": 10.0, "objective.gumbel_start": 2.0,
    "objective.gumbel_end": 0.5,
}  # fmt: skip
# wav2vec2_large_librivox.yaml; learning rate, updates and warm-up of the paper.
LARGE: dict[str, Any] = BASE | {
    "data.max_s": 320_000 / 16_000, "batch.micro_s": 1_200_000 / 16_000,
    "batch.hours": round(1_200_000 * 128 / 16_000 / 3600, 1), "optim.lr": 3e-4, "schedule.steps": 600_000,
    "schedule.warmup": 0.08, "model.stem_gradient_scale": 1.0,
    "model.width": 1024, "model.layers": 24, "model.heads": 16, "model.feedforward": 4096,
    "model.dropout": 0.0, "model.dropout_input": 0.0, "model.attention_dropout": 0.0, "model.layerdrop": 0.0,
    "quantizer.code_width": 768, "quantizer.final_width": 768, "quantizer.dropout_features": 0.0,
    "objective.feature_weight": 0.0, "objective.gumbel_end": 0.1,
}  # fmt: skip
# torchaudio's wav2vec2_xlsr_*; α of XLS-R's sampling.
XLSR_300M: dict[str, Any] = {name: value for name, value in LARGE.items() if name.startswith("model.")}
XLSR_300M |= {"data.alpha": 0.5}
del XLSR_300M["model.stem_gradient_scale"]  # part of training, not of the released weights
XLSR_1B = XLSR_300M | {"model.width": 1280, "model.layers": 48, "model.feedforward": 5120, "model.dropout_input": 0.1}
XLSR_2B = XLSR_1B | {"model.width": 1920, "model.feedforward": 7680}
PUBLISHED = {"base": BASE, "large": LARGE, "xlsr-300m": XLSR_300M, "xlsr-1b": XLSR_1B, "xlsr-2b": XLSR_2B}

# Of BASE's groups: log-mel, adapters, streaming, pruning, k-means and time budgets, which wav2vec 2.0 does not have.
NOT_WAV2VEC2 = {
    "model.bins", "model.stack", "model.adapter", "model.block_kernel", "model.chunk", "model.left_chunks",
    "quantizer.teacher_block", "schedule.minutes",
}  # fmt: skip


def table(first: str) -> dict[str, dict[str, str]]:
    """setting -> column -> cell, of the page's table whose header names ``first`` after the setting."""
    lines = PAGE.splitlines()
    (at,) = [n for n, line in enumerate(lines) if line.startswith(f"| setting | {first} |")]
    header = [cell.strip() for cell in lines[at].strip("|").split("|")]
    rows = {}
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[cells[0].strip("`")] = dict(zip(header[1:], cells[1:], strict=True))
    return rows


def shown(value: Any) -> str:
    if isinstance(value, list):
        runs: list[tuple[Any, int]] = []
        for row in value:
            runs = [*runs[:-1], (row, runs[-1][1] + 1)] if runs and runs[-1][0] == row else [*runs, (row, 1)]
        return " + ".join(f"{row}" + (f" × {times}" if times > 1 else "") for row, times in runs)
    return f"{value:g}" if isinstance(value, float) else str(value)


def same(found: Any, expected: Any) -> bool:
    return found == expected if isinstance(expected, list) else math.isclose(found, expected, rel_tol=1e-6)


def resolved(name: str) -> dict[str, Any]:
    path = CONFIGS / "pretrain" / f"{name}.yaml"
    return leaves(config.to_dict(config.load(PretrainSettings, ["--config", str(path)], "test", "")))


def is_number(value: Any) -> bool:
    return (isinstance(value, int | float) and not isinstance(value, bool)) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], list)
    )


def stated(name: str) -> set[str]:
    """The numbers that a YAML file gives."""
    given = leaves(yaml.safe_load((CONFIGS / "pretrain" / f"{name}.yaml").read_text(encoding="utf-8")))
    return {key for key, value in given.items() if is_number(value)}


def test_every_config_is_in_a_table() -> None:
    assert {path.stem for path in (CONFIGS / "pretrain").glob("*.yaml")} == {*PUBLISHED, *SMALL}


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_cell_is_the_setting_and_its_source(name: str) -> None:
    rows, settings = table("base"), resolved(name)
    groups = ("model.", "quantizer.", "mask.", "objective.", "optim.", "batch.", "schedule.")
    every = {key for key, value in settings.items() if key.startswith(groups) and is_number(value)} - NOT_WAV2VEC2
    assert set(rows) >= stated(name) | every
    for key, cells in rows.items():
        cell = cells[name]
        assert cell.removesuffix(OURS) == shown(settings[key]), key
        if key == "objective.gumbel_share":
            # fairseq multiplies the temperature by 0.999995 per update until the end is reached.
            start, end = settings["objective.gumbel_start"], settings["objective.gumbel_end"]
            updates = round(math.log(start / end) / -math.log(0.999995))
            assert settings[key] == pytest.approx(updates / settings["schedule.steps"], abs=1e-4)
        elif cell.endswith(OURS):
            assert key not in PUBLISHED[name], f"{key} is published: {PUBLISHED[name][key]}"
        else:
            assert same(settings[key], PUBLISHED[name][key]), key


def test_the_defaults_are_base() -> None:
    defaults = leaves(config.to_dict(PretrainSettings()))
    for key, value in BASE.items():
        if key.startswith(("model.", "quantizer.", "mask.", "objective.", "optim.")):
            assert same(defaults[key], value), key


@pytest.mark.parametrize("name", SMALL)
def test_each_cell_of_a_small_config_is_the_setting(name: str) -> None:
    rows, settings = table("nano"), resolved(name)
    assert set(rows) >= stated(name)
    for key, cells in rows.items():
        on_wave = key not in ("model.stem", "model.stem_gradient_scale") or settings["model.input"] == "wave"
        assert cells[name] == (shown(settings[key]) if on_wave else "—"), key
        assert cells["why"], key


# fairseq's base_10m.yaml, base_1h.yaml, base_10h.yaml and base_100h.yaml, and the defaults of Wav2Vec2AsrConfig.
TUNING: dict[str, dict[str, Any]] = {
    name: {
        "schedule.steps": steps, "batch.hours": 3_200_000 * 2 * 4 / 16_000 / 3600, "optim.lr": lr, "optim.eps": 1e-8,
        "optim.weight_decay": 0.0, "optim.clip": 0.0, "schedule.warmup": 0.1, "schedule.hold": 0.4, "schedule.final": 0.05,
        "freeze.encoder_share": frozen / steps, "regular.time_coverage": 0.65, "regular.time_span": 10,
        "regular.channel_coverage": channels, "regular.channel_span": 64, "regular.dropout": 0.0,
        "regular.feedforward_dropout": 0.1, "regular.layerdrop": layerdrop,
    }
    for name, steps, lr, frozen, channels, layerdrop in (
        ("10min", 13_000, 5e-5, 10_000, 0.25, 0.1), ("1h", 13_000, 5e-5, 10_000, 0.25, 0.1),
        ("10h", 20_000, 5e-5, 10_000, 0.5, 0.05), ("100h", 80_000, 3e-5, 0, 0.5, 0.1),
    )
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_presets_at_base_are_fairseqs(name: str) -> None:
    encoder = InitialModel(94_371_712, 768, 0.02, wave=True, fresh=False)
    choices = [*data_choices(FinetuneSettings(), ()), *preset_choices(name, encoder, "full")]
    chosen, rows = {choice.key: choice.value for choice in choices}, table("10min")
    assert chosen.pop("freeze.stem") is True and chosen.pop("schedule.decay") == "exponential"
    assert set(rows) == set(chosen)
    for key, cells in rows.items():
        assert cells[name].removesuffix(OURS) == shown(chosen[key]), key
        assert cells[name].endswith(OURS) == (key not in TUNING[name]), key
        if key in TUNING[name]:
            assert chosen[key] == pytest.approx(TUNING[name][key], rel=5e-3), key


@pytest.mark.parametrize(("name", "arch"), [("base", "base"), ("large", "large_lv60k")])
def test_shapes_are_fairseq2s(name: str, arch: str) -> None:
    """Its registered architectures are another copy of the published numbers."""
    container = DependencyContainer()
    register_wav2vec2_configs(container)
    theirs: Any = get_config(container, Wav2Vec2Config, arch)
    settings, encoder = resolved(name), theirs.encoder_config
    shape = EncoderShape(**{key[6:]: value for key, value in settings.items() if key.startswith("model.")})
    assert [tuple(row) for row in shape.stem] == list(encoder.feature_extractor_layer_descs)
    assert (shape.width, shape.layers, shape.heads) == (
        encoder.model_dim, encoder.num_encoder_layers, encoder.num_encoder_attn_heads
    )  # fmt: skip
    assert (shape.feedforward, shape.dropout) == (encoder.ffn_inner_dim, encoder.dropout_p)
    assert (shape.feedforward_dropout, shape.layerdrop) == (encoder.ffn_inner_dropout_p, encoder.layer_drop_p)
    assert (shape.norm == "pre") == (encoder.norm_order == TransformerNormOrder.PRE)
    assert (shape.stem_norm == "layer") == encoder.feature_extractor_layer_norm_convs
    assert shape.stem_bias == encoder.feature_extractor_bias
    start, end, _ = theirs.codebook_sampling_temperature
    assert (settings["objective.gumbel_start"], settings["objective.gumbel_end"]) == (start, end)
    assert (settings["quantizer.code_width"], settings["quantizer.final_width"]) == (
        theirs.quantized_dim, theirs.final_dim
    )  # fmt: skip
    assert (settings["quantizer.codebooks"], settings["quantizer.entries"]) == (
        theirs.num_codebooks, theirs.num_codebook_entries
    )  # fmt: skip
    assert (settings["objective.distractors"], settings["objective.temperature"]) == (
        theirs.num_distractors, theirs.logit_temp
    )  # fmt: skip
