"""Metrics of the server in Prometheus' text format: counters, a histogram of times, and gauges."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from lalia.units import Seconds

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS_S: tuple[Seconds, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


class Metrics:
    """Counters since the start; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._took_s: Seconds = 0.0
        self._took = 0
        self._audio_s: Seconds = 0.0
        self._work_s: Seconds = 0.0
        self._faults = 0

    def faulted(self) -> None:
        """Count an exception that is a bug."""
        with self._lock:
            self._faults += 1

    def answered(self, route: str, status: int) -> None:
        with self._lock:
            self._requests[route, status] += 1

    def transcribed(self, took_s: Seconds, audio_s: Seconds, work_s: Seconds) -> None:
        """Count a transcript that took ``took_s`` after its upload, ``work_s`` of them in a worker."""
        with self._lock:
            self._took += 1
            self._took_s += took_s
            self._audio_s += audio_s
            self._work_s += work_s
            for bound in _BUCKETS_S:
                self._buckets[bound] += took_s <= bound

    def streamed(self, audio_s: Seconds, work_s: Seconds) -> None:
        """Count a finished stream."""
        with self._lock:
            self._audio_s += audio_s
            self._work_s += work_s

    def render(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """The counters and ``gauges`` (name -> (meaning, value)) as text."""
        with self._lock:
            lines = [
                *_head("lalia_requests_total", "counter", "Requests answered, by route and status."),
                *(f'lalia_requests_total{{route="{route}",status="{status}"}} {count}'
                  for (route, status), count in sorted(self._requests.items())),
                *_head("lalia_faults_total", "counter", "Exceptions in the server, each logged with its request's id."),
                f"lalia_faults_total {self._faults}",
                *_head("lalia_audio_seconds_total", "counter", "Audio transcribed."),
                f"lalia_audio_seconds_total {self._audio_s:.3f}",
                *_head("lalia_work_seconds_total", "counter", "Time that worker threads spent on transcription."),
                f"lalia_work_seconds_total {self._work_s:.3f}",
                *_head("lalia_transcription_seconds", "histogram", "From the end of an upload to its transcript."),
                *(f'lalia_transcription_seconds_bucket{{le="{bound:g}"}} {self._buckets[bound]}' for bound in _BUCKETS_S),
                f'lalia_transcription_seconds_bucket{{le="+Inf"}} {self._took}',
                f"lalia_transcription_seconds_sum {self._took_s:.3f}",
                f"lalia_transcription_seconds_count {self._took}",
            ]  # fmt: skip
        for name, (meaning, value) in gauges.items():
            lines += [*_head(name, "gauge", meaning), f"{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
