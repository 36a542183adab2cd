"""Opus in WebM and Ogg while it arrives: the samples do not depend on how the bytes are cut, and bad bytes are one error."""

from __future__ import annotations

import io

import numpy as np
import pytest

from lalia.audio.opus_stream import RATE, OpusSource
from lalia.audio.reading import resample
from lalia.errors import AudioError
from tests.tiny_student import sing

av = pytest.importorskip("av")
WAVE = sing("bad cab")


def recorded(container: str, wave: np.ndarray = WAVE) -> bytes:
    """As a browser records: Opus at 48 kHz; WebM without sizes, as it is written while one speaks."""
    out = io.BytesIO()
    settings = {"live": "1"} if container == "webm" else {}
    with av.open(out, "w", format=container, options=settings) as file:
        stream = file.add_stream("libopus", rate=RATE, layout="mono")
        loud = np.repeat(wave, 3)[None]  # to 48 kHz
        frame = av.AudioFrame.from_ndarray(loud.astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = RATE
        fifo = av.AudioFifo()
        fifo.write(frame)
        while (part := fifo.read(960, partial=True)) is not None:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return out.getvalue()


def decoded(container: str, pieces: list[bytes]) -> np.ndarray:
    source, found = OpusSource(container), []
    for piece in pieces:
        source.feed(piece)
        while len(wave := source.read(RATE)):
            found.append(wave)
    return np.concatenate(found) if found else np.zeros(0, np.float32)


@pytest.mark.parametrize("container", ["webm", "ogg"])
def test_the_bytes_may_be_cut_anywhere(container: str) -> None:
    data = recorded(container)
    whole = decoded(container, [data])
    draw, cut, pieces = np.random.default_rng(0), 0, []
    while cut < len(data):
        size = int(draw.integers(1, 700))
        pieces.append(data[cut : cut + size])
        cut += size
    np.testing.assert_array_equal(decoded(container, pieces), whole)
    assert abs(len(whole) / RATE - len(WAVE) / 16_000) < 0.05
    mine, both = resample(whole, RATE), slice(1600, len(WAVE) - 1600)
    assert np.corrcoef(np.square(mine[: len(WAVE)])[both], np.square(WAVE)[both])[0, 1] > 0.8
    source = OpusSource(container)
    source.feed(data)
    assert len(source.read(4_000)) < 4_000 + 5_760  # so that a message is decoded piece by piece


def test_bytes_that_are_no_recording() -> None:
    for container, data, says in (
        ("webm", b"RIFF" * 20, "header of WebM"),
        ("webm", recorded("ogg"), "header of WebM"),
        ("ogg", recorded("webm"), "no page of Ogg"),
        ("webm", recorded("webm").replace(b"A_OPUS", b"A_VORB"), "no Opus track"),
        ("ogg", recorded("ogg").replace(b"OpusHead", b"OggsHead"), "no Opus stream"),
        ("webm", b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff\xa3\x10\xff\xff\xff", "a block of"),
        ("webm", b"\x1a\x45\xdf\xa3\x80\x00\x00", "without a valid length"),
    ):
        with pytest.raises(AudioError, match=says):
            decoded(container, [data])


@pytest.mark.parametrize("container", ["webm", "ogg"])
def test_damaged_bytes_are_an_error_or_noise(container: str) -> None:
    data, draw = recorded(container), np.random.default_rng(1)
    for _ in range(150):
        damaged = bytearray(data)
        for place in draw.integers(0, len(data), int(draw.integers(1, 30))):
            damaged[place] = draw.integers(0, 256)
        try:
            wave = decoded(container, [bytes(damaged)])
        except AudioError:
            continue
        assert len(wave) <= 60 * RATE
