"""A call's two sides become two speakers: by Kaldi's pipes and by --channels; what holds no speech is no clip."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tiny_clips import in_this_process, loud_is_voice, save, voiced

from lalia.data.corpus import Corpus
from lalia.data.prepare import run
from lalia.data.prepare.options import Options
from lalia.data.prepare.sources.opening import open_source
from lalia.data.prepare.utterances import Cutting

__all__ = ["loud_is_voice"]
pytestmark = pytest.mark.usefixtures("loud_is_voice")


def prepared(
    spec: Path | str, out: Path, cutting: Cutting | None = None, channels: str = "", duplicates: str = "near"
) -> Corpus:
    source = open_source(str(spec), Options(), None, lambda words: None)
    recipe = run.Recipe("test", {"channels": channels}, cutting, duplicates)
    run.prepare(source, recipe, out, in_this_process, Console(quiet=True))
    return Corpus.load(out)


def table(corpus: Corpus, name: str) -> list[list[str]]:
    path = corpus.folder / name
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as file:
        return list(csv.reader(file, delimiter="\t"))[1:]


def call(path: Path, cross: float = 0.0, seconds: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """A stereo file: each side speaks for two seconds in turn, and comes through on the other by ``cross``."""
    one_S, other_S = voiced(1, seconds), voiced(2, seconds)
    turn_S = np.arange(len(one_S)) // 32_000 % 2
    one_S, other_S = np.where(turn_S == 0, one_S, 0), np.where(turn_S == 1, other_S, 0)
    left_S, right_S = (a.astype(np.float32) for a in (one_S + cross * other_S, other_S + cross * one_S))
    save(path, np.stack([left_S, right_S], axis=1), subtype="FLOAT")
    return left_S, right_S


@pytest.mark.parametrize(
    ("pipe", "channel"),
    [
        ("call.wav", None),
        ("sox call.wav -t wav - remix 1 |", 0),
        ("sox -t wav call.wav -b 16 -t wav - remix 2 rate 16k |", 1),
        ("sox call.wav -t wav - remix 1,2 |", None),
        ("sox call.wav -t wav - remix 1 2 |", None),
        ("sox call.wav -c 1 -t wav - |", None),
        ("/tools/sph2pipe -f wav -p -c 2 call.wav |", 1),
        ("sph2pipe -f wav -c 1 call.wav | sox -t wav - -r 16000 -t wav - |", 0),
        ("ffmpeg -i call.wav -map_channel 0.0.1 -f wav - |", 1),
        ("ffmpeg -i call.wav -af 'pan=mono|c0=c1' -f wav - |", 1),
        ("ffmpeg -i call.wav -f wav - |", None),
    ],
)
def test_the_channel_that_a_pipe_of_kaldi_picks(pipe: str, channel: int | None, tmp_path: Path) -> None:
    call(tmp_path / "data" / "call.wav")
    (tmp_path / "data" / "wav.scp").write_text(f"call {pipe}\n")
    (clip,) = open_source(f"kaldi:{tmp_path / 'data'}", Options(), None, lambda words: None)(tmp_path).clips
    assert clip.channel == channel


def test_two_channels_of_one_recording_in_kaldi_are_two_clips_also_with_cross_talk(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    left_S, right_S = call(folder / "call.wav", cross=0.1)
    (folder / "wav.scp").write_text("A sox call.wav -t wav - remix 1 |\nB sox call.wav -t wav - remix 2 |\n")
    (folder / "utt2spk").write_text("A anna\nB bruno\n")
    corpus = prepared(f"kaldi:{folder}", tmp_path / "c")
    assert corpus.column("id") == ["A", "B"] and corpus.column("speaker") == ["anna", "bruno"]
    for row, wave_S in enumerate((left_S, right_S)):
        np.testing.assert_allclose(corpus.wave(row), wave_S, atol=1e-4)
    (folder / "segments").write_text("A-1 A 0 2\nB-1 B 2 4\nA-2 A 4 6\n")
    corpus = prepared(f"kaldi:{folder}", tmp_path / "d")
    assert corpus.column("id") == ["A-1", "B-1", "A-2"]
    np.testing.assert_allclose(corpus.wave(1), right_S[32_000:64_000], atol=1e-4)


def test_two_channels_with_the_same_samples_are_still_one_clip(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    save(folder / "call.wav", np.stack([voiced(1)] * 2, axis=1))
    (folder / "wav.scp").write_text(
        "A sox call.wav -t wav - remix 1 |\nB sox call.wav -t wav - remix 2 |\nC sox call.wav -t wav - remix 3 |\n"
    )
    corpus = prepared(f"kaldi:{folder}", tmp_path / "c")
    assert corpus.column("id") == ["A"]
    assert {row[0]: row[1] for row in table(corpus, "skipped.tsv")} == {"B": "duplicate", "C": "no such channel"}
