"""Recordings of hours: split over workers without a seam, and what lies between utterances told apart."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lalia.audio.reading import read_audio, read_blocks
from lalia.audio.vad import FRAME_S, VoiceActivity
from lalia.data.corpus import Corpus
from lalia.data.prepare import pipeline, segments
from lalia.data.prepare.listing import Listing, SourceClip
from lalia.data.prepare.quality import is_music, spectral_similarity
from lalia.data.prepare.segments import Segmentation, boundary_frame, split_recordings
from tests.tiny_clips import in_this_process, loud_is_voice, save, voiced

__all__ = ["loud_is_voice"]


def talk(utterances: int, pause_s: float = 2.0, rate: int = 16_000) -> np.ndarray:
    """Utterances of three seconds or so, each behind a pause."""
    pause = np.zeros(int(pause_s * rate), np.float32)
    return np.concatenate([p for n in range(utterances) for p in (pause, voiced(n, 2.5 + 0.3 * (n % 4), rate))])


def make(listing: Listing, out: Path) -> Corpus:
    recipe = pipeline.Recipe("test", {}, Segmentation(1.0, 8.0), "keep")
    pipeline.prepare(lambda work: listing, recipe, out, in_this_process, Console(quiet=True))
    return Corpus.load(out)


@pytest.fixture
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"SEGMENT_S": 20.0, "BEFORE_S": 4.0, "AFTER_S": 8.0, "_PROBED_S": 10.0}.items():
        monkeypatch.setattr(segments, name, seconds)


@pytest.mark.usefixtures("loud_is_voice", "short_stretches")
@pytest.mark.parametrize("form", ["wav", "flac", "wav at 22 kHz"])
def test_a_recording_split_over_workers_is_cut_as_by_one(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = 22_050 if "22" in form else 16_000
    path = save(tmp_path / f"talk.{form[:4].strip()}", talk(24, rate=rate), rate)
    listing = Listing("talk", [SourceClip("talk", str(path), "ita")])
    parts = list(split_recordings(listing.clips))
    assert len(parts) == 6
    assert [part.start_s for part in parts] == [0, 20, 40, 60, 80, 100]
    split = make(dataclasses.replace(listing, clips=list(listing.clips)), tmp_path / "split")
    monkeypatch.setattr(segments, "SEGMENT_S", 1e9)
    whole = make(listing, tmp_path / "whole")
    assert split.column("id") == whole.column("id")
    assert len(whole) == 24
    for row in range(len(whole)):
        assert np.abs(split.wave(row) - whole.wave(row)).max() < (1e-6 if rate == 16_000 else 2e-4)
    assert split.card["cut"] == pytest.approx(whole.card["cut"], abs=1e-3)


@pytest.mark.usefixtures("loud_is_voice", "short_stretches")
def test_speech_without_pauses_is_neither_lost_nor_repeated(tmp_path: Path) -> None:
    path = save(tmp_path / "talk.wav", talk(40, pause_s=0.2))
    listing = Listing("talk", [SourceClip("talk", str(path), "ita", duration_s=100.0)])
    corpus = make(listing, tmp_path / "split")
    times = [tuple(map(float, id.partition("#")[2].split("-"))) for id in corpus.column("id")]
    assert all(b <= c + 1e-6 for (_, b), (c, _) in itertools.pairwise(times))
    assert sum(b - a for a, b in times) > 0.93 * len(read_audio(path)) / 16_000


def test_what_is_labelled_short_or_given_as_bytes_is_not_split(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", np.zeros(16_000, np.float32))
    clips = [
        SourceClip("a", str(path), "ita", text="ciao", duration_s=9e9),
        SourceClip("b", str(path), "ita", duration_s=9e9),
        SourceClip("c", "c.wav", "ita", data=b"RIFF", duration_s=9e9),
        SourceClip("d", str(tmp_path / "gone.wav"), "ita", duration_s=9e9),
    ]
    assert list(split_recordings(clips)) == clips


def test_stretches_meet_in_the_middle_of_a_pause_or_where_it_is_quiet() -> None:
    first = round(segments.BEFORE_S / 0.032)
    voice_T, levels_T = np.ones(first + 1000), np.ones(first + 1000)
    voice_T[first + 200 : first + 240] = 0  # 1.3 s: an utterance may reach across
    voice_T[first + 400 : first + 480] = 0
    assert first + 415 <= boundary_frame(voice_T, levels_T) <= first + 430
    levels_T[first + 700 : first + 705] = 0
    assert boundary_frame(np.ones(len(voice_T)), levels_T) == first + 702


@pytest.mark.parametrize(("form", "rate"), [("WAV", 16_000), ("FLAC", 44_100), ("OGG", 22_050), ("MP3", 16_000)])
def test_seconds_of_a_file_are_those_of_the_whole(form: str, rate: int, tmp_path: Path) -> None:
    wave = talk(6, rate=rate)
    path = save(tmp_path / f"a.{form.lower()}", wave, rate, format=form)
    whole = read_audio(path)
    for start_s, end_s in ((0, 7), (5, 9), (12, None), (999, None)):
        found = np.concatenate([*read_blocks(path, None, start_s, end_s), np.zeros(0, np.float32)])
        wanted = whole[start_s * 16_000 : None if end_s is None else end_s * 16_000]
        assert abs(len(found) - len(wanted)) <= 1
        middle = slice(4_000, min(len(found), len(wanted)) - 4_000)
        assert np.abs(found[middle] - wanted[middle]).max(initial=0.0) < 0.01


def test_music_and_noise_are_separated() -> None:
    draw, time = np.random.default_rng(0), np.arange(6 * 16_000) / 16_000
    white = draw.standard_normal(len(time)).astype(np.float32) * 0.1
    brown = np.cumsum(white).astype(np.float32)
    brown -= np.convolve(brown, np.ones(800) / 800, mode="same").astype(np.float32)
    notes = [110 * 2 ** (step / 12) for step in (0, 4, 7, 12, 16)]
    melody = np.concatenate(
        [sum(np.sin(2 * np.pi * hz * k * time[:8000]) / k for k in range(1, 6)) * np.exp(-3 * time[:8000])
         for hz in [notes[int(n)] for n in draw.integers(0, 5, 12)]]
    ).astype(np.float32)  # fmt: skip
    for wave, music in ((white, False), (brown, False), (melody, True), (0.01 * melody, True)):
        selected_T = np.ones(-(-len(wave) // 512), bool)
        similarity_T = spectral_similarity(wave)
        assert similarity_T.shape == selected_T.shape and np.abs(similarity_T).max() <= 1.0 + 1e-5
        assert is_music(similarity_T, selected_T).mean() == float(music)
    assert not is_music(spectral_similarity(np.zeros(32_000, np.float32)), np.zeros(63, bool)).any()
    assert len(spectral_similarity(white[:100])) == 1
    assert len(spectral_similarity(white[:0])) == 0


@pytest.mark.usefixtures("loud_is_voice")
def test_the_card_counts_music_and_noise_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time = np.arange(10 * 16_000) / 16_000
    tones = (0.008 * np.sin(2 * np.pi * hz * time) for hz in (220, 277, 330))
    chord = sum(tones, np.zeros(len(time))).astype(np.float32)
    hiss = (0.01 * np.random.default_rng(0).standard_normal(8 * 16_000)).astype(np.float32)
    quiet = np.zeros(3 * 16_000, np.float32)
    wave = np.concatenate([voiced(1, 4.0), quiet, chord, quiet, hiss, quiet, voiced(2, 4.0)])
    path = save(tmp_path / "talk.wav", wave)
    found = make(Listing("talk", [SourceClip("talk", str(path), "ita")]), tmp_path / "c").card["cut"]
    minutes = {name: 3600 * found[f"{name}_h"] for name in ("music", "noise", "silence", "kept")}
    assert minutes == pytest.approx({"music": 10, "noise": 8, "silence": 9, "kept": 8}, abs=1.0)


def test_the_detector_forgets_where_it_began_to_listen() -> None:
    """What a worker hears of its stretch is what one that began at the recording's beginning hears."""
    draw = np.random.default_rng(0)
    wave = (talk(20) + 0.003 * draw.standard_normal(len(talk(20)))).astype(np.float32)
    at_s = 20  # 4 s are a whole number of frames
    whole_T = VoiceActivity()(wave)[round((at_s + segments.BEFORE_S) / FRAME_S) :]
    later_T = VoiceActivity()(wave[at_s * 16_000 :])[round(segments.BEFORE_S / FRAME_S) :]
    assert len(whole_T) == len(later_T) > 1000
    assert np.abs(whole_T - later_T).max() < 0.005
