"""The Python API: options when a student is loaded, arrays at any rate, segments, batches, asyncio, transcripts as files."""

from __future__ import annotations

import asyncio
import errno
import json
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from lalia import Student, TranscribeOptions
from lalia.audio.channels import EACH
from lalia.audio.encoding import flac_bytes
from lalia.cli.main import VERBS
from lalia.decoding.decoder import DecodingInputs
from lalia.decoding.greedy import Word
from lalia.errors import AudioError, UserError
from lalia.runtime import transcript as transcripts
from lalia.runtime.transcript import Transcript, iter_cues, make_cues
from tests.tiny_student import make_student, sing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("api") / "tones", window_s=2.0)


@pytest.fixture(scope="module")
def student(folder: Path) -> Student:
    return Student.load(folder, threads=1)


# --- Options ---------------------------------------------------------------------------------------------


def test_a_closed_list_and_hot_words_from_lists_and_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text("bad (bed|cab)\n")
    for only in (["bad (bed|cab)"], tmp_path / "only.txt", str(tmp_path / "only.txt")):
        loaded = Student.load(folder, 1, only=only)
        assert loaded.transcribe(sing("bad cab")).text == "bad cab"
        assert loaded.transcribe(sing("ace")).text == ""
    for hot in (["Bed", "dab"], {"bed": 3.0, "dab": 6}):
        loaded = Student.load(folder, 1, hot_words=hot)
        assert set(loaded.decoding.hot_words) == {"bed", "dab"}
        assert loaded.transcribe(sing("bed dab")).text == "bed dab"
    assert loaded.decoding.hot_words == {"bed": 3.0, "dab": 6.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hot_words": {"bed": "much"}}, "hot words: phrase 1: the boost is 'much'"),
        ({"hot_words": {"bed": True, "dab": None}}, "hot words: phrase 2: the boost is None"),
        ({"hot_words": ["bed", 7]}, "phrase 2 is 7; expected text"),
        ({"hot_words": ["bed", "!"]}, "hot words: phrase 2: '!' has no letters"),
        ({"hot_words": []}, "hot words: has no phrases"),
        ({"only": ["bad (bed"]}, r"closed list: phrase 1: '\)' is missing"),
        ({"only": ["xyz"]}, "closed list: phrase 1: "),
        ({"hot_words": "absent.txt"}, "absent.txt: no such file"),
        ({"rescore": "absent"}, "absent"),
        ({"lm": "absent"}, "absent"),
        ({"diarizer": "absent"}, "absent"),
    ],
)
def test_options_that_do_not_fit_are_refused_when_loaded(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Student.load(folder, 1, **options)


def test_hot_words_that_cannot_be_written_are_a_warning(folder: Path) -> None:
    said: list[str] = []
    assert Student.load(folder, 1, hot_words=["bed", "zoo"], warn=said.append).decoding.hot_words == {"bed": 6.0}
    assert len(said) == 1 and "phrase 2" in said[0]
    with pytest.warns(UserWarning, match="phrase 1"):
        Student.load(folder, 1, hot_words=["zoo"])


def test_ten_thousand_hot_words(folder: Path) -> None:
    letters = "abcde"
    many = [a + b + c + d + e + f for a in letters for b in letters for c in letters for d in letters for e in letters
            for f in letters][:10_000]  # fmt: skip
    assert Student.load(folder, 1, hot_words=many).transcribe(sing("bad cab")).text == "bad cab"


def test_a_folder_that_vanishes_after_loading_is_not_missed(tmp_path: Path) -> None:
    folder = make_student(tmp_path / "tones")
    loaded = Student.load(folder, 1, only=["bad", "cab"])
    shutil.rmtree(folder)
    assert loaded.transcribe(sing("bad")).text == "bad"
    assert loaded.make_decoder() is not None
    with pytest.raises(UserError, match="tones"):
        Student.load(folder)


def test_threads_share_a_student_with_a_decoder(folder: Path) -> None:
    loaded = Student.load(folder, 1, only=["bad cab", "ace", "dead bed"])
    texts = ["bad cab", "ace", "dead bed"] * 4
    assert [found.text for found in loaded.batch(map(sing, texts), jobs=4)] == texts
    assert 1 <= len(loaded._idle) <= 4
    assert loaded.in_language("eng", strict=False)._idle == []
    assert loaded.with_decoding(DecodingInputs()).transcribe(sing("dab")).text == "dab"


OPTIONS = ("--lm", "--rescore", "--hot", "--only", "--voice", "--channels", "--diarizer", "--language")
"""What decides how audio is transcribed. A command that lacks one names it in its help, with the reason."""


@pytest.mark.parametrize("verb", ["transcribe", "listen", "serve"])
def test_commands_offer_the_same_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    from lalia.cli import main

    assert verb in VERBS
    with pytest.raises(SystemExit):
        main.main([verb, "--help"])
    described, _, offered = capsys.readouterr().out.partition("\noptions:")
    missing = [option for option in OPTIONS if f"  {option}" not in offered]
    assert missing == {"listen": ["--diarizer"], "serve": ["--channels"]}.get(verb, [])
    reasons = {"listen": "--diarizer", "serve": "channels="}
    assert not missing or reasons[verb] in described


# --- Arrays ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000.0])
def test_arrays_at_other_rates_are_resampled(student: Student, rate: float) -> None:
    wave = soxr.resample(sing("bad cab"), 16_000, rate)
    found = student.transcribe(wave.astype(np.float64), sample_rate=rate)  # type: ignore[arg-type]
    assert found.text == "bad cab" and found.duration_s == pytest.approx(len(wave) / rate, abs=0.002)


@pytest.mark.parametrize(
    ("wave", "rate", "message"),
    [
        (np.zeros((16_000, 2), np.float32), None, r"mix its 2 channels with .mean\(1\)"),
        (np.zeros((2, 16_000), np.float32), 44_100, r"mix its 2 channels with .mean\(0\)"),
        (np.zeros(16_000, np.int16), None, "divide integers by 32768"),
        (np.full(16_000, 20_000.0), None, "samples reach 20000.*divide by 32768"),
        (np.full(16_000, np.inf), 8_000, "not finite"),
        (np.zeros(16_000), 100, "100 samples per second; expected 4000"),
        (np.zeros(16_000), 44_100.5, "expected whole samples per second"),
        (np.zeros(16_000), "44100", "'44100'; expected whole samples per second"),
        (np.zeros(16_000), -16_000, "-16000 samples per second"),
        (None, None, "object of shape"),
    ],
)
def test_arrays_of_another_kind_say_what_to_do(student: Student, wave: Any, rate: Any, message: str) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        student.transcribe(wave, "clip 7", sample_rate=rate)
    assert str(caught.value).startswith("clip 7: ") and "\n" not in str(caught.value)


def test_a_file_says_its_own_rate(student: Student, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="belongs to arrays"):
        student.transcribe(flac_bytes(sing("bad")), sample_rate=16_000)


# --- Segments, batches, asyncio ---------------------------------------------------------------------------

TALK = "bad bed ace dab ebb cab deed add " * 6


def test_segments_come_while_the_audio_is_read(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = []
    run = student._run

    def counted(wave: np.ndarray) -> np.ndarray:
        windows.append(len(wave))
        return run(wave)

    monkeypatch.setattr(student, "_run", counted)
    found = student.segments(sing(TALK.strip()))
    first, after = next(found), len(windows)
    rest = list(found)
    assert after < len(windows) / 2
    whole = student.transcribe(sing(TALK.strip()))
    assert [first, *rest] == whole.segments and len(rest) > 2
    assert " ".join(segment.text for segment in [first, *rest]) == whole.text
    assert [word for segment in [first, *rest] for word in segment.words] == whole.words


@pytest.mark.parametrize("options", [{"only": ["bad bed ace dab", "ebb cab deed add"]}, {"hot_words": ["bed"]}])
def test_segments_with_a_decoder(folder: Path, options: dict[str, Any]) -> None:
    loaded = Student.load(folder, 1, **options)
    wave = np.concatenate([sing("bad bed ace dab"), np.zeros(32_000, np.float32), sing("ebb cab deed add")])
    assert list(loaded.segments(wave)) == loaded.transcribe(wave).segments != []
    iterator = loaded.segments(wave)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert len(loaded._idle) == 1


def test_segments_of_separate_channels(student: Student) -> None:
    both = np.stack([np.pad(sing("bad"), (0, 32_000)), np.pad(sing("cab"), (32_000, 0))], 1)
    call = flac_bytes(both)
    found = list(student.segments(call, "call", TranscribeOptions(channels=EACH)))
    assert [(segment.channel, segment.text) for segment in found] == [(1, "bad"), (2, "cab")]
    with pytest.raises(UserError, match="channels='each': expected"):
        TranscribeOptions(channels="each")  # type: ignore[arg-type]


def test_cues_do_not_depend_on_how_words_come() -> None:
    chance = np.random.default_rng(3)
    for _ in range(6):
        words, at = [], 0.0
        for _ in range(int(chance.integers(1, 60))):
            at += float(chance.choice([0.05, 0.3, 1.0, 2.5]))
            text = str(chance.choice(["word", "x" * 60, "done.", "und,", "字", "?"]))
            words.append(Word(text, at, at + 0.3, 0.9, speaker=str(chance.choice(["A", "A", "B"]))))
            at += 0.3
        assert list(iter_cues(iter(words))) == make_cues(words)
        assert [w.start_s for cue in make_cues(words) for w in cue.words] == sorted(
            w.start_s for cue in make_cues(words) for w in cue.words
        )


def test_a_batch_in_order_and_its_errors(student: Student, tmp_path: Path) -> None:
    (tmp_path / "good.flac").write_bytes(flac_bytes(sing("bad cab")))
    sources: list[str | Path | bytes | np.ndarray] = [tmp_path / "good.flac", tmp_path / "absent.wav", sing("ace")]
    kept = list(student.batch(sources, jobs=2, keep_errors=True))
    assert [str(one) if isinstance(one, AudioError) else one.text for one in kept] == [
        "bad cab",
        f"{tmp_path / 'absent.wav'}: no such file",
        "ace",
    ]
    found = student.batch(sources, jobs=2)
    assert next(found).text == "bad cab"
    with pytest.raises(AudioError, match="no such file"):
        next(found)


def test_asyncio(student: Student) -> None:
    async def both() -> list[str]:
        found = await asyncio.gather(student.atranscribe(sing("bad")), student.atranscribe(sing("cab")))
        return [one.text for one in found]

    assert asyncio.run(both()) == ["bad", "cab"]
    with pytest.raises(AudioError, match="no such file"):
        asyncio.run(student.atranscribe("absent.wav"))


def test_a_cancelled_task_ends_after_its_window(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, goes_on = threading.Event(), threading.Event()
    windows = []
    run = student._run

    def slow(wave: np.ndarray) -> np.ndarray:
        windows.append(len(wave))
        begun.set()
        goes_on.wait(10)
        return run(wave)

    monkeypatch.setattr(student, "_run", slow)

    async def cancelled() -> None:
        task = asyncio.create_task(student.atranscribe(np.tile(sing("bad "), 20)))
        await asyncio.to_thread(begun.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        goes_on.set()

    asyncio.run(cancelled())  # waits for its threads
    assert len(windows) <= 2


# --- Transcripts -----------------------------------------------------------------------------------------


def test_transcripts_write_themselves(student: Student, tmp_path: Path) -> None:
    found = student.transcribe(sing("bad cab"))
    assert pickle.loads(pickle.dumps(found)) == found
    assert found.to_text() == "bad cab\n" and found.to_vtt().startswith("WEBVTT\n\n00:00:00")
    assert json.loads(found.to_json("talk"))["audio"] == "talk"
    files = {"txt": found.to_text(), "JSON": found.to_json("a"), "srt": found.to_srt(), "vtt": found.to_vtt()}
    for suffix, text in files.items():
        found.save(tmp_path / "new" / f"talk.{suffix}", "a")
        assert (tmp_path / "new" / f"talk.{suffix}").read_text() == text
    with pytest.raises(UserError, match=r"talk\.doc: expected a name that ends in \.txt, \.json"):
        found.save(tmp_path / "talk.doc")


def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transcripts, "write_text", full)
    with pytest.raises(UserError, match=r"talk\.srt: cannot be written \(No space left on device\)"):
        Transcript("a").save(tmp_path / "talk.srt")


def test_notes_are_kept_with_the_transcript(student: Student) -> None:
    data = flac_bytes(np.pad(sing("bad cab"), (0, 16_000)))
    found = student.transcribe(data[: len(data) * 2 // 3], "cut")
    assert [note.kind for note in found.notes] and found == Transcript(found.text, found.words, found.duration_s)
