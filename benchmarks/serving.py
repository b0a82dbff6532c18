"""Serving: throughput at 16 at once against one after another, with transformers and its server; a crowd; a soak.

    python -m benchmarks.serving [--crowd 500] [--soak-seconds 600] [--no-peer]

The real model, in fp32. All ways answer the same prompts greedily, in turns in one process (transformers' server: on
the same machine, in its turn); what counts is the ratio. The crowd: so many requests at once on 64 slots and a queue
of 64, every answer compared with the one that the same request gets alone; then 200 clients that hang up.
"""

from __future__ import annotations

import argparse
import collections
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx2 as httpx
import psutil

from benchmarks.common import MODEL, machine, print_table

TOKENS, AT_ONCE = 48, 16


def prompts(count: int) -> list[str]:
    """Questions, each different."""
    return [f"Write a few sentences about the number {i} and why somebody might like it." for i in range(count)]


@contextmanager
def served(slots: int, queue: int) -> Iterator[tuple[Any, str]]:
    """The models and the address of a server in this process."""
    import uvicorn

    from luthier.models.load import ModelLoader
    from luthier.server.app import Settings, create
    from luthier.server.models import Models

    models = Models(MODEL, ModelLoader(), slots=slots, queue=queue)
    server = uvicorn.Server(uvicorn.Config(create(models, Settings(per_key=10**6)), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield models, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def ask(client: httpx.Client, url: str, text: str, tokens: int, model: str) -> tuple[int, str, int]:
    """Status, answer and its tokens."""
    asked = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0}
    reply = client.post(f"{url}/v1/chat/completions", json=asked)
    if reply.status_code != 200:
        return reply.status_code, "", 0
    told = reply.json()
    return 200, told["choices"][0]["message"]["content"], told["usage"]["completion_tokens"]


def together(url: str, texts: Sequence[str], tokens: int, model: str, workers: int) -> list[tuple[int, str, int]]:
    """All of them at once."""
    limits = httpx.Limits(max_connections=workers, max_keepalive_connections=workers)
    with httpx.Client(timeout=1200, limits=limits) as client, ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda text: ask(client, url, text, tokens, model), texts))


@contextmanager
def peer(models: Any) -> Iterator[tuple[str, str]]:
    """The address of `transformers serve` with the same weights, and what it calls them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from transformers.cli.transformers import main; main()",
        "serve",
        "--port",
        str(port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                httpx.get(f"{url}/health", timeout=2)
                break
            except httpx.TransportError:
                time.sleep(1)
        yield url, models.found.location
    finally:
        process.terminate()
        process.wait()


def throughput(models: Any, url: str, *, rounds: int, with_peer: bool) -> None:
    """Tokens a second of each way, in turns."""
    import torch

    engine, texts = models.engine, prompts(AT_ONCE)
    from luthier.data.conversation import Message

    encoded = [engine.renderer.prompt((Message(role="user", content=text),)) for text in texts]

    def one_after_another() -> int:
        said = 0
        for ids in encoded:
            with torch.inference_mode():
                found = engine.model.generate(
                    input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                    max_new_tokens=TOKENS, do_sample=False, pad_token_id=0,
                    eos_token_id=sorted(engine.renderer.stop_ids),
                )  # fmt: skip
            said += found.shape[1] - len(ids)
        return said

    def all_of(address: str, model: str) -> Callable[[], int]:
        def run() -> int:
            found = together(address, texts, TOKENS, model, AT_ONCE)
            wrong = [status for status, _, _ in found if status != 200]
            if wrong:
                print(f"{address}: {len(wrong)} of {len(found)} refused: {wrong[0]}", flush=True)
            return sum(tokens for _, _, tokens in found)

        return run

    ways = {"generate, one after another": one_after_another, "luthier serve, 16 at once": all_of(url, models.name)}
    best: dict[str, float] = collections.defaultdict(float)

    def measure() -> None:
        for _ in range(rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                said = way()
                best[name] = max(best[name], said / (time.perf_counter() - started))

    if with_peer:
        with peer(models) as (address, model):
            ways["transformers serve, 16 at once"] = all_of(address, model)
            measure()
    else:
        measure()
    base = best["generate, one after another"]
    print_table(
        ["way", "tokens a second", "ratio"], [(name, f"{speed:.1f}", speed / base) for name, speed in best.items()]
    )


def crowd(models: Any, url: str, count: int) -> None:
    """Many at once, each against its answer alone; then clients that hang up."""
    texts, memory = prompts(count), psutil.Process().memory_info().rss
    found = together(url, texts, 8, models.name, count)
    statuses = collections.Counter(status for status, _, _ in found)
    with httpx.Client(timeout=600) as client:
        answered = [(text, said) for text, (status, said, _) in zip(texts, found, strict=True) if status == 200]
        other = sum(ask(client, url, text, 8, models.name)[1] != said for text, said in answered)
    left(url, models, 200)
    grown = (psutil.Process().memory_info().rss - memory) / 1e6
    rows = [(dict(statuses), other, models.taken, f"{grown:.0f} MB")]
    print_table(["replies by status", "answers unlike those alone", "places taken afterwards", "memory grown"], rows)


def left(url: str, models: Any, count: int) -> None:
    """Streams that are hung up on after their first event; waits until their places are free."""
    for text in prompts(count):
        asked = {"model": models.name, "messages": [{"role": "user", "content": text}], "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked, timeout=600) as reply:
            next(reply.iter_lines(), None)
    end = time.monotonic() + 60
    while models.taken and time.monotonic() < end:
        time.sleep(0.05)


def soak(models: Any, url: str, seconds: float) -> None:
    """Crowds and hang-ups for so long; memory at each quarter."""
    end, memory, asked = time.monotonic() + seconds, [], 0
    for quarter in range(4):
        while time.monotonic() < end - seconds * (3 - quarter) / 4:
            asked += len(together(url, prompts(32), 8, models.name, 32))
            left(url, models, 8)
        memory.append(f"{psutil.Process().memory_info().rss / 1e6:.0f}")
    print_table(
        ["seconds", "requests", "memory in MB by quarter", "places taken"], [(seconds, asked, memory, models.taken)]
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crowd", type=int, default=500)
    parser.add_argument("--soak-seconds", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-peer", action="store_true")
    given = parser.parse_args()
    print(f"{machine()}\n", flush=True)
    with served(64, 64) as (models, url):
        if given.rounds:
            throughput(models, url, rounds=given.rounds, with_peer=not given.no_peer)
        if given.crowd:
            crowd(models, url, given.crowd)
        if given.soak_seconds:
            soak(models, url, given.soak_seconds)


if __name__ == "__main__":
    main()
