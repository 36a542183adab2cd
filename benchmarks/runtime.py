"""What running a student costs, beside peers on the same audio: ``python -m benchmarks.runtime STUDENT CLIP…``.

Cold start, import time, packages of ``pip install .``, peak memory, and real-time factors by threads and jobs, of short clips and
of one long file. Every measurement is a process of its own; contenders take turns round by round, and the median is shown.
``cpu`` is processor time, which other programs on the machine do not lengthen; ``wall`` is the clock on the wall.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from lalia.audio.reading import read_audio
from lalia.scoring.rates import character_errors
from lalia.units import SAMPLE_RATE

ROOT = Path(__file__).parents[1]

Hear = Callable[[np.ndarray], str]


def student(folder: str, threads: int) -> Hear:
    from lalia import Student

    loaded = Student.load(folder, threads=threads)
    return lambda wave: loaded.transcribe(wave).text


def torch_recogniser(folder: str, threads: int, int8: bool) -> Hear:
    """The recogniser that the student was exported of, in torch; with ``int8`` its linear layers dynamically quantized."""
    import soundfile as _  # noqa: F401  # before fairseq2
    import torch

    from lalia.decoding.greedy import best_path, transcript
    from lalia.models.recogniser import Recogniser
    from lalia.runtime.student import SHORTEST

    torch.set_num_threads(threads)
    recogniser = Recogniser.load(Path(folder)).eval()
    model: torch.nn.Module = recogniser
    if int8:
        from lalia.models.deployed import Deployed, Product

        def linear(product: Product) -> torch.nn.Linear:
            inputs, outputs = product.weight_IO.shape
            made = torch.nn.Linear(inputs, outputs, bias=product.bias_O is not None)
            made.weight.data = product.weight_IO.T.contiguous()
            if product.bias_O is not None:
                made.bias.data = product.bias_O.data
            return made

        def replace(module: torch.nn.Module) -> None:
            for name, child in module.named_children():
                if isinstance(child, Product):
                    setattr(module, name, linear(child))
                else:
                    replace(child)

        model = Deployed(recogniser)
        replace(model)
        # torch's own quantization needs its linear layers; the deployed form is the student's graph in torch.
        model = torch.ao.quantization.quantize_dynamic(model.eval(), {torch.nn.Linear}, dtype=torch.qint8)

    @torch.inference_mode()
    def hear(wave: np.ndarray) -> str:
        wave_BS = torch.from_numpy(np.pad(wave, (0, max(0, SHORTEST - len(wave)))))[None]
        if int8:
            log_probs_BTV = model(wave_BS)
        else:
            log_probs_BTV, _ = recogniser.log_probs(wave_BS, torch.tensor([wave_BS.shape[1]]))
        return transcript(best_path(log_probs_BTV[0].numpy()), recogniser.tokens)

    return hear


def sherpa(folder: str, threads: int) -> Hear:
    """The folder that ``lalia convert STUDENT sherpa:FOLDER`` makes, in sherpa-onnx."""
    import sherpa_onnx

    recogniser = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        f"{folder}/model.onnx", f"{folder}/tokens.txt", num_threads=threads
    )

    def hear(wave: np.ndarray) -> str:
        stream = recogniser.create_stream()
        stream.accept_waveform(SAMPLE_RATE, wave)
        recogniser.decode_stream(stream)
        return str(stream.result.text)

    return hear


def pocketsphinx(_: str, threads: int) -> Hear:
    """PocketSphinx with the English model that its package carries: its speed and memory, not its words, where others speak."""
    from pocketsphinx import Decoder

    decoder = Decoder(loglevel="FATAL")

    def hear(wave: np.ndarray) -> str:
        decoder.start_utt()
        decoder.process_raw((wave * 32767).astype(np.int16).tobytes(), no_search=False, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return found.hypstr if found else ""

    return hear


CONTENDERS: dict[str, tuple[str, Callable[[str, int], Hear]]] = {
    # name: (which folder, how it is loaded)
    "lalia, int8": ("student", student),
    "sherpa-onnx, the same int8 file": ("sherpa", sherpa),
    "torch, float": ("recogniser", lambda folder, threads: torch_recogniser(folder, threads, False)),
    "torch, dynamic int8": ("recogniser", lambda folder, threads: torch_recogniser(folder, threads, True)),
    "PocketSphinx, English": ("", pocketsphinx),
}


def contend(name: str, folder: str, threads: int, clips: Sequence[str]) -> dict[str, Any]:
    """In this process: seconds of processor and wall per second of audio, the peak of resident memory, and the texts."""
    hear = CONTENDERS[name][1](folder, threads)
    waves = [read_audio(clip) for clip in clips]
    hear(waves[0])
    cpu, wall = time.process_time(), time.perf_counter()
    texts = [" ".join(hear(wave).split()) for wave in waves]
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
    """What this module prints when it is run with ``argv``."""
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.runtime", *map(str, argv)], capture_output=True, text=True, cwd=ROOT
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
    """What ``pip install .`` would bring into an empty environment, by pip's own report."""
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


def long_file(folder: str, path: Path, jobs: int) -> dict[str, Any]:
    """In this process: one long file by ``jobs`` jobs."""
    from lalia import Student

    loaded = Student.load(folder, threads=1)
    cpu, wall = time.process_time(), time.perf_counter()
    heard = loaded.transcribe(path, jobs=jobs)
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "audio_s": heard.duration_s,
        "text": heard.text,
        "peak_mb": peak_mb("self"),
    }


def write_long(path: Path, clips: Sequence[str], minutes: float) -> int:
    """``clips`` again and again with pauses of half a second between them, as the kind of file that ``path`` says; how many."""
    waves = [np.pad(read_audio(clip), (0, SAMPLE_RATE // 2)) for clip in clips]
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        written, number = 0, 0
        while written < minutes * 60 * SAMPLE_RATE:
            file.write(waves[number % len(waves)])
            written += len(waves[number % len(waves)])
            number += 1
    return number


def difference(texts: Sequence[str], expected: Sequence[str]) -> float:
    """Character errors of ``texts`` against ``expected``: how much two runs of a model differ."""
    counts = [character_errors(one, other) for one, other in zip(expected, texts, strict=True)]
    return sum(counts[1:], counts[0]).rate


def main() -> int:
    """The tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", help="a student folder")
    parser.add_argument("clips", nargs="+", help="speech: audio files")
    parser.add_argument("--recogniser", default="", help="what the student was exported of: torch is measured too")
    parser.add_argument(
        "--sherpa", default="", help="what lalia convert made of the student: sherpa-onnx is measured too"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, nargs="*", default=[10, 60, 180], help="of long files")
    parser.add_argument("--contend", nargs=2, metavar=("NAME", "THREADS"), help=argparse.SUPPRESS)
    parser.add_argument("--long", type=int, metavar="JOBS", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contend:
        name, threads = args.contend
        print(json.dumps(contend(name, args.student, int(threads), args.clips)))
        return 0
    if args.long:
        print(json.dumps(long_file(args.student, Path(args.clips[0]), args.long)))
        return 0

    found = packages()
    print(f"packages of pip install .: {len(found)} ({', '.join(found)})")
    python = elapsed([sys.executable, "-c", "pass"], args.rounds)
    imported = elapsed([sys.executable, "-c", "import lalia"], args.rounds)
    cold = elapsed([sys.executable, "-m", "lalia.cli", "transcribe", args.student, args.clips[0]], args.rounds)
    print("\n| | cpu s | wall s |\n|---|---|---|")
    for name, row in (("python -c pass", python), ("import lalia", imported), ("lalia transcribe, one clip", cold)):
        print(f"| {name} | {row['cpu']:.3f} | {row['wall']:.3f} |")

    folders = {"student": args.student, "recogniser": args.recogniser, "sherpa": args.sherpa, "": "-"}
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
        "\n| file | jobs | cpu s | wall s | × real time | other than its pieces | peak MB |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as work:
        for minutes in args.minutes:
            for suffix in ("flac", "mp3"):
                path = Path(work) / f"{minutes:g}.{suffix}"
                pieces = [ours[number % len(ours)] for number in range(write_long(path, args.clips, minutes))]
                for jobs in (1, 2):
                    long = in_a_process(args.student, path, "--long", jobs)
                    print(
                        f"| {minutes:g} min {suffix.upper()} | {jobs} | {long['cpu']:.1f} | {long['wall']:.1f} | "
                        f"{long['audio_s'] / long['wall']:.0f} | "
                        f"{100 * difference([long['text']], [' '.join(filter(None, pieces))]):.1f} % | {long['peak_mb']:.0f} |",
                        flush=True,
                    )
                path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
