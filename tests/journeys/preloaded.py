"""A process that has imported the large libraries once, and forks for each command of a journey: four seconds less for each.

    python -m tests.journeys.preloaded SOCKET

``command`` sends a request over SOCKET: arguments, folder, environment, and the three standard files. The child becomes that
command: the same modules run as ``__main__``, and it ends as any Python program does. Whether a command's own imports suffice is
not seen here; the tests of the light install and of each program see it.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import types
from importlib import import_module
from pathlib import Path

LARGE = (
    "torch", "torchaudio", "lightning", "datasets", "onnxruntime",
    "pretrain.fit", "finetune.fit", "distill.fit", "distill.export", "distill.prune", "finetune.evaluate", "finetune.lm",
)  # fmt: skip
SLOWEST_START_S = 120


_started: list[str] = []


def start(environment: dict[str, str]) -> str:
    """The socket of this test process's one, which the first call starts in the background."""
    if not _started:
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _started.append(f"{folder}/socket")
        subprocess.Popen(
            [sys.executable, "-m", "tests.journeys.preloaded", _started[0]], env=environment, stdin=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
    return _started[0]


def command(path: str, words: list[str]) -> int:
    """Run ``python WORDS`` (``-m MODULE …`` or ``-c CODE …``) in a fork of the process behind ``path``; its exit status."""
    with socket.socket(socket.AF_UNIX) as connection:
        for _ in range(SLOWEST_START_S * 20):
            try:
                connection.connect(path)
                break
            except OSError:
                time.sleep(0.05)
        request = json.dumps({"words": words, "cwd": str(Path.cwd()), "environment": dict(os.environ)}).encode()
        socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(request)
        return int(connection.makefile().read() or 1)


def main(path: str) -> None:
    for name in LARGE:
        import_module(name)
    _become(*_serve(path))


def _serve(path: str) -> tuple[list[str], list[int]]:
    """Serve until the process that started this one has ended; returns in each child, with its arguments and files."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(1)
        parent = os.getppid()
        while os.getppid() == parent:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            finally:
                _reap()
            if os.fork():
                connection.close()
                continue
            connection.setblocking(True)
            size, files, _, _ = socket.recv_fds(connection, 8, 3)
            request = json.loads(connection.makefile("rb").read(int.from_bytes(size, "big")))
            child = os.fork()
            if child:  # this one waits and answers
                _, status = os.waitpid(child, 0)
                connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
                os._exit(0)
            connection.close()
            os.chdir(request["cwd"])
            os.environ.clear()
            os.environ.update(request["environment"])
            return request["words"], files
    sys.exit(0)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _become(words: list[str], files: list[int]) -> None:
    """Be ``python WORDS``, with ``files`` as standard input, output and error."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    sys.path[0] = str(Path.cwd())
    kind, what, *rest = words
    if kind == "-m":
        sys.argv = [what, *rest]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *rest]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), module.__dict__)


if __name__ == "__main__":
    main(sys.argv[1])
