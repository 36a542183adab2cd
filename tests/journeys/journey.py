"""Run the blocks of a page, in order, in one folder, as a user would type them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.journeys import preloaded
from tests.journeys.pages import ROOT, Block

LONGEST_S = 600
HF_HOME = Path(tempfile.gettempdir()) / "lalia-journeys-no-models"
"""Without a model: none may be fetched. A library reads it when it is imported, so all journeys have the same one."""


def run(blocks: list[Block], folder: Path, bin_folder: Path) -> None:
    """An ``AssertionError`` that names the block and shows what was printed where one ends with another status than 0."""
    environment = surroundings(folder, bin_folder)
    for block in blocks:
        command = ["bash", "-xeuo", "pipefail"] if block.language == "sh" else [str(bin_folder / "python")]
        done = subprocess.run(
            [*command, "-c", block.text], cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", errors="replace", timeout=LONGEST_S,
        )  # fmt: skip
        stopped = stop_servers(Path(environment["JOURNEY_SERVERS"]))
        shown = f"{block} ended with status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}\n{stopped}"
        assert done.returncode == 0 and "Traceback" not in done.stderr and not stopped, shown


def surroundings(folder: Path, bin_folder: Path) -> dict[str, str]:
    """The environment of a user who works in a checkout whose environment is active, without a network for models or a GPU."""
    bin_folder.mkdir(parents=True, exist_ok=True)
    servers = bin_folder / "servers"
    servers.mkdir(exist_ok=True)
    for program in ("lalia", "python", "curl"):
        path = bin_folder / program
        path.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).parent / "programs.py"}" {program} "$@"\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    alike = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(HF_HOME),
    }  # fmt: skip
    return {
        **alike, "PATH": f"{bin_folder}:{os.environ['PATH']}", "JOURNEY_PRELOADED": preloaded.start(alike),
        "JOURNEY_PORT": port, "JOURNEY_SERVERS": str(servers), "JOURNEY_CURL": shutil.which("curl") or "",
    }  # fmt: skip


def stop_servers(folder: Path, patience_s: float = 40) -> str:
    """End what ``lalia serve`` of a block left running; what went wrong, or "". One that is asked to end ends with 0."""
    wrong = ""
    for pid in sorted(folder.glob("*.pid")):
        status, said = pid.with_suffix(".status"), pid.with_suffix(".log")
        if not status.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)
        waited = time.monotonic()
        while not (status.exists() and status.read_text().strip()) and time.monotonic() - waited < patience_s:
            time.sleep(0.05)
        ended = status.read_text().strip() if status.exists() else "none: it still runs"
        if ended != "0":
            wrong += f"the server ended with status {ended}:\n{said.read_text(encoding='utf-8')}"
        for path in (pid, status, said):
            path.unlink(missing_ok=True)
    return wrong
