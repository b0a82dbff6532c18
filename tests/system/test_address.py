"""Whose an address is, and one that is taken."""

from __future__ import annotations

import pytest

from luthier.errors import UserError
from luthier.system.address import in_the_open, listening, loopback


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("localhost.example.com", False), ("", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, own: bool) -> None:
    assert loopback(host) is own


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://127.0.0.1:8000/v1", False),
        ("http://[::1]:8000/v1", False),
        ("http://localhost/v1", False),
        ("https://example.org/v1", False),
        ("http://example.org/v1", True),
        ("http://localhost.example.org/v1", True),
        ("http://10.0.0.1/v1", True),
        ("", False),
    ],
)
def test_what_can_be_read_on_its_way(url: str, read: bool) -> None:
    assert in_the_open(url) is read


def test_an_address_that_is_taken() -> None:
    with listening("127.0.0.1", 0) as door, pytest.raises(UserError, match=r"cannot be used .*another --port"):
        listening("127.0.0.1", door.getsockname()[1])
