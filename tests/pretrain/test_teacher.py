"""A second round of pretraining: targets are clusters of what an earlier encoder makes of the audio."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lalia.cards import read_card
from lalia.data.corpus import Corpus
from lalia.errors import UserError
from lalia.models.encoder import Encoder
from lalia.models.quantizer import ContrastiveHead, ContrastiveShape
from lalia.models.shape import EncoderShape
from lalia.training.validation import CodeReader
from tests.pretrain.test_continued import fit
from tests.tiny_corpus import make_corpus


def test_targets_are_the_nearest_centres_of_a_teachers_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_corpus(tmp_path / "corpus", sentences=12, languages=("ita",))
    first = fit(tmp_path, monkeypatch, "first", "--model.layers", 2)
    second = fit(tmp_path, monkeypatch, "second", "--quantizer.teacher", first, "--quantizer.teacher_block", 1)
    wave = Corpus.load(tmp_path / "corpus").wave(0)
    reader, teacher = CodeReader.load(second.parent), Encoder.load(first)
    layers, _ = teacher.hidden_layers(torch.from_numpy(wave)[None], torch.tensor([len(wave)]))
    frames_TC = layers[0][0]
    frames_TC = (frames_TC - frames_TC.mean(1, keepdim=True)) / (
        frames_TC.var(1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    expected_T = torch.cdist(frames_TC, reader.head.centres_VC).argmin(1)
    assert reader.codes(wave)[:, 0].tolist() == expected_T.tolist()
    assert len(set(expected_T.tolist())) > 1
    # The teacher is no part of what was trained, and the card says that it was there. Its memory is counted up to the block.
    whole = sum(tensor.nbytes for tensor in (*teacher.parameters(), *teacher.buffers()))
    assert 0 < reader.head.teacher_bytes < whole
    assert not any("teacher" in name for name in reader.head.state_dict())
    assert read_card(first)["id"] in [parent["id"] for parent in read_card(second)["parents"]]


def test_a_second_round_may_begin_with_the_weights_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_corpus(tmp_path / "corpus", sentences=12, languages=("ita",))
    first = fit(tmp_path, monkeypatch, "first")
    second = fit(
        tmp_path, monkeypatch, "second", "--encoder", first, "--quantizer.teacher", first, "--quantizer.entries", 5,
        "--optim.lr", 0.0,
    )  # fmt: skip
    kept, went_on = Encoder.load(first).state_dict(), Encoder.load(second).state_dict()
    for name, weight in kept.items():
        torch.testing.assert_close(went_on[name], weight, rtol=0, atol=0, msg=name)
    assert CodeReader.load(second.parent).head.codebook_GVd.shape[1] == 5


def test_a_teacher_must_have_the_models_frames_and_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_corpus(tmp_path / "corpus", sentences=12, languages=("ita",))
    first = str(fit(tmp_path, monkeypatch, "first"))
    shape = EncoderShape(
        input="logmel", bins=8, stack=2, width=16, layers=1, heads=2, feedforward=16, position_groups=2
    )
    with pytest.raises(UserError, match="a teacher needs the frames of the model"):
        ContrastiveHead(shape, ContrastiveShape(kind="kmeans", codebooks=1, teacher=first))
    shape = EncoderShape(
        input="logmel", bins=8, stack=4, width=16, layers=1, heads=2, feedforward=16, position_groups=2
    )
    with pytest.raises(UserError, match="has blocks 1 to 1"):
        ContrastiveHead(shape, ContrastiveShape(kind="kmeans", codebooks=1, teacher=first, teacher_block=2))
    with pytest.raises(UserError, match="only kmeans has one"):
        ContrastiveShape(teacher=first)
    with pytest.raises(UserError, match=r"there is no teacher; give one with --quantizer\.teacher"):
        ContrastiveHead(shape, ContrastiveShape(kind="kmeans", codebooks=1, teacher_block=4))
