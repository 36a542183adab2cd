"""Stop signals of a training run: SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGHUP end it with exit status 130.

A thread receives the signals through Python's wake-up pipe, so that they act while the main thread is inside a library, and
whatever handlers a library installs. What a signal does depends on the phase of the run: while it loads or writes its results,
the process ends at once, because nothing can be lost; while it trains, ``asked`` is set, and the checkpoints save and stop it; a
finished run ignores it. A second Ctrl-C ends the process at once.

The thread also ends a rank whose parent process is gone, and ends the run if one of its ranks has failed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from types import FrameType

from lalia.errors import Interrupted

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP})
"""What makes a run save and stop. SIGHUP (a closed terminal) does not if it is ignored from the start, as under nohup."""
TICK_S = 0.5
"""Between two looks at the parent process and at the ranks."""
LAST_WORDS_S = 3.0
"""A run whose rank has failed may take this long to end by its own error."""
_END = 0
"""No signal: ends the thread."""
SHOW_CURSOR = "\x1b[?25h"


class Phase(Enum):
    """Where a run is."""

    LOADING = "loading"
    TRAINING = "training"
    RESULTS = "results"
    FINISHED = "finished"


class StopSignals:
    """The stop signals of this process; ``stops`` is the only instance, since a process has one set of signal handlers."""

    def __init__(self) -> None:
        self.asked: int | None = None
        """the signal that asked the run to stop while it trains"""
        self.phase = Phase.LOADING
        self._lock = threading.RLock()
        self._catching = False
        self._run: Path | None = None
        self._what = ""
        self._terminals: list[int] = []
        self._ranks: Sequence[subprocess.Popen[bytes]] = ()
        self._failed_at: float | None = None

    @contextlib.contextmanager
    def caught(self, run: Path | None, what: str) -> Iterator[None]:
        """Handle the stop signals inside, for ``what`` (a stage) that writes the folder ``run`` (None = not known yet).

        Inside another ``caught`` only the names and the phase change. Does nothing outside the main thread.
        """
        if self._catching:
            self._run, self._what, self.phase = run, what, Phase.LOADING
            yield
            return
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._catching = True
        self._run, self._what, self.asked, self.phase = run, what, None, Phase.LOADING
        self._ranks, self._failed_at = (), None
        self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        before = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
        self.install()
        watcher = threading.Thread(target=self._watch, args=(reader,), name="lalia-signals", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
            signal.set_wakeup_fd(before_fd)
            os.write(writer, bytes([_END]))
            watcher.join()
            os.close(reader)
            os.close(writer)
            self._catching = False
            atexit.unregister(_ignore)
            atexit.register(_ignore)  # runs before the exit functions of libraries, which a signal would interrupt

    def install(self) -> None:
        """Install the handlers (again, where a library has installed its own)."""
        if not self._catching or threading.current_thread() is not threading.main_thread():
            return
        for signum in STOP_SIGNALS:
            if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                signal.signal(signum, _leave_to_thread)

    def enter(self, phase: Phase) -> None:
        """The run is in ``phase`` from now on."""
        with self._lock:
            self.phase = phase

    @contextlib.contextmanager
    def finishing(self) -> Iterator[None]:
        """No signal ends the process inside, nor afterwards: what is done inside makes the run a finished one."""
        with self._lock:
            yield
            self.phase = Phase.FINISHED

    def watch_ranks(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        """End the run when one of ``processes``, its other ranks on this machine, has failed."""
        self._ranks = processes

    def rank_failed(self) -> int | None:
        """The exit status of a rank that ended with an error; None if there is none."""
        codes = [code for code in (process.poll() for process in self._ranks) if code]
        errors = [code for code in codes if code not in (Interrupted.status, -signal.SIGTERM)]
        return next(iter(errors + codes), None)

    # --- The thread --------------------------------------------------------------------------------------

    def _watch(self, reader: int) -> None:
        parent = os.getppid() if "LOCAL_RANK" in os.environ else None
        while True:
            if select.select([reader], [], [], TICK_S)[0]:
                for signum in os.read(reader, 64):
                    if signum == _END:
                        return
                    if signum in STOP_SIGNALS:
                        self._receive(signum)
            if parent is not None and os.getppid() != parent:  # the process that started this rank was killed
                if self.phase is not Phase.TRAINING or "TORCHELASTIC_RUN_ID" not in os.environ:
                    os._exit(Interrupted.status)
                parent, self.asked = None, self.asked or signal.SIGTERM  # torchrun: all ranks are there, and can save
            self._check_ranks()

    def _receive(self, signum: int) -> None:
        if signum == signal.SIGHUP:
            for terminal in self._terminals:  # gone: writing to it would be an error
                with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
                    os.dup2(nowhere.fileno(), terminal)
        with self._lock:
            if self.phase is Phase.FINISHED:
                return
            again = signum == signal.SIGINT and self.asked == signal.SIGINT
            if self.phase is not Phase.TRAINING or again:
                self._end(signum)
            self.asked = signum
        if signum == signal.SIGINT and is_leader():
            _say("\nfinishing this step, then saving; Ctrl-C again stops at once\n")

    def _check_ranks(self) -> None:
        if not self._ranks or self.phase in (Phase.RESULTS, Phase.FINISHED) or not (code := self.rank_failed()):
            return
        self._failed_at = self._failed_at or time.monotonic()
        if time.monotonic() - self._failed_at < LAST_WORDS_S:
            return
        for process in self._ranks:
            process.kill()
        if code in (Interrupted.status, -signal.SIGTERM) or self.asked is not None:
            self._end(self.asked or signal.SIGTERM)
        if code < 0:
            _say(f"lalia: {self._run}: a process of this run was killed by {signal.Signals(-code).name}\n")
            os._exit(128 - code)
        _say(f"lalia: {self._run}: a process of this run ended with status {code}; its error is above\n")
        os._exit(code)

    def _end(self, signum: int) -> None:
        """End the process at once, with a line of what is saved."""
        if is_leader():
            _say(f"{SHOW_CURSOR * bool(self._terminals)}lalia: {self.outcome(signum, None)}\n")
        os._exit(Interrupted.status)

    def outcome(self, signum: int, step: int | None, steps: int = 0) -> str:
        """What stopped the run, what is saved (``step`` of ``steps``; None = nothing new), what the same command will do."""
        what = f"{self._what} stopped by {signal.Signals(signum).name}"
        if self._run is None:
            return f"{what} before it began"
        what = f"{self._run}: {what}"
        if self.phase is Phase.RESULTS:
            return f"{what} after its last step, before all its results were written; the same command writes them"
        if step is not None:
            return f"{what}, saved at step {step} of {steps}; the same command continues there"
        kept = _saved_step(self._run)
        return f"{what}; nothing new is saved, the same command " + (
            f"continues from step {kept}" if kept else "starts anew"
        )


stops = StopSignals()


def is_leader() -> bool:
    """Whether this process is the run's rank 0, by what its launcher has put into the environment."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _leave_to_thread(signum: int, frame: FrameType | None) -> None:
    """Does nothing: a Python handler must be installed for the wake-up pipe to be written."""


def _saved_step(run: Path) -> int:
    """The newest checkpoint's step, by its name; 0 if there is none."""
    names = [path.stem.removeprefix("step") for path in (run / "checkpoints").glob("step*.ckpt")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def _ignore() -> None:
    for signum in STOP_SIGNALS:
        signal.signal(signum, _leave_to_thread)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # a closed terminal or pipe
        os.write(2, text.encode(errors="replace"))


def _forked() -> None:
    """A forked process, such as a worker that decodes audio, must not write into its parent's pipe."""
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forked)
