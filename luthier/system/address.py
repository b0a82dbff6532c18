"""Whose an address is, and taking one."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from luthier.errors import UserError


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


def listening(host: str, port: int) -> socket.socket:
    """A socket that takes visits from now on; raises UserError where the address is not free."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(f"http://{host}:{port} cannot be used ({error.strerror}); try another --port") from None
