"""Fake int8: torch says what the quantized file says, and a student that learns under it loses less in the file."""

from __future__ import annotations

import statistics
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from distill.config import DistillSettings, LossSettings, RegularSettings, StudentSettings
from distill.quantize import fake_int8, round_activations, round_weight
from distill.student import make_student
from distill.task import DistillTask
from distill.teacher import TorchTeacher
from lalia.data.loader import make_eval_loader
from lalia.data.mixture import Mixture
from lalia.models.export.int8 import groups, quantize
from lalia.models.export.onnx_export import export_graph
from lalia.models.recogniser import Recogniser
from tests.tiny_corpus import WORDS, chant, make_corpus
from tests.tiny_teacher import make_recogniser

SHAPES = {
    "convolutional": {},
    "conformer, pre-norm": {"block": "conformer", "norm": "pre"},
    "wave, wide position convolution": {
        "input": "wave", "stem": [[16, 10, 5], [24, 8, 8], [32, 4, 4], [32, 4, 4]], "block": "transformer", "norm": "pre",
        "position": "convolution", "position_kernel": 64, "position_groups": 2, "width": 64,
    },
}  # fmt: skip


def files(
    recogniser: Recogniser, folder, name: str
) -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
    """The float file and the int8 file of ``recogniser``."""
    whole, small = folder / f"{name}-float.onnx", folder / f"{name}-int8.onnx"
    export_graph(recogniser, whole)
    quantize(whole, small, groups(whole))
    return onnxruntime.InferenceSession(whole), onnxruntime.InferenceSession(small)


def said(session: onnxruntime.InferenceSession, wave: np.ndarray) -> np.ndarray:
    return session.run(None, {"wave": wave[None]})[0][0]


def said_by_torch(recogniser: Recogniser, wave: np.ndarray) -> np.ndarray:
    return recogniser.log_probs(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))[0][0].numpy()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_torch_says_what_the_int8_file_says(shape, tmp_path):
    recogniser = make_recogniser(layers=2, **shape)
    random = np.random.default_rng(0)
    waves = [chant(word, random) for word in WORDS["ita"][:8]]
    recogniser.encoder.measure(waves)
    float_file, int8_file = files(recogniser, tmp_path, "student")
    fake_int8(recogniser)
    from_float, from_fake = [], []
    for wave in waves:
        int8 = said(int8_file, wave)
        from_float.append(float(np.abs(said(float_file, wave) - int8).mean()))
        from_fake.append(float(np.abs(said_by_torch(recogniser, wave) - int8).mean()))
    # A number on the edge between two steps may fall to either side, and others follow; most clips are equal to the last step.
    assert statistics.median(from_fake) < 0.1 * statistics.median(from_float)
    assert max(from_fake) < max(from_float)


def test_weights_are_rounded_as_the_file_holds_them(tmp_path):
    recogniser = make_recogniser(layers=1)
    files(recogniser, tmp_path, "student")
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(tmp_path / "student-int8.onnx").graph.initializer
    }
    name = "head.weight_IO"
    in_file = stored[f"{name}_quantized"] * stored[f"{name}_scale"]
    np.testing.assert_allclose(round_weight(recogniser.head.weight).detach().numpy().T, in_file, atol=1e-7)


def test_activations_are_rounded_by_each_clips_own_range():
    x_BT = torch.tensor([[0.0, 0.1, 25.5], [-1.0, 0.5, 1.55]])
    rounded = round_activations(x_BT)
    torch.testing.assert_close(rounded, torch.tensor([[0.0, 0.1, 25.5], [-1.0, 0.5, 1.55]]), atol=1e-6, rtol=0)
    assert float(round_activations(torch.tensor([[0.0, 0.149, 25.5]]))[0, 1]) == pytest.approx(0.1)
    x = torch.tensor([[0.3, -0.7]], requires_grad=True)
    round_activations(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[1.0, 1.0]]
    assert not round_activations(torch.zeros(1, 3)).any()
    assert not round_weight(torch.zeros(2, 3)).any()


def plant_outliers(recogniser: Recogniser, factor: float) -> None:
    """One input of a projection a ``factor`` times smaller, and its weights as much larger: in float the very same function, in
    int8 those weights leave a few steps to all others."""
    encoder = recogniser.encoder
    with torch.no_grad():
        encoder.feature_norm.weight[5] /= factor
        encoder.feature_norm.bias[5] /= factor
        encoder.projection.weight[:, 5] *= factor


def test_a_student_that_learns_under_it_loses_less_to_outliers(tmp_path):
    make_corpus(tmp_path / "corpus", 10, ("ita",))
    teacher = make_recogniser(layers=2)
    with torch.no_grad():
        teacher.head.weight.mul_(20)  # untrained, but with opinions
    plant_outliers(teacher, 300.0)
    mixture = Mixture.load([tmp_path / "corpus"])
    rows = mixture.select("train", ["ita"])[:4]
    waves = [mixture.wave(int(row)) for row in rows]

    def loss_in_int8(recogniser: Recogniser, name: str) -> float:
        """Divergence of the int8 file from the teacher, nats per frame."""
        _, int8_file = files(recogniser, tmp_path, name)
        apart = []
        for wave in waves:
            expected, found = said_by_torch(teacher, wave), said(int8_file, wave)
            apart.append(float((np.exp(expected) * (expected - found)).sum(1).mean()))
        return statistics.mean(apart)

    def learned(qat: bool) -> float:
        settings = DistillSettings(
            student=StudentSettings(layers=2), qat=qat, join_s=0.0,
            loss=LossSettings(labels=0.0, pseudo=0.0, hidden=0.0, temperature=1.0, blank_weight=1.0),
            regular=RegularSettings(time_coverage=0.0, channel_coverage=0.0),
        )  # fmt: skip
        torch.manual_seed(0)
        task = DistillTask(
            settings, [TorchTeacher(teacher)], make_student(teacher, settings.student, settings.regular), {}
        )
        batch = next(iter(make_eval_loader(mixture, rows, 60.0, lambda text, language: [])))
        optimizer = torch.optim.Adam(task.student.parameters(), lr=1e-3)
        for step in range(15):
            loss = task.weighted(task.losses(task.sampler(replace(batch, number=step))))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss_in_int8(task.student.eval(), f"qat-{qat}")

    before, with_rounding, without = loss_in_int8(teacher, "before"), learned(True), learned(False)
    assert with_rounding < 0.5 * before
    assert with_rounding < 0.7 * without
