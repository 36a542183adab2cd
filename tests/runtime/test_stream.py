"""Streaming: a graph that hears chunk by chunk says what it says to the whole file; words become final once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from lalia.audio import vad
from lalia.cards import read_card, write_card
from lalia.decoding.decoder import make_decoder
from lalia.decoding.greedy import StreamingGreedy
from lalia.errors import AudioError, UserError
from lalia.model_folder import file_hashes
from lalia.models.export.deployed import StreamingDeployed, streaming_facts
from lalia.models.export.int8 import groups, quantize
from lalia.models.export.onnx_export import export_graph
from lalia.runtime.student import Student, TranscribeOptions
from lalia.text.tokens import Tokens
from tests.models.test_chunks import CHUNK, SHAPES, noise, streaming
from tests.tiny_student import make_student as make_tones
from tests.tiny_student import sing
from tests.tiny_teacher import sharpen

SIZES = (1, 160, 4_097, 16_000, 10**6)


def loud(name: str):
    """A streaming recogniser with sharp posteriors, so that it says something."""
    made = streaming(name)
    sharpen(made)
    made.encoder.measure([noise(16_000)[0].numpy()])
    return made


def make_student(folder: Path, name: str = "convolutional", int8: bool = False) -> Path:
    folder.mkdir(parents=True)
    made = loud(name)
    export_graph(made, folder / "model.onnx")
    if int8:
        quantize(folder / "model.onnx", folder / "model.onnx", groups(folder / "model.onnx"))
    made.tokens.save(folder / "tokens.txt")
    made.normaliser.to_json(folder / "normaliser.json")
    write_card(
        folder,
        "student",
        [],
        files=file_hashes(folder),
        frame_s=made.frame_s,
        streaming=streaming_facts(made.encoder.shape),
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_student(tmp_path_factory.mktemp("streaming") / "student")


@pytest.mark.parametrize("name", SHAPES)
def test_what_is_kept_stands_for_what_was_heard(name: str) -> None:
    """In torch: pieces of one to four chunks against the whole clip with masks."""
    recogniser = loud(name)
    shape, deployed = recogniser.encoder.shape, StreamingDeployed(recogniser).eval()
    wave_BS = noise(20_123, 2)
    whole_BTV, _ = recogniser.log_probs(wave_BS, torch.tensor([20_123] * 2))
    states, at = deployed.begin(), 0
    for chunks in (1, 3, 2, 4, *[1] * 20):
        T = min(chunks * CHUNK, whole_BTV.shape[1] - at)
        if T < 1:
            break
        piece_BS = wave_BS[:, at * shape.hop : (at + T - 1) * shape.hop + shape.receptive_field]
        with torch.no_grad():
            said_BTV, *states = deployed(piece_BS, *states)
        torch.testing.assert_close(said_BTV, whole_BTV[:, at : at + T], rtol=0, atol=1e-4)
        at += T
    assert at == whole_BTV.shape[1]


@pytest.mark.parametrize("name", ["convolutional", "conformer mfcc", "transformer", "wave"])
def test_the_file_streams_what_torch_says_of_the_whole_clip(name: str, tmp_path: Path) -> None:
    student = Student.load(make_student(tmp_path / "student", name), threads=1)
    wave_S = noise(30_001)[0]
    whole_TV = loud(name).log_probs(wave_S[None], torch.tensor([30_001]))[0][0].numpy()
    assert [i.name for i in student.session.get_inputs()] == ["wave"]
    at_once = student.session.run(["log_probs"], {"wave": wave_S[None].numpy()})[0][0]
    np.testing.assert_allclose(at_once, whole_TV, atol=1e-4)
    for size in (160, 7_777):
        state = student._streaming_state()
        said = [state.feed(block) for block in np.split(wave_S.numpy(), range(size, 30_001, size))]
        np.testing.assert_allclose(np.concatenate([*said, state.finish()]), whole_TV, atol=1e-4)


@pytest.mark.parametrize("int8", [False, True])
def test_blocks_of_any_size_and_files_say_the_very_same(int8: bool, tmp_path: Path) -> None:
    student = Student.load(make_student(tmp_path / "student", int8=int8), threads=1)
    wave_S = noise(50_000)[0].numpy()
    expected = student.transcribe(wave_S)
    assert expected.words
    for size in SIZES[1:]:
        stream, shown = student.stream(), []
        for start in range(0, len(wave_S), size):
            said = stream.feed(wave_S[start : start + size])
            shown += said.stable
            assert said.heard_s == min(len(wave_S), start + size) / 16_000
        last = stream.finish()
        assert [*shown, *last.stable] == stream.words == expected.words and not last.tentative
        assert stream.transcript() == expected


def test_only_speech_in_a_stream_as_in_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loud:
        """Speech is what is louder than a limit."""

        def __init__(self) -> None:
            self.waiting_S = np.zeros(0, np.float32)

        def feed(self, block_S: np.ndarray, last: bool = False) -> np.ndarray:
            wave_S = np.concatenate([self.waiting_S, block_S])
            if last:
                wave_S = np.pad(wave_S, (0, -len(wave_S) % vad.FRAME_SAMPLES))
            frames = len(wave_S) // vad.FRAME_SAMPLES
            self.waiting_S = wave_S[frames * vad.FRAME_SAMPLES :]
            frames_TS = wave_S[: frames * vad.FRAME_SAMPLES].reshape(frames, vad.FRAME_SAMPLES)
            return (np.abs(frames_TS).mean(1) > 0.02).astype(np.float32)

    monkeypatch.setattr(vad, "VoiceActivity", Loud)
    student = Student.load(folder, threads=1, voice=True)
    wave_S = noise(90_000)[0].numpy()
    wave_S[20_000:70_000] *= 0.01
    expected = student.transcribe(wave_S)
    assert expected.words and expected != student.transcribe(wave_S, options=TranscribeOptions(voice=False))
    for size in (700, 20_000):
        stream = student.stream()
        for start in range(0, len(wave_S), size):
            stream.feed(wave_S[start : start + size])
        stream.finish()
        assert stream.transcript() == expected


def test_a_stream_costs_the_same_however_long_it_runs(folder: Path) -> None:
    student = Student.load(folder, threads=1)
    state = student._streaming_state()
    state.feed(noise(16_000)[0].numpy())
    sizes = {name: value.shape for name, value in state._kept.items()}
    state.feed(noise(80_000)[0].numpy())
    assert {name: value.shape for name, value in state._kept.items()} == sizes
    assert student.chunks is not None
    assert len(state._waiting_S) < student.chunks.samples(CHUNK)


def test_silence_is_the_empty_text(folder: Path) -> None:
    student = Student.load(folder, threads=1)
    stream = student.stream()
    assert stream.feed(np.zeros(40_000, np.float32)).tentative == []
    assert stream.finish().stable == [] and stream.transcript().text == ""
    assert student.transcribe(np.zeros(40_000, np.float32)).text == ""


def test_other_rates_are_resampled(folder: Path) -> None:
    from lalia.audio.reading import Resampler, resample

    student = Student.load(folder, threads=1)
    wave_S = resample(noise(50_000)[0].numpy(), 8_000)
    stream = student.stream(rate=8_000)
    for start in range(0, len(wave_S), 999):
        stream.feed(wave_S[start : start + 999])
    stream.finish()
    assert stream.words == student.transcribe(Resampler(8_000)(wave_S, last=True)).words
    assert stream.heard_s == len(wave_S) / 8_000


def test_words_are_final_when_a_boundary_or_a_pause_ends_them() -> None:
    """By hand: frames of 40 ms, pauses of 120 ms; every prefix agrees with the whole."""
    tokens = Tokens(("<blank>", "|", "a", "b"))
    path = [0, 2, 2, 0, 3, 1, 1, 2, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 0, 1, 3]
    log_probs_TV = np.full((len(path), 4), np.log(0.1), np.float32)
    log_probs_TV[np.arange(len(path)), path] = np.log(0.7)
    due = {5: "ab", 13: "ab", 17: "a"}  # the boundary itself; then the third blank frame of each pause
    growing, said = StreamingGreedy(tokens, 0.04, pause_s=0.12), []
    for t in range(len(path)):
        final = growing.feed(log_probs_TV[t : t + 1])
        assert [word.text for word in final] == ([due[t]] if t in due else [])
        said += final
    assert [word.text for word in growing.tentative()] == ["b"]
    said += growing.finish()
    assert [(w.text, w.start_s, w.end_s) for w in said] == [
        ("ab", 0.04, 0.2), ("ab", 0.28, 0.44), ("a", 0.56, 0.6), ("b", 0.8, 0.84),
    ]  # fmt: skip
    assert said[0].confidence == pytest.approx(0.7)
    at_once = StreamingGreedy(tokens, 0.04, pause_s=0.12)
    assert [*at_once.feed(log_probs_TV), *at_once.finish()] == said


def test_han_characters_are_final_one_by_one() -> None:
    tokens = Tokens(("<blank>", "你", "好"))
    growing = StreamingGreedy(tokens, 0.04)
    path_TV = np.log(np.eye(3, dtype=np.float32)[[1, 1, 2, 0]] * 0.97 + 0.01)
    assert [[w.text for w in growing.feed(path_TV[t : t + 1])] for t in range(4)] == [[], [], ["你"], ["好"]]


def test_what_a_decoder_knows_of_the_language_decides_whole_utterances(folder: Path) -> None:
    student = Student.load(folder, threads=1)
    wave_S = np.concatenate([noise(30_000)[0].numpy(), np.zeros(32_000, np.float32), noise(20_000)[0].numpy()])
    expected = student.transcribe(wave_S, options=TranscribeOptions(decoder=make_decoder(student))).words
    stream, seen = student.stream(decoder=make_decoder(student)), []
    for start in range(0, len(wave_S), 4_000):
        said = stream.feed(wave_S[start : start + 4_000])
        seen.append((len(said.stable), len(said.tentative)))
    stream.finish()
    assert stream.words == expected and len(expected) > 1
    assert any(tentative for _, tentative in seen)
    assert sum(stable for stable, _ in seen) > 0, "the pause of two seconds settles what is before it"


def test_a_student_of_whole_clips_says_how_to_make_one_that_streams(tmp_path: Path) -> None:
    student = Student.load(make_tones(tmp_path / "tones"), threads=1)
    with pytest.raises(UserError, match="streaming-nano"):
        student.stream()
    assert student.transcribe(sing("bad")).text == "bad"


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.zeros((2, 8), np.float32), "expected floats"),
        (np.zeros(8, np.int16), "expected floats"),
        (np.full(8, np.nan, np.float32), "not finite"),
    ],
)
def test_what_is_no_audio_is_refused_and_the_stream_goes_on(folder: Path, samples: np.ndarray, says: str) -> None:
    stream = Student.load(folder, threads=1).stream()
    with pytest.raises(AudioError, match=says):
        stream.feed(samples)
    stream.feed(np.zeros(0, np.float32))
    assert stream.finish().heard_s == 0
    with pytest.raises(UserError, match="finished"):
        stream.feed(np.zeros(8, np.float32))


def test_rates_that_no_audio_has(folder: Path) -> None:
    with pytest.raises(UserError, match="4000 to"):
        Student.load(folder, threads=1).stream(rate=1)


def test_a_card_of_another_kind_of_student(folder: Path, tmp_path: Path) -> None:
    for made, facts in ((make_tones(tmp_path / "tones"), {"chunk_frames": 6, "receptive_field": 880}), (folder, None)):
        card = read_card(made)
        copy = tmp_path / f"of {made.name}"
        copy.mkdir()
        for name in card["files"]:
            (copy / name).write_bytes((made / name).read_bytes())
        stated: dict[str, Any] = {"streaming": facts} if facts else {}
        write_card(copy, "student", [], files=card["files"], frame_s=0.04, **stated)
        with pytest.raises(UserError, match="contrary to its card"):
            Student.load(copy)


def test_the_graph_names_what_it_keeps(folder: Path) -> None:
    graph = onnx.load(folder / "model.onnx").graph
    kept = [i.name.removeprefix("state.") for i in graph.input[1:]]
    assert kept == ["0.keys_values", "0.convolution", "1.keys_values", "1.convolution"]
    assert [o.name.removeprefix("next.") for o in graph.output[1:]] == kept


def test_sherpa_is_given_a_graph_of_whole_clips(folder: Path, tmp_path: Path) -> None:
    import onnxruntime

    from lalia.models.convert.other_runtimes import write_sherpa

    write_sherpa(folder, tmp_path / "shared")
    session = onnxruntime.InferenceSession(tmp_path / "shared" / "model.onnx")
    assert [i.name for i in session.get_overridable_initializers()] == []
    assert len(session.get_outputs()) == 1
