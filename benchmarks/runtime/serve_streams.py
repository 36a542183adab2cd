"""Many sockets at once on ``lalia serve``: idle ones, streams at the speed of speech, an upload beside them, greedy clients.

    python -m benchmarks.runtime.serve_streams CLIP… [--student STUDENT] [--sockets 2000] [--streams 200] [--greedy 8]

Without ``--student`` an untrained streaming student of the size pocket is made: speed and memory do not depend on training. The
server and the clients share the machine's processors; the clients are one process, which does not decode anything.

- idle: memory of the server per open socket that sends nothing, of ``/stream`` and of Realtime with its detector.
- streams: each sends 100 ms of a clip every 100 ms. The delay of an answer is counted from the moment when the last audio that it
  is about (``heard_s``) was sent, that of a word from the end of the word.
- beside: the same, while an hour of audio is uploaded and transcribed.
- greedy: N clients, each from an address of its own, keep two uploads in the queue; a polite one sends a clip, waits for its text
  and sends the next. All send the same clip; its share is that of the answered requests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import websockets

from benchmarks.runtime.serve import Watched, watched
from benchmarks.runtime.speed import write_long
from lalia.audio.encoding import flac_bytes
from lalia.audio.reading import read_audio
from lalia.units import Seconds, to_samples, to_seconds

PIECE_S: Seconds = 0.1


@dataclass
class Delays:
    """Seconds from the audio to what is told about it."""

    answers_s: list[Seconds] = field(default_factory=list)
    words_s: list[Seconds] = field(default_factory=list)
    processors: float = 0.0
    """processor time of the server by the duration of the speech: what it needs to keep up"""


def make_streaming_student(folder: Path) -> Path:
    """An untrained streaming student of the size pocket, in int8, with the chunks of ``streaming-nano.yaml``."""
    from benchmarks.runtime.sizes import CONFIGS, teacher_for
    from distill.config import DistillSettings, RegularSettings
    from distill.student import make_student
    from lalia import config
    from lalia.cards import write_card
    from lalia.model_folder import MODEL, NORMALISER, TOKENS, file_hashes
    from lalia.models.export.deployed import streaming_facts
    from lalia.models.export.int8 import groups, quantize
    from lalia.models.export.onnx_export import export_graph

    pocket, streaming = (
        config.load(
            DistillSettings, ["--config", str(CONFIGS / f"{name}.yaml")], "benchmarks.runtime.serve_streams", ""
        )
        for name in ("pocket", "streaming-nano")
    )
    settings = replace(pocket.student, chunk=streaming.student.chunk, left_chunks=streaming.student.left_chunks)
    made = make_student(teacher_for(settings), settings, RegularSettings())
    folder.mkdir(parents=True)
    export_graph(made, folder / MODEL)
    quantize(folder / MODEL, folder / MODEL, groups(folder / MODEL))
    made.tokens.save(folder / TOKENS)
    made.normaliser.to_json(folder / NORMALISER)
    facts: dict[str, Any] = {
        "frame_s": made.frame_s,
        "sample_rate": 16_000,
        "streaming": streaming_facts(made.encoder.shape),
    }
    write_card(folder, "student", [], files=file_hashes(folder), **facts)
    return folder


async def idle(server: Watched, count: int, route: str) -> float:
    """Megabytes of the server per 1,000 idle sockets on ``route``."""
    address = f"ws://127.0.0.1:{server.port}{route}"
    async with websockets.connect(address):
        before_mb = server.memory_mb()
        sockets: list[Any] = []
        try:
            for start in range(0, count, 50):
                sockets += await asyncio.gather(
                    *(websockets.connect(address, open_timeout=120) for _ in range(start, min(start + 50, count)))
                )
            await asyncio.sleep(2.0)
            return (server.memory_mb() - before_mb) / count * 1000
        finally:
            await asyncio.gather(*(socket.close() for socket in sockets), return_exceptions=True)


async def streams(server: Watched, wave_S: np.ndarray, count: int, seconds: Seconds) -> Delays:
    """Delays of ``count`` streams that speak for ``seconds`` each, begun over the first second."""
    data = np.rint(wave_S * 32_767).astype("<i2")
    found = Delays()

    async def speak(number: int) -> None:
        draw = np.random.default_rng(number)
        await asyncio.sleep(float(draw.uniform(0, 1)))
        at = int(draw.integers(0, max(1, len(data) - to_samples(seconds))))
        piece = to_samples(PIECE_S)
        own = {"X-Forwarded-For": f"10.1.{number // 250}.{number % 250}"}
        address = f"ws://127.0.0.1:{server.port}/stream"
        async with websockets.connect(address, open_timeout=120, ping_interval=None, additional_headers=own) as socket:
            begun = time.monotonic()

            async def read() -> None:
                async for message in socket:
                    now_s, answer = time.monotonic() - begun, json.loads(message)
                    if answer["last"]:
                        continue
                    found.answers_s.append(now_s - answer["heard_s"])
                    found.words_s += [now_s - word["end_s"] for word in answer["stable"]]

            reader = asyncio.create_task(read())
            for step in range(round(seconds / PIECE_S)):
                # A piece is sent when its last sample would have been spoken.
                await asyncio.sleep(max(0.0, begun + (step + 1) * PIECE_S - time.monotonic()))
                await socket.send(data[at + step * piece : at + (step + 1) * piece].tobytes())
            await socket.send('{"finish": true}')
            await reader

    before_s = server.processor_s()
    await asyncio.gather(*(speak(number) for number in range(count)))
    found.processors = (server.processor_s() - before_s) / seconds
    return found


def greedy(server: Watched, clip: bytes, count: int, seconds: Seconds) -> tuple[float, int]:
    """The polite client's share of the requests answered beside ``count`` greedy clients, and their number."""
    end = time.monotonic() + seconds
    done = [0] * (count + 1)

    def ask(number: int) -> None:
        headers = {"X-Forwarded-For": f"10.0.0.{number + 1}"}
        with httpx.Client(timeout=600) as client:
            while not done[number] or time.monotonic() < end:
                client.post(
                    f"http://127.0.0.1:{server.port}/transcribe", content=clip, headers=headers
                ).raise_for_status()
                done[number] += 1

    threads = [
        Thread(target=ask, args=(number,)) for number in [0, *(n for n in range(1, count + 1) for _ in range(2))]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done[0] / max(1, sum(done)), done[0]


def at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, round(share * len(values)))] if values else float("nan")


def row(name: str, found: Delays, server: Watched) -> str:
    figures = [f"{at(values, share):.2f}" for values in (found.answers_s, found.words_s) for share in (0.5, 0.95)]
    return (
        f"| {name} | {len(found.words_s)} | {' | '.join(figures)} | {found.processors:.2f} | {server.memory_mb():.0f} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", help="speech: audio files")
    parser.add_argument(
        "--student", type=Path, help="a streaming student (default: an untrained one of the size pocket)"
    )
    parser.add_argument("--sockets", type=int, default=2000)
    parser.add_argument("--streams", type=int, nargs="*", default=[50, 100, 200])
    parser.add_argument("--greedy", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--hours", type=float, default=1.0, help="of the upload beside the streams")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        student = args.student or make_streaming_student(Path(work) / "pocket-streaming")
        wave_S = np.concatenate([read_audio(clip) for clip in args.clips])
        while to_seconds(len(wave_S)) < args.seconds + 10:
            wave_S = np.concatenate([wave_S, wave_S])
        flags = ("--streams", "4000", "--connections", "8000", "--requests", "64", "--max-mb", "2000", "--proxy")
        if args.sockets:
            print("| idle sockets | route | MB per 1,000 |\n|---|---|---|")
        for route in ("/stream", "/v1/realtime?intent=transcription") if args.sockets else ():
            with watched(student, *flags) as server:
                each_mb = asyncio.run(idle(server, args.sockets, route))
                print(f"| {args.sockets} | `{route}` | {each_mb:.1f} |", flush=True)
        print(
            "\n| streams | words | answer, median s | 95 % | word, median s | 95 % | processors | MB |\n"
            + "|---" * 8
            + "|"
        )
        with watched(student, *flags) as server:
            for count in args.streams:
                found = asyncio.run(streams(server, wave_S, count, args.seconds))
                print(row(str(count), found, server), flush=True)
        if args.streams and args.hours:
            long = Path(work) / "long.flac"
            write_long(long, args.clips, 60 * args.hours)
            with watched(student, *flags) as server:
                body = long.read_bytes()

                def upload() -> None:
                    with contextlib.suppress(httpx.TransportError):
                        httpx.post(f"http://127.0.0.1:{server.port}/transcribe?format=txt", content=body, timeout=3600)

                Thread(target=upload, daemon=True).start()
                time.sleep(3.0)
                found = asyncio.run(streams(server, wave_S, args.streams[-1], args.seconds))
                print(row(f"{args.streams[-1]} beside {args.hours:g} h", found, server), flush=True)
        clip = flac_bytes(wave_S[: to_samples(10.0)])
        if args.greedy:
            print("\n| greedy clients | polite one: share | 1/(N + 2) | requests |\n" + "|---" * 4 + "|")
        for count in args.greedy:
            with watched(student, *flags) as server:
                share, asked = greedy(server, clip, count, args.seconds)
                print(f"| {count} | {share:.2f} | {1 / (count + 2):.2f} | {asked} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
