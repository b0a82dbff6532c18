"""A crowd is answered or turned away, each as if alone; who hangs up frees a place; who is asked to end, ends well."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from luthier.server.app import Settings
from luthier.server.models import Models
from tests.server.conftest import serving

WEB = httpx.Client(timeout=60)
ALL = Settings(per_key=10**6)


def asked(number: int, **how: Any) -> dict[str, Any]:
    drawn = {"temperature": number % 3 / 2, "seed": number, "max_tokens": 2 + number % 7}
    talk = [{"role": "user", "content": f"What is {number}?" + " Tell me." * (number % 5)}]
    return {"model": ("talkative", "one", "two")[number % 3], "messages": talk, **drawn, **how}


def test_of_a_crowd_each_is_answered_as_if_alone_or_turned_away(opened: Callable[..., Models], until: Any) -> None:
    models = opened("one", "two", slots=8, queue=24)
    with serving(models, ALL) as url, httpx.Client(timeout=120) as client:

        def ask(number: int) -> tuple[int, str]:
            reply = client.post(f"{url}/v1/chat/completions", json=asked(number))
            if reply.status_code == 429:
                assert int(reply.headers["retry-after"]) >= 1
                return 429, ""
            return reply.status_code, str(reply.json()["choices"][0]["message"]["content"])

        with ThreadPoolExecutor(100) as pool:
            found = list(pool.map(ask, range(100)))
        statuses = Counter(status for status, _ in found)
        assert set(statuses) == {200, 429} and statuses[200] >= 32
        until(lambda: models.taken == 0)
        assert not models.batcher.waiting and not models.batcher.running
        answered = [number for number, (status, _) in enumerate(found) if status == 200][:20]
        assert [ask(number) for number in answered] == [found[number] for number in answered]


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_a_place_within_a_token(
    opened: Callable[..., Models], until: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    models = opened(slots=2, queue=2)
    monkeypatch.setattr(models.engine.renderer, "stop_ids", frozenset({10**6}))
    step, steps = models.batcher.step, [0]

    def slow() -> Any:
        time.sleep(0.01)
        steps[0] += 1
        return step()

    monkeypatch.setattr(models.batcher, "step", slow)
    with serving(models, ALL) as url:
        port = int(url.rpartition(":")[2])
        for number in range(6):  # more than there are places
            body = httpx.Request(
                "POST", url, json=asked(number, model="talkative", max_tokens=400, stream=stream)
            ).read()
            with socket.create_connection(("127.0.0.1", port)) as line:
                head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                until(lambda: models.batcher.busy > 0)
            until(lambda: models.taken == 0)
        assert steps[0] < 400, "each of them would have taken that many"


def test_numbers_and_texts_of_an_error_of_the_model(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    models = opened()

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret details")

    with serving(models, ALL) as url:
        with monkeypatch.context() as patch:
            patch.setattr(models.batcher.model, "forward", fail)
            reply = WEB.post(f"{url}/v1/chat/completions", json=asked(0), timeout=30)
            told = httpx.post(f"{url}/v1/chat/completions", json=asked(0, stream=True), timeout=30).text
        assert reply.status_code == 500 and "secret" not in reply.text + told and "the answer failed" in told
        assert models.taken == 0
        again = httpx.post(f"{url}/v1/chat/completions", json=asked(0), timeout=30)  # on a connection that is whole
        assert again.status_code == 200


@pytest.mark.slow
def test_the_command_drains_when_it_is_asked_to_end(talkative: Path, tuned: Path, tmp_path: Path) -> None:
    """With keys made on the way; what is under way is finished, and the command leaves without an error."""
    keys = tmp_path / "keys"
    command = [sys.executable, "-m", "luthier", "serve", talkative, "--adapter", f"one={tuned / 'one'}", "--port", "0"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        command[-1] = port = str(free.getsockname()[1])
    process = subprocess.Popen(
        [*map(str, command), "--keys", str(keys)], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        key = re.match(r"key  (\S+)  ", process.stdout.readline())
        assert key and "serving talkative, one at http://127.0.0.1" in process.stdout.readline()
        url, client = (
            f"http://127.0.0.1:{port}",
            httpx.Client(timeout=60, headers={"Authorization": f"Bearer {key[1]}"}),
        )
        while True:
            try:
                assert client.get(f"{url}/health").status_code == 200
                break
            except httpx.TransportError:
                time.sleep(0.05)
        done: list[Any] = []
        body = asked(1, model="one", max_tokens=200, temperature=0, stop=None)
        thread = threading.Thread(target=lambda: done.append(client.post(f"{url}/v1/chat/completions", json=body)))
        thread.start()
        while "luthier_taken 1.0" not in client.get(f"{url}/metrics").text and thread.is_alive():
            pass
        process.send_signal(signal.SIGTERM)
        thread.join()
        assert done[0].status_code == 200 and done[0].json()["choices"]
        process.wait(30)
        with pytest.raises(httpx.TransportError):
            client.get(f"{url}/health")
    finally:
        process.kill()
        process.wait()
