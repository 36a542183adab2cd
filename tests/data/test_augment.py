"""Augmentation: each change does what its name says, and nothing happens that was not asked for."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from lalia.data.augment import (
    Augment,
    AugmentSettings,
    add_noise,
    change_speed,
    coloured_noise,
    reverberate,
    simulated_room,
    telephone,
)
from lalia.errors import UserError

ALL = AugmentSettings(speed=1, reverb=1, noise=1, telephone=1)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * 16_000)) / 16_000)).astype(np.float32)


def _level(wave: torch.Tensor | np.ndarray) -> float:
    return float(np.sqrt(np.square(np.asarray(wave, np.float64)[2000:-2000]).mean()))


def _peak_hz(wave: torch.Tensor) -> float:
    spectrum = np.abs(np.fft.rfft(wave.numpy() * np.hanning(len(wave))))
    return float(spectrum.argmax() * 16_000 / len(wave))


def test_by_default_nothing_happens() -> None:
    wave = _tone(440)
    assert not AugmentSettings().any
    assert Augment(AugmentSettings())(wave, _rng()) is wave


def test_the_generator_decides_everything() -> None:
    wave, augment = _tone(440), Augment(ALL)
    first, again, other = (
        augment(wave, _rng(1)),
        pickle.loads(pickle.dumps(augment))(wave, _rng(1)),
        augment(wave, _rng(2)),
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other[: len(first)])
    assert first.dtype == np.float32
    assert np.array_equal(wave, _tone(440))  # what was given is not changed


def test_switching_one_change_off_leaves_the_draws_of_another_alone() -> None:
    wave = _tone(440)
    for seed in range(20):
        alone = Augment(AugmentSettings(noise=1))(wave, _rng(seed))
        beside = Augment(AugmentSettings(noise=1, telephone=0, speed=1, speed_factors=(1, 1)))(wave, _rng(seed))
        assert np.array_equal(alone, beside)


def test_a_share_of_the_clips_is_changed() -> None:
    wave, augment = _tone(440, 0.05), Augment(AugmentSettings(noise=0.3))
    changed = sum(not np.array_equal(augment(wave, _rng(seed)), wave) for seed in range(400))
    assert 90 < changed < 150


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    wave = change_speed(torch.from_numpy(_tone(1000)), factor)
    assert len(wave) == pytest.approx(16_000 / factor, abs=1)
    assert _peak_hz(wave) == pytest.approx(1000 * factor, rel=0.002)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_comes_at_the_ratio_asked_for(snr_db: float) -> None:
    wave, noise = torch.from_numpy(_tone(440)), torch.from_numpy(coloured_noise(16_000, 1.0, _rng()))
    added = add_noise(wave, noise, snr_db) - wave
    assert 10 * torch.log10(wave.square().sum() / added.square().sum()) == pytest.approx(snr_db, abs=0.01)


def test_noise_has_its_colour() -> None:
    """From 100-200 Hz to 1600-3200 Hz are four octaves: power per hertz falls 3 dB an octave for pink, 6 for brown."""
    for exponent in (0.0, 1.0, 2.0):
        power = np.square(np.abs(np.fft.rfft(coloured_noise(1 << 17, exponent, _rng()))))
        hertz = np.fft.rfftfreq(1 << 17, 1 / 16_000)
        low, high = (power[(hertz >= f) & (hertz < 2 * f)].mean() for f in (100, 1600))
        assert 10 * np.log10(low / high) == pytest.approx(12.04 * exponent, abs=0.7)


def test_a_room_is_the_plain_convolution_from_its_direct_sound_on() -> None:
    wave = torch.from_numpy(_rng().uniform(-0.5, 0.5, 500).astype(np.float32))
    response = torch.tensor([0.0, 0.1, 1.0, 0.0, -0.5, 0.25])
    slow = np.convolve(wave.numpy(), response.numpy()[2:])[:500]
    wet = reverberate(wave, response).numpy()
    np.testing.assert_allclose(wet / np.linalg.norm(wet), slow / np.linalg.norm(slow), atol=1e-5)
    assert np.linalg.norm(wet) == pytest.approx(float(wave.norm()), rel=1e-4)


def test_a_simulated_room_decays_by_60_db_in_its_time() -> None:
    response = simulated_room(0.5, _rng()).astype(np.float64)
    assert np.abs(response).argmax() == 0
    tenth, ninth = (np.square(response[a : a + 400]).mean() for a in (800, 7200))
    assert 10 * np.log10(tenth / ninth) == pytest.approx(60 * 6400 / 8000, abs=1.5)


def test_a_telephone_passes_speech_and_stops_the_rest() -> None:
    passed = {
        hertz: _level(telephone(torch.from_numpy(_tone(hertz)))) / _level(_tone(hertz)) for hertz in (60, 1000, 5000)
    }
    assert 0.9 < passed[1000] < 1.1
    assert passed[60] < 0.05 and passed[5000] < 0.05
    assert len(telephone(torch.zeros(12_345))) == 12_345


def test_eight_bits_leave_about_38_db() -> None:
    """Mu-law with 256 levels keeps some 38 dB of signal over its noise (Jayant and Noll, Digital Coding of Waveforms)."""
    heard = telephone(torch.from_numpy(_tone(1013, 2))).numpy()[4000:28_000].astype(np.float64)
    angle = 2 * np.pi * 1013 * np.arange(len(heard)) / 16_000
    tone = np.stack([np.sin(angle), np.cos(angle)], 1)
    tone = tone @ np.linalg.lstsq(tone, heard, rcond=None)[0]
    assert 33 < 10 * np.log10(np.square(tone).sum() / np.square(heard - tone).sum()) < 43


def test_gsm_keeps_a_tone_in_its_place_and_less_of_it_than_mu_law() -> None:
    """A codec that models a voice tells less of two tones than eight bits do, and is not late."""
    wave = torch.from_numpy(_tone(700, 2) / 2 + _tone(1130, 2) / 2)
    apart = {codec: telephone(wave, codec).numpy()[4000:28_000] for codec in ("mu-law", "gsm")}
    error = {codec: _level(heard - apart["mu-law"]) / _level(apart["mu-law"]) for codec, heard in apart.items()}
    assert 0.02 < error["gsm"] < 0.5
    lags = [float(np.dot(apart["gsm"][100:20_000], apart["mu-law"][100 + d : 20_000 + d])) for d in range(-90, 91)]
    assert abs(int(np.argmax(lags)) - 90) <= 2
    assert len(telephone(torch.zeros(12_345), "gsm")) == 12_345


def test_a_share_of_the_calls_is_mobile() -> None:
    wave = _tone(440, 0.2)
    heard = {Augment(AugmentSettings(telephone=1, telephone_gsm=0.4))(wave, _rng(seed)).tobytes() for seed in range(30)}
    assert len(heard) == 2
    for share, codec in ((0.0, "mu-law"), (1.0, "gsm")):
        only = Augment(AugmentSettings(telephone=1, telephone_gsm=share))(wave, _rng())
        assert np.array_equal(only, telephone(torch.from_numpy(wave), codec).numpy())  # type: ignore[arg-type]


@pytest.mark.parametrize("wave", [np.zeros(1, np.float32), np.ones(1, np.float32), np.zeros(8000, np.float32)])
def test_silence_and_single_samples_survive(wave: np.ndarray) -> None:
    for seed in range(10):
        changed = Augment(ALL)(wave, _rng(seed))
        assert len(changed) >= 1 and np.isfinite(changed).all()


def test_loud_clips_stay_within_full_scale() -> None:
    settings = AugmentSettings(noise=1, noise_snr_db=(-10, -10))
    assert np.abs(Augment(settings)(3 * _tone(440), _rng())).max() <= 1


def test_recordings_of_noise_and_rooms_are_used(tmp_path: Path) -> None:
    hum, wave = _tone(100, 0.25), _tone(3000)
    soundfile.write(tmp_path / "hum.wav", hum, 16_000, subtype="FLOAT")
    settings = AugmentSettings(noise=1, noise_snr_db=(0, 0), noise_folder=str(tmp_path))
    spectrum = np.abs(np.fft.rfft(Augment(settings)(wave, _rng())))
    assert {int(spectrum[:1000].argmax()), 1000 + int(spectrum[1000:].argmax())} == {100, 3000}
    click = np.zeros(100, np.float32)
    click[20] = 1
    soundfile.write(tmp_path / "hum.wav", click, 16_000, subtype="FLOAT")
    from lalia.data import augment

    augment._read.cache_clear()
    dry = Augment(AugmentSettings(reverb=1, reverb_folder=str(tmp_path)))(wave, _rng())
    np.testing.assert_allclose(dry, wave, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"noise": 1.5}, "augment.noise is 1.5"),
        ({"noise_snr_db": (20, 5)}, "noise_snr_db is 20 to 5"),
        ({"speed_factors": (0, 1)}, "speed_factors is 0 to 1"),
        ({"noise_folder": "/nowhere"}, "holds no audio"),
    ],
)
def test_bad_settings_say_what_to_do(settings: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Augment(AugmentSettings(**settings))


def test_gain_changes_loudness_alone() -> None:
    wave, augment = _tone(440, 0.05), Augment(AugmentSettings(gain=1, gain_db=(-20, -20)))
    np.testing.assert_allclose(augment(wave, _rng()), 0.1 * wave, rtol=1e-5)
    assert np.abs(Augment(AugmentSettings(gain=1, gain_db=(60, 60)))(wave, _rng())).max() <= 1
