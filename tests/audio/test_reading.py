"""Reading: any file becomes the same 16 kHz mono wave; what is no audio is refused in one clear line."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalia.audio import ffmpeg
from lalia.audio.encoding import flac_bytes, mp3_bytes
from lalia.audio.reading import Note, Resampler, probe_audio, read_audio, read_blocks, resample
from lalia.errors import AudioError

SECONDS = 1.5


def tone(rate: int, seconds: float = SECONDS) -> np.ndarray:
    """A chord that lies below 4 kHz, so that every codec and rate keeps it."""
    t = np.arange(int(rate * seconds)) / rate
    return (0.2 * np.sin(2 * np.pi * 440 * t) + 0.2 * np.sin(2 * np.pi * 1500 * t)).astype(np.float32)


def sndfile_bytes(samples: np.ndarray, rate: int, format: str, subtype: str | None = None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=format, subtype=subtype)
    return out.getvalue()


def av_bytes(samples: np.ndarray, rate: int, container: str, codec: str) -> bytes:
    av = pytest.importorskip("av")
    out = io.BytesIO()
    with av.open(out, "w", format=container) as opened:
        stream = opened.add_stream(codec, rate=rate)
        stream.layout, stream.bit_rate = "mono", 64_000
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="fltp", layout="mono")
        frame.sample_rate = rate
        convert = av.AudioResampler(stream.format, "mono", rate, frame_size=stream.codec_context.frame_size or 1024)
        for part in [*convert.resample(frame), *convert.resample(None)]:
            opened.mux(stream.encode(part))
        opened.mux(stream.encode(None))
    return out.getvalue()


def closeness(wave: np.ndarray, delay: int = 3000) -> float:
    """Highest correlation of ``wave`` with the tone within ``delay`` samples (codecs add a little in front)."""
    middle = tone(16_000)[6000:16000]
    return max(
        float(np.dot(wave[6000 + d : 16000 + d], middle))
        / (np.linalg.norm(wave[6000 + d : 16000 + d]) * np.linalg.norm(middle))
        for d in range(0, delay)
        if 16000 + d <= len(wave)
    )


@pytest.mark.parametrize(
    ("format", "subtype", "rate"),
    [
        ("WAV", "PCM_16", 16_000),
        ("WAV", "PCM_U8", 8_000),
        ("WAV", "FLOAT", 44_100),
        ("WAV", "ULAW", 8_000),
        ("FLAC", "PCM_24", 96_000),
        ("OGG", "VORBIS", 22_050),
        ("OGG", "OPUS", 48_000),
        ("MP3", "MPEG_LAYER_III", 44_100),
        ("MP3", "MPEG_LAYER_III", 16_000),
        ("AIFF", "PCM_16", 11_025),
        ("AU", "PCM_16", 16_000),
        ("CAF", "PCM_16", 16_000),
        ("W64", "PCM_16", 16_000),
        ("RF64", "PCM_16", 16_000),
    ],
)
def test_libsndfile_formats(tmp_path: Path, format: str, subtype: str, rate: int) -> None:
    content = sndfile_bytes(tone(rate), rate, format, subtype)
    path = tmp_path / "clip.bin"
    path.write_bytes(content)
    wave = read_audio(path)
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert abs(len(wave) / 16_000 - SECONDS) < 0.1
    assert closeness(wave) > 0.99
    assert np.array_equal(wave, read_audio(content, "clip"))
    assert np.array_equal(wave, read_audio(str(path)))
    info = probe_audio(path)
    assert (info.rate, info.channels) == (rate, 1)
    assert abs(info.duration_s - SECONDS) < 0.1


@pytest.mark.parametrize(
    ("container", "codec", "rate", "suffix", "kind"),
    [
        ("g722", "g722", 16_000, ".g722", "G.722"),
        ("mp4", "aac", 44_100, ".m4a", "MP4"),
        ("webm", "libopus", 48_000, ".webm", "WebM"),
        ("matroska", "pcm_s16le", 16_000, ".mka", "WebM"),
        ("adts", "aac", 16_000, ".aac", "AAC"),
        ("mp3", "libmp3lame", 32_000, ".mp3", "MP3"),
        ("asf", "wmav2", 44_100, ".wma", "WMA"),
        ("wav", "adpcm_g726", 8_000, ".wav", "WAV"),
    ],
)
def test_ffmpeg_formats(tmp_path: Path, container: str, codec: str, rate: int, suffix: str, kind: str) -> None:
    content = av_bytes(tone(rate), rate, container, codec)
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(content)
    wave = read_audio(path)
    assert abs(len(wave) / 16_000 - SECONDS) < 0.2
    assert closeness(wave) > 0.98
    assert np.array_equal(wave, read_audio(content, f"clip{suffix}"))
    info = probe_audio(path)
    assert info.format == kind and info.rate == rate
    assert abs(info.duration_s - SECONDS) < 0.2


@pytest.mark.parametrize("channels", [1, 2, 8, 24])
def test_ffmpeg_gives_each_channel_as_it_is(channels: int) -> None:
    """PyAV, asked for the channels one by one, reads memory that is not the frame's where they are eight or more."""
    pytest.importorskip("av")
    samples = np.random.default_rng(channels).uniform(-0.5, 0.5, (5000, channels)).astype(np.float32)
    content = io.BytesIO(sndfile_bytes(samples, 16_000, "WAV", "FLOAT"))
    blocks = ffmpeg.stream_blocks(content, "wav", ffmpeg.DecodingReport())
    np.testing.assert_array_equal(np.concatenate([block_SC for _, block_SC in blocks]), samples)


def test_channels_are_averaged_and_blocks_make_no_seams() -> None:
    rate, seconds = 96_000, 12
    t = np.arange(rate * seconds) / rate
    left, right = 0.5 * np.sin(2 * np.pi * 300 * t), 0.3 * np.sin(2 * np.pi * 700 * t)
    content = sndfile_bytes(np.stack([left, right, 0 * left, 0 * left], axis=1), rate, "WAV", "FLOAT")
    wave = read_audio(content)
    expected = resample(((left + right) / 4).astype(np.float32), rate)
    assert len(wave) == seconds * 16_000
    np.testing.assert_allclose(wave, expected, atol=1e-6)
    blocks = list(read_blocks(content))
    assert len(blocks) > 3 and max(map(len, blocks)) < 50_000
    assert np.array_equal(np.concatenate(blocks), wave)


@pytest.mark.parametrize(("format", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS"), ("OGG", "VORBIS")])
def test_blocks_of_lossy_files_make_no_seams(format: str, subtype: str) -> None:
    """Where one block ends and the next begins the decoder must not start anew; of MP3 a frame would be lost."""
    draw, t = np.random.default_rng(0), np.arange(40 * 16_000) / 16_000
    tones = (draw.uniform(0.02, 0.1) * np.sin(2 * np.pi * hz * t * (1 + t / 90)) for hz in range(150, 3000, 150))
    wave = sum(tones, np.zeros(len(t)))
    content = sndfile_bytes(wave.astype(np.float32), 16_000, format, subtype)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32")
    assert len(list(read_blocks(content))) > 2
    np.testing.assert_allclose(read_audio(content), np.clip(expected, -1, 1), atol=1e-4)


def test_resampler_takes_blocks_of_any_size() -> None:
    wave = tone(44_100)
    resampler, parts, at = Resampler(44_100), [], 0
    for size in (1, 7, 1000, 20_000, 3, len(wave)):
        parts.append(resampler(wave[at : at + size]))
        at += size
    parts.append(resampler(np.zeros(0, np.float32), last=True))
    np.testing.assert_allclose(np.concatenate(parts), resample(wave, 44_100), atol=1e-6)


def test_loud_floats_are_clipped() -> None:
    wave = read_audio(sndfile_bytes(3 * tone(16_000), 16_000, "WAV", "FLOAT"))
    assert np.abs(wave).max() == 1.0


def test_flac_gives_the_wave_back() -> None:
    wave = np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32)
    assert np.abs(read_audio(flac_bytes(wave)) - wave).max() <= 1.01 / 65536 * 2
    exact = np.round(wave * 32768).clip(-32768, 32767) / np.float32(32768)
    assert np.array_equal(read_audio(flac_bytes(exact)), exact)
    assert np.array_equal(read_audio(flac_bytes(np.array([2.0, -2.0], np.float32))), [np.float32(32767 / 32768), -1])


def test_mp3_for_pages_is_small_and_sounds_the_same() -> None:
    content = mp3_bytes(tone(16_000))
    assert closeness(read_audio(content)) > 0.99
    assert len(content) < 10_000 * SECONDS


def refused(source: Path | bytes, name: str | None = None) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(source, name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(name or str(source if isinstance(source, Path) else ""))
    return message


def test_missing_empty_and_folders(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.wav")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "zero.wav").touch()
    assert "0 bytes" in refused(tmp_path / "zero.wav")
    assert "0 samples" in refused(sndfile_bytes(np.zeros(0, np.float32), 16_000, "WAV"), "header.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(value: float) -> None:
    wave = tone(16_000)
    wave[9_000] = value
    assert "NaN or infinity" in refused(sndfile_bytes(wave, 16_000, "WAV", "FLOAT"), "nan.wav")


def test_integers_stored_as_floats() -> None:
    assert "divide by 32768" in refused(sndfile_bytes(tone(16_000) * 32768, 16_000, "WAV", "FLOAT"), "big.wav")


def test_rates_out_of_this_world() -> None:
    assert "500 samples per second" in refused(sndfile_bytes(tone(500, 60), 500, "WAV"), "slow.wav")


@pytest.mark.parametrize(
    ("format", "subtype"),
    [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
)
@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_cut_short(format: str, subtype: str, part: float) -> None:
    content = sndfile_bytes(tone(48_000, 10), 48_000, format, subtype)
    check_cut(content[: int(len(content) * part)], 10 * part)


@pytest.mark.parametrize("part", [0.3, 0.7])
def test_cut_short_ffmpeg(part: float) -> None:
    content = av_bytes(tone(48_000, 10), 48_000, "webm", "libopus")
    check_cut(content[: int(len(content) * part)], 10 * part)
    # The index of an MP4 stands behind its samples.
    content = av_bytes(tone(48_000, 10), 48_000, "mp4", "aac")
    assert "its index (moov) is missing" in refused(content[: int(len(content) * part)], "cut.bin")


def check_cut(content: bytes, seconds: float) -> None:
    """Read as far as it goes, with a note; refused where that is asked for."""
    notes: list[Note] = []
    wave = read_audio(content, tell=notes.append)
    assert abs(len(wave) / 16_000 - seconds) < 1.7  # a page of Ogg is that long
    assert [note.kind for note in notes] == ["cut short"] and "\n" not in notes[0].text
    assert abs(probe_audio(content).duration_s - len(wave) / 16_000) < 0.1 or "the header says" in notes[0].text
    with pytest.raises(AudioError, match=r"is cut short: .*; copy it again"):
        read_audio(content, "cut.bin", strict=True)


def test_streamed_wav_with_unknown_length() -> None:
    content = bytearray(sndfile_bytes(tone(16_000), 16_000, "WAV"))
    at = content.find(b"data") + 4
    content[4:8] = content[at : at + 4] = b"\xff\xff\xff\xff"
    assert len(read_audio(bytes(content))) == int(16_000 * SECONDS)


def test_damaged_inside() -> None:
    content = bytearray(sndfile_bytes(tone(16_000, 20), 16_000, "FLAC"))
    middle = len(content) // 2
    content[middle : middle + 4000] = os.urandom(4000)
    assert "damaged" in refused(bytes(content), "rot.flac")


def test_garbage_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    draw = np.random.default_rng(5)
    for i in range(200):
        head = [b"", b"\xff\xfb\x90", b"ID3\x04\0\0\0\0\0\x10", b"RIFF\0\0\0\0JUNK", b"FORM\0\0\0\0ILBM"][i % 5]
        refused(head + draw.bytes(20_000), "garbage.bin")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("head", [b"RIFF\x24\0\0\0WAVE", b"OggS", b"fLaC", b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3"])
def test_garbage_after_a_real_signature(head: bytes) -> None:
    for seed in range(10):
        refused(head + np.random.default_rng(seed).bytes(20_000), "garbage.bin")


def test_text_named_as_audio() -> None:
    page = b"<!doctype html><html><body>404 Not Found: your clip is elsewhere</body></html>" * 20
    assert "not a supported audio file" in refused(page, "clip.g722")
    assert "not a supported audio file" in refused(page, "clip.wav")
    assert "not a supported audio file" in refused("текст".encode() * 400, "clip.g722")


def test_raw_samples_are_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "clip.raw"
    path.write_bytes((tone(16_000) * 32767).astype("<i2").tobytes())
    assert "raw samples" in refused(path)
    path.write_bytes(sndfile_bytes(tone(16_000), 16_000, "WAV"))
    assert len(read_audio(path)) == int(16_000 * SECONDS)


def test_without_pyav_the_line_tells_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "clip.m4a"
    path.write_bytes(av_bytes(tone(44_100), 44_100, "mp4", "aac"))
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from lalia.audio.reading import read_audio\n"
        "from lalia.errors import AudioError\n"
        f"try: read_audio({str(path)!r})\n"
        "except AudioError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install av" in out
