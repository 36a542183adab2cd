"""Fair scheduling: all requests advance window by window, so that a short clip never waits for a long file."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future

from lalia.runtime.streaming import StreamUpdate
from lalia.runtime.transcript import Transcript
from lalia.serve.limits import RequestError
from lalia.units import Seconds, clock

Steps = Generator[Seconds, None, Transcript]


class Job:
    """Transcription of one file: ``future`` gets its transcript, an ``AudioError`` or a ``RequestError``."""

    def __init__(self, begin: Callable[[], Steps], audio_s: Seconds, work_s: Seconds) -> None:
        self.future: Future[Transcript] = Future()
        self.future.set_running_or_notify_cancel()  # only the worker thread ends it
        self.heard_s: Seconds = 0.0
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
            self.heard_s = next(self._steps)
            if self.heard_s > self._audio_s:
                raise RequestError(
                    413, "too_long", f"holds more than {clock(self._audio_s)} of audio; send it in pieces"
                )
            return False
        except StopIteration as end:
            self.heard_s = max(self.heard_s, end.value.duration_s)
            self.future.set_result(end.value)
        except BaseException as error:
            self.future.set_exception(error)
        finally:
            self.worked_s += time.monotonic() - start
            if self.future.done():
                self._end()
        return True

    def fail(self, error: RequestError) -> None:
        """End it without another turn."""
        self._end()
        self.future.set_exception(error)

    def _end(self) -> None:
        if self._steps is not None:
            self._steps.close()  # closes the file that it reads
        self._steps = None


class StreamJob:
    """A piece of a stream: ``future`` gets what ``work`` returns or raises, or a ``RequestError``."""

    def __init__(self, work: Callable[[], StreamUpdate]) -> None:
        self.future: Future[StreamUpdate] = Future()
        self.future.set_running_or_notify_cancel()
        self.worked_s: Seconds = 0.0
        self._work = work

    def step(self) -> bool:
        """All of it: True."""
        start = time.monotonic()
        try:
            said = self._work()
        except BaseException as error:
            self.worked_s = time.monotonic() - start
            self.future.set_exception(error)
        else:
            self.worked_s = time.monotonic() - start
            self.future.set_result(said)
        return True

    def fail(self, error: RequestError) -> None:
        """End it without its turn."""
        self.future.set_exception(error)


class Scheduler:
    """Round-robin over jobs: ``workers`` threads take the first job of a queue and put it back at the end if unfinished."""

    def __init__(self, workers: int) -> None:
        self._queue: deque[Job | StreamJob] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [threading.Thread(target=self._work, name=f"turns-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def add(self, job: Job | StreamJob, first: bool = False) -> None:
        """Put ``job`` at the end of the row, or with ``first`` in front of it."""
        with self._changed:
            if not self._closing:
                (self._queue.appendleft if first else self._queue.append)(job)
                self._changed.notify()
                return
        job.fail(RequestError(503, "closing", "the server is shutting down", retry_s=10.0))

    def waiting(self) -> int:
        """Jobs in the row, those of this very moment's turns not counted."""
        return len(self._queue)

    def close(self) -> None:
        """End after the turns under way; unfinished jobs fail."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=60)
        while self._queue:
            self._queue.popleft().fail(RequestError(503, "closing", "the server is shutting down", retry_s=10.0))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                job = self._queue.popleft()
            if not job.step():
                with self._changed:
                    self._queue.append(job)
                    self._changed.notify()
