"""Scheduler: short jobs pass long ones, what takes too long ends, and nothing is left hanging."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from lalia.errors import AudioError
from lalia.runtime.transcript import Transcript
from lalia.serve.limits import Limits, RequestError
from lalia.serve.scheduler import Job, Scheduler, StreamJob


def steps(name: str, count: int, log: list[str], pause_s: float = 0.0):
    def begin():
        for number in range(count):
            log.append(name)
            time.sleep(pause_s)
            yield 30.0 * (number + 1)
        return Transcript(name, [], 30.0 * count)

    return begin


def test_a_short_job_does_not_wait_for_a_long_one() -> None:
    log: list[str] = []
    turns = Scheduler(1)
    long, short = Job(steps("long", 100, log, 0.005), 1e9, 60), Job(steps("short", 2, log), 1e9, 60)
    turns.add(long)
    turns.add(short)
    assert short.future.result(30).text == "short"
    assert not long.future.done()
    assert long.future.result(60).text == "long" and long.read_s == 3000
    turned = "".join(name[0] for name in log)
    assert turned.count("l") == 100 and turned.rindex("s") < 20
    assert long.worked_s > 0.5
    turns.close()


def test_limits_of_audio_and_time() -> None:
    turns = Scheduler(2)
    closed = threading.Event()

    def endless():
        try:
            second = 0.0
            while True:
                yield (second := second + 30)
        finally:
            closed.set()

    job = Job(endless, 600, 60)
    turns.add(job)
    with pytest.raises(RequestError, match="more than 10:00 of audio") as caught:
        job.future.result(30)
    assert caught.value.status == 413 and closed.wait(5)
    log: list[str] = []
    job = Job(steps("slow", 1000, log, 0.01), 1e9, 0.1)
    turns.add(job)
    with pytest.raises(RequestError) as caught:
        job.future.result(30)
    assert caught.value.status == 504 and len(log) < 100
    turns.close()


def test_errors_are_the_jobs_own() -> None:
    def bad():
        yield 1.0
        raise AudioError("clip: is cut short")

    turns = Scheduler(1)
    job, fine = Job(bad, 1e9, 60), Job(steps("fine", 3, []), 1e9, 60)
    turns.add(job)
    turns.add(fine)
    with pytest.raises(AudioError, match="cut short"):
        job.future.result(30)
    assert fine.future.result(30).text == "fine"
    turns.close()


def test_who_leaves_is_not_worked_for() -> None:
    log: list[str] = []
    turns = Scheduler(1)
    job = Job(steps("gone", 10_000, log, 0.001), 1e9, 60)
    turns.add(job)
    job.cancel()
    with pytest.raises(RequestError):
        job.future.result(30)
    assert len(log) < 100 and turns.waiting() == 0
    turns.close()


def test_closing_refuses_what_is_left() -> None:
    turns = Scheduler(1)
    jobs = [Job(steps("x", 10_000, [], 0.01), 1e9, 60) for _ in range(5)]
    for job in jobs:
        turns.add(job)
    turns.close()
    late = Job(steps("late", 1, []), 1e9, 60)
    turns.add(late)
    for job in [*jobs, late]:
        with pytest.raises(RequestError) as caught:
            job.future.result(0)
        assert caught.value.status == 503


@pytest.mark.parametrize("workers", [1, 2])
def test_greedy_clients_leave_each_other_their_share(workers: int) -> None:
    """Three clients keep many streams and files waiting; a fourth one with one file at a time, and a fifth with one stream,
    get a fifth of the time each or what they ask for, and no step waits for more than a round."""
    turns = Scheduler(workers)
    step_s, end = 0.004, time.monotonic() + 2.0
    worked: Counter[str] = Counter()
    waits: dict[str, list[float]] = {"file": [], "stream": []}

    def live(client: str) -> StreamJob:
        def work() -> None:
            worked[client] += 1
            time.sleep(step_s)
            if client in greedy and time.monotonic() < end:
                turns.add(live(client))

        return StreamJob(work, client)

    def file(client: str) -> Job:
        def begin():
            for number in range(10_000):
                if time.monotonic() > end:
                    break
                worked[client] += 1
                time.sleep(step_s)
                yield float(number)
            return Transcript("", [], 0.0)

        return Job(begin, 1e9, 60, client)

    greedy = ("a", "b", "c")
    for client in greedy:
        for _ in range(20):
            turns.add(live(client))
            turns.add(file(client))

    def polite(client: str, make: Callable[[], Job | StreamJob]) -> None:
        while time.monotonic() < end:
            began = time.monotonic()
            job = make()
            turns.add(job)
            job.future.result(30)
            waits[client].append(time.monotonic() - began)

    def short() -> Job:
        def begin():
            worked["file"] += 1
            time.sleep(step_s)
            yield 1.0
            return Transcript("", [], 1.0)

        return Job(begin, 1e9, 60, "file")

    threads = [
        threading.Thread(target=polite, args=("file", short)),
        threading.Thread(target=polite, args=("stream", lambda: live("stream"))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    turns.close()
    total = sum(worked.values())
    assert total > 100
    for client in ("file", "stream"):
        # A client that waits for each answer before it asks again cannot use more than one worker.
        assert worked[client] >= total / (len(greedy) + 3) / workers, worked
    for client in greedy:
        assert worked[client] <= total / 2, worked
    assert max(waits["stream"]) < 1.0


def test_leaving_for_a_moment_is_no_way_to_the_front() -> None:
    """One client's single stream, whose next part comes after the answer to the last, does not starve a file."""
    turns = Scheduler(1)
    log: list[str] = []
    over = threading.Event()

    def chatter() -> None:
        while not over.is_set():
            job = StreamJob(lambda: time.sleep(0.02), "greedy")
            turns.add(job)
            job.future.result(30)

    threads = [threading.Thread(target=chatter) for _ in range(4)]
    for thread in threads:
        thread.start()
    job = Job(steps("file", 20, log, 0.02), 1e9, 60, "polite")
    began = time.monotonic()
    turns.add(job)
    job.future.result(30)
    assert time.monotonic() - began < 20 * 0.02 * 2 + 1.5
    over.set()
    for thread in threads:
        thread.join(30)
    turns.close()


def test_a_client_s_streams_get_four_fifths_beside_its_file() -> None:
    turns = Scheduler(1)
    log: list[str] = []
    begun = threading.Event()  # all are queued before the first step

    def live() -> None:
        begun.wait(30)
        log.append("stream")
        time.sleep(0.005)

    jobs = [StreamJob(live, "one") for _ in range(80)]
    file = Job(steps("file", 80, log, 0.005), 1e9, 60, "one")
    for job in jobs:
        turns.add(job)
    turns.add(file)
    begun.set()
    jobs[-1].future.result(30)
    assert 12 <= log.count("file") <= 28
    assert file.future.result(30).text == "file"
    turns.close()


def test_limits_have_sense() -> None:
    limits = Limits()
    assert limits.jobs >= 1 and limits.upload_bytes >= 100_000_000 and limits.audio_s >= 3600
