"""Scheduler: short jobs pass long ones, what takes too long ends, and nothing is left hanging."""

from __future__ import annotations

import threading
import time

import pytest

from lalia.errors import AudioError
from lalia.runtime.transcript import Transcript
from lalia.serve.limits import Limits, RequestError
from lalia.serve.scheduler import Job, Scheduler


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


def test_limits_have_sense() -> None:
    limits = Limits()
    assert limits.jobs >= 1 and limits.upload_bytes >= 100_000_000 and limits.audio_s >= 3600
