"""Calls: who said what on which channel, in turns, in every format, on the command line and from the server."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalia.audio.channels import EACH
from lalia.audio.encoding import flac_bytes
from lalia.audio.reading import Note
from lalia.cli import main
from lalia.decoding.greedy import Word
from lalia.errors import AudioError
from lalia.runtime.student import Student, TranscribeOptions
from lalia.runtime.transcript import Track, Transcript, merge_channels, render, turns
from tests.tiny_student import make_student, sing

SILENCE = np.zeros(24_000, np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("conversation") / "student", language=["ita"])


def stereo(left: list[str], right: list[str], cross: float = 0.0) -> np.ndarray:
    """Left and right say their words in turn, left first, and pick up each other by ``cross``: (S, 2)."""
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number in range(2 * max(len(left), len(right))):
        words = (left, right)[number % 2]
        if number // 2 < len(words):
            wave_S = np.concatenate([sing(words[number // 2]), SILENCE])
            sides[number % 2].append(wave_S)
            sides[1 - number % 2].append(cross * wave_S)
    return np.stack([np.concatenate(side) for side in sides], axis=1).astype(np.float32)


def wav(audio_SC: np.ndarray, rate: int = 16_000) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, audio_SC, rate, format="WAV", subtype="FLOAT")
    return out.getvalue()


@pytest.mark.parametrize("cross", [0.0, 0.1])
def test_the_two_sides_of_a_call_are_two_channels_and_turns_are_in_order(folder: Path, cross: float) -> None:
    student = Student.load(folder, 1)
    call = wav(stereo(["bad cab", "ace"], ["dad", "bee"], cross))
    found = student.transcribe(call, options=TranscribeOptions(channels=EACH))
    assert [(word.text, word.channel) for word in found.words] == [
        ("bad", 1), ("cab", 1), ("dad", 2), ("ace", 1), ("bee", 2),
    ]  # fmt: skip
    assert found.text == "bad cab\ndad\nace\nbee"
    assert [word.start_s for word in found.words] == sorted(word.start_s for word in found.words)
    assert found.duration_s == pytest.approx(len(stereo(["bad cab", "ace"], ["dad", "bee"])) / 16_000, abs=0.001)
    assert student.transcribe(call, options=TranscribeOptions(channels=1)).text == "dad bee"
    with pytest.raises(AudioError, match=r"call: has no channel 3; it has 2"):
        student.transcribe(call, "call", options=TranscribeOptions(channels=2))
    mono = student.transcribe(flac_bytes(sing("ace")), options=TranscribeOptions(channels=EACH))
    assert mono.text == "ace" and mono.words[0].channel == 0


def test_one_sound_on_two_channels_is_written_down_once_and_told(folder: Path) -> None:
    wave_S = sing("bad cab")
    notes: list[Note] = []
    found = Student.load(folder, 1).transcribe(
        wav(np.stack([wave_S, wave_S], 1)), options=TranscribeOptions(channels=EACH, on_note=notes.append)
    )
    assert [(word.text, word.channel) for word in found.words] == [("bad", 1), ("cab", 1)]
    assert [note.text for note in notes] == ["channel 2 has the same audio as an earlier one and is transcribed once"]


def said(*words: tuple[str, float, float], channel: int = 0) -> list[Word]:
    return [Word(text, start_s, end_s, 1.0, channel) for text, start_s, end_s in words]


def heard(*loud: tuple[float, float], seconds: float = 20.0, level: float = 0.1) -> Track:
    """A track with noise of so much level in some spans, of a level of its own elsewhere."""
    wave_S = (1e-4 * np.random.default_rng(len(loud)).standard_normal(round(seconds * 16_000))).astype(np.float32)
    for start_s, end_s in loud:
        wave_S[round(start_s * 16_000) : round(end_s * 16_000)] *= level / 1e-4
    track = Track()
    for _ in track.record(np.array_split(wave_S, 7)):
        pass
    return track


def test_whoever_speaks_while_another_does_is_not_torn_apart() -> None:
    one = said(("allora", 0.0, 0.5), ("come", 0.7, 1.0), ("stai", 1.1, 1.5), ("bene", 4.0, 4.4))
    other = said(("si", 0.8, 0.9), ("grazie", 5.0, 5.6))
    words = merge_channels([one, other], [heard((0, 2), (4, 4.5)), heard((0.7, 1.0), (5, 6))])
    assert [word.text for word in words] == ["allora", "come", "stai", "si", "bene", "grazie"]
    assert [[word.text for word in turn] for turn in turns(words)] == [
        ["allora", "come", "stai"], ["si"], ["bene"], ["grazie"],
    ]  # fmt: skip


def test_what_a_channel_only_picks_up_is_left_out() -> None:
    picked_up = heard((0, 2), level=0.01)
    assert merge_channels([said(("ciao", 0.5, 1.0)), said(("ciao", 0.5, 1.0))], [heard((0, 2)), picked_up]) == said(
        ("ciao", 0.5, 1.0), channel=1
    )
    soft = [heard((0, 4), level=0.2), heard((1, 2), level=0.02)]  # on a clean line, while the other goes on
    assert len(merge_channels([said(("ma", 0.5, 1.0)), said(("si", 1.2, 1.5))], soft)) == 2
    near = heard((0, 2), (4, 5), level=0.05)  # a quarter of the power: no cross-talk
    assert len(merge_channels([said(("ciao", 0.5, 1.0)), said(("ciao", 0.5, 1.0))], [heard((0, 2)), near])) == 2


def test_every_format_says_the_channel() -> None:
    words = said(("ciao", 0.0, 0.5), ("Anna", 0.6, 1.0), channel=1) + said(("a<b", 1.2, 1.6), channel=2)
    transcript = Transcript("ciao Anna\na<b", words, 2.0)
    assert render(transcript, "txt") == "1: ciao Anna\n2: a<b\n"
    found = json.loads(render(transcript, "json", "call.wav"))
    assert found["words"][2] == {"text": "a<b", "start_s": 1.2, "end_s": 1.6, "confidence": 1.0, "channel": 2}
    assert found["turns"] == [
        {"channel": 1, "start_s": 0.0, "end_s": 1.0, "text": "ciao Anna"},
        {"channel": 2, "start_s": 1.2, "end_s": 1.6, "text": "a<b"},
    ]
    assert render(transcript, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,200\n1: ciao Anna\n\n2\n00:00:01,200 --> 00:00:02,200\n2: a<b\n\n"
    )
    assert render(transcript, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.200\n<v 1>ciao Anna\n\n00:00:01.200 --> 00:00:02.200\n<v 2>a&lt;b\n\n"
    )


def test_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    for name in ("a.wav", "b.wav"):
        (calls / name).write_bytes(wav(stereo(["bad cab"] * 3, ["dad"] * 3)))
    (calls / "c.flac").write_bytes(flac_bytes(sing("ace")))
    assert main.main(["transcribe", str(folder), str(calls / "a.wav"), "--channels", "each"]) == 0
    turn = "1: bad cab\n2: dad\n"
    assert capsys.readouterr() == (3 * turn, "")
    assert main.main(["transcribe", str(folder), str(calls), "--channels", "each"]) == 0
    a, b, c = (calls / name for name in ("a.wav", "b.wav", "c.flac"))
    lines = [f"{path}\t{line}\n" for path in (a, b) for _ in range(3) for line in turn.splitlines()]
    assert capsys.readouterr().out == "".join([*lines, f"{c}\tace\n"])
    assert main.main(["transcribe", str(folder), str(calls)]) == 0
    told = capsys.readouterr().err
    assert told.count("--channels each") == 1
    assert "lalia: in 2 of 3 clips: different voices on two channels; --channels each keeps them apart\n" in told
    assert main.main(["transcribe", str(folder), str(b)]) == 0
    assert (
        capsys.readouterr().err == f"lalia: {b}: different voices on two channels; --channels each keeps them apart\n"
    )
    assert main.main(["transcribe", str(folder), str(c), "--channels", "2"]) == 2
    assert capsys.readouterr().err == f"lalia: {c}: has no channel 2; it is mono\n"
    assert main.main(["transcribe", str(folder), str(c), "--channels", "0"]) == 2
    assert "channels '0': expected mix, each, or a channel number from 1" in capsys.readouterr().err
