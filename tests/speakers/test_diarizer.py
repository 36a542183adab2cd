"""``Diarizer`` on voices that are tones: turns, overlap, blocks, known numbers of speakers, and input without speech."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalia.audio.encoding import flac_bytes
from lalia.cards import write_card
from lalia.cli import main
from lalia.errors import AudioError, UserError
from lalia.scoring.speaker_errors import diarization_errors
from lalia.speakers import diarizer as diarizer_module
from lalia.speakers.diarizer import Diarization, Diarizer, remarks, speaker_name
from lalia.speakers.rttm import SpeakerTurn, format_rttm, read_rttm
from tests.tiny_diarizer import make_diarizer, talk
from tests.tiny_student import make_student

TURNS = [
    (0.5, 4.0, 0),
    (4.5, 9.0, 1),
    (9.5, 14.0, 0),
    (13.0, 18.0, 2),
    (18.5, 22.0, 1),
    (22.6, 27.0, 2),
    (27.6, 31.0, 0),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_diarizer(tmp_path_factory.mktemp("diarizer") / "tones")


@pytest.fixture(scope="module")
def tones(folder: Path) -> Diarizer:
    return Diarizer.load(folder)


def reference() -> list[SpeakerTurn]:
    return [SpeakerTurn(start_s, end_s, str(voice)) for start_s, end_s, voice in TURNS]


@pytest.mark.parametrize("jobs", [1, 2])
def test_turns_overlap_and_names(tones: Diarizer, jobs: int) -> None:
    found = tones.diarize(talk(TURNS, 32.0), jobs=jobs)
    assert found.duration_s == 32.0 and found.speakers == ["A", "B", "C"]
    assert diarization_errors(reference(), found.turns, collar_s=0.1).rate < 0.02
    third, fourth = found.turns[2:4]
    assert third.speaker == "A" and fourth.speaker == "C" and fourth.start_s < third.end_s - 0.5
    assert [turn.start_s for turn in found.turns] == sorted(turn.start_s for turn in found.turns)


def test_blocks_are_joined(tones: Diarizer, monkeypatch: pytest.MonkeyPatch) -> None:
    wave_S = np.tile(talk(TURNS, 32.0), 3)
    whole = tones.diarize(wave_S)
    monkeypatch.setattr(diarizer_module, "_BLOCK", 4)
    monkeypatch.setattr(diarizer_module, "_RECONSTRUCTED", 500)
    assert tones.diarize(wave_S).turns == whole.turns
    assert whole.speakers == ["A", "B", "C"]


def test_a_file_is_its_wave(tones: Diarizer, tmp_path: Path) -> None:
    wave_S = talk(TURNS, 32.0)
    soundfile.write(tmp_path / "talk.wav", wave_S, 16_000, subtype="FLOAT")
    assert tones.diarize(tmp_path / "talk.wav").turns == tones.diarize(wave_S).turns


def test_known_numbers_of_speakers(tones: Diarizer) -> None:
    wave_S = talk(TURNS, 32.0)
    for number in (1, 2, 3):
        found = tones.diarize(wave_S, speakers=number)
        assert len(found.speakers) == number
    assert remarks(tones.diarize(wave_S, speakers=9), 9) != []
    assert remarks(found, 3) == []


def test_more_speakers_than_there_are(tones: Diarizer) -> None:
    found = tones.diarize(talk([(0.2, 3.0, 1)], 3.0), speakers=4)
    assert found.speakers == ["A"]
    assert remarks(found, 4) == ["4 speakers were requested, 1 speaker can be told apart"]
    assert remarks(tones.diarize(talk([(0.2, 3.0, 1)], 3.0)), None) == ["one speaker"]


@pytest.mark.parametrize("seconds", [0.3, 1.0, 12.0])
def test_no_speech(tones: Diarizer, seconds: float) -> None:
    found = tones.diarize(np.zeros(round(16_000 * seconds), np.float32))
    assert found == Diarization([], seconds) and remarks(found, None) == ["no speech"]


def test_a_third_of_a_second(tones: Diarizer) -> None:
    found = tones.diarize(talk([(0.0, 0.3, 1)], 0.3))
    assert [turn.speaker for turn in found.turns] == ["A"] and found.turns[0].end_s <= 0.3
    assert tones.diarize(np.zeros(0, np.float32)).turns == []


def test_windows_end_with_the_recording(tones: Diarizer) -> None:
    for seconds in (9.99, 10.0, 10.01, 14.9, 15.0, 23.4):
        found = tones.diarize(talk([(0.0, seconds, 0)], seconds))
        assert found.turns[-1].end_s == pytest.approx(seconds, abs=0.05) and len(found.turns) == 1


def test_wrong_folders(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"is a student, expected a diarizer"):
        Diarizer.load(make_student(tmp_path / "student"))
    write_card(tmp_path, "diarizer", [], threshold=0.7)
    with pytest.raises(UserError, match=r"does not list segmentation\.onnx"):
        Diarizer.load(tmp_path)
    with pytest.raises(AudioError, match="no such file"):
        Diarizer.load(folder).diarize(tmp_path / "nothing.wav")


def test_the_program(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audio = tmp_path / "my talk.flac"
    audio.write_bytes(flac_bytes(talk(TURNS, 32.0)))
    assert main.main(["diarize", str(folder), str(audio)]) == 0
    printed = capsys.readouterr()
    (tmp_path / "found.rttm").write_text(printed.out)
    [turns] = read_rttm(tmp_path / "found.rttm").values()
    assert format_rttm(turns, "my talk") == printed.out and printed.err == ""
    assert (
        main.main(
            ["diarize", str(folder), str(audio), "--format", "json", "--speakers", "1", "--out", str(tmp_path / "o")]
        )
        == 0
    )
    assert '"speakers": {"A": ' in (tmp_path / "o" / "my talk.json").read_text()
    assert "one speaker" in capsys.readouterr().err
    assert main.main(["diarize", str(folder), str(tmp_path / "gone.wav")]) == 2
    assert main.main(["diarize", str(folder), str(audio), "--channel", "0"]) == 2


def test_bad_rttm(tmp_path: Path) -> None:
    path = tmp_path / "bad.rttm"
    path.write_text("SPEAKER a 1 0.0 1.0 <NA> <NA> A <NA> <NA>\nSPEAKER a 1 x 1.0 <NA> <NA> A <NA> <NA>\n")
    with pytest.raises(UserError, match="line 2 is 'SPEAKER a 1 x"):
        read_rttm(path)


def test_names() -> None:
    assert [speaker_name(n) for n in (0, 25, 26, 27, 52, 701, 702)] == ["A", "Z", "AA", "AB", "BA", "ZZ", "AAA"]
