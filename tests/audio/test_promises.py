"""The bytes decide, not the header's promise: all that is there is read, and one note has both figures where they differ."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from lalia.audio.encoding import mp3_bytes
from lalia.audio.mpeg import frame_bytes, scan_frames
from lalia.audio.reading import Note, probe_audio, read_audio, read_blocks
from lalia.errors import AudioError
from tests.audio.test_reading import av_bytes, closeness, sndfile_bytes, tone

RATE, SECONDS = 16_000, 10.3


def sound(seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    """A tone that comes and goes: frames of an MP3 are small and large."""
    wave = tone(rate, seconds)
    return wave * (np.arange(len(wave)) % rate < rate / 3)


def told(content: bytes, strict: bool = False) -> tuple[float, list[Note]]:
    """Seconds that are read, and the notes; the length that is probed is that of what is read."""
    notes: list[Note] = []
    wave = read_audio(content, "clip", tell=notes.append, strict=strict)
    assert abs(probe_audio(content, "clip").duration_s - len(wave) / 16_000) < 0.1
    return len(wave) / 16_000, notes


def figures(said: float, held: float) -> str:
    return f"the header says {said:.1f} s, the file holds {held:.1f} s: read {held:.1f} s"


def with_size(content: bytes, name: bytes, size: int, order: str = "<", width: str = "I") -> bytes:
    at = content.index(name) + len(name)
    return content[:at] + struct.pack(order + width, size) + content[at + struct.calcsize(width) :]


def without_count(content: bytes) -> bytes:
    """An MP3 without the first frame, which counts the others."""
    return content[frame_bytes(content, 0) :]


def with_count(content: bytes, frames: int) -> bytes:
    at = max(content.find(b"Xing", 0, 200), content.find(b"Info", 0, 200))
    return content[: at + 8] + struct.pack(">I", frames) + content[at + 12 :]


def test_an_mp3_without_a_frame_count_is_read_whole(tmp_path: Path) -> None:
    """libsndfile guesses the length of a stream by its first frames, and reads no further."""
    loud_first = np.concatenate([np.random.default_rng(0).uniform(-0.5, 0.5, RATE), sound(SECONDS - 1) / 100])
    content = without_count(mp3_bytes(loud_first.astype(np.float32)))
    guessed, _ = soundfile.read(io.BytesIO(content))
    assert abs(len(guessed) / RATE - SECONDS) > 1  # else this tests nothing
    seconds, notes = told(content)
    assert abs(seconds - SECONDS) < 0.1 and not notes
    path = tmp_path / "dump.mp3"
    path.write_bytes(content)
    wave = read_audio(path)
    assert np.array_equal(wave, read_audio(content))
    # A stretch of a long recording is read from its middle.
    middle = np.concatenate(list(read_blocks(path, start_s=4, end_s=6)))
    assert len(middle) == 2 * 16_000
    np.testing.assert_allclose(middle, wave[4 * 16_000 : 6 * 16_000], atol=0.02)


@pytest.mark.parametrize(("frames", "said"), [(20, "0."), (10_000, "359.")])
def test_an_mp3_whose_count_is_wrong(frames: int, said: str) -> None:
    content = with_count(sndfile_bytes(sound(), RATE, "MP3"), frames)
    seconds, notes = told(content)
    assert abs(seconds - SECONDS) < 0.1
    (run,) = scan_frames(content, 0, len(content)).runs
    held = run.duration_s
    kind, cut = ("length", "") if frames < run.frames else ("cut short", "is cut short: ")
    (note,) = notes
    assert note.kind == kind and note.text.startswith(f"{cut}the header says {said}")
    assert note.text.endswith(f"the file holds {held:.1f} s: read {held:.1f} s")


def test_mp3s_joined_with_tags_and_junk_between() -> None:
    one = sndfile_bytes(sound(), RATE, "MP3")
    tag = b"ID3\x04\0\0\0\0\x10\x10" + b"\xff\xf3\x88\xc4" * 516  # a picture whose bytes look like frames
    assert len(scan_frames(tag, 0, len(tag)).runs) == 0
    seconds, notes = told(one + tag + bytes(5_000) + one + b"TAG" + bytes(125))
    assert abs(seconds - 2 * SECONDS) < 0.3 and [note.kind for note in notes] == ["length"]
    other = sndfile_bytes(sound(3, 44_100), 44_100, "MP3")
    seconds, notes = told(one + other)  # at another rate
    assert abs(seconds - SECONDS - 3) < 0.2 and [note.kind for note in notes] == ["length"]


def test_an_mp3_inside_a_wav() -> None:
    inside = without_count(sndfile_bytes(np.concatenate([np.zeros(RATE), sound()]), RATE, "MP3"))
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 4_000, 1, 0, 12, 1, 2, 144, 1, 1393)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(inside)) + inside
    seconds, _ = told(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert abs(seconds - SECONDS - 1) < 0.1


def wav(format: str = "WAV", subtype: str = "PCM_16") -> bytes:
    return sndfile_bytes(sound(), RATE, format, subtype)


SECOND = 2 * RATE  # bytes


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (with_size(wav(), b"data", SECOND), 1.0),
        (with_size(wav(subtype="ULAW"), b"data", RATE), 1.0),
        (with_size(wav(), b"data", 0), None),
        (with_size(wav(), b"data", 0xFFFFFFFF), None),
        (with_size(wav("W64"), b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", SECOND + 24, width="Q"), 1.0),
        (with_size(wav("AIFF"), b"SSND", SECOND + 8, ">"), 1.0),
        (with_size(wav("AU"), struct.pack(">4sI", b".snd", 24), SECOND, ">"), 1.0),
        (wav().replace(b"data", b"LIST\x03\0\0\0abc\0data"), None),  # an odd chunk, filled up
        (wav().replace(b"data", b"LIST\x03\0\0\0abcdata"), None),  # and one that is not
        (wav() + b"LIST\x04\0\0\0INFO", None),
        (wav() + b"TAG" + bytes(125), None),
        (wav().replace(b"RIFF", b"RF64", 1), None),
    ],
)
def test_sizes_that_are_too_small_or_unknown(content: bytes, said: float | None) -> None:
    seconds, notes = told(content)
    assert abs(seconds - SECONDS) < 0.001
    assert notes == ([Note("length", figures(said, SECONDS))] if said else [])


@pytest.mark.parametrize(
    "content",
    [
        with_size(wav(), b"data", 100 * SECOND),
        with_size(wav("W64"), b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", 100 * SECOND + 24, width="Q"),
        with_size(wav("AIFF"), b"SSND", 100 * SECOND + 8, ">"),
        with_size(wav("AU"), struct.pack(">4sI", b".snd", 24), 100 * SECOND, ">"),
    ],
    ids=["WAV", "W64", "AIFF", "AU"],
)
def test_sizes_that_are_too_large(content: bytes) -> None:
    seconds, notes = told(content)
    assert abs(seconds - SECONDS) < 0.001
    assert notes == [Note("cut short", f"is cut short: {figures(100, SECONDS)}")]
    with pytest.raises(AudioError, match=r"clip: is cut short: .*copy it again"):
        told(content, strict=True)


def test_a_difference_below_a_tenth_of_a_second_is_also_noted() -> None:
    seconds, notes = told(wav()[: -SECOND * 7 // 100])
    assert abs(seconds - SECONDS + 0.07) < 0.01
    assert notes == [Note("cut short", "is cut short: the header says 10.30 s, the file holds 10.23 s: read 10.23 s")]


def test_wavs_in_a_row_are_read_one_after_the_other() -> None:
    seconds, _ = told(wav() + sndfile_bytes(sound(2, 8_000), 8_000, "WAV"))
    assert abs(seconds - SECONDS - 2) < 0.01


@pytest.mark.parametrize("total", [0, RATE, 100 * RATE])
def test_a_flac_whose_total_is_wrong(total: int) -> None:
    content = sndfile_bytes(sound(), RATE, "FLAC")
    facts = int.from_bytes(content[18:26], "big") >> 36 << 36 | total
    seconds, notes = told(content[:18] + facts.to_bytes(8, "big") + content[26:])
    assert abs(seconds - SECONDS) < 0.001
    kinds = {0: [], RATE: ["length"], 100 * RATE: ["cut short"]}
    assert [note.kind for note in notes] == kinds[total]


def test_flacs_in_a_row() -> None:
    content = sndfile_bytes(sound(), RATE, "FLAC")
    seconds, notes = told(content + content)
    assert abs(seconds - 2 * SECONDS) < 0.001 and [note.kind for note in notes] == ["length"]


def pages(content: bytes) -> list[bytes]:
    found = []
    while content:
        segments = content[26]
        length = 27 + segments + sum(content[27 : 27 + segments])
        found.append(content[:length])
        content = content[length:]
    return found


def remade(page: bytes, flags: Callable[[int], int], serial: int | None = None) -> bytes:
    """An Ogg page with other flags or of another stream, with its checksum: bit by bit, by the book."""
    changed = bytearray(page)
    changed[5] = flags(page[5])
    if serial is not None:
        changed[14:18] = struct.pack("<I", serial)
    changed[22:26] = bytes(4)
    checksum = 0
    for byte in changed:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum & 0x80000000 else 0)) & 0xFFFFFFFF
    changed[22:26] = struct.pack("<I", checksum)
    return bytes(changed)


@pytest.mark.parametrize(("codec", "rate"), [("VORBIS", 22_050), ("OPUS", 48_000)])
def test_odd_ends_of_ogg(codec: str, rate: int) -> None:
    content = sndfile_bytes(sound(rate=rate), rate, "OGG", codec)
    all_pages = pages(content)
    unended = [*all_pages[:-1], remade(all_pages[-1], lambda flags: flags & ~4)]
    middle = len(all_pages) // 2
    early = [*all_pages[:middle], remade(all_pages[middle], lambda flags: flags | 4), *all_pages[middle + 1 :]]
    for case in (unended, early):  # no flag for the end; pages behind it
        seconds, notes = told(b"".join(case))
        assert abs(seconds - SECONDS) < 0.05 and not notes
    again = [remade(page, lambda flags: flags, serial=77) for page in all_pages]
    seconds, notes = told(content + b"".join(again))  # a chain
    assert abs(seconds - 2 * SECONDS) < 0.05 and [note.kind for note in notes] == ["joined"]
    # Beside another stream that is no sound
    other = [b"OggS\0\x02" + bytes(8) + struct.pack("<III", 9, 0, 0) + b"\x01\x08fishead\0", b"OggS\0\0" + bytes(8)]
    other[1] += struct.pack("<III", 9, 1, 0) + b"\x01\x04data"
    other = [remade(page, lambda flags: flags) for page in other]
    seconds, notes = told(b"".join([other[0], all_pages[0], other[1], *all_pages[1:]]))
    assert abs(seconds - SECONDS) < 0.05 and not notes


def test_of_several_tracks_the_one_that_sounds_is_read() -> None:
    av = pytest.importorskip("av")
    out = io.BytesIO()
    waves = (np.zeros(int(44_100 * 1.5), np.float32), tone(44_100))
    with av.open(out, "w", format="mp4") as opened:
        streams = [opened.add_stream("aac", rate=44_100, layout="mono") for _ in waves]
        for stream, wave in zip(streams, waves, strict=True):
            frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            frame.sample_rate = 44_100
            for part in av.AudioResampler("fltp", "mono", 44_100, frame_size=1024).resample(frame):
                opened.mux(stream.encode(part))
            opened.mux(stream.encode(None))
    notes: list[Note] = []
    assert closeness(read_audio(out.getvalue(), tell=notes.append)) > 0.98
    assert notes == [Note("tracks", "holds 2 audio tracks: read track 2")]


def test_a_damaged_packet_costs_itself() -> None:
    content = bytearray(av_bytes(tone(44_100, 10), 44_100, "adts", "aac"))
    at = content.find(b"\xff\xf1", len(content) // 2)
    content[at + 7 : at + 60] = b"\xff" * 53
    notes: list[Note] = []
    wave = read_audio(bytes(content), tell=notes.append)
    assert abs(len(wave) / 16_000 - 10) < 0.3
    assert [note.kind for note in notes] == ["damaged"] and "packets cannot be decoded" in notes[0].text


def test_a_few_bytes_after_the_samples_are_not_sound() -> None:
    content = sndfile_bytes(sound(), RATE, "WAV", "FLOAT") + b"\0junk\xff" * 300
    seconds, notes = told(content)
    assert abs(seconds - SECONDS) < 0.001 and [note.kind for note in notes] == ["bytes behind"]
    for behind in (bytes(4096), b"TAG" + bytes(125), b"\0junk\xff" * 300):
        seconds, notes = told(sndfile_bytes(sound(), RATE, "FLAC") + behind)
        assert abs(seconds - SECONDS) < 0.001 and not notes


@pytest.mark.parametrize("form", ["AIFF", "AU", "CAF", "NIST"])
def test_other_headers_that_promise_another_length(form: str) -> None:
    content = sndfile_bytes(sound(), RATE, form)
    samples = int(SECONDS * RATE)
    right = {
        "AIFF": struct.pack(">4sI", b"SSND", 2 * samples + 8),
        "AU": struct.pack(">4sII", b".snd", 24, 2 * samples),
        "CAF": struct.pack(">4sq", b"data", 2 * samples + 4),
        "NIST": b"sample_count -i %d" % samples,
    }[form]
    assert right in content
    for second in (RATE, 100 * RATE):
        wrong = {
            "AIFF": struct.pack(">4sI", b"SSND", 2 * second + 8),
            "AU": struct.pack(">4sII", b".snd", 24, 2 * second),
            "CAF": struct.pack(">4sq", b"data", 2 * second + 4),
            "NIST": b"sample_count -i %d" % second,
        }[form]
        changed = content.replace(right, wrong)
        changed = changed if form != "NIST" else changed[:1024].ljust(1024)[:1024] + content[1024:]
        seconds, notes = told(changed)
        assert abs(seconds - SECONDS) < 0.001
        assert [note.kind for note in notes] == ["length" if second == RATE else "cut short"]
        assert figures(second / RATE, SECONDS) in notes[0].text


def test_sphere_with_shorten_names_the_tool_that_converts() -> None:
    content = sndfile_bytes(sound(), RATE, "NIST").replace(
        b"end_head", b"sample_coding -s26 pcm,embedded-shorten-v2.00\nend_head"
    )
    with pytest.raises(AudioError, match="sph2pipe -f wav"):
        read_audio(content, "tape.sph")


def test_a_later_piece_of_a_browsers_recording_is_called_that() -> None:
    content = av_bytes(tone(48_000, 10), 48_000, "webm", "libopus")
    clusters = content.index(b"\x1f\x43\xb6\x75")
    block = content.index(b"\xa3\x41", clusters + 12)  # of 256 to 511 bytes
    ogg = sndfile_bytes(sound(rate=48_000), 48_000, "OGG", "OPUS")
    for piece in (
        content[clusters:],
        content[block:],
        ogg[len(b"".join(pages(ogg)[:3])) :],
        b"\0\0\0\x10moof" + bytes(90),
    ):
        with pytest.raises(AudioError, match=r"is a later piece of a recording .*; join the pieces"):
            read_audio(piece, "second.webm")


def test_without_pyav_the_same_files_are_read() -> None:
    """The light installation has libsndfile alone; nothing is lost there either."""
    code = "import sys; sys.modules['av'] = None\n" + (
        "import tests.audio.test_promises as t\n"
        "mp3 = t.sndfile_bytes(t.sound(), t.RATE, 'MP3')\n"
        "flac = t.sndfile_bytes(t.sound(), t.RATE, 'FLAC')\n"
        "total = int.from_bytes(flac[18:26], 'big') >> 36 << 36\n"
        "ogg = t.pages(t.sndfile_bytes(t.sound(), t.RATE, 'OGG', 'OPUS'))\n"
        "for content in (t.without_count(mp3), t.with_count(mp3, 20), t.with_size(t.wav(), b'data', t.SECOND),\n"
        "                b'BW64' + t.wav()[4:], flac[:18] + total.to_bytes(8, 'big') + flac[26:],\n"
        "                b''.join([*ogg[:-1], t.remade(ogg[-1], lambda flags: flags & ~4)])):\n"
        "    assert abs(t.told(content)[0] - t.SECONDS) < 0.1\n"
        "print('all read')\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "all read", done.stderr


def test_a_file_that_was_made_to_keep_a_reader_busy_does_not() -> None:
    page = b"OggS\0\x02" + bytes(8)
    hostile = b"".join(page + struct.pack("<III", number, 0, 0) + b"\0" for number in range(100_000))
    inside = b"WAVEfmt \x10\0\0\0" + struct.pack("<HHIIHH", 0x55, 1, RATE, 4_000, 1, 0) + b"data\0\0\0\0"
    rows = b"".join(b"RIFF" + struct.pack("<I", len(inside)) + inside for _ in range(20_000))
    start = time.process_time()
    for content in (hostile, rows, b"\xff\xfb\x90\xc4" * 250_000):
        with pytest.raises(AudioError):
            read_audio(content, "busy")
    assert time.process_time() - start < 10
