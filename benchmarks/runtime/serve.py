"""Server benchmark: robustness under 20,000 malicious requests, and throughput by number of clients.

    python -m benchmarks.runtime.serve STUDENT CLIP… [--sherpa sherpa-onnx-offline-websocket-server]

Prints a table of the attacks (the answers, and whether anything was read, written or leaked) and one of the throughput, beside
sherpa-onnx's server with the same student if its program is given (in the wheel sherpa-onnx-bin). Exit status 1 if any attack
succeeded.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import httpx
import numpy as np
from websockets.sync.client import connect as connect_websocket

from benchmarks.runtime.hostile import Attacks, fire, wrong
from lalia.audio.encoding import flac_bytes
from lalia.audio.reading import read_audio
from lalia.cards import cores
from lalia.models.convert.other_runtimes import write_sherpa
from lalia.units import SAMPLE_RATE, Seconds, to_seconds

CANARY = "canary-5a1e"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
Connect = Callable[[], AbstractContextManager[Callable[[int], None]]]
"""Opens a client's connection, which sends the clip of a number and waits for its text."""


@dataclass
class Watched:
    """A server process: its address and its resources."""

    process: subprocess.Popen
    port: int
    folder: Path

    def memory_mb(self) -> float:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE_BYTES / 1e6

    def processor_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def post(self, body: bytes) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request("POST", "/transcribe?format=txt", body)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@contextmanager
def watched(student: Path, *flags: str) -> Iterator[Watched]:
    """``lalia serve`` with a new working folder and a new temporary folder, both empty at first."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "work"
        (folder / "tmp").mkdir(parents=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "lalia.cli.main", "serve", str(student.resolve()), "--port", "0", *flags],
            stderr=subprocess.PIPE, text=True, cwd=folder, env={**os.environ, "TMPDIR": str(folder / "tmp")},
        )  # fmt: skip
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if not found:
                raise SystemExit(line + process.stderr.read())
            # The server's log must be read: a full pipe would block it after thousands of bad requests.
            Thread(target=process.stderr.read, daemon=True).start()
            yield Watched(process, int(found[1]), folder)
        finally:
            process.kill()
            process.wait()


def attack_server(student: Path, speech: np.ndarray, count: int, clients: int, minutes: float = 60.0) -> bool:
    """Send ``count`` attacks, or as many as ``minutes`` allow, with ``clients`` in parallel; whether all checks passed."""
    with tempfile.TemporaryDirectory() as place:
        canary = Path(place) / "canary.wav"
        canary.write_text(CANARY * 100)
        attacks = Attacks(speech, str(canary))
        good = flac_bytes(speech)
        flags = (
            "--max-mb",
            "2",
            "--max-minutes",
            "60",
            "--patience",
            "1",
            "--idle",
            "1",
            "--requests",
            "16",
            "--jobs",
            "1",
        )
        with watched(student, *flags) as server:
            expected = server.post(good)
            address = ("127.0.0.1", server.port)
            statuses: dict[str, Counter[int]] = defaultdict(Counter)
            failures: list[str] = []

            def attack(number: int) -> None:
                made = attacks.attack(number)
                try:
                    answer = fire(address, made)
                except OSError as error:
                    failures.append(f"{number} {made.kind}: {error}")
                    return
                statuses[made.kind][answer.status] += 1
                counted = [word for word in (CANARY, "root:", "Traceback") if word.encode() in answer.body]
                if counted or wrong(made, answer):
                    failures.append(f"{number} {made.kind}: {answer.status} {answer.body[-200:]!r}")

            seen = []
            begun = time.monotonic()
            with ThreadPoolExecutor(clients) as pool:
                for start in range(0, count, max(count // 10, 1)):
                    list(pool.map(attack, range(start, min(start + max(count // 10, 1), count))))
                    seen.append((round(server.memory_mb(), 1), server.descriptors(), server.threads()))
                    print(f"{min(start + count // 10, count)} of {count}: {seen[-1]}", file=sys.stderr)
                    if server.post(good) != expected:
                        failures.append(f"after {start}: a valid request was not served")
                    if time.monotonic() - begun > 60 * minutes:
                        break
            took_s = time.monotonic() - begun
            if server.process.poll() is not None:
                failures.append("the server ended")
            elif "lalia_faults_total 0\n" not in httpx.get(f"http://127.0.0.1:{server.port}/metrics").text:
                failures.append("an exception in the server")
            if left := server.files():
                failures.append(f"files left: {left}")
            growth = seen[-1][0] - seen[len(seen) // 3][0]
            if growth > 30:
                failures.append(f"memory grew by {growth:.0f} MB over the last two thirds")
    count = sum(sum(counter.values()) for counter in statuses.values())
    print("| attack | requests | answers (0: closed) |\n|---|---|---|")
    for kind, counter in sorted(statuses.items()):
        answers = ", ".join(f"{status} × {number}" for status, number in sorted(counter.items()))
        print(f"| {kind} | {counter.total() if hasattr(counter, 'total') else sum(counter.values())} | {answers} |")
    print(
        f"\n{count} requests in {took_s:.0f} s by {clients} clients. Memory in MB, descriptors, threads after each tenth: {seen}"
    )
    print("Failures: " + ("none" if not failures else ""))
    for failure in failures[:50]:
        print("-", failure)
    return not failures


def load(student: Path, clips: Sequence[np.ndarray], clients: int, seconds: float) -> dict[str, float]:
    """``measure`` of ``lalia serve`` with FLAC files over HTTP."""
    bodies = [flac_bytes(clip) for clip in clips]
    with watched(student, "--requests", str(clients + 1)) as server:

        @contextmanager
        def connect() -> Iterator[Callable[[int], None]]:
            def send(clip: int) -> None:
                status, text = server.post(bodies[clip])
                if status != 200:
                    raise SystemExit(f"{status}: {text}")

            yield send

        return measure(server, connect, [to_seconds(len(clip)) for clip in clips], clients, seconds)


def load_sherpa(
    binary: Path, student: Path, clips: Sequence[np.ndarray], clients: int, seconds: float
) -> dict[str, float]:
    """``measure`` of sherpa-onnx's server with the same student, threads as ``lalia serve`` has, and clips in one message."""
    with tempfile.TemporaryDirectory() as place, socket.socket() as probe:
        folder = Path(place) / "student"
        write_sherpa(student, folder)
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        process = subprocess.Popen(
            [binary, f"--port={port}", f"--num-work-threads={cores()}", "--num-threads=1", "--num-io-threads=1",
             f"--omnilingual-asr-model={folder / 'model.onnx'}", f"--tokens={folder / 'tokens.txt'}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=place,
        )  # fmt: skip
        try:
            for _ in range(300):
                with socket.socket() as asked:
                    if asked.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None:
                    raise SystemExit(
                        f"{binary}: ended with status {process.returncode}; does it find libonnxruntime.so?"
                    )
                time.sleep(0.1)

            @contextmanager
            def connect() -> Iterator[Callable[[int], None]]:
                with connect_websocket(f"ws://127.0.0.1:{port}", max_size=None) as connection:

                    def send(number: int) -> None:
                        wave_S = clips[number].astype("<f4")
                        connection.send(struct.pack("<ii", SAMPLE_RATE, wave_S.nbytes) + wave_S.tobytes())
                        connection.recv()

                    yield send

            lengths_s = [to_seconds(len(clip)) for clip in clips]
            return measure(Watched(process, port, Path(place)), connect, lengths_s, clients, seconds)
        finally:
            process.kill()
            process.wait()


def measure(
    server: Watched, connect: Connect, lengths_s: Sequence[Seconds], clients: int, seconds: float
) -> dict[str, float]:
    """Load from ``clients`` that each send a clip, wait for its text and send the next, for ``seconds``."""
    taken_s: list[float] = []
    audio_s: list[float] = []
    with connect() as send:
        send(0)
    worked_s, end = server.processor_s(), time.monotonic() + seconds

    def client(first: int) -> None:
        number = first
        with connect() as send:
            while time.monotonic() < end:
                start = time.monotonic()
                send(number % len(lengths_s))
                taken_s.append(time.monotonic() - start)
                audio_s.append(lengths_s[number % len(lengths_s)])
                number += clients

    begun = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    took_s = time.monotonic() - begun
    taken_s.sort()
    return {
        "clients": clients, "requests": len(taken_s), "audio_per_s": sum(audio_s) / took_s,
        "median_ms": 1000 * statistics.median(taken_s), "p95_ms": 1000 * taken_s[int(0.95 * (len(taken_s) - 1))],
        "work_ms": 1000 * (server.processor_s() - worked_s) / sum(audio_s), "memory_mb": server.memory_mb(),
    }  # fmt: skip


def show(name: str, rows: Sequence[dict[str, float]]) -> None:
    """``rows`` of ``measure`` as lines of a table."""
    for row in rows:
        print(
            f"| {name} | {row['clients']:.0f} | {row['requests']:.0f} | {row['audio_per_s']:.0f} | {row['median_ms']:.0f} | "
            f"{row['p95_ms']:.0f} | {row['work_ms']:.1f} | {row['memory_mb']:.0f} |"
        )


HEAD = (
    "\n| server | clients | requests | × real time | median ms | 95 % ms | processor ms per second of audio | MB |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|"
)


def main() -> int:
    """Print both tables; returns 1 if an attack succeeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", type=Path)
    parser.add_argument("clips", nargs="+", help="speech: audio files")
    parser.add_argument("--attacks", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="at most, of attacks")
    parser.add_argument("--attackers", type=int, default=16)
    parser.add_argument("--clients", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds of load for each number of clients")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--sherpa", type=Path, metavar="BINARY", help="sherpa-onnx-offline-websocket-server, given the same student"
    )
    args = parser.parse_args()
    clips = [read_audio(clip) for clip in args.clips]
    clean = (
        attack_server(args.student, clips[0][:160_000], args.attacks, args.attackers, args.minutes)
        if args.attacks
        else True
    )
    rows = [load(args.student, clips, clients, args.seconds) for clients in args.clients]
    if rows:
        print(HEAD)
        show("lalia", rows)
    if args.sherpa is not None:
        show(
            "sherpa-onnx",
            [load_sherpa(args.sherpa, args.student, clips, clients, args.seconds) for clients in args.clients],
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2))
    return 0 if clean else 1


if __name__ == "__main__":
    sys.exit(main())
