"""What the contrast is against where the model hears the raw wave, and where training hears the audio changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lalia.data.corpus import Corpus
from lalia.errors import UserError
from lalia.models.encoder import Encoder
from lalia.models.frontend import StackedFrames
from lalia.models.quantizer import ContrastiveHead, ContrastiveShape, cepstra
from lalia.models.shape import EncoderShape
from lalia.training.run_log import read_metrics
from lalia.training.validation import CodeReader
from tests.pretrain.test_continued import fit
from tests.tiny_corpus import make_corpus

KMEANS = ContrastiveShape(kind="kmeans", codebooks=1, entries=4, code_width=8, final_width=8)


def test_a_stems_targets_are_the_nearest_cepstra_of_the_same_audio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_corpus(tmp_path / "corpus", sentences=12, languages=("ita",))
    encoder = fit(tmp_path, monkeypatch, "wave", kind="kmeans beside a stem")
    reader = CodeReader.load(encoder.parent)
    frames = StackedFrames(EncoderShape(input="logmel"))
    frames.measure([torch.from_numpy(Corpus.load(tmp_path / "corpus").wave(row)) for row in range(3)])
    assert not torch.allclose(frames.prior_2M, StackedFrames(EncoderShape(input="logmel")).prior_2M)
    assert reader.head.frames is not None
    frames.load_state_dict(reader.head.frames.state_dict())  # measured on the training audio, kept with the quantizer
    wave_S = torch.from_numpy(Corpus.load(tmp_path / "corpus").wave(0))
    raw_BTF, frames_B = frames(wave_S[None], torch.tensor([len(wave_S)]))
    points_TC = cepstra(raw_BTF, frames_B, 4)[0]
    expected_T = torch.cdist(points_TC, reader.head.centres_VC).argmin(1)
    assert reader.codes(wave_S.numpy())[:, 0].tolist() == expected_T.tolist()
    assert len(set(expected_T.tolist())) > 1
    assert len(expected_T) == Encoder.load(encoder).shape.frames(len(wave_S))


@pytest.mark.parametrize("stem", [[[8, 10, 5], [8, 8, 8], [8, 4, 4], [8, 4, 4]], [[8, 10, 5], [8, 8, 8]]])
def test_a_stem_of_other_frames_is_refused(stem: list[list[int]]) -> None:
    shape = EncoderShape(stem=stem, width=16, layers=1, heads=2, feedforward=16, position_groups=2)
    with pytest.raises(UserError, match="four log-mel frames are 640 and 880"):
        ContrastiveHead(shape, KMEANS)


def test_mfcc_has_no_log_mel_beside_it() -> None:
    shape = EncoderShape(input="mfcc", bins=13, width=16, layers=1, heads=2, feedforward=16, position_groups=2)
    with pytest.raises(UserError, match="found mfcc"):
        ContrastiveHead(shape, KMEANS)


def test_training_hears_other_speeds_and_validation_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_corpus(tmp_path / "corpus", sentences=12, languages=("ita",))
    plain = fit(tmp_path, monkeypatch, "plain", "--optim.lr", 0.0, "--log.every", 1)
    changed = fit(tmp_path, monkeypatch, "changed", "--optim.lr", 0.0, "--log.every", 1, "--augment.speed", 1.0)
    losses = [_losses(run.parent) for run in (plain, changed)]
    assert losses[0]["train/loss"] != losses[1]["train/loss"]
    assert losses[0]["valid/info_nce"] == losses[1]["valid/info_nce"]


def _losses(run: Path) -> dict[str, float]:
    return {key: value for line in read_metrics(run) for key, value in line.items() if key.endswith(("loss", "nce"))}
