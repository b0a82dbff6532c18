"""Processes that work ahead: results in order, few items taken early, and one that is stopped is said."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from luthier.errors import LuthierError
from luthier.system.workers import AHEAD, Workers

BEGUN: list[int] = []


def begin(number: int) -> None:
    BEGUN.append(number)


def doubled(number: int) -> tuple[int, int, list[int]]:
    if number < 0:
        os._exit(1)
    return 2 * number, os.getpid(), BEGUN


@pytest.mark.parametrize("count", [0, 2])
def test_in_order_and_not_far_ahead(count: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(40):
            taken.append(number)
            yield number

    with Workers(count, begin, (7,)) as workers:
        results = workers.results(doubled, items())
        first = next(results)
        assert len(taken) == AHEAD * count + 1
        found = [first, *results]
    assert [one[0] for one in found] == [2 * number for number in range(40)]
    assert (os.getpid() in {one[1] for one in found}) == (count == 0)
    assert found[0][2] == ([7] if count else [])


def test_one_that_is_stopped() -> None:
    with Workers(1) as workers, pytest.raises(LuthierError, match=r"a worker process was stopped.*__main__"):
        list(workers.results(doubled, [1, -1, 2]))
