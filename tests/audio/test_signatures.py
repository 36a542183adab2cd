"""Files are known by their first bytes, whatever they are called."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lalia.audio.formats import is_audio
from lalia.cli.options import find_clips
from tests.audio.test_reading import av_bytes, sndfile_bytes, tone


@pytest.mark.parametrize("name", ["call.3ga", "New Recording 12.qta", "voice.weba", "book.m4b", "no-suffix", "x.dat"])
def test_audio_under_any_name(tmp_path: Path, name: str) -> None:
    for number, content in enumerate(
        (
            sndfile_bytes(tone(16_000), 16_000, "WAV"),
            sndfile_bytes(tone(16_000), 16_000, "MP3"),
            b"ID3\x04\0\0\0\x01\x7f\x7f" + bytes(32_767) + sndfile_bytes(tone(16_000), 16_000, "MP3"),
            av_bytes(tone(44_100), 44_100, "mp4", "aac"),
            av_bytes(tone(48_000), 48_000, "webm", "libopus"),
            av_bytes(tone(16_000), 16_000, "adts", "aac"),
        )
    ):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        path.write_bytes(content)
        assert is_audio(path), number


def test_what_is_no_audio(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name, content in (
        ("notes", b"today we recorded three elders"),
        ("noise.bin", draw.bytes(200_000)),
        ("picture", b"\x89PNG\r\n\x1a\n" + draw.bytes(1000)),
        ("photo", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + draw.bytes(1000)),
        ("web", b"RIFF\0\x10\0\0WEBPVP8 " + draw.bytes(1000)),
        ("empty.wav", b""),
    ):
        (tmp_path / name).write_bytes(content)
        assert not is_audio(tmp_path / name), name
    assert not is_audio(tmp_path)
    assert not is_audio(tmp_path / "absent.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    assert not is_audio(tmp_path / "pipe.wav")  # and does not wait for somebody to write into it


def test_documents_are_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "table.tsv"
    path.write_bytes(sndfile_bytes(tone(16_000), 16_000, "WAV"))
    assert not is_audio(path)


def test_a_folder_is_transcribed_by_content_and_its_other_files_are_counted(tmp_path: Path) -> None:
    content = sndfile_bytes(tone(16_000), 16_000, "WAV")
    for name in (
        "New Recording 12.qta",
        "no-suffix",
        "damaged.wav",
        "notes.txt",
        "more.txt",
        "photo.jpg",
        ".hidden.wav",
    ):
        (tmp_path / name).write_bytes(content if "." not in name[1:] or name.endswith((".qta", ".wav")) else b"words")
    (tmp_path / "damaged.wav").write_bytes(b"")  # by its name, so that it is told that it cannot be read
    said: list[str] = []
    clips = find_clips([str(tmp_path)], said.append)
    assert [str(clip.name) for clip in clips] == ["New Recording 12.qta", "damaged.wav", "no-suffix"]
    assert said == [f"{tmp_path}: skipped files that are not audio: 2 .txt, 1 .jpg"]
