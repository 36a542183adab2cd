"""Students in sherpa-onnx and onnx-asr: the same text and times as in our own runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lalia import Student
from lalia.audio.encoding import flac_bytes
from lalia.cards import write_card
from lalia.cli import main
from lalia.model_folder import MODEL, NORMALISER, TOKENS, file_hashes
from lalia.models.convert.other_runtimes import SPEECH_RMS
from lalia.models.encoder import Encoder
from lalia.models.export.onnx_export import export_graph
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape
from lalia.onnx_session import open_session
from lalia.scoring.rates import character_errors
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import Tokens
from tests.tiny_student import FRAME_S, make_student, sing

STEM = [[12, 10, 5], [12, 3, 2], [12, 3, 2], [12, 3, 2], [12, 3, 2], [12, 2, 2], [12, 2, 2]]
SHAPES = {
    "large": dict(stem=STEM, stem_norm="layer", stem_bias=True, norm="pre", normalise_wave=True, position_kernel=8),
    "base": dict(stem=STEM, position_kernel=8),
    "40 ms": dict(stem=[*STEM, [12, 2, 2]], stem_norm="layer", stem_bias=True, normalise_wave=True, position_kernel=8),
    "log-mel": dict(input="logmel", bins=16, stack=4, position="rotary"),
}


def shared(source: Path, target: Path):
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="there is no wheel of sherpa-onnx for this machine")
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


@pytest.fixture(scope="module")
def for_onnx_asr(tmp_path_factory: pytest.TempPathFactory) -> tuple[Student, Path]:
    """A student on log-mel frames in float32, and its folder for onnx-asr."""
    folder = tmp_path_factory.mktemp("onnx-asr")
    source = make_exported(folder / "student", **SHAPES["log-mel"])
    assert main.main(["convert", str(source), f"onnx-asr:{folder / 'shared'}"]) == 0
    return Student.load(source, threads=1), folder / "shared"


def test_onnx_asr_gets_the_files_and_names_that_it_reads(for_onnx_asr: tuple[Student, Path]) -> None:
    """As its ``wav2vec2-ctc`` works: read here with ONNX Runtime, since no release has it yet."""
    student, folder = for_onnx_asr
    vocabulary = dict(line.split(" ")[::-1] for line in (folder / "vocab.txt").read_text("utf-8").splitlines())
    assert list(vocabulary.values()) == ["<blk>", "▁", "a", "b", "ж", "न"] and list(vocabulary) == list("012345")
    config = json.loads((folder / "config.json").read_text())
    assert config == {"model_type": "wav2vec2-ctc", "subsampling_factor": 640}
    session = open_session(folder / MODEL)
    wave = noises(0.07)
    clips = [wave, wave[:20_000], np.zeros(8_000, np.float32), wave[:300], wave[:0]]
    batch_BS = np.stack([np.pad(clip, (0, len(wave) - len(clip))) for clip in clips])
    lengths_B = np.array([len(clip) for clip in clips], np.int64)
    (batch_BTV,) = session.run(["logprobs"], {"input_values": batch_BS, "input_lengths": lengths_B})
    assert batch_BTV.shape == (len(clips), len(wave) // 640 + 1, 6) and np.isfinite(batch_BTV).all()
    for clip, log_probs_TV in zip(clips, batch_BTV, strict=True):
        ours_TV = student.log_probs(clip)
        np.testing.assert_allclose(log_probs_TV[: len(ours_TV)], ours_TV, atol=1e-5)
        assert not log_probs_TV[max(len(ours_TV), 3) :].argmax(1).any()


def test_onnx_asr_writes_the_same_text(for_onnx_asr: tuple[Student, Path]) -> None:
    pytest.importorskip("onnx_asr.models.wav2vec2", reason="onnx-asr has no wav2vec2-ctc in its releases up to 0.12.0")
    import onnx_asr

    student, folder = for_onnx_asr
    waves = [noises(0.07), noises(0.07)[:20_000]]
    theirs = onnx_asr.load_model("wav2vec2-ctc", folder, providers=["CPUExecutionProvider"])
    expected = [student.transcribe(wave).text for wave in waves]
    assert theirs.recognize(waves) == expected
    assert [theirs.recognize(wave) for wave in waves] == expected and len(expected[0]) > 20


@pytest.mark.parametrize("runtime", ["sherpa", "onnx-asr"])
def test_only_students_are_written_for_other_runtimes(runtime: str, tmp_path: Path, capsys) -> None:
    make_student(tmp_path / "tones")
    for argv, says in (
        ([f"{runtime}:{tmp_path}", tmp_path / "new"], "which cannot be read"),
        ([f"hf:{tmp_path}", f"{runtime}:{tmp_path / 'new'}"], "only a lalia student"),
        ([tmp_path, f"{runtime}:{tmp_path / 'new'}"], "card.json"),
        ([tmp_path / "tones", f"{runtime}:"], "expected a folder after the colon"),
    ):
        assert main.main(["convert", *map(str, argv)]) == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_benchmark_compares_with_every_runtime_that_is_installed(tmp_path: Path, capsys) -> None:
    from benchmarks.runtime import other_runtimes

    student = make_student(tmp_path / "tones")
    clip = tmp_path / "clip.flac"
    clip.write_bytes(flac_bytes(sing("bad cab")))
    assert other_runtimes.main([str(student), str(clip)]) == 0
    found = capsys.readouterr()
    assert "| lalia | 1 of 1 | 0.00 % |" in found.out
    for runtime in ("sherpa-onnx", "onnx-asr"):
        assert f"| {runtime} | " in found.out or f"{runtime} is skipped: " in found.err
