"""Durations and sizes: what is read, what is refused, and that printing can be read again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.units import ByteSize, Duration


@pytest.mark.parametrize(
    ("text", "printed"),
    [("3 epochs", "3 epochs"), ("1 epoch", "1 epoch"), ("0.5 epochs", "0.5 epochs"), (500, "500 steps"),
     ("2e9 tokens", "2000000000 tokens"), (" 7 step ", "7 steps")],
)  # fmt: skip
def test_durations_are_read(text: object, printed: str) -> None:
    assert str(Duration.parse(text)) == printed
    assert Duration.parse(printed) == Duration.parse(text)


@pytest.mark.parametrize(
    "text", ["", "epochs", "-1 steps", "0 steps", "3 weeks", "1.5 steps", "1e999 tokens", True, None, [3]]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"write|whole"):
        Duration.parse(text)


def test_a_duration_in_steps() -> None:
    length = {"steps_per_epoch": 30, "tokens_per_step": 1000.0}
    assert Duration.parse("2 epochs").steps(**length) == 60
    assert Duration.parse("0.1 epochs").steps(**length) == 3
    assert Duration.parse("7 steps").steps(**length) == 7
    assert Duration.parse("2500 tokens").steps(**length) == 3
    assert Duration.parse("1 token").steps(**length) == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [("4 GB", 4 * 10**9), ("4 GiB", 4 * 2**30), ("512MiB", 512 * 2**20), (1000, 1000), ("1.5 kB", 1500)],
)
def test_sizes_are_read(text: object, count: int) -> None:
    assert ByteSize.parse(text).bytes == count


@pytest.mark.parametrize("text", ["", "GB", "-4 GB", "4 XB", True, None, "1e999 GB"])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="not a size"):
        ByteSize.parse(text)


@given(st.integers(min_value=0, max_value=10**18))
def test_a_printed_size_is_near_what_it_was(count: int) -> None:
    again = ByteSize.parse(str(ByteSize(count))).bytes
    assert abs(again - count) <= 0.051 * count + 0.5


@given(st.text(max_size=30))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    for kind in (Duration, ByteSize):
        try:
            kind.parse(text)
        except ValueError as error:
            assert repr(text) in str(error)
