"""Worker processes that decode for a run: a signal that ends the run is the run's, and it still needs its workers then.

SLURM, a shell and Ctrl-C send a signal to every process of a run at once. The run answers it by finishing its step and saving,
for which it needs the batches under way; torch's own handler would end a worker by SIGTERM, and the run by the missing worker.
So the workers leave these signals alone, but for a SIGTERM of the run itself, by which it ends a worker that does not end by
itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

STOPPING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGUSR1})
"""What asks a run to save and stop."""
_ORPHANED_S = 1.0


@contextmanager
def blocked() -> Iterator[None]:
    """Processes that are started inside begin with the stopping signals blocked; this one takes what came behind it."""
    resource_tracker.ensure_running()  # spawn starts it, and it unblocks two of the signals when it is started inside
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_the_run(worker: int = 0) -> None:
    """Called in a worker process started in ``blocked``: it ends by SIGTERM where the run sends it, or when the run is gone."""
    run = multiprocessing.parent_process()
    if sys.platform == "linux":
        assert run is not None
        threading.Thread(target=_end_with, args=(run.pid, os.getppid()), daemon=True).start()
        return
    # No other system tells who sent a signal. Out of the run's process group, only what is meant for the worker arrives.
    os.setpgid(0, 0)
    if signal.SIGTERM in signal.sigpending():
        signal.sigwait({signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


if sys.platform == "linux":

    def _end_with(run: int | None, parent: int) -> None:
        while True:
            came = signal.sigtimedwait({signal.SIGTERM}, _ORPHANED_S)
            if (came is not None and came.si_pid == run) or os.getppid() != parent:
                os._exit(0)  # as torch's handler does
