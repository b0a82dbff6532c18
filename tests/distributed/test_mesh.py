"""Sizes of axes against the number of processes, and which process is to blame."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.distributed.mesh import Axes, Mesh
from luthier.errors import UserError

SIZES = st.integers(1, 4)


def sizes(axes: Axes) -> tuple[int, ...]:
    return axes.pipeline, axes.data, axes.shard, axes.sequence, axes.tensor


@given(SIZES, SIZES, SIZES, SIZES, st.integers(1, 64))
def test_the_open_axis_takes_what_is_left(
    pipeline: int, shard: int, sequence: int, tensor: int, processes: int
) -> None:
    axes = Axes(pipeline=pipeline, data=0, shard=shard, sequence=sequence, tensor=tensor)
    taken = pipeline * shard * sequence * tensor
    if processes % taken:
        with pytest.raises(UserError, match=f"does not divide {processes} processes; start"):
            axes.over(processes)
    else:
        found = axes.over(processes)
        assert prod(sizes(found)) == processes and found.data == processes // taken


def test_fixed_sizes_are_held_against_the_world() -> None:
    assert Axes(shard=2, sequence=2).over(4) == Axes(shard=2, sequence=2)
    with pytest.raises(UserError, match="shard 2 x sequence 2 takes 4 processes, 2 were started; write --devices 4"):
        Axes(shard=2, sequence=2).over(2)
    with pytest.raises(UserError, match="tensor 2 does not divide 5 processes; start 4 or 6 of them"):
        Axes(data=0, tensor=2).over(5)


class Board(dict[str, bytes]):
    """The store, which hangs where there is nothing."""

    def get(self, key: str) -> bytes:  # type: ignore[override]
        while key not in self:
            time.sleep(0.1)
        return self[key]

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def check(self, keys: Sequence[str]) -> bool:
        return all(key in self for key in keys)


def mesh(rank: int, begun: Mapping[int, str], *, waits: Collection[int] = (), seconds: float = 9) -> Any:
    """One of three processes, with what each has begun, and which others wait."""
    made: Any = Mesh.__new__(Mesh)
    made.rank, made.ranks, made.timeout, made._alone = rank, 3, timedelta(seconds=seconds), False
    made._board = Board({f"luthier/{r}": text.encode() for r, text in begun.items()})
    made._board |= {f"luthier/waits/{rank}": b"" for rank in waits}
    return made


LATE = RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:86] Timed out waiting 9000ms for recv operation to complete")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.distributed.mesh.PATIENCE", 0.3)


def test_the_one_that_does_not_wait_is_named() -> None:
    """Also where all have begun the same; and one of the others says it for all."""
    begun = dict.fromkeys(range(3), "6\n12:00:00\na sum over ranks")
    assert "rank 2 hangs in a sum" in str(mesh(0, begun, waits=[1]).lost(LATE))
    assert "rank 0 hangs in a sum" in str(mesh(1, begun, waits=[2]).lost(LATE))
    assert str(mesh(2, begun, waits=[1]).lost(LATE)) == ""
    assert "rank 1 hangs" in str(mesh(0, begun | {1: "5\n12:00:00\nx"}).lost(LATE))  # 2 has not noticed it yet


def test_the_one_that_began_least_is_named() -> None:
    """Where all wait, for they wait for each other."""
    begun = {
        0: "7\n12:00:01\na sum over ranks",
        1: "6\n12:00:00\nthe pass of micro-batch 1 of 2",
        2: "7\n12:00:01\na sum",
    }
    said = mesh(0, begun, waits=[1, 2]).lost(LATE)
    assert str(said) == (
        "nothing was heard within 9 s (parallel.timeout_seconds): rank 1 hangs in the pass of micro-batch 1 of 2, "
        "since 12:00:00; the others wait for it in a sum over ranks. The last checkpoint is intact"
    )
    assert str(mesh(2, begun, waits=[0, 1]).lost(LATE)) == ""
    begun[0], begun[1] = begun[1], begun[0]
    assert str(mesh(1, begun, waits=[0, 2]).lost(LATE)).count("rank 0 hangs")


def test_the_first_takes_the_board_with_it() -> None:
    assert "rank 0 hangs" in str(mesh(1, {}, seconds=0.2).lost(LATE))


@pytest.mark.parametrize("text", ["Connection closed by peer [127.0.0.1]:9", "Read error: Connection reset by peer"])
def test_one_that_has_ended_says_why_itself(text: str) -> None:
    assert str(mesh(0, {}).lost(RuntimeError(text))) == ""


def test_what_the_board_went_with_is_said_by_others() -> None:
    """The process that holds it was named or has named one, and is gone."""
    one = mesh(2, {})
    one._board.get = lambda key: exec("raise RuntimeError('Connection reset by peer')")
    assert str(one.lost(LATE)) == ""


def test_other_errors_are_nobodys_fault() -> None:
    one = mesh(0, {}, seconds=0.2)
    assert one.lost(RuntimeError("shapes do not match")) is None and not one._alone
    one.lost(LATE)
    assert one._alone  # and does not wait for others at its end
