"""Baselines: torchaudio's models behind the interface of an encoder, without padding's traces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from torchaudio.models import DeepSpeech, Wav2Letter

from lalia.errors import UserError
from lalia.models.baselines import Baseline, BaselineShape, DeepSpeechEncoder, Wav2LetterEncoder, make_encoder
from lalia.models.export.int8 import groups, quantize
from lalia.models.export.onnx_export import export_student
from lalia.models.recogniser import Recogniser
from lalia.runtime.student import Student
from lalia.text.normaliser import Normaliser
from lalia.text.tokens import Tokens

KINDS = [("wav2letter", 0), ("deepspeech", 32)]


def make(kind: str, features: str = "mfcc", width: int = 0) -> Baseline:
    torch.manual_seed(0)
    encoder = make_encoder(BaselineShape.of(kind, features, width, 0.0))  # type: ignore[arg-type]
    assert isinstance(encoder, Baseline)
    return encoder.eval()


def test_wav2letter_is_torchaudios():
    encoder = make("wav2letter")
    assert isinstance(encoder, Wav2LetterEncoder)
    torch.manual_seed(1)
    peer, head = Wav2Letter(num_classes=7, input_type="mfcc", num_features=40).eval(), torch.nn.Linear(2000, 7)
    layers = peer.acoustic_model
    for mine, theirs in zip(encoder.layers, layers, strict=False):
        theirs.load_state_dict(mine.state_dict())
    layers[-2].load_state_dict({"weight": head.weight[:, :, None], "bias": head.bias})
    features_BTF, _, frames_B = encoder.features(torch.randn(1, 8_000), torch.tensor([8_000]))
    hidden_BTD = encoder.contextualise(features_BTF, frames_B)
    T = hidden_BTD.shape[1]
    expected_BVT = peer(features_BTF.reshape(1, 2 * T, 40).transpose(1, 2))
    found_BTV = head(hidden_BTD).relu().log_softmax(-1)
    torch.testing.assert_close(found_BTV, expected_BVT.transpose(1, 2)[:, :T])


def test_deepspeech_is_torchaudios():
    encoder = make("deepspeech", "spectrogram", 32)
    assert isinstance(encoder, DeepSpeechEncoder)
    torch.manual_seed(1)
    peer = DeepSpeech(160, 32, 7).eval()
    peer.load_state_dict(encoder.model.state_dict(), strict=False)
    features_BTF, _, frames_B = encoder.features(torch.randn(1, 8_000), torch.tensor([8_000]))
    found_BTV = peer.out(encoder.contextualise(features_BTF, frames_B)).log_softmax(-1)
    torch.testing.assert_close(found_BTV, peer(features_BTF[:, None]))


@pytest.mark.parametrize("features", ["spectrogram", "mfcc"])
@pytest.mark.parametrize(("kind", "width"), KINDS)
def test_padding_never_changes_the_answer(kind, width, features):
    encoder = make(kind, features, width)
    wave_BS = 0.1 * torch.randn(2, 9_000)
    wave_BS[1, 6_000:] = 0.7
    with torch.no_grad():
        both_BTD, frames_B = encoder(wave_BS, torch.tensor([9_000, 6_000]))
        alone_BTD, alone_B = encoder(wave_BS[1:, :6_000], torch.tensor([6_000]))
    assert frames_B[1] == alone_B[0] == encoder.shape.frames(6_000)
    torch.testing.assert_close(both_BTD[1, : int(frames_B[1])], alone_BTD[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "width"), KINDS)
def test_masks_hide_and_folders_keep(kind, width, tmp_path):
    encoder = make(kind, "mfcc", width)
    wave_BS, lengths_B = 0.1 * torch.randn(1, 6_000), torch.tensor([6_000])
    features_BTF, _, frames_B = encoder.features(wave_BS, lengths_B)
    mask_BT = torch.zeros(1, features_BTF.shape[1], dtype=torch.bool)
    mask_BT[0, 3:6] = True
    channels_BD = torch.zeros(1, encoder.shape.width, dtype=torch.bool)
    channels_BD[0, : encoder.shape.width // 2] = True
    noisy_BTF = features_BTF.clone()
    noisy_BTF[0, 3:6] = 9.0
    noisy_BTF.unflatten(2, (2, 40))[..., :20] = 9.0
    with torch.no_grad():
        masked, disturbed = (
            encoder.contextualise(x, frames_B, mask_BT, channels_BD) for x in (features_BTF, noisy_BTF)
        )
    assert torch.equal(masked, disturbed)

    recogniser = Recogniser(encoder, Tokens.from_texts(["ab"]), Normaliser()).eval()
    recogniser.save(tmp_path / "recogniser", [])
    again = Recogniser.load(tmp_path / "recogniser")
    assert torch.equal(again.log_probs(wave_BS, lengths_B)[0], recogniser.log_probs(wave_BS, lengths_B)[0])


@pytest.mark.parametrize("features", ["spectrogram", "mfcc"])
@pytest.mark.parametrize(("kind", "width"), KINDS)
def test_a_student_says_what_the_recogniser_says(kind, width, features, tmp_path):
    """Clips of other lengths and numbers than the graph was traced with; features are made inside it."""
    encoder = make(kind, features, width)
    for part in encoder.modules():  # so that what is heard reaches the letters through all layers
        if isinstance(part, (torch.nn.Conv1d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    recogniser = Recogniser(encoder, Tokens.from_texts(["ab"]), Normaliser())
    torch.nn.init.normal_(recogniser.head.weight, std=encoder.shape.width**-0.5)
    recogniser.save(tmp_path / "recogniser", [])
    export_student(tmp_path / "recogniser", tmp_path / "student")
    student = Student.load(tmp_path / "student", 1)
    wave_BS = 0.1 * torch.randn(3, 20_000)
    lengths = [20_000, 9_000, 4_321]
    padded_BTV, frames_B = recogniser.log_probs(wave_BS, torch.tensor(lengths))
    assert padded_BTV[0].std(0).min() > 0.01
    for wave_S, length, padded_TV, frames in zip(wave_BS, lengths, padded_BTV, frames_B.tolist(), strict=True):
        said_TV = torch.from_numpy(student.log_probs(wave_S[:length].numpy()))
        alone_BTV, _ = recogniser.log_probs(wave_S[None, :length], torch.tensor([length]))
        torch.testing.assert_close(said_TV[:frames], alone_BTV[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(said_TV[:frames], padded_TV[:frames], atol=1e-4, rtol=0)
    graph, small = tmp_path / "student" / "model.onnx", tmp_path / "int8.onnx"
    assert "head" in groups(graph) and len(groups(graph)) > 1
    quantize(graph, small, groups(graph))
    assert small.stat().st_size < graph.stat().st_size
    int8 = InferenceSession(small).run(["log_probs"], {"wave": wave_BS[:1].numpy()})[0][0]
    assert np.abs(int8 - padded_BTV[0].detach().numpy()).mean() < 0.1 * float(padded_BTV[0].std())
    together_BTV = student.session.run(["log_probs"], {"wave": wave_BS.numpy()})[0]
    for wave_S, said_TV in zip(wave_BS, together_BTV, strict=True):
        alone_BTV, _ = recogniser.log_probs(wave_S[None], torch.tensor([20_000]))
        torch.testing.assert_close(torch.from_numpy(said_TV), alone_BTV[0], atol=1e-4, rtol=0)


def test_a_width_that_cannot_be_is_told():
    with pytest.raises(UserError, match=r"model\.width 64: wav2letter is 2000 wide"):
        BaselineShape.of("wav2letter", "mfcc", 64, 0.0)
