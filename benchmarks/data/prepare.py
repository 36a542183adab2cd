"""Time of each step of `lalia prepare` on the same files, on one core, and the hours of audio per minute.

OMP_NUM_THREADS=1 python benchmarks/data/prepare.py FOLDER [--files 300]
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from lalia.audio.encoding import flac_bytes
from lalia.audio.reading import SUFFIXES, probe_audio, read_audio
from lalia.audio.vad import VoiceActivity
from lalia.data.prepare.fingerprints import fingerprint
from lalia.data.prepare.quality import measure
from lalia.units import SAMPLE_RATE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=300)
    args = parser.parse_args()
    files = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in SUFFIXES)[: args.files]
    voice = VoiceActivity()
    spent: dict[str, float] = {}

    def timed(step: str, call: Callable[..., Any], *rest: Any) -> Any:
        start = time.process_time()
        found = call(*rest)
        spent[step] = spent.get(step, 0.0) + time.process_time() - start
        return found

    audio_s, stored = 0.0, 0
    for number, path in enumerate(files):
        timed("header", probe_audio, path)
        wave = timed("decoding and resampling", read_audio, path)
        voice_T = timed("voice activity", voice, wave)
        timed("quality", measure, wave, voice_T)
        flac = timed("FLAC", flac_bytes, wave)
        timed("fingerprint", fingerprint, wave, number)
        timed("hash and table", lambda data: (hashlib.sha256(data).digest(), pa.array([data])), flac)
        audio_s += len(wave) / SAMPLE_RATE
        stored += len(flac)
    total = sum(spent.values())
    print(f"{len(files)} files, {audio_s / 60:.1f} minutes, {stored / audio_s / 1000:.1f} kB of FLAC per second\n")
    print("| step | × real time | share |\n|---|---:|---:|")
    for step, seconds in spent.items():
        print(f"| {step} | {audio_s / seconds:,.0f} | {seconds / total:.0%} |")
    print(f"| all, on one core | {audio_s / total:,.0f} | {audio_s / total / 60:.1f} hours a minute |")


if __name__ == "__main__":
    main()
