"""Classifiers: one linear layer on the frames of an encoder, and their export as taggers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lalia.cards import read_card
from lalia.errors import UserError
from lalia.models.classifier import Classifier, TaggerFacts
from lalia.models.encoder import Encoder
from lalia.models.export.onnx_export import export_tagger
from lalia.models.shape import EncoderShape
from lalia.onnx_session import open_session

LABELS = ["yes", "no", "maybe"]
SMALL = EncoderShape(
    input="logmel", bins=16, stack=2, width=16, layers=2, heads=2, feedforward=16, block="convolutional", block_kernel=3,
    position="rotary", position_groups=1,
)  # fmt: skip


def classifier(layer: int | list[float] = -1, moments: int = 1, joined: bool = False) -> Classifier:
    torch.manual_seed(0)
    return Classifier(Encoder(SMALL), TaggerFacts("answer", LABELS, layer, moments, joined=joined)).eval()


@torch.inference_mode()
def test_logits_are_means_of_the_frames_alone_and_in_a_padded_batch() -> None:
    model = classifier([0.5, 0.0, 0.5], 2)
    waves = [0.1 * torch.randn(length) for length in (9000, 16000)]
    batch = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    together = model(batch, torch.tensor([9000, 16000]))
    for wave, found in zip(waves, together, strict=True):
        logits_1TC, frames = model.frame_logits(wave[None], torch.tensor([len(wave)]))
        torch.testing.assert_close(found, logits_1TC[0, : int(frames)].mean(0), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_hidden_states_are_the_input_of_the_blocks_and_their_outputs() -> None:
    encoder = Encoder(SMALL).eval()
    wave, length = 0.1 * torch.randn(1, 9000), torch.tensor([9000])
    states, _ = encoder.hidden_states(wave, length)
    assert len(states) == SMALL.layers + 1
    torch.testing.assert_close(states[-1], encoder(wave, length)[0])
    torch.testing.assert_close(states[1], encoder.hidden_layers(wave, length)[0][0])


@pytest.mark.parametrize(
    ("layer", "moments", "joined"), [(-1, 1, False), (1, 2, True), (-1, 1, True), ([0.25, 0.75, 0.0], 1, False)]
)
def test_the_tagger_equals_the_classifier_read_from_its_folder(
    tmp_path: Path, layer: int | list[float], moments: int, joined: bool
) -> None:
    model = classifier(layer, moments, joined)
    assert model.head.in_features == SMALL.width * moments * (model.facts.top(SMALL.layers) + 1 if joined else 1)
    model.save(tmp_path / "classifier", [], licence="CC0")
    read = Classifier.load(tmp_path / "classifier")
    card = export_tagger(read, tmp_path / "float", [read_card(tmp_path / "classifier")], int8=False)
    assert card["kind"] == "tagger" and card["task"] == "answer" and card["parents"][0]["kind"] == "classifier"
    small = export_tagger(read, tmp_path / "int8", [])
    assert small["quantization"]["int8"] and "head" not in small["quantization"]["int8"]
    blocks = {group for group in small["quantization"]["int8"] if group.startswith("blocks.1.")}
    assert bool(blocks) == (layer == -1)  # blocks above the last layer that is used are left out
    wave = 0.1 * torch.randn(1, 12345)
    with torch.inference_mode():
        expected = model.frame_logits(wave, torch.tensor([12345]))[0].numpy()
    for name, tolerance in (("float", 1e-4), ("int8", 0.3)):
        [found] = open_session(tmp_path / name / "model.onnx").run(["logits"], {"wave": wave.numpy()})
        assert abs(found - expected).max() < tolerance * max(1, abs(expected).max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["yes"]}, "two or more different"),
        ({"layer": 3}, "expected -1 to 2"),
        ({"layer": [1.0]}, "expected 3"),
        ({"moments": 3}, "expected 1 or 2"),
        ({"layer": [0.5, 0.5, 0.0], "joined": True}, "joined or summed"),
        ({"joined": True}, "has other shapes"),
        ({"labels": ["yes", "no"]}, "has other shapes"),
        ({"colour": "red"}, "cannot be read"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    classifier().save(tmp_path / "c", [])
    facts = json.loads((tmp_path / "c/tagger.json").read_text())
    (tmp_path / "c/tagger.json").write_text(json.dumps(facts | change))
    with pytest.raises(UserError, match=message):
        Classifier.load(tmp_path / "c")
