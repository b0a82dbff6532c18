"""A model behind an endpoint that says what the test says, and rows to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from luthier.curate.writer import Writer
from luthier.data.conversation import Conversation, Message
from tests.data.clean.conftest import cleaned  # noqa: F401 - a fixture
from tests.endpoint import Endpoint, serving


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """Says the last line of what it was asked, and can be told otherwise."""
    with serving(Endpoint(lambda asked: str(asked["messages"][-1]["content"]).splitlines()[-1])) as served:
        yield served


@pytest.fixture
def writer(endpoint: Endpoint) -> Writer:
    """The model behind the endpoint."""
    return Writer(endpoint=endpoint.url, model="small")


def talk(question: str, answer: str, **more: Any) -> Conversation:
    return Conversation((Message(role="user", content=question), Message(role="assistant", content=answer)), **more)


@pytest.fixture
def told(endpoint: Endpoint) -> Callable[[Callable[[str], str]], None]:
    """Sets what is said to a prompt."""

    def tell(reply: Callable[[str], str]) -> None:
        endpoint.reply = lambda asked: reply(str(asked["messages"][-1]["content"]))

    return tell
