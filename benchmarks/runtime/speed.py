"""Cost of running a student, compared with other toolkits on the same audio.

    python -m benchmarks.runtime.speed STUDENT CLIP…

Cold start, import time, packages of ``pip install .``, peak memory, and real-time factors by threads and jobs, for short clips
and one long file. Each measurement is a separate process; contenders alternate, and the median is shown. ``cpu`` is processor
time, which other programs do not affect; ``wall`` is wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.runtime.runtime_contenders import CONTENDERS
from lalia.audio.reading import read_audio
from lalia.scoring.rates import character_errors
from lalia.units import SAMPLE_RATE

ROOT = Path(__file__).parents[2]


def contend(name: str, folder: str, threads: int, clips: Sequence[str]) -> dict[str, Any]:
    """In this process: seconds of processor and wall per second of audio, the peak of resident memory, and the texts."""
    transcribe = CONTENDERS[name][1](folder, threads)
    waves = [read_audio(clip) for clip in clips]
    transcribe(waves[0])
    cpu, wall = time.process_time(), time.perf_counter()
    texts = [" ".join(transcribe(wave).split()) for wave in waves]
    audio_s = sum(map(len, waves)) / SAMPLE_RATE
    return {
        "cpu": (time.process_time() - cpu) / audio_s,
        "wall": (time.perf_counter() - wall) / audio_s,
        "peak_mb": peak_mb("self"),
        "texts": texts,
    }


def peak_mb(pid: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def in_a_process(*argv: object) -> dict[str, Any]:
    """The output of this module, run with ``argv``."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.runtime.speed", *map(str, argv)], capture_output=True, text=True, cwd=ROOT
    )
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def elapsed(command: Sequence[str], repeats: int) -> dict[str, float]:
    """Median of the processor time and of the wall's over ``repeats`` runs of ``command``."""
    cpu, wall = [], []
    for _ in range(repeats):
        before, begun = os.times(), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        wall.append(time.perf_counter() - begun)
        after = os.times()
        cpu.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return {"cpu": statistics.median(cpu), "wall": statistics.median(wall)}


def packages() -> list[str]:
    """The packages that ``pip install .`` installs into an empty environment, by pip's report."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        "-",
        str(ROOT),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return sorted(item["metadata"]["name"] for item in json.loads(ended.stdout)["install"])


def long_file(folder: str, path: Path, jobs: int, lm: str) -> dict[str, Any]:
    """In this process: transcribe one long file with ``jobs`` jobs, with the language model ``lm`` if given."""
    from lalia import Student, TranscribeOptions
    from lalia.decoding.decoder import make_decoder

    loaded = Student.load(folder, threads=1)
    decoder = make_decoder(loaded, lm) if lm else None
    cpu, wall = time.process_time(), time.perf_counter()
    transcript = loaded.transcribe(path, options=TranscribeOptions(jobs=jobs, decoder=decoder))
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "audio_s": transcript.duration_s,
        "text": transcript.text,
        "peak_mb": peak_mb("self"),
    }


def write_long(path: Path, clips: Sequence[str], minutes: float) -> int:
    """Write ``clips`` repeatedly with pauses of half a second, in the format of ``path``; returns the number of clips."""
    waves = [np.pad(read_audio(clip), (0, SAMPLE_RATE // 2)) for clip in clips]
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        written, number = 0, 0
        while written < minutes * 60 * SAMPLE_RATE:
            file.write(waves[number % len(waves)])
            written += len(waves[number % len(waves)])
            number += 1
    return number


def long_files(
    folder: Path, clips: Sequence[str], minutes: Sequence[float], formats: Sequence[str]
) -> Iterator[tuple[str, Path, int]]:
    """Long files of every length and format in turn, deleted after use: (name for the table, path, number of clips in it)."""
    for length in minutes:
        for suffix in formats:
            path = folder / f"long.{suffix}"
            yield f"{length:g} min {suffix.upper()}", path, write_long(path, clips, length)
            path.unlink()


def difference(texts: Sequence[str], expected: Sequence[str]) -> float:
    """Character errors of ``texts`` against ``expected``: the difference of two runs of a model."""
    counts = [character_errors(one, other) for one, other in zip(expected, texts, strict=True)]
    return sum(counts[1:], counts[0]).rate


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", help="a student folder")
    parser.add_argument("clips", nargs="+", help="speech: audio files")
    parser.add_argument("--recogniser", default="", help="the student's source recogniser: also measure torch")
    parser.add_argument("--sherpa", default="", help="the student converted to sherpa: also measure sherpa-onnx")
    parser.add_argument("--hf", default="", help="the recogniser converted to hf: also measure transformers")
    parser.add_argument("--lm", default="", help="a language model: also transcribe long files with it")
    parser.add_argument("--formats", nargs="*", default=["flac", "mp3"], help="formats of the long files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, nargs="*", default=[10, 60, 180], help="minutes of the long files")
    parser.add_argument("--contend", nargs=2, metavar=("NAME", "THREADS"), help=argparse.SUPPRESS)
    parser.add_argument("--long", type=int, metavar="JOBS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contend:
        name, threads = args.contend
        print(json.dumps(contend(name, args.student, int(threads), args.clips)))
        return 0
    if args.long:
        print(json.dumps(long_file(args.student, Path(args.clips[0]), args.long, args.lm)))
        return 0

    found = packages()
    print(f"packages of pip install .: {len(found)} ({', '.join(found)})")
    python = elapsed([sys.executable, "-c", "pass"], args.rounds)
    imported = elapsed([sys.executable, "-c", "import lalia"], args.rounds)
    cold = elapsed([sys.executable, "-m", "lalia.cli.main", "transcribe", args.student, args.clips[0]], args.rounds)
    print("\n| | cpu s | wall s |\n|---|---|---|")
    for name, row in (("python -c pass", python), ("import lalia", imported), ("lalia transcribe, one clip", cold)):
        print(f"| {name} | {row['cpu']:.3f} | {row['wall']:.3f} |")

    folders = {"student": args.student, "recogniser": args.recogniser, "sherpa": args.sherpa, "hf": args.hf, "": "-"}
    measured: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(args.rounds):
        for name, (kind, _load) in CONTENDERS.items():
            for threads in (1, 2):
                if folders[kind] and not (kind == "" and threads == 2):
                    row = in_a_process(folders[kind], *args.clips, "--contend", name, threads)
                    measured.setdefault((name, threads), []).append(row)
    ours = measured["lalia, int8", 1][0]["texts"]
    print(
        "\n| | threads | RTF, cpu | RTF, wall | × real time | peak MB | other characters |\n|---|---|---|---|---|---|---|"
    )
    for (name, threads), rows in measured.items():
        cpu, wall, peak = (statistics.median(row[key] for row in rows) for key in ("cpu", "wall", "peak_mb"))
        other = f"{100 * difference(rows[0]['texts'], ours):.1f} %" if folders[CONTENDERS[name][0]] != "-" else ""
        print(f"| {name} | {threads} | {cpu:.4f} | {wall:.4f} | {1 / wall:.0f} | {peak:.0f} | {other} |")

    print(
        "\n| file | decoding | jobs | cpu s | wall s | × real time | other than its pieces | peak MB |\n"
        + "|---" * 8
        + "|"
    )
    with tempfile.TemporaryDirectory() as work:
        for name, path, count in long_files(Path(work), args.clips, args.minutes, args.formats):
            expected = " ".join(filter(None, (ours[number % len(ours)] for number in range(count))))
            for lm, jobs in [("", 1), ("", 2)] + ([(args.lm, 2)] if args.lm else []):
                long = in_a_process(args.student, path, "--long", jobs, *(["--lm", lm] if lm else []))
                other = "" if lm else f"{100 * difference([long['text']], [expected]):.1f} %"
                print(
                    f"| {name} | {'n-gram beam' if lm else 'greedy'} | {jobs} | "
                    f"{long['cpu']:.1f} | {long['wall']:.1f} | {long['audio_s'] / long['wall']:.0f} | {other} | "
                    f"{long['peak_mb']:.0f} |",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
