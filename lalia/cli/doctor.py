"""``lalia doctor``: what works on this machine, what is missing, and what to do about it."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path

import numpy as np

from lalia import __version__
from lalia.cards import cores, processor
from lalia.cli.parser import Parser
from lalia.files import CHECKOUT

ABOUT = """\
Print what works on this machine, what is missing, and how to get it.

  lalia doctor            a line for each of processors, memory, audio formats, microphone, server, training, GPU

Exit status 0: models run here; 1: they do not.
"""
_GIGABYTE = 1_000_000_000
_VITAL = ("run models", "audio files")
_TRAINING = ("torch", "torchaudio", "lightning", "datasets", "deepspeed", "fairseq2", "onnx")
_LEAST_FREE = 2 * _GIGABYTE
_LEAST_SHARED = 200_000_000


@dataclass(frozen=True)
class Finding:
    """A line of the report."""

    what: str
    works: bool
    found: str
    remedy: str = ""


def add_arguments(parser: Parser) -> None:
    parser.description = ABOUT
    parser.set_defaults(call=main)


def main(_: argparse.Namespace) -> int:
    """``lalia doctor``."""
    findings = list(examine())
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        mark = "ok     " if finding.works else "missing"
        remedy = f"; {finding.remedy}" if finding.remedy and not finding.works else ""
        print(f"{mark}  {finding.what:<{width}}  {finding.found}{remedy}")
    return 1 if any(finding.what in _VITAL and not finding.works for finding in findings) else 0


def examine() -> Iterator[Finding]:
    """Every check, cheapest first; a check that fails with an error is a finding, too."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("lalia", _lalia),
        ("processors", _processors),
        ("memory", _memory),
        ("disk", _disk),
        ("run models", _runtime),
        ("audio files", _audio),
        ("more audio files", _ffmpeg),
        ("microphone", _microphone),
        ("server", _server),
        ("training", _training),
        ("GPU", _gpu),
        ("shared memory", _shared),
    )
    for what, check in checks:
        try:
            yield check()
        except Exception as error:  # a broken install raises whatever it likes
            yield Finding(what, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def _lalia() -> Finding:
    where = f"checkout {CHECKOUT}" if (CHECKOUT / "finetune").is_dir() else "installed without the training stages"
    return Finding("lalia", True, f"{__version__}, {where}; Python {platform.python_version()}, {platform.platform()}")


def _processors() -> Finding:
    every, allowed = os.cpu_count() or 1, cores()
    limited = f" of {every} (the affinity or the container's quota)" if allowed < every else ""
    return Finding("processors", True, f"{allowed}{limited}: {processor()}")


def _memory() -> Finding:
    total, free = _bytes_of_memory()
    if not total:
        return Finding("memory", True, "unknown on this system")
    return Finding("memory", True, f"{free / _GIGABYTE:.1f} GB free of {total / _GIGABYTE:.1f} GB")


def _bytes_of_memory() -> tuple[int, int]:
    """(all, free) bytes of the machine or of the container; zeros where the system does not say."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return 0, 0
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit = int((Path("/sys/fs/cgroup") / most).read_text())
            taken = int((Path("/sys/fs/cgroup") / used).read_text())
        except (OSError, ValueError):
            continue
        if limit < total:
            return limit, min(free, limit - taken)
    return total, free


def _disk() -> Finding:
    here, temporary = (shutil.disk_usage(path).free for path in (Path.cwd(), tempfile.gettempdir()))
    found = f"{here / _GIGABYTE:.1f} GB free here, {temporary / _GIGABYTE:.1f} GB in {tempfile.gettempdir()}"
    return Finding("disk", min(here, temporary) > _LEAST_FREE, found, "TMPDIR=FOLDER moves temporary files")


def _runtime() -> Finding:
    from lalia.audio.vad import VoiceActivity

    VoiceActivity()  # a model of the package, opened as a student is
    return Finding("run models", True, f"onnxruntime {metadata.version('onnxruntime')} runs the voice detector")


def _audio() -> Finding:
    from lalia.audio.encoding import flac_bytes
    from lalia.audio.reading import read_audio

    read_audio(flac_bytes(np.zeros(1600, np.float32)), "a FLAC file in memory")
    return Finding("audio files", True, f"WAV, FLAC, Ogg, MP3 by soundfile {metadata.version('soundfile')}")


def _ffmpeg() -> Finding:
    if _has("av"):
        return Finding("more audio files", True, f"M4A, MP4, WebM, G.722 by PyAV {metadata.version('av')}")
    return Finding("more audio files", False, "no PyAV for M4A, MP4, WebM, G.722", "pip install av")


def _microphone() -> Finding:
    if not _has("sounddevice"):
        return Finding("microphone", False, "no sounddevice", "pip install 'lalia[listen]'")
    try:
        devices = import_module("sounddevice").query_devices()
    except OSError as error:
        return Finding("microphone", False, str(error), "install PortAudio, e.g. apt install libportaudio2")
    inputs = [device["name"] for device in devices if device["max_input_channels"] > 0]
    return Finding("microphone", bool(inputs), inputs[0] if inputs else "PortAudio works, but there is no input device")


def _server() -> Finding:
    lacking = [name for name in ("starlette", "uvicorn", "multipart", "websockets") if not _has(name)]
    if lacking:
        return Finding("server", False, f"no {', '.join(lacking)}", "pip install 'lalia[serve]'")
    return Finding("server", True, f"lalia serve: starlette {metadata.version('starlette')}")


def _training() -> Finding:
    lacking = [
        name
        for name in ("torch", "torchaudio", "lightning", "datasets", "deepspeed", "fairseq2", "onnx")
        if not _has(name)
    ]
    if not (CHECKOUT / "finetune").is_dir():
        return Finding("training", False, "no checkout", "git clone the repository; in it: pip install -e '.[train]'")
    if lacking:
        return Finding("training", False, f"no {', '.join(lacking)}", f"pip install -e '{CHECKOUT}[train]'")
    return Finding(
        "training", True, ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "lightning", "deepspeed"))
    )


def _gpu() -> Finding:
    if not _has("torch"):
        return Finding("GPU", False, "not looked for: no torch")
    torch = import_module("torch")
    if not torch.cuda.is_available():
        return Finding("GPU", False, "none that torch can use; everything runs on CPUs, slower")
    names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    kinds = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return Finding(
        "GPU", True, ", ".join(f"{p.name} ({p.total_memory / _GIGABYTE:.0f} GB)" for p in names) + f", {kinds}"
    )


def _shared() -> Finding:
    if not sys.platform.startswith("linux"):
        return Finding("shared memory", True, "not limited on this system")
    free = shutil.disk_usage("/dev/shm").free
    remedy = "workers of training loaders need it: docker run --shm-size 1g, or --data.workers 0"
    return Finding("shared memory", free > _LEAST_SHARED, f"{free / 1e6:.0f} MB free in /dev/shm", remedy)


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
