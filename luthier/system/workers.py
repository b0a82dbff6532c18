"""Processes that work ahead while their results are taken in order; with none, this process works."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from luthier.errors import LuthierError

Given = TypeVar("Given")
Made = TypeVar("Made")
AHEAD = 4
"""Items of each worker that are under way."""


class Workers:
    """So many processes, started when they are first needed; `begin` is called in each, with `given`."""

    def __init__(self, count: int, begin: Callable[..., None] | None = None, given: tuple[Any, ...] = ()) -> None:
        self.count, self.begin, self.given = count, begin, given
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            self.pool = None

    def results(self, work: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
        """What `work` makes of each item, in their order; a few items ahead are taken.

        Raises:
            LuthierError: a process was stopped from outside, or could not be started.
        """
        if not self.count:
            yield from map(work, items)
            return
        self.pool = self.pool or ProcessPoolExecutor(
            self.count, mp_context=get_context("spawn"), initializer=self.begin, initargs=self.given
        )
        waiting: deque[Future[Made]] = deque()
        try:
            for item in items:
                waiting.append(self.pool.submit(work, item))
                if len(waiting) > AHEAD * self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise LuthierError(
                "a worker process was stopped, as where memory ends, or could not start: take fewer workers, and in a "
                'program of your own begin under `if __name__ == "__main__":`'
            ) from None
