"""Taggers of files and streams: means of frame logits, long silence left out, a time line, commands that count once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lalia.errors import AudioError, UserError
from lalia.tags.spotter import Spotter
from lalia.tags.tagger import Tagger
from lalia.units import SAMPLE_RATE

FACTS = {"task": "pitch", "labels": ["low", "high", "noise"], "rejected": ["noise"], "clip_s": 1.0}
HZ = {"low": 300.0, "high": 3000.0}


class Crossings:
    """Stands in for a model: frames of 40 ms with few zero crossings are low, with many high, with very many noise; silent ones
    say nothing."""

    centres = (0.04, 0.37, 0.5)
    gain = 100

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        wave_BS = inputs["wave"]
        frames = wave_BS[:, : wave_BS.shape[1] // 640 * 640].reshape(len(wave_BS), -1, 640)
        rate = (np.diff(np.signbit(frames), axis=2) != 0).mean(2)
        sound = np.abs(frames).max(2, keepdims=True) > 0
        return [-self.gain * sound * np.abs(rate[..., None] - np.array(self.centres)).astype(np.float32)]


@pytest.fixture
def tagger() -> Tagger:
    session: Any = Crossings()
    return Tagger(session, FACTS, {"frame_s": 0.04})


def sound(label: str, seconds: float) -> np.ndarray:
    count = int(SAMPLE_RATE * seconds)
    if label == "silence":
        return np.zeros(count, np.float32)
    if label == "noise":
        return np.random.default_rng(1).normal(scale=0.1, size=count).astype(np.float32)
    return (0.3 * np.sin(2 * np.pi * HZ[label] * np.arange(count) / SAMPLE_RATE)).astype(np.float32)


def talk(*parts: tuple[str, float]) -> np.ndarray:
    return np.concatenate([sound(label, seconds) for label, seconds in parts])


def test_a_file_is_the_mean_of_its_frames_without_long_silence(tagger: Tagger) -> None:
    found = tagger.tag(talk(("low", 1.0), ("silence", 20.0), ("low", 0.4)))
    assert found.whole.label == "low" and found.whole.end_s == pytest.approx(21.4)
    assert found.sound_s == pytest.approx(1.4 + 2 * 0.5, abs=0.1)
    logits_TC = tagger.logits(talk(("low", 1.0), ("high", 0.6)))
    [[label, probability], *others] = tagger.tag(talk(("low", 1.0), ("high", 0.6))).whole.labels
    expected = np.exp(logits_TC.mean(0)) / np.exp(logits_TC.mean(0)).sum()
    assert label == "low" and probability == pytest.approx(expected[0], rel=1e-4)
    assert sum(p for _, p in others) == pytest.approx(1 - probability)


def test_a_time_line_joins_neighbours_and_names_silence(tagger: Tagger) -> None:
    found = tagger.tag(talk(("low", 40.0), ("silence", 20.0), ("high", 31.0)), every_s=10.0)
    assert [(s.start_s, s.end_s, s.label) for s in found.spans] == [
        (0.0, 40.0, "low"), (40.0, 60.0, ""), (60.0, 91.0, "high"),
    ]  # fmt: skip


def test_silence_and_short_files_have_an_honest_answer(tagger: Tagger) -> None:
    silent = tagger.tag(talk(("silence", 3.0)), every_s=1.0)
    assert silent.whole.label == "" and silent.whole.probability == 0.0 and silent.sound_s == 0.0
    assert [(s.start_s, s.end_s, s.label) for s in silent.spans] == [(0.0, 3.0, "")]
    assert tagger.tag(talk(("high", 0.05))).whole.label == "high"
    with pytest.raises(AudioError, match="holds no audio"):
        tagger.tag(np.zeros(0, np.float32))


def test_a_tagger_of_another_task_is_refused(tagger: Tagger) -> None:
    tagger.require_task("pitch", "--tagger t")
    with pytest.raises(UserError, match=r"--tagger t: is a tagger of pitch .*expected one of language"):
        tagger.require_task("language", "--tagger t")


@pytest.mark.parametrize("block", [100, 640, 40_000])
def test_a_command_in_a_stream_counts_once_and_what_is_rejected_never(tagger: Tagger, block: int) -> None:
    wave = talk(
        ("silence", 2.0),
        ("low", 1.2),
        ("silence", 2.0),
        ("noise", 3.0),
        ("high", 3.0),
        ("silence", 1.0),
        ("high", 1.2),
        ("silence", 1.0),
    )
    spotter = Spotter(tagger)
    found = [one for start in range(0, len(wave), block) for one in spotter.feed(wave[start : start + block])]
    assert [one.label for one in found] == ["low", "high", "high"]
    for one, begin in zip(found, (2.0, 8.0, 12.0), strict=True):
        assert begin < one.at_s < begin + 2.0


def test_a_stream_needs_short_clips_and_a_probability(tagger: Tagger) -> None:
    with pytest.raises(UserError, match=r"--threshold 1\.5"):
        Spotter(tagger, 1.5)
    tagger.clip_s = 0.0
    with pytest.raises(UserError, match="last an unknown time"):
        Spotter(tagger)
