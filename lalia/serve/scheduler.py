"""Fair scheduling of the worker threads over clients: each client gets an equal share of them.

The unit of work is a step: one window of a file, or one second of a stream. Each client has a clock of the processor time that
its steps have taken, and the next step is one of the client whose clock is furthest behind (start-time fair queueing, Goyal et
al. 1996). So N greedy clients leave 1/(N + 1) of the machine to another one, whatever each of them does, and a client that uses
less than its share, as a stream at the speed of speech does, is served next. A client's own streams and files share its part in
the same way, but streams get ``LIVE_WEIGHT`` times as much.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from lalia.runtime.transcript import Transcript
from lalia.serve.limits import RequestError
from lalia.units import Seconds, clock

Steps = Generator[Seconds, None, Transcript]

EXPECTED_S: Seconds = 0.05
"""Charged for a step while it runs, so that several workers do not all take the same client."""


LIVE_WEIGHT = 4
"""Of a client's part, its files get at least a fifth while its streams need all they can get."""


class Job:
    """Transcription of one file: ``future`` gets its transcript, an ``AudioError`` or a ``RequestError``."""

    live = False

    def __init__(self, begin: Callable[[], Steps], audio_s: Seconds, work_s: Seconds, client: str = "") -> None:
        self.future: Future[Transcript] = Future()
        self.future.set_running_or_notify_cancel()  # only a worker thread completes it
        self.client = client
        self.read_s: Seconds = 0.0
        self.worked_s: Seconds = 0.0
        self._begin = begin
        self._steps: Steps | None = None
        self._audio_s = audio_s
        self._deadline = time.monotonic() + work_s
        self._work_s = work_s
        self._left = threading.Event()

    def cancel(self) -> None:
        """Stop the job before its next step."""
        self._left.set()

    def step(self) -> bool:
        """Transcribe one more window; True when the job is done."""
        start = time.monotonic()
        try:
            if self._left.is_set():
                raise RequestError(499, "gone", "the client disconnected")
            if start > self._deadline:
                raise RequestError(
                    504, "timeout", f"not finished within {self._work_s:g} s; the server is busy or the file is long"
                )
            if self._steps is None:
                self._steps = self._begin()
            self.read_s = next(self._steps)
            if self.read_s > self._audio_s:
                raise RequestError(413, "too_long", f"has more than {clock(self._audio_s)} of audio; send it in parts")
            return False
        except StopIteration as end:
            self.read_s = max(self.read_s, end.value.duration_s)
            self.future.set_result(end.value)
        except BaseException as error:
            self.future.set_exception(error)
        finally:
            self.worked_s += time.monotonic() - start
            if self.future.done():
                self._end()
        return True

    def fail(self, error: RequestError) -> None:
        """End the job without another step."""
        self._end()
        self.future.set_exception(error)

    def _end(self) -> None:
        if self._steps is not None:
            self._steps.close()  # closes the audio file
        self._steps = None


class StreamJob:
    """A part of a stream: ``future`` gets the result or the error of ``work``, or a ``RequestError``."""

    live = True

    def __init__(self, work: Callable[[], Any], client: str = "") -> None:
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()
        self.client = client
        self.worked_s: Seconds = 0.0
        self._work = work

    def step(self) -> bool:
        """Do all of the work; True = done."""
        start = time.monotonic()
        try:
            update = self._work()
        except BaseException as error:
            self.worked_s = time.monotonic() - start
            self.future.set_exception(error)
        else:
            self.worked_s = time.monotonic() - start
            self.future.set_result(update)
        return True

    def fail(self, error: RequestError) -> None:
        """End the job without its step."""
        self.future.set_exception(error)


class _Client:
    """The waiting jobs of a client, and its clocks: processor time in all, by its streams (``live``) and by its files."""

    def __init__(self, start_s: Seconds) -> None:
        self.clock_s = start_s
        self.running = 0
        self.waiting: dict[bool, deque[Job | StreamJob]] = {True: deque(), False: deque()}
        self.clocks_s = {True: start_s, False: start_s}

    def next_is_live(self) -> bool:
        if all(self.waiting.values()):
            return self.clocks_s[True] <= self.clocks_s[False]
        return bool(self.waiting[True])

    def charge(self, live: bool, worked_s: Seconds) -> None:
        self.clock_s += worked_s
        self.clocks_s[live] += worked_s / LIVE_WEIGHT if live else worked_s

    @property
    def idle(self) -> bool:
        return not (self.running or any(self.waiting.values()))


class Scheduler:
    """Runs the steps of jobs on ``workers`` threads, in fair shares by ``job.client``."""

    def __init__(self, workers: int) -> None:
        self._clients: dict[str, _Client] = {}
        self._now_s: Seconds = 0.0  # clock of the last client that was served: a new one starts there
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [threading.Thread(target=self._work, name=f"worker-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def add(self, job: Job | StreamJob) -> None:
        """Queue ``job`` for its client."""
        with self._changed:
            if not self._closing:
                self._queue(job)
                self._changed.notify()
                return
        job.fail(RequestError(503, "closing", "the server is shutting down", retry_s=10.0))

    def waiting(self) -> int:
        """The number of queued jobs, without those that a worker is running."""
        with self._changed:
            return sum(len(jobs) for client in self._clients.values() for jobs in client.waiting.values())

    def close(self) -> None:
        """Stop after the current steps; unfinished jobs fail."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=60)
        for client in self._clients.values():
            for jobs in client.waiting.values():
                while jobs:
                    jobs.popleft().fail(RequestError(503, "closing", "the server is shutting down", retry_s=10.0))

    def _queue(self, job: Job | StreamJob) -> None:
        client = self._clients.setdefault(job.client, _Client(self._now_s))
        if client.idle:  # idleness saves up no time
            client.clock_s = max(client.clock_s, self._now_s)
        if not client.waiting[job.live]:
            other_s = client.clocks_s[not job.live] if client.waiting[not job.live] else 0.0
            client.clocks_s[job.live] = max(client.clocks_s[job.live], other_s)
        client.waiting[job.live].append(job)

    def _next(self) -> tuple[_Client, Job | StreamJob] | None:
        """The job whose step is next, charged with the expected time; None if none is waiting."""
        waiting = [client for client in self._clients.values() if any(client.waiting.values())]
        if not waiting:
            return None
        first = min(waiting, key=lambda client: (client.clock_s, not client.waiting[True]))
        self._now_s = max(self._now_s, first.clock_s)
        live = first.next_is_live()
        job = first.waiting[live].popleft()
        first.running += 1
        first.charge(live, EXPECTED_S)
        return first, job

    def _work(self) -> None:
        while True:
            with self._changed:
                while (found := None if self._closing else self._next()) is None:
                    if self._closing:
                        return
                    self._changed.wait()
            client, job = found
            before_s = job.worked_s
            done = job.step()
            with self._changed:
                client.running -= 1
                client.charge(job.live, job.worked_s - before_s - EXPECTED_S)
                if not done:
                    client.waiting[job.live].append(job)
                    self._changed.notify()
                # A client's clock is kept until the others have caught up: leaving for a moment is no way to the front.
                for name in [name for name, c in self._clients.items() if c.idle and c.clock_s <= self._now_s]:
                    del self._clients[name]
