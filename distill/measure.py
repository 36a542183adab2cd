"""Measurements for export: error rates, speed, memory and start-up time of students and teachers, on the same clips.

A student is measured as its users run it, from its folder with the runtime; a teacher runs in torch.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from lalia.audio.encoding import flac_bytes
from lalia.cards import processor
from lalia.data.mixture import Mixture
from lalia.decoding.greedy import greedy, transcript
from lalia.errors import AudioError
from lalia.models.recogniser import Recogniser
from lalia.onnx_session import open_session
from lalia.runtime.student import SHORTEST
from lalia.runtime.transcript import Transcript
from lalia.scoring.evaluation import Evaluation
from lalia.scoring.rates import Score
from lalia.units import Seconds, to_samples, to_seconds

FOOTPRINT_S: Seconds = 30.0
"""Length of the clip for memory and cold start: one window of the runtime."""

_COLD_START = """
import json, pathlib, sys, time
from lalia import Student
text = Student.load(sys.argv[1], threads=1).transcribe(sys.argv[2]).text
done = time.time()
status = pathlib.Path("/proc/self/status")
if status.exists():
    # Not getrusage: its maximum includes the memory of the parent before exec.
    peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
else:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps({"done": done, "peak_kb": peak}))
"""


class TorchModel:
    """A recogniser in torch as an ``AcousticModel``: a teacher, or a student before its export. ``card`` is its folder's."""

    def __init__(self, recogniser: Recogniser, card: dict[str, Any]) -> None:
        self.recogniser = recogniser
        self.card = card
        self.tokens = recogniser.tokens
        self.normaliser = recogniser.normaliser
        self.frame_s = recogniser.frame_s

    def log_probs(self, wave: np.ndarray) -> np.ndarray:
        """Natural log-probabilities (T, V) float32 of a wave (samples,), float32 at 16 kHz."""
        padded = torch.from_numpy(np.pad(wave, (0, max(0, SHORTEST - len(wave)))))[None]
        device = self.recogniser.head.weight.device
        log_probs_BTV, _ = self.recogniser.log_probs(padded.to(device), torch.tensor([padded.shape[1]]))
        return log_probs_BTV[0].cpu().numpy()

    def transcribe(self, wave: np.ndarray, name: str = "") -> Transcript:
        """The text of a wave by greedy decoding, without words."""
        return Transcript(transcript(greedy(self.log_probs(wave)), self.tokens), duration_s=to_seconds(len(wave)))


def figures(found: Evaluation) -> dict[str, Any]:
    """Error rates, intervals and number of clips for a card."""
    return rates(found.score()) | {"clips": len(found.clips)}


def rates(scored: Score) -> dict[str, Any]:
    return {
        "cer": scored.cer.rate, "cer_interval": list(scored.cer_interval),
        "wer": scored.wer.rate, "wer_interval": list(scored.wer_interval),
    }  # fmt: skip


def sample(mixture: Mixture, rows: Sequence[int] | np.ndarray, seconds: Seconds) -> list[int]:
    """At least one row, about ``seconds`` in total, spread evenly over ``rows``."""
    total = float(mixture.durations_s[rows].sum())
    step = max(1.0, total / max(seconds, 1e-9))
    places = np.unique((np.arange(int(len(rows) / step) or 1) * step).astype(int))
    return [int(rows[place]) for place in places]


def waves(mixture: Mixture, rows: Iterable[int]) -> list[np.ndarray]:
    """The waves of the readable ``rows``."""
    found = []
    for row in rows:
        try:
            found.append(mixture.wave(row))
        except AudioError:
            continue
    return found


def real_time_factors(
    contenders: Mapping[str, Callable[[np.ndarray], Any]], clips: Sequence[np.ndarray], repeats: int,
    clock: Callable[[], float],
) -> dict[str, float]:  # fmt: skip
    """Seconds of work per second of audio by ``clock``, the median of ``repeats`` runs over ``clips``.

    The contenders alternate clip by clip, so that other load on the machine affects them equally.
    """
    audio_s = sum(to_seconds(len(clip)) for clip in clips)
    for run in contenders.values():  # the first run allocates and compiles
        run(clips[0])
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(max(1, repeats)):
        spent = dict.fromkeys(contenders, 0.0)
        for clip in clips:
            for name, run in contenders.items():
                begun = clock()
                run(clip)
                spent[name] += clock() - begun
        for name, seconds in spent.items():
            taken[name].append(seconds)
    return {name: statistics.median(times) / audio_s for name, times in taken.items()}


def with_threads(run: Callable[[np.ndarray], Any], threads: int) -> Callable[[np.ndarray], Any]:
    """``run`` with torch on ``threads`` threads; the previous number is restored after each call."""

    def threaded(clip: np.ndarray) -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return run(clip)
        finally:
            torch.set_num_threads(before)

    return threaded


def footprint(folder: Path, clip: np.ndarray, repeats: int = 3) -> dict[str, float]:
    """Cold start (process start to text, seconds) and peak memory of a process that transcribes 30 s with ``folder``."""
    long = np.resize(clip, to_samples(FOOTPRINT_S))
    starts, peaks = [], []
    with tempfile.TemporaryDirectory() as work:
        audio = Path(work) / "clip.flac"
        audio.write_bytes(flac_bytes(long))
        for _ in range(repeats):
            begun = time.time()
            ended = subprocess.run(
                [sys.executable, "-c", _COLD_START, str(folder), str(audio)], capture_output=True, text=True, check=True
            )
            found = json.loads(ended.stdout)
            starts.append(found["done"] - begun)
            peaks.append(found["peak_kb"] / 1024)
    return {"cold_start_s": round(statistics.median(starts), 3), "peak_memory_mb": round(statistics.median(peaks), 1)}


def operator_shares(model: Path, clip: np.ndarray) -> dict[str, float]:
    """Share of the run time of each operator type, largest first."""
    with tempfile.TemporaryDirectory() as work:
        session = open_session(model, profile=Path(work) / "profile")
        for _ in range(5):
            session.run(None, {"wave": clip[None]})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    taken: dict[str, float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            kind = event["args"]["op_name"]
            taken[kind] = taken.get(kind, 0.0) + event["dur"]
    total = sum(taken.values()) or 1.0
    return {kind: round(t / total, 4) for kind, t in sorted(taken.items(), key=lambda item: -item[1])}


def machine() -> dict[str, Any]:
    """The machine and versions of the measurements."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": processor(), "cores": cores, "system": platform.system(), "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__, "torch": torch.__version__,
    }  # fmt: skip
