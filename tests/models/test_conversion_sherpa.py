"""A student in sherpa-onnx: the same text and times as in our own runtime, from a wave of any loudness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lalia import Student
from lalia.cards import write_card
from lalia.cli import main
from lalia.model_folder import MODEL, NORMALISER, TOKENS, file_hashes
from lalia.models.convert.sherpa import SPEECH_RMS
from lalia.models.encoder import Encoder
from lalia.models.export.onnx_export import export_graph
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape
from lalia.scoring.rates import character_errors
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import Tokens
from tests.tiny_student import FRAME_S, make_student, sing

sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="there is no wheel of sherpa-onnx for this machine")

STEM = [[12, 10, 5], [12, 3, 2], [12, 3, 2], [12, 3, 2], [12, 3, 2], [12, 2, 2], [12, 2, 2]]
SHAPES = {
    "large": dict(stem=STEM, stem_norm="layer", stem_bias=True, norm="pre", normalise_wave=True, position_kernel=8),
    "base": dict(stem=STEM, position_kernel=8),
    "40 ms": dict(stem=[*STEM, [12, 2, 2]], stem_norm="layer", stem_bias=True, normalise_wave=True, position_kernel=8),
    "log-mel": dict(input="logmel", bins=16, stack=4, position="rotary"),
}


def shared(source: Path, target: Path):
    assert main.main(["convert", str(source), f"sherpa:{target}"]) == 0
    return sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(str(target / MODEL), str(target / TOKENS))


def heard(recogniser, wave: np.ndarray):
    stream = recogniser.create_stream()
    stream.accept_waveform(16_000, wave)
    recogniser.decode_stream(stream)
    return stream.result


def make_exported(folder: Path, **shape: Any) -> Path:
    """A student whose weights are chance, exported as `distill export` does."""
    torch.manual_seed(3)
    small: dict[str, Any] = dict(width=16, layers=2, heads=4, feedforward=24, position_groups=4)
    recogniser = Recogniser(
        Encoder(EncoderShape(**small | shape)),
        Tokens(["<blank>", "|", "a", "b", "ж", "न"]),
        Normaliser(NormaliserSettings()),
    )
    with torch.no_grad():
        for parameter in recogniser.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
        # All tokens equally likely on the whole, so that it says much.
        wave_BS = torch.from_numpy(noises(0.07))[None]
        recogniser.eval().head.weight.mul_(5)
        logits_BTV, _ = recogniser(wave_BS, torch.tensor([wave_BS.shape[1]]))
        recogniser.head.bias.sub_(logits_BTV[0].mean(0))
    folder.mkdir()
    export_graph(recogniser.eval(), folder / MODEL)
    recogniser.tokens.save(folder / TOKENS)
    recogniser.normaliser.to_json(folder / NORMALISER)
    write_card(folder, "student", [], files=file_hashes(folder), frame_s=recogniser.frame_s, sample_rate=16_000)
    return folder


def noises(level: float) -> np.ndarray:
    """Three seconds of stretches of coloured noise, RMS ``level``."""
    random = np.random.default_rng(5)
    pieces = [
        np.convolve(random.standard_normal(4800), random.standard_normal(n)) for n in (2, 40, 7, 90, 3, 25, 60, 5)
    ]
    wave = np.concatenate([piece / piece.std() for piece in pieces])
    return (level * wave / wave.std()).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_text(shape: str, tmp_path: Path) -> None:
    folder = make_exported(tmp_path / "student", **SHAPES[shape])
    theirs = shared(folder, tmp_path / "shared")
    student = Student.load(folder, threads=1)
    # Log-mel frames know how loud a wave is, and sherpa-onnx levels it: there the text is the same where it was level before.
    # Elsewhere a norm's epsilon is left, which on weights of chance tips the scale in a frame or two.
    for level, errors in ((SPEECH_RMS, 0.0), *(() if shape == "log-mel" else ((0.02, 0.05), (0.3, 0.05)))):
        wave = noises(level)
        ours = student.transcribe(wave)
        assert len(ours.text) > 20
        found = heard(theirs, wave)
        assert character_errors(ours.text, " ".join(found.text.split())).rate <= errors
        letters = [t for t, token in zip(found.timestamps, found.tokens, strict=True) if token.strip()]
        assert letters[0] == pytest.approx(ours.words[0].start_s, abs=1e-3)


def test_spaces_and_times_of_long_frames(tmp_path: Path) -> None:
    # ƙ begins with the byte C6, the highest here: sherpa-onnx would take such symbols for pieces of bytes.
    symbols = ("<blank>", "|", "a", "b", "ƙ", "d", "e")
    theirs = shared(make_student(tmp_path / "tones", symbols), tmp_path / "shared")
    wave = sing("baƙ dab", symbols)
    silence = int(np.square(wave).sum() / SPEECH_RMS**2) - len(wave)
    found = heard(theirs, np.pad(wave, (0, silence)))
    assert " ".join(found.text.split()) == "baƙ dab"
    assert found.timestamps[0] == pytest.approx(2 * FRAME_S, abs=FRAME_S)
    assert found.timestamps[-1] == pytest.approx((2 + 4 * 6) * FRAME_S, abs=FRAME_S)
    assert (tmp_path / "shared" / "lalia_card.json").is_file()


def test_only_students_become_sherpas(tmp_path: Path, capsys) -> None:
    make_student(tmp_path / "tones")
    for argv, says in (
        ([f"sherpa:{tmp_path}", tmp_path / "new"], "which cannot be read"),
        ([f"hf:{tmp_path}", f"sherpa:{tmp_path / 'new'}"], "only a lalia student"),
        ([tmp_path, f"sherpa:{tmp_path / 'new'}"], "card.json"),
        ([tmp_path / "tones", "sherpa:"], "expected a folder after the colon"),
    ):
        assert main.main(["convert", *map(str, argv)]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
