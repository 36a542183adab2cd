"""The benchmarks of the runtime and of the server, in miniature."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.runtime import runtime_contenders, serve, serve_streams, speed
from lalia.audio.encoding import flac_bytes
from tests.models.test_chunks import noise
from tests.runtime.test_stream import make_student as make_streaming_student
from tests.tiny_student import make_student, sing

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


@pytest.fixture
def clips(tmp_path: Path) -> list[str]:
    made = []
    for number, text in enumerate(("bad cab", "ace", "dab ebb")):
        path = tmp_path / f"{number}.flac"
        path.write_bytes(flac_bytes(sing(text)))
        made.append(str(path))
    return made


def test_a_server_survives_attacks(tmp_path: Path, capsys) -> None:
    assert serve.attack_server(make_student(tmp_path / "tones"), sing("bad"), 36, 8)
    said = capsys.readouterr().out
    assert "| bad form | 2 |" in said and "Failures: none" in said


def test_load_by_several_clients(tmp_path: Path) -> None:
    row = serve.load(make_student(tmp_path / "tones"), [sing("bad"), sing("cab ace")], 2, 1.0)
    assert row["clients"] == 2 and row["requests"] >= 2
    assert row["audio_per_s"] > 0 and row["p95_ms"] >= row["median_ms"] > 0 and row["memory_mb"] > 10


def test_contenders_and_long_files(tmp_path: Path, clips: list[str]) -> None:
    student = make_student(tmp_path / "tones")
    row = speed.contend("lalia, int8", str(student), 1, clips)
    assert row["texts"] == ["bad cab", "ace", "dab ebb"] and row["cpu"] > 0 and row["peak_mb"] > 10
    for suffix in ("flac", "mp3"):
        path = tmp_path / f"long.{suffix}"
        count = speed.write_long(path, clips, 1)
        found = speed.long_file(str(student), path, 2, "")
        assert found["audio_s"] == pytest.approx(60, abs=8)
        # Half a second of silence is no boundary to the tiny student: its texts run on.
        pieces = [row["texts"][number % 3] for number in range(count)]
        assert speed.difference([found["text"].replace(" ", "")], ["".join(pieces).replace(" ", "")]) < 0.02


def test_differences_are_character_errors() -> None:
    assert speed.difference(["abcd", "ef"], ["abcd", "ef"]) == 0
    assert speed.difference(["abXd", "ef"], ["abcd", "ef"]) == pytest.approx(1 / 6)


def test_a_process_that_contends_prints_what_it_measured(tmp_path: Path, clips: list[str], monkeypatch, capsys) -> None:
    student = str(make_student(tmp_path / "tones"))
    monkeypatch.setattr(sys, "argv", ["runtime", student, *clips, "--contend", "lalia, int8", "1"])
    assert speed.main() == 0
    assert json.loads(capsys.readouterr().out)["texts"][1] == "ace"
    monkeypatch.setattr(sys, "argv", ["runtime", student, clips[0], "--long", "1"])
    assert speed.main() == 0
    assert json.loads(capsys.readouterr().out)["text"] == "bad cab"


def test_pocketsphinx_hears_no_words_in_silence() -> None:
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    hear = runtime_contenders.pocketsphinx("", 1)
    assert isinstance(hear(np.zeros(16_000, np.float32)), str)


def test_streams_idle_sockets_and_greedy_clients(tmp_path: Path) -> None:
    wave_S = noise(32_000)[0].numpy()
    with serve.watched(make_streaming_student(tmp_path / "student"), "--proxy") as server:
        found = asyncio.run(serve_streams.streams(server, wave_S, 2, 1.0))
        assert found.answers_s and found.words_s and min(found.answers_s) > 0 and found.processors > 0
        assert asyncio.run(serve_streams.idle(server, 3, "/stream")) >= 0
        share, asked = serve_streams.greedy(server, flac_bytes(wave_S[:8_000]), 1, 1.0)
        assert 0 < share < 1 and asked > 0
        assert serve_streams.row("2 streams", found, server).startswith("| 2 streams | ")
