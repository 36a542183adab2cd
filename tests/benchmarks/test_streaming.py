"""The benchmark of streaming: latency against a stream worked by hand, and its table from end to end."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.runtime import streaming
from lalia.audio.encoding import flac_bytes
from lalia.runtime.student import Student
from tests.cli.test_main import make_corpus
from tests.models.test_chunks import noise
from tests.runtime.test_stream import make_student


def test_latency_of_a_word_is_the_rest_of_its_chunk(tmp_path: Path) -> None:
    student = Student.load(make_student(tmp_path / "student"), threads=1)
    wave_S = noise(32_000)[0].numpy()
    clip = streaming.Clip(wave_S, student.transcribe(wave_S).text)
    found = streaming.transcribe_stream(student, wave_S, 0.5)
    assert [word.text for word in found.words] == clip.text.split()
    assert found.shown_s <= found.stable_s and found.audio_s == 2.0
    for word, stable_s in zip(found.words, found.stable_s, strict=True):
        assert word.end_s <= stable_s <= 2.0 + 1.0
    late = streaming.latency([clip], student, student, 0.5)
    assert late.any_s and min(late.any_s) > 0 and late.rtf > 0 and len(late.stable_s) == len(late.shown_s)


def test_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    folder = make_student(tmp_path / "student")
    student = Student.load(folder, threads=1)
    waves = [noise(samples)[0].numpy() for samples in (24_000, 26_000)]
    clips = [("ita", "test", student.transcribe(w).text, flac_bytes(np.clip(w, -1, 1))) for w in waves]
    corpus = make_corpus(tmp_path / "corpus", clips)
    monkeypatch.setattr(
        sys, "argv", ["streaming", str(folder), str(corpus), "--offline", str(folder), "--pause", "0.5"]
    )
    streaming.main()
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith("2 clips of test, 0.1 minutes")
    assert [row.count("|") for row in rows[-4:]] == [11] * 4
    assert rows[-1].startswith("| streaming, pause 0.5 s | 0.0")
