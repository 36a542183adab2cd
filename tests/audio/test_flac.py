"""The fast way to read a corpus's FLAC: the same samples as the slow way, and its errors."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from lalia.audio import flac
from lalia.audio.flac import read_flac
from lalia.audio.reading import read_audio
from lalia.errors import AudioError


def _flac(samples: int, rate: int = 16_000, channels: int = 1, subtype: str = "PCM_16") -> bytes:
    wave = np.random.default_rng(samples).uniform(-0.9, 0.9, (samples, channels))
    wave[: samples // 2] *= 0.01
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format="FLAC", subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize("samples", [1, 15, 16_000, 100_001])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_S8"])
def test_the_samples_equal_the_slow_path(samples: int, subtype: str) -> None:
    data = _flac(samples, subtype=subtype)
    wave = read_flac(data, name=lambda: "x")
    assert wave.dtype == np.float32 and wave.shape == (samples,)
    assert np.array_equal(wave, read_audio(data))


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (16_000, 2), (44_100, 2)])
def test_other_rates_and_channels_use_the_slow_path(rate: int, channels: int) -> None:
    data = _flac(rate, rate, channels)
    assert np.array_equal(read_flac(data, name=lambda: "x"), read_audio(data))


def test_without_the_fast_decoder_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _flac(20_000)
    fast = read_flac(data, name=lambda: "x")
    monkeypatch.setattr(flac, "_dr_flac", lambda: None)
    assert np.array_equal(read_flac(data, name=lambda: "x"), fast)


def test_the_name_is_made_for_errors_only() -> None:
    def fail() -> str:
        raise AssertionError("called")

    read_flac(_flac(16_000), name=fail)


@pytest.mark.parametrize("data", [b"", b"fLaC", b"not audio at all", _flac(16_000)[:60], _flac(50_000)[:-3000]])
def test_what_is_cut_short_or_no_audio_is_named(data: bytes) -> None:
    with pytest.raises(AudioError, match=r"^corpus: clip 7: "):
        read_flac(data, name=lambda: "corpus: clip 7")


def test_damaged_bytes_give_the_right_samples_or_an_error() -> None:
    """Every frame has a checksum; what stands before them (from byte 26 on, where the facts end) tells no samples."""
    rng = np.random.default_rng(0)
    whole = _flac(12_000)
    wave = read_audio(whole)
    sound = 0
    for place in [*range(26, 100), *rng.integers(100, len(whole), 300)]:
        data = bytearray(whole)
        data[place] ^= int(rng.integers(1, 256))
        try:
            assert np.array_equal(read_flac(bytes(data), name=lambda: "x"), wave)
            sound += 1
        except AudioError:
            pass
    assert 16 <= sound < 80  # the sixteen bytes of the MD5 sum and the comment do not matter
