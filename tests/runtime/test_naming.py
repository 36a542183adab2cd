"""Words with their speakers: in the transcript's files, on both channels of a call, and in the server's answers."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from lalia.cli import main
from lalia.decoding.greedy import Word
from lalia.runtime.naming import name_speakers, name_words
from lalia.runtime.transcript import Transcript, render
from lalia.speakers.diarizer import Diarizer
from lalia.speakers.rttm import SpeakerTurn
from lalia.threads import last_value
from tests.tiny_diarizer import make_diarizer, talk
from tests.tiny_student import make_student, sing


def word(text: str, start_s: float, end_s: float, channel: int = 0) -> Word:
    return Word(text, start_s, end_s, 0.9, channel)


def spoken() -> np.ndarray:
    """Nine seconds in which one voice says "bad" and another "cab", as the tiny student reads tones."""
    wave_S = talk([(0.2, 3, 1), (3.5, 8, 2)], 9.0)
    for start_s, text in ((0.6, "bad "), (5.0, "cab")):
        sung_S, first = sing(text), round(start_s * 16_000)
        wave_S[first : first + len(sung_S)] += sung_S
    return wave_S


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_diarizer(tmp_path_factory.mktemp("diarizer") / "tones")


def test_a_word_is_of_the_speaker_who_talks_longest_during_it() -> None:
    turns = [SpeakerTurn(0, 10, "A"), SpeakerTurn(2, 3, "B"), SpeakerTurn(9, 14, "C"), SpeakerTurn(20, 21, "A")]
    times = [(0.5, 1, "A"), (2.2, 2.8, "A"), (9.5, 11, "C"), (14.5, 15, "C"), (18, 19, "A"), (30, 31, "A")]
    words = [word("x", start, end) for start, end, _ in times]
    assert [one.speaker for one in name_words(words, {0: turns})] == [speaker for *_, speaker in times]
    assert name_words(words, {0: []}) == words


def test_turns_in_every_format() -> None:
    words = [word("one", 0, 1), word("two", 1.2, 2), word("three", 2.1, 3), word("four", 3.2, 4)]
    named = name_words(words, {0: [SpeakerTurn(0, 2.05, "A"), SpeakerTurn(2.05, 5, "B")]})
    transcript = Transcript("one two three four", named, 5.0)
    assert render(transcript, "txt") == "A: one two\nB: three four\n"
    assert "<v A>one two" in render(transcript, "vtt") and "\nB: three four\n" in render(transcript, "srt")
    found = json.loads(render(transcript, "json"))
    assert [one["speaker"] for one in found["words"]] == ["A", "A", "B", "B"]
    assert found["turns"][1] == {"speaker": "B", "start_s": 2.1, "end_s": 4, "text": "three four"}
    assert "channel" not in found["words"][0]


def test_a_call_says_which_speaker_is_on_which_channel(folder: Path, tmp_path: Path) -> None:
    sides = [talk([(0, 3, 1)], 9.0), talk([(3.5, 6, 0), (6.2, 9, 2)], 9.0)]
    soundfile.write(tmp_path / "call.wav", np.stack(sides, 1), 16_000, subtype="FLOAT")
    words = [word("hello", 0.5, 1, 1), word("hi", 4, 5, 2), word("there", 7, 8, 2)]
    notes: list[str] = []
    steps = name_speakers(
        Transcript("", words, 9.0),
        Diarizer.load(folder),
        tmp_path / "call.wav",
        on_note=lambda note: notes.append(note.text),
    )
    found = last_value(steps)
    assert [(one.speaker, one.channel) for one in found.words] == [("A", 1), ("B", 2), ("C", 2)]
    assert notes == ["speaker A: channel 1, speakers B and C: channel 2"]
    assert found.text == "hello\nhi\nthere"


def test_the_program(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = make_student(tmp_path / "student")
    soundfile.write(tmp_path / "talk.wav", spoken(), 16_000, subtype="FLOAT")
    arguments = ["transcribe", str(student), str(tmp_path / "talk.wav"), "--diarizer", str(folder), "--format", "json"]
    assert main.main([*arguments, "--speakers", "1"]) == 0
    printed = capsys.readouterr()
    assert [one["speaker"] for one in json.loads(printed.out)["words"]] == ["A", "A"]
    assert "one speaker" in printed.err
    assert main.main([*arguments[:3], "--speakers", "2"]) == 2
    assert "needs --diarizer" in capsys.readouterr().err
    assert main.main([*arguments[:3], "--diarizer", str(student)]) == 2
    assert "is a student, expected a diarizer" in capsys.readouterr().err


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_server(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("starlette", reason="the extra [serve] is not installed")
    from lalia.serve.application import Service
    from lalia.serve.limits import Limits
    from lalia.serve.students import Students

    soundfile.write(tmp_path / "talk.wav", spoken(), 16_000, subtype="FLOAT")
    data = (tmp_path / "talk.wav").read_bytes()
    students = Students([make_student(tmp_path / "student")])
    for diarizer in (Diarizer.load(folder), None):
        service = Service(students, Limits(jobs=1), tmp_path, diarizer=diarizer)
        transport = httpx.ASGITransport(app=service.application())
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            form = {"response_format": "diarized_json", "chunking_strategy": "auto"}
            answer = await client.post("/v1/audio/transcriptions", data=form, files={"file": ("talk.wav", data)})
            if diarizer is None:
                assert answer.status_code == 400 and "--diarizer" in answer.text
                continue
            found = answer.json()
            assert answer.status_code == 200 and {segment["speaker"] for segment in found["segments"]} == {"A", "B"}
            assert found["segments"][0]["type"] == "transcript.text.segment" and found["duration"] == 9.0
            own = (await client.post("/transcribe?diarize=true", content=data)).json()
            assert {one["speaker"] for one in own["words"]} == {"A", "B"}
