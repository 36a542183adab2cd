"""Loaders side by side: ours, fairseq2's and what users of transformers write, on the same clips in one run.

    OMP_NUM_THREADS=1 python benchmarks/loader.py CORPUS [--join-s 14]

Every contender reads the same FLAC files of 0.5 to 20 s with two decoding processes (or threads), makes float32 batches of
about ``--batch-s`` seconds and is asked for one after another as fast as it can. Each runs in its own process, in turns, so
that what else the machine does hits all alike; the best turn of each counts, by the clock and by processor time.

ours            BatchPlan + make_loader, which reads ahead with threads.
ours-fork       the same with forked processes.
transformers    ``datasets`` (Audio column, decoded as it comes) + Wav2Vec2FeatureExtractor + LengthGroupedSampler + DataLoader,
                as run_speech_recognition_ctc.py of transformers does, decoding on the fly. Needs torchcodec and FFmpeg.
transformers-sf the same, decoded with soundfile instead of torchcodec.
fairseq2        the data pipeline of fairseq2 0.8.1's recipes/wav2vec2/ssl as composed there: shuffle, bucket_by_length,
                FileMapper, AudioDecoder, crops to the shortest clip of a batch.
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
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np

SHORTEST_S, LONGEST_S = 0.5, 20.0
WORKERS = 2
WARM_UP = 20
Batches = Iterator[tuple[int, int, int]]  # clips, samples of audio, samples with padding


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("corpus", type=Path)
    arguments.add_argument("--batch-s", type=float, default=60.0)
    arguments.add_argument("--seconds", type=float, default=6.0, help="how long each turn lasts")
    arguments.add_argument("--turns", type=int, default=3)
    arguments.add_argument("--join-s", type=float, default=0.0, help="join clips to about so many seconds first")
    arguments.add_argument("--only", nargs="*", choices=list(CONTENDERS), default=list(CONTENDERS))
    arguments.add_argument("--run", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    arguments.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.run:
        print(json.dumps(measure(CONTENDERS[given.run](given), given.seconds)))
        return
    if "transformers" in given.only and not importlib.util.find_spec("torchcodec"):
        print("no torchcodec here: the contender `transformers` is left out", file=sys.stderr)
        given.only.remove("transformers")
    with tempfile.TemporaryDirectory() as folder:
        source = join_clips(given.corpus, Path(folder) / "joined", given.join_s) if given.join_s else given.corpus
        write_files(source, Path(folder))
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in given.only}
        for turn in range(given.turns):
            for name in given.only if turn % 2 == 0 else reversed(given.only):
                command = [sys.executable, __file__, str(source), "--run", name, "--files", folder]
                command += ["--batch-s", str(given.batch_s), "--seconds", str(given.seconds)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                turns[name].append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{name}: {turns[name][-1]['hours_per_s'] * 3600:,.0f} x real time", file=sys.stderr)
    print_table(turns, given)


def chosen_rows(folder: Path) -> np.ndarray:
    """The clips that every contender reads."""
    from lalia.data.corpus import Corpus

    durations_s = Corpus.load(folder).durations_s
    return np.flatnonzero((durations_s >= SHORTEST_S) & (durations_s <= LONGEST_S))


def write_files(corpus_folder: Path, folder: Path) -> None:
    """The clips as FLAC files with fairseq's manifest: 20 times over, so that its epochs are long as on a real corpus."""
    from lalia.data.corpus import Corpus

    corpus = Corpus.load(corpus_folder)
    lines = []
    for row in chosen_rows(corpus_folder):
        (folder / f"{row}.flac").write_bytes(corpus.audio_bytes(int(row)))
        lines.append(f"{row}.flac\t{round(float(corpus.durations_s[row]) * 16_000)}")
    (folder / "train.tsv").write_text("\n".join([str(folder), *lines * 20]) + "\n")


def join_clips(corpus_folder: Path, folder: Path, seconds: float) -> Path:
    """A corpus in ``folder`` whose clips are those of ``corpus_folder`` one after another, to half as long again or less."""
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


def ours(given: argparse.Namespace) -> Batches:
    return _ours(given, "threads")


def ours_forked(given: argparse.Namespace) -> Batches:
    return _ours(given, "fork")


def _ours(given: argparse.Namespace, context: Literal["threads", "fork"]) -> Batches:
    from lalia.data.corpus import Corpus
    from lalia.data.loader import make_loader
    from lalia.data.plan import BatchPlan

    corpus = Corpus.load(given.corpus)
    plan = BatchPlan(
        durations_s=corpus.durations_s,
        groups=corpus.languages,
        seed=1,
        micro_batch_s=given.batch_s,
        min_s=SHORTEST_S,
        max_s=LONGEST_S,
        crop=False,
        alpha=1.0,
    )
    for batch in make_loader(corpus, plan, start=0, workers=WORKERS, context=context):
        yield len(batch.wave_BS), batch.samples, batch.wave_BS.numel()


def transformers_torchcodec(given: argparse.Namespace) -> Batches:
    return _transformers(given, by_torchcodec=True)


def transformers_soundfile(given: argparse.Namespace) -> Batches:
    return _transformers(given, by_torchcodec=False)


def _transformers(given: argparse.Namespace, by_torchcodec: bool) -> Batches:
    import io

    import datasets
    import soundfile
    import torch
    from transformers import Wav2Vec2FeatureExtractor
    from transformers.trainer_pt_utils import LengthGroupedSampler

    dataset = datasets.load_from_disk(str(given.corpus)).select(chosen_rows(given.corpus))
    dataset = dataset.cast_column("audio", datasets.Audio(sampling_rate=16_000, decode=by_torchcodec))
    lengths = [round(seconds * 16_000) for seconds in dataset["duration_s"]]
    extractor = Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)

    def prepare(batch: dict) -> dict:
        if by_torchcodec:
            waves = [audio["array"] for audio in batch["audio"]]
        else:
            waves = [soundfile.read(io.BytesIO(audio["bytes"]), dtype="float32")[0] for audio in batch["audio"]]
        return {"input_values": [extractor(wave, sampling_rate=16_000).input_values[0] for wave in waves]}

    def collate(features: list[dict]) -> dict:
        return dict(extractor.pad(features, padding=True, return_tensors="pt"))

    size = round(given.batch_s * 16_000 / np.mean(lengths))
    loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
        dataset.with_transform(prepare),
        batch_size=size,
        sampler=LengthGroupedSampler(size, lengths=lengths),
        collate_fn=collate,
        num_workers=WORKERS,
        prefetch_factor=4,
        persistent_workers=True,
    )
    while True:
        for batch in loader:
            mask = batch["attention_mask"]
            yield len(mask), int(mask.sum()), mask.numel()


def fairseq2(given: argparse.Namespace) -> Batches:
    import soundfile  # noqa: F401 - brings the libsndfile that fairseq2 asks for
    import torch
    from fairseq2.data.audio import AudioDecoder
    from fairseq2.data.data_pipeline import Collater, FileMapper, create_bucket_sizes
    from fairseq2.data.text import StrSplitter, read_text

    longest = round(LONGEST_S * 16_000)
    elements = round(given.batch_s * 16_000) // longest * longest
    sizes = create_bucket_sizes(
        min_seq_len=round(SHORTEST_S * 16_000), max_seq_len=longest, max_num_elements=elements, num_seqs_multiple_of=8
    )
    generator = np.random.RandomState(1)

    def crop(batch: list[dict]) -> list[dict]:
        size = min(len(example["audio"]["data"]["waveform"]) for example in batch)
        for example in batch:
            data = example["audio"]["data"]
            if len(data["waveform"]) > size:
                start = generator.randint(0, len(data["waveform"]) - size)
                data["waveform"] = data["waveform"][start : start + size]
        return batch

    builder = read_text(given.files / "train.tsv", rtrim=True, memory_map=True)
    builder.skip(1)
    builder.map(StrSplitter(names=["audio", "audio_size"]))
    builder.map(int, selector="audio_size")
    builder.shuffle(500_000, 1)
    builder.bucket_by_length(
        sizes, selector="audio_size", min_data_len=1, skip_below_min_examples=True, skip_above_max_examples=True
    )
    builder.shuffle(0, 2)
    builder.map(FileMapper(given.files, cached_fd_count=1000), selector="[*].audio")
    builder.map(AudioDecoder(dtype=torch.float32), selector="[*].audio.data", num_parallel_calls=10)
    builder.map(crop)
    builder.map(Collater(pad_value=None))
    builder.prefetch(4)
    pipeline = builder.and_return()
    while True:
        for batch in pipeline:
            wave = batch["audio"]["data"]["waveform"]
            yield len(wave), wave.numel(), wave.numel()
        pipeline.reset()


CONTENDERS: dict[str, Callable[[argparse.Namespace], Batches]] = {
    "ours": ours,
    "ours-fork": ours_forked,
    "transformers": transformers_torchcodec,
    "transformers-sf": transformers_soundfile,
    "fairseq2": fairseq2,
}


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
    """Seconds of processor time that ``processes`` have used."""
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(processes: list[int]) -> int:
    """Bytes of RAM of ``processes`` together; what they share counts once (PSS)."""
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
    cpus = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    joined = f" --join-s {given.join_s:g}" if given.join_s else ""
    print(
        f"`python benchmarks/loader.py {given.corpus.name}{joined}`, {date.today()}, {cpus[0]}, {os.cpu_count()} cores,"
    )
    print(f"Python {platform.python_version()}; {WORKERS} workers, batches of about {given.batch_s:g} s:\n")
    print("| | clips/s | hours/s | CPU s per hour | times ours (CPU) | seconds of a batch | padding | RAM, MiB |")
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
