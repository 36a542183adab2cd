"""Fair scheduling: requests are transcribed window by window in turn, so that a short clip never waits for a long file."""

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
        self.future.set_running_or_notify_cancel()  # only a worker thread completes it
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

    def __init__(self, work: Callable[[], StreamUpdate]) -> None:
        self.future: Future[StreamUpdate] = Future()
        self.future.set_running_or_notify_cancel()
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


class Scheduler:
    """Round-robin over jobs: ``workers`` threads run a step of the first job in the queue and requeue it if unfinished."""

    def __init__(self, workers: int) -> None:
        self._queue: deque[Job | StreamJob] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [threading.Thread(target=self._work, name=f"worker-{i}", daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def add(self, job: Job | StreamJob, first: bool = False) -> None:
        """Put ``job`` at the end of the queue, or with ``first`` at its front."""
        with self._changed:
            if not self._closing:
                (self._queue.appendleft if first else self._queue.append)(job)
                self._changed.notify()
                return
        job.fail(RequestError(503, "closing", "the server is shutting down", retry_s=10.0))

    def waiting(self) -> int:
        """The number of queued jobs, without those that a worker is running."""
        return len(self._queue)

    def close(self) -> None:
        """Stop after the current steps; unfinished jobs fail."""
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
