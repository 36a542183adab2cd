"""A call's two sides become two speakers: by Kaldi's pipes and by --channels; what holds no speech is no clip."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lalia.data.corpus import Corpus
from lalia.data.prepare import pipeline
from lalia.data.prepare.listing import Options
from lalia.data.prepare.segments import Segmentation
from lalia.data.prepare.sources.opening import open_source
from tests.tiny_clips import in_this_process, loud_is_voice, save, voiced

__all__ = ["loud_is_voice"]
pytestmark = pytest.mark.usefixtures("loud_is_voice")


def prepared(
    spec: Path | str, out: Path, segmentation: Segmentation | None = None, channels: str = "", duplicates: str = "near"
) -> Corpus:
    source = open_source(str(spec), Options(), None, lambda words: None)
    recipe = pipeline.Recipe("test", {"channels": channels}, segmentation, duplicates)
    pipeline.prepare(source, recipe, out, in_this_process, Console(quiet=True))
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


def said(corpus: Corpus) -> dict[str, tuple[str, str]]:
    return dict(
        zip(corpus.column("id"), zip(corpus.column("speaker"), corpus.column("text"), strict=True), strict=True)
    )


@pytest.mark.parametrize("segmentation", [None, Segmentation(1.0, 20.0)])
def test_each_channel_of_a_call_is_a_speaker(segmentation: Segmentation | None, tmp_path: Path) -> None:
    left_S, right_S = call(tmp_path / "a" / "call.wav", cross=0.1)
    save(tmp_path / "a" / "mono.wav", voiced(3))
    corpus = prepared(tmp_path / "a", tmp_path / "c", segmentation, "each")
    assert said(corpus) == {"call.wav-1": ("call.wav-1", ""), "call.wav-2": ("call.wav-2", ""), "mono.wav": ("", "")}
    np.testing.assert_allclose(corpus.wave(0), left_S, atol=1e-4)
    np.testing.assert_allclose(corpus.wave(1), right_S, atol=1e-4)
    assert corpus.card["recipe"]["channels"] == "each"
    one = prepared(tmp_path / "a", tmp_path / "d", segmentation, "2")
    assert said(one) == {"call.wav": ("", "")}
    np.testing.assert_allclose(one.wave(0), right_S, atol=1e-4)
    assert table(one, "skipped.tsv") == [["mono.wav", "no such channel", "has no channel 2; it is mono"]]


def test_a_long_call_is_segmented_per_side_without_cross_talk(tmp_path: Path) -> None:
    left_S, right_S = call(tmp_path / "a" / "call.wav", cross=0.2, seconds=24.0)
    corpus = prepared(tmp_path / "a", tmp_path / "c", Segmentation(1.0, 8.0), "each")
    assert len(corpus) == 12 and not table(corpus, "skipped.tsv")
    for row, (id, speaker) in enumerate(zip(corpus.column("id"), corpus.column("speaker"), strict=True)):
        side = int(speaker[-1]) - 1
        begin_s, end_s = map(float, id.partition("#")[2].split("-"))
        assert id.startswith(f"call.wav-{side + 1}#")
        turn = int((begin_s + end_s) / 2 // 2)
        assert turn % 2 == side and 2 * turn - 0.4 < begin_s < end_s < 2 * turn + 2.4, "its own turns, not the other's"
        start = round(begin_s / 0.032) * 512
        wave_S = (left_S, right_S)[side][start : start + len(corpus.wave(row))]
        np.testing.assert_allclose(corpus.wave(row)[: len(wave_S)], wave_S, atol=1e-4)
    assert corpus.card["cut"]["recordings"] == 1
    assert corpus.recordings().names == ["call.wav"], "both sides are held out together"
    mixed = prepared(tmp_path / "a", tmp_path / "d", Segmentation(1.0, 8.0))
    assert [row[1:] for row in table(mixed, "notes.tsv")] == [
        ["two voices", "its two channels hold different voices, which are mixed"]
    ]
    assert mixed.card["notes"] == {"two voices": 1}


@pytest.mark.parametrize("segmentation", [None, Segmentation(1.0, 20.0), Segmentation(1.0, 4.0)])
def test_one_sound_on_two_channels_is_one_clip(segmentation: Segmentation | None, tmp_path: Path) -> None:
    wave_S, hiss = voiced(1, 6.0), np.random.default_rng(0).standard_normal((2, 96_000)) * 1e-3
    wave_S[48_000:64_000] = 0  # a pause, in which each channel has a hiss of its own
    save(tmp_path / "a" / "joint.wav", (wave_S[:, None] + hiss.T).astype(np.float32))
    corpus = prepared(tmp_path / "a", tmp_path / "c", segmentation, "each")
    assert {id.partition("#")[0] for id in corpus.column("id")} == {"joint.wav-1"}
    assert table(corpus, "skipped.tsv") == [["joint.wav-2", "duplicate", "the same sound as channel 1"]]


def test_a_channel_that_only_picks_up_the_other_is_no_speech(tmp_path: Path) -> None:
    wave_S = voiced(1, 6.0)
    echo_S = 0.2 * np.roll(wave_S, 800)
    save(tmp_path / "a" / "call.wav", np.stack([wave_S, echo_S], axis=1).astype(np.float32))
    for longest in (20.0, 4.0):
        corpus = prepared(tmp_path / "a", tmp_path / f"c{longest}", Segmentation(1.0, longest), "each")
        assert set(corpus.column("speaker")) == {"call.wav-1"}
        assert [row[:2] for row in table(corpus, "skipped.tsv")] == [["call.wav-2", "no speech"]]


def test_a_label_belongs_to_the_channel_that_is_named_else_to_the_mix(tmp_path: Path) -> None:
    left_S, right_S = call(tmp_path / "call.wav")
    (tmp_path / "m.tsv").write_text(
        "audio\ttext\tspeaker\tside\tid\ncall.wav\tuno\tanna\tA\ta\ncall.wav\tdue\tbruno\t2\tb\n"
        "call.wav\tuno due\t\t\tab\ncall.wav\ttre\t\t0\tc\n"
    )
    (tmp_path / "x").mkdir()
    options = Options(columns={"channel": "side"})
    source = open_source(str(tmp_path / "m.tsv"), options, None, lambda words: None)
    recipe = pipeline.Recipe("test", {"channels": "each"}, Segmentation(), "near")
    pipeline.prepare(source, recipe, tmp_path / "c", in_this_process, Console(quiet=True))
    corpus = Corpus.load(tmp_path / "c")
    assert said(corpus) == {"a": ("anna", "uno"), "b": ("bruno", "due"), "ab": ("", "uno due")}
    for row, wave_S in enumerate((left_S, right_S, (left_S + right_S) / 2)):
        np.testing.assert_allclose(corpus.wave(row), wave_S, atol=1e-4)
    assert [row[:2] for row in table(corpus, "skipped.tsv")] == [["c", "bad row"]]
    (note,) = [row for row in table(corpus, "notes.tsv") if row[1] == "label of the mix"]
    assert note[0] == "ab" and "--columns channel=NAME" in note[2]


def test_a_constant_a_click_and_a_dead_channel_are_no_clips_with_a_label_or_without(tmp_path: Path) -> None:
    click_S, time_S = np.zeros(32_000, np.float32), np.arange(32_000) / 16_000
    click_S[9_000:9_003] = 0.9, -0.7, 0.3
    step_S = np.where(time_S < 1, 0, 0.4)
    waves: dict[str, np.ndarray] = {
        "constant": 0 * time_S + 0.3,
        "click": click_S,
        "step": step_S,
        "drift": 0.3 * np.sin(time_S),
        "dead": 0 * time_S,
    }
    short_S = np.concatenate([np.zeros(15_000), voiced(1, 0.12), np.zeros(15_000)])
    for label in ("", "si"):
        folder = tmp_path / f"a{label}"
        for name, wave_S in {**waves, "word": short_S}.items():
            save(folder / f"{name}.wav", wave_S.astype(np.float32))
            if label:
                (folder / f"{name}.txt").write_text(label)
        corpus = prepared(folder, tmp_path / f"c{label}", Segmentation())
        assert corpus.column("id") == ["word.wav"]
        found = {row[0].removesuffix(".wav"): row[1] for row in table(corpus, "skipped.tsv")}
        assert found == {name: "silent" if name == "dead" else "no speech" for name in waves}


def test_the_hint_for_two_voices_is_printed_once_with_a_count(tmp_path: Path) -> None:
    for number in range(3):
        call(tmp_path / "a" / f"{number}.wav", seconds=12.0 + number)
    source = open_source(str(tmp_path / "a"), Options(), None, lambda words: None)
    console = Console(record=True, quiet=False, file=io.StringIO(), width=500)
    pipeline.prepare(
        source, pipeline.Recipe("test", {}, Segmentation(), "keep"), tmp_path / "c", in_this_process, console
    )
    words = console.export_text()
    assert "used with a note, see notes.tsv: 3 two voices" in words
    assert words.count("3 files hold different voices on two channels, which were mixed; --channels each") == 1
