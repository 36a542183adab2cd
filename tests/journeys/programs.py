"""``lalia``, ``python`` and ``curl`` as the journeys' PATH has them: the real programs, with flags appended that shorten a
training or a measurement, servers put into the background, and the port that is free here in the place of 8000.

    python programs.py lalia VERB …
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.journeys import preloaded

_FIT = "--schedule.steps 4 --schedule.minutes 0 --log.valid_every 2 --log.checkpoint_every 4 --hardware.threads 1"
_BATCH = "--batch.micro_s 12 --batch.hours 0.0034"
SHORTER = {
    "pretrain fit": f"{_FIT} {_BATCH}",
    "pretrain probe": "--steps 4 --clips 12",
    "finetune fit": f"{_FIT} {_BATCH} --data.workers 0",
    "finetune separate": f"{_FIT} --batch.micro_s 10 --batch.hours 0.0028 --data.workers 0",
    "distill fit": f"{_FIT} --batch.micro_s 40 --batch.hours 0.0112",
    "distill prune": f"{_FIT} --batch.micro_s 40 --batch.hours 0.0112",
    "distill export": "--measure.timing_s 4 --measure.repeats 1 --measure.sensitivity_s 4 --measure.clips 4 "
    "--gate.teacher_ratio 9 --gate.float_ratio 9",
}
"""Appended to a command that begins so: less training, fewer clips measured, and a gate that lets a student of four steps pass.
Nothing else of what a document says is changed."""
LSTM = "--steps 20"
"""Appended to ``lalia lm … --lstm``."""


def main(program: str, words: list[str]) -> int:
    if program == "curl":
        if not os.environ["JOURNEY_CURL"]:
            print("curl is not installed, and a document asks a server with it", file=sys.stderr)
            return 127
        port = f":{os.environ['JOURNEY_PORT']}"
        return subprocess.run(
            [os.environ["JOURNEY_CURL"], "-fsS", *(w.replace(":8000", port) for w in words)]
        ).returncode
    if program == "lalia":
        command, verb = [sys.executable, "-m", "lalia.cli.main", *words], words[:2]
    else:
        command, verb = [sys.executable, *words], []
    command += shlex.split(SHORTER.get(" ".join(verb), LSTM if words[:1] == ["lm"] and "--lstm" in words else ""))
    if verb[:1] == ["serve"]:
        return serve([*command, "--port", os.environ["JOURNEY_PORT"]])
    if command[1:2] in (["-m"], ["-c"]):
        return preloaded.command(os.environ["JOURNEY_PRELOADED"], command[1:])
    return os.execv(sys.executable, command)


def serve(command: list[str]) -> int:
    """Start a server as a user does in another terminal; returns once it answers. The journey stops it later."""
    folder = Path(os.environ["JOURNEY_SERVERS"])
    number = len(list(folder.glob("*.pid")))
    pid, status, said = (folder / f"{number}.{kind}" for kind in ("pid", "status", "log"))
    script = f"{shlex.join(command)} >{said} 2>&1 & echo $! >{pid}; wait $!; echo $? >{status}"
    null = subprocess.DEVNULL
    subprocess.Popen(["sh", "-c", script], start_new_session=True, stdin=null, stdout=null, stderr=null)
    for _ in range(600):
        if status.exists():
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{os.environ['JOURNEY_PORT']}/health", timeout=5):
                return 0
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    print(f"the server does not answer:\n{said.read_text(encoding='utf-8')}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
