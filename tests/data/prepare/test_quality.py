"""What is measured of a clip, on waves whose answer is known; fingerprints; where recordings are cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lalia.audio.reading import read_audio
from lalia.audio.vad import FRAME_S, VoiceActivity
from lalia.data.prepare.fingerprints import find_copies, fingerprint
from lalia.data.prepare.quality import bandwidth_hz, clipped_share, measure, snr_db
from lalia.data.prepare.segments import Segmentation, cut_utterances
from tests.tiny_clips import encoded, voiced


def talk_in_noise(db: float) -> tuple[np.ndarray, np.ndarray]:
    """Two seconds of voice between two of nothing, all in white noise, and where the voice is."""
    draw = np.random.default_rng(0)
    voice = voiced(3, 2.048)
    wave = np.concatenate([np.zeros(32_768, np.float32), voice, np.zeros(32_768, np.float32)])
    noise = draw.standard_normal(len(wave)) * np.sqrt(np.mean(voice**2) / 10 ** (db / 10))
    return (0.3 * (wave + noise)).astype(np.float32), np.repeat([0.0, 1.0, 0.0], 64).astype(np.float32)


@pytest.mark.parametrize("db", [0, 10, 20, 30])
def test_snr(db: float) -> None:
    assert snr_db(*talk_in_noise(db)) == pytest.approx(db, abs=1.0)


@pytest.mark.parametrize("db", [0, 10, 20, 30])
@pytest.mark.parametrize("found", [0.7, 0.2])
def test_snr_where_the_detector_misses_most_of_the_speech(db: float, found: float) -> None:
    wave, voice_T = talk_in_noise(db)
    wave, voice_T = wave[16_384:-16_384], voice_T[32:-32]  # a short clip: more speech than pauses
    voice_T[32 + int(64 * found) : 96] = 0.0
    assert snr_db(wave, voice_T) == pytest.approx(db, abs=2.0)


def test_a_click_in_a_pause_is_no_noise() -> None:
    wave, voice_T = talk_in_noise(30)
    wave[8_000:10_000] += np.random.default_rng(1).standard_normal(2_000).astype(np.float32)
    assert snr_db(wave, voice_T) == pytest.approx(30, abs=1.5)


def test_loudness_clipping_and_speech_ratio() -> None:
    time = np.arange(16_384) / 16_000
    sine = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    voice_T = np.repeat([1.0, 0.0], 16).astype(np.float32)
    found = measure(sine, voice_T)
    assert found.loudness_dbfs == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.05)
    assert found.speech_ratio == 0.5
    assert found.clipping == 0.0
    clipped = np.clip(sine, -0.25, 0.25)
    assert clipped_share(clipped) == pytest.approx(float(np.mean(np.abs(clipped) >= 0.25)), abs=0.01)
    assert clipped_share(0.0005 * np.round(clipped * 4)) == 0.0, "a whisper's steps are no clipping"


def test_bandwidth_tells_a_telephone_from_a_microphone() -> None:
    import soxr

    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) * 0.1
    phone = soxr.resample(soxr.resample(noise, 16_000, 8_000), 8_000, 16_000)
    assert bandwidth_hz(noise) == 8000.0
    assert 3500.0 <= bandwidth_hz(phone.astype(np.float32)) <= 4250.0
    assert bandwidth_hz(noise[:100]) > 0


def test_fingerprints_know_a_copy_and_no_one_else() -> None:
    waves = [voiced(seed, 4.0) for seed in range(12)]
    mp3 = read_audio(encoded(waves[2], form="MP3"), "x.mp3")
    later = np.concatenate([np.zeros(1100, np.float32), 0.2 * waves[5]])
    part = waves[7][: 2 * 16_000]
    everything = [*waves, mp3, later, part]
    durations = np.array([len(wave) / 16_000 for wave in everything], np.float32)
    found = [fingerprint(wave, row) for row, wave in enumerate(everything)]
    assert find_copies(found, durations) == [(2, 12), (5, 13)], "half of a recording is no copy of it"
    assert len(fingerprint(voiced(1, 0.2), 0)) == 0
    assert find_copies([], durations) == find_copies([found[0][:0]], durations) == []


def spans(
    voice_T: np.ndarray, segmentation: Segmentation, levels_T: np.ndarray | None = None
) -> list[tuple[float, float]]:
    levels_T = voice_T if levels_T is None else levels_T
    return [(round(a * FRAME_S, 2), round(b * FRAME_S, 2)) for a, b in cut_utterances(voice_T, levels_T, segmentation)]


def timeline(*pieces: tuple[float, float]) -> np.ndarray:
    return np.concatenate([np.full(round(seconds / FRAME_S), value) for value, seconds in pieces])


def test_cutting_joins_short_pauses_and_keeps_the_long_ones_out() -> None:
    voice_T = timeline((0, 3), (0.9, 4), (0, 0.3), (0.9, 2), (0, 5), (0.9, 3), (0, 2))
    (a, b), (c, d) = spans(voice_T, Segmentation())
    assert (a, b) == pytest.approx((2.84, 9.46), abs=0.05)
    assert (c, d) == pytest.approx((14.14, 17.46), abs=0.05)


def test_cutting_never_passes_the_longest_and_splits_where_it_is_quiet() -> None:
    voice_T = timeline((0.9, 60))
    levels_T = timeline((1, 14), (0.1, 0.3), (1, 16), (0.1, 0.3), (1, 40))[: len(voice_T)]
    found = spans(voice_T, Segmentation(), levels_T)
    assert all(2.0 <= b - a <= 20.0 for a, b in found)
    assert found[0][0] == 0.0
    assert found[-1][1] == pytest.approx(60.0, abs=FRAME_S)
    assert all(b == a for (_, b), (a, _) in itertools.pairwise(found)), "nothing is lost between"
    assert found[0][1] == pytest.approx(14.15, abs=0.2)


def test_cutting_lengthens_what_is_too_short_or_leaves_it_out() -> None:
    near = timeline((0, 2), (0.9, 0.8), (0, 1.0), (0.9, 0.8), (0, 4), (0.9, 0.4), (0, 4))
    assert len(spans(near, Segmentation())) == 1
    assert spans(near, Segmentation())[0][1] < 5.0
    assert spans(timeline((0, 10)), Segmentation()) == []
    assert spans(timeline((0.4, 10)), Segmentation()) == [], "never above the threshold where speech begins"
    assert spans(np.zeros(0), Segmentation()) == []


def test_cutting_of_random_talk_keeps_its_promises() -> None:
    draw = np.random.default_rng(0)
    for _ in range(200):
        voice_T = timeline(*((float(draw.uniform()), float(draw.exponential(2.0)) + 0.1) for _ in range(30)))
        levels_T = draw.uniform(size=len(voice_T))
        segmentation = Segmentation(float(draw.uniform(0.3, 3)), float(draw.uniform(6, 25)))
        found = cut_utterances(voice_T, levels_T, segmentation)
        assert all(0 <= a < b <= len(voice_T) for a, b in found)
        assert all(b <= c for (_, b), (c, _) in itertools.pairwise(found))
        assert all(b - a <= segmentation.longest_s / FRAME_S for a, b in found)
        assert all(b - a >= round(segmentation.shortest_s / FRAME_S) for a, b in found)


def test_voice_activity_in_pieces_is_that_of_the_whole() -> None:
    detector = VoiceActivity()
    wave = voiced(1, 3.1)
    whole_T = detector(wave)
    assert whole_T.shape == (-(-len(wave) // 512),)
    assert np.all((whole_T >= 0) & (whole_T <= 1))
    detector.reset()
    pieces = [detector.feed(wave[at : at + 7001]) for at in range(0, len(wave), 7001)]
    pieces.append(detector.feed(wave[:0], last=True))
    assert np.allclose(np.concatenate(pieces), whole_T, atol=1e-5)
    assert np.all(detector(np.zeros(16_000, np.float32)) < 0.2)
