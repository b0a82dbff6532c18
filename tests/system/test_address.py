"""Whose an address is."""

from __future__ import annotations

import pytest

from luthier.system.address import in_the_open, loopback


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
