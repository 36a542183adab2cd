"""Thousands of damaged files: each is read, with a note of what is missing, or refused in a line; none crashes a decoder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.audio.test_reading import av_bytes, sndfile_bytes
from tests.fuzzed_clips import CPU_S, DAMAGES

ROOT = Path(__file__).parents[2]
SECONDS = 0.5
CASES = 30 * len(DAMAGES)  # of each kind
LONGEST_S = 120.0  # The bytes of the largest file, 176 kB, behind a header of GSM: 1.6 kB a second.
KINDS = ("wav", "wav-float", "wav-telephone", "flac", "ogg", "opus", "mp3", "m4a", "g722")


def chirp(rate: int) -> np.ndarray:
    """Half a second that is the same nowhere: (S,) float32."""
    time = np.arange(int(rate * SECONDS)) / rate
    noise = np.random.default_rng(3).standard_normal(len(time))
    return (0.3 * np.sin(2 * np.pi * (200 + 1400 * time) * time) + 0.02 * noise).astype(np.float32)


def whole(kind: str) -> bytes:
    match kind:
        case "wav":
            return sndfile_bytes(chirp(16_000), 16_000, "WAV", "PCM_16")
        case "wav-float":
            return sndfile_bytes(np.stack([chirp(44_100)] * 2, axis=1), 44_100, "WAV", "FLOAT")
        case "wav-telephone":
            return sndfile_bytes(chirp(8_000), 8_000, "WAV", "GSM610")
        case "flac":
            return sndfile_bytes(chirp(16_000), 16_000, "FLAC", "PCM_16")
        case "ogg":
            return sndfile_bytes(chirp(22_050), 22_050, "OGG", "VORBIS")
        case "opus":
            return sndfile_bytes(chirp(48_000), 48_000, "OGG", "OPUS")
        case "mp3":
            return sndfile_bytes(chirp(44_100), 44_100, "MP3", "MPEG_LAYER_III")
        case "m4a":
            return av_bytes(chirp(44_100), 44_100, "mp4", "aac")
        case _:
            return av_bytes(chirp(16_000), 16_000, "g722", "g722")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "whole").mkdir()
    for kind in KINDS:
        (folder / "whole" / kind).write_bytes(whole(kind))
    return folder


def test_there_are_enough_of_them() -> None:
    assert CASES * len(KINDS) >= 2_000


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind: str, files: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzzed_clips", str(files), kind, "0", str(CASES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20 * CPU_S, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{kind}: status {done.returncode} at {lines[-1:]} {done.stderr[-2000:]}"
    cases = list(zip(lines[::2], lines[1::2], strict=True))
    assert len(cases) == CASES
    assert not [(case, said) for case, said in cases if "raised" in said]
    assert not [(case, said) for case, said in cases if said.get("seconds", 0) > LONGEST_S]
    # A file under another name is known by what it holds; raw G.722 has nothing but its name.
    renamed = [(case, said) for case, said in cases if case["how"] == "renamed"]
    if kind != "g722":
        assert all(abs(said.get("seconds", 0) - SECONDS) < 0.1 for _, said in renamed), renamed
        # What was cut off is missed and told, but for a last frame or two.
        cut = [(case, said) for case, said in cases if case["how"] == "truncated" and "error" not in said]
        silent = [(c, said) for c, said in cut if said["seconds"] <= SECONDS - 0.15 and said["notes"] != ["cut short"]]
        assert not silent


def test_a_damaged_flac_is_detected_by_its_checksums(files: Path) -> None:
    """Of flipped bits behind the header either none is in a sample, or the file is refused."""
    from lalia.audio.reading import read_audio
    from lalia.errors import AudioError

    data = (files / "whole" / "flac").read_bytes()
    wave, draw = read_audio(data), np.random.default_rng(0)
    start = data.index(b"\xff\xf8")
    refused = 0
    for _ in range(200):
        changed = bytearray(data)
        changed[int(draw.integers(start, len(data)))] ^= 1 << int(draw.integers(8))
        try:
            assert np.array_equal(read_audio(bytes(changed)), wave)
        except AudioError:
            refused += 1
    assert refused > 150
