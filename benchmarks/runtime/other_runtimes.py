"""The texts of a student in sherpa-onnx and onnx-asr beside its own.

    python -m benchmarks.runtime.other_runtimes STUDENT CLIP…

Converts the student, transcribes each clip (up to 30 s: lalia cuts longer ones into windows) on one thread, and prints the texts
that are the same, the share of characters that differ, and processor seconds. onnx-asr is skipped where its ``wav2vec2-ctc`` is
missing; it also gets the clips in batches of eight.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lalia.audio.reading import read_audio
from lalia.errors import run
from lalia.models.convert.other_runtimes import write_onnx_asr, write_sherpa
from lalia.runtime.student import Student
from lalia.scoring.rates import character_errors

BATCH = 8
Transcribe = Callable[[Sequence[np.ndarray]], list[str]]


def sherpa(folder: Path) -> Transcribe:
    import sherpa_onnx

    recogniser = sherpa_onnx.OfflineRecognizer.from_omnilingual_asr_ctc(
        str(folder / "model.onnx"), str(folder / "tokens.txt"), num_threads=1
    )

    def transcribe(waves: Sequence[np.ndarray]) -> list[str]:
        texts = []
        for wave in waves:
            stream = recogniser.create_stream()
            stream.accept_waveform(16_000, wave)
            recogniser.decode_stream(stream)
            texts.append(" ".join(stream.result.text.split()))
        return texts

    return transcribe


def onnx_asr(folder: Path, batch: int) -> Transcribe:
    import onnx_asr
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model: Any = onnx_asr.load_model("wav2vec2-ctc", folder, sess_options=options, providers=["CPUExecutionProvider"])

    def transcribe(waves: Sequence[np.ndarray]) -> list[str]:
        pieces = [waves[start : start + batch] for start in range(0, len(waves), batch)]
        return [text for piece in pieces for text in model.recognize(list(piece))]

    return transcribe


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("clips", type=Path, nargs="+")
    args = parser.parse_args(argv)
    student = Student.load(args.student, threads=1)
    waves = [read_audio(clip) for clip in args.clips]
    ours, lines = None, []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_sherpa(args.student, folder / "sherpa")
        write_onnx_asr(args.student, folder / "onnx-asr")
        runtimes: dict[str, Callable[[], Transcribe]] = {
            "lalia": lambda: lambda waves: [student.transcribe(wave).text for wave in waves],
            "sherpa-onnx": lambda: sherpa(folder / "sherpa"),
            "onnx-asr": lambda: onnx_asr(folder / "onnx-asr", 1),
            f"onnx-asr, batches of {BATCH}": lambda: onnx_asr(folder / "onnx-asr", BATCH),
        }
        for name, make in runtimes.items():
            try:
                transcribe = make()
            except (ImportError, ValueError) as error:
                print(f"{name} is skipped: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            begun = time.process_time()
            texts = transcribe(waves)
            took_s = time.process_time() - begun
            ours = ours or texts
            counts = [character_errors(a, b) for a, b in zip(ours, texts, strict=True)]
            same = sum(count.errors == 0 for count in counts)
            differs = sum(count.errors for count in counts) / max(sum(count.reference for count in counts), 1)
            lines.append(f"| {name} | {same} of {len(texts)} | {100 * differs:.2f} % | {took_s:.2f} |")
    print("\n".join(["| runtime | same texts | characters that differ | processor s |", "|---|---|---|---|", *lines]))
    return 0


if __name__ == "__main__":
    sys.exit(run(main, "benchmark"))
