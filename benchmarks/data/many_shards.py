"""Opening a corpus of many shards: seconds, memory, memory mappings, and random reads, with `clips.index` and without.

    OMP_NUM_THREADS=1 python -m benchmarks.data.many_shards --out FOLDER [--shards 131072 --clips 450]

The shards are hard links to a few files of clips with no audio, so that a corpus of 500,000 hours (a shard holds about an hour)
takes little disk. Every measurement is a new process.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from lalia.cards import write_json
from lalia.data.corpus import CLIPS, SCHEMA, Corpus, write_clip_index, write_index
from lalia.data.prepare.shards import write_shard

LINKS = 50_000
"""Hard links to one file: ext4 allows 65,000."""
READS = 2_000


def make_corpus(folder: Path, shards: int, clips: int) -> None:
    """Write ``shards`` shards of ``clips`` clips each below ``folder``, without ``clips.index``."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"data-{number:06d}-of-{shards:06d}.arrow" for number in range(shards)]
    size = 0
    for number, name in enumerate(names):
        if number % LINKS == 0:
            rows = [
                {
                    "id": f"{number}-{row}", "audio": {"bytes": b"fLaC", "path": None}, "language": f"l{row % 20:02d}",
                    "text": "", "speaker": "", "split": "train" if row % 50 else "dev",
                    "duration_s": float(random.uniform(2, 14)), "source": "synthetic", "snr_db": 20.0, "clipping": 0.0,
                    "speech_ratio": 1.0, "loudness_dbfs": -20.0, "original_rate": 16_000, "bandwidth_hz": 8_000.0,
                }
                for row in range(clips)
            ]  # fmt: skip
            size, _ = write_shard(folder / name, pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
            first = folder / name
        else:
            os.link(first, folder / name)
    write_index(folder, names, shards * clips, shards * size, "0" * 16, "synthetic")
    write_json(folder / "card.json", {"kind": "corpus", "id": "synthetic", "parents": []})


def measure(folder: Path) -> tuple[float, float, int, float]:
    """(seconds to open, MB of memory that are this process's own, memory mappings after random reads, reads per second)."""
    before, start = own_mb(), time.perf_counter()
    corpus = Corpus.load(folder)
    seconds = time.perf_counter() - start
    mb = own_mb() - before
    rows = np.random.default_rng(1).integers(0, len(corpus), READS).tolist()
    start = time.perf_counter()
    for row in rows:
        corpus.audio_bytes(row)
    rate = READS / (time.perf_counter() - start)
    return seconds, mb, len(Path("/proc/self/maps").read_text().splitlines()), rate


def index(folder: Path) -> tuple[float, float]:
    """(seconds to write ``clips.index``, peak MB)."""
    start = time.perf_counter()
    write_clip_index(folder)
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def own_mb() -> float:
    """Memory that this process shares with no file and no other process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Anonymous:",))) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=131_072)
    parser.add_argument("--clips", type=int, default=450)
    given = parser.parse_args()
    folder = given.out / f"{given.shards}-shards"
    if not folder.exists():
        make_corpus(folder, given.shards, given.clips)
    print("| shards | clips | clips.index | seconds to open | memory of the process | mappings | reads per second |")
    print("|---:|---:|---|---:|---:|---:|---:|")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for indexed in (False, True):
            if indexed:
                seconds, mb = pool.apply(index, (folder,))
            else:
                (folder / CLIPS).unlink(missing_ok=True)
            opening_s, own, mappings, rate = pool.apply(measure, (folder,))
            print(
                f"| {given.shards:,} | {given.shards * given.clips:,} | {'yes' if indexed else 'no'} | {opening_s:.2f} | "
                f"{own:,.0f} MB | {mappings:,} | {rate:,.0f} |",
                flush=True,
            )
    print(
        f"\nclips.index: {(folder / CLIPS).stat().st_size / 1e6:,.0f} MB, written in {seconds:.0f} s, peak memory {mb:,.0f} MB"
    )


if __name__ == "__main__":
    main()
