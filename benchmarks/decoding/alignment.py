"""Forced alignment: lalia's (NumPy) compared with torchaudio's. The paths must be equal; times are on one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.decoding.alignment data/demo --language ita --student runs/demo/student

It aligns clips with their labels, as `lalia finetune check --recogniser` does; the time of the student is printed for comparison.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from finetune.check.findings import read_labels
from lalia.data.corpus import Corpus
from lalia.decoding import forced_alignment as ours
from lalia.models import recogniser as theirs
from lalia.runtime.student import Student
from lalia.text.languages import profile


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--language", required=True)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=300)
    args = parser.parse_args()
    student = Student.load(args.student, 1)
    labels = read_labels(Corpus.load(args.corpus), profile(args.language), student.normaliser, student.frame_s)
    pairs, student_s = [], 0.0
    for text, row in list(zip(labels.normal, labels.rows, strict=True))[: args.clips]:
        wave, ids = labels.corpus.wave(int(row)), student.tokens.encode(text, skip_unknown=True)
        begun = time.process_time()
        log_probs_TV = student.log_probs(wave)
        student_s += time.process_time() - begun
        if ours.frames_needed(ids) <= len(log_probs_TV):
            pairs.append((log_probs_TV, ids))
    spent, paths = {}, {}
    for name, room in (("NumPy", ours), ("torchaudio", theirs)):
        room.align(*pairs[0])  # a warm-up, without measuring
        begun = time.process_time()
        paths[name] = [room.align(*pair) for pair in pairs]
        spent[name] = time.process_time() - begun
    equal = sum(np.array_equal(a, b) for a, b in zip(*paths.values(), strict=True))
    frames = sum(len(log_probs_TV) for log_probs_TV, _ in pairs)
    print(
        f"{len(pairs)} clips, {frames:,} frames, {sum(len(ids) for _, ids in pairs):,} tokens; {equal} paths are equal"
    )
    for name, seconds in spent.items():
        print(f"{name:10} {1e3 * seconds / len(pairs):6.2f} ms per clip, {1e6 * seconds / frames:5.1f} µs per frame")
    print(f"{'student':10} {1e3 * student_s / len(pairs):6.2f} ms per clip")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
