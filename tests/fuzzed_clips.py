"""Audio files damaged in every way, read one after the other: a program of its own, since a decoder may take its process along.

    python -m tests.fuzzed_clips FOLDER KIND FIRST COUNT

FOLDER holds whole files, one of each kind. Prints a line of JSON before each case and one after it; the case a crash or a
hang happened in is the last that began.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lalia.audio.reading import Note, probe_audio, read_audio
from lalia.errors import AudioError

CPU_S, MEMORY_BYTES = 60, 4 << 30
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".g722", ".raw", ".txt", "")
_LIES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x01", b"\x01\0\0\0")

Damage = Callable[[bytes, np.random.Generator, dict[str, bytes]], bytes]


def truncated(data: bytes, draw: np.random.Generator, others: dict[str, bytes]) -> bytes:
    return data[: int(draw.integers(0, len(data)))]


def flipped(data: bytes, draw: np.random.Generator, others: dict[str, bytes]) -> bytes:
    changed = bytearray(data)
    for at in draw.integers(0, len(data), int(draw.integers(1, 30))):
        changed[at] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def flipped_head(data: bytes, draw: np.random.Generator, others: dict[str, bytes]) -> bytes:
    head = min(len(data), 128)
    return flipped(data[:head], draw, others) + data[head:]


def spliced(data: bytes, draw: np.random.Generator, others: dict[str, bytes]) -> bytes:
    other = others[sorted(others)[int(draw.integers(len(others)))]]
    return data[: int(draw.integers(1, 400))] + other[int(draw.integers(0, 400)) :]


def lying(data: bytes, draw: np.random.Generator, others: dict[str, bytes]) -> bytes:
    """Numbers such as lengths stand in the first bytes, and in MP4 also in the last."""
    at = int(draw.integers(0, min(120, len(data) - 4)))
    at = len(data) - 4 - at if draw.random() < 0.2 else at
    lie = draw.bytes(4) if draw.random() < 0.4 else _LIES[int(draw.integers(len(_LIES)))]
    return data[:at] + lie + data[at + 4 :]


def cut_out(data: bytes, draw: np.random.Generator, others: dict[str, bytes]) -> bytes:
    a, b = sorted(draw.integers(0, len(data), 2).tolist())
    return data[:a] + data[b:]


def overwritten(data: bytes, draw: np.random.Generator, others: dict[str, bytes]) -> bytes:
    at, length = int(draw.integers(0, len(data))), int(draw.integers(1, len(data) // 2))
    filling = bytes(length) if draw.random() < 0.5 else draw.bytes(length)
    return (data[:at] + filling + data[at + length :])[: len(data)]


def repeated(data: bytes, draw: np.random.Generator, others: dict[str, bytes]) -> bytes:
    a, b = sorted(draw.integers(0, len(data), 2).tolist())
    return data[:b] + data[a:]


def renamed(data: bytes, draw: np.random.Generator, others: dict[str, bytes]) -> bytes:
    return data


DAMAGES: tuple[Damage, ...] = (
    truncated, flipped, flipped_head, spliced, lying, cut_out, overwritten, repeated, renamed,
)  # fmt: skip


def damaged(kind: str, number: int, whole: dict[str, bytes]) -> tuple[str, str, bytes]:
    """Case ``number`` of a kind: what was done, under which name the file goes, and its bytes. Always the same."""
    draw = np.random.default_rng([number, sorted(whole).index(kind)])
    damage = DAMAGES[number % len(DAMAGES)]
    suffix = f".{kind.partition('-')[0]}"
    if damage is renamed or draw.random() < 0.15:
        suffix = SUFFIXES[int(draw.integers(len(SUFFIXES)))]
    return damage.__name__, f"clip{suffix}", damage(whole[kind], draw, whole)


def judged(data: bytes, path: Path) -> dict[str, object]:
    """What reading says of a file: seconds, or an error in one line. Anything else it raises goes through."""
    path.write_bytes(data)
    errors, notes = [], list[Note]()
    for source, name in ((path, None), (data, path.name)):
        try:
            info = probe_audio(source, name)
            assert np.isfinite(info.duration_s) and info.duration_s >= 0, info
        except AudioError:
            pass
        try:
            wave = read_audio(source, name, tell=notes.append)
        except AudioError as error:
            errors.append(str(error))
            assert errors[-1].startswith(str(name or path)) and "\n" not in errors[-1], errors[-1]
            continue
        assert wave.dtype == np.float32 and wave.ndim == 1 and wave.size
        assert np.isfinite(wave).all() and float(np.abs(wave).max()) <= 1.0
    assert len(errors) in (0, 2), f"as a file and as bytes not the same: {errors}"
    if errors:
        return {"error": errors[0]}
    kinds = sorted({note.kind for note in notes})
    return {"seconds": len(wave) / 16_000, "sum": float(np.abs(wave).sum()), "notes": kinds}


def main() -> int:
    folder, kind, first, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    whole = {path.name: path.read_bytes() for path in (folder / "whole").iterdir()}
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    scratch = folder / f"scratch-{kind}"
    scratch.mkdir(exist_ok=True)
    for number in range(first, first + count):
        how, name, data = damaged(kind, number, whole)
        print(json.dumps({"case": number, "how": how, "name": name, "bytes": len(data)}), flush=True)
        try:
            verdict = judged(data, scratch / name)
        except Exception as error:  # What is no AudioError is a finding.
            verdict = {"raised": f"{type(error).__name__}: {error}"}
        print(json.dumps(verdict), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
