"""Errors are the same errors when they come out of another process."""

from __future__ import annotations

import pickle

import pytest

from luthier.errors import ConfigError, LuthierError, MissingExtra, Problem, RowError, UserError


@pytest.mark.parametrize(
    "error",
    [UserError("no"), MissingExtra("a", "b", "c"), RowError("f:1", "r", "d"), ConfigError([Problem("a.b", "bad")])],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_processes_whole(error: LuthierError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
