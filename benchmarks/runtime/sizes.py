"""Speed, size and memory of student sizes before training, with untrained models exported as students.

    python -m benchmarks.runtime.sizes CLIP… [--size pocket laptop server] [--minutes 60 180]

Speed and memory of greedy decoding do not depend on training. Those of beam search do, because an untrained model has flat
probabilities; `python -m benchmarks.runtime.speed STUDENT CLIP… --lm LM` measures a trained one.
"""

from __future__ import annotations

import argparse
import string
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.runtime.speed import elapsed, in_a_process, long_files, write_long
from distill.config import DistillSettings, RegularSettings, StudentSettings
from distill.measure import real_time_factors
from distill.student import make_student
from lalia import config
from lalia.audio.reading import read_audio
from lalia.cards import write_card
from lalia.model_folder import MODEL, NORMALISER, TOKENS, file_hashes
from lalia.models.encoder import Encoder
from lalia.models.export.int8 import groups, quantize
from lalia.models.export.onnx_export import export_graph
from lalia.models.recogniser import Recogniser
from lalia.models.shape import EncoderShape
from lalia.models.store import count_parameters
from lalia.runtime.student import Student
from lalia.text.normaliser import Normaliser, NormaliserSettings
from lalia.text.tokens import BLANK, BOUNDARY, Tokens
from lalia.units import SAMPLE_RATE

CONFIGS = Path(__file__).parents[2] / "configs" / "distill"
HEAD_WIDTH = 64


def teacher_for(student: StudentSettings) -> Recogniser:
    """An untrained log-mel teacher just large enough for ``student``, with the architecture of nano's recogniser."""
    shape = EncoderShape(
        input="logmel", width=student.width, layers=student.layers, heads=student.width // HEAD_WIDTH,
        feedforward=student.feedforward, block="convolutional", block_kernel=9, position="rotary", dropout=0.0,
        attention_dropout=0.0, layerdrop=0.0,
    )  # fmt: skip
    return Recogniser(
        Encoder(shape), Tokens([BLANK, BOUNDARY, *string.ascii_lowercase]), Normaliser(NormaliserSettings())
    )


def make(size: str, folder: Path) -> tuple[int, int]:
    """Write the untrained student of ``size`` to ``folder`` in int8, and to ``folder-float`` in float: (parameters, bytes)."""
    settings = config.load(DistillSettings, ["--config", str(CONFIGS / f"{size}.yaml")], "benchmarks.runtime.sizes", "")
    recogniser = make_student(teacher_for(settings.student), settings.student, RegularSettings())
    whole = folder.with_name(folder.name + "-float")
    for place in (whole, folder):
        place.mkdir(parents=True)
        if place is whole:
            export_graph(recogniser, place / MODEL)
        else:
            quantize(whole / MODEL, place / MODEL, groups(whole / MODEL))
        recogniser.tokens.save(place / TOKENS)
        recogniser.normaliser.to_json(place / NORMALISER)
        write_card(place, "student", [], frame_s=recogniser.frame_s, sample_rate=SAMPLE_RATE, files=file_hashes(place))
    return count_parameters(recogniser), (folder / MODEL).stat().st_size


def measure(size: str, folder: Path, clip: Path, repeats: int) -> dict[str, Any]:
    """Bytes, and on one thread the real-time factor and the seconds of a cold start."""
    parameters, size_bytes = make(size, folder)
    whole = folder.with_name(folder.name + "-float")
    contenders = {"int8": Student.load(folder, 1).transcribe, "float": Student.load(whole, 1).transcribe}
    rtf = real_time_factors(contenders, [read_audio(clip)], repeats, time.thread_time)
    cold = elapsed([sys.executable, "-m", "lalia.cli.main", "transcribe", str(folder), str(clip)], repeats)
    return {"parameters": parameters, "bytes": size_bytes, "rtf": rtf, "cold": cold}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", help="speech: audio files")
    parser.add_argument("--size", nargs="*", default=["pocket", "laptop", "server"], help="names in configs/distill")
    parser.add_argument("--minutes", type=float, nargs="*", default=[60.0], help="minutes of the long files")
    parser.add_argument("--formats", nargs="*", default=["flac", "mp3"], help="formats of the long files")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        clip = Path(work) / "half-minute.flac"
        write_long(clip, args.clips, 0.5)
        print(
            "| size | parameters | MB | RTF, int8 | × real time | float | cold start, cpu s | wall s |\n"
            + "|---" * 8
            + "|"
        )
        for size in args.size:
            row = measure(size, Path(work) / size, clip, args.repeats)
            one, whole = row["rtf"]["int8"], row["rtf"]["float"]
            print(
                f"| {size} | {row['parameters'] / 1e6:.1f} M | {row['bytes'] / 1e6:.1f} | {one:.4f} | {1 / one:.0f} | "
                f"{1 / whole:.0f} | {row['cold']['cpu']:.2f} | {row['cold']['wall']:.2f} |",
                flush=True,
            )
        print(f"\n| size | file | cpu s, {args.jobs} jobs | wall s | peak MB |\n" + "|---" * 5 + "|")
        for name, path, _ in long_files(Path(work), args.clips, args.minutes, args.formats):
            for size in args.size:
                long = in_a_process(Path(work) / size, path, "--long", args.jobs)
                print(
                    f"| {size} | {name} | {long['cpu']:.1f} | {long['wall']:.1f} | {long['peak_mb']:.0f} |", flush=True
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
