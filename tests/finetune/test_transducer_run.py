"""A run with ``--head transducer``: one recogniser and one student with either decoder, whole and streaming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lalia.decoding.decoder import make_decoder
from lalia.decoding.greedy import transcript
from lalia.errors import UserError
from lalia.models.export.onnx_export import export_student
from lalia.models.recogniser import Recogniser
from lalia.models.transducer import TransducerShape
from lalia.runtime.student import Student, TranscribeOptions
from tests.tiny_corpus import WORDS, chant
from tests.tiny_finetune import fit, make_folder, metrics
from tests.tiny_student import make_student
from tests.tiny_teacher import make_recogniser

STEPS = ("--schedule.steps", "6", "--log.valid_every", "3", "--optim.lr", "1e-3")
WAVE_S = chant(" ".join(WORDS["ita"]), np.random.default_rng(5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("transducer"))
    fit(folder, "run", "--head", "transducer", *STEPS)
    return folder


def sharpen(recogniser: Recogniser) -> None:
    """Sharp random scores, so that both heads emit tokens."""
    torch.manual_seed(0)
    assert recogniser.transducer is not None
    for part in (recogniser.head, *recogniser.transducer.children()):
        for weight in part.parameters():
            torch.nn.init.normal_(weight, std=1.0 if weight.ndim > 1 else 0.1)


def test_a_run_learns_both_heads_and_reports_both(folder: Path) -> None:
    run = folder / "run"
    facts = json.loads((run / "finished.json").read_text())
    assert facts["head"] == "transducer" and facts["blank_penalty"] >= 0
    assert {"test_cer", "test_cer_ctc", "test_wer_ctc"} <= set(facts)
    assert metrics(run, "train/ctc") and metrics(run, "valid/cer_ctc") and len(metrics(run, "valid/cer")) == 2
    before, after = metrics(run, "train/loss")[0], metrics(run, "train/loss")[-1]
    assert after < before
    recogniser = Recogniser.load(run / "recogniser")
    assert recogniser.transducer is not None and recogniser.transducer.shape.width == 0


def test_a_run_goes_on_from_a_hybrid_recogniser_as_either(folder: Path) -> None:
    start = (
        "--recogniser",
        str(folder / "run" / "recogniser"),
        "--schedule.steps",
        "2",
        "--optim.lr",
        "0",
        "--log.valid_every",
        "2",
    )
    known = Recogniser.load(folder / "run" / "recogniser").state_dict()
    on = Recogniser.load(fit(folder, "on", "--head", "transducer", *start) / "recogniser").state_dict()
    assert all(torch.equal(known[name], on[name]) for name in known)
    assert Recogniser.load(fit(folder, "plain", *start) / "recogniser").transducer is None


@pytest.mark.parametrize(("width", "int8"), [(0, False), (12, True)])
def test_a_student_decodes_with_either_head(tmp_path: Path, width: int, int8: bool) -> None:
    made = make_recogniser(layers=1)
    recogniser = Recogniser(made.encoder, made.tokens, made.normaliser, transducer=TransducerShape(width)).eval()
    recogniser.encoder.measure([WAVE_S])
    sharpen(recogniser)
    source, out = tmp_path / "recogniser", tmp_path / "student"
    recogniser.save(source, [])
    card = export_student(source, out, int8=int8)
    assert "transducer.npz" in card["files"]
    student = Student.load(out, 1)
    by_ctc, by_transducer = student.transcribe(WAVE_S), student.with_transducer().transcribe(WAVE_S)
    assert by_ctc.text and by_transducer.text and by_ctc.text != by_transducer.text
    frames_BTX, frames_B = recogniser.frames(torch.from_numpy(WAVE_S)[None], torch.tensor([len(WAVE_S)]))
    if not int8:
        np.testing.assert_allclose(student.with_transducer().frames(WAVE_S), frames_BTX[0], atol=2e-3)
        assert frames_B[0] == frames_BTX.shape[1]
        spans = recogniser.greedy()(student.with_transducer().frames(WAVE_S))
        same = transcript(spans, recogniser.tokens)  # in a file, pauses end words too
        assert by_transducer.text.replace(" ", "") == same.replace(" ", "")
    assert [word.start_s for word in by_transducer.words] == sorted(word.start_s for word in by_transducer.words)
    assert all(0 < word.confidence <= 1 for word in by_transducer.words)


def test_a_streaming_student_transcribes_a_stream_as_the_file(tmp_path: Path) -> None:
    made = make_recogniser(layers=2, chunk=3, left_chunks=2)
    recogniser = Recogniser(made.encoder, made.tokens, made.normaliser, transducer=TransducerShape()).eval()
    sharpen(recogniser)
    recogniser.encoder.measure([WAVE_S])
    recogniser.save(tmp_path / "recogniser", [])
    export_student(tmp_path / "recogniser", tmp_path / "student", int8=True)
    student = Student.load(tmp_path / "student", 1).with_transducer()
    whole = student.transcribe(WAVE_S)
    assert len(whole.words) > 1
    for step in (1_000, 16_000):
        stream = student.stream()
        early = [
            word for start in range(0, len(WAVE_S), step) for word in stream.feed(WAVE_S[start : start + step]).stable
        ]
        stream.finish()
        assert early and stream.transcript() == whole
    decoder = make_decoder(student, hot_words={"pronto": 3.0})
    stream = student.stream(decoder=decoder)
    stream.feed(WAVE_S)
    stream.finish()
    assert stream.words == student.transcribe(WAVE_S, options=TranscribeOptions(decoder=decoder)).words


def test_a_student_without_a_transducer_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--head transducer"):
        Student.load(make_student(tmp_path / "student"), 1).with_transducer()


def test_settings_that_cannot_be_combined_are_refused(folder: Path) -> None:
    for flags, message in [
        (("--mode", "adapter"), "CTC heads only"),
        (("--transducer.ctc", "1"), "between 0 and 1"),
        (("--select.by", "wer_lm"), "decodes with the CTC head"),
    ]:
        with pytest.raises(UserError, match=message):
            fit(folder, "refused", "--head", "transducer", *flags)
