"""A recogniser as a graph: the same numbers as torch on clips of any length, and what becomes int8 of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from lalia.models.export import onnx_export
from lalia.models.export.external_weights import copy_graph, data_file, is_external
from lalia.models.export.int8 import group_of, groups, kind_of, quantize
from lalia.models.export.onnx_export import export_graph
from tests.tiny_teacher import make_recogniser, sharpen

STEM = [[16, 10, 5], [16, 8, 4], [24, 4, 4], [24, 4, 4], [32, 2, 2]]
SHAPES: dict[str, dict[str, Any]] = {
    "convolutional": {"layers": 2},
    "transformer": {
        "block": "transformer", "norm": "pre", "position": "convolution", "position_kernel": 8, "position_groups": 4, "layers": 2,
    },
    "conformer mfcc": {"block": "conformer", "input": "mfcc", "bins": 13, "stack": 2, "layers": 1},
    "wave base": {
        "input": "wave", "stem": STEM, "block": "transformer", "norm": "post", "position": "convolution",
        "position_kernel": 7, "position_groups": 4, "layers": 2,
    },
    "wave large": {
        "input": "wave", "stem": STEM, "stem_norm": "layer", "stem_bias": True, "block": "transformer", "norm": "pre",
        "normalise_wave": True, "layers": 1,
    },
}  # fmt: skip


def recogniser(name: str = "convolutional", **shape):
    """A recogniser whose every number matters: biases and gains are not what they begin as, and posteriors are sharp."""
    made = make_recogniser(**{**SHAPES[name], **shape})
    sharpen(made)
    made.encoder.measure([np.random.default_rng(i).standard_normal(8000).astype(np.float32) * 0.1 for i in range(3)])
    return made


def run(path: Path, wave_BS: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["log_probs"], {"wave": wave_BS.numpy()})[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The float graph of each shape, made when it is asked for."""
    folder = tmp_path_factory.mktemp("graphs")

    def make(name: str) -> Path:
        path = folder / f"{name}.onnx"
        if not path.exists():
            export_graph(recogniser(name), path)
        return path

    return make


@pytest.mark.parametrize("name", SHAPES)
def test_the_float_graph_equals_torch_at_every_length(exported, name):
    teacher = recogniser(name)
    for batch, samples in ((1, 1600), (1, 2000), (1, 16_000), (3, 7777), (2, 33_333), (1, 80_001)):
        wave_BS = torch.randn(batch, samples, generator=torch.Generator().manual_seed(samples)) * 0.1
        expected, _ = teacher.log_probs(wave_BS, torch.full((batch,), samples))
        found = run(exported(name), wave_BS)
        assert found.shape == tuple(expected.shape)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


def test_a_loud_and_a_faint_tone_survive_the_folded_transform(exported):
    """The spectrum's range is where float32 could lose: a loud tone beside silence."""
    t = torch.arange(16_000) / 16_000
    wave_BS = torch.stack([0.9 * torch.sin(2 * torch.pi * 437.3 * t), 1e-4 * torch.sin(2 * torch.pi * 5000 * t)])
    expected, _ = recogniser().log_probs(wave_BS, torch.full((2,), 16_000))
    np.testing.assert_allclose(run(exported("convolutional"), wave_BS), expected.numpy(), atol=1e-3)


def test_the_graph_holds_no_leftovers(exported):
    model = onnx.load(exported("convolutional"))
    names = {tensor.name for tensor in model.graph.initializer}
    assert not any("mask_embedding" in name or "weight_g" in name for name in names)
    assert not any(name.startswith("frontend.cos") and len(t.dims) == 2 and min(t.dims) > 1 for t in model.graph.initializer
                   for name in [t.name])  # fmt: skip
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Identity", "Dropout", "Constant", "If", "Loop"}
    text = str(model.metadata_props) + "".join(str(node.metadata_props) + node.doc_string for node in model.graph.node)
    assert "/" not in text


def test_exporting_leaves_the_recogniser_as_it_was(tmp_path):
    teacher = recogniser("transformer")
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    export_graph(teacher, tmp_path / "model.onnx")
    after = teacher.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(parameter.requires_grad for parameter in teacher.parameters())


def test_groups_are_named_by_block_and_part(exported):
    assert groups(exported("convolutional")) == [
        "projection", "blocks.0.attention", "blocks.0.convolution", "blocks.0.feed-forward",
        "blocks.1.attention", "blocks.1.convolution", "blocks.1.feed-forward", "head",
    ]  # fmt: skip
    assert group_of("blocks.layers.12.ffn1.inner_proj.weight_IO") == "blocks.12.feed-forward"
    assert kind_of("blocks.12.feed-forward") == "feed-forward"
    assert kind_of("head") == "head"


def test_all_products_with_weights_become_int8_and_features_stay_float(exported, tmp_path):
    source = exported("convolutional")
    quantize(source, tmp_path / "int8.onnx", groups(source))
    model = onnx.load(tmp_path / "int8.onnx")
    types = {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in model.graph.initializer}
    weights = [name for name in types if ".weight_IO" in name and name.endswith("_quantized")]
    assert len(weights) == 2 * 6 + 2
    assert all(types[name] == np.int8 for name in weights)
    assert types["frontend.mel_FM"] == np.float32
    scales = {t.name: t for t in model.graph.initializer if t.name.endswith("weight_IO_scale")}
    assert list(scales["head.weight_IO_scale"].dims) == [len(recogniser().tokens)]
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulInteger") == len(weights)
    assert kinds.count("MatMul") == 2 * 2 + 3  # scores and sums of two blocks; two of the Fourier transform, one of mel
    wave_BS = torch.randn(1, 16_000) * 0.1
    assert np.abs(run(tmp_path / "int8.onnx", wave_BS) - run(source, wave_BS)).mean() < 0.5


def test_only_the_chosen_groups_are_touched(exported, tmp_path):
    source = exported("convolutional")
    quantize(source, tmp_path / "one.onnx", ["blocks.1.feed-forward"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "one.onnx").graph.node]
    assert kinds.count("MatMulInteger") == 2
    quantize(source, tmp_path / "none.onnx", [])
    wave_BS = torch.randn(1, 8000) * 0.1
    np.testing.assert_array_equal(run(tmp_path / "none.onnx", wave_BS), run(source, wave_BS))


def test_a_wide_position_convolution_is_stored_in_int8_and_computed_in_float(tmp_path):
    made = recogniser("transformer", width=96, heads=4, position_kernel=64, position_groups=2)
    export_graph(made, tmp_path / "float.onnx")
    assert "position" in groups(tmp_path / "float.onnx")
    quantize(tmp_path / "float.onnx", tmp_path / "int8.onnx", ["position"])
    saved = (tmp_path / "float.onnx").stat().st_size - (tmp_path / "int8.onnx").stat().st_size
    assert saved > 0.7 * 4 * 96 * 48 * 64
    wave_BS = torch.randn(1, 16_000) * 0.1
    assert np.abs(run(tmp_path / "int8.onnx", wave_BS) - run(tmp_path / "float.onnx", wave_BS)).max() < 0.2


@pytest.mark.parametrize("name", ["transformer", "wave large", "conformer mfcc"])
def test_weights_beside_the_graph_give_the_same_numbers(exported, name, tmp_path, monkeypatch):
    """As models of more than 1 GB are exported: external data, written and quantized one weight at a time."""
    source = exported(name)
    beside = tmp_path / "beside.onnx"
    monkeypatch.setattr(onnx_export, "LARGE", 0)
    export_graph(recogniser(name), beside)
    products = sum(tensor.name.endswith(".weight_IO") for tensor in onnx.load(source).graph.initializer)
    external = [t for t in onnx.load(beside, load_external_data=False).graph.initializer if is_external(t)]
    assert len(external) == products > 0
    assert [t.name for t in onnx.load(beside).graph.input] == ["wave"]
    wave_BS = torch.randn(2, 16_000, generator=torch.Generator().manual_seed(1)) * 0.1
    np.testing.assert_allclose(run(beside, wave_BS), run(source, wave_BS), atol=1e-5)

    assert groups(beside) == groups(source)
    chosen = [group for group in groups(source) if group != "head"]
    quantize(source, tmp_path / "int8.onnx", chosen)
    quantize(beside, beside, chosen)  # in place
    np.testing.assert_allclose(run(beside, wave_BS), run(tmp_path / "int8.onnx", wave_BS), atol=1e-5)
    (tmp_path / "copied").mkdir()
    copy_graph(beside, tmp_path / "copied" / "model.onnx")
    beside.unlink()
    data_file(beside).unlink()
    np.testing.assert_allclose(
        run(tmp_path / "copied" / "model.onnx", wave_BS), run(tmp_path / "int8.onnx", wave_BS), atol=1e-5
    )


def test_an_int8_weight_is_that_of_onnx_runtime_s_quantizer(exported, tmp_path):
    source = exported("transformer")
    quantize(source, tmp_path / "ours.onnx", groups(source))
    quantize_dynamic(
        source, tmp_path / "theirs.onnx", op_types_to_quantize=["MatMul"], per_channel=True, weight_type=QuantType.QInt8
    )
    theirs = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "theirs.onnx").graph.initializer}
    ours = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "ours.onnx").graph.initializer}
    weights = [name for name in ours if ".weight_IO" in name]
    assert len(weights) == 3 * (1 + 4 * 2 + 1)
    for name in weights:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
