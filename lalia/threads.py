"""Work on threads with results in order, and generators that run to their end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def last_value(steps: Generator[object, None, Result], stopped: Callable[[], bool] = lambda: False) -> Result:
    """Run ``steps`` to their end; what they return. ``CancelledError`` between two of them if ``stopped``."""
    while not stopped():
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
    steps.close()
    raise CancelledError


def in_order(work: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[Result]:
    """The results of ``work`` for ``items`` in their order, computed by ``jobs`` threads.

    At most ``jobs`` + 1 items are taken ahead, so that memory stays bounded. An error is raised in its item's turn.
    """
    if jobs == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(jobs, "lalia") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
