"""Reading of unusual and damaged audio files: lalia compared with FFmpeg, libsndfile, librosa and transformers.

    python -m benchmarks.data.reading files CLIP --out FOLDER [--table TABLE.tsv]     (CLIP: speech of 5 to 15 s; needs ffmpeg)
    python -m benchmarks.data.reading time FOLDER --before TREE                      (TREE: a checkout of an older state)

`files` makes several hundred files from CLIP: every container and codec, whole and with each fault. The reference length is what
the program ffmpeg decodes, except for headers that declare less than the file has, which ffmpeg trusts: there it is the length
written. A reader *loses silently* if it returns over 50 ms less without a message; only lalia gives messages. `time` reads the
whole files with this checkout and with TREE, in alternation, and takes the best time of each file.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from lalia.audio.mpeg import frame_bytes, id3_end
from lalia.audio.ogg import _pages, _with_flags
from lalia.audio.reading import Note, read_audio
from lalia.errors import AudioError
from lalia.units import SAMPLE_RATE, Seconds

NEAR_S: Seconds = 0.05
ROUNDS = 7

# name: ffmpeg's arguments, with placeholders such as {rate}
FORMS: dict[str, list[str]] = {
    "pcm16.wav": ["-c:a", "pcm_s16le"],
    "pcm24-stereo.wav": ["-c:a", "pcm_s24le", "-ac", "2", "-ar", "44100"],
    "float.wav": ["-c:a", "pcm_f32le"],
    "u8.wav": ["-c:a", "pcm_u8", "-ar", "8000"],
    "ulaw.wav": ["-c:a", "pcm_mulaw", "-ar", "8000"],
    "alaw.wav": ["-c:a", "pcm_alaw", "-ar", "8000"],
    "ima.wav": ["-c:a", "adpcm_ima_wav", "-ar", "16000"],
    "msadpcm.wav": ["-c:a", "adpcm_ms", "-ar", "16000"],
    "gsm.wav": ["-c:a", "libgsm_ms", "-ar", "8000"],
    "mp3.wav": ["-c:a", "libmp3lame", "-ar", "16000", "-f", "wav"],
    "rf64.wav": ["-c:a", "pcm_s16le", "-rf64", "always"],
    "pcm16.w64": ["-c:a", "pcm_s16le"],
    "pcm16.aiff": ["-c:a", "pcm_s16be"],
    "float.aiff": ["-c:a", "pcm_f32be"],
    "pcm16.au": ["-c:a", "pcm_s16be"],
    "pcm16.caf": ["-c:a", "pcm_s16be"],
    "alac.caf": ["-c:a", "alac"],
    "cbr16.mp3": ["-c:a", "libmp3lame", "-ar", "16000", "-b:a", "32k"],
    "vbr44.mp3": ["-c:a", "libmp3lame", "-ar", "44100", "-ac", "2", "-q:a", "7"],
    "cbr44-joint.mp3": ["-c:a", "libmp3lame", "-ar", "44100", "-ac", "2", "-b:a", "128k", "-joint_stereo", "1"],
    "vbr44-no-count.mp3": [
        "-c:a",
        "libmp3lame",
        "-ar",
        "44100",
        "-q:a",
        "9",
        "-write_xing",
        "0",
        "-id3v2_version",
        "0",
    ],
    "cbr22-no-count.mp3": ["-c:a", "libmp3lame", "-ar", "22050", "-b:a", "48k", "-write_xing", "0"],
    "layer2.mp2": ["-c:a", "mp2", "-ar", "32000", "-b:a", "64k"],
    "pcm16.flac": ["-c:a", "flac", "-ar", "16000"],
    "pcm24.flac": ["-c:a", "flac", "-sample_fmt", "s32", "-ar", "48000"],
    "vorbis.ogg": ["-c:a", "libvorbis", "-ar", "44100"],
    "opus.ogg": ["-c:a", "libopus", "-b:a", "24k"],
    "flac.oga": ["-c:a", "flac", "-f", "ogg", "-ar", "16000"],
    "speex.spx": ["-c:a", "libspeex", "-ar", "16000"],
    "aac.m4a": ["-c:a", "aac", "-ar", "44100"],
    "aac-fast.m4a": ["-c:a", "aac", "-movflags", "faststart"],
    "aac-pieces.mp4": ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-frag_duration", "1000000"],
    "alac.m4a": ["-c:a", "alac"],
    "pcm.mov": ["-c:a", "pcm_s16le"],
    "aac.3gp": ["-c:a", "aac", "-ar", "8000", "-ac", "1"],
    "opus.webm": ["-c:a", "libopus", "-b:a", "32k"],
    "opus-live.webm": ["-c:a", "libopus", "-live", "1", "-cluster_time_limit", "1000"],
    "aac.mkv": ["-c:a", "aac"],
    "flac.mka": ["-c:a", "flac"],
    "aac.ts": ["-c:a", "aac", "-f", "mpegts"],
    "layer2.ts": ["-c:a", "mp2", "-ar", "48000", "-f", "mpegts"],
    "aac.aac": ["-c:a", "aac", "-f", "adts"],
    "wma2.wma": ["-c:a", "wmav2"],
    "pcm.avi": ["-c:a", "pcm_s16le"],
    "wavpack.wv": ["-c:a", "wavpack"],
    "true.tta": ["-c:a", "tta"],
    "layer2.mpg": ["-c:a", "mp2", "-ar", "48000", "-f", "mpeg"],
    "aac.flv": ["-c:a", "aac", "-ar", "44100"],
    "wideband.g722": ["-c:a", "g722", "-ar", "16000"],
}
# Truncated files of these formats are valid shorter files, because no header states the length.
JUNK = b"\0junk\xff" * 300


@dataclass(frozen=True)
class Case:
    """A file, its group in the table, and its true length if ffmpeg's is no reference (None: ffmpeg's is)."""

    name: str
    group: str
    data: bytes
    true_s: Seconds | None = None


@dataclass(frozen=True)
class Result:
    """A reader's result for a file: seconds (None: refused) and its messages."""

    seconds: Seconds | None
    messages: str = ""


def whole_files(clip: Path, folder: Path) -> dict[str, bytes]:
    """CLIP in every format, made by ffmpeg."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, how in FORMS.items():
        path = folder / name
        command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-i", str(clip), "-map_metadata", "-1", *how, str(path)]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            made[name] = path.read_bytes()
        else:
            print(f"{name}: this ffmpeg cannot make it; skipped", file=sys.stderr)
    return made


def cases(made: dict[str, bytes], wave: np.ndarray, rate: int) -> Iterator[Case]:
    """All files: each format whole, with the faults that any file may have, and with those of its format."""
    for name, data in made.items():
        yield Case(name, "whole", data)
        for percent in (20, 40, 60, 80, 97):
            yield Case(f"{percent}-percent-{name}", "cut off", data[: len(data) * percent // 100])
        yield Case(f"junk-after-{name}", "bytes after the end", data + JUNK)
        yield Case(f"zeros-after-{name}", "bytes after the end", data + bytes(4096))
        yield Case(f"tag-after-{name}", "bytes after the end", data + b"TAG" + bytes(125))
        stem, suffix = os.path.splitext(name)  # noqa: PTH122
        if suffix != ".g722":  # which is recognised by its name only
            yield Case(f"{stem}-{suffix[1:]}.dat", "another name", data)
    seconds = len(wave) / rate
    yield from _chunk_cases(made, seconds)
    yield from _mp3_cases(made)
    yield from _flac_cases(made, seconds)
    yield from _ogg_cases(made)
    yield from _track_cases(made)


def _chunk_cases(made: dict[str, bytes], seconds: Seconds) -> Iterator[Case]:
    places = {
        ".wav": (b"data", "<I", 0),
        ".w64": (b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a", "<Q", 24),
        ".aiff": (b"SSND", ">I", 8),
        ".au": (b".snd", ">I", 0),
        ".caf": (b"data", ">q", 4),
    }
    for name, data in made.items():
        suffix = Path(name).suffix
        if suffix not in places or name in ("mp3.wav", "alac.caf"):
            continue
        mark, form, extra = places[suffix]
        at = data.index(mark) + len(mark) + (4 if suffix == ".au" else 0)
        if name == "rf64.wav":
            at, form = data.index(b"ds64") + 16, "<Q"
        right = struct.unpack_from(form, data, at)[0] - extra
        largest = 0xFFFFFFFF if form[1] == "I" else 0xFFFFFFFFFFFFFFFF if form[1] == "Q" else -1
        sizes = {"a-tenth": right // 10 // 12 * 12, "half": right // 2 // 12 * 12, "less-1": right - 12}
        beyond = {"double": 2 * right, "a-hundred": 100 * right, "more-1": right + 12}
        unknown = {"largest": largest, "zero": 0} | ({"2-GiB": 0x7FFFFFFF} if form[1] == "I" else {})
        for how, size in {**sizes, **beyond, **unknown}.items():
            size = size + extra if how not in unknown else size
            changed = data[:at] + struct.pack(form, size) + data[at + struct.calcsize(form) :]
            true_s = seconds if "adpcm" not in name and "ima" not in name and "gsm" not in name else None
            group = "size too small" if how in sizes else "size too large" if how in beyond else "size unknown"
            yield Case(f"{how}-{name}", group, changed, true_s if how in sizes or how in unknown else None)
        if suffix == ".wav" and name != "rf64.wav":
            for how, chunk in {
                "odd-chunk": b"note\x03\0\0\0abc\0",
                "odd-chunk-not-filled-up": b"note\x03\0\0\0abc",
                "big-chunk": b"JUNK" + struct.pack("<I", 70_000) + bytes(70_000),
                "id3-chunk": b"id3 " + struct.pack("<I", 64) + b"ID3\x04\0\0\0\0\0\x36" + bytes(54),
            }.items():
                before = data[:12] + chunk + data[12:]
                true_s = seconds if how == "odd-chunk-not-filled-up" and "gsm" not in name and "a" in name[:4] else None
                yield Case(f"{how}-{name}", "odd chunks", before, true_s)
            yield Case(f"list-after-{name}", "odd chunks", data + b"LIST\x04\0\0\0INFO")
            yield (
                Case(f"bw64-{name}", "odd chunks", b"BW64" + data[4:])
                if name == "pcm16.wav"
                else None or Case(f"riff-size-{name}", "odd chunks", data[:4] + b"\0\0\0\0" + data[8:])
            )


def _mp3_cases(made: dict[str, bytes]) -> Iterator[Case]:
    tag = b"ID3\x04\0\0\0\0\x10\x10" + b"\xff\xfb\x90\xc4" * 516
    streams = {name: data for name, data in made.items() if Path(name).suffix in (".mp3", ".mp2")}
    for name, data in streams.items():
        start = id3_end(data)
        first = frame_bytes(data, start)
        info = max(data.find(b"Xing", start, start + 200), data.find(b"Info", start, start + 200))
        if info > 0:
            for frames in (1, 20, 100, 5_000, 1_000_000):
                changed = data[: info + 8] + struct.pack(">I", frames) + data[info + 12 :]
                yield Case(f"count-{frames}-{name}", "MP3: wrong count", changed)
            yield Case(f"no-count-{name}", "MP3: no count", data[start + first :])
            yield Case(f"no-count-tagged-{name}", "MP3: no count", tag + data[start + first :])
        yield Case(f"mid-frame-{name}", "MP3: no count", data[start + first + 77 :])
        middle = len(data) // 2
        yield Case(f"junk-inside-{name}", "MP3: joined", data[:middle] + JUNK + data[middle:])
        yield Case(f"tag-inside-{name}", "MP3: joined", data[:middle] + tag + data[middle:])
        for other in streams:
            yield Case(f"{Path(name).stem}-then-{other}", "MP3: joined", data + streams[other])
        yield Case(f"apart-{name}", "MP3: joined", data + b"TAG" + bytes(125) + tag + data)
        bare = data[start + (first if info > 0 else 0) :]
        rate = {"cbr16": 16_000, "cbr22": 22_050, "layer2": 32_000}.get(
            name.partition(".")[0].partition("-")[0], 44_100
        )
        tags = 0x50 if name.endswith(".mp2") else 0x55
        stereo = 2 if name in ("vbr44.mp3", "cbr44-joint.mp3") else 1
        form = struct.pack("<HHIIHHHHIHHH", tags, stereo, rate, 6_000, 1, 0, 12, 1, 2, 144, 1, 1393)
        body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(bare)) + bare
        yield Case(f"{Path(name).stem}-inside.wav", "MP3: inside WAV", b"RIFF" + struct.pack("<I", len(body)) + body)


def _flac_cases(made: dict[str, bytes], seconds: Seconds) -> Iterator[Case]:
    for name, data in made.items():
        if not name.endswith(".flac"):
            continue
        facts = int.from_bytes(data[18:26], "big")
        right = facts & (1 << 36) - 1
        for how, total in {"none": 0, "a-tenth": right // 10, "ten": 10 * right, "less-1": right - 1, "one": 1}.items():
            changed = data[:18] + (facts >> 36 << 36 | total).to_bytes(8, "big") + data[26:]
            yield Case(f"total-{how}-{name}", "FLAC: wrong total", changed)
        yield Case(f"joined-{name}", "FLAC: joined", data + data, 2 * seconds)
        yield Case(f"tagged-{name}", "whole", b"ID3\x04\0\0\0\0\0\x20" + bytes(32) + data)


def _ogg_cases(made: dict[str, bytes]) -> Iterator[Case]:
    streams = {name: data for name, data in made.items() if data[:4] == b"OggS"}
    for name, data in streams.items():
        pages = [(data[start : start + length], flags) for start, length, flags, _ in _pages(data, len(data))]
        plain = [page for page, _ in pages]
        last = _with_flags(plain[-1], pages[-1][1] & ~4)
        yield Case(f"no-end-flag-{name}", "Ogg: no last flag", b"".join([*plain[:-1], last]))
        yield Case(f"no-last-page-{name}", "Ogg: no last flag", b"".join(plain[:-1]))
        middle = len(plain) // 2
        early = _with_flags(plain[middle], pages[middle][1] | 4)
        yield Case(
            f"early-end-{name}", "Ogg: pages after the end", b"".join([*plain[:middle], early, *plain[middle + 1 :]])
        )
        yield Case(f"junk-inside-{name}", "Ogg: junk between", b"".join([*plain[:middle], JUNK, *plain[middle:]]))

        def numbered(data: bytes, serial: int) -> list[bytes]:
            return [
                _with_flags(data[a : a + n][:14] + struct.pack("<I", serial) + data[a : a + n][18:], flags)
                for a, n, flags, _ in _pages(data, len(data))
            ]

        for other, after in streams.items():
            true_s = _ffmpeg(name, data).seconds or 0.0, _ffmpeg(other, after).seconds or 0.0
            chain = b"".join([data, *numbered(after, 4242)])
            yield Case(f"{Path(name).stem}-then-{other}", "Ogg: chained", chain, sum(true_s))
        fishead = b"OggS\0\x02" + bytes(8) + struct.pack("<III", 9, 0, 0) + b"\x01\x08fishead\0"
        page = b"OggS\0\0" + bytes(8) + struct.pack("<III", 9, 1, 0) + b"\x01\x04data"
        beside = [_with_flags(fishead, 2), plain[0], _with_flags(page, 0), *plain[1:]]
        yield Case(f"beside-{name}", "Ogg: multiplexed", b"".join(beside), _ffmpeg(name, data).seconds)


def _track_cases(made: dict[str, bytes]) -> Iterator[Case]:
    """Files with a silent first track, and with video, as from cameras and conferences."""
    for container, codec in (
        ("mp4", "aac"),
        ("mov", "aac"),
        ("mkv", "libopus"),
        ("webm", "libopus"),
        ("ts", "aac"),
        ("avi", "mp2"),
        ("ogg", "libvorbis"),
    ):
        for how, inputs, maps in (
            (
                "silent-first",
                ["-f", "lavfi", "-t", "10", "-i", "anullsrc=r=48000:cl=mono"],
                ["-map", "1:a", "-map", "0:a"],
            ),
            ("picture", ["-f", "lavfi", "-t", "10", "-i", "color=s=64x64:r=5"], ["-map", "1:v", "-map", "0:a"]),
        ):
            command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-f", "wav", "-i", "pipe:0", *inputs, *maps]
            video = ["-c:v", {"webm": "libvpx", "ogg": "libtheora"}.get(container, "mpeg4")] if how == "picture" else []
            path = f"/tmp/lalia-tracks-{os.getpid()}.{container}"
            command += [*video, "-c:a", codec, "-ar", "48000", "-t", "10", path]
            done = subprocess.run(command, input=made["pcm16.wav"], capture_output=True, check=False)
            if done.returncode == 0:
                yield Case(f"{how}.{container}", "several tracks", Path(path).read_bytes())
            Path(path).unlink(missing_ok=True)


def _ffmpeg(name: str, data: bytes) -> Result:
    suffix = os.path.splitext(name)[1]  # noqa: PTH122
    path = Path(f"/tmp/lalia-reading-{os.getpid()}{suffix}")
    path.write_bytes(data)
    command = [
        "ffmpeg",
        "-nostdin",
        "-v",
        "error",
        "-i",
        str(path),
        "-map",
        "0:a:0",
        "-f",
        "s16le",
        "-ac",
        "1",
        "-ar",
        "16000",
        "-",
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    finally:
        path.unlink(missing_ok=True)
    seconds = len(done.stdout) / 2 / SAMPLE_RATE
    errors = done.stderr.decode(errors="replace").strip()
    return Result(seconds or None, errors)


def _lalia(name: str, data: bytes) -> Result:
    notes: list[Note] = []
    try:
        wave = read_audio(data, name, tell=notes.append)
    except AudioError as error:
        return Result(None, str(error))
    return Result(len(wave) / SAMPLE_RATE, "; ".join(f"[{note.kind}] {note.text}" for note in notes))


def _libsndfile(name: str, data: bytes) -> Result:
    try:
        wave, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    except (soundfile.LibsndfileError, TypeError, RuntimeError, ValueError, MemoryError) as error:
        return Result(None, str(error))
    return Result(len(wave) / rate)


def _librosa(name: str, data: bytes) -> Result:
    import librosa

    path = Path(f"/tmp/lalia-librosa-{os.getpid()}-{name[-24:]}")
    path.write_bytes(data)
    try:
        wave, rate = librosa.load(path, sr=SAMPLE_RATE)
    except Exception as error:
        return Result(None, str(error))
    finally:
        path.unlink(missing_ok=True)
    return Result(len(wave) / rate)


def _transformers(name: str, data: bytes) -> Result:
    from transformers.pipelines.audio_utils import ffmpeg_read

    try:
        return Result(len(ffmpeg_read(data, SAMPLE_RATE)) / SAMPLE_RATE)
    except ValueError as error:
        return Result(None, str(error))


READERS: dict[str, Callable[[str, bytes], Result]] = {
    "lalia": _lalia,
    "ffmpeg": _ffmpeg,
    "libsndfile": _libsndfile,
    "librosa": _librosa,
    "transformers": _transformers,
}


def classify(found: Result, right_s: Seconds) -> str:
    """``full``, ``noted`` (less, with a note), ``silent`` (less, without one), ``more`` or ``refused``."""
    if found.seconds is None:
        return "refused"
    if found.seconds < right_s - NEAR_S:
        return "noted" if found.messages else "silent"
    return "full" if found.seconds <= right_s + NEAR_S else "more"


def files(args: argparse.Namespace) -> int:
    """Make the files, read them with every reader and print the table; returns 1 if lalia loses anything silently."""
    warnings.simplefilter("ignore")  # librosa warns about files that libsndfile does not read
    made = whole_files(args.clip, args.out)
    wave, rate = soundfile.read(io.BytesIO(made["pcm16.wav"]))
    readers = {name: read for name, read in READERS.items() if name in args.readers.split(",")}
    for name in {"librosa", "transformers"} & set(readers):
        try:
            __import__(name)
        except ImportError:
            print(f"{name} is not installed; its column is skipped", file=sys.stderr)
            del readers[name]
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    lines, faults, readable, refused = ["file\tgroup\tright_s\treader\tseconds\tverdict\tsaid"], [], 0, 0
    for case in cases(made, wave, rate):
        verdicts = {name: read(case.name, case.data) for name, read in readers.items() if name != "ffmpeg"}
        verdicts["ffmpeg"] = theirs = _ffmpeg(case.name, case.data)
        right_s = case.true_s if case.true_s is not None else theirs.seconds
        for name, found in verdicts.items():
            silenced = Result(found.seconds) if name != "lalia" else found
            word = classify(silenced, right_s or 0.0)
            counts[case.group][name][word] += 1
            counts["all"][name][word] += 1
            messages = " ".join(found.messages.split())
            lines.append(
                f"{case.name}\t{case.group}\t{right_s or 0:.3f}\t{name}\t{found.seconds or 0:.3f}\t{word}\t{messages}"
            )
            if name == "lalia":
                full = right_s is not None and not theirs.messages
                readable += full
                refused += full and word == "refused"
                if word in ("silent", "more") or (full and word == "refused"):
                    faults.append(lines[-1])
    if args.table:
        args.table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(faults))
    _print_table(counts, list(readers))
    print(f"\nof {readable} files that ffmpeg reads without an error lalia refuses {refused}")
    return 1 if counts["all"]["lalia"]["silent"] else 0


def _print_table(counts: dict[str, dict[str, Counter[str]]], readers: list[str]) -> None:
    print("\n| fault | files | " + " | ".join(readers) + " |")
    print("|---|---:|" + "---|" * len(readers))
    for group in sorted(counts, key=lambda name: (name == "all", name)):
        total = sum(counts[group]["lalia"].values())
        cells = [
            ", ".join(
                f"{n} {word}"
                for word in ("full", "more", "noted", "silent", "refused")
                if (n := counts[group][name][word])
            )
            for name in readers
        ]
        print(f"| {group} | {total} | " + " | ".join(cells) + " |")


_TIMED = """
import json, sys, time
from pathlib import Path
from lalia.audio.reading import read_audio
best = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    times = []
    for _ in range(int(sys.argv[2])):
        start = time.process_time()
        try:
            read_audio(path)
        except Exception:
            break
        times.append(time.process_time() - start)
    if times:
        best[path.name] = min(times)
print(json.dumps(best))
"""


def time_them(args: argparse.Namespace) -> int:
    """Print the time of the whole files now and with the older checkout, and the ratio."""
    now, before = Path(__file__).parents[2], args.before
    best: dict[Path, dict[str, float]] = {now: {}, before: {}}
    for _ in range(ROUNDS):
        for tree in (before, now):
            command = [sys.executable, "-c", _TIMED, str(args.folder.resolve()), str(args.repeats)]
            environment = {**os.environ, "PYTHONPATH": str(tree.resolve())}
            done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=True)
            for name, seconds in json.loads(done.stdout).items():
                best[tree][name] = min(seconds, best[tree].get(name, seconds))
    print("| file | before, ms | now, ms | ratio |\n|---|---:|---:|---:|")
    both = [name for name in best[before] if name in best[now]]
    for name in both:
        old, new = best[before][name], best[now][name]
        print(f"| {name} | {old * 1e3:.2f} | {new * 1e3:.2f} | {new / old:.3f} |")
    old, new = (sum(best[tree][name] for name in both) for tree in (before, now))
    print(f"| all | {old * 1e3:.2f} | {new * 1e3:.2f} | {new / old:.3f} |")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    made = verbs.add_parser("files", help="make the files and read them")
    made.add_argument("clip", type=Path)
    made.add_argument("--out", type=Path, required=True, help="folder for the whole files")
    made.add_argument(
        "--readers", default=",".join(READERS), help=f"some of {', '.join(READERS)}; the first two are always used"
    )
    made.add_argument("--table", type=Path, help="write a line for every file and reader")
    made.set_defaults(call=files)
    timed = verbs.add_parser("time", help="time of the whole files, now and before")
    timed.add_argument("folder", type=Path)
    timed.add_argument("--before", type=Path, required=True)
    timed.add_argument("--repeats", type=int, default=5)
    timed.set_defaults(call=time_them)
    args = parser.parse_args()
    return int(args.call(args))


if __name__ == "__main__":
    sys.exit(main())
