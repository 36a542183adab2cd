"""Public commands run as they would be typed: how they end, what memory they take, and how it is when they are killed."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lalia.exits import UserError

_LOOK_S, _MEASURE_EVERY = 0.1, 5  # Looking through all processes has its price.


def typed(command: Sequence[str]) -> list[str]:
    """A command as typed, its program found in the environment that runs this."""
    programs = {"python": sys.executable, "lalia": str(Path(sys.executable).with_name("lalia"))}
    return [programs[command[0]], *command[1:]]


@dataclass
class Ended:
    """How a command ended: status, seconds, and the most private memory (bytes) of its processes, alone and together."""

    status: int
    seconds: float
    largest: int
    together: int
    said: str


def call(command: Sequence[str], kill: Callable[[], bool] = lambda: False) -> Ended:
    """Run a command as it would be typed; SIGKILL for all its processes as soon as ``kill`` says so."""
    print(f"$ {shlex.join(command)}", file=sys.stderr, flush=True)
    begun, largest, together = time.monotonic(), 0, 0
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(typed(command), stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        looks = 0
        while process.poll() is None:
            if looks % _MEASURE_EVERY == 0:
                used = _private_bytes(process.pid)
                largest, together = max([largest, *used]), max(together, sum(used))
            looks += 1
            if kill():
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                break
            time.sleep(_LOOK_S)
        said.seek(0)
        return Ended(process.returncode, time.monotonic() - begun, largest, together, said.read())


def must(command: Sequence[str]) -> Ended:
    """The same, for a command that has to succeed."""
    ended = call(command)
    if ended.status:
        raise UserError(f"{shlex.join(command)}: ended with status {ended.status}: {ended.said[-2000:]}")
    return ended


def _private_bytes(session: int) -> list[int]:
    """Memory that is no mapped file (RssAnon), of every process of a session."""
    used = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                lines = (folder / "status").read_text().splitlines()
                used += [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
        except (OSError, ValueError, IndexError):  # It ended meanwhile.
            continue
    return used
