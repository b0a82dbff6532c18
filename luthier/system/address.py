"""Whose an address is."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def in_the_open(url: str) -> bool:
    """Whether what is sent to an address can be read on its way."""
    where = urlsplit(url)
    return where.scheme == "http" and not loopback(where.hostname or "")
