"""Data loaders compared on the same clips: lalia's, fairseq2's, and what users of transformers write.

    OMP_NUM_THREADS=1 python -m benchmarks.data.loader CORPUS [--join-s 12]

Every contender reads the same FLAC files of 0.5 to 20 s with two decoding processes (or threads) and makes float32 batches of
about ``--batch-s`` seconds as fast as it can. Each runs in its own process, in alternation, so that other load on the machine
affects all equally; the best round of each counts, in wall and processor time.

The contenders are in benchmarks/data/loader_contenders.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path

import numpy as np

from benchmarks.data.loader_contenders import CONTENDERS, LONGEST_S, WORKERS, Batches, chosen_rows
from lalia.cards import processor

WARM_UP = 20


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("corpus", type=Path)
    arguments.add_argument("--batch-s", type=float, default=60.0)
    arguments.add_argument("--seconds", type=float, default=6.0, help="seconds of each turn")
    arguments.add_argument("--turns", type=int, default=3)
    arguments.add_argument(
        "--join-s", type=float, default=0.0, help="first join clips to about this length, in seconds"
    )
    arguments.add_argument("--only", nargs="*", choices=list(CONTENDERS), default=list(CONTENDERS))
    arguments.add_argument("--run", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    arguments.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.run:
        print(json.dumps(measure(CONTENDERS[given.run](given), given.seconds)))
        return
    if "transformers" in given.only and not importlib.util.find_spec("torchcodec"):
        print("torchcodec is not installed: the contender `transformers` is skipped", file=sys.stderr)
        given.only.remove("transformers")
    with tempfile.TemporaryDirectory() as folder:
        source = join_clips(given.corpus, Path(folder) / "joined", given.join_s) if given.join_s else given.corpus
        write_files(source, Path(folder))
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in given.only}
        for turn in range(given.turns):
            for name in given.only if turn % 2 == 0 else reversed(given.only):
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.data.loader",
                    str(source),
                    "--run",
                    name,
                    "--files",
                    folder,
                ]
                command += ["--batch-s", str(given.batch_s), "--seconds", str(given.seconds)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                turns[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{name}: {turns[name][-1]['hours_per_s'] * 3600:,.0f} x real time", file=sys.stderr)
    print_table(turns, given)


def write_files(corpus_folder: Path, folder: Path) -> None:
    """The clips as FLAC files with fairseq's manifest: repeated 20 times, so that its epochs are as long as on a real corpus."""
    from lalia.data.corpus import Corpus

    corpus = Corpus.load(corpus_folder)
    lines = []
    for row in chosen_rows(corpus_folder):
        (folder / f"{row}.flac").write_bytes(corpus.audio_bytes(int(row)))
        lines.append(f"{row}.flac\t{round(float(corpus.durations_s[row]) * 16_000)}")
    (folder / "train.tsv").write_text("\n".join([str(folder), *lines * 20]) + "\n")


def join_clips(corpus_folder: Path, folder: Path, seconds: float) -> Path:
    """A corpus in ``folder`` whose clips are joined clips of ``corpus_folder``, up to half as long again as wanted."""
    import io

    import pyarrow as pa
    import soundfile

    from lalia.cards import write_card
    from lalia.data.corpus import COLUMNS, SCHEMA, Corpus, write_index

    corpus, rng = Corpus.load(corpus_folder), np.random.default_rng(0)
    rows: list[dict] = []
    waves: list[np.ndarray] = []
    wanted_s = seconds
    for row in rng.permutation(chosen_rows(corpus_folder)):
        waves.append(corpus.wave(int(row)))
        if sum(map(len, waves)) < wanted_s * 16_000:
            continue
        wave = np.concatenate(waves)[: round(LONGEST_S * 16_000)]
        file = io.BytesIO()
        soundfile.write(file, wave, 16_000, format="FLAC", subtype="PCM_16")
        clip: dict = {"id": str(len(rows)), "audio": {"bytes": file.getvalue(), "path": f"{len(rows)}.flac"}}
        clip |= {"language": "mul", "text": "", "speaker": "", "split": "train", "duration_s": len(wave) / 16_000}
        rows.append(dict.fromkeys(COLUMNS) | clip)
        waves, wanted_s = [], rng.uniform(0.5, 1.5) * seconds
    folder.mkdir()
    shard = folder / "data-00000-of-00001.arrow"
    with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(rows, SCHEMA), max_chunksize=100)
    write_index(folder, [shard.name], len(rows), shard.stat().st_size, "joined", "clips joined for a benchmark")
    write_card(folder, "corpus", [corpus.card])
    return folder


def measure(batches: Batches, seconds: float) -> dict[str, float]:
    """Draw from ``batches`` for ``seconds`` after a warm-up; figures per second of wall clock, CPU of all processes."""
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.5):
            most[0] = max(most[0], memory(tree()))

    threading.Thread(target=watch, daemon=True).start()
    for _ in range(WARM_UP):
        next(batches)
    clips = samples = padded = count = 0
    cpu, started = cpu_s(tree()), time.perf_counter()
    while (wall := time.perf_counter() - started) < seconds:
        more = next(batches)
        clips, samples, padded, count = clips + more[0], samples + more[1], padded + more[2], count + 1
    cpu = cpu_s(tree()) - cpu
    stop.set()
    hours = samples / 16_000 / 3600
    return {
        "clips_per_s": clips / wall,
        "hours_per_s": hours / wall,
        "cpu_s_per_hour": cpu / hours,
        "batch_s": samples / 16_000 / count,
        "padding": 1 - samples / padded,
        "rss_mib": max(most[0], memory(tree())) / 2**20,
    }


def tree() -> list[int]:
    """This process and its children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [os.getpid(), *map(int, children)]


def cpu_s(processes: list[int]) -> float:
    """Processor time of ``processes`` in seconds."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(processes: list[int]) -> int:
    """Total RAM of ``processes`` in bytes; shared memory counts once (PSS)."""
    total = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:  # a worker that has just ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    return total


def print_table(turns: dict[str, list[dict[str, float]]], given: argparse.Namespace) -> None:
    best = {name: max(results, key=lambda r: r["hours_per_s"]) for name, results in turns.items()}
    joined = f" --join-s {given.join_s:g}" if given.join_s else ""
    print(
        f"`python -m benchmarks.data.loader {given.corpus.name}{joined}`, {date.today()}, {processor()}, {os.cpu_count()} cores,"
    )
    print(f"Python {platform.python_version()}; {WORKERS} workers, batches of about {given.batch_s:g} s:\n")
    print("| | clips/s | hours/s | CPU s per hour | CPU relative to lalia | seconds per batch | padding | RAM, MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for name, r in best.items():
        least = {n: min(t["cpu_s_per_hour"] for t in results) for n, results in turns.items()}
        ratio = f"{least[name] / least['ours']:.2f}" if "ours" in least else ""
        print(
            f"| {name} | {r['clips_per_s']:,.0f} | {r['hours_per_s']:.2f} | {least[name]:.2f} | {ratio} "
            f"| {r['batch_s']:.0f} | {100 * r['padding']:.1f} % | {r['rss_mib']:,.0f} |"
        )


if __name__ == "__main__":
    main()
